"""How many tokens a call took, by the upstream's own count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call.

    Attributes:
        tokens_in: Of the prompt, the cached ones among them.
        tokens_out: Of the answer.
        tokens_cached: Of the prompt, read from the upstream's cache.
    """

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0

    @classmethod
    def of(cls, answer: Any) -> Usage | None:
        """Return the usage that an answer or a chunk states; None where it states none, which is not the same as 0."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return None
        tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
        if not (_is_count(tokens_in) and _is_count(tokens_out)):
            return None
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return cls(tokens_in, tokens_out, min(cached, tokens_in) if _is_count(cached) else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
