"""Feedback on rounds: quality, thumbs or a preference between two rounds, one or many at a time."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pointsman.gateway.errors import ApiError
from pointsman.gateway.request import parse_object
from pointsman.logs.store.records import Feedback

if TYPE_CHECKING:
    from pointsman.logs.store.records import FeedbackResult, Kind

MAX_BATCH = 1000
MAX_COMMENT = 10_000
FIELDS = frozenset(
    {"feedback_id", "round_id", "quality", "thumbs", "source", "comment", "other_round_id", "preference"}
)
DEFAULT_SOURCE = "gold"
THUMBS = {"up": 1.0, "down": 0.0}


def parse_feedback(body: bytes, *, now: float, key_id: str | None = None) -> tuple[list[Feedback], bool]:
    """Return the feedback of a body, and whether it came as `{"feedback": [...]}`.

    Args:
        body: One feedback as JSON, or a batch of them.
        now: When it came, in Unix seconds.
        key_id: Whose it is, to whom other keys' rounds are not known; None without keys.

    Raises:
        ApiError: A field is missing, not known, or breaks its rule; nothing of the batch is taken then.
    """
    document = parse_object(body)
    batch = document.get("feedback")
    if batch is None:
        return [_feedback(document, "", now, key_id)], False
    if not isinstance(batch, list) or not 1 <= len(batch) <= MAX_BATCH or document.keys() != {"feedback"}:
        raise ApiError(400, f"feedback must be a list of 1 to {MAX_BATCH}, alone in the body", param="feedback")
    return [_feedback(given, f"feedback[{i}]", now, key_id) for i, given in enumerate(batch)], True


def told(results: Sequence[FeedbackResult], *, is_batch: bool) -> tuple[dict[str, Any], int]:
    """Return what the client is told, and the HTTP status: 404 for one feedback on a round that is not known."""
    rows = [
        {"feedback_id": result.feedback_id, "round_id": result.round_id, "status": result.status} for result in results
    ]
    if is_batch:
        return {"results": rows}, 200
    if rows[0]["status"] == "unknown":
        raise ApiError(404, "the round is not known", param="round_id", code="round_not_found")
    return rows[0], 200


def _feedback(given: Any, place: str, now: float, key_id: str | None) -> Feedback:
    def fault(name: str, rule: str) -> ApiError:
        return ApiError(400, f"{name} must be {rule}", param=f"{place}.{name}".removeprefix("."))

    def text(name: str, limit: int) -> str | None:
        value = given.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise fault(name, f"a string of 1 to {limit} characters")
        return value

    def share(name: str) -> float | None:
        value = given.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise fault(name, "a number in [0, 1]")
        return float(value)

    if not isinstance(given, dict) or not given.keys() <= FIELDS:
        raise ApiError(400, f"feedback must be an object of {', '.join(sorted(FIELDS))}", param=place or None)
    round_id = text("round_id", 200)
    if round_id is None:
        raise fault("round_id", "given: the answer's x-pointsman-round-id")
    quality, preference, other = share("quality"), share("preference"), text("other_round_id", 200)
    thumbs, comment = text("thumbs", 4), text("comment", MAX_COMMENT)
    if thumbs is not None and thumbs not in THUMBS:
        raise fault("thumbs", '"up" or "down"')
    if (preference is None) != (other is None):
        raise fault("preference", "given together with other_round_id")
    if sum(value is not None for value in (quality, thumbs, preference)) > 1:
        raise fault("quality", "the only one of quality, thumbs and preference")
    if quality is None and thumbs is None and preference is None and comment is None:
        raise fault("quality", "given, or thumbs, a preference or a comment")
    if other == round_id:
        raise fault("other_round_id", "another round")
    kind: Kind = "thumbs" if thumbs is not None else "preference" if preference is not None else "quality"
    return Feedback(
        feedback_id=text("feedback_id", 200) or uuid.uuid4().hex,
        round_id=round_id,
        received_at=now,
        quality=THUMBS[thumbs] if thumbs is not None else quality,
        source=text("source", 100) or ("thumbs" if thumbs is not None else DEFAULT_SOURCE),
        comment=comment,
        kind=kind,
        other_round_id=other,
        preference=preference,
        key_id=key_id,
    )
