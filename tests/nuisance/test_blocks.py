"""Block ridge against its closed form, its density, and the variances it should find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from synthetic import FALSE_FAILURE_Z

from pointsman.errors import InvalidParameterError
from pointsman.nuisance.blocks import LOG_RANGE, Block, BlockRidge

# Two algebraically equal solutions of systems of condition number up to 1e5 in double precision.
TOLERANCE = 1e-8

BLOCKS = (
    Block(name="constant", n_columns=1, variance=1.0, log_sd=0.0),
    Block(name="few", n_columns=3, variance=0.1, log_sd=1.0),
    Block(name="many", n_columns=8, variance=0.02, log_sd=1.5),
)
WIDTH = sum(block.n_columns for block in BLOCKS)


def drawn(rng, *, n_rows=120, noise=0.3, scales=(1.0, 0.5, 0.1)):
    """Return a design and outcomes; coefficients of a block have this standard deviation."""
    scale = np.repeat(scales, [block.n_columns for block in BLOCKS])
    design = rng.normal(size=(n_rows, WIDTH)) * rng.uniform(0.5, 2, WIDTH)
    return design, design @ (scale * rng.normal(size=WIDTH)) + noise * rng.normal(size=n_rows)


def prior(model):
    """Return the variance of every coefficient that the model chose."""
    return np.concatenate([np.full(block.n_columns, model.variance_[block.name]) for block in model.blocks])


def test_the_posterior_is_the_closed_form(rng):
    """At the variances chosen, mean and covariance are those of the joint normal of coefficients and outcomes."""
    design, outcome = drawn(rng)

    model = BlockRidge(BLOCKS, noise=0.1).fit([(design, outcome)])

    of_outcome = design @ np.diag(prior(model)) @ design.T + model.noise_ * np.eye(len(design))
    gain = np.diag(prior(model)) @ design.T @ np.linalg.inv(of_outcome)
    np.testing.assert_allclose(model.coef_, gain @ outcome, atol=TOLERANCE)
    covariance = np.diag(prior(model)) - gain @ design @ np.diag(prior(model))
    np.testing.assert_allclose(model.covariance_, covariance, atol=TOLERANCE)
    np.testing.assert_allclose(model.predict(design), design @ gain @ outcome, atol=TOLERANCE)
    np.testing.assert_allclose(model.variance(design), np.diag(design @ covariance @ design.T), atol=TOLERANCE)


def test_the_evidence_is_the_density_of_the_outcomes(rng):
    """It is the log density of a normal of covariance Phi diag(v) Phi' + s."""
    design, outcome = drawn(rng)

    model = BlockRidge(BLOCKS, noise=0.1).fit([(design, outcome)])

    of_outcome = design @ np.diag(prior(model)) @ design.T + model.noise_ * np.eye(len(design))
    density = stats.multivariate_normal.logpdf(outcome, cov=of_outcome)
    assert model.log_evidence_ == pytest.approx(density, rel=TOLERANCE)


def penalised(design, outcome, *, logs, fixed, noise=0.1, noise_log_sd=1.5):
    """Return the log density of outcomes plus the log priors, by brute force; `logs` of the free blocks and noise."""
    variance = np.repeat([fixed, *np.exp(logs[:-1])], [block.n_columns for block in BLOCKS])
    of_outcome = design @ np.diag(variance) @ design.T + math.exp(logs[-1]) * np.eye(len(design))
    centers = np.log([BLOCKS[1].variance, BLOCKS[2].variance, noise])
    sds = np.array([BLOCKS[1].log_sd, BLOCKS[2].log_sd, noise_log_sd])
    return stats.multivariate_normal.logpdf(outcome, cov=of_outcome) - (((logs - centers) / sds) ** 2).sum() / 2


def test_the_variances_are_where_density_times_prior_is_highest(seed, rng):
    """Finite differences of the density, computed on its own, vanish there, and no other point near is higher."""
    design, outcome = drawn(rng, n_rows=60)

    model = BlockRidge(BLOCKS, noise=0.1).fit([(design, outcome)])

    logs = np.log([model.variance_["few"], model.variance_["many"], model.noise_])
    step = 1e-4
    for j in range(3):
        move = step * np.eye(3)[j]
        up, here, down = (
            penalised(design, outcome, logs=logs + k * move, fixed=BLOCKS[0].variance) for k in (1, 0, -1)
        )
        slope, bend = (up - down) / (2 * step), (up - 2 * here + down) / step**2
        # L-BFGS stops once a step gains less than 1e-9 of a loss of size one a row: so near the top of a parabola the
        # slope is at most sqrt(2 x 1e-9 x 60 x bend), ten times which is allowed for steps that are not the whole way.
        assert abs(slope) < 10 * math.sqrt(2e-9 * 60 * max(abs(bend), 1))
    best = penalised(design, outcome, logs=logs, fixed=BLOCKS[0].variance)
    for _ in range(20):
        elsewhere = logs + rng.normal(size=3) * rng.choice([0.1, 1.0])
        assert penalised(design, outcome, logs=elsewhere, fixed=BLOCKS[0].variance) < best + 1e-6


def test_batches_add_up_to_one(rng):
    """Read in three parts, in any order, it is the same regression."""
    design, outcome = drawn(rng)
    rows = np.split(rng.permutation(len(design)), [10, 77])

    whole = BlockRidge(BLOCKS, noise=0.1).fit([(design, outcome)])
    parts = BlockRidge(BLOCKS, noise=0.1).fit((design[some], outcome[some]) for some in rows)

    # The moments differ by rounding, which may stop the search a step apart: within its tolerance of 1e-9 in the loss
    # of 120 rows, sqrt(2 x 1e-9 x 120) in a log variance whose density bends by one.
    for name, variance in whole.variance_.items():
        assert math.log(parts.variance_[name]) == pytest.approx(math.log(variance), abs=10 * math.sqrt(2.4e-7))
    np.testing.assert_allclose(parts.coef_, whole.coef_, atol=1e-3)


def test_a_variance_that_is_given_stays(rng):
    """log_sd = 0 leaves each of them alone, even all at once."""
    design, outcome = drawn(rng)
    assert BlockRidge(BLOCKS, noise=0.1).fit([(design, outcome)]).variance_["constant"] == pytest.approx(1.0)

    fixed = [Block(name=block.name, n_columns=block.n_columns, variance=0.07, log_sd=0.0) for block in BLOCKS]
    model = BlockRidge(fixed, noise=0.05, noise_log_sd=0.0).fit([(design, outcome)])

    assert list(model.variance_.values()) == pytest.approx([0.07] * 3)
    assert model.noise_ == pytest.approx(0.05)
    ridge = np.linalg.solve(design.T @ design + 0.05 / 0.07 * np.eye(WIDTH), design.T @ outcome)
    np.testing.assert_allclose(model.coef_, ridge, atol=TOLERANCE)


def test_variances_are_found_at_the_rate_of_theory(seed, rng):
    """With m coefficients well seen, log v is off by sqrt(2 / m), and log s by sqrt(2 / n)."""
    sizes, variances, noise, n_rows = (150, 80), (0.04, 0.5), 0.25, 3_000
    blocks = [Block(name=str(j), n_columns=size, variance=0.1, log_sd=3.0) for j, size in enumerate(sizes)]
    design = rng.normal(size=(n_rows, sum(sizes)))
    coef = rng.normal(size=sum(sizes)) * np.sqrt(np.repeat(variances, sizes))
    outcome = design @ coef + math.sqrt(noise) * rng.normal(size=n_rows)

    model = BlockRidge(blocks, noise=1.0, noise_log_sd=3.0).fit([(design, outcome)])

    for j, (size, variance) in enumerate(zip(sizes, variances, strict=True)):
        # A coefficient is seen with variance noise / n, a five-hundredth of v at most; the prior pulls by
        # (log v - log 0.1) / 3^2 over m / 2, a tenth of a standard error.
        error = math.log(model.variance_[str(j)] / variance)
        assert abs(error) < 1.15 * FALSE_FAILURE_Z * math.sqrt(2 / size)
    degrees = n_rows - sum(sizes)
    assert abs(math.log(model.noise_ / noise)) < 1.15 * FALSE_FAILURE_Z * math.sqrt(2 / degrees)


def test_a_block_of_nothing_is_shrunk_to_nothing(rng):
    """Where its features do not matter, a free variance falls far below its centre, but never out of its range."""
    design, _ = drawn(rng, n_rows=2_000)
    outcome = design[:, :1].sum(axis=1) + 0.1 * rng.normal(size=2_000)
    blocks = [*BLOCKS[:2], Block(name="many", n_columns=8, variance=1.0, log_sd=10.0)]

    model = BlockRidge(blocks, noise=0.1).fit([(design, outcome)])

    assert math.exp(-LOG_RANGE) * (1 - 1e-9) <= model.variance_["many"] < 1e-3


def test_posterior_variances_cover(seed, rng):
    """Over coefficients drawn from the prior, errors over posterior deviations are standard normal."""
    n_replications, design = 60, rng.normal(size=(80, WIDTH))
    fixed = [Block(name=block.name, n_columns=block.n_columns, variance=0.1, log_sd=0.0) for block in BLOCKS]
    squares = np.empty(n_replications)
    for j in range(n_replications):
        coef = math.sqrt(0.1) * rng.normal(size=WIDTH)
        model = BlockRidge(fixed, noise=0.2, noise_log_sd=0.0).fit(
            [(design, design @ coef + math.sqrt(0.2) * rng.normal(size=80))]
        )
        error = coef - model.coef_
        squares[j] = error @ np.linalg.solve(model.covariance_, error)
    # A chi-square of 12 degrees in each replication.
    total = squares.sum()
    tail = 2 * stats.norm.sf(FALSE_FAILURE_Z)
    low, high = stats.chi2.ppf([tail / 2, 1 - tail / 2], WIDTH * n_replications)
    assert low < total < high


def test_what_cannot_be_fitted_is_refused():
    """No rows, and a design of other columns than the blocks."""
    with pytest.raises(InvalidParameterError, match="batches must hold at least one row; got none"):
        BlockRidge(BLOCKS, noise=0.1).fit([])
    with pytest.raises(InvalidParameterError, match=r"design must have 12 columns.*got \(4, 3\)"):
        BlockRidge(BLOCKS, noise=0.1).fit([(np.ones((4, 3)), np.ones(4))])


@pytest.mark.parametrize(("variance", "log_sd"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.1, -1.0), (math.inf, 1)])
def test_a_prior_needs_a_variance(variance, log_sd):
    """A variance that is not above 0, or a spread below 0, is refused where it is given."""
    with pytest.raises(InvalidParameterError, match="the variance of b must be above 0"):
        Block(name="b", n_columns=1, variance=variance, log_sd=log_sd)
    with pytest.raises(InvalidParameterError, match="the variance of noise must be above 0"):
        BlockRidge(BLOCKS, noise=variance, noise_log_sd=log_sd)
