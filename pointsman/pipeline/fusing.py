"""What the judges of a log are worth, its labels in gold units, and what to have gold-labelled next."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointsman._version import __version__
from pointsman.encode.base import Encoder
from pointsman.errors import InvalidParameterError
from pointsman.fusion import Fused, JudgedRounds, make_correction
from pointsman.fusion.acquisition import NextLabels, expected_narrowing, next_labels
from pointsman.fusion.bias import agreements, calibration_curves, judge_biases, judge_worth
from pointsman.fusion.gain import AREA_SHARES, efficiency_gain
from pointsman.fusion.hierarchical import Hierarchical
from pointsman.logs import Labels, LoggedRounds, Preferences, label_matrix, write_table
from pointsman.logs.columns import FLAG, FLOAT, LABEL_COLUMNS, TEXT
from pointsman.logs.files import FilePath
from pointsman.nuisance.cross_fit import assign_folds, cross_fit_outcomes
from pointsman.nuisance.ridge import PerArmRidge
from pointsman.pipeline.evaluation.result import collected_warnings
from pointsman.pipeline.gold_units import CORRECTION, GOLD, GoldUnits, in_gold_units
from pointsman.pipeline.rounds import encoder_for, few_threads, json_ready, known_mean, make_context, slice_labels
from pointsman.pipeline.votes import with_votes
from pointsman.scores import make_scores
from pointsman.types import Context, PerArm, PerRound, State

if TYPE_CHECKING:
    import pyarrow as pa

N_MORE = 100
"""Gold labels more, of which is said what they would buy."""

GAIN_POINTS = 41
"""Shares of traffic at which the gain curve of two models is told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedLabels:
    """One label a round, in gold units; rounds that nobody judged are left out.

    Attributes:
        round_id: The rounds.
        quality: (n_labels,) gold where it is known, else the expected gold label, in [0, 1].
        error: (n_labels,) standard error of that expectation; 0 for a gold label, NaN where the correction says none.
        n_sources: (n_labels,) sources that judged the round.
        has_gold: (n_labels,) whether gold is known.
    """

    round_id: Sequence[str]
    quality: PerRound
    error: PerRound
    n_sources: NDArray[np.int64]
    has_gold: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.round_id)

    def table(self) -> pa.Table:
        """Return them as labels of source "fused", with their errors."""
        import pyarrow as pa

        return pa.table(
            {
                "round_id": pa.array(self.round_id, TEXT),
                "quality": pa.array(self.quality, FLOAT),
                "quality_source": pa.array(["fused"] * len(self), TEXT),
                "error": pa.array(self.error, FLOAT, mask=np.isnan(self.error)),
                "n_sources": pa.array(self.n_sources),
                "has_gold": pa.array(self.has_gold, FLAG),
            }
        )

    def write(self, path: FilePath) -> None:
        """Write them to a .parquet, .jsonl or .csv file that `read_labels` reads, whole or not at all.

        Raises:
            InvalidLogError: The suffix names no format, or the folder does not exist.
        """
        write_table(self.table(), path, types=LABEL_COLUMNS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fusion:
    """What the judges of a log are worth, and its labels in gold units. Every list holds JSON-ready rows.

    Qualities, biases and regrets are in quality points, in [0, 1] or differences of such.

    Attributes:
        headline: `kind` (gamed, biased, agrees, no-gold or gold-only) and the finding in a `sentence`.
        bias: Each judge's bias overall, by arm and by slice (`fusion.bias.Bias`).
        agreement: Each judge's agreement with gold (`fusion.bias.Agreement`).
        calibration: Mean gold label of what each judge scored alike (`fusion.bias.CalibrationBin`).
        worth: What each judge's labels replace, and at what price (`fusion.bias.Worth`).
        coverage: Gold and judges' labels by model, and what is to be thought of who was asked for gold.
        next_rounds: Rounds to have gold-labelled next, in order, with reasons.
        more: What `n_more` gold labels more would buy: `regret_reduction` if chosen, `random_regret_reduction` if
            drawn, and `rows`, standard errors of mean gold labels now and later.
        gain: Gain of a two-model router over random routing, by share of traffic to the strong model; or None.
        labels: The fused labels.
        warnings: Every doubt, in words.
        judges: Names of the judges.
        gold: Name of the gold source.
        correction: How the judges' labels were corrected; None where they could not be.
        level: Coverage of the intervals.
        source: The log, as errors name it.
    """

    headline: State
    labels: FusedLabels
    coverage: State
    bias: list[State] = field(default_factory=list)
    agreement: list[State] = field(default_factory=list)
    calibration: list[State] = field(default_factory=list)
    worth: list[State] = field(default_factory=list)
    next_rounds: list[State] = field(default_factory=list)
    more: State | None = None
    gain: State | None = None
    warnings: list[str] = field(default_factory=list)
    judges: list[str] = field(default_factory=list)
    gold: str = GOLD
    correction: str | None = None
    level: float = 0.95
    source: str = "log"

    def to_dict(self) -> State:
        """Return JSON-ready values, null for NaN and "inf" for infinity; of the fused labels only how many."""
        values = {each.name: json_ready(getattr(self, each.name)) for each in fields(self) if each.name != "labels"}
        known = self.labels.quality
        return values | {"n_labels": len(self.labels), "mean_quality": float(known.mean()) if known.size else None}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_html(self, path: Path | str | None = None) -> str:
        """Return all this as one self-contained page, and write it where a path is given."""
        from pointsman.report import render_fusion, write_fusion

        page = self.to_dict() | {
            "title": "Labels of " + (", ".join(self.judges) or self.gold),
            "created": date.today().isoformat(),
            "pointsman_version": __version__,
            "log": self.source,
        }
        if path is not None:
            write_fusion(page, Path(path))
        return render_fusion(page)


def fuse_labels(
    log: LoggedRounds,
    labels: Labels | None = None,
    *,
    gold: str = GOLD,
    correction: str = CORRECTION,
    slices: Sequence[str] = ("task",),
    preferences: Preferences | None = None,
    n_next: int = 20,
    price_usd: Mapping[str, float] | None = None,
    two_models: tuple[str, str] | None = None,
    quality_per_usd: float = 0.0,
    encoder: Encoder | None = None,
    level: float = 0.95,
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Fusion:
    """Return what a log's judges are worth beside its gold labels, its labels in gold units, and what to label next.

    Args:
        log: The rounds. Their own `quality`, by `quality_source`, are labels as well.
        labels: More labels of them, of any sources.
        gold: The source whose labels are the truth asked for; all others are judges.
        correction: How judges' labels are corrected: a key of `fusion.CORRECTIONS`.
        slices: Columns of the log to tell biases by; one the log does not have is passed over.
        preferences: Pairwise votes on models of the log: each source becomes one more judge, by its win rates.
        n_next: Rounds to name for the next gold labels.
        price_usd: Price of one label of each source, in USD.
        two_models: The weak and the strong model whose gain curve is wanted; by default those of a log of two models,
            the dearer one the strong one.
        quality_per_usd: The trade-off at which gold labels shall help to decide, in quality points per USD.
        encoder: Turns prompts into context; the default where None.
        level: Coverage of the intervals, in (0, 1).
        n_folds: Folds of the cross-fitting.
        seed: Draws folds and samples.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        OverlapError: The gold labels lie where the judges' do not.
        InvalidLogError: Labels or votes are of no round or model of the log.
        InvalidParameterError: An argument breaks its rule.

    Warns:
        LabelWarning: There is no gold, or too little: the labels are in a judge's units.
        OverlapWarning: Some arms or prompts have hardly a gold label.
    """
    if not 0 < level < 1:
        raise InvalidParameterError(f"level must be in (0, 1), such as 0.95; got {level}")
    if n_next < 0:
        raise InvalidParameterError(f"n_next must be >= 0; got {n_next}")
    if not 0 <= quality_per_usd < math.inf:
        raise InvalidParameterError(f"quality_per_usd must be >= 0 and finite; got {quality_per_usd}")
    make_correction(correction)  # a wrong name is told before the work
    by_slice = {column: cut.tolist() for column in slices if (cut := slice_labels(log, column)) is not None}
    matrix = label_matrix(log, labels, gold=gold)
    encoder = encoder_for(log, encoder)
    context = make_context(log, encoder, show_progress=show_progress)
    with collected_warnings() as doubts:
        if preferences is not None:
            matrix = with_votes(
                matrix, log, context, preferences, encoder, n_folds=n_folds, seed=seed, show_progress=show_progress
            )
        known = {*matrix.judges, gold}
        if unknown := sorted(set(price_usd or {}) - known):
            raise InvalidParameterError(f"price_usd must be of sources among {sorted(known)}; got {unknown}")
        units = in_gold_units(
            log, matrix, context, gold=gold, correction=correction, n_folds=n_folds, seed=seed, stacklevel=4
        )
        shared: State = {
            "labels": _fused_labels(log, units, matrix.judged, matrix.gold),
            "judges": list(units.notes["n_judged"]),
            "gold": gold,
            "level": level,
            "source": log.source,
        }
        fused, rounds = units.fused, units.rounds
        if fused is None or rounds is None:
            kind = "gold-only" if matrix.n_gold and not any(units.notes["n_judged"].values()) else "no-gold"
            found: State = {
                "headline": _uncorrected(kind, units, gold=gold),
                "coverage": _coverage(log, units, matrix.gold),
            }
        else:
            found = _found(
                log,
                context,
                rounds,
                fused,
                by_slice=by_slice,
                gold=gold,
                n_next=n_next,
                price_usd=price_usd,
                two_models=_pair(log, two_models),
                quality_per_usd=quality_per_usd,
                level=level,
                n_folds=n_folds,
                seed=seed,
            )
            found |= {"coverage": _coverage(log, units, matrix.gold), "correction": correction}
    return Fusion(**shared, **found, warnings=doubts)


def _found(
    log: LoggedRounds,
    context: Context,
    rounds: JudgedRounds,
    fused: Fused,
    *,
    by_slice: Mapping[str, list[str]],
    gold: str,
    n_next: int,
    price_usd: Mapping[str, float] | None,
    two_models: tuple[str, str] | None,
    quality_per_usd: float,
    level: float,
    n_folds: int,
    seed: int,
) -> State:
    probability = fused.labelling.probability
    with few_threads(log.n_rounds):
        bias = [asdict(row) for row in judge_biases(rounds, probability=probability, slices=by_slice, level=level)]
        worth = judge_worth(rounds, probability=probability, price_usd=price_usd, gold=gold, level=level, seed=seed)
        fold = assign_folds(log.n_rounds, n_folds=n_folds, seed=seed, groups=rounds.group)
        predicted = cross_fit_outcomes(
            PerArmRidge(),
            context=context,
            outcome=fused.quality,
            arm=log.arm,
            n_arms=rounds.n_arms,
            fold=fold,
            sample_weight=fused.weight,
        )
        asked = _asked(
            log, rounds, fused, predicted, n_next=max(n_next, N_MORE), quality_per_usd=quality_per_usd, seed=seed
        )
        gain = (
            None
            if two_models is None
            else _gain_curve(log, context, rounds, fused, two_models, level=level, n_folds=n_folds, seed=seed)
        )
    agreement = [asdict(row) for row in agreements(rounds, probability=probability)]
    return {
        "headline": _headline(bias, n_gold=fused.labelling.n_gold, level=level),
        "bias": bias,
        "agreement": agreement,
        "calibration": [asdict(row) for row in calibration_curves(rounds, probability=probability, level=level)],
        "worth": [asdict(row) for row in worth],
        "next_rounds": [] if asked is None else _next_rows(log, fused, rounds, asked, n_next=n_next),
        "more": _more(rounds, fused, asked, level=level),
        "gain": gain,
    }


def _fused_labels(log: LoggedRounds, units: GoldUnits, judged: NDArray[np.float64], gold: PerRound) -> FusedLabels:
    rows = np.flatnonzero(~np.isnan(units.quality))
    has_gold = ~np.isnan(gold)
    error = np.where(has_gold, 0.0, np.nan) if units.fused is None else units.fused.error
    return FusedLabels(
        round_id=log.table["round_id"].take(rows).to_pylist(),
        quality=units.quality[rows],
        error=error[rows],
        n_sources=(~np.isnan(judged)).sum(axis=1)[rows] + has_gold[rows],
        has_gold=has_gold[rows],
    )


def _coverage(log: LoggedRounds, units: GoldUnits, gold: PerRound) -> State:
    """Return where gold labels are, and what the estimate of who was asked for them says."""
    has_gold = ~np.isnan(gold)
    coverage: State = {
        "n_rounds": log.n_rounds,
        "n_gold": units.notes["n_gold"],
        "n_judged": units.notes["n_judged"],
        "by_model": [
            {
                "model": name,
                "n_rounds": int((log.arm == t).sum()),
                "n_gold": int((has_gold & (log.arm == t)).sum()),
                "mean_gold": known_mean(gold[log.arm == t]),
                "mean_in_gold_units": known_mean(units.pseudo_quality[log.arm == t]),
            }
            for t, name in enumerate(log.arms.names)
        ],
        "labelling": None,
        "judges_used": [],
    }
    if units.fused is not None:
        coverage["labelling"] = units.fused.labelling.summary
        coverage["judges_used"] = list(units.fused.judges_used)
    return coverage


def _headline(bias: list[State], *, n_gold: int, level: float) -> State:
    """Return the finding to read first."""
    overall = {row["judge"]: row for row in bias if row["by"] == "overall"}
    gamed = [row for row in bias if row["gamed"]]
    if gamed:
        row = max(gamed, key=lambda each: each["value"])
        others = len({each["cell"] for each in gamed}) - 1
        more = f", and {others} more" if others else ""
        return {
            "kind": "gamed",
            "sentence": f"{row['cell']} games {row['judge']}: it is scored {100 * row['value']:.0f} points above gold, "
            f"whatever it answers{more}.",
        }
    off = [row for row in overall.values() if row["ci_low"] > 0 or row["ci_high"] < 0]
    apart = sorted({row["judge"] for row in bias if row["by"] == "arm" and row["differs"]})
    if off:
        row = max(off, key=lambda each: abs(each["value"]))
        direction = "above" if row["value"] > 0 else "below"
        low, high = sorted((abs(row["ci_low"]), abs(row["ci_high"])))
        differently = ", and not by the same for every model" if row["judge"] in apart else ""
        return {
            "kind": "biased",
            "sentence": f"{row['judge']} scores {100 * abs(row['value']):.1f} points {direction} gold ({level:.0%} "
            f"interval {100 * low:.1f} to {100 * high:.1f}){differently}.",
        }
    if apart:
        return {
            "kind": "biased",
            "sentence": f"{' and '.join(apart)} agree with gold on average, but favour some models over others.",
        }
    return {
        "kind": "agrees",
        "sentence": f"Beside {n_gold:,} gold labels no bias of {' or '.join(overall) or 'the judges'} can be seen.",
    }


def _uncorrected(kind: str, units: GoldUnits, *, gold: str) -> State:
    if kind == "gold-only":
        return {
            "kind": kind,
            "sentence": f"All {units.notes['n_gold']:,} labels are gold: there is no judge to correct.",
        }
    n_gold = units.notes["n_gold"]
    have = f"only {n_gold} labels are" if n_gold else "no label is"
    return {
        "kind": kind,
        "sentence": f"How far the judges are off cannot be told: {have} of source {gold}, so everything stays in the "
        "judges\u2019 units.",
    }


def _asked(
    log: LoggedRounds,
    rounds: JudgedRounds,
    fused: Fused,
    predicted: PerArm,
    *,
    n_next: int,
    quality_per_usd: float,
    seed: int,
) -> NextLabels | None:
    """Return what to label next; None where no label would decide anything."""
    if rounds.n_arms < 2 or rounds.has_gold.all():
        return None
    fitted = fused.correction
    correction = fitted if isinstance(fitted, Hierarchical) else Hierarchical().fit(rounds)
    offset = None
    if quality_per_usd > 0:
        cost = [known_mean(log.cost_usd[log.arm == t]) for t in range(rounds.n_arms)]
        if any(each is None for each in cost):
            raise InvalidParameterError("quality_per_usd must be 0 on a log without the cost of every model")
        offset = -quality_per_usd * np.array(cost, dtype=np.float64)
    return next_labels(
        rounds,
        correction,
        predicted=predicted,
        utility_offset=offset,
        eligible=log.eligible,
        n_next=n_next,
        seed=seed,
    )


def _next_rows(log: LoggedRounds, fused: Fused, rounds: JudgedRounds, asked: NextLabels, *, n_next: int) -> list[State]:
    names = rounds.arms
    gold_of_arm = np.bincount(rounds.arm[rounds.has_gold], minlength=rounds.n_arms)
    rows = asked.row[:n_next]
    round_id = log.table["round_id"].take(rows).to_pylist()
    prompt = log.table["prompt"].take(rows).to_pylist() if log.prompt is not None else [None] * rows.size
    found = []
    for k, row in enumerate(rows):
        arm = int(rounds.arm[row])
        a, b = names[asked.best[k]], names[asked.runner_up[k]]
        n_gold = int(gold_of_arm[arm])
        why = f"helps to decide between {a} and {b}"
        few = f"; {names[arm]} has {n_gold} gold labels so far" if n_gold != 1 else f"; {names[arm]} has one gold label"
        found.append(
            {
                "rank": k + 1,
                "round_id": round_id[k],
                "model": names[arm],
                "prompt": prompt[k],
                "gain": float(asked.gain[k]),
                "expected": float(fused.quality[row]),
                "error": float(fused.error[row]),
                "between": [a, b],
                "reason": why + few,
            }
        )
    return found


def _more(rounds: JudgedRounds, fused: Fused, asked: NextLabels | None, *, level: float) -> State:
    """Return what `N_MORE` gold labels more would buy."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    labelled = ~np.isnan(fused.expected)
    cells = [("overall", "", labelled)]
    if rounds.n_arms > 1:
        cells += [("arm", name, labelled & (rounds.arm == t)) for t, name in enumerate(rounds.arms)]
    rows = []
    for by, name, cell in cells:
        if not (cell & rounds.has_gold).any():
            continue
        narrowing = expected_narrowing(
            expected=fused.expected[cell],
            gold=rounds.gold[cell],
            probability=fused.labelling.probability[cell],
            group=rounds.group[cell],
            n_more=N_MORE,
            n_gold=fused.labelling.n_gold,
        )
        rows.append(
            {
                "by": by,
                "cell": name,
                "value": float(fused.pseudo_quality[cell].mean()),
                "half_width": z * narrowing.standard_error,
                "later_half_width": z * narrowing.later,
            }
        )
    return {
        "n_more": N_MORE,
        "n_chosen": 0 if asked is None else int(asked.row.size),
        "regret_reduction": None if asked is None else asked.total_gain,
        "random_regret_reduction": None if asked is None else asked.random_gain,
        "rows": rows,
    }


def _pair(log: LoggedRounds, two_models: tuple[str, str] | None) -> tuple[str, str] | None:
    """Return the weak and the strong model of the gain curve, if there is to be one."""
    if two_models is not None:
        unknown = sorted(set(two_models) - set(log.arms.names))
        if unknown or len(set(two_models)) != 2:
            raise InvalidParameterError(f"two_models must be two models of {list(log.arms.names)}; got {two_models}")
        return two_models
    if len(log.arms) != 2:
        return None
    cost = [known_mean(log.cost_usd[log.arm == t]) for t in range(2)]
    first, second = log.arms.names
    dearer_first = cost[0] is not None and cost[1] is not None and cost[0] > cost[1]
    return (second, first) if dearer_first else (first, second)


def _gain_curve(
    log: LoggedRounds,
    context: Context,
    rounds: JudgedRounds,
    fused: Fused,
    two_models: tuple[str, str],
    *,
    level: float,
    n_folds: int,
    seed: int,
) -> State:
    """Return what sending the prompts of largest predicted gain to the strong model wins over random ones.

    The gold gain of a prompt is the difference of the two models' doubly robust scores, made of labels that are
    unbiased for gold: one round shows one model only. Predictions are out of fold, from the fused labels. The band is
    pointwise, by the influence of each prompt at a fixed threshold.
    """
    from scipy.special import ndtri

    weak, strong = (list(log.arms.names).index(name) for name in two_models)
    scores, _ = make_scores(
        context=context,
        arm=log.arm,
        quality=fused.quality,
        quality_weight=fused.weight,
        cost_usd=log.cost_usd,
        logged_propensity=log.propensity,
        eligible=log.eligible,
        outcome_model=PerArmRidge(),
        n_folds=n_folds,
        seed=seed,
        groups=rounds.group,
        arm_names=log.arms.names,
    )
    predicted = scores.predicted_quality[:, strong] - scores.predicted_quality[:, weak]
    of_arm = replace(scores, quality=fused.pseudo_quality).quality_scores
    gain = of_arm[:, strong] - of_arm[:, weak]
    curve = efficiency_gain(predicted=predicted, gain=gain)
    share = np.linspace(0, 1, GAIN_POINTS)
    value = curve.at(share)
    rank = np.empty(gain.size)
    rank[np.argsort(-predicted, kind="stable")] = (np.arange(gain.size) + 0.5) / gain.size
    sent = rank[None, :] <= share[:, None]
    influence = (sent - share[:, None]) * (gain - gain.mean())
    z = float(ndtri((1 + level) / 2)) / math.sqrt(gain.size)
    aside = z * influence.std(axis=1)
    low, high = AREA_SHARES
    # The integral of what stands in `influence`, over the shares of the area.
    of_area = (np.clip(high - rank, 0.0, high - low) - (high**2 - low**2) / 2) * (gain - gain.mean())
    area = curve.area()
    return {
        "weak": two_models[0],
        "strong": two_models[1],
        "largest": curve.largest,
        "area": area,
        "area_ci_low": area - z * float(of_area.std()),
        "area_ci_high": area + z * float(of_area.std()),
        "n_prompts": int(gain.size),
        "rows": [
            {"share": float(at), "gain": float(v), "ci_low": float(v - d), "ci_high": float(v + d)}
            for at, v, d in zip(share, value, aside, strict=True)
        ],
    }
