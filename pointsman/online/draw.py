"""Drawing an arm with a probability that is known exactly."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

NODES = np.array([-6.0, -2.4, -1.5, -0.8, -0.25, 0.25, 0.8, 1.5, 2.4, 6.0])
"""Where every arm's distribution is cut, in its standard deviations: probabilities are then within some 0.005 of
Thompson's, however unlike the arms' deviations."""


def best_probabilities(
    mean: NDArray[np.float64], deviation: NDArray[np.float64], eligible: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return each arm's probability that its draw from N(mean, deviation^2) is the largest, draws independent.

        P_t = int dF_t(u) prod over s != t of F_s(u)

    by cells of u: dF_t of a cell times the other arms' mean F over it, scaled to sum to one. This is Thompson sampling
    with the probability of each choice in closed form: whoever draws from these numbers has drawn with exactly these
    propensities, whatever the quadrature's error.

    Args:
        mean: (n_arms,) posterior means of what is to be largest.
        deviation: (n_arms,) posterior standard deviations, >= 0.
        eligible: (n_arms,) arms that may be drawn; at least one.

    Returns:
        (n_arms,) probabilities, zero where not eligible, summing to one.

    References:
        Thompson (1933), Biometrika 25; Russo, Van Roy, Kazerouni, Osband and Wen (2018), Foundations and Trends in
        Machine Learning 11(1).
    """
    from scipy.special import ndtr

    arms = np.flatnonzero(eligible)
    probabilities = np.zeros(mean.size)
    m, s = mean[arms], deviation[arms]
    s = np.maximum(s, 1e-9 * max(float(s.max()), float(np.ptp(m))))
    if arms.size == 1 or not s.max() > 0:
        probabilities[arms[int(m.argmax())]] = 1.0
        return probabilities
    # The largest draw is hardly ever below the lowest that any one arm gives, so arms that never reach it are out.
    lowest = (m + NODES[0] * s).max()
    contends = m + NODES[-1] * s > lowest
    if not contends.any():  # the deviations vanish beside the means
        return greatest(mean, eligible)
    arms, m, s = arms[contends], m[contends], s[contends]
    edges = (m + NODES[:, None] * s).ravel()
    edges = np.sort(edges[edges >= lowest])
    below = ndtr((edges[:, None] - m) / s)
    inside = below[1:] - below[:-1]
    middle = (below[1:] + below[:-1]) / 2
    # Products over the other arms, without a division by zero: those before times those after.
    others = np.ones_like(middle)
    np.cumprod(middle[:, :-1], axis=1, out=others[:, 1:])
    others[:, :-1] *= np.cumprod(middle[:, :0:-1], axis=1)[:, ::-1]
    weight = (inside * others).sum(axis=0)
    probabilities[arms] = weight / weight.sum()
    return probabilities


def greatest(value: NDArray[np.float64], eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return probability one for the eligible arm of the greatest value; ties go to the lowest index."""
    probabilities = np.zeros(value.size)
    probabilities[int(np.where(eligible, value, -np.inf).argmax())] = 1.0
    return probabilities


def contrast_variances(
    covariance: NDArray[np.float64], eligible: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the variances of independent numbers whose differences vary like those of correlated ones.

    d minimises the sum over pairs of eligible arms of (Var(f_t - f_s) - d_t - d_s)^2, and is then cut at 0: what all
    arms have in common cancels where they are compared, and must not make them look uncertain. With D_ts that variance,

        d_t = (sum_s D_ts - sum_rs D_rs / (2 (K - 1))) / (K - 2),      D_12 / 2 for two arms, zero for one.

    Args:
        covariance: (n_arms, n_arms) of the arms' utilities.
        eligible: (n_arms,) arms that are compared; all where None.

    Returns:
        (n_arms,) variances, zero where not eligible.
    """
    if eligible is not None and not eligible.all():
        variances = np.zeros(len(covariance))
        variances[eligible] = contrast_variances(covariance[np.ix_(eligible, eligible)])
        return variances
    n_arms, own = len(covariance), covariance.diagonal()
    # Row sums of D, and their sum.
    rows = n_arms * own + own.sum() - 2 * covariance.sum(axis=1)
    if n_arms > 2:
        rows = (rows - rows.sum() / (2 * (n_arms - 1))) / (n_arms - 2)
    elif n_arms == 2:
        rows = rows / 2
    return np.asarray(np.maximum(rows, 0.0))


def explored(
    probabilities: NDArray[np.float64],
    *,
    eligible: NDArray[np.bool_],
    floor: float,
    gap: NDArray[np.float64] | None = None,
    bearable: float = math.inf,
) -> NDArray[np.float64]:
    """Return (1 - floor) p + floor f, f spread over the K eligible arms: evenly, or less to arms far from the best.

        f_t = a_t / sum of a,      a_t = 1 / (1 + gap_t / bearable)

    The floor then costs at most floor x K x bearable / sum of a in utility, however dear an arm is.

    Args:
        probabilities: (n_arms,) p.
        eligible: (n_arms,) arms that may be drawn; at least one.
        floor: In [0, 1).
        gap: (n_arms,) expected utility of the best arm less each arm's own; evenly where None.
        bearable: Gap at which an arm has half of what the best one has of the floor.
    """
    share = eligible.astype(np.float64)
    if gap is not None:
        share /= 1 + np.maximum(gap, 0) / bearable
    return np.where(eligible, (1 - floor) * probabilities + floor * (share / share.sum()), 0.0)


def draw(probabilities: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Draw an arm from exactly these probabilities."""
    cumulative = probabilities.cumsum()
    # Scaled by the last sum, a draw of 0.999... cannot fall past numbers that sum to 1 - 1e-16; the first arm whose
    # sum exceeds it has a positive probability.
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
