"""From labels of several sources to one label a round, in gold units: to learn from, and to evaluate by."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from pointsman.errors import InvalidParameterError, OverlapError, OverlapWarning
from pointsman.fusion.base import Correction, JudgedRounds
from pointsman.fusion.labelling import Labelling, estimate_labelling
from pointsman.nuisance.batches import batches
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.types import PerRound

LEAST_GOLD = 10
"""Gold labels below which nothing is learned of a judge: five folds of two."""

COMMON = 0.5
"""A judge that scored gold rounds at least half as often as the others is calibrated by what it said of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fused:
    """Labels in gold units.

    Attributes:
        quality: (n_rounds,) the label to learn from: gold where it is known, else the expected gold label; NaN where
            nobody judged.
        weight: (n_rounds,) what such a label is worth beside a gold one, in (0, 1]: s / (s + error^2), with s the
            variance of a gold label about its arm's mean and error the standard error of the correction; 1 where the
            method does not say.
        error: (n_rounds,) standard error of the expectation; 0 for a gold label, NaN where the method does not say.
        expected: (n_rounds,) m, the expected gold label by a correction that never saw the round's own; NaN where
            nobody judged and rho is not known.
        pseudo_quality: (n_rounds,) m + R / rho (gold - m), R whether the gold label is known: unbiased for the gold
            label given the round, whatever m is, if rho is right. Not within [0, 1], and never clipped to it.
        labelling: rho, the probability of a gold label, and what is to be thought of it.
        correction: The correction, fitted on all gold labels.
        judges_used: Judges whose own words, not only what was expected of them, m rests on.
    """

    quality: PerRound
    weight: PerRound
    error: PerRound
    expected: PerRound
    pseudo_quality: PerRound
    labelling: Labelling
    correction: Correction
    judges_used: tuple[str, ...]


def fuse(
    rounds: JudgedRounds,
    correction: Correction,
    *,
    gold_propensity: PerRound | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> Fused:
    """Return one label a round in gold units, from a few gold labels and many of biased judges.

    The label to evaluate by is m_i + R_i / rho_i (gold_i - m_i): augmented inverse propensity weighting of the missing
    gold labels. Put in place of a round's quality, every off-policy estimator stays unbiased whatever the judges' bias,
    and its influence function, so its interval, accounts for the correction. m is cross-fitted: a round with a gold
    label, or another of its prompt, is predicted by a correction that saw none of them, the others by the mean over
    folds. m must rest on nothing that tells whether a round has a gold label, so a judge that hardly ever scored gold
    rounds enters by what it is expected to say, learned from the rounds it did score.

    Args:
        rounds: The rounds with their labels.
        correction: How gold is predicted from the judges; cloned, itself left as it is.
        gold_propensity: (n_rounds,) probability with which a gold label was asked for, in (0, 1], where that is known;
            estimated elsewhere (NaN). A round of known probability counts even where nobody judged it.
        n_folds: Folds of the cross-fitting.
        seed: Draws the folds.

    Raises:
        InvalidParameterError: There are fewer than `LEAST_GOLD` gold labels.
        OverlapError: No arm has both kinds of label, or gold labels lie where the judges' do not.

    Warns:
        OverlapWarning: Some arms, or some prompts, have judges' labels but hardly a gold one.
        CalibrationWarning: Known probabilities disagree with how many gold labels there are.

    References:
        Robins, Rotnitzky and Zhao (1994), JASA 89(427): augmented inverse propensity weighting; Angelopoulos, Bates,
        Fannjiang, Jordan and Zrnic (2023), Science 382: prediction-powered inference; Zrnic and Candes (2024), PNAS
        121(15): its cross-fitting; Kallus and Mao (2024), JRSS B: surrogates.
    """
    from threadpoolctl import threadpool_limits

    _check(rounds)
    labelled = rounds.has_gold | rounds.is_judged
    # A round that was asked with a known probability, and of which nobody said anything, is as good as any other.
    counted = labelled if gold_propensity is None else labelled | ~np.isnan(gold_propensity)
    used = _scored_alike(rounds, labelled=counted)
    has_gold = rounds.has_gold
    # Most of the work is on small matrices, for which two threads wait for each other: on a busy machine a million
    # rounds took 26 s with one and 165 s with two.
    with threadpool_limits(limits=1, user_api="blas"):
        rounds.expected  # noqa: B018 - once for all the rounds made from these
        labelling = estimate_labelling(
            _hushed(rounds, used), labelled=counted, gold_propensity=gold_propensity, n_folds=n_folds, seed=seed
        )
        expected = _cross_fitted(_hushed(rounds, used), correction, n_folds=n_folds, seed=seed)
        fitted = clone(correction).fit(rounds)
        corrected = fitted.correct(rounds)
    with np.errstate(invalid="ignore"):
        gap = np.where(has_gold, (rounds.gold - expected) / labelling.probability, 0.0)
    quality = np.where(has_gold, rounds.gold, corrected.quality)
    error = np.where(has_gold, 0.0, corrected.error)
    spread = _spread(rounds)
    return Fused(
        quality=np.where(labelled, quality, np.nan),
        weight=spread / (spread + np.nan_to_num(error, nan=0.0) ** 2),
        error=np.where(labelled, error, np.nan),
        expected=np.where(counted, expected, np.nan),
        pseudo_quality=np.where(counted, expected + gap, np.nan),
        labelling=labelling,
        correction=fitted,
        judges_used=tuple(name for name, use in zip(rounds.judges, used, strict=True) if use),
    )


def _check(rounds: JudgedRounds) -> None:
    has_gold, is_judged = rounds.has_gold, rounds.is_judged
    n_gold = int(has_gold.sum())
    if n_gold < LEAST_GOLD:
        raise InvalidParameterError(
            f"gold must hold at least {LEAST_GOLD} labels to correct a judge by; got {n_gold}: label more rounds"
        )
    if not is_judged.any():
        raise InvalidParameterError("judged must hold at least one label; got none: gold labels need no correction")
    gold_of_arm = np.bincount(rounds.arm[has_gold], minlength=rounds.n_arms)
    judged_of_arm = np.bincount(rounds.arm[is_judged], minlength=rounds.n_arms)
    if not ((gold_of_arm > 0) & (judged_of_arm > 0)).any():
        of_gold = [name for name, n in zip(rounds.arms, gold_of_arm, strict=True) if n]
        of_judges = [name for name, n in zip(rounds.arms, judged_of_arm, strict=True) if n]
        raise OverlapError(
            f"positivity: at least one model must have both gold and judges' labels; gold labels are of {of_gold}, "
            f"judges' of {of_judges}: a bias is the difference of the two, and nothing here shows it. Have answers of "
            "the judged models gold-labelled, best at random"
        )
    silent = [name for name, g, j in zip(rounds.arms, gold_of_arm, judged_of_arm, strict=True) if j > 0 and g == 0]
    if silent:
        warnings.warn(
            f"no gold label of {', '.join(silent)}: the judges' bias there is taken to be like that of the other "
            "models; have some of their answers gold-labelled",
            OverlapWarning,
            stacklevel=3,
        )


def _scored_alike(rounds: JudgedRounds, *, labelled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the judges that scored gold rounds about as often as others, whose very words may be used."""
    said, has_gold = ~np.isnan(rounds.judged), rounds.has_gold
    others = labelled & ~has_gold
    among_gold, among_others = said[has_gold].mean(axis=0), said[others].mean(axis=0) if others.any() else 0.0
    enough = said[has_gold].sum(axis=0) >= LEAST_GOLD
    return np.asarray(enough & (among_gold >= COMMON * among_others))


def _hushed(rounds: JudgedRounds, used: NDArray[np.bool_]) -> JudgedRounds:
    """Return the rounds with the words of the other judges hidden, but not what is expected of them."""
    return rounds.with_judged(np.where(used, rounds.judged, np.nan))


def _cross_fitted(rounds: JudgedRounds, correction: Correction, *, n_folds: int, seed: int) -> PerRound:
    has_gold = rounds.has_gold
    rows = np.flatnonzero(has_gold)
    n_folds = min(n_folds, np.unique(rounds.group[rows]).size)
    if n_folds < 2:
        raise InvalidParameterError("gold must hold labels of at least two prompts; got one: have more labelled")
    prompts, prompt = np.unique(rounds.group, return_inverse=True)
    fold_of_prompt = np.full(prompts.size, -1)
    fold_of_prompt[prompt[rows]] = assign_folds(rows.size, n_folds=n_folds, seed=seed, groups=rounds.group[rows])
    # Rounds without a gold label whose prompt has one elsewhere are predicted as those with one are, by a correction
    # that saw none of it: were m closer to gold where a label lacks than where there is one, the gap would not answer.
    fold = fold_of_prompt[prompt]
    others = np.flatnonzero(fold < 0)
    expected = np.zeros(rounds.n_rounds)
    for k in range(n_folds):
        fitted = clone(correction).fit(rounds.without_gold(fold == k))
        mine = np.flatnonzero(fold == k)
        expected[mine] = _predicted(fitted, rounds, mine)
        expected[others] += _predicted(fitted, rounds, others) / n_folds
    return expected


def _predicted(fitted: Correction, rounds: JudgedRounds, rows: NDArray[np.int64]) -> PerRound:
    """Return the expected gold labels of these rounds, without a copy of all of them."""
    predicted = np.empty(rows.size)
    for some in batches(np.arange(rows.size), n_features=rounds.context.shape[1]):
        predicted[some] = fitted.predict(rounds.take(rows[some]))
    return predicted


def _spread(rounds: JudgedRounds) -> float:
    """Return the variance of a gold label about its arm's mean."""
    gold, arm = rounds.gold[rounds.has_gold], rounds.arm[rounds.has_gold]
    count = np.bincount(arm, minlength=rounds.n_arms)
    mean = np.bincount(arm, weights=gold, minlength=rounds.n_arms) / np.maximum(count, 1)
    return max(float(((gold - mean[arm]) ** 2).mean()), 1e-6)
