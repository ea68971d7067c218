"""Tests of splitting and reading server-sent events."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pointsman.gateway.upstream import sse
from tests.gateway.upstreams import chunk, stream_events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_cut_anywhere_comes_out_whole(rng: np.random.Generator, end: bytes, seed: int):
    """However a stream is cut, its pieces join to the same bytes, and each piece ends with an event's end."""
    stream = b"".join(stream_events(with_usage=True)).replace(b"\n", end)
    cuts = [0, *sorted(rng.integers(0, len(stream), size=12).tolist()), len(stream)]
    splitter = sse.EventSplitter()

    blocks = [splitter.feed(stream[a:b]) for a, b in itertools.pairwise(cuts)]

    assert b"".join(blocks) == stream
    assert not splitter.rest
    assert all(block.endswith(end * 2) for block in blocks if block)
    events = [event for block in blocks for event in sse.events(block)]
    assert events == [event.replace(b"\n", end) for event in stream_events(with_usage=True)]


def test_data_of_several_lines_is_joined():
    """As the standard says; comments hold none."""
    assert sse.payload(b'event: x\ndata: {"a":\ndata:1}\nid: 3\n\n') == b'{"a":\n1}'
    assert sse.payload(b": comment\n\n") == b""


@pytest.mark.parametrize("data", [b"{", b"[1]", b"null", b'"text"', b'{"a": NaN}', b'{"a": "\xff"}'])
def test_only_an_object_is_one(data: bytes):
    """Half an object, or JSON of another kind, is none."""
    assert sse.object_of(data) is None
    assert sse.object_of(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (chunk({"role": "assistant", "content": ""}), False),
        (chunk({"role": "assistant", "content": None, "tool_calls": []}), False),
        (chunk({}), False),
        (chunk(None, prompt_filter_results=[]), False),
        (chunk({"content": " "}), True),
        (chunk({"reasoning_content": "so"}), True),
        (chunk({"tool_calls": [{"index": 0}]}), True),
        (chunk({"refusal": "no"}), True),
        (chunk({}, "stop"), True),
        (b'data: {"type": "other"}\n\n', True),
    ],
)
def test_knows_content_from_what_comes_before_it(event: bytes, expected: bool):
    """A role, an identity or empty text is not content; whatever else there is, is."""
    assert sse.is_content(sse.object_of(sse.payload(event)) or {}) is expected


def test_what_a_model_writes_looks_like_no_fact():
    """Text that quotes a finish reason or `[DONE]` is text."""
    text = '"finish_reason": "stop"\ndata: [DONE]'
    event = chunk({"content": text})
    assert not sse.FINISH.search(event)
    assert not sse.DONE.search(event)
