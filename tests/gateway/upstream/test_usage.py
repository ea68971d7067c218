"""Tests of reading usage."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.gateway.upstream import Usage


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, Usage(3, 2)),
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3, 0)),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}},
            Usage(3, 2, 1),
        ),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None}}, Usage(3, 0)),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 9}}},
            Usage(3, 0, 3),
        ),
        ({"usage": None}, None),
        ({"usage": {}}, None),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 2}}, None),
        ({"usage": {"prompt_tokens": 1.5, "completion_tokens": 2}}, None),
        ({"usage": {"prompt_tokens": True, "completion_tokens": 2}}, None),
        ({}, None),
        ([], None),
    ],
)
def test_reads_what_is_stated_and_nothing_else(answer: Any, expected: Usage | None):
    """What is not stated, or makes no sense, is not known, rather than zero."""
    assert Usage.of(answer) == expected
