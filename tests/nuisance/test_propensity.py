"""Estimated propensities: right where a logit is right, floored once, and doubted where they are off."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import synthetic
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from pointsman.errors import CalibrationWarning, InvalidParameterError
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.nuisance.propensity import (
    LogitFitter,
    PropensityModel,
    _temperature,
    calibration,
    estimate_propensities,
    floored,
    propensity_floor,
)


def test_the_fit_agrees_with_scikit_learn(rng):
    """Where all arms are eligible and features uncorrelated, the posterior mode is LogisticRegression's."""
    drawn = rng.normal(size=(400, 4))
    context = np.linalg.qr(drawn - drawn.mean(axis=0))[0] * np.sqrt(400)  # mean zero, variance one, uncorrelated
    arm = synthetic.draw_arms(synthetic.softmax(context @ rng.normal(size=(4, 3))), rng=rng)

    logit = LogitFitter(context, arm, supported=np.ones((400, 3), dtype=bool)).fit(0.01)

    expected = LogisticRegression(C=0.01, tol=1e-8, max_iter=1_000).fit(context, arm)
    probabilities = synthetic.softmax(logit(context))
    # The fit stops at gradients a tenth of their sampling error, so probabilities are off by a tenth of theirs at most:
    # sqrt(p (1 - p) parameters / n) = 0.5 sqrt(10 / 400).
    np.testing.assert_allclose(probabilities, expected.predict_proba(context), atol=0.1 * 0.5 * np.sqrt(10 / 400))


def test_slopes_shrink_by_component(rng):
    """Where features are correlated, the mode is that of components scaled by their variances, all of them or most."""
    variance = np.logspace(1.5, -2.5, 12)
    drawn = rng.normal(size=(4_000, 12)) * np.sqrt(variance)
    context = drawn @ np.linalg.qr(rng.normal(size=(12, 12)))[0] + rng.normal(size=12)
    arm = synthetic.draw_arms(synthetic.softmax(drawn[:, :3] @ rng.normal(size=(3, 3)) / 4), rng=rng)

    fitter = LogitFitter(context, arm, supported=np.ones((4_000, 3), dtype=bool))
    logit = fitter.fit(0.01)

    standardised = (context - context.mean(axis=0)) / context.std(axis=0)
    eigenvalues, axes = np.linalg.eigh(standardised.T @ standardised / 4_000)
    scaled = standardised @ axes * eigenvalues
    expected = LogisticRegression(C=0.01, tol=1e-8, max_iter=10_000).fit(scaled, arm).predict_proba(scaled)
    n_kept = len(fitter.parameters[None]) - 1
    assert 1 < n_kept < 12
    left_out = 0.01 * np.sort(eigenvalues)[: 12 - n_kept] ** 3
    assert left_out.sum() < 0.01 / 4_000 <= left_out.sum() + 0.01 * np.sort(eigenvalues)[12 - n_kept] ** 3
    # A tenth of the sampling error, as above, and p (1 - p) times a logit's standard deviation of 0.1 / sqrt(n) at most
    # for what is left out, on average over rounds and arms.
    error = np.sqrt(((synthetic.softmax(logit(context)) - expected) ** 2).mean())
    assert error < 0.1 * (0.5 * np.sqrt(3 * 13 / 4_000) + 0.25 / np.sqrt(4_000))


def test_a_fold_left_out_is_not_seen(rng):
    """Other arms in a fold leave the fits without it as they are, bit for bit, whatever was fitted in between."""
    log = synthetic.linear(n_rounds=5_000, n_features=4, n_arms=3, rng=rng)
    fold = assign_folds(5_000, n_folds=2, seed=0)
    shuffled = np.where(fold == 1, rng.permutation(log.arm), log.arm)
    coefficients = []
    for arm in (log.arm, shuffled):
        fitter = LogitFitter(log.context, arm, supported=np.ones((5_000, 3), dtype=bool), fold=fold)
        fits = [fitter.fit(variance, without=k) for variance in (0.001, 0.1) for k in (0, 1)]
        coefficients.append([logit.coef for logit in fits])

    (_, kept, _, kept_too), (_, again, _, again_too) = coefficients
    np.testing.assert_array_equal(kept, again)
    np.testing.assert_array_equal(kept_too, again_too)
    assert not np.array_equal(coefficients[0][2], coefficients[1][2])


def test_a_fit_does_not_depend_on_where_it_starts(rng):
    """One fold left out gives what the other rounds alone give, also by way of other priors."""
    log = synthetic.linear(n_rounds=3_000, n_features=4, n_arms=3, rng=rng)
    fold = assign_folds(3_000, n_folds=3, seed=0)
    supported = rng.random((3_000, 3)) < 0.7
    supported[np.arange(3_000), log.arm] = True
    fitter = LogitFitter(log.context, log.arm, supported=supported, fold=fold)
    for variance in (1.0, 0.01, 0.1):
        logit = fitter.fit(variance, without=2)

    rest = fold != 2
    alone = LogitFitter(log.context[rest], log.arm[rest], supported=supported[rest], axes=fitter.axes).fit(0.1)
    # Each is off by a tenth of the sampling error of 15 parameters on 2,000 rounds.
    np.testing.assert_allclose(
        synthetic.softmax(logit(log.context)),
        synthetic.softmax(alone(log.context)),
        atol=2 * 0.1 * 0.5 * np.sqrt(15 / 2_000),
    )


def test_units_origin_and_precision_of_the_context_do_not_matter(rng):
    """A constant, large offsets and odd units change nothing but rounding; nor does float32."""
    log = synthetic.linear(n_rounds=2_000, n_features=3, n_arms=3, rng=rng)
    supported = np.ones((2_000, 3), dtype=bool)
    plain = LogitFitter(log.context, log.arm, supported=supported).fit(0.1)(log.context)

    moved = np.column_stack([log.context * [1e-3, 1.0, 1e6] + [1.0, -1e3, 1e7], np.full(2_000, 0.1)])
    for context in (moved, np.column_stack([log.context, np.full(2_000, 0.1)]).astype(np.float32)):
        logits = LogitFitter(context, log.arm, supported=supported).fit(0.1)(context)
        # Components are in float32, and the fits stop within a tenth of their sampling error, at all but the same step.
        np.testing.assert_allclose(logits, plain, atol=1e-3)


def test_estimates_approach_a_logit_logger(seed, rng):
    """The mean squared error is that of a regression with as many parameters, not more."""
    log = synthetic.linear(n_rounds=4_000, n_features=5, n_arms=4, rng=rng)

    estimate = estimate_propensities(
        context=log.context, arm=log.arm, n_arms=4, fold=assign_folds(4_000, n_folds=5, seed=seed)
    )

    error = ((estimate.probabilities - log.propensities) ** 2).sum(axis=1).mean()
    # 18 free parameters on 3,200 rounds: the expected squared error of a multinomial's mean, summed over arms, is
    # below (1 - 1/K) parameters / n. Its square root scatters little; three times it is far beyond.
    assert error < 3 * 18 / 3_200
    assert abs(np.log(estimate.temperature)).max() < 0.3
    np.testing.assert_allclose(estimate.probabilities.sum(axis=1), 1, rtol=1e-12)


def test_noise_gets_no_slopes():
    """Where the logger looks at nothing, most logs get the smallest prior variance."""
    n_smallest = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = PropensityModel().fit(rng.normal(size=(1_000, 5)), rng.integers(0, 3, 1_000), n_arms=3)
        n_smallest += model.prior_variance_ == min(model.prior_variances)
    # Slopes of noise lower the out-of-fold log loss in almost half of the logs, by a nat in one of ten. Of 40, 12 and
    # more come less than once in a thousand times.
    assert n_smallest > 40 - 12


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_is_the_likeliest(rng, factor):
    """Logits that are `factor` times too large are divided by it."""
    logits = rng.normal(size=(20_000, 4))
    supported = rng.random((20_000, 4)) < 0.8
    supported[:, 0] = True
    arm = synthetic.draw_arms(synthetic.softmax(np.where(supported, logits, -np.inf)), rng=rng)

    temperature = _temperature(np.where(supported, factor * logits, -np.inf), arm=arm, supported=supported)

    # The information about 1 / T, in units of the true one, is the mean variance of the logits under their own
    # probabilities: about 0.5 a round.
    assert abs(factor / temperature - 1) < synthetic.FALSE_FAILURE_Z / np.sqrt(0.5 * 20_000)


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_no_temperature_is_made_of_logits_that_say_nothing_or_all(rng, sign):
    """Where the likelihood has no maximum in T, T is one."""
    arm = rng.integers(0, 3, 100)
    assert _temperature(sign * np.eye(3)[arm], arm=arm, supported=np.ones((100, 3), dtype=bool)) == 1.0


def test_the_eligible_arms_are_part_of_the_likelihood(rng):
    """Two arms chosen evenly when both are eligible are found even, though one is eligible half the time."""
    context = rng.normal(size=(6_000, 2))
    eligible = np.ones((6_000, 2), dtype=bool)
    eligible[::2, 0] = False
    arm = np.where(eligible[:, 0], rng.integers(0, 2, 6_000), 1)

    estimate = estimate_propensities(
        context=context, arm=arm, n_arms=2, eligible=eligible, fold=assign_folds(6_000, n_folds=5, seed=0)
    )

    # 3,000 fair draws.
    assert abs(estimate.probabilities[1::2, 0].mean() - 0.5) < synthetic.FALSE_FAILURE_Z * 0.5 / np.sqrt(3_000)
    np.testing.assert_array_equal(estimate.probabilities[::2], np.tile([0.0, 1.0], (3_000, 1)))


def test_a_logger_that_is_no_logit_draws_a_warning(seed, rng):
    """A logger that prefers an arm at both ends of a feature is not one a logit can follow."""
    context = rng.normal(size=(4_000, 1))
    arm = synthetic.draw_arms(synthetic.softmax(np.outer(context[:, 0] ** 2 - 1, [-1, 0, 1])), rng=rng)

    # Its square is hidden from a logit of the feature alone; the exponential shows some of it.
    curved = np.column_stack([context[:, 0], np.exp(0.5 * context[:, 0])])
    with pytest.warns(CalibrationWarning, match="not a logit"):
        estimate_propensities(context=curved, arm=arm, n_arms=3, fold=assign_folds(4_000, n_folds=5, seed=0))


def test_right_propensities_are_seldom_doubted(seed):
    """Under right propensities p-values are not smaller than uniform: under 2% fall below 0.01 in 500 logs."""
    rng = np.random.default_rng(seed)
    small = 0
    for _ in range(500):
        propensities = synthetic.softmax(rng.normal(size=(400, 1)) * np.array([-1, 0, 1]))
        checked = calibration(
            propensities,
            arm=synthetic.draw_arms(propensities, rng=rng),
            eligible=np.ones((400, 3), dtype=bool),
            fold=np.arange(400) % 5,
        )
        small += checked.p_value < 0.01
    # Binomial(500, 0.01) exceeds 20 with probability 2e-7; the chi-square is approximate, hence 0.015.
    assert small <= 500 * 0.015 + synthetic.FALSE_FAILURE_Z * np.sqrt(500 * 0.015)


def test_marginal_frequencies_are_not_doubted(seed, rng):
    """A uniform logger estimated out of fold is calibrated, though each fold is predicted from the others' counts."""
    arm = rng.integers(0, 11, 2_000)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        estimate = estimate_propensities(
            context=rng.normal(size=(2_000, 20)), arm=arm, n_arms=11, fold=assign_folds(2_000, n_folds=5, seed=0)
        )

    # A share of 1/11 counted on 1,600 rounds.
    spread = np.sqrt(1 / 11 * 10 / 11 / 1_600)
    assert abs(estimate.of_logged_arm - 1 / 11).mean() < 3 * spread


def test_the_table_counts_what_it_says():
    """One arm, two bins, by hand."""
    probabilities = np.column_stack([np.repeat([0.2, 0.8], 20), np.repeat([0.8, 0.2], 20)])
    arm = np.r_[np.zeros(4), np.ones(16), np.zeros(10), np.ones(10)].astype(int)

    checked = calibration(
        probabilities, arm=arm, eligible=np.ones((40, 2), dtype=bool), fold=np.zeros(40, dtype=int), n_bins=2
    )

    np.testing.assert_array_equal(checked.arm, [0, 0, 1, 1])
    np.testing.assert_array_equal(checked.n_rounds, [20, 20, 20, 20])
    np.testing.assert_allclose(checked.predicted, [0.2, 0.8, 0.2, 0.8])
    np.testing.assert_allclose(checked.observed, [0.2, 0.5, 0.5, 0.8])
    np.testing.assert_allclose(checked.expected_calibration_error, 0.15)


def test_bins_rank_within_folds():
    """A bin holds the same ranks of every fold, whatever the folds' levels."""
    fold = np.arange(80) % 2
    p = np.where(fold == 0, 0.1, 0.5) + np.where(np.arange(80) < 40, 0.2, 0.0)

    checked = calibration(
        np.column_stack([p, 1 - p]),
        arm=(np.arange(80) % 3 > 0).astype(int),
        eligible=np.ones((80, 2), dtype=bool),
        fold=fold,
        n_bins=2,
    )

    np.testing.assert_allclose(checked.predicted, [0.3, 0.5, 0.5, 0.7])


def test_flooring_keeps_the_sum_and_leaves_what_is_above():
    """A row above the floor stays; one below gains from the others; unsupported arms stay at zero."""
    probabilities = np.array([[0.5, 0.5, 0.0], [0.01, 0.99, 0.0], [0.3, 0.3, 0.4]])
    supported = np.array([[True, True, False], [True, True, False], [True, True, True]])

    result = floored(probabilities, supported=supported, floor=0.1)

    np.testing.assert_allclose(result, [[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]], rtol=1e-12)
    np.testing.assert_allclose(floored(np.array([[0.5, 0.5]]), supported=np.ones((1, 2), dtype=bool), floor=0.5), 0.5)


@pytest.mark.parametrize(("n_rounds", "expected"), [(0, 0.25), (1, 0.25), (10, 0.25), (10_000, 5 / (100 * 9.210340))])
def test_the_floor_follows_the_sample_size(n_rounds, expected):
    """It vanishes as the log grows, and never exceeds an even chance."""
    assert propensity_floor(n_rounds, n_arms=4) == pytest.approx(expected)


@pytest.mark.parametrize("n_rounds", [2, 3, 40])
@pytest.mark.parametrize("n_arms", [1, 2, 5])
def test_arms_that_never_served_have_no_propensity(rng, n_rounds, n_arms):
    """One arm, one round of an arm, or a silent arm are no errors; a single arm is certain."""
    arm = np.zeros(n_rounds, dtype=int)
    arm[0] = min(1, n_arms - 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        estimate = estimate_propensities(
            context=rng.normal(size=(n_rounds, 3)),
            arm=arm,
            n_arms=n_arms,
            fold=assign_folds(n_rounds, n_folds=2, seed=0),
        )

    assert (estimate.of_logged_arm >= estimate.floor * (1 - 1e-12)).all()
    assert (estimate.of_logged_arm <= 1).all()
    np.testing.assert_array_equal(estimate.probabilities[:, 2:], 0)
    np.testing.assert_allclose(estimate.probabilities.sum(axis=1), 1)


def test_a_fitted_model_predicts_fresh_rounds(rng):
    """Probabilities sum to one over the eligible arms, also where only an arm that never served is eligible."""
    log = synthetic.linear(n_rounds=500, n_features=3, n_arms=2, rng=rng)
    model = clone(PropensityModel(seed=1)).fit(log.context, log.arm, n_arms=3)
    eligible = np.array([[True, True, True], [True, False, True], [False, False, True]])

    probabilities = model.predict_proba(log.context[:3], eligible)

    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[1:], [[1, 0, 0], [0, 0, 1]])


def test_a_subsample_is_enough_and_the_same_each_time(rng):
    """With caps below the log's size the estimate still follows the logger, and repeats bit for bit."""
    log = synthetic.linear(n_rounds=6_000, n_features=3, n_arms=3, rng=rng)
    model = PropensityModel(max_fit_rounds=2_000, max_tuning_rounds=1_000)
    fold = assign_folds(6_000, n_folds=5, seed=0)

    first, second = (
        estimate_propensities(context=log.context, arm=log.arm, n_arms=3, fold=fold, model=model) for _ in range(2)
    )

    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert ((first.probabilities - log.propensities) ** 2).sum(axis=1).mean() < 3 * 8 / 2_000


@pytest.mark.parametrize("variances", [(), (0.0,), (np.inf,)])
def test_prior_variances_must_be_positive(variances):
    """An improper prior is refused."""
    with pytest.raises(InvalidParameterError, match="prior_variances"):
        PropensityModel(prior_variances=variances).fit(np.ones((4, 1)), np.array([0, 1, 0, 1]), n_arms=2)
