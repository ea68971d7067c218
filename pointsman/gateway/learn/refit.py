"""Refits, and the gate before they decide: shown on later rounds to be no worse than what serves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pointsman.errors import InvalidLogError, OverlapError
from pointsman.gateway.learn.heard import Heard, drawn, read_log
from pointsman.gateway.live import log as logger
from pointsman.gateway.routing import at_prices, usual_usd
from pointsman.live import learn_feedback, online
from pointsman.online.bandit import PooledThompson
from pointsman.online.method import Online
from pointsman.pipeline import evaluate, fit, warm_start
from pointsman.pipeline.evaluation import Requirement, check, one_sided_level
from pointsman.router import Router
from pointsman.types import State

if TYPE_CHECKING:
    from pointsman.gateway.settings import Settings
    from pointsman.logs import LoggedRounds
    from pointsman.logs.store import RoundStore
    from pointsman.versions import Registry

HELD_OUT = 0.3
"""Share of the rounds, the latest, on which a refit is compared with what serves."""
REFIT, SERVING = "refit", "serving"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a refit.

    Attributes:
        version: Of the refit; None where there was nothing to fit.
        is_promoted: Whether it decides now.
        why: In words.
        verdicts: Every requirement at every trade-off, as `check` returns them.
    """

    version: str | None
    is_promoted: bool
    why: str
    verdicts: tuple[State, ...] = ()


def refit(registry: Registry, store: RoundStore, settings: Settings, *, method: str = "auto", seed: int = 0) -> Outcome:
    """Fit a router to the log, and promote it where it is shown to meet the gate; else it stays in shadow.

    It is fitted on the earlier rounds, and goes on learning from there. On the later ones, which neither has seen, it
    is compared with the version that serves as that was then: having learned the feedback on the earlier rounds. Every
    requirement is held at the default trade-off and at all presets. What is promoted is what was compared; it then
    learns the feedback on the later rounds, too, as does whatever serves.

    Args:
        registry: Has a current version.
        store: Rounds and feedback.
        settings: Hold the gate.
        method: How to fit.
        seed: Of the fit.
    """
    outcome = _refit(registry, store, settings, method=method, seed=seed)
    registry.note("refit", outcome.version, why=outcome.why)
    logger.info("refit %s: %s", outcome.version or "of nothing", outcome.why)
    return outcome


def _refit(registry: Registry, store: RoundStore, settings: Settings, *, method: str, seed: int) -> Outcome:
    gate, roles = settings.learn.gate, registry.roles()
    serving = roles.current
    if serving is None:
        return Outcome(version=None, is_promoted=False, why="there is no version to compare with")
    try:
        log, seq = read_log(store)
        log = drawn(log)
    except InvalidLogError as error:
        return Outcome(version=None, is_promoted=False, why=str(error))
    n_judged = int(np.count_nonzero(~np.isnan(log.quality) & ~log.fallback))
    if n_judged < gate.min_rounds:
        why = f"{n_judged} rounds have feedback; the gate asks for {gate.min_rounds}"
        return Outcome(version=None, is_promoted=False, why=why)
    n_early = round(log.n_rounds * (1 - HELD_OUT))
    early, late = log.filter(np.arange(log.n_rounds) < n_early), log.filter(np.arange(log.n_rounds) >= n_early)
    first = store.get_round(late.round_id[0])
    if first is None:
        return Outcome(version=None, is_promoted=False, why="rounds were deleted meanwhile")
    split_at = first.decided_at  # a log's timestamps are rounded

    base = at_prices(registry.load(serving, learned=False), roles.versions[serving], settings)
    if isinstance(base.policy, Online):
        _hear(base, store, settings, end=split_at, through=seq)
    exploration = settings.exploration
    candidate = fit(
        early,
        method=method,
        seed=seed,
        encoder=base.encoder if early.prompt is not None else None,
        default_quality_per_usd=base.default_trade_off.quality_per_usd,
    )
    candidate = warm_start(candidate, early, exploration=exploration.strength, floor=exploration.floor, seed=seed)
    candidate = dataclasses.replace(candidate, encoder=base.encoder)
    # What it was fitted on holds all that had been said by then, also late words on early rounds.
    online(candidate).learned_through = seq
    version = registry.add(candidate, why=f"fitted on {early.n_rounds} rounds", prices_usd=usual_usd(settings))
    candidate = registry.load(version, learned=False)  # what is compared is what is kept
    verdicts, doubt = _compare(candidate, base, late, settings)
    if doubt is None and all(verdict["met"] for verdict in verdicts):
        learned = dataclasses.replace(candidate, training_rounds=np.union1d(candidate.training_rounds, late.identity))
        online(learned).learned_through = 0
        _hear(learned, store, settings, start=split_at, through=seq)
        online(learned).learned_through = seq
        registry.keep_learned(version, learned)
        why = f"met {_said(verdicts)} against {serving} on {late.n_rounds} later rounds"
        registry.promote(version, why=why)
        return Outcome(version=version, is_promoted=True, why=why, verdicts=tuple(verdicts))
    why = doubt or f"not shown to meet {_said(verdicts)} against {serving} on {late.n_rounds} later rounds"
    registry.shadow(version, why=why)
    return Outcome(version=version, is_promoted=False, why=why, verdicts=tuple(verdicts))


def _compare(candidate: Router, base: Router, late: LoggedRounds, settings: Settings) -> tuple[list[State], str | None]:
    gate = settings.learn.gate
    asked = [settings.router.trade_off, *settings.router.presets.values()]
    rates = [
        (base.trade_off() if each is None else base.trade_off(**{each.spelling: each.value})).quality_per_usd
        for each in asked
    ]
    if late.prompt is None:
        candidate, base = (dataclasses.replace(router, encoder=None) for router in (candidate, base))
    try:
        found = evaluate(
            {REFIT: candidate},
            late,
            against={SERVING: base},
            quality_per_usd=[rate for rate in rates if np.isfinite(rate)],
            level=one_sided_level(gate.confidence),
            slices=(),
        )
        return check(found, [Requirement.parse(gate.requirement)], policy=REFIT, against=SERVING), None
    except (OverlapError, ValueError) as error:
        return [], f"it could not be compared: {error}"


def _hear(router: Router, store: RoundStore, settings: Settings, *, through: int, **span: float) -> None:
    learner = online(router).learner
    if isinstance(learner, PooledThompson):
        learner.floor, learner.exploration = settings.exploration.floor, settings.exploration.strength
    heard = Heard(store, n_features=learner.n_features, through=through, **span)
    learn_feedback(router, heard)


def _said(verdicts: list[State]) -> str:
    return "; ".join(
        f"{each['requirement']} at {each['quality_per_usd']:g} points per USD (bound {each['bound']:.4f})"
        for each in verdicts
    )
