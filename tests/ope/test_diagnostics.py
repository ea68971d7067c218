"""Diagnostics: errors where a log is silent, warnings where it whispers, nothing where it speaks.

What must be quiet is tested at p-values, not at warnings: a warning comes once in a thousand logs, so over 100 seeds a
test that forbids it would fail one run in ten. At one in a million it is a fault.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import synthetic

from pointsman.errors import (
    CalibrationWarning,
    MissingOutcomeWarning,
    OverlapError,
    OverlapWarning,
    SmallSampleWarning,
)
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.propensity import estimate_propensities
from pointsman.ope.diagnostics import (
    check_balance,
    check_calibration,
    check_inverse_propensities,
    check_missingness,
    check_sample_size,
    diagnose,
    effective_sample_size,
    gate,
    largest_to_expect,
    overlap_cells,
    pareto_k,
    pareto_k_limit,
    propensity_curve,
    rounds_needed,
)
from pointsman.ope.estimate import Estimate, Ratio
from pointsman.ope.estimators import dr, ips, snips


def test_effective_sample_size_counts_the_rounds_that_matter():
    """N for equal weights, one for a single weight, zero for none."""
    assert effective_sample_size(np.full(50, 3.0)) == pytest.approx(50)
    assert effective_sample_size(np.eye(50)[0]) == 1
    assert effective_sample_size(np.zeros(50)) == 0


def test_a_good_log_is_reported_without_a_warning(seed, rng):
    """Weights average one within noise; the figures are those of the arrays."""
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(2_000, rng=rng)
    target = rng.dirichlet(np.ones(3), 2_000)

    found = diagnose(arm=log.arm, propensity=log.propensity, target_probs=target)

    weight = target[np.arange(2_000), log.arm] / log.propensity
    assert found.n_rounds == 2_000
    assert found.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert found.smallest_propensity == log.propensity.min()
    assert found.largest_weight == weight.max()
    assert found.mean_weight == pytest.approx(weight.mean())
    assert found.unsupported_share == 0
    assert found.heaviest_share == pytest.approx(np.sort(weight)[-20:].sum() / weight.sum())
    assert found.clip == pytest.approx(10 * np.median(weight))
    assert found.clipped_share == pytest.approx(np.maximum(weight - found.clip, 0).sum() / weight.sum())
    assert found.pareto_k == pareto_k(weight)
    assert found.pareto_k_limit == pareto_k_limit(2_000)


def test_a_clip_of_ones_own_is_reported_against():
    """Half the weight of a round of 1 lies beyond 0.5."""
    found = diagnose(
        arm=np.zeros(2, dtype=int), propensity=np.array([0.25, 0.25]), target_probs=np.full((2, 1), 0.25), clip=0.5
    )

    assert (found.clip, found.clipped_share) == (0.5, 0.5)


def test_an_arm_that_never_served_is_an_error_that_names_it():
    """And says what to do."""
    with pytest.raises(OverlapError, match=r"large \(40\.0%\).*log with exploration"):
        diagnose(
            arm=np.zeros(10, dtype=int),
            propensity=np.full(10, 0.5),
            target_probs=np.tile([0.6, 0.4], (10, 1)),
            arm_names=["small", "large"],
        )


def test_less_than_one_decision_on_a_silent_arm_is_let_pass():
    """A softmax's tail is not worth an error."""
    found = diagnose(
        arm=np.zeros(10, dtype=int), propensity=np.full(10, 1.0), target_probs=np.tile([0.99, 0.01], (10, 1))
    )

    assert found.unsupported_share == pytest.approx(0.01)


def test_a_deterministic_log_of_another_policy_is_an_error():
    """It holds nothing on what the target would have done."""
    arm = np.arange(10) % 2

    with pytest.raises(OverlapError, match="deterministic"):
        diagnose(arm=arm, propensity=np.ones(10), target_probs=np.full((10, 2), 0.5))
    found = diagnose(arm=arm, propensity=np.ones(10), target_probs=np.eye(2)[arm])
    assert found.mean_weight == 1


def test_sure_choices_among_random_ones_draw_a_warning():
    """Part of the target's decisions has no support."""
    propensity = np.where(np.arange(100) < 20, 1.0, 0.5)

    with pytest.warns(OverlapWarning, match=r"in 10\.0%"):
        found = diagnose(arm=np.arange(100) % 2, propensity=propensity, target_probs=np.full((100, 2), 0.5))

    assert found.unsupported_share == pytest.approx(0.1)


def test_wrong_propensities_draw_a_warning(rng):
    """Weights that do not average one give them away."""
    with pytest.warns(OverlapWarning, match="average 1\\.[789]"):
        diagnose(
            arm=rng.choice(2, 1_000, p=[0.9, 0.1]),
            propensity=np.full(1_000, 0.5),
            target_probs=np.tile([1.0, 0.0], (1_000, 1)),
        )


@pytest.mark.parametrize(("n_heavy", "fires"), [(2, True), (500, False)])
def test_a_few_dominant_rounds_are_too_small_a_sample(rng, n_heavy, fires, recwarn):
    """Cochran's rule, n > 25 skewness^2: a share p of equal heavy rounds has skewness (1 - 2p) / sqrt(p (1 - p))."""
    value = np.zeros(1_000)
    value[:n_heavy] = 1.0

    check_sample_size(Estimate(name="ips", terms=(Ratio(value, np.ones(1_000)),)))

    assert [w.category for w in recwarn] == ([SmallSampleWarning] if fires else [])


def test_a_certain_value_needs_no_sample(recwarn):
    """Equal outcomes leave only rounding errors, which have no shape."""
    check_sample_size(
        ips(
            arm=np.zeros(30, dtype=int),
            outcome=np.full(30, 0.1),
            propensity=np.ones(30),
            target_probs=np.ones((30, 1)),
        )
    )

    assert not recwarn.list


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_that_of_a_pareto_tail(seed, rng, k):
    """Of 10,000 Pareto weights 300 are the tail: k has standard deviation (1 + k) / sqrt(300), pulled to 1/2 by 10."""
    weight = 1 + rng.pareto(1 / k, 10_000)

    expected = (300 * k + 10 * 0.5) / 310
    assert abs(pareto_k(weight) - expected) < synthetic.FALSE_FAILURE_Z * (1 + k) / np.sqrt(300) + 0.02


def test_pareto_k_does_not_depend_on_the_unit_and_needs_a_tail(rng):
    """Scaling leaves it; zeros do not count; equal or few weights have none."""
    weight = 1 + rng.pareto(2, 1_000)

    assert pareto_k(7 * weight) == pytest.approx(pareto_k(weight), rel=1e-6)
    assert pareto_k(np.append(weight, np.zeros(500))) == pareto_k(weight)
    assert np.isnan(pareto_k(np.full(1_000, 3.0)))
    assert np.isnan(pareto_k(rng.choice([1.0, 1.1, 20.0], 1_000)))
    assert np.isnan(pareto_k(weight[:10]))


def test_the_largest_weight_to_expect_lies_beyond_the_largest_seen(rng):
    """By ten times the rounds, 10^k of a Pareto tail; as seen where weights have an end."""
    heavy = np.array([largest_to_expect(1 + rng.pareto(2, 1_000)) for _ in range(200)])
    light = 1 + rng.random(1_000)

    # Of 10,000 such weights the largest exceeds sqrt(10,000) in a share 1 - 1 / e of logs.
    assert 60 < np.median(heavy) < 170
    assert largest_to_expect(light) == pytest.approx(2, abs=0.01)
    assert largest_to_expect(np.full(100, 3.0)) == 3
    assert largest_to_expect(rng.choice([1.0, 1.1, 20.0], 1_000)) == 20


@pytest.mark.parametrize(("k", "fires"), [(0.1, False), (0.9, True)])
def test_a_heavy_tail_draws_a_warning(rng, k, fires, recwarn):
    """A k of 0.9 leaves no variance; of 0.1 nine moments."""
    weight = 1 + rng.pareto(1 / k, 20_000)

    diagnose(arm=np.zeros(20_000, dtype=int), propensity=1 / weight, target_probs=np.ones((20_000, 1)))

    heavy = [w for w in recwarn if "Pareto k" in str(w.message)]
    assert [w.category for w in heavy] == ([OverlapWarning] if fires else [])


def test_estimated_propensities_of_a_deterministic_log_draw_the_reason(seed, rng):
    """No round served another arm than the likeliest, where the floor promises dozens."""
    n_rounds = 2_000
    context = rng.normal(size=(n_rounds, 3))
    arm = (context[:, 0] > 0).astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # true as well on some seeds, and not what is asked here
        estimated = estimate_propensities(
            context=context, arm=arm, n_arms=2, fold=assign_folds(n_rounds, n_folds=5, seed=seed)
        )

    with pytest.warns(OverlapWarning, match="looks deterministic"):
        diagnose(arm=arm, propensity=estimated.of_logged_arm, target_probs=np.tile([0.0, 1.0], (n_rounds, 1)))


def test_a_log_of_rare_but_real_exploration_does_not_look_deterministic(seed, rng):
    """One round in fifty explores, as its propensities say; and the policy that does as logged hears nothing."""
    n_rounds = 2_000
    favoured = (rng.random(n_rounds) < 0.5).astype(np.int64)
    arm = np.where(rng.random(n_rounds) < 0.02, 1 - favoured, favoured)
    propensity = np.where(arm == favoured, 0.98, 0.02)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "importance weights average|the importance weights have")
        diagnose(arm=arm, propensity=propensity, target_probs=np.tile([0.0, 1.0], (n_rounds, 1)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "importance weights average")
        diagnose(arm=favoured, propensity=np.full(n_rounds, 0.9), target_probs=np.eye(2)[favoured])


def test_overlap_is_broken_down_by_slice_and_arm(rng):
    """The figures are those of the rounds of each cell."""
    world = synthetic.FiniteWorld.random(n_states=4, n_arms=3, least_propensity=0.1, rng=rng)
    log = world.draw(1_000, rng=rng)
    target = rng.dirichlet(np.ones(3), 1_000)
    labels = np.array(["code", "maths"])[rng.integers(0, 2, 1_000)]

    found = overlap_cells(arm=log.arm, propensity=log.propensity, target_probs=target, labels=labels)

    assert found.slices == ("code", "maths")
    for s, label in enumerate(found.slices):
        inside = labels == label
        assert found.target_share[s] == pytest.approx(target[inside].mean(axis=0))
        for t in range(3):
            cell = inside & (log.arm == t)
            assert found.n_rounds[s, t] == cell.sum()
            weight = target[cell, t] / log.propensity[cell]
            assert found.effective_sample_size[s, t] == pytest.approx(effective_sample_size(weight))
            assert found.smallest_propensity[s, t] == log.propensity[cell].min()
    assert not found.unsupported.any()
    whole = overlap_cells(arm=log.arm, propensity=log.propensity, target_probs=target)
    assert whole.n_rounds.tolist() == [found.n_rounds.sum(axis=0).tolist()]


def test_a_slice_that_lacks_an_arm_is_named(rng):
    """Half the rounds elsewhere, none of 100 here: 2^-100 by chance; one of two rounds is no news."""
    arm = rng.integers(0, 2, 1_000)
    labels = np.repeat(["a", "b", "c"], [100, 898, 2])
    arm[:100] = 0
    arm[-2:] = 0
    target = np.full((1_000, 2), 0.5)
    target[-2:] = [0.2, 0.8]

    with pytest.warns(OverlapWarning, match=r"no round of large in a \(50\.0%\) of") as caught:
        found = overlap_cells(
            arm=arm, propensity=np.full(1_000, 0.5), target_probs=target, labels=labels, arm_names=["small", "large"]
        )

    assert "in c" not in str(caught[0].message)
    assert found.unsupported.tolist() == [[False, True], [False, False], [False, True]]


def test_right_propensities_are_calibrated_and_balanced(seed, rng):
    """No p-value under one in a million, by arm, for the logged arm's alone, or on the context."""
    log = synthetic.linear(n_rounds=3_000, n_features=30, n_arms=3, rng=rng, strength=0.7)
    target = synthetic.softmax(log.context[:, :3])
    logged = {"arm": log.arm, "propensity": log.propensity, "n_arms": 3}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p_values = [
            check_calibration(probabilities=log.propensities, arm=log.arm).p_value,
            check_inverse_propensities(**logged).p_value,
            check_balance(context=log.context, **logged).p_value,
            check_balance(context=log.context, **logged, target_probs=target).p_value,
            check_balance(context=log.context, **logged, probabilities=log.propensities).p_value,
        ]

    # 100 seeds of five such tests, one of them with Student's tails of an estimated variance.
    assert min(p_values) > 1e-6


def test_wrong_propensities_are_found_by_every_check(seed, rng):
    """A confounded log said to be uniform: frequencies follow the context, and so do weighted rounds."""
    log = synthetic.linear(n_rounds=3_000, n_features=30, n_arms=3, rng=rng, strength=1.5)
    claimed = np.full((3_000, 3), 1 / 3)
    skewed = synthetic.softmax(1.5 * log.context[:, :1] * np.array([[1.0, 0.0, -1.0]]))
    row = np.arange(3_000)

    with pytest.warns(CalibrationWarning, match=r"propensities are off by .* most for (one|three)"):
        check_calibration(probabilities=skewed, arm=log.arm, arm_names=["one", "two", "three"])
    with pytest.warns(CalibrationWarning, match=r"inverse propensities of .* propensities are too low"):
        check_inverse_propensities(arm=log.arm, propensity=0.5 * claimed[row, log.arm], n_arms=3)
    for known in (None, claimed):
        with pytest.warns(OverlapWarning, match=r"weighting does not balance the log: in the rounds of"):
            found = check_balance(
                context=log.context,
                arm=log.arm,
                propensity=claimed[row, log.arm],
                n_arms=3,
                probabilities=known,
                n_features=30,
            )
        assert found.after == pytest.approx(found.before)
        # Two arms of three lean on the first feature by about a standard deviation.
        assert found.largest_after > 0.5


def test_inverse_propensities_tell_an_arm_that_could_not_be_chosen(rng):
    """Half the rounds have it barred: their mean is a half, unless they are left out."""
    barred = np.arange(2_000) % 2 == 0
    arm = np.where(barred, 0, rng.integers(0, 2, 2_000))
    propensity = np.where(barred, 1.0, 0.5)
    eligible = np.column_stack([np.ones(2_000, dtype=bool), ~barred])

    found = check_inverse_propensities(arm=arm, propensity=propensity, n_arms=2, eligible=eligible)
    assert found.n_eligible.tolist() == [2_000, 1_000]
    assert found.mean == pytest.approx([1, 1], abs=synthetic.FALSE_FAILURE_Z / np.sqrt(1_000))
    with pytest.warns(CalibrationWarning, match="inverse propensities of 1 average .* could not be chosen"):
        check_inverse_propensities(arm=arm, propensity=propensity, n_arms=2)


def test_z_is_in_standard_errors_of_the_mean():
    """1,100 of 2,000 where 1,000 were to be expected: nearly symmetric, so the correction for skewness is under 2%."""
    arm = (np.arange(2_000) < 1_100).astype(np.int64)

    with pytest.warns(CalibrationWarning):
        found = check_inverse_propensities(arm=arm, propensity=np.full(2_000, 0.5), n_arms=2)

    z = np.sqrt(2_000) * 0.1 / (2 * np.sqrt(0.55 * 0.45))
    assert found.mean == pytest.approx([0.9, 1.1])
    assert found.z == pytest.approx([-z, z], rel=0.02)


def test_weights_restore_balance(rng):
    """Before weighting an arm's rounds lean to one side, after it they do not."""
    log = synthetic.linear(n_rounds=20_000, n_features=4, n_arms=3, rng=rng, strength=1.0)

    found = check_balance(
        context=log.context,
        arm=log.arm,
        propensity=log.propensity,
        n_arms=3,
        feature_names=["length", "code", "maths", "chat"],
    )

    assert found.features == ("length", "code", "maths", "chat")
    assert found.largest_before > 0.5 > 0.1 > found.largest_after
    assert found.mean_before > 3 * found.mean_after
    assert found.worst_feature in found.features
    assert set(asdict(found)) >= {"before", "after", "z", "p_value"}


def test_arms_of_few_rounds_are_shown_but_not_tested(recwarn):
    """Ten rounds cannot be judged; constant features are left out."""
    context = np.column_stack([np.arange(20.0), np.ones(20)])

    found = check_balance(context=context, arm=np.arange(20) // 10, propensity=np.full(20, 0.5), n_arms=3)

    assert found.features == ("feature 0",)
    assert np.isfinite(found.after[:2]).all()
    assert np.isnan(found.after[2]).all()
    assert (found.worst_arm, found.worst_feature, found.p_value) == (-1, "", 1.0)
    assert not recwarn.list


def test_the_propensity_curve_compares_claims_with_frequencies(seed, rng):
    """Right claims lie on the diagonal within their standard errors; the bins hold every eligible pair."""
    log = synthetic.linear(n_rounds=4_000, n_features=3, n_arms=3, rng=rng)

    found = propensity_curve(probabilities=log.propensities, arm=log.arm)

    assert found.n_claims.sum() == 12_000
    assert np.all(np.diff(found.claimed) > 0)
    off = abs(found.observed - found.claimed) / found.standard_error
    assert off.max() < synthetic.FALSE_FAILURE_Z + 0.5  # a bin of 600 pairs of small chance is skewed, by about 0.3


def test_outcomes_missing_at_random_raise_no_doubt(seed, rng):
    """By arm and by context; the share is that of the rounds."""
    log = synthetic.linear(n_rounds=2_000, n_features=40, n_arms=4, rng=rng)
    missing = rng.random(2_000) < 0.1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_missingness(missing=missing, arm=log.arm, context=log.context, n_arms=4)

    assert found.share == missing.mean()
    assert found.share_by_arm == pytest.approx([missing[log.arm == t].mean() for t in range(4)])
    assert len(found.features) == 10
    assert found.p_value > 1e-6


def test_p_values_of_missingness_are_uniform(rng):
    """Over 400 logs each is under 0.1 in a tenth: binomial, 4.89 standard errors."""
    below = np.zeros(2)
    for _ in range(400):
        context, arm = rng.normal(size=(300, 5)), rng.integers(0, 3, 300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = check_missingness(missing=rng.random(300) < 0.5, arm=arm, context=context, n_arms=3)
        below += [found.arm_p_value < 0.1, found.context_p_value < 0.1]

    band = synthetic.FALSE_FAILURE_Z * np.sqrt(0.1 * 0.9 / 400)
    assert np.all(abs(below / 400 - 0.1) < band)


def test_what_outcomes_go_missing_by_is_named(seed, rng):
    """An arm whose outcomes are lost, or prompts whose are, at a shift far beyond noise."""
    log = synthetic.linear(n_rounds=2_000, n_features=5, n_arms=3, rng=rng, strength=1.5)
    by_arm = rng.random(2_000) < np.array([0.05, 0.05, 0.3])[log.arm]
    by_context = rng.random(2_000) < np.where(log.context[:, 2] > 0, 0.3, 0.05)
    arrays = {"arm": log.arm, "context": log.context, "n_arms": 3}

    with pytest.warns(MissingOutcomeWarning, match="depends on the arm: .* of the rounds of large lack it"):
        found = check_missingness(missing=by_arm, **arrays, arm_names=["a", "b", "large"])
    # Prompts differ between arms here: within one they go missing alike.
    assert found.context_p_value > 1e-6
    with pytest.warns(MissingOutcomeWarning, match=r"depends on the prompt: feature 2 is \+0\.\d\d"):
        found = check_missingness(missing=by_context, **arrays)
    assert found.arm_p_value > 1e-6


def test_too_few_missing_outcomes_are_not_judged(rng):
    """Three of 1,000, and none at all."""
    arrays = {"arm": rng.integers(0, 2, 1_000), "context": rng.normal(size=(1_000, 3)), "n_arms": 2}
    three = np.arange(1_000) < 3

    for missing in (three, np.zeros(1_000, dtype=bool), np.ones(1_000, dtype=bool)):
        found = check_missingness(missing=missing, **arrays)
        assert (found.features, found.p_value) == ((), 1.0)


def test_the_gate_is_open_on_a_good_log(seed, rng):
    """2,000 rounds, propensities above 0.15 and outcomes on both sides; for values and for differences."""
    world = synthetic.FiniteWorld.random(n_states=5, n_arms=3, least_propensity=0.15, rng=rng)
    log = world.draw(2_000, rng=rng)
    target = np.tile([0.2, 0.3, 0.5], (2_000, 1))
    against = np.tile([0.5, 0.3, 0.2], (2_000, 1))
    logged = {"arm": log.arm, "outcome": log.outcome, "propensity": log.propensity}
    weight, other = (probs[np.arange(2_000), log.arm] / log.propensity for probs in (target, against))

    value = dr(**logged, predicted=log.mean, target_probs=target)
    difference = value - dr(**logged, predicted=log.mean, target_probs=against)

    for estimate, weights, mean_weight in ((value, weight, 1.0), (difference, weight - other, 0.0)):
        found = gate(estimate, weight=weights, mean_weight=mean_weight)
        assert (found.interval, found.reasons) == ("normal", ())
        assert found.n_needed == rounds_needed(estimate) < 2_000


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda rng: (rng.random(150) < 0.5, np.where(np.arange(150) < 75, 1.0, 0.01)), "effective sample size is 7"),
        (lambda _: (np.arange(1_000) < 2, np.ones(1_000)), r"1000 rounds are too few at this skewness, \d+ are"),
        (lambda rng: (rng.random(2_000) < 0.5, 1 + rng.pareto(1.1, 2_000)), "one more heavy round"),
        (lambda _: (np.ones(500), np.ones(500)), "never varied"),
    ],
)
def test_the_gate_closes_and_says_why(seed, rng, make, reason):
    """Few effective rounds, a few that dominate, a tail that may hold more, and outcomes all alike."""
    outcome, weight = make(rng)
    estimate = snips(
        arm=np.zeros(weight.size, dtype=int),
        outcome=outcome.astype(np.float64),
        propensity=1 / weight,
        target_probs=np.ones((weight.size, 1)),
    )

    found = gate(estimate, weight=weight)

    assert found.interval == "finite-sample"
    assert any(re.search(reason, said) for said in found.reasons)


def test_the_gate_closes_where_the_rounds_that_matter_are_not_in_the_log(seed, rng):
    """A third of the target's decisions are logged once in 5,000: a log without them shows weights of 0.05 and 1.

    No tail, no skewness, 500 effective rounds: only the mean of the weights tells. Of a difference it tells as much.
    """
    rare = rng.random(500) < 1 / 3
    arm = np.zeros(500, dtype=int)
    target = np.column_stack([np.where(rare, 0.05, 1.0), np.where(rare, 0.95, 0.0)])
    log = {"arm": arm, "outcome": (rng.random(500) < 0.6).astype(np.float64), "propensity": np.full(500, 1 - 1 / 5_000)}
    weight = target[:, 0] / log["propensity"]
    value = snips(**log, target_probs=target)

    found = gate(value, weight=weight)
    of_difference = gate(value - snips(**log, target_probs=np.eye(2)[arm]), weight=weight - 1, mean_weight=0.0)

    assert value.standard_error > 0
    for verdict, average in ((found, weight.mean()), (of_difference, weight.mean() - 1)):
        assert verdict.interval == "finite-sample"
        assert len(verdict.reasons) == 1
        assert f"average {average:.3f}, not " in verdict.reasons[0]


def test_intervals_behind_an_open_gate_cover(rng):
    """600 logs of moderate overlap: coverage given an open gate is 95% within 4.89 standard errors.

    Below, 1% is allowed besides: Cochran's rule lets a 95% interval miss 6% of the time.
    """
    world = synthetic.FiniteWorld.random(n_states=6, n_arms=3, least_propensity=0.08, rng=rng)
    target = rng.dirichlet(np.ones(3), 6)
    truth, covered = world.value(target), []
    for _ in range(600):
        log = world.draw(600, rng=rng)
        probs = target[log.state]
        estimate = snips(arm=log.arm, outcome=log.outcome, propensity=log.propensity, target_probs=probs)
        if gate(estimate, weight=probs[np.arange(600), log.arm] / log.propensity).interval == "normal":
            low, high = estimate.interval(0.95)
            covered.append(low <= truth <= high)

    assert len(covered) > 300
    band = synthetic.FALSE_FAILURE_Z * np.sqrt(0.95 * 0.05 / len(covered))
    assert -band - 0.01 < np.mean(covered) - 0.95 < band
