"""What policies would have achieved on a log that another policy wrote."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import (
    InvalidLogError,
    InvalidParameterError,
    LabelWarning,
    OverlapWarning,
    StatisticalWarning,
)
from pointsman.logs import LoggedRounds
from pointsman.ope import ESTIMATORS, evaluate_policy
from pointsman.pipeline.learning import NuisanceModels, learn, learnable_rounds
from pointsman.pipeline.rounds import (
    Propensity,
    default_trade_offs,
    encoder_for,
    few_threads,
    fingerprint_of,
    json_ready,
    judged,
    listed,
    make_context,
    prompt_groups,
    quality_sources,
)
from pointsman.router import Router
from pointsman.scores import make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context, PerArm, State

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import PropensityEstimate


Target: TypeAlias = Router | str
"""What can be evaluated: a router, `"always MODEL"`, or `"logging"`, the policy that wrote the log."""


_LOGGING = "logging"


_ALWAYS = "always "
_MORE = re.compile(r" \(and (\d+) more like it\)$")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Off-policy estimates, and what to think of them.

    Attributes:
        rows: One a policy, trade-off and estimator: `policy, quality_per_usd, estimator, value, ci_low, ci_high, ess`,
            and what `ope.EvaluationRow` holds besides.
        diagnostics: Rounds read and left out, whose propensities were used, and every warning in words.
    """

    rows: list[State]
    diagnostics: State

    def row(self, quality_per_usd: float, *, estimator: str = "dr", policy: str | None = None) -> State:
        """Return the row of a trade-off, an estimator and, where several were evaluated, a policy.

        Raises:
            InvalidParameterError: There is none.
        """
        for row in self.rows:
            if (row["quality_per_usd"], row["estimator"]) == (quality_per_usd, estimator) and policy in (
                None,
                row["policy"],
            ):
                return row
        raise InvalidParameterError(
            f"rows must hold quality_per_usd {quality_per_usd}, estimator {estimator!r}, policy {policy!r}; they do not"
        )

    def to_dict(self) -> State:
        """Return JSON-ready values: null for NaN, "inf" for infinity."""
        return {"rows": json_ready(self.rows), "diagnostics": json_ready(self.diagnostics)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def evaluate(
    target: Target | Sequence[Target],
    log: LoggedRounds,
    *,
    quality_per_usd: Sequence[float] | float | None = None,
    level: float = 0.95,
    estimators: Sequence[str] = ESTIMATORS,
    propensity: Propensity = "auto",
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Evaluation:
    """Estimate what policies would have achieved on the prompts of a log that another policy wrote.

    Rounds that any of the routers was fitted on are left out, by identity, and so are fallbacks. The outcome models of
    DM and DR, and propensities where the log has none, are cross-fitted on the log itself.

    Args:
        target: A router, `"always MODEL"`, `"logging"` (the log's own policy), or a list of these.
        log: Logged rounds.
        quality_per_usd: Trade-offs; `default_trade_offs` of the log where None.
        level: Coverage of the intervals.
        estimators: Among `ope.ESTIMATORS`.
        propensity: As in `fit`.
        n_folds: Folds of the cross-fitting.
        seed: Seed of the folds.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: Every round was used for fitting, or an argument breaks its rule.
        OverlapError: The log holds nothing on what a target would do.

    Warns:
        StatisticalWarning: Whatever makes an estimate doubtful; the same words stand in the diagnostics.
    """
    targets = _named([target] if isinstance(target, Router | str) else list(target))
    routers = [each for each in targets.values() if isinstance(each, Router)]
    kept, left_out = _evaluable(log, routers)
    encoder = encoder_for(kept, routers[0].encoder if routers else None)
    context = make_context(kept, encoder, show_progress=show_progress)
    fingerprint = fingerprint_of(encoder)
    contexts = {fingerprint: context}
    notes: State = {"n_rounds": kept.n_rounds, **left_out}
    probabilities: dict[str, Any] = {}
    answerable = np.ones(kept.n_rounds, dtype=np.bool_)
    for router in routers:
        known = [name in router.arms for name in kept.arms.names]
        if not any(known):
            raise InvalidParameterError(
                f"log must hold at least one of the router's models {list(router.arms.names)}; "
                f"got {list(kept.arms.names)}"
            )
        answerable &= kept.eligible[:, known].any(axis=1)
    if not answerable.all():
        notes["n_unanswerable"] = int((~answerable).sum())
        if not answerable.any():
            raise InvalidParameterError("log must hold a round with an eligible model the router knows; got none")
        kept = kept.filter(answerable)
        contexts = {fingerprint: context[answerable]}
        notes["n_rounds"] = kept.n_rounds
    for router in routers:
        key = fingerprint_of(router.encoder)
        if key not in contexts:
            contexts[key] = make_context(kept, encoder_for(kept, router.encoder), show_progress=show_progress)
    with _collected(estimators) as found:
        for name, each in targets.items():
            probabilities[name] = (
                _RouterTarget(each, kept, contexts[fingerprint_of(each.encoder)])
                if isinstance(each, Router)
                else _fixed_target(each, kept)
            )
        rows = _estimated(
            probabilities,
            kept,
            contexts[fingerprint],
            trade_offs=_trade_offs(quality_per_usd, log=kept),
            level=level,
            estimators=_checked_estimators(estimators),
            propensity=propensity,
            n_folds=n_folds,
            seed=seed,
            notes=notes,
        )
    notes["warnings"] = found
    return Evaluation(rows=rows, diagnostics=notes)


def evaluate_cross_fitted(
    router: Router,
    log: LoggedRounds,
    *,
    quality_per_usd: Sequence[float] | float | None = None,
    level: float = 0.95,
    estimators: Sequence[str] = ESTIMATORS,
    propensity: Propensity = "auto",
    n_folds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Evaluation:
    """Evaluate a router's recipe on the log it was fitted on: refit on the other folds, evaluate on each.

    The method, its options, its seed and the encoder are the router's; each round is routed by a router that never saw
    it. What is estimated is the value of routers learned from a share (n_folds - 1) / n_folds of the log, on average: a
    little below that of `router`, which saw all of it. Other arguments as for `evaluate`.

    Raises:
        InvalidParameterError: The router was made with an option that is not in its facts, such as a model of yours.
    """
    facts = router.facts
    if any(isinstance(value, dict) and "repr" in value for value in facts.options.values()):
        raise InvalidParameterError(
            f"options must be plain values for a refit by fold; got {facts.options}: evaluate on a held-out log"
        )
    kept = learnable_rounds(log).rounds
    encoder = encoder_for(kept, router.encoder)
    context = make_context(kept, encoder, show_progress=show_progress)
    trade_offs = _trade_offs(quality_per_usd, log=kept)
    checked = _checked_estimators(estimators)
    notes: State = {
        "n_rounds": kept.n_rounds,
        "n_left_out_training": 0,
        "n_left_out_fallback": int(log.fallback.sum()),
        "cross_fitted": True,
        "n_folds": n_folds,
    }
    from pointsman.nuisance.cross_fit import assign_folds

    with _collected(estimators) as found:
        fold = assign_folds(kept.n_rounds, n_folds=n_folds, seed=seed, groups=prompt_groups(kept))
        target = _FoldedTarget(n_rounds=kept.n_rounds, parts=[])
        for k in range(n_folds):
            others, mine = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            learnable = learnable_rounds(kept.take(others))
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
            )
            target.parts.append((mine, _RouterTarget(refitted, kept.take(mine), context[mine])))
        rows = _estimated(
            {facts.method: target},
            kept,
            context,
            trade_offs=trade_offs,
            level=level,
            estimators=checked,
            propensity=propensity,
            n_folds=n_folds,
            seed=seed,
            notes=notes,
        )
    notes["warnings"] = found
    return Evaluation(rows=rows, diagnostics=notes)


def collapse_warnings(messages: Sequence[str]) -> list[str]:
    """Return messages without repeats: of those that differ in numbers only the first stands, with a count."""
    kinds: dict[str, tuple[str, int]] = {}
    for message in dict.fromkeys(messages):
        said = _MORE.search(message)
        bare = message if said is None else message[: said.start()]
        kind = re.sub(r"\d+(\.\d+)?", "#", bare)
        first, count = kinds.get(kind, (bare, 0))
        kinds[kind] = (first, count + 1 + (0 if said is None else int(said[1])))
    return [first if count == 1 else f"{first} (and {count - 1} more like it)" for first, count in kinds.values()]


class _RouterTarget:
    """A router's decisions on the rounds of a log, in the log's columns."""

    def __init__(self, router: Router, log: LoggedRounds, context: Context) -> None:
        common = [name for name in log.arms.names if name in router.arms]
        self.router = router
        self.context = context
        self.log_columns = log.arms.indices(common)
        self.router_columns = router.arms.indices(common)
        self.shape = (log.n_rounds, len(log.arms))
        self.eligible = np.zeros((log.n_rounds, len(router.arms)), dtype=np.bool_)
        self.eligible[:, self.router_columns] = log.eligible[:, self.log_columns]
        absent = [name for name in router.arms.names if name not in log.arms]
        if absent:
            warnings.warn(
                f"the log does not know {', '.join(absent)}: the router is evaluated as if it could not choose them",
                OverlapWarning,
                stacklevel=2,
            )

    def __call__(self, trade_off: TradeOff) -> PerArm:
        probabilities = np.zeros(self.shape)
        own = self.router.probabilities(self.context, trade_off, self.eligible)
        probabilities[:, self.log_columns] = own[:, self.router_columns]
        return probabilities


@dataclass(frozen=True, kw_only=True)
class _FoldedTarget:
    """Routers of several folds, each on the rounds it never saw."""

    n_rounds: int
    parts: list[tuple[NDArray[np.int64], _RouterTarget]]

    def __call__(self, trade_off: TradeOff) -> PerArm:
        probabilities = np.zeros((self.n_rounds, self.parts[0][1].shape[1]))
        for rows, target in self.parts:
            probabilities[rows] = target(trade_off)
        return probabilities


@dataclass(frozen=True, kw_only=True)
class _FixedTarget:
    """Decisions that no trade-off moves; `is_logging` marks the log's own."""

    probabilities: PerArm
    is_logging: bool = False

    def __call__(self, trade_off: TradeOff) -> PerArm:
        del trade_off
        return self.probabilities


def _fixed_target(name: str, log: LoggedRounds) -> _FixedTarget:
    if name == _LOGGING:
        return _FixedTarget(probabilities=np.eye(len(log.arms))[log.arm], is_logging=True)
    if not name.startswith(_ALWAYS):
        raise InvalidParameterError(f"target must be a router, 'always MODEL' or 'logging'; got {name!r}")
    column = log.arms.index(name.removeprefix(_ALWAYS))
    barred = int((~log.eligible[:, column]).sum())
    if barred:
        raise InvalidParameterError(
            f"target {name!r} must be eligible in every round; in {barred} of {log.n_rounds} it is not"
        )
    return _FixedTarget(probabilities=np.tile(np.eye(len(log.arms))[column], (log.n_rounds, 1)))


def _named(targets: list[Target]) -> dict[str, Target]:
    if not targets:
        raise InvalidParameterError("target must hold at least one policy; got none")
    named: dict[str, Target] = {}
    for target in targets:
        name = target.facts.method if isinstance(target, Router) else target
        place = 2
        unique = name
        while unique in named:
            unique, place = f"{name} ({place})", place + 1
        named[unique] = target
    return named


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


def _estimated(
    targets: Mapping[str, Any],
    log: LoggedRounds,
    context: Context,
    *,
    trade_offs: Sequence[TradeOff],
    level: float,
    estimators: Sequence[str],
    propensity: Propensity,
    n_folds: int,
    seed: int,
    notes: State,
) -> list[State]:
    if np.isnan(log.cost_usd).all() and any(trade_off.quality_per_usd > 0 for trade_off in trade_offs):
        raise InvalidParameterError(
            f"quality_per_usd must be 0 on a log without cost_usd; got {[t.quality_per_usd for t in trade_offs]}"
        )
    with few_threads(log.n_rounds):
        scores, estimate = make_scores(
            context=context,
            arm=log.arm,
            quality=log.quality,
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
    notes["quality_sources"] = quality_sources(log)
    notes["smallest_propensity"] = float(scores.propensity.min())
    if notes["quality_sources"] != ["gold"]:
        warnings.warn(judged(notes["quality_sources"]), LabelWarning, stacklevel=3)
    rows: list[State] = []
    for name, target in targets.items():
        is_logging = isinstance(target, _FixedTarget) and target.is_logging
        for trade_off in trade_offs:
            found = evaluate_policy(
                arm=scores.arm,
                quality=scores.quality,
                cost_usd=scores.cost_usd,
                # What the log itself achieved is a plain mean: every weight is one.
                propensity=np.ones(log.n_rounds) if is_logging else scores.propensity,
                eligible=scores.eligible,
                predicted_quality=scores.predicted_quality,
                predicted_cost_usd=scores.predicted_cost_usd,
                target_probs=target(trade_off),
                trade_off=trade_off,
                level=level,
                arm_names=log.arms.names,
            )
            rows += [{"policy": name, **row} for row in found if row["estimator"] in estimators]
    return rows


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


def _checked_estimators(estimators: Sequence[str]) -> Sequence[str]:
    if isinstance(estimators, str) or not estimators or not set(estimators) <= set(ESTIMATORS):
        raise InvalidParameterError(f"estimators must be among {list(ESTIMATORS)}; got {estimators!r}")
    return estimators


@contextmanager
def _collected(estimators: Sequence[str]) -> Iterator[list[str]]:
    """Collect statistical warnings as words; at the end give each kind once, with its own class."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    # Every estimator is computed; of those not asked for nobody wants to hear.
    silent = tuple(f"{name}: " for name in ESTIMATORS if name not in estimators)
    statistical = [
        each
        for each in caught
        if issubclass(each.category, StatisticalWarning) and not str(each.message).startswith(silent)
    ]
    first = {str(each.message): each.category for each in reversed(statistical)}
    found.extend(collapse_warnings([str(each.message) for each in statistical]))
    for each in caught:
        if not issubclass(each.category, StatisticalWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    for message in found:
        warnings.warn(message, first[_MORE.sub("", message)], stacklevel=4)
