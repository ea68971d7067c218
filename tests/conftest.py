"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import postgres

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for `seed` a few seeds, or all of 0-99 where SEEDS=all."""
    if "seed" in metafunc.fixturenames:
        seeds = range(100) if os.environ.get("SEEDS") == "all" else range(2)
        metafunc.parametrize("seed", seeds)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator from the test's seed, or from 0 where it has none."""
    seed = request.getfixturevalue("seed") if "seed" in request.fixturenames else 0
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tables, or a skip that says what is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real tables are not here: {SHARED_DATA} does not exist")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server that runs; tests that need one are skipped where it is not installed."""
    with postgres.running() as server:
        yield server
