"""Fixtures of the encoder tests."""

from __future__ import annotations

import pytest
from counting import CountingEncoder


@pytest.fixture
def counting() -> CountingEncoder:
    """An encoder that remembers what it was asked for."""
    return CountingEncoder()
