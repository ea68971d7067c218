"""The default bandit: what it learns, how it draws, what it forgets."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.bandit import PooledThompson
from pointsman.online.base import ArmPrior
from pointsman.online.features import LEARN_AT, Components
from pointsman.trade_off import TradeOff

N_FEATURES, N_ARMS = 8, 3
QUALITY_ONLY = TradeOff(0.0)
ALL = np.ones(N_ARMS, dtype=bool)


class World:
    """Three arms: one good for x_0 > 0, one for x_0 < 0, one cheap and middling; costs 1, 1 and 0.1 USD."""

    cost_usd = np.array([1.0, 1.0, 0.1])

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def prompt(self) -> np.ndarray:
        """A context whose first component leads."""
        x = self.rng.normal(size=N_FEATURES)
        x[0] *= 2
        return x

    def expected(self, x: np.ndarray) -> np.ndarray:
        """Every arm's expected quality."""
        side = np.clip(0.12 * x[0], -0.35, 0.35)
        return np.array([0.6 + side, 0.6 - side, 0.6])

    def quality(self, x: np.ndarray, arm: int) -> float:
        """A binary quality."""
        return float(self.rng.random() < self.expected(x)[arm])


def bandit(**options) -> PooledThompson:
    """The default on this world's prompts, its components known."""
    world = World(12345)
    components = Components.of(np.array([world.prompt() for _ in range(500)]), n_components=N_FEATURES)
    return PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES, components=components, **options)


def run(policy, world, n_rounds, *, trade_off=QUALITY_ONLY, rng):
    """Route prompts and learn from each answer; return contexts, choices and qualities."""
    log = []
    for _ in range(n_rounds):
        x = world.prompt()
        choice = policy.decide(x, trade_off, rng=rng)
        quality = world.quality(x, choice.arm)
        policy.update(x, choice.arm, quality=quality, cost_usd=world.cost_usd[choice.arm])
        log.append((x, choice, quality))
    return log


def test_it_finds_the_arm_of_each_prompt(seed):
    """After 2,000 answers it has over half of what routing can gain: 0.69, where one arm has 0.6 and the best 0.78.

    On 400 prompts the mean expected quality of its choices has a standard error under 0.01, and the floor costs 0.01.
    """
    world, rng = World(seed), np.random.default_rng(seed)
    policy = bandit(exploration=1.0)
    run(policy, world, 2_000, rng=rng)
    chosen = []
    for _ in range(400):
        x = world.prompt()
        chosen.append(policy.probabilities(x, QUALITY_ONLY, ALL) @ world.expected(x))
    assert np.mean(chosen) > 0.69


def test_one_policy_serves_every_trade_off(seed):
    """Learned at quality only, it takes the cheap arm where a point costs more than it is worth, and at infinity."""
    world, rng = World(seed), np.random.default_rng(seed)
    policy = bandit()
    run(policy, world, 600, rng=rng)
    for trade_off in (TradeOff(2.0), TradeOff(math.inf)):
        shares = np.mean([policy.probabilities(world.prompt(), trade_off, ALL) for _ in range(50)], axis=0)
        assert shares[2] > 0.95


def test_a_price_cut_works_on_the_next_request(seed):
    """At a hundredth of their price the dear arms are chosen at once, where they were not before."""
    world, rng = World(seed), np.random.default_rng(seed)
    policy = bandit()
    run(policy, world, 600, rng=rng)
    x = world.prompt()
    assert policy.probabilities(x, TradeOff(2.0), ALL)[2] > 0.95
    policy.set_price(0, 0.01)
    policy.set_price(1, 0.01)
    after = policy.probabilities(x, TradeOff(2.0), ALL)
    assert after[2] < 0.2
    # Costs seen at the new price teach nothing new: they are those learned, times the factor.
    before = policy.cost.mean.copy()
    for _ in range(20):
        policy.update(world.prompt(), 0, cost_usd=0.01)
    assert np.abs(policy.cost.mean - before).max() < 0.05


def test_its_own_log_evaluates_to_the_truth(seed):
    """IPS of always using arm 0, from its propensities while it learned, is within 4.5 standard errors of the truth.

    Given what came before, a term has mean mu and variance mu / p - mu^2, p the probability that arm 0 had: the terms
    less their means are a martingale, however the policy adapts.
    """
    world, rng = World(seed), np.random.default_rng(seed)
    log = run(bandit(floor=0.2), world, 1_500, rng=rng)
    term = np.array([quality / choice.propensity if choice.arm == 0 else 0.0 for _, choice, quality in log])
    mean = np.array([world.expected(x)[0] for x, _, _ in log])
    variance = mean / np.array([choice.probabilities[0] for _, choice, _ in log]) - mean**2
    assert abs((term - mean).sum()) < 4.5 * np.sqrt(variance.sum())


def test_every_eligible_arm_has_its_floor_and_no_other_any(rng):
    """An arm 0.25 behind has half of the best arm's share of the floor; a mask holds at once."""
    policy = bandit(floor=0.06)
    run(policy, World(1), 300, rng=rng)
    x = World(2).prompt()
    mean, _ = policy.predict(x, QUALITY_ONLY)
    share = 1 / (1 + (mean.max() - mean) / 0.25)
    assert (policy.probabilities(x, QUALITY_ONLY, ALL) >= 0.06 * share / share.sum() - 1e-12).all()
    masked = policy.probabilities(x, QUALITY_ONLY, np.array([True, False, True]))
    assert masked[1] == 0
    assert (masked[[0, 2]] > 0.01).all()
    with pytest.raises(InvalidParameterError, match="eligible"):
        policy.decide(x, QUALITY_ONLY, np.zeros(N_ARMS, dtype=bool), rng=rng)


def test_the_floor_costs_little_where_cost_counts(rng):
    """An arm that costs ten points of utility a call has hardly any of the floor: under 0.06 points in all."""
    policy = bandit(floor=0.06, exploration=0.0)
    run(policy, World(1), 300, rng=rng)
    x = World(2).prompt()
    mean, _ = policy.predict(x, TradeOff(10.0))
    probabilities = policy.probabilities(x, TradeOff(10.0), ALL)
    assert mean.max() - mean.min() > 5
    assert mean.max() - probabilities @ mean < 0.06


def test_feedback_may_come_late_apart_or_never(rng):
    """The order of feedback, and whether quality and cost come together, change nothing while the variances stand."""
    world = World(3)
    rounds = [(world.prompt(), int(rng.integers(N_ARMS)), float(rng.random())) for _ in range(LEARN_AT[0] - 1)]
    together, apart = bandit(alarm=math.inf), bandit(alarm=math.inf)
    for x, arm, quality in rounds:
        together.update(x, arm, quality=quality, cost_usd=world.cost_usd[arm])
        apart.update(x, arm, cost_usd=world.cost_usd[arm])
        apart.update(x, arm)
    for x, arm, quality in reversed(rounds):
        apart.update(x, arm, quality=quality)
    np.testing.assert_allclose(apart.quality.mean, together.quality.mean, atol=1e-9)
    np.testing.assert_allclose(apart.cost.mean, together.cost.mean, atol=1e-9)


def test_an_arm_that_breaks_is_left_soon(seed):
    """When the arm of most prompts falls to 0.1, its share is under a third within 200 rounds."""
    world, rng = World(seed), np.random.default_rng(seed)
    policy = bandit()
    world.expected = lambda _: np.array([0.9, 0.6, 0.5])
    run(policy, world, 1_000, rng=rng)
    world.expected = lambda _: np.array([0.1, 0.6, 0.5])
    run(policy, world, 200, rng=rng)
    shares = np.mean([policy.probabilities(world.prompt(), QUALITY_ONLY, ALL) for _ in range(50)], axis=0)
    assert shares[0] < 1 / 3


def test_components_are_learned_from_the_first_prompts(rng):
    """Learned four times and then kept; what was learned before goes with them, as if they had been known."""
    world = World(4)
    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES, n_shared=N_FEATURES, alarm=math.inf)
    rounds = [(world.prompt(), int(rng.integers(N_ARMS)), float(rng.random())) for _ in range(LEARN_AT[0] + 1)]
    for x, arm, quality in rounds:
        policy.update(x, arm, quality=quality)
    assert policy.components.version == 1
    known = Components.of(np.array([x for x, _, _ in rounds[:-1]]), n_components=N_FEATURES)
    told = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES, components=known, alarm=math.inf)
    for x, arm, quality in rounds:
        told.update(x, arm, quality=quality)
    np.testing.assert_allclose(policy.quality.mean, told.quality.mean, atol=1e-9)


def test_costs_seen_before_a_price_cut_are_not_cut_twice(rng):
    """Rounds that are learned anew with the components keep the price they were seen at."""
    world = World(7)
    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES, n_shared=N_FEATURES)
    for _ in range(LEARN_AT[0]):
        policy.update(world.prompt(), int(rng.integers(N_ARMS)), cost_usd=1.0)
    policy.set_price(0, 0.1)
    policy.update(world.prompt(), 0, cost_usd=0.1)
    assert policy.components.version == 1
    np.testing.assert_allclose(policy.unit_usd, 1.0)


def test_state_goes_round(rng):
    """Saved and loaded in the middle, it decides and learns exactly like the one that was not."""
    world = World(5)
    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES, memory=500)
    run(policy, world, 200, rng=rng)
    values, arrays = policy.state()
    other = PooledThompson.from_state(values, arrays)
    for _ in range(400):
        x, arm, quality = world.prompt(), int(rng.integers(N_ARMS)), float(rng.random())
        for each in (policy, other):
            each.update(x, arm, quality=quality, cost_usd=0.5)
    x = world.prompt()
    np.testing.assert_allclose(
        other.probabilities(x, TradeOff(0.5), ALL), policy.probabilities(x, TradeOff(0.5), ALL), atol=1e-9
    )


def test_memory_forgets_by_half(rng):
    """With a memory of 200 outcomes, what 200 later ones say outweighs what the first 200 said."""
    policy, forever = bandit(memory=200, alarm=math.inf), bandit(alarm=math.inf)
    for quality in (1.0, 0.0):
        for _ in range(300):
            x = World(int(rng.integers(1 << 30))).prompt()
            for each in (policy, forever):
                each.update(x, 0, quality=quality)
    x = World(6).prompt()
    assert policy.predict(x, QUALITY_ONLY)[0][0] < forever.predict(x, QUALITY_ONLY)[0][0] - 0.05


@pytest.mark.parametrize("option", [{"floor": 1.5}, {"exploration": -1}, {"memory": 0.5}, {"alarm": -1}])
def test_bad_settings_are_named(option):
    """Each setting has its range."""
    with pytest.raises(InvalidParameterError, match=next(iter(option))):
        bandit(**option)


def test_what_all_arms_share_is_no_reason_to_explore(rng):
    """Where only the level of all arms is in doubt, the best arm is as sure as it is with the level known."""
    policy = bandit(floor=0.0)
    run(policy, World(8), 400, rng=rng)
    x = World(9).prompt()
    before = policy.probabilities(x, QUALITY_ONLY, ALL)
    shared = policy.n_shared + 1
    policy.quality.covariance[:shared, :shared] += 0.0
    policy.quality.covariance[0, 0] += 10.0
    np.testing.assert_allclose(policy.probabilities(x, QUALITY_ONLY, ALL), before, atol=1e-6)


def test_variances_are_those_of_the_world(seed):
    """Evidence finds a noise of 0.01 within a factor of 1.9, where the prior is centred at 0.1.

    A variance of 512 squares has a relative standard error of 0.06, and the prior is worth 30 outcomes: 1.5 of itself.
    """
    world, rng = World(seed), np.random.default_rng(seed)
    policy = bandit()
    for _ in range(600):
        x, arm = world.prompt(), int(rng.integers(N_ARMS))
        quality = 0.5 + 0.1 * (arm - 1) + 0.05 * np.tanh(x[0]) + 0.1 * rng.normal()
        policy.update(x, arm, quality=quality)
    assert 0.01 < policy.variances.noise < 0.019


def test_a_new_arm_finds_its_place(seed):
    """Better than all others, it has over half of the prompts within 150 rounds; believed to be so, at once."""
    world, rng = World(seed), np.random.default_rng(seed)
    policy, told = bandit(), bandit()
    run(policy, world, 500, rng=rng)
    run(told, world, 500, rng=rng)
    assert policy.add_arm() == N_ARMS
    told.add_arm(ArmPrior(quality=0.95, n_rounds=50))
    world.cost_usd = np.append(world.cost_usd, 1.0)
    everything = np.ones(N_ARMS + 1, dtype=bool)
    prompts = [world.prompt() for _ in range(50)]
    assert np.mean([told.probabilities(x, QUALITY_ONLY, everything)[N_ARMS] for x in prompts]) > 0.5
    world.expected = lambda _: np.array([0.6, 0.6, 0.6, 0.95])
    run(policy, world, 150, rng=rng)
    shares = np.mean([policy.probabilities(world.prompt(), QUALITY_ONLY, everything) for _ in range(50)], axis=0)
    assert shares[N_ARMS] > 0.5


def test_a_new_arm_resembles_its_family(rng):
    """Said to be worth a hundred answers of another arm, it is expected to do alike, prompt by prompt."""
    policy = bandit()
    run(policy, World(3), 800, rng=rng)
    policy.add_arm(ArmPrior(like=0, n_rounds=1_000))
    world = World(4)
    expected = np.array([policy.expected(world.prompt())[0] for _ in range(100)])
    assert np.abs(expected[:, N_ARMS] - expected[:, 0]).mean() < np.abs(expected[:, N_ARMS] - expected[:, 1]).mean() / 2
    with pytest.raises(InvalidParameterError, match="like"):
        policy.add_arm(ArmPrior(like=7))


def test_what_is_believed_survives_new_components(rng):
    """A prior given while prompts are few still holds after the components were learned."""
    world = World(5)
    policy = PooledThompson(n_arms=N_ARMS, n_features=N_FEATURES)
    policy.add_arm(ArmPrior(quality=0.95, n_rounds=100))
    for _ in range(LEARN_AT[0] + 1):
        policy.update(world.prompt(), int(rng.integers(N_ARMS)), quality=0.5)
    assert policy.components.version == 1
    assert policy.expected(world.prompt())[0][N_ARMS] > 0.8


def test_upper_confidence_bounds_have_propensities(rng):
    """All but the floor goes to the arm of the highest bound, and each draw's propensity says so."""
    policy = bandit(rule="ucb", floor=0.3)
    log = run(policy, World(6), 300, rng=rng)
    assert all(choice.propensity == choice.probabilities[choice.arm] for _, choice, _ in log)
    assert all(0.7 <= choice.probabilities.max() <= 1 for _, choice, _ in log)
    share = np.mean([choice.probabilities.argmax() != choice.arm for _, choice, _ in log])
    expected = np.mean([1 - choice.probabilities.max() for _, choice, _ in log])
    assert abs(share - expected) < 4 * np.sqrt(0.3 * 0.7 / 300)


def test_rounds_of_a_log_are_learned_as_if_seen(rng):
    """At once or one by one: the same posterior, where components and variances are the same."""
    world = World(7)
    x = np.array([world.prompt() for _ in range(LEARN_AT[0])])
    arm, quality = rng.integers(N_ARMS, size=len(x)), rng.random(len(x))
    at_once, single = bandit(alarm=math.inf), bandit(alarm=math.inf)
    costs = world.cost_usd[arm]
    at_once.learn_rounds(x, arm, quality=quality, cost_usd=costs, weight=np.ones(len(x)))
    for each, t, q, c in zip(x, arm, quality, costs, strict=True):
        single.update(each, int(t), quality=q, cost_usd=c)
    np.testing.assert_allclose(at_once.quality.mean, single.quality.mean, atol=1e-8)
    np.testing.assert_allclose(at_once.cost.mean, single.cost.mean, atol=1e-8)
    with pytest.raises(InvalidParameterError, match="learned"):
        single.learn_rounds(x, arm, quality=quality, cost_usd=costs, weight=np.ones(len(x)))


def test_price_lists_are_believed_before_the_first_answer():
    """Where only cost counts, the arm of the lowest price has all but the floor."""
    policy = bandit(cost_usd=[1.0, 0.5, 0.01])
    assert policy.probabilities(World(1).prompt(), TradeOff(math.inf), ALL)[2] > 0.97
    with pytest.raises(InvalidParameterError, match="cost_usd"):
        bandit(cost_usd=[1.0, -1.0, 0.0])


def test_a_free_arm_is_known_to_be_free(rng):
    """Its answers cost nothing, so where only cost counts it has all but the floor; a price would be learned."""
    policy = bandit()
    for _ in range(40):
        policy.update(World(1).prompt(), 0, cost_usd=1.0)
        policy.update(World(1).prompt(), 1, cost_usd=0.0)
    policy.update(World(1).prompt(), 2, cost_usd=0.5)
    assert policy.probabilities(World(1).prompt(), TradeOff(math.inf), ALL)[1] > 0.97
    policy.update(World(1).prompt(), 1, cost_usd=0.3)
    assert policy.expected(World(1).prompt())[1][1] == pytest.approx(0.3)


def logged(seed, n_rounds=600):
    """A log of a world in which arm 0 is best, logged uniformly: contexts, arms, qualities."""
    world, rng = World(seed), np.random.default_rng(seed)
    x = np.array([world.prompt() for _ in range(n_rounds)])
    arm = rng.integers(N_ARMS, size=n_rounds)
    return x, arm, (rng.random(n_rounds) < np.array([0.9, 0.6, 0.3])[arm]).astype(float)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_log_of_a_world_gone_by_is_forgotten(swapped, seed):
    """After best and worst arm changed places, 250 answers are enough to drop log and arm; else the arm is kept.

    Arm 0 falls from 0.9 to 0.3, some ten standard errors after 30 answers.
    """
    x, arm, quality = logged(seed)
    policy = bandit()
    policy.learn_rounds(x, arm, quality=quality, cost_usd=np.full(len(x), np.nan), weight=np.ones(len(x)))
    policy.doubt_log(x[:100])
    world, rng = World(seed + 1_000), np.random.default_rng(seed + 1_000)
    world.expected = lambda _: np.array([0.3, 0.6, 0.9] if swapped else [0.9, 0.6, 0.3])
    run(policy, world, 250, rng=rng)
    shares = np.mean([policy.probabilities(world.prompt(), QUALITY_ONLY, ALL) for _ in range(50)], axis=0)
    assert not swapped or policy._log is None
    assert (shares[0] < 0.5) == swapped


def test_a_log_that_is_contradicted_is_taken_back_and_what_came_since_is_not():
    """The moments are then those of a fiftieth of the log and of all answers since, to rounding."""
    x, arm, quality = logged(5)
    policy, own = bandit(), bandit()
    policy.learn_rounds(x, arm, quality=quality, cost_usd=np.full(len(x), np.nan), weight=np.ones(len(x)))
    policy.doubt_log(x[:100])
    own.components = policy.components
    own._start()
    log = policy.quality.moments()
    n_since = 0
    while policy._log is not None:
        policy.update(x[n_since], 0, quality=0.0)
        own.update(x[n_since], 0, quality=0.0)
        n_since += 1
    assert 5 <= n_since < 60
    for found, of_log, since in zip(policy.quality.moments(), log, own.quality.moments(), strict=True):
        np.testing.assert_allclose(found, of_log / 50 + since, atol=1e-8 * np.abs(of_log).max())
    assert policy.n_outcomes == pytest.approx(len(x) / 50 + n_since)


def test_doubt_of_a_log_survives_the_disk(rng):
    """What was counted against the log is saved."""
    x, arm, quality = logged(3)
    policy = bandit()
    policy.learn_rounds(x, arm, quality=quality, cost_usd=np.full(len(x), np.nan), weight=np.ones(len(x)))
    policy.doubt_log(x[:100])
    for each in x[:3]:
        policy.update(each, 0, quality=0.0)
    loaded = PooledThompson.from_state(*policy.state())
    np.testing.assert_array_equal(loaded._log.against, policy._log.against)
    for _ in range(12):
        loaded.update(x[0], 0, quality=0.0)
    assert loaded._log is None


def test_a_copy_decides_alike_and_learns_alone(rng):
    """A deep copy gives the same probabilities for new prompts; what it learns is its own."""
    policy = bandit()
    run(policy, World(3), 300, rng=rng)
    other, world = copy.deepcopy(policy), World(4)
    for _ in range(5):
        x = world.prompt()
        np.testing.assert_array_equal(
            other.probabilities(x, QUALITY_ONLY, ALL), policy.probabilities(x, QUALITY_ONLY, ALL)
        )
    before = policy.quality.mean.copy()
    run(other, world, 20, rng=rng)
    np.testing.assert_array_equal(policy.quality.mean, before)


@pytest.mark.parametrize("factor", [4.0, 10.0])
def test_a_price_that_rose_silently_is_found(factor, seed):
    """Some answers after, the arm is expected to cost what it does within a half, the others what they did.

    The mean of all answers would be 2 and 2.7 times off. A rise of so many deviations is seen in three answers or four,
    and those after them, which vary by .3, correct the factor.
    """
    world, rng = World(seed), np.random.default_rng(seed + 500)
    policy = bandit()

    def answer(arm, cost_usd):
        policy.update(world.prompt(), arm, quality=0.7, cost_usd=cost_usd * math.exp(0.3 * rng.normal() - 0.045))

    for _ in range(400):
        answer(int(rng.integers(N_ARMS)), 0.01)
    for _ in range(60):
        answer(0, 0.01 * factor)
        answer(1, 0.01)
    expected = np.mean([policy.expected(world.prompt())[1] for _ in range(30)], axis=0)
    assert factor / 1.5 < expected[0] / 0.01 < factor * 1.5
    assert expected[1:] == pytest.approx([0.01] * (N_ARMS - 1), rel=0.3)
