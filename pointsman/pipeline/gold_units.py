"""From a log and its labels to qualities in gold units: what `fit`, `evaluate` and `fuse` share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from pointsman.errors import LabelWarning
from pointsman.fusion import LEAST_GOLD, Fused, JudgedRounds, fuse, make_correction
from pointsman.logs import LabelMatrix, LoggedRounds
from pointsman.pipeline.rounds import few_threads, prompt_groups
from pointsman.types import Context, PerRound, State

GOLD = "gold"
"""The source whose labels are the truth asked for, where none is named."""

CORRECTION = "hierarchical"
"""The correction where none is named."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldUnits:
    """The qualities of a log's rounds, in gold units where its labels allow.

    Attributes:
        quality: (n_rounds,) the label to learn from, in [0, 1]; NaN until known.
        weight: (n_rounds,) what it is worth beside a gold label, in (0, 1]; None where all are worth the same.
        pseudo_quality: (n_rounds,) the label to evaluate by: the same, but unbiased for gold where it was corrected.
        fused: How judges' labels were brought to gold units; None where they were not.
        rounds: The rounds as the correction saw them; None likewise.
        notes: `quality_sources`, `n_gold`, `n_judged` and `correction`, the name or None.
    """

    quality: PerRound
    weight: PerRound | None
    pseudo_quality: PerRound
    fused: Fused | None
    rounds: JudgedRounds | None
    notes: State


def in_gold_units(
    log: LoggedRounds,
    labels: LabelMatrix,
    context: Context,
    *,
    gold: str,
    correction: str = CORRECTION,
    n_folds: int,
    seed: int,
    stacklevel: int = 3,
) -> GoldUnits:
    """Return the qualities of a log in gold units: judges' labels corrected by the gold ones, if there are any.

    Without gold labels, or with fewer than `LEAST_GOLD`, the mean of what was said stands, with a warning.

    Args:
        log: The rounds.
        labels: What every source said of them.
        context: Their features.
        gold: Name of the gold source.
        correction: A key of `fusion.CORRECTIONS`.
        n_folds: Folds of the cross-fitting.
        seed: Draws the folds.
        stacklevel: Of the warnings.

    Raises:
        OverlapError: The gold labels lie where the judges' do not.

    Warns:
        LabelWarning: Results are in a judge's units.
        OverlapWarning: Some arms or prompts have hardly a gold label.
    """
    n_judged = {name: int((~np.isnan(labels.judged[:, j])).sum()) for j, name in enumerate(labels.judges)}
    judges = [name for name, n in n_judged.items() if n]
    notes: State = {
        "quality_sources": sorted([*judges, *([gold] if labels.n_gold else [])]),
        "n_gold": labels.n_gold,
        "n_judged": n_judged,
        "correction": None,
    }
    if judges and labels.n_gold >= LEAST_GOLD:
        rounds = judged_rounds(log, labels, context)
        with few_threads(log.n_rounds):
            fused = fuse(
                rounds,
                make_correction(correction),
                gold_propensity=labels.gold_propensity,
                n_folds=n_folds,
                seed=seed,
            )
        return GoldUnits(
            quality=fused.quality,
            weight=fused.weight,
            pseudo_quality=fused.pseudo_quality,
            fused=fused,
            rounds=rounds,
            notes=notes | {"correction": correction},
        )
    if judges:
        warnings.warn(in_judges_units(judges, n_gold=labels.n_gold, gold=gold), LabelWarning, stacklevel=stacklevel)
    said = (~np.isnan(labels.judged)).sum(axis=1)
    total = np.nansum(labels.judged, axis=1)
    of_judges = np.divide(total, said, out=np.full(log.n_rounds, np.nan), where=said > 0)
    quality = np.where(np.isnan(labels.gold), of_judges, labels.gold)
    return GoldUnits(
        quality=quality,
        weight=None,
        pseudo_quality=quality,
        fused=None,
        rounds=None,
        notes=notes,
    )


def judged_rounds(log: LoggedRounds, labels: LabelMatrix, context: Context) -> JudgedRounds:
    """Return the rounds as a correction sees them; judges that said nothing are left out."""
    spoke = np.atleast_1d((~np.isnan(labels.judged)).any(axis=0))
    return JudgedRounds(
        context=context,
        arm=log.arm,
        judged=labels.judged[:, spoke],
        gold=labels.gold,
        group=prompt_groups(log),
        arms=log.arms.names,
        judges=[name for name, has in zip(labels.judges, spoke, strict=True) if has],
    )


def in_judges_units(judges: list[str], *, n_gold: int, gold: str) -> str:
    """Return what to say of qualities that no gold label corrects."""
    who = f"by {judges[0]}" if len(judges) == 1 else f"by {', '.join(judges)}, whose labels are averaged"
    if n_gold == 0:
        return (
            f"quality was judged {who}, and no label is of source {gold!r}: every result is in the judge's units, and "
            f"so are its biases; have at least {LEAST_GOLD} answers of every model gold-labelled"
        )
    return (
        f"quality was judged {who}, and {n_gold} gold labels are too few to correct that by, {LEAST_GOLD} are needed: "
        "results are in the judge's units; have more gold-labelled"
    )
