"""From a table to a log, and from a log to a router."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointsman._version import __version__
from pointsman.arms import ArmSet
from pointsman.encode import default_encoder
from pointsman.encode.base import Encoder
from pointsman.errors import InvalidLogError, InvalidParameterError, OverlapWarning
from pointsman.fusion import make_correction
from pointsman.logs import FullFeedback, LabelMatrix, Labels, LoggedRounds, Simulated, label_matrix
from pointsman.logs import simulate as simulate_log
from pointsman.logs.simulate import Logger, Signal
from pointsman.nuisance.base import OutcomeModel
from pointsman.pipeline.gold_units import CORRECTION, GOLD, in_gold_units
from pointsman.pipeline.rounds import (
    Propensity,
    encode_prompts,
    encoder_for,
    few_threads,
    known_mean,
    make_context,
    prompt_groups,
)
from pointsman.policies import make
from pointsman.router import FitFacts, Router
from pointsman.scores import make_scores
from pointsman.trade_off import TradeOff
from pointsman.types import Context

if TYPE_CHECKING:
    from pointsman.nuisance.propensity import PropensityModel


def simulate(
    table: FullFeedback,
    *,
    logger: Logger,
    floor: float = 0.05,
    share: float = 0.6,
    strength: float = 1.0,
    signal: Signal = "pc",
    seed: int = 0,
    encoder: Encoder | None = None,
    show_progress: bool = False,
) -> Simulated:
    """Return a one-arm log drawn from full feedback, as `logs.simulate`, on the features of an encoder.

    Args:
        table: The outcome of every arm for every prompt.
        logger: The logging policy.
        floor: Probability spread evenly over all arms, in [0, 1].
        share: Share of the prompts that is logged, in (0, 1).
        strength: S >= 0, how much the policy leans.
        signal: What of the prompt drives `confounded` and `deterministic`.
        seed: Seed of the split and of the draws.
        encoder: Whose features signal `pc` comes from and the `hidden` signal stays out of; the default where None.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidParameterError: An argument breaks its rule, or the table lacks what the signal needs.
    """
    features = None
    if logger == "hidden" or (signal == "pc" and logger in ("confounded", "deterministic")):
        features = encode_prompts(encoder or default_encoder(), table.prompt, show_progress=show_progress)
    return simulate_log(
        table,
        logger=logger,
        floor=floor,
        share=share,
        strength=strength,
        signal=signal,
        seed=seed,
        features=features,
    )


def fit(
    log: LoggedRounds,
    *,
    method: str = "auto",
    seed: int = 0,
    labels: Labels | None = None,
    gold: str = GOLD,
    correction: str = CORRECTION,
    encoder: Encoder | None = None,
    n_folds: int = 5,
    propensity: Propensity = "auto",
    options: Mapping[str, Any] | None = None,
    outcome_model: OutcomeModel | None = None,
    cost_model: OutcomeModel | None = None,
    propensity_model: PropensityModel | None = None,
    default_quality_per_usd: float = 0.0,
    show_progress: bool = False,
) -> Router:
    """Learn a router from a log; the same log, arguments and seed give the same router, byte for byte.

    Left out, and counted in `Router.facts`: rounds whose arm stood in for another that failed (`fallback`), which says
    nothing about why it would have been chosen; and arms of which no quality is known, with the rounds they served.
    Where such rounds are dropped, the logged propensities no longer are those of what is left, and with
    `propensity="auto"` they are estimated. A round whose quality is not known yet still teaches what was logged when.

    Where some labels are gold and others a judge's, the judges' are brought to gold units first (`fusion.fuse`).

    Args:
        log: The logged rounds.
        method: A key of `policies.METHODS`.
        seed: Seed of the folds and of whatever the method draws.
        labels: More labels of the log's rounds, of any sources; a round may have several.
        gold: The source whose labels are the truth asked for; all others are judges.
        correction: How judges' labels are corrected: a key of `fusion.CORRECTIONS`.
        encoder: Turns prompts into context; the default where None. A log without prompts is read by its embeddings.
        n_folds: Folds of the cross-fitting; repeats of one prompt share a fold.
        propensity: `logged`, `estimated`, or `auto`: logged where there is one; see `scores.make_scores`.
        options: The method's own options.
        outcome_model: Outcome model of quality, and of cost where `cost_model` is None; the default where None.
        cost_model: Outcome model of cost.
        propensity_model: Settings of the estimate of propensities.
        default_quality_per_usd: The router's trade-off where a request names none, finite.
        show_progress: Whether to show a bar while prompts are encoded.

    Raises:
        InvalidLogError: No round is left to learn from.
        InvalidParameterError: An argument breaks its rule.

    Warns:
        LabelWarning: Quality was judged by a model, and no gold labels correct it.
        OverlapWarning: The log did not explore, or holds too little on an arm, or on its judges' bias.
        CalibrationWarning: Estimated propensities disagree with the frequencies they claim.
    """
    if not np.isfinite(default_quality_per_usd):
        raise InvalidParameterError(f"default_quality_per_usd must be finite; got {default_quality_per_usd}")
    trade_off = TradeOff(default_quality_per_usd)
    make(method, seed=seed, **(options or {}))  # a wrong option is told before the work
    make_correction(correction)
    encoder = encoder_for(log, encoder)
    matrix = label_matrix(log, labels, gold=gold)
    learnable = learnable_rounds(log, matrix)
    context = make_context(learnable.rounds, encoder, show_progress=show_progress)
    return learn(
        learnable,
        context,
        method=method,
        seed=seed,
        encoder=encoder,
        n_folds=n_folds,
        propensity=propensity,
        options=dict(options or {}),
        models=NuisanceModels(outcome=outcome_model, cost=cost_model, propensity=propensity_model),
        trade_off=trade_off,
        log_hash=log.content_hash if labels is None else _digest(log.content_hash, matrix.content_hash),
        gold=gold,
        correction=correction,
    )


@dataclass(frozen=True, kw_only=True)
class NuisanceModels:
    """Regressions to cross-fit; None stands for the default."""

    outcome: OutcomeModel | None = None
    cost: OutcomeModel | None = None
    propensity: PropensityModel | None = None

    @property
    def outcome_or_default(self) -> OutcomeModel:
        """The outcome model of quality."""
        if self.outcome is not None:
            return self.outcome
        from pointsman.nuisance.ridge import PerArmRidge

        return PerArmRidge()


@dataclass(frozen=True, kw_only=True)
class Learnable:
    """The rounds a router can learn from with their labels, and those it cannot: `kept` marks them in the log."""

    rounds: LoggedRounds
    labels: LabelMatrix
    arms: ArmSet
    kept: NDArray[np.bool_]
    n_fallback: int
    n_unlearnable: int
    unlearnable: list[str]


def learnable_rounds(log: LoggedRounds, labels: LabelMatrix) -> Learnable:
    """Return the rounds a router can learn from.

    Raises:
        InvalidLogError: There is none.
    """
    chosen = ~log.fallback
    known = chosen & labels.is_known
    if not known.any():
        raise InvalidLogError(
            f"{log.source}: at least one round that is no fallback must have a quality; got none of {log.n_rounds}; "
            "add outcomes first"
        )
    learnable = np.bincount(log.arm[known], minlength=len(log.arms)) > 0
    kept = chosen & learnable[log.arm]
    arms = ArmSet(tuple(arm for arm, has in zip(log.arms, learnable, strict=True) if has))
    return Learnable(
        rounds=log if kept.all() else log.filter(kept),
        labels=labels.take(kept),
        arms=arms,
        kept=kept,
        n_fallback=int((~chosen).sum()),
        n_unlearnable=int((chosen & ~kept).sum()),
        unlearnable=[name for name in log.arms.names if name not in arms],
    )


def learn(
    learnable: Learnable,
    context: Context,
    *,
    method: str,
    seed: int,
    encoder: Encoder | None,
    n_folds: int,
    propensity: Propensity,
    options: dict[str, Any],
    models: NuisanceModels,
    trade_off: TradeOff,
    log_hash: str,
    gold: str = GOLD,
    correction: str = CORRECTION,
) -> Router:
    """Return the router learned from these rounds; arguments as for `fit`."""
    log, arms = learnable.rounds, learnable.arms
    columns = log.arms.indices(arms.names)
    arm = arms.indices(log.arms.names[t] for t in log.arm)
    logged = log.propensity
    if (logged == 1).all() and propensity != "estimated" and len(arms) > 1:
        warnings.warn(
            "every logged propensity is 1: the logging policy never explored, so what a model would have done with the "
            "prompts of another is extrapolated and nothing in this log can check it; log with exploration",
            OverlapWarning,
            stacklevel=3,
        )
    if learnable.n_unlearnable and propensity == "auto":
        logged = np.full_like(logged, np.nan)
    units = in_gold_units(
        log, learnable.labels, context, gold=gold, correction=correction, n_folds=n_folds, seed=seed, stacklevel=4
    )
    with few_threads(log.n_rounds):
        scores, _ = make_scores(
            context=context,
            arm=arm,
            quality=units.quality,
            quality_weight=units.weight,
            cost_usd=log.cost_usd,
            logged_propensity=logged,
            eligible=log.eligible[:, columns],
            outcome_model=models.outcome_or_default,
            cost_model=models.cost,
            propensity_model=models.propensity,
            propensity=propensity,
            n_folds=n_folds,
            seed=seed,
            groups=prompt_groups(log),
            arm_names=arms.names,
        )
        policy = make(method, seed=seed, **options).fit(context, scores)
    estimated = np.zeros(log.n_rounds, dtype=np.bool_) if scores.estimated is None else scores.estimated
    known_cost = log.cost_usd[~np.isnan(log.cost_usd)]
    scale = float(np.quantile(known_cost, 0.95)) if known_cost.size else 0.0
    facts = FitFacts(
        method=method,
        seed=seed,
        options={name: _json_option(value) for name, value in options.items()},
        n_folds=n_folds,
        n_features=int(context.shape[1]),
        log_hash=log_hash,
        n_rounds=log.n_rounds,
        n_outcomes=int(np.count_nonzero(~np.isnan(units.quality))),
        n_fallback=learnable.n_fallback,
        n_unlearnable=learnable.n_unlearnable,
        unlearnable_models=learnable.unlearnable,
        propensities="estimated" if estimated.all() else "both" if estimated.any() else "logged",
        quality_sources=units.notes["quality_sources"],
        n_gold=units.notes["n_gold"],
        correction=units.notes["correction"],
        n_rounds_by_model={name: int((arm == t).sum()) for t, name in enumerate(arms.names)},
        logged_cost_usd={name: known_mean(log.cost_usd[arm == t]) for t, name in enumerate(arms.names)},
        mean_quality={name: float(scores.predicted_quality[:, t].mean()) for t, name in enumerate(arms.names)},
        mean_cost_usd={name: known_mean(scores.predicted_cost_usd[:, t]) for t, name in enumerate(arms.names)},
        version=__version__,
    )
    return Router(
        encoder=encoder,
        policy=policy,
        arms=arms,
        cost_scale_usd=scale if scale > 0 else None,
        default_trade_off=trade_off,
        facts=facts,
        training_rounds=np.sort(log.identity),
    )


def _digest(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _json_option(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return {"repr": repr(value)}
