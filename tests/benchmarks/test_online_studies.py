"""The studies of learning online: how they measure, that they can fail, and a slice of each."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies import draws, drift, warm_start
from benchmarks.tables import RESULTS, SHARED_DATA, encoded_table, table_specs
from pointsman.arms import ArmSet
from pointsman.logs import FullFeedback
from pointsman.online.base import Choice
from pointsman.online.baselines import EpsilonGreedy
from pointsman.online.replay import QualityRegression
from pointsman.ope.diagnostics.significance import normal_p_value
from pointsman.trade_off import TradeOff

ONE_IN_A_MILLION = 1e-6
EVERY = np.ones(3, dtype=np.bool_)


def curves(lead: float, *, early: float, misled: float) -> warm_start.Curves:
    """Ten seeds on which warm starts are so much ahead, and misled ones in the first 200 rounds and after."""
    noise = np.random.default_rng(5).normal(size=(10, 1))
    found = {}
    for world in ("as logged", "misleading"):
        for start in ("cold", *warm_start.LOGGERS):
            utility = np.full((10, warm_start.HORIZONS[-1]), 50.0) + noise
            if start != "cold":
                utility += lead if world == "as logged" else np.where(np.arange(utility.shape[1]) < 200, early, misled)
            found[warm_start.Key("table", 0.0, world, start)] = utility
    return found


def test_a_start_is_level_when_its_moving_utility_is():
    """Behind by one for 300 rounds and then ahead by one, the last hundred add up to nothing after 350."""
    difference = np.tile(np.where(np.arange(600) < 300, -1.0, 1.0), (3, 1))

    assert warm_start.rounds_until_level(difference) == 350
    assert warm_start.rounds_until_level(-np.ones((3, 600))) is None
    assert warm_start.rounds_until_level(np.zeros((3, 600))) == warm_start.WINDOW


def test_the_best_arm_changes_places_with_the_fifth():
    """Ranks are by mean utility at the trade-off; where there are fewer than five arms the last takes the place."""
    quality = np.array([[0.1, 0.9, 0.8, 0.7, 0.6, 0.2]])
    table = FullFeedback(
        query_id=("a",),
        prompt=("a",),
        arms=ArmSet.named(list("abcdef")),
        quality=quality,
        cost_usd=np.array([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]),
    )
    fewer = FullFeedback(
        query_id=("a",), prompt=("a",), arms=ArmSet.named(list("abc")), quality=quality[:, :3], cost_usd=None
    )

    assert warm_start.swapped(table, TradeOff(0.0)) == ("b", "f")
    assert warm_start.swapped(table, TradeOff(1.0)) == ("c", "a")
    assert warm_start.swapped(fewer, TradeOff(0.0)) == ("b", "a")


@pytest.mark.parametrize(
    ("lead", "early", "misled", "holds"),
    [(1, -5, 0.5, True), (-1, -5, 0.5, False), (0, -5, 0.5, False), (1, -5, -0.5, False), (1, 5, -0.5, False)],
)
def test_a_warm_start_must_be_ahead_and_forget(lead, early, misled, holds):
    """The verdict fails where the start is not ahead, where a misled one stays behind, or falls behind later."""
    assert warm_start.report(curves(lead, early=early, misled=misled)).holds == holds


@pytest.mark.data
def test_a_log_is_a_head_start(shared_data, monkeypatch):
    """On one draw of a real table the first 200 rounds earn more than cold, and no curve leaves the range."""
    monkeypatch.setattr(warm_start, "HORIZONS", (200,))
    found = warm_start.run(warm_start.Job("llmrouter", 0))
    cold, uniform = (found[warm_start.Key("llmrouter", 0.0, "as logged", start)] for start in ("cold", "uniform"))

    assert len(found) == 6
    # Probabilities add up to one but for rounding.
    assert all(each.shape == (200,) and each.min() >= 0 and each.max() < 100 + 1e-9 for each in found.values())
    assert uniform.mean() > cold.mean()


def test_half_is_regained_or_taken_up_by_the_last_fifty():
    """A loss that stops at round 100 is half in the window that ends at 125, a share that starts there more at 126."""
    lost = np.where(np.arange(400) < 100, 2.0, 0.0)

    assert drift.rounds_until(lost, whole=np.full(400, 2.0), at_most=True) == 125
    assert drift.rounds_until(2.0 - lost, whole=2.0) == 126
    assert drift.rounds_until(lost + 2.0, whole=np.full(400, 2.0), at_most=True) == 400


def found(**change) -> drift.Found:
    """A policy that follows at once."""
    n = drift.N_ROUNDS - drift.AT
    at_once = drift.Found(
        cut={"told": (60.0, 0.5), "untold": (50.0, 0.1), "known": (60.0, 0.5), "no cut": (50.0, 0.0)},
        mixed={"told": (60.0, 0.5), "untold": (50.0, 0.1), "known": (60.0, 0.5), "no cut": (50.0, 0.0)},
        lost=np.zeros(n),
        at_stake=np.full(n, 30.0),
        share={told: np.ones(n) for told in (False, True)},
        share_of_old=1.0,
        n_masked=0,
        outage=0.0,
        back=(0.5, 0.5),
    )
    return at_once._replace(**change)


LATE = (np.arange(drift.N_ROUNDS - drift.AT) >= 400).astype(np.float64)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"cut": {"told": (52.0, 0.1), "untold": (50.0, 0.1), "known": (60.0, 0.5), "no cut": (50.0, 0.0)}}, False),
        ({"lost": 30 * (1 - LATE)}, False),
        ({"share": {False: LATE, True: np.ones(LATE.size)}}, False),
        ({"n_masked": 1}, False),
    ],
)
def test_every_promise_of_following_can_be_broken(change, holds):
    """A slow answer to any of the events alone, or one request to an arm that is out, and it does not hold."""
    seeds = {drift.Job("table", drift.DEFAULT, seed): found(**change) for seed in range(10)}

    assert drift.report(seeds).holds == holds


@pytest.mark.data
def test_an_event_changes_nothing_before_it(shared_data):
    """With an event and without, a policy chooses the same arms until it happens, and never one that is out."""
    [spec] = table_specs(["paretobandit"])
    encoded = encoded_table(spec, folder=SHARED_DATA, vectors=RESULTS / "vectors.sqlite")
    job = drift.Job("paretobandit", EpsilonGreedy.name, 3)
    quiet = drift.play(job, encoded, [])
    lead = int(np.bincount(quiet.arm[: drift.AT]).argmax())
    worse = drift.play(job, encoded, [QualityRegression(at=drift.AT, arm=encoded.table.arms.names[lead], factor=0.4)])
    whole = drift.run(job)

    np.testing.assert_array_equal(quiet.arm[: drift.AT], worse.arm[: drift.AT])
    assert (quiet.utility[drift.AT :] != worse.utility[drift.AT :]).any()
    assert whole.n_masked == 0
    assert whole.at_stake.min() >= 0
    assert all(set(np.unique(each)) <= {0.0, 1.0} for each in whole.share.values())


def test_frequencies_that_are_as_stated_pass(seed, rng):
    """Of draws by the stated probabilities, rare arms among them, p-values are even: z of their share below a half."""
    stated = np.array([0.0, 0.6, 0.3, 0.0985, 0.0008, 0.0004, 0.0003])
    p_values = np.array([draws.chi_square(rng.multinomial(2_000, stated), stated) for _ in range(400)])

    z = ((p_values < 0.5).mean() - 0.5) / np.sqrt(0.25 / 400)

    assert normal_p_value(np.array([z]))[0] > ONE_IN_A_MILLION
    assert (p_values < 1e-7).sum() == 0


def test_frequencies_that_are_not_as_stated_fail(seed, rng):
    """Five points between two arms show in 10,000 draws (z near 10), and an arm that cannot be drawn at once."""
    stated, true = np.array([0.0, 0.6, 0.3, 0.1]), np.array([0.0, 0.55, 0.35, 0.1])

    assert draws.chi_square(rng.multinomial(10_000, true), stated) < ONE_IN_A_MILLION
    assert draws.chi_square(np.array([1.0, 6_000, 3_000, 999]), stated) == 0.0
    assert draws.chi_square(np.array([0.0, 10_000, 0.0]), np.array([0.0, 1.0, 0.0])) == 1.0


class Liar(EpsilonGreedy):
    """States even probabilities and draws the first arm half the time."""

    def decide(self, *_, rng):
        """Draw otherwise than is stated."""
        arm = int(rng.choice(3, p=[0.5, 0.25, 0.25]))
        return Choice(arm=arm, propensity=1 / 3, probabilities=self.probabilities())

    def probabilities(self, *_):
        """Return even ones."""
        return np.full(3, 1 / 3)


def test_a_policy_that_draws_otherwise_is_found_out(seed, rng):
    """An honest policy's draws pass in one context, and those of one that misstates its propensities do not."""
    asked = np.zeros(2), TradeOff(0.0), EVERY
    honest = draws.count_context(EpsilonGreedy(n_arms=3, n_features=2), *asked, n_draws=1_000, rng=rng)
    liar = draws.count_context(Liar(n_arms=3, n_features=2), *asked, n_draws=1_000, rng=rng)

    assert honest.n_strayed == liar.n_strayed == 0
    assert honest.p_value > ONE_IN_A_MILLION > liar.p_value


@pytest.mark.parametrize("is_honest", [True, False])
def test_the_variance_of_a_log_is_known(seed, rng, is_honest):
    """Errors of IPS over their known deviations have mean zero and variance one, where propensities are true alone.

    A hundred logs of 200 rounds; the propensities of a dishonest log are off by a quarter.
    """
    # Weights and qualities are near one: what the worth of a prompt takes off the variance is then most of it.
    quality = rng.uniform(0.8, 1, size=(50, 3))
    target = np.tile([0.4, 0.3, 0.3], (50, 1))
    stated, true = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.25, 0.15])
    logs = []
    for _ in range(100):
        arm = rng.choice(3, size=200, p=stated if is_honest else true)
        log = draws.Log(rng.integers(50, size=200), arm, np.tile(stated, (200, 1)))
        logs.append(draws.covered(log, quality, target))
    z = np.array([each.error / each.variance**0.5 for each in logs])

    assert (normal_p_value(np.array([z.mean() * np.sqrt(100)]))[0] > ONE_IN_A_MILLION) == is_honest
    if is_honest:
        # The variance of a mean of 100 squares of nearly normal numbers is 2 / 100.
        assert abs((z**2).mean() - 1) < 4.89 * np.sqrt(2 / 100)
        assert np.mean([each.by_martingale for each in logs]) == pytest.approx(0.95, abs=4.89 * np.sqrt(0.0475 / 100))
        assert np.mean([each.by_betting for each in logs]) > 0.95 - 4.89 * np.sqrt(0.0475 / 100)


def test_a_verdict_on_draws_can_fail():
    """One context whose frequencies differ, one draw astray, or errors that add up, and it does not hold."""
    good = draws.Counted(0.4, 100, 0)
    held = draws.Covered(0.5, 100.0, 10.0, True, True, True, True)
    missed = held._replace(error=9.0)

    def verdict(counted, one):
        return draws.report({"a": [good, counted]}, {"a": [dict.fromkeys(draws.TARGETS, one)] * 100}).holds

    assert verdict(good, held)
    assert not verdict(good._replace(p_value=1e-4), held)
    assert not verdict(good._replace(n_strayed=1), held)
    assert not verdict(good, missed)
    assert not verdict(good, held._replace(by_betting=False))


@pytest.mark.data
def test_a_stream_is_evaluated_at_every_target(shared_data):
    """One short stream of the default: every target is there, with a positive variance and weights above zero."""
    found = draws.cover(("pooled-thompson", 0))

    assert tuple(found) == draws.TARGETS
    assert all(each.variance > 0 and each.largest_weight > 0 for each in found.values())
