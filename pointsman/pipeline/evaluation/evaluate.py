"""Evaluating policies on a log that another policy wrote: from rounds to evidence, from evidence to findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.fusion import make_correction
from pointsman.logs import LabelMatrix, Labels, LoggedRounds, label_matrix
from pointsman.ope import ESTIMATORS, GoldLabels
from pointsman.pipeline.evaluation.evidence import Evidence
from pointsman.pipeline.evaluation.findings import find
from pointsman.pipeline.evaluation.result import Evaluation, collected_warnings
from pointsman.pipeline.evaluation.sample_size import Power, power_of
from pointsman.pipeline.evaluation.targets import (
    BEST_SINGLE,
    LOGGING,
    BestSingleDecisions,
    Decisions,
    FoldedDecisions,
    RouterDecisions,
    Target,
    Targets,
    distinct,
    fixed_decisions,
    named_targets,
)
from pointsman.pipeline.gold_units import CORRECTION, GOLD, GoldUnits, in_gold_units
from pointsman.pipeline.learning import NuisanceModels, learn, learnable_rounds
from pointsman.pipeline.rounds import (
    Propensity,
    default_trade_offs,
    encoder_for,
    few_threads,
    fingerprint_of,
    listed,
    make_context,
    prompt_groups,
)
from pointsman.router import Router
from pointsman.scores import Scores, make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, State

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import PropensityEstimate


def evaluate(
    target: Targets,
    log: LoggedRounds,
    *,
    against: Targets | None = None,
    quality_per_usd: Sequence[float] | float | None = None,
    level: float = 0.95,
    estimators: Sequence[str] = ESTIMATORS,
    estimator: str = "dr",
    slices: Sequence[str] = ("task",),
    propensity: Propensity = "auto",
    propensity_floor: float | None = None,
    labels: Labels | None = None,
    gold: str = GOLD,
    correction: str = CORRECTION,
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Evaluation:
    """Estimate what policies would have achieved on the prompts of a log that another policy wrote.

    Rounds that any of the routers was fitted on are left out, by identity, and so are fallbacks. The outcome models of
    DM and DR, and propensities where the log has none, are cross-fitted on the log itself.

    Args:
        target: A router, `"always MODEL"`, `"best-single"`, `"logging"` (the log's own policy), or several of these, in
            a list or by names of your choice.
        log: Logged rounds.
        against: What the targets are compared with; the best single model and the log's own policy where None.
        quality_per_usd: Trade-offs; `default_trade_offs` of the log where None.
        level: Coverage of the intervals.
        estimators: What the rows hold, among `ope.ESTIMATORS`.
        estimator: What comparisons, frontier, savings and slices rest on.
        slices: Columns of the log to slice by, where it has them.
        propensity: As in `fit`.
        propensity_floor: Probability the logging policy gave every eligible model at least, where that is known: it
            makes finite-sample intervals narrower.
        labels: More labels of the log's rounds, of any sources. Where some labels are gold and others a judge's, values
            are estimated in gold units, their intervals as wide as the correction leaves them (`fusion.fuse`).
        gold: The source whose labels are the truth asked for; all others are judges.
        correction: How judges' labels are corrected: a key of `fusion.CORRECTIONS`.
        n_folds: Folds of the cross-fitting.
        seed: Seed of the folds and of simultaneous bands.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: Every round was used for fitting, or an argument breaks its rule.
        OverlapError: The log holds nothing on what a target would do.

    Warns:
        StatisticalWarning: Whatever makes an estimate doubtful; the same words stand in the diagnostics.
    """
    _check_estimators(estimators, estimator)
    targets, opponents = _roles(target, against)
    with collected_warnings() as found:
        evidence, notes = _gather(
            {**targets, **opponents},
            log,
            quality_per_usd=quality_per_usd,
            level=level,
            estimator=estimator,
            propensity=propensity,
            propensity_floor=propensity_floor,
            labels=labels,
            gold=gold,
            correction=correction,
            n_folds=n_folds,
            seed=seed,
            show_progress=show_progress,
        )
        with few_threads(evidence.log.n_rounds):
            parts = find(
                evidence,
                policies=list(targets),
                against=[name for name in opponents if name not in targets or len(targets) > 1],
                estimators=estimators,
                slices=slices,
                routers={name: each for name, each in {**targets, **opponents}.items() if isinstance(each, Router)},
                seed=seed,
            )
    notes |= parts.pop("trust")
    notes["warnings"] = found
    return Evaluation(diagnostics=notes, level=level, estimator=estimator, source=log.source, **parts)


def evaluate_cross_fitted(
    router: Router,
    log: LoggedRounds,
    *,
    against: Targets | None = None,
    quality_per_usd: Sequence[float] | float | None = None,
    level: float = 0.95,
    estimators: Sequence[str] = ESTIMATORS,
    estimator: str = "dr",
    slices: Sequence[str] = ("task",),
    propensity: Propensity = "auto",
    propensity_floor: float | None = None,
    labels: Labels | None = None,
    gold: str = GOLD,
    correction: str = CORRECTION,
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Evaluation:
    """Evaluate a router's recipe on the log it was fitted on: refit on the other folds, evaluate on each.

    The method, its options, its seed and the encoder are the router's; each round is routed by a router that never saw
    it. What is estimated is the value of routers learned from a share (n_folds - 1) / n_folds of the log, on average: a
    little below that of `router`, which saw all of it. Other arguments as for `evaluate`; `"best-single"` is chosen by
    fold, too, and `against` holds no router.

    Raises:
        InvalidParameterError: The router was made with an option that is not in its facts, such as a model of yours.
    """
    _check_estimators(estimators, estimator)
    make_correction(correction)  # a wrong name is told before the work, and where nothing is corrected
    facts = router.facts
    if any(isinstance(value, dict) and "repr" in value for value in facts.options.values()):
        raise InvalidParameterError(
            f"options must be plain values for a refit by fold; got {facts.options}: evaluate on a held-out log"
        )
    _, opponents = _roles(router, against)
    if any(isinstance(each, Router) for each in opponents.values()):
        raise InvalidParameterError("against must hold no router where the recipe is refitted by fold; got one")
    learnable = learnable_rounds(log, label_matrix(log, labels, gold=gold))
    kept, matrix = learnable.rounds, learnable.labels
    encoder = encoder_for(kept, router.encoder)
    context = make_context(kept, encoder, show_progress=show_progress)
    trade_offs = _trade_offs(quality_per_usd, log=kept)
    notes: State = {
        "n_rounds": kept.n_rounds,
        "n_left_out_training": 0,
        "n_left_out_fallback": int(log.fallback.sum()),
        "cross_fitted": True,
        "n_folds": n_folds,
    }
    from pointsman.nuisance.cross_fit import assign_folds

    with collected_warnings() as found:
        fold = assign_folds(kept.n_rounds, n_folds=n_folds, seed=seed, groups=prompt_groups(kept))
        routed: list[tuple[NDArray[np.int64], Decisions]] = []
        single: list[tuple[NDArray[np.int64], Decisions]] = []
        for k in range(n_folds):
            others, mine = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            learnable = learnable_rounds(kept.take(others), matrix.take(others))
            position = np.flatnonzero(learnable.kept)
            refitted = learn(
                learnable,
                context[others[position]],
                method=facts.method,
                seed=facts.seed,
                encoder=encoder,
                n_folds=facts.n_folds,
                propensity=propensity,
                options=dict(facts.options),
                models=NuisanceModels(),
                trade_off=router.default_trade_off,
                log_hash="",
                gold=gold,
                correction=correction,
            )
            held_out = kept.take(mine)
            routed.append((mine, RouterDecisions(refitted, held_out, context[mine])))
            single.append((mine, BestSingleDecisions(refitted, held_out)))
        decisions: dict[str, Decisions] = {facts.method: FoldedDecisions(n_rounds=kept.n_rounds, parts=routed)}
        for name, each in opponents.items():
            decisions[name] = (
                FoldedDecisions(n_rounds=kept.n_rounds, parts=single)
                if each == BEST_SINGLE
                else fixed_decisions(str(each), kept)
            )
        evidence = _evidence(
            decisions,
            kept,
            matrix,
            context,
            trade_offs=trade_offs,
            level=level,
            estimator=estimator,
            propensity=propensity,
            propensity_floor=propensity_floor,
            gold=gold,
            correction=correction,
            n_folds=n_folds,
            seed=seed,
            notes=notes,
        )
        with few_threads(evidence.log.n_rounds):
            parts = find(
                evidence,
                policies=[facts.method],
                against=list(opponents),
                estimators=estimators,
                slices=slices,
                routers={facts.method: router},
                seed=seed,
            )
    notes |= parts.pop("trust")
    notes["warnings"] = found
    return Evaluation(diagnostics=notes, level=level, estimator=estimator, source=log.source, **parts)


def power(
    target: Target,
    log: LoggedRounds,
    *,
    against: Target = BEST_SINGLE,
    effect: Sequence[float] | float = 0.01,
    power: float = 0.8,
    quality_per_usd: Sequence[float] | float | None = None,
    level: float = 0.95,
    propensity: Propensity = "auto",
    labels: Labels | None = None,
    gold: str = GOLD,
    correction: str = CORRECTION,
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Power:
    """Return how many more rounds, or how much exploration, tell two policies apart.

    Args:
        target: As in `evaluate`.
        log: Rounds that no router was fitted on, whose noise is taken as that of rounds to come.
        against: As in `evaluate`; not the log's own policy.
        effect: Differences in utility to be told from zero, in quality points (0.01 is one point of 100).
        power: Probability of telling.
        quality_per_usd: Trade-offs; `default_trade_offs` of the log where None.
        level: One minus the size of the two-sided test.
        propensity: As in `fit`.
        labels: As in `evaluate`.
        gold: As in `evaluate`.
        correction: As in `evaluate`.
        n_folds: Folds of the cross-fitting.
        seed: Seed of the folds.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: An argument breaks its rule.
        OverlapError: The log holds nothing on what a target would do.

    Warns:
        StatisticalWarning: Whatever makes the noise doubtful.
    """
    effects = [float(effect)] if isinstance(effect, int | float) else [float(each) for each in effect]
    targets, opponents = _roles(target, against)
    (policy,), (opponent,) = targets, opponents
    with collected_warnings():
        evidence, _ = _gather(
            {**targets, **opponents},
            log,
            quality_per_usd=quality_per_usd,
            level=level,
            estimator="dr",
            propensity=propensity,
            propensity_floor=None,
            labels=labels,
            gold=gold,
            correction=correction,
            n_folds=n_folds,
            seed=seed,
            show_progress=show_progress,
        )
        return power_of(evidence, policy=policy, against=opponent, effects=effects, power=power)


def _gather(
    targets: Mapping[str, Target],
    log: LoggedRounds,
    *,
    quality_per_usd: Sequence[float] | float | None,
    level: float,
    estimator: str,
    propensity: Propensity,
    propensity_floor: float | None,
    labels: Labels | None,
    gold: str,
    correction: str,
    n_folds: int,
    seed: int,
    show_progress: bool,
) -> tuple[Evidence, State]:
    """Return the evidence on policies from the rounds of a log that none of them was fitted on, and notes on both."""
    make_correction(correction)  # a wrong name is told before the work, and where nothing is corrected
    routers = [each for each in targets.values() if isinstance(each, Router)]
    kept, left_out = _evaluable(log, routers)
    encoder = encoder_for(kept, routers[0].encoder if routers else None)
    context = make_context(kept, encoder, show_progress=show_progress)
    kept, rows, unanswerable = _answerable(kept, routers)
    context = context[rows]
    notes: State = {"n_rounds": kept.n_rounds, **left_out, **unanswerable}
    contexts = {fingerprint_of(encoder): context}
    for router in routers:
        key = fingerprint_of(router.encoder)
        if key not in contexts:
            contexts[key] = make_context(kept, encoder_for(kept, router.encoder), show_progress=show_progress)
    decisions: dict[str, Decisions] = {}
    for name, each in targets.items():
        if isinstance(each, Router):
            decisions[name] = RouterDecisions(each, kept, contexts[fingerprint_of(each.encoder)])
        elif each == BEST_SINGLE:
            if not routers:
                raise InvalidParameterError(
                    f"{BEST_SINGLE!r} is chosen on a router's training log; got no router: name the model, "
                    "'always MODEL'"
                )
            decisions[name] = BestSingleDecisions(routers[0], kept)
        else:
            decisions[name] = fixed_decisions(each, kept)
    evidence = _evidence(
        decisions,
        kept,
        label_matrix(kept, labels, gold=gold),
        context,
        trade_offs=_trade_offs(quality_per_usd, log=kept),
        level=level,
        estimator=estimator,
        propensity=propensity,
        propensity_floor=propensity_floor,
        gold=gold,
        correction=correction,
        n_folds=n_folds,
        seed=seed,
        notes=notes,
    )
    return evidence, notes


def _roles(target: Targets, against: Targets | None) -> tuple[dict[str, Target], dict[str, Target]]:
    """Return the targets and what they are compared with, by name; a name stands for one policy in both."""
    own = named_targets(target)
    if not own:
        raise InvalidParameterError("target must hold at least one policy; got none")
    if against is None:
        has_router = any(isinstance(each, Router) for _, each in own)
        others = named_targets([*([BEST_SINGLE] if has_router else []), LOGGING])
    else:
        others = named_targets(against)
    new = [(name, each) for name, each in others if not any(each is mine or each == mine for _, mine in own)]
    everything = distinct([*own, *new])
    opponents = {
        name: each for name, each in everything.items() if any(each is other or each == other for _, other in others)
    }
    return dict(list(everything.items())[: len(own)]), opponents


def _answerable(log: LoggedRounds, routers: Sequence[Router]) -> tuple[LoggedRounds, NDArray[np.int64], State]:
    """Return the rounds in which every router knows an eligible model, their places, and a count of the others."""
    answerable = np.ones(log.n_rounds, dtype=np.bool_)
    for router in routers:
        known = [name in router.arms for name in log.arms.names]
        if not any(known):
            raise InvalidParameterError(
                f"log must hold at least one of the router's models {list(router.arms.names)}; "
                f"got {list(log.arms.names)}"
            )
        answerable &= log.eligible[:, known].any(axis=1)
    rows = np.flatnonzero(answerable)
    if rows.size == log.n_rounds:
        return log, rows, {}
    if rows.size == 0:
        raise InvalidParameterError("log must hold a round with an eligible model the router knows; got none")
    return log.take(rows), rows, {"n_unanswerable": log.n_rounds - rows.size}


def _evaluable(log: LoggedRounds, routers: Sequence[Router]) -> tuple[LoggedRounds, State]:
    """Return the rounds no router was fitted on and no fallback served, and counts of the others."""
    seen = np.zeros(log.n_rounds, dtype=np.bool_)
    if routers:
        seen = np.isin(log.identity, np.concatenate([router.training_rounds for router in routers]))
    if seen.all():
        raise InvalidParameterError(
            f"log must hold rounds the router was not fitted on; all {log.n_rounds} of {log.source} were: pass a "
            "held-out log, or --cross-fit (evaluate_cross_fitted) to refit the method by fold and evaluate it out of "
            "fold"
        )
    kept = ~seen & ~log.fallback
    if not kept.any():
        raise InvalidLogError(f"{log.source}: every round left is a fallback; nothing was chosen in this log")
    counts = {
        "n_left_out_training": int(seen.sum()),
        "n_left_out_fallback": int((log.fallback & ~seen).sum()),
        "cross_fitted": False,
    }
    return (log if kept.all() else log.filter(kept)), counts


def _evidence(
    decisions: Mapping[str, Decisions],
    log: LoggedRounds,
    labels: LabelMatrix,
    context: Context,
    *,
    trade_offs: list[TradeOff],
    level: float,
    estimator: str,
    propensity: Propensity,
    propensity_floor: float | None,
    gold: str,
    correction: str,
    n_folds: int,
    seed: int,
    notes: State,
) -> Evidence:
    if np.isnan(log.cost_usd).all() and any(trade_off.quality_per_usd > 0 for trade_off in trade_offs):
        raise InvalidParameterError(
            f"quality_per_usd must be 0 on a log without cost_usd; got {[t.quality_per_usd for t in trade_offs]}"
        )
    units = in_gold_units(
        log, labels, context, gold=gold, correction=correction, n_folds=n_folds, seed=seed, stacklevel=4
    )
    with few_threads(log.n_rounds):
        scores, estimate = make_scores(
            context=context,
            arm=log.arm,
            quality=units.quality,
            quality_weight=units.weight,
            cost_usd=log.cost_usd,
            logged_propensity=log.propensity,
            eligible=log.eligible,
            outcome_model=NuisanceModels().outcome_or_default,
            propensity=propensity,
            n_folds=n_folds,
            seed=seed,
            groups=prompt_groups(log),
            arm_names=log.arms.names,
        )
    notes.update(_propensity_notes(scores.estimated, estimate))
    notes.update(_label_notes(units))
    notes["smallest_propensity"] = float(scores.propensity.min())
    return Evidence(
        log=log,
        context=context,
        # The outcome models learned from expected gold labels; values are those of the labels unbiased for gold.
        scores=replace(scores, quality=units.pseudo_quality),
        gold_labels=_gold_labels(units),
        propensity_estimate=estimate,
        policies=decisions,
        trade_offs=trade_offs,
        level=level,
        estimator=estimator,
        largest_weight=_largest_weight(propensity_floor, scores=scores),
    )


def _label_notes(units: GoldUnits) -> State:
    notes = dict(units.notes)
    if units.fused is not None:
        notes["labelling"] = units.fused.labelling.summary | {"judges_used": list(units.fused.judges_used)}
    return notes


def _gold_labels(units: GoldUnits) -> GoldLabels | None:
    if units.fused is None or units.rounds is None:
        return None
    weight = np.where(units.rounds.has_gold, 1 / units.fused.labelling.probability, 0.0)
    return GoldLabels(weight=weight, outcome=units.rounds.gold)


def _largest_weight(floor: float | None, *, scores: Scores) -> float:
    if floor is None:
        return math.inf
    smallest = float(scores.propensity.min())
    # Propensities that were stored in single precision are off by as much.
    if not 0 < floor <= smallest * (1 + 1e-6):
        raise InvalidParameterError(
            f"propensity_floor must be above 0 and at most the smallest propensity of the log, {smallest:.6g}; "
            f"got {floor}"
        )
    return 1 / floor


def _propensity_notes(estimated: NDArray[np.bool_] | None, estimate: PropensityEstimate | None) -> State:
    if estimate is None or estimated is None:
        return {"propensities": "logged"}
    return {
        "propensities": "estimated" if estimated.all() else "both",
        "propensity_floor": estimate.floor,
        "propensity_floored_share": estimate.floored_share,
        "propensity_calibration_error": estimate.calibration.expected_calibration_error,
        "propensity_calibration_noise": estimate.calibration.noise,
        "propensity_calibration_p_value": estimate.calibration.p_value,
    }


def _trade_offs(quality_per_usd: Sequence[float] | float | None, *, log: LoggedRounds) -> list[TradeOff]:
    if quality_per_usd is not None:
        return [TradeOff(value) for value in listed(quality_per_usd)]
    known = ~np.isnan(log.cost_usd)
    counts = np.bincount(log.arm[known], minlength=len(log.arms))
    totals = np.bincount(log.arm[known], weights=log.cost_usd[known], minlength=len(log.arms))
    means = np.divide(totals, counts, out=np.full(len(log.arms), np.nan), where=counts > 0)
    return [TradeOff(value) for value in default_trade_offs(means)]


def _check_estimators(estimators: Sequence[str], estimator: str) -> None:
    if isinstance(estimators, str) or not estimators or not set(estimators) <= set(ESTIMATORS):
        raise InvalidParameterError(f"estimators must be among {list(ESTIMATORS)}; got {estimators!r}")
    unbiased = [name for name in ESTIMATORS if name not in ("dm", "clipped_ips", "switch_dr", "dros")]
    if estimator not in unbiased:
        raise InvalidParameterError(
            f"estimator must be among {unbiased}, whose intervals need no bound on a bias; got {estimator!r}"
        )
