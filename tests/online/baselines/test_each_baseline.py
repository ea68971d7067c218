"""What every baseline must do: draw as it says, learn, forget nothing it was told, and come back from its state."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.base import ArmPrior
from pointsman.online.baselines import BASELINES
from pointsman.trade_off import TradeOff

N_FEATURES, N_ARMS = 6, 3
QUALITY_ONLY = TradeOff(0.0)
ALL = np.ones(N_ARMS, dtype=bool)

every_baseline = pytest.mark.parametrize("name", list(BASELINES))


class World:
    """Prompts of two kinds, x_0 about +2 or -2: one arm is good for each, a third is cheap and middling."""

    cost_usd = np.array([1.0, 1.0, 0.1])

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 7])

    def prompt(self) -> np.ndarray:
        """A context whose first entry tells its kind."""
        x = 0.3 * self.rng.normal(size=N_FEATURES)
        x[0] += self.rng.choice([-2.0, 2.0])
        return x

    def expected(self, x: np.ndarray) -> np.ndarray:
        """Every arm's expected quality: 0.6 on average, the best arm of each prompt 0.9."""
        side = 0.3 * np.sign(x[0])
        return np.array([0.6 + side, 0.6 - side, 0.6])

    def quality(self, x: np.ndarray, arm: int) -> float:
        """A binary quality."""
        return float(self.rng.random() < self.expected(x)[arm])


def policy_of(name, **options):
    """A baseline for this world."""
    return BASELINES[name](n_arms=N_ARMS, n_features=N_FEATURES, **options)


def run(policy, world, n_rounds, *, rng):
    """Route prompts and learn from each answer; return the choices and the qualities."""
    log = []
    for _ in range(n_rounds):
        x = world.prompt()
        choice = policy.decide(x, QUALITY_ONLY, rng=rng)
        quality = world.quality(x, choice.arm)
        policy.update(x, choice.arm, quality=quality, cost_usd=world.cost_usd[choice.arm])
        log.append((choice, quality))
    return log


@every_baseline
def test_it_finds_the_arm_of_each_prompt(seed, name):
    """After 400 answers its choices are worth over 0.67, where any one arm is worth 0.6 and the best of each 0.9.

    On 120 prompts one arm for all is worth 0.6 with a standard error of 0.027; a floor of 0.1 costs 0.03.
    """
    world, rng = World(seed), np.random.default_rng(seed)
    policy = policy_of(name, floor=0.1)
    run(policy, world, 400, rng=rng)
    prompts = [world.prompt() for _ in range(120)]
    assert np.mean([policy.probabilities(x, QUALITY_ONLY, ALL) @ world.expected(x) for x in prompts]) > 0.67


@every_baseline
def test_its_own_log_evaluates_to_the_truth(seed, name):
    """IPS of always using arm 0, from its propensities while it learned, is within 4 standard errors of 0.6."""
    log = run(policy_of(name, floor=0.3), World(seed), 400, rng=np.random.default_rng(seed))
    terms = np.array([quality / choice.propensity if choice.arm == 0 else 0.0 for choice, quality in log])
    assert abs(terms.mean() - 0.6) < 4 * terms.std() / math.sqrt(terms.size)


@every_baseline
def test_every_eligible_arm_has_its_floor_and_no_other_any(name, rng):
    """Each has floor / K, whatever was learned; probabilities add up to one, and a mask holds at once."""
    policy = policy_of(name, floor=0.06)
    for _ in range(3):
        x = World(2).prompt()
        everywhere = policy.probabilities(x, QUALITY_ONLY, ALL)
        masked = policy.probabilities(x, TradeOff(0.3), np.array([True, False, True]))
        assert everywhere.sum() == pytest.approx(1, abs=1e-12)
        assert masked.sum() == pytest.approx(1, abs=1e-12)
        assert everywhere.min() >= 0.02 - 1e-15
        assert masked[1] == 0
        assert masked[[0, 2]].min() >= 0.03 - 1e-15
        np.testing.assert_array_equal(policy.probabilities(x, QUALITY_ONLY, np.array([False, True, False])), [0, 1, 0])
        run(policy, World(1), 160, rng=rng)


@every_baseline
def test_one_policy_serves_every_trade_off(seed, name):
    """Learned at quality only, it takes the cheap arm where a point costs more than it is worth, and at infinity."""
    world = World(seed)
    policy = policy_of(name)
    run(policy, world, 200, rng=np.random.default_rng(seed))
    for trade_off in (TradeOff(3.0), TradeOff(math.inf)):
        assert np.mean([policy.probabilities(world.prompt(), trade_off, ALL)[2] for _ in range(30)]) > 0.9


@every_baseline
def test_a_price_works_on_the_next_request(name, rng):
    """At a hundredth of their price the dear arms are chosen, where they were not; costs seen then teach nothing new.

    At lambda = 3 an answer of a dear arm is worth 0.9 - 3 before and 0.9 - 0.03 after, of the cheap one 0.6 - 0.3.
    """
    world = World(3)
    policy = policy_of(name)
    run(policy, world, 500, rng=rng)
    x = world.prompt()
    assert policy.probabilities(x, TradeOff(3.0), ALL)[2] > 0.9
    for arm in (0, 1):
        policy.set_price(arm, 0.01)
    for _ in range(30):
        assert policy.probabilities(x, TradeOff(3.0), ALL)[2] < 0.2
        for arm in (0, 1):
            policy.update(world.prompt(), arm, cost_usd=0.01)
    policy.set_price(0, 0.0)
    policy.update(x, 0, cost_usd=0.0)
    assert np.isfinite(policy.probabilities(x, TradeOff(3.0), ALL)).all()
    with pytest.raises(InvalidParameterError, match="factor"):
        policy.set_price(0, -1.0)


@every_baseline
@pytest.mark.parametrize("n_rounds", [12, 120])
def test_an_arm_that_costs_nothing_is_known_to(name, n_rounds, rng):
    """Free answers make an arm the cheapest, before its components are learned and after; a later cost is learned."""
    world = World(9)
    policy = policy_of(name)
    for i in range(n_rounds):
        policy.update(world.prompt(), i % 3, quality=0.6, cost_usd=[1.0, 0.0, 1.0][i % 3])
    x = world.prompt()
    assert policy.probabilities(x, TradeOff(10.0), ALL)[1] > 0.9
    for _ in range(60):
        policy.update(world.prompt(), 1, quality=0.6, cost_usd=5.0)
    assert policy.probabilities(x, TradeOff(10.0), ALL)[1] < 0.1


@every_baseline
def test_quality_and_cost_may_come_apart_or_never(name, rng):
    """An answer's cost now and its quality later teach what both at once do."""
    world = World(4)
    together, apart = policy_of(name), policy_of(name)
    for _ in range(60):
        x, arm, quality = world.prompt(), int(rng.integers(N_ARMS)), float(rng.random())
        together.update(x, arm, quality=quality, cost_usd=world.cost_usd[arm])
        together.update(x, arm)  # nothing known; but a context, from which components are learned
        apart.update(x, arm, cost_usd=world.cost_usd[arm])
        apart.update(x, arm, quality=quality)
    x = world.prompt()
    np.testing.assert_allclose(
        apart.probabilities(x, TradeOff(0.2), ALL), together.probabilities(x, TradeOff(0.2), ALL), atol=1e-6
    )


@every_baseline
@pytest.mark.parametrize("n_rounds", [0, 20, 300])
def test_it_comes_back_from_its_state(name, n_rounds, rng):
    """What its JSON and arrays give back decides alike, and learns alike from then on."""
    policy, world = policy_of(name), World(5)
    run(policy, world, n_rounds, rng=rng)
    policy.set_price(1, 0.5)
    policy.add_arm(ArmPrior(quality=0.8, cost_usd=0.3, like=0))
    values, arrays = policy.state()
    again = BASELINES[name].from_state(
        json.loads(json.dumps(values)), {key: array.copy() for key, array in arrays.items()}
    )
    for _ in range(120):
        x, arm, quality = world.prompt(), int(rng.integers(4)), float(rng.random())
        eligible = rng.random(4) < 0.8
        eligible[arm] = True
        np.testing.assert_allclose(
            again.probabilities(x, TradeOff(0.3), eligible), policy.probabilities(x, TradeOff(0.3), eligible), atol=1e-7
        )
        for each in (policy, again):
            each.update(x, arm, quality=quality, cost_usd=0.1, weight=0.5)


@every_baseline
@pytest.mark.parametrize("n_rounds", [0, 400])
def test_a_new_arm_is_taken_for_what_is_said_of_it(name, n_rounds, rng):
    """One said to be good is chosen more than one said to be bad; so is one like the best, on the prompts it is for."""
    share = {}
    for quality in (0.98, 0.2):
        policy, world = policy_of(name), World(6)
        run(policy, world, n_rounds, rng=np.random.default_rng(0))
        assert policy.add_arm(ArmPrior(quality=quality, n_rounds=200.0)) == N_ARMS
        share[quality] = np.mean(
            [policy.probabilities(world.prompt(), QUALITY_ONLY, np.ones(4, dtype=bool))[3] for _ in range(40)]
        )
    if name != "epsilon-greedy" or n_rounds:  # which explores evenly before the first answer
        assert share[0.98] > share[0.2] + 0.1
    if not n_rounds:
        return
    policy.add_arm(ArmPrior(like=0, n_rounds=200.0))
    against_the_other = np.array([False, True, False, False, True])
    for x in (world.prompt() for _ in range(20)):
        share_of_it = policy.probabilities(x, QUALITY_ONLY, against_the_other)[4]
        assert share_of_it > 0.9 if x[0] > 0 else share_of_it < 0.1


@every_baseline
def test_an_unknown_new_arm_is_found_where_it_is_best(seed, name):
    """An arm that always succeeds, and of which nothing is said, has most choices after 300 more rounds."""
    world, rng = World(seed), np.random.default_rng(seed)
    policy = policy_of(name, floor=0.1)
    run(policy, world, 150, rng=rng)
    policy.add_arm()
    world.expected = lambda _: np.array([0.5, 0.5, 0.5, 1.0])
    world.cost_usd = np.ones(4)
    run(policy, world, 300, rng=rng)
    shares = [policy.probabilities(world.prompt(), QUALITY_ONLY, np.ones(4, dtype=bool))[3] for _ in range(40)]
    assert np.mean(shares) > 0.5


@every_baseline
def test_a_doubtful_label_counts_less(name):
    """Twenty failures of weight 0.05 move an arm less than twenty of weight one."""
    shares = []
    for weight in (0.05, 1.0):
        policy, world = policy_of(name), World(8)
        for _ in range(20):
            for arm in range(N_ARMS):
                policy.update(world.prompt(), arm, quality=float(arm != 0), weight=weight)
        mean = [policy.probabilities(world.prompt(), QUALITY_ONLY, ALL)[0] for _ in range(40)]
        shares.append(np.mean(mean))
    assert shares[0] > shares[1] or name in ("epsilon-greedy", "lin-ucb")  # whose argmax hardly moves


@every_baseline
@pytest.mark.parametrize("options", [{"floor": -0.1}, {"floor": 1.5}, {"floor": math.nan}])
def test_options_out_of_range_are_refused(name, options):
    """The message names the option."""
    with pytest.raises(InvalidParameterError, match="floor must be in"):
        policy_of(name, **options)
