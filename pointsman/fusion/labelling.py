"""Which rounds were given a gold label: the probability of it, known or estimated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import CalibrationWarning, InvalidParameterError, OverlapError, OverlapWarning
from pointsman.fusion.base import JudgedRounds
from pointsman.nuisance.cross_fit import assign_folds
from pointsman.types import PerRound, State

LEAST_COVERED = 0.5
"""Share of the rounds that the gold labels, each weighing one over its probability, must at least stand for."""

TRIM = 0.1
"""A round whose probability of a gold label is under this share of the average is taken to have this much."""

TOLD_SHARE = 0.01
"""Share of rounds so raised from which it is said aloud."""

ASTRAY_Z = 3.29
"""Standard errors by which what the gold labels stand for may miss the rounds, where their probabilities are known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelling:
    """The probability of a gold label.

    Attributes:
        probability: (n_rounds,) rho, in (0, 1]; 1 over its mean over gold rounds is the share of gold labels.
        kind: `known`, `estimated`, or `both`.
        n_gold: Gold labels.
        share: Gold labels over labelled rounds.
        covered: Mean of R / rho before it was scaled to one: 1 where gold labels lie all over, 0 where they lie apart.
        trimmed_share: Share of rounds raised to the least probability.
    """

    probability: PerRound
    kind: str
    n_gold: int
    share: float
    covered: float
    trimmed_share: float

    @property
    def summary(self) -> State:
        """What to say of it: `kind, share, covered, trimmed_share`, and `smallest`, the least probability."""
        return {
            "kind": self.kind,
            "share": self.share,
            "covered": self.covered,
            "trimmed_share": self.trimmed_share,
            "smallest": float(self.probability.min()),
        }


def estimate_labelling(
    rounds: JudgedRounds,
    *,
    labelled: NDArray[np.bool_],
    gold_propensity: PerRound | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> Labelling:
    """Return the probability with which each round was given a gold label.

    rho(x, t, o) = P(gold label | prompt, arm, what the judges said). Where it is not known, it is a cross-fitted and
    calibrated logit of leading components of the context, the arm and the judges' labels (`PropensityModel`), whose
    prior leaves it the share of gold labels where they were drawn at random. It is then scaled so that R / rho averages
    one (Hajek), and never under a tenth of the average.

    Args:
        rounds: The rounds with their labels.
        labelled: Rounds that somebody judged; the others do not count.
        gold_propensity: Probabilities that are known; NaN where not. Where they are known of all rounds with a gold
            label nothing is estimated: those of the others are of no effect, and are taken to be the share.
        n_folds: Folds of the cross-fitting.
        seed: Draws the folds.

    Raises:
        InvalidParameterError: A known probability lies outside (0, 1].
        OverlapError: Gold labels stand for less than half of the rounds: they lie where the judges' do not.

    Warns:
        OverlapWarning: Rounds with next to no probability of a gold label were raised.
        CalibrationWarning: Known probabilities disagree with how many gold labels there are.
    """
    has_gold = rounds.has_gold
    n_labelled, n_gold = int(labelled.sum()), int(has_gold.sum())
    share = n_gold / n_labelled
    known = np.full(rounds.n_rounds, np.nan) if gold_propensity is None else np.array(gold_propensity, dtype=np.float64)
    outside = ~np.isnan(known) & ~((known > 0) & (known <= 1))
    if outside.any():
        raise InvalidParameterError(
            f"gold_propensity must be in (0, 1]; got {known[outside][0]}; leave it out where it is not known"
        )
    asked = np.isnan(known) & labelled
    probability = known
    covered = 1.0
    if not (asked & has_gold).any():
        probability[asked] = share
        asked = np.zeros_like(asked)
    if asked.any():
        # Known of rounds with a gold label alone, they say who was asked: without these the others are no sample.
        rows = np.flatnonzero(asked if (~np.isnan(known) & labelled & ~has_gold).any() else labelled)
        some = rounds if rows.size == rounds.n_rounds else rounds.take(rows)
        estimated = _estimated(some, n_folds=n_folds, seed=seed)
        covered = float((has_gold[rows] / estimated).mean())
        if covered < LEAST_COVERED:
            raise OverlapError(
                f"positivity: gold labels must lie among the same prompts as the judges'; those there are stand for "
                f"{covered:.0%} of the rounds: what is asked, which model answered or what the judges said all but "
                "tells which rounds have a gold label, so the judges' bias on the others cannot be known. Have rounds "
                "gold-labelled at random, or at known probabilities (column gold_propensity)"
            )
        estimated = np.clip(estimated * covered, None, 1.0)
        probability[rows] = np.where(asked[rows], estimated, probability[rows])
    probability[~labelled] = 1.0
    least = TRIM * share
    low = asked & (probability < least)
    probability = np.where(low, least, probability)
    trimmed = float(low.sum()) / n_labelled
    if trimmed > TOLD_SHARE:
        warnings.warn(
            f"{trimmed:.1%} of rounds had next to no chance of a gold label (under {least:.2g}): there the judges' "
            "bias is extrapolated from others; have some of them gold-labelled",
            OverlapWarning,
            stacklevel=3,
        )
    if not asked[labelled].all():
        _check_known(probability[labelled], has_gold=has_gold[labelled])
    return Labelling(
        probability=probability,
        kind="estimated" if asked[labelled].all() else "both" if asked.any() else "known",
        n_gold=n_gold,
        share=share,
        covered=covered,
        trimmed_share=trimmed,
    )


def _check_known(probability: PerRound, *, has_gold: NDArray[np.bool_]) -> None:
    stands_for = float((has_gold / probability).mean())
    # Under right probabilities R / rho has variance 1 / rho - 1 about one.
    standard_error = float(np.sqrt((1 / probability - 1).mean() / probability.size))
    if abs(stands_for - 1) > ASTRAY_Z * standard_error + 1e-9:
        warnings.warn(
            f"gold labels, each over its known probability, stand for {stands_for:.0%} of the labelled rounds, further "
            "from 100% than chance explains: gold_propensity must be the probability of a gold label among rounds that "
            "somebody judged; correct it, or leave it out to have it estimated",
            CalibrationWarning,
            stacklevel=4,
        )


def _estimated(rounds: JudgedRounds, *, n_folds: int, seed: int) -> PerRound:
    """Return the out-of-fold probability of a gold label."""
    from pointsman.nuisance.propensity import PropensityModel, estimate_propensities

    has_gold = rounds.has_gold
    n_gold = int(has_gold.sum())
    groups = np.unique(rounds.group).size
    if min(n_gold, rounds.n_rounds - n_gold) < 2 * n_folds or groups < n_folds:
        return np.full(rounds.n_rounds, max(n_gold, 1) / rounds.n_rounds)
    said = ~np.isnan(rounds.judged)
    parts = [
        rounds.context,
        rounds.arm[:, None] == np.arange(rounds.n_arms),
        np.where(said, rounds.judged, rounds.expected),
        said,
    ]
    features = np.empty((rounds.n_rounds, sum(part.shape[1] for part in parts)), dtype=np.float32)
    np.concatenate(parts, axis=1, out=features, casting="same_kind")
    with warnings.catch_warnings():
        # That the labelling is no logit is told by `covered` and the trimming, in words about labels.
        warnings.simplefilter("ignore")
        estimate = estimate_propensities(
            context=features,
            arm=has_gold.astype(np.int64),
            n_arms=2,
            fold=assign_folds(rounds.n_rounds, n_folds=n_folds, seed=seed, groups=rounds.group),
            model=PropensityModel(floor=min(1e-3, 0.1 * n_gold / rounds.n_rounds)),
        )
    return np.asarray(estimate.probabilities[:, 1])
