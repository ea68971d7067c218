"""Server-sent events, split and read without changing a byte of what is passed on."""

from __future__ import annotations

import itertools
import re
from typing import Any

import orjson

END = re.compile(rb"\n\r?\n|\r\r")
"""What ends an event: an empty line, however lines end."""

DONE = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
DONE_DATA = b"[DONE]"
# In a string of JSON a quote is escaped, so what a model writes cannot look like this.
FINISH = re.compile(rb'"finish_reason"\s*:\s*"')


class EventSplitter:
    """Cuts a stream of bytes after its last whole event, and keeps the rest for later.

    Attributes:
        rest: Bytes of an event whose end has not come yet.
    """

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Return all whole events that stand now, as they came; empty where there is none."""
        if not self.rest and chunk.endswith(b"\n\n"):
            return chunk
        # Where the chunk's first bytes complete an end, its beginning lies in what was kept.
        start = max(len(self.rest) - 2, 0)
        self.rest += chunk
        end = 0
        for found in END.finditer(self.rest, start):
            end = found.end()
        whole = bytes(self.rest[:end])
        del self.rest[:end]
        return whole


def events(block: bytes) -> list[bytes]:
    """Return the events of a block, each with its end; what has no end comes last."""
    if block.find(b"\n\n") == len(block) - 2 and b"\r" not in block:  # One event, as nearly all blocks are.
        return [block]
    cuts = [0, *(found.end() for found in END.finditer(block))]
    if cuts[-1] < len(block):
        cuts.append(len(block))
    return [block[a:b] for a, b in itertools.pairwise(cuts)]


def payload(event: bytes) -> bytes:
    """Return the data of an event; empty for a comment or an event without any."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def is_content(chunk: dict[str, Any]) -> bool:
    """Return whether a chunk holds something of the answer: more than a role, an identity or empty text."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return True  # Not a chat chunk: it is not for us to hold it back.
    for choice in choices:
        if not isinstance(choice, dict) or choice.get("finish_reason") is not None:
            return True
        delta = choice.get("delta")
        if not isinstance(delta, dict) or any(value for name, value in delta.items() if name != "role"):
            return True
    return False


def object_of(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the data of an event is; None where it is none."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
