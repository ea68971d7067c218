"""A router that learns while it serves, in a folder of its own: the router, and every round with its feedback.

    live/
      router/          the router as it was last saved, and through which feedback it had learned
      rounds.sqlite    decisions and feedback, durable before they are acknowledged

Feedback is durable before it is learned, and the saved router says through which it has learned. So a process may be
killed at any moment: the next one learns again what came after the last save, in the same order, and is where the first
one was.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from pointsman.arms import Arm, ArmSet
from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.logs import LoggedRounds
from pointsman.logs.store import Feedback, JudgedRound, Round, SqliteStore
from pointsman.online.base import ArmPrior
from pointsman.online.method import Online
from pointsman.registry import load_router, save_router
from pointsman.router import Decision, Prompt, Router

ROUTER, ROUNDS = "router", "rounds.sqlite"
BATCH = 1_000
"""Feedback that is read from the store at once."""


class FeedbackLog(Protocol):
    """Where feedback is read from: a store, or a part of one."""

    def feedback_after(self, seq: int = 0, *, limit: int = 1000) -> list[JudgedRound]:
        """Return feedback accepted after that place, with its rounds, in the order of acceptance."""


def learn_feedback(router: Router, store: FeedbackLog, *, source: str | None = None) -> int:
    """Have a learning router learn what the store holds and it has not learned; return how much it read.

    Feedback is learned in the order in which it was accepted. Left out: what has no quality (a comment, a comparison of
    two), rounds whose model had stood in for another, rounds without context, and models the router does not know. A
    later word of the same source on the same round corrects what was learned from the earlier one.

    Args:
        router: Its policy is `Online`; it learns in place.
        store: Rounds and feedback.
        source: Whose feedback is learned: `gold`, or a judge's name; everybody's where None.
    """
    policy = online(router)
    column = {name: t for t, name in enumerate(router.arms.names)}
    n_read = 0
    while batch := store.feedback_after(policy.learned_through, limit=BATCH):
        for judged in batch:
            if source is None or judged.feedback.source == source:
                _learn(policy, judged, column)
            policy.learned_through = judged.seq
        n_read += len(batch)
    return n_read


def _learn(policy: Online, judged: JudgedRound, column: dict[str, int]) -> None:
    round_, quality = judged.round, judged.feedback.quality
    arm = column.get(round_.model)
    if quality is None or arm is None or round_.fallback or round_.context is None:
        return
    context = round_.context.astype(np.float64)
    if judged.previous_quality is not None:
        policy.learner.revise(context, arm, before=judged.previous_quality, after=quality)
    else:
        policy.learner.update(context, arm, quality=quality, cost_usd=round_.cost_usd)


def online(router: Router) -> Online:
    """Return the router's policy, which learns.

    Raises:
        InvalidRouterError: It does not: a router of another method.
    """
    if not isinstance(router.policy, Online):
        raise InvalidRouterError(
            f"the router must be one that learns; got method {router.facts.method!r}: make one of it with warm_start"
        )
    return router.policy


class LiveRouter:
    """Chooses models, remembers each choice with its propensity, and learns from what is said of the answers.

    Args:
        folder: Made by `create`.

    Attributes:
        router: As it stands now.
        store: Rounds and feedback.
    """

    def __init__(self, folder: Path, router: Router, store: SqliteStore) -> None:
        self.folder, self.router, self.store = folder, router, store
        learn_feedback(router, store)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], router: Router) -> Self:
        """Make a folder for a router that learns, as `warm_start` returns one.

        Raises:
            InvalidRouterError: The router does not learn, or the folder holds one already.
        """
        place = Path(folder)
        online(router)
        if (place / ROUTER).exists():
            raise InvalidRouterError(f"{place} holds a live router already: open it, or name another folder")
        place.mkdir(parents=True, exist_ok=True)
        save_router(router, place / ROUTER)
        return cls.open(place)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Return the router of a folder, having learned all feedback that was ever acknowledged.

        Raises:
            InvalidRouterError: The folder holds no router that learns.
        """
        place = Path(folder)
        router = load_router(place / ROUTER)
        online(router)
        return cls(place, router, SqliteStore.open(place / ROUNDS))

    def choose(
        self,
        prompt: Prompt,
        *,
        quality_per_usd: float | None = None,
        cost_weight: float | None = None,
        willingness_to_pay: float | None = None,
        eligible_models: Collection[str] | None = None,
        session_id: str | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[str, Decision]:
        """Return the name of a new round and the decision, as `Router.choose`; both are durable."""
        decision = self.router.choose(
            prompt,
            quality_per_usd=quality_per_usd,
            cost_weight=cost_weight,
            willingness_to_pay=willingness_to_pay,
            eligible_models=eligible_models,
            rng=rng,
        )
        round_ = Round(
            round_id=uuid.uuid4().hex,
            decided_at=time.time(),
            model=decision.model,
            propensity=decision.propensity,
            eligible=tuple(decision.probabilities),
            probabilities=decision.probabilities,
            quality_per_usd=decision.trade_off.quality_per_usd,
            router_version=f"learned-through-{online(self.router).learned_through}",
            context=self.router.context([prompt])[0].astype(np.float32),
            prompt=prompt if isinstance(prompt, str) else None,
            session_id=session_id,
        )
        self.store.add_rounds([round_])
        return round_.round_id, decision

    def served(
        self,
        round_id: str,
        *,
        cost_usd: float = math.nan,
        latency_s: float = math.nan,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        served_model: str | None = None,
    ) -> None:
        """Note what came of a round: what it cost, and which model answered where the chosen one could not."""
        round_ = self.store.get_round(round_id)
        if round_ is None:
            raise InvalidParameterError(f"round_id must be one that `choose` returned; got {round_id!r}")
        self.store.add_rounds(
            [
                dataclasses.replace(
                    round_,
                    cost_usd=cost_usd,
                    latency_s=latency_s,
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                    served_model=served_model,
                    fallback=served_model is not None and served_model != round_.model,
                    outcome="ok",
                )
            ]
        )

    def feedback(self, round_id: str, *, quality: float, source: str = "gold", feedback_id: str | None = None) -> None:
        """Learn how good an answer was; what was said is durable when this returns.

        Raises:
            InvalidParameterError: The quality lies outside [0, 1], or the round is not known.
        """
        said = Feedback(
            feedback_id=uuid.uuid4().hex if feedback_id is None else feedback_id,
            round_id=round_id,
            received_at=time.time(),
            quality=quality,
            source=source,
        )
        (result,) = self.store.add_feedback([said])
        if result.status == "unknown":
            raise InvalidParameterError(f"round_id must be one that `choose` returned; got {round_id!r}")
        learn_feedback(self.router, self.store)

    def add_model(self, name: str, prior: ArmPrior | None = None) -> None:
        """Take in a new model, from the next request on."""
        self.router = with_model(self.router, name, prior)
        self.save()

    def retire_model(self, name: str) -> None:
        """Choose a model no more, from the next request on; what was learned of it is kept."""
        self.router = self.router.retire(name)
        self.save()

    def reprice(self, name: str, factor: float) -> None:
        """Multiply a model's price, from the next request on; nothing is learned anew."""
        self.router = self.router.reprice(name, factor)
        self.save()

    def save(self) -> str:
        """Save the router as it stands, whole or not at all; return its content hash."""
        return save_router(self.router, self.folder / ROUTER)

    def log(self) -> LoggedRounds:
        """Return every round as a log that `evaluate` and `fit` read."""
        return self.store.log()

    def close(self) -> None:
        """Save, and close the store."""
        self.save()
        self.store.close()


def with_model(router: Router, name: str, prior: ArmPrior | None = None) -> Router:
    """Return a learning router that knows one more model, of which it expects what the prior says.

    Raises:
        InvalidParameterError: The router knows the model already.
        InvalidRouterError: The router does not learn.
    """
    if name in router.arms:
        raise InvalidParameterError(f"model must be new to the router; got {name!r}, which it knows")
    policy = online(router).__copy__()
    policy.learner.add_arm(prior)
    facts = router.facts
    quality = (
        prior.quality if prior is not None and prior.quality is not None else np.mean(list(facts.mean_quality.values()))
    )
    cost_usd = None if prior is None else prior.cost_usd
    return dataclasses.replace(
        router,
        policy=policy,
        arms=ArmSet((*router.arms.arms, Arm(name=name))),
        facts=dataclasses.replace(
            facts,
            mean_quality={**facts.mean_quality, name: float(quality)},
            mean_cost_usd={**facts.mean_cost_usd, name: cost_usd},
            n_rounds_by_model={**facts.n_rounds_by_model, name: 0},
            logged_cost_usd={**facts.logged_cost_usd, name: None},
        ),
    )
