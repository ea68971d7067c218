"""The live experiment: it may be looked at whenever, stops when it is clear, and is rarely wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from pointsman.errors import InvalidParameterError
from pointsman.online.experiment import Experiment
from pointsman.trade_off import TradeOff

QUALITY_ONLY = TradeOff(0.0)

NEVER = 1 - 1e-6
"""A level at which equal policies are told apart once in a million experiments."""


def experiment(**options) -> Experiment:
    """An experiment on quality that waits for a hundred rounds; one horizon of bets is four times as fast as four."""
    return Experiment(**({"trade_off": QUALITY_ONLY, "max_waiting": 100, "tuned_to": 1_000} | options))


def served(trial, *, chance, n_rounds, rng, n_late=50, answers=1.0) -> None:
    """Serve requests; qualities, one with these chances by policy, come in late and last first, a batch at a time.

    `answers` is the share of outcomes that ever come, by policy or of both.
    """
    waiting = []
    for _ in range(n_rounds):
        split = trial.decide(rng=rng)
        quality = float(rng.random() < chance[split.which])
        share = answers[split.which] if isinstance(answers, dict) else answers
        waiting.append((split.round, quality if rng.random() < share else math.nan))
        if len(waiting) == n_late:
            while waiting:
                number, outcome = waiting.pop()
                trial.observe(number, quality=outcome)
        if trial.verdict != "running":
            return


@pytest.mark.parametrize("is_adaptive", [False, True])
def test_equal_policies_are_hardly_ever_told_apart(is_adaptive):
    """Watched at every one of 600 rounds, at most a 5% chance of a verdict: no more of 40 than once in 10^6 tests."""
    n_experiments = 40
    wrong = 0
    for seed in range(n_experiments):
        trial = experiment(is_adaptive=is_adaptive)
        served(trial, chance={"current": 0.6, "new": 0.6}, n_rounds=600, rng=np.random.default_rng(seed), n_late=100)
        wrong += trial.verdict != "running"
    assert wrong <= stats.binom.isf(1e-6, n_experiments, 0.05)


@pytest.mark.parametrize(("new", "verdict"), [(0.9, "better"), (0.3, "worse")])
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_a_large_difference_is_soon_seen_and_acted_upon(seed, new, verdict, is_adaptive):
    """0.3 apart it stops within 2,000 rounds, the right way, and then one policy serves for sure.

    The deviation of a score is about 1, or 2 where a policy has a share of a tenth: 0.3 is then 6 standard errors.
    """
    rng = np.random.default_rng(seed)
    trial = experiment(is_adaptive=is_adaptive)
    served(trial, chance={"current": 0.6, "new": new}, n_rounds=2_000, rng=rng, n_late=50)
    report = trial.report()
    assert report.verdict == verdict
    assert report.low <= report.estimate <= report.high
    assert all(trial.decide(rng=rng)[1:] == ("new" if verdict == "better" else "current", 1.0) for _ in range(20))
    assert trial.report().n_waiting == 0


def test_an_adaptive_split_spares_requests_the_worse_policy(seed):
    """Of a new policy that is 0.15 worse, its share falls to the least one before the verdict."""
    trial = experiment(is_adaptive=True, least_share=0.1)
    served(trial, chance={"current": 0.6, "new": 0.45}, n_rounds=600, rng=np.random.default_rng(seed))
    assert trial.verdict == "worse" or trial.share < 0.3


def test_alike_within_the_margin_is_equivalent(seed):
    """Two policies of certain quality 0.8 are within 0.1 of each other; the current one stays."""
    rng = np.random.default_rng(seed)
    trial = experiment(margin=0.1)
    for _ in range(2_000):
        split = trial.decide(rng=rng)
        if trial.observe(split.round, quality=0.8) != "running":
            break
    assert trial.verdict == "equivalent"
    assert trial.decide(rng=rng).which == "current"


def test_a_margin_takes_more_than_a_difference(seed):
    """A new policy that is 0.2 better is not better by a margin of 0.3, and is not equivalent to it at 0.15."""
    chance = {"current": 0.5, "new": 0.7}
    wide, narrow = experiment(margin=0.3), experiment(margin=0.15)
    served(wide, chance=chance, n_rounds=4_000, rng=np.random.default_rng(seed))
    served(narrow, chance=chance, n_rounds=4_000, rng=np.random.default_rng(seed))
    assert wide.verdict in ("running", "equivalent")
    assert narrow.verdict in ("running", "better")


def test_drawing_from_both_policies_tells_sooner(seed):
    """Policies that disagree on a fifth of requests: at equal rounds the interval of `mix` is narrower than a split's.

    A split's score varies with all requests, that of `mix` with the fifth: its variance is a fifth.
    """
    rng = np.random.default_rng(seed)
    both, split = experiment(level=NEVER), experiment(level=NEVER)
    arms = np.eye(2)
    waiting = []
    for _ in range(1_000):
        if both.verdict != "running":  # It is told at that level, too.
            break
        differ = rng.random() < 0.2
        new, current = arms[int(differ)], arms[0]
        quality = rng.random(2) < np.array([0.5, 0.7])
        mixed, chosen = both.mix(new, current, rng=rng), split.decide(rng=rng)
        assert mixed.propensity == (0.5 if differ else 1.0)
        took = new if chosen.which == "new" else current
        waiting.append((mixed.round, float(quality[mixed.arm]), float(quality[int(took[1])])))
        if len(waiting) == 50:
            while waiting:
                number, of_both, of_split = waiting.pop()
                both.observe(number, quality=of_both)
                split.observe(number, quality=of_split)
    widths = [each.report().high - each.report().low for each in (both, split)]
    assert widths[0] < 0.8 * widths[1]
    assert abs(both.report().estimate - 0.2 * 0.2) < 5 * math.sqrt(0.2 / 1_000)


def test_fast_answers_do_not_count_first(seed):
    """Good answers come at once and bad ones late: of the same policies, the interval is that of answers in order.

    Had rounds counted as they came in, the first would all have been good.
    """
    rng = np.random.default_rng(seed)
    late, prompt = experiment(level=NEVER), experiment(level=NEVER)
    rounds = []
    for _ in range(400):
        number = late.decide(rng=np.random.default_rng([seed, len(rounds)])).round
        prompt.decide(rng=np.random.default_rng([seed, len(rounds)]))
        rounds.append((number, float(rng.random() < 0.6)))
        if rounds[-1][1]:
            late.observe(number, quality=1.0)
        prompt.observe(*rounds[-1][:1], quality=rounds[-1][1])
        if len(rounds) % 80 == 0:
            for number, quality in rounds[-80:]:
                if not quality:
                    late.observe(number, quality=0.0)
    assert late.report().n_rounds == prompt.report().n_rounds == 400
    # Predictions are refitted at every settling, so ends differ by what they are worth, not by more.
    assert abs(late.report().low - prompt.report().low) < 0.1
    assert abs(late.report().high - prompt.report().high) < 0.1


def test_rounds_are_given_up_after_a_while(seed):
    """With a tenth never answered, rounds are waited for no longer than said, and the others still count."""
    trial = experiment(max_waiting=20, level=NEVER)
    served(trial, chance={"current": 0.6, "new": 0.6}, n_rounds=200, rng=np.random.default_rng(seed), n_late=1)
    rng = np.random.default_rng(seed)
    numbers = [trial.decide(rng=rng).round for _ in range(50)]
    assert trial.report().n_waiting == 20
    assert trial.report().n_missing == 30
    trial.observe(numbers[0], quality=1.0)
    assert trial.report().n_late == 1
    assert trial.report().n_rounds == 200


def test_outcomes_that_one_policy_hides_are_noticed(seed):
    """Half of one policy's outcomes missing and none of the other's is flagged; a third of both is not."""
    chance = {"current": 0.6, "new": 0.6}
    uneven, even = experiment(level=NEVER), experiment(level=NEVER)
    served(uneven, chance=chance, n_rounds=400, rng=np.random.default_rng(seed), answers={"current": 1.0, "new": 0.5})
    served(even, chance=chance, n_rounds=400, rng=np.random.default_rng(seed), answers=0.67)
    assert not uneven.report().is_missing_alike
    assert even.report().is_missing_alike


def test_at_worst_missing_outcomes_never_help(seed):
    """A policy whose bad answers are never rated seems better where they are dropped, and not at worst."""
    dropped, worst = experiment(), experiment(missing="worst")
    for trial in (dropped, worst):
        rng = np.random.default_rng(seed)
        for _ in range(400):
            split = trial.decide(rng=rng)
            quality = float(rng.random() < 0.5)
            hidden = split.which == "new" and not quality
            trial.observe(split.round, quality=math.nan if hidden else quality)
    assert dropped.verdict == "better"
    assert worst.verdict == "running"
    assert worst.report().low < 0 < worst.report().high


def test_utility_counts_cost_up_to_the_bound_that_was_stated(seed):
    """At 0.5 points a dollar a new policy that costs a dollar more is worse by 0.5; costs above two dollars are cut."""
    rng = np.random.default_rng(seed)
    trial = experiment(trade_off=TradeOff(0.5), most_cost_usd=2.0)
    assert trial.outcome_range == (-1.0, 1.0)
    for _ in range(400):
        split = trial.decide(rng=rng)
        trial.observe(split.round, quality=0.7, cost_usd=50.0 if split.which == "new" else 1.0)
    report = trial.report()
    assert report.verdict == "worse"
    assert report.estimate == pytest.approx(-0.5, abs=0.2)
    assert 0 < report.n_clipped <= report.n_rounds


def test_cost_alone_can_be_compared(seed):
    """At infinite lambda the cheaper policy is better, and quality need not be known."""
    rng = np.random.default_rng(seed)
    trial = experiment(trade_off=TradeOff(math.inf), most_cost_usd=1.0)
    for _ in range(400):
        split = trial.decide(rng=rng)
        trial.observe(split.round, cost_usd=0.1 if split.which == "new" else 0.8)
    assert trial.verdict == "better"


def test_an_asymptotic_sequence_needs_no_bound(seed):
    """Costs without a bound are compared after its first 500 rounds, and not before."""
    rng = np.random.default_rng(seed)
    trial = experiment(trade_off=TradeOff(0.1), kind="asymptotic", tuned_to=1_000)
    for i in range(1_500):
        split = trial.decide(rng=rng)
        cost = rng.lognormal() * (4 if split.which == "new" else 1)
        verdict = trial.observe(split.round, quality=0.7, cost_usd=cost)
        assert i >= 499 or verdict == "running"
    assert trial.verdict == "worse"


@pytest.mark.parametrize(
    "options",
    [{}, {"is_adaptive": True, "missing": "worst"}, {"kind": "asymptotic", "tuned_to": 500}],
    ids=["betting", "worst", "asymptotic"],
)
def test_it_goes_on_where_it_was_saved(options, rng):
    """An experiment from its JSON state finds the same to the last bit, also with rounds that wait."""
    trial = experiment(**options)
    served(trial, chance={"current": 0.6, "new": 0.65}, n_rounds=330, rng=rng, answers=0.9)
    twin = Experiment.from_state(json.loads(json.dumps(trial.state())))
    assert twin.report() == trial.report()
    for each in (trial, twin):
        served(each, chance={"current": 0.6, "new": 0.65}, n_rounds=300, rng=np.random.default_rng(1), answers=0.9)
    assert twin.report() == trial.report()


def test_a_callers_share_is_used_within_bounds(rng):
    """The propensity is the share that was given; one beyond what weights were bounded by is refused."""
    trial = experiment(least_share=0.2)
    for _ in range(30):
        split = trial.decide(rng=rng, share=0.3)
        assert split.propensity == (0.3 if split.which == "new" else pytest.approx(0.7))
    with pytest.raises(InvalidParameterError, match="share must be in"):
        trial.decide(rng=rng, share=0.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trade_off": TradeOff(1.0)}, "most_cost_usd must be finite"),
        ({"least_share": 0.0}, "least_share"),
        ({"margin": -0.1}, "margin"),
        ({"share": 0.95}, "share"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"kind": "wald"}, "kind"),
        ({"kind": "asymptotic", "missing": "worst"}, "missing"),
        ({"most_cost_usd": math.nan}, "most_cost_usd"),
        ({"level": 1.0}, "level"),
    ],
)
def test_what_breaks_a_rule_is_refused(options, match):
    """Every option has its rule, and is named."""
    with pytest.raises(InvalidParameterError, match=match):
        experiment(**options)


def test_an_outcome_outside_its_range_is_refused(rng):
    """Nothing is clipped but costs: a quality above one, a negative cost, and a round that never was raise."""
    trial = experiment()
    number = trial.decide(rng=rng).round
    for wrong in ({"quality": 1.1}, {"quality": -0.1}, {"quality": 0.5, "cost_usd": -1.0}):
        with pytest.raises(InvalidParameterError):
            trial.observe(number, **wrong)
    with pytest.raises(InvalidParameterError, match="number"):
        trial.observe(number + 1, quality=0.5)
    assert trial.report().n_waiting == 1
