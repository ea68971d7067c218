"""What a store holds: the rounds that a gateway decided, and the feedback on them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidParameterError

Outcome: TypeAlias = Literal["ok", "error", "truncated", "cancelled"]
Policy: TypeAlias = Literal["router", "pinned", "default", "sticky", "shadow", "canary"]
Kind: TypeAlias = Literal["quality", "thumbs", "preference"]
Status: TypeAlias = Literal["accepted", "duplicate", "unknown"]
Row: TypeAlias = Sequence[Any]

GOLD = "gold"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """A decision and what came of it; numbers that are not known are NaN.

    A round is written once, when it is over, or twice: at its decision, with `outcome` None, and again at its end. The
    second writing fills in what came of the round, and leaves the decision as it was logged.

    Attributes:
        round_id: Unique name.
        decided_at: Unix time, in s.
        model: The model that was chosen.
        propensity: Probability it was chosen with among the eligible models, in (0, 1].
        eligible: Models that could have been chosen; empty where not known.
        probabilities: Probability of each model, by name.
        quality_per_usd: Trade-off of the request, lambda.
        router_version: What chose.
        context: (n_features,) what the router saw of the prompt, single precision.
        prompt: Its text, where it may be kept.
        prompt_hash: What tells whether two prompts are the same.
        session_id: Conversation.
        key_id: The caller's key, by its public name.
        served_model: The model that answered; the chosen one where None.
        fallback: Whether the model that answered stood in for the chosen one.
        outcome: How it ended; None while it has not.
        status: HTTP status of the answer.
        cost_usd: What the call cost.
        tokens_in: Tokens of the prompt.
        tokens_out: Tokens of the answer.
        latency_s: Time to the end of the answer.
        ttft_s: Time to its first token.
        policy: What decided: the router, the caller who named a model, the default, ...
        shadow_model: What a router on trial would have chosen.
        shadow_version: That router.

    Raises:
        InvalidParameterError: A value breaks its rule.
    """

    round_id: str
    decided_at: float
    model: str
    propensity: float = math.nan
    eligible: tuple[str, ...] = ()
    probabilities: Mapping[str, float] | None = None
    quality_per_usd: float = math.nan
    router_version: str | None = None
    context: NDArray[np.float32] | None = None
    prompt: str | None = None
    prompt_hash: str | None = None
    session_id: str | None = None
    key_id: str | None = None
    served_model: str | None = None
    fallback: bool = False
    outcome: Outcome | None = None
    status: int | None = None
    cost_usd: float = math.nan
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_s: float = math.nan
    ttft_s: float = math.nan
    policy: Policy = "router"
    shadow_model: str | None = None
    shadow_version: str | None = None

    def __post_init__(self) -> None:
        if not self.round_id:
            raise InvalidParameterError("round_id must not be empty; got ''; give each round a name of its own")
        if not self.model:
            raise InvalidParameterError("model must not be empty; got ''; name the model that was chosen")
        if not math.isfinite(self.decided_at):
            raise InvalidParameterError(f"decided_at must be finite, in Unix seconds; got {self.decided_at}")
        if not (math.isnan(self.propensity) or 0 < self.propensity <= 1):
            raise InvalidParameterError(
                f"propensity must be in (0, 1], NaN where not known; got {self.propensity}; log that of the draw"
            )
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not (value >= 0 and value < math.inf) and value == value:
                raise InvalidParameterError(f"{name} must be finite and >= 0, or not known; got {value}")


_NOT_NEGATIVE = ("cost_usd", "tokens_in", "tokens_out", "latency_s", "ttft_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What someone said of a round; a later one of the same round and source corrects it.

    Attributes:
        feedback_id: Unique name: sent again, the same feedback counts once.
        round_id: The round.
        received_at: Unix time, in s.
        quality: Of the answer, in [0, 1].
        source: Who judged: `gold`, a judge's name, `thumbs`, ...
        comment: In words.
        kind: What was asked.
        other_round_id: The round it was compared with, where two were.
        preference: How far this round's answer is preferred to the other's, in [0, 1]; 0.5 a tie.
        key_id: The key of who said it, to whom other keys' rounds are not known; None where all are.

    Raises:
        InvalidParameterError: A value breaks its rule.
    """

    feedback_id: str
    round_id: str
    received_at: float
    quality: float | None = None
    source: str = GOLD
    comment: str | None = None
    kind: Kind = "quality"
    other_round_id: str | None = None
    preference: float | None = None
    key_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("feedback_id", "round_id", "source"):
            if not getattr(self, name):
                raise InvalidParameterError(f"{name} of feedback must not be empty; got ''")
        if not math.isfinite(self.received_at):
            raise InvalidParameterError(f"received_at must be finite, in Unix seconds; got {self.received_at}")
        for name in ("quality", "preference"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidParameterError(f"{name} of feedback must be in [0, 1], or None; got {value}")
        if self.kind not in get_args(Kind):
            raise InvalidParameterError(f"kind of feedback must be one of {get_args(Kind)}; got {self.kind!r}")
        if (self.preference is None) != (self.other_round_id is None):
            raise InvalidParameterError(
                f"preference and other_round_id go together; got {self.preference} and {self.other_round_id!r}"
            )


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    """What became of feedback.

    Attributes:
        feedback_id: Its name.
        round_id: Its round's.
        status: `accepted`, `duplicate` (it was there already), or `unknown` (the store has no such round, or it is
            another key's).
        seq: Its place in the order in which feedback was accepted, from 1; None where the round is not known.
        decided_at: When its round was decided, in Unix seconds; None where the round is not known.
    """

    feedback_id: str
    round_id: str
    status: Status
    seq: int | None
    decided_at: float | None = None


@dataclass(frozen=True, slots=True)
class JudgedRound:
    """Feedback, with the round it is of.

    Attributes:
        seq: Place in the order in which feedback was accepted.
        feedback: What was said.
        round: Of what.
        previous_quality: What the same source had said of the round before, which this corrects; None where nothing.
    """

    seq: int
    feedback: Feedback
    round: Round
    previous_quality: float | None


ROUND_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Round))
FEEDBACK_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Feedback))
NUMBERS = frozenset({"decided_at", "propensity", "quality_per_usd", "cost_usd", "latency_s", "ttft_s"})
"""The columns of a round that are NaN where not known, and null in a database."""


def round_row(each: Round) -> tuple[Any, ...]:
    """Return the values of a round's columns, as a database takes them."""
    row: list[Any] = list(_values(each))
    for place in _NUMBERS:
        value = row[place]
        row[place] = float(value) if value == value else None
    for place in _TEXTS:
        value = row[place]
        if value is not None:
            row[place] = storable(value)
    row[_ELIGIBLE] = _listed(each.eligible)
    row[_PROBABILITIES] = None if each.probabilities is None else json.dumps(dict(each.probabilities))
    row[_CONTEXT] = None if each.context is None else np.ascontiguousarray(each.context, dtype="<f4").tobytes()
    row[_FALLBACK] = bool(each.fallback)
    return tuple(row)


def round_from(row: Row) -> Round:
    """Return the round whose columns have these values."""
    values: dict[str, Any] = {
        name: math.nan if value is None and name in NUMBERS else value
        for name, value in zip(ROUND_COLUMNS, row, strict=True)
    }
    values["eligible"] = listed(values["eligible"])
    values["fallback"] = bool(values["fallback"])
    if values["probabilities"] is not None:
        values["probabilities"] = json.loads(values["probabilities"])
    if values["context"] is not None:
        values["context"] = np.frombuffer(values["context"], dtype="<f4")
    return Round(**values)


def feedback_row(each: Feedback) -> tuple[Any, ...]:
    """Return the values of feedback's columns, as a database takes them."""
    values = (getattr(each, name) for name in FEEDBACK_COLUMNS)
    return tuple(storable(value) if isinstance(value, str) else value for value in values)


def feedback_from(row: Row) -> Feedback:
    """Return the feedback whose columns have these values."""
    return Feedback(**dict(zip(FEEDBACK_COLUMNS, row, strict=True)))


def storable(text: str) -> str:
    """Return the text without what no database holds: halves of surrogate pairs and, for PostgreSQL, NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


@lru_cache(maxsize=4096)
def listed(names: str) -> tuple[str, ...]:
    """Return the names of a JSON list."""
    return tuple(json.loads(names))


@lru_cache(maxsize=4096)
def _listed(names: tuple[str, ...]) -> str:
    return json.dumps(names)


_values = attrgetter(*ROUND_COLUMNS)
_NUMBERS = tuple(place for place, name in enumerate(ROUND_COLUMNS) if name in NUMBERS)
_TEXTS = tuple(place for place, field in enumerate(fields(Round)) if field.type in ("str", "str | None"))
_ELIGIBLE = ROUND_COLUMNS.index("eligible")
_PROBABILITIES = ROUND_COLUMNS.index("probabilities")
_CONTEXT = ROUND_COLUMNS.index("context")
_FALLBACK = ROUND_COLUMNS.index("fallback")
