"""Which rounds to have gold-labelled next, and what that would buy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError
from pointsman.fusion.base import JudgedRounds
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.types import ArmIndex, Eligible, PerArm, PerRound

SHORTLIST = 1_000
"""Candidates compared anew after every choice; the others, less promising, after every fifth of the choices."""

N_RANDOM = 8
"""Random batches whose mean gain stands for labelling at random."""

MAX_JUDGE_ROUNDS = 50_000
"""Rounds by which is learned what the judges would say of the other arms' answers."""


class LinearPosterior(Protocol):
    """What a fitted regression knows of its coefficients."""

    covariance_: NDArray[np.float64]


class LinearCorrection(Protocol):
    """A fitted correction in which gold labels are linear in coefficients with a normal posterior: `Hierarchical`."""

    regression_: LinearPosterior

    def design(self, rounds: JudgedRounds) -> tuple[NDArray[np.float64], PerRound]:
        """Return the row of each round in the regression, and the variance of its gold label about it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """Candidates in the order in which to label them.

    Attributes:
        candidate: (n_chosen,) index of each.
        gain: (n_chosen,) expected reduction of the regret of a decision by each, given those before, in quality points.
        covariance: (n_columns, n_columns) posterior covariance once all are labelled.
    """

    candidate: NDArray[np.int64]
    gain: PerRound
    covariance: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class NextLabels:
    """Rounds to have gold-labelled next.

    Attributes:
        row: (n_next,) rounds, in order; none has a gold label.
        gain: (n_next,) expected reduction of the regret of a decision by each, given those before, in quality points.
        best: (n_next,) with `runner_up`, the two arms between which the label helps most to decide.
        runner_up: (n_next,) the other.
        random_gain: Expected reduction by as many rounds drawn at random.
        n_prompts: Prompts over which the regret is a mean.
        n_candidates: Rounds that were compared.
    """

    row: NDArray[np.int64]
    gain: PerRound
    best: ArmIndex
    runner_up: ArmIndex
    random_gain: float
    n_prompts: int
    n_candidates: int

    @property
    def total_gain(self) -> float:
        """Expected reduction of the regret of a decision by all of them, in quality points."""
        return float(self.gain.sum())


def regret_reduction(gap: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much a change in what is believed of two arms' gap is expected to lower the regret of a decision.

        s (phi(u) - u Phi(-u)),   u = |gap| / s

    is E[max(gap + s Z, 0)] - max(gap, 0) for standard normal Z: now the better arm is taken, later the one that is
    then believed to be better.

    Args:
        gap: Expected difference of the two arms, in quality points.
        deviation: s, standard deviation of the change of that expectation, >= 0.

    References:
        Frazier, Powell and Dayanik (2009), INFORMS Journal on Computing 21(4): the knowledge gradient for correlated
        normal beliefs; two arms are its closed form.
    """
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        u = abs(gap) / deviation
        reduction = deviation * (np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi) - u * ndtr(-u))
    return np.where(deviation > 0, np.maximum(reduction, 0.0), 0.0)


def choose_labels(
    *,
    gap: NDArray[np.float64],
    contrast: NDArray[np.float64],
    candidates: NDArray[np.float64],
    noise: NDArray[np.float64],
    covariance: NDArray[np.float64],
    n_next: int,
) -> Chosen:
    """Return the candidates whose labels are expected to lower the regret of decisions most, one after the other.

    Coefficients w are normal with this covariance; a candidate's label is row . w plus noise, and a decision turns on
    gap + contrast . (w - E w). Labels of a set S explain v_S of the variance of a decision's gap, so its regret falls
    by `regret_reduction(gap, sqrt(v_S))`, whatever the labels will say; the next candidate is the one that makes
    the mean of that over decisions largest. Its label then takes S' = S - (S r)(S r)' / (r' S r + noise) of the
    covariance S.

    Args:
        gap: (n_decisions,) expected difference of the best two arms, in quality points.
        contrast: (n_decisions, n_columns) row of the one minus row of the other.
        candidates: (n_candidates, n_columns) rows.
        noise: (n_candidates,) variance of a label about its expectation given w, > 0.
        covariance: (n_columns, n_columns) of w.
        n_next: How many to choose; all candidates where there are fewer.

    References:
        Frazier, Powell and Dayanik (2009), INFORMS Journal on Computing 21(4), one label; that a batch is chosen by
        what all its labels explain together is this package's own.
    """
    remaining = np.array(covariance, dtype=np.float64)
    n_next = min(n_next, len(candidates))
    explained = np.zeros(gap.size)
    before = 0.0
    open_ = np.ones(len(candidates), dtype=np.bool_)
    order, gains = np.empty(n_next, dtype=np.int64), np.empty(n_next)
    shortlist = np.empty(0, dtype=np.int64)

    def covers(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how much more of each decision's variance each of these labels would explain."""
        spread = candidates[rows] @ remaining
        total = np.einsum("ij,ij->i", spread, candidates[rows]) + noise[rows]
        return np.asarray((contrast @ spread.T) ** 2 / total)

    def mean_reduction(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        deviation = np.sqrt(explained[:, None] + covers(rows))
        return np.asarray(regret_reduction(gap[:, None], deviation).mean(axis=0))

    for k in range(n_next):
        if k % max(n_next // 5, 1) == 0 or not open_[shortlist].any():
            left = np.flatnonzero(open_)
            shortlist = left[np.argsort(-mean_reduction(left), kind="stable")[:SHORTLIST]]
        rows = shortlist[open_[shortlist]]
        reduction = mean_reduction(rows)
        best = int(np.argmax(reduction))
        order[k], gains[k] = rows[best], reduction[best] - before
        before = reduction[best]
        open_[order[k]] = False
        explained += covers(order[k : k + 1])[:, 0]
        row = candidates[order[k]]
        spread = remaining @ row
        remaining -= np.outer(spread, spread) / (row @ spread + noise[order[k]])
    return Chosen(candidate=order, gain=gains, covariance=remaining)


def next_labels(
    rounds: JudgedRounds,
    correction: LinearCorrection,
    *,
    predicted: PerArm,
    utility_offset: PerArm | NDArray[np.float64] | None = None,
    eligible: Eligible | None = None,
    n_next: int = 20,
    n_prompts: int = 500,
    n_candidates: int = 10_000,
    seed: int = 0,
) -> NextLabels:
    """Return the rounds whose gold labels are expected to lower the regret of routing most.

    For a sample of prompts the two arms of highest expected utility are a decision, in doubt as far as the correction
    of the judges is: what the judges would say of either arm's answer is expected from what they said elsewhere, and
    the correction's posterior says how far the two corrections may be off together. Doubt about what the judges would
    say, and about third arms, is left aside: other labels than gold settle the one, and the other is small.

    Args:
        rounds: The rounds with their labels, at least two arms.
        correction: Fitted on them.
        predicted: (n_rounds, n_arms) expected gold label of every arm, best out of fold, in quality points.
        utility_offset: (n_arms,) or (n_rounds, n_arms), what is added to it for the decision: minus lambda times cost.
        eligible: (n_rounds, n_arms) arms that can be chosen; all where None.
        n_next: How many rounds to choose.
        n_prompts: Prompts to average over, drawn at random.
        n_candidates: Rounds to choose among, drawn at random where more lack a gold label.
        seed: Draws both.

    Raises:
        InvalidParameterError: There is one arm only, every round has a gold label, or a shape is wrong.

    References:
        Frazier, Powell and Dayanik (2009), INFORMS Journal on Computing 21(4); Settles (2009), Active Learning
        Literature Survey, University of Wisconsin-Madison 1648.
    """
    shape = (rounds.n_rounds, rounds.n_arms)
    if rounds.n_arms < 2:
        raise InvalidParameterError("rounds must hold at least two arms for a label to decide between; got one")
    if predicted.shape != shape or (eligible is not None and eligible.shape != shape):
        raise InvalidParameterError(f"predicted and eligible must have shape {shape}; got {predicted.shape}")
    unlabelled = np.flatnonzero(~rounds.has_gold)
    if unlabelled.size == 0 or n_next < 1:
        raise InvalidParameterError(
            f"at least one round must lack a gold label, and n_next be at least 1; got {unlabelled.size} and {n_next}"
        )
    rng = np.random.default_rng(seed)
    utility = predicted + (0.0 if utility_offset is None else utility_offset)
    if eligible is not None:
        utility = np.where(eligible, utility, -np.inf)
    decidable = np.flatnonzero(np.isfinite(utility).sum(axis=1) > 1)
    prompts = _some(decidable, n_prompts, rng=rng)
    ranked = np.argsort(-utility[prompts], axis=1, kind="stable")[:, :2]
    place = np.arange(prompts.size)[:, None]
    gap = utility[prompts[:, None], ranked] @ [1.0, -1.0]

    expected = _expected_of_judges(rounds, prompts, rng=rng)
    sides = [
        correction.design(_answered_by(rounds, prompts, ranked[:, side], expected[place[:, 0], ranked[:, side]]))[0]
        for side in (0, 1)
    ]
    rows = _some(unlabelled, n_candidates, rng=rng)
    candidates, noise = correction.design(rounds.take(rows))
    contrast, covariance = sides[0] - sides[1], correction.regression_.covariance_
    chosen = choose_labels(
        gap=gap, contrast=contrast, candidates=candidates, noise=noise, covariance=covariance, n_next=n_next
    )
    at = chosen.candidate
    covers = (contrast @ covariance @ candidates[at].T) ** 2
    total = np.einsum("ij,jk,ik->i", candidates[at], covariance, candidates[at]) + noise[at]
    best, runner_up = _tells_apart(regret_reduction(gap[:, None], np.sqrt(covers / total)), ranked)
    random = [
        _gain_of(
            rng.choice(rows.size, size=at.size, replace=False),
            gap=gap,
            contrast=contrast,
            candidates=candidates,
            noise=noise,
            covariance=covariance,
        )
        for _ in range(N_RANDOM)
    ]
    return NextLabels(
        row=rows[at],
        gain=chosen.gain,
        best=best,
        runner_up=runner_up,
        random_gain=float(np.mean(random)),
        n_prompts=prompts.size,
        n_candidates=rows.size,
    )


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """What more gold labels do to the interval of a mean gold label.

    Attributes:
        standard_error: Now.
        later: Expected with `n_more` gold labels more.
    """

    standard_error: float
    later: float


def expected_narrowing(
    *, expected: PerRound, gold: PerRound, probability: PerRound, group: NDArray[np.int64], n_more: int, n_gold: int
) -> Narrowing:
    """Return the standard error of a mean gold label over some rounds, now and with more gold labels.

    The mean of m + R / rho (gold - m) over N rounds has the variance (var gold + E[(1 / rho - 1) (gold - m)^2]) / N.
    More labels, drawn as those before, raise rho to min(rho (1 + n_more / n_gold), 1) and leave the rest: nothing is
    gained by a better m, so this errs on the careful side.

    Args:
        expected: (n_rounds,) m, the expected gold label, out of fold.
        gold: (n_rounds,) the gold label; NaN where there is none.
        probability: (n_rounds,) rho, in (0, 1].
        group: (n_rounds,) label of the prompt: what rounds of one prompt contribute is summed first.
        n_more: Gold labels to come, over all arms.
        n_gold: Gold labels there are, over all arms.

    References:
        Robins, Rotnitzky and Zhao (1994), JASA 89(427): the variance.
    """
    has_gold = ~np.isnan(gold)
    inverse = np.where(has_gold, 1 / probability, 0.0)
    gap = np.where(has_gold, gold - expected, 0.0)
    total = inverse.sum()
    offset = float(inverse @ gap) / total if total > 0 else 0.0
    influence = expected - expected.mean() + inverse * (gap - offset)
    sums = np.bincount(np.unique(group, return_inverse=True)[1], weights=influence)
    variance = float(sums @ sums) / gold.size**2
    later = np.minimum(probability * (1 + n_more / n_gold), 1.0)
    saved = float(inverse @ ((1 / probability - 1 / later) * (gap - offset) ** 2)) / gold.size**2
    # No part of a variance falls faster than with the number of labels.
    least = variance * n_gold / (n_gold + n_more)
    return Narrowing(standard_error=math.sqrt(variance), later=math.sqrt(max(variance - saved, least)))


def _some(rows: NDArray[np.int64], n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if rows.size <= n else np.sort(rng.choice(rows, size=n, replace=False))


def _expected_of_judges(
    rounds: JudgedRounds, prompts: NDArray[np.int64], *, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return what each judge would be expected to say of every arm's answer, (n_prompts, n_arms, n_judges)."""
    expected = np.empty((prompts.size, rounds.n_arms, rounds.n_judges))
    for j in range(rounds.n_judges):
        said = _some(np.flatnonzero(~np.isnan(rounds.judged[:, j])), MAX_JUDGE_ROUNDS, rng=rng)
        if said.size < 2:
            expected[:, :, j] = rounds.expected[prompts, j, None]
            continue
        model = PerArmRidge().fit(
            rounds.context[said], rounds.judged[said, j], arm=rounds.arm[said], n_arms=rounds.n_arms
        )
        expected[:, :, j] = np.clip(model.predict(rounds.context[prompts]), 0, 1)
    return expected


def _answered_by(
    rounds: JudgedRounds, prompts: NDArray[np.int64], arm: ArmIndex, expected: NDArray[np.float64]
) -> JudgedRounds:
    """Return the prompts as rounds in which these arms answered and no judge has spoken yet."""
    some = rounds.take(prompts)
    silent = replace(some, arm=arm, judged=np.full_like(some.judged, np.nan), gold=np.full(prompts.size, np.nan))
    return silent._expecting(expected)


def _tells_apart(reduction: NDArray[np.float64], ranked: NDArray[np.int64]) -> tuple[ArmIndex, ArmIndex]:
    """Return the pair of arms between which each label lowers the regret most; (n_prompts, n_labels)."""
    # In either order: which of the two is ahead differs by prompt.
    pairs, code = np.unique(np.sort(ranked, axis=1), axis=0, return_inverse=True)
    share = np.stack([np.bincount(code.ravel(), weights=each, minlength=len(pairs)) for each in reduction.T])
    of_label = pairs[np.argmax(share, axis=1)]
    return of_label[:, 0], of_label[:, 1]


def _gain_of(
    rows: NDArray[np.int64],
    *,
    gap: NDArray[np.float64],
    contrast: NDArray[np.float64],
    candidates: NDArray[np.float64],
    noise: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> float:
    """Return the expected reduction of regret by the labels of these candidates together."""
    from scipy.linalg import cho_factor, cho_solve

    spread = candidates[rows] @ covariance
    joint = spread @ candidates[rows].T + np.diag(noise[rows])
    across = contrast @ spread.T
    explained = np.einsum("ij,ji->i", across, cho_solve(cho_factor(joint), across.T))
    return float(regret_reduction(gap, np.sqrt(np.maximum(explained, 0.0))).mean())
