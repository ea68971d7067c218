"""Versions of routers: named by their content, in one role at a time, and whole whatever is killed."""

# ruff: noqa: S603 - the processes started here are our own code
from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import pointsman as pm
from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.trade_off import TradeOff
from pointsman.versions import HASH_LENGTH, LEARNED, REGISTRY, STAGED, VERSIONS, Registry
from tests.tables import small_logs

WRITER = """
import sys, dataclasses, itertools
from pointsman.registry import load_router
from pointsman.trade_off import TradeOff
from pointsman.versions import Registry
registry, router, name, n = Registry(sys.argv[1]), load_router(sys.argv[2]), sys.argv[3], int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for i in range(n):
    version = registry.add(dataclasses.replace(router, default_trade_off=TradeOff(float(i % 5))), why=name)
    registry.keep_learned(version, router)
    registry.promote(version, why=name)
    registry.note("refit", version, why=f"{name} {i}")
"""


@pytest.fixture(scope="module")
def routers():
    """Two routers of the small table: one that routes, and one that does not."""
    log, _, _ = small_logs()
    return pm.fit(log, method="direct"), pm.fit(log, method="best-single")


@pytest.fixture
def registry(tmp_path):
    """An empty one."""
    return Registry(tmp_path / "registry")


def test_a_version_is_its_content(registry, routers):
    """The same router is there once, under the beginning of its hash; another one has another name."""
    first = registry.add(routers[0], why="fitted", prices_usd={"dear": 0.5})
    assert registry.add(routers[0], why="again") == first
    assert first == pm.save_router(routers[0], registry.folder.with_name("copy"))[:HASH_LENGTH]
    second = registry.add(routers[1])
    assert list(registry.roles().versions) == [first, second]
    assert registry.roles().versions[first].why == "fitted"
    assert registry.roles().versions[first].prices_usd == {"dear": 0.5}
    assert sorted(each.name for each in (registry.folder / VERSIONS).iterdir()) == sorted([first, second])
    assert registry.load(first).facts == pm.load_router(registry.folder.with_name("copy")).facts
    assert registry.roles().deciding is None  # nothing decides until it is promoted


def test_a_second_roll_back_undoes_the_first(registry, routers):
    """Promoting keeps the way back, and so does going back; each is in the history."""
    a, b = (registry.add(each) for each in routers)
    with pytest.raises(InvalidParameterError, match="previous"):
        registry.roll_back()
    registry.shadow(b)
    registry.promote(a)
    registry.promote(b, why="it is better")
    assert registry.roles().of(b) == ["current"]  # and no more in shadow
    assert registry.roll_back() == a
    assert (registry.roles().current, registry.roles().previous) == (a, b)
    assert registry.roll_back() == b
    told = [(event.what, event.version) for event in registry.roles().history if event.what != "add"]
    assert told == [("shadow", b), ("promote", a), ("promote", b), ("roll back", a), ("roll back", b)]
    assert registry.roles().history[4].why == "it is better"


def test_a_pinned_version_decides_whatever_is_promoted(registry, routers):
    """It decides until it is unpinned."""
    a, b = (registry.add(each) for each in routers)
    registry.promote(a)
    registry.pin(a[:5])
    registry.promote(b)
    assert registry.roles().deciding == a
    registry.pin(None)
    assert registry.roles().deciding == b


def test_what_a_version_learned_stands_beside_it(registry, routers):
    """The version itself never changes, and what changed shows in the stamp."""
    version = registry.add(routers[0])
    registry.promote(version)
    stamp = registry.stamp()
    assert registry.stamp() == stamp
    registry.keep_learned(version, dataclasses.replace(routers[0], default_trade_off=TradeOff(7.0)))
    assert registry.stamp() != stamp
    assert registry.load(version).default_trade_off == TradeOff(7.0)
    assert registry.load(version, learned=False).default_trade_off == TradeOff(0.0)


def test_the_difference_of_two_versions(registry, routers):
    """Of a router with itself no decision differs; of two that never vary, the share of unlike choices does."""
    a, b = (registry.add(each) for each in routers)
    _, _, truth = small_logs()
    prompts, at = list(truth.prompt), TradeOff(20.0)
    assert registry.diff(a, a, prompts=prompts, trade_off=at)["share_differs"] == 0.0
    found = registry.diff(a[:6], b, prompts=prompts, trade_off=at)
    chosen = [each.probabilities(each.context(prompts), at).argmax(axis=1) for each in routers]
    assert found["share_differs"] == pytest.approx(np.mean(chosen[0] != chosen[1]))
    assert found["share_differs"] > 0.1
    assert found["methods"] == ["direct", "best-single"]
    assert found["models"] == {"both": ["cheap", "coder", "dear"], "only_a": [], "only_b": []}
    assert found["mean_quality"]["dear"] == [each.facts.mean_quality["dear"] for each in routers]
    assert registry.diff(a, b)["share_differs"] is None


def test_a_version_without_a_role_is_removed(registry, routers):
    """With what it has learned; one that does something stays. Added again, it is there again."""
    a, b = (registry.add(each) for each in routers)
    registry.promote(a)
    registry.shadow(b)
    registry.keep_learned(b, routers[1])
    with pytest.raises(InvalidParameterError, match="no role"):
        registry.remove(b)
    registry.shadow(None)
    assert registry.remove(b[:6]) == b
    assert list(registry.roles().versions) == [a]
    assert not [*registry.folder.glob(f"*/{b}")]
    (registry.folder / VERSIONS / b).mkdir()
    (registry.folder / VERSIONS / b / "manifest.json").write_text("{}")  # half of it, as a killed writer may leave it
    assert registry.add(routers[1]) == b
    assert registry.load(b).facts == routers[1].facts


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ("{}", "no registry"),
        ("[]", "no registry"),
        ('{"format": "pointsman-registry", "format_version": 2}', "format_version <= 1"),
        ('{"format": "pointsman-registry", "format_version": 1, "versions": {}, "history": [], "x": 1}', "no registry"),
    ],
)
def test_what_is_no_registry_is_refused(registry, content, told):
    """A file that is cut, foreign or newer says so."""
    registry.folder.mkdir()
    (registry.folder / REGISTRY).write_text(content)
    with pytest.raises(InvalidRouterError, match=told):
        registry.roles()


def test_an_unknown_version_is_named(registry, routers):
    """Neither a wrong name, nor none, nor a beginning of two names is a version."""
    registry.add(routers[0])
    for name in ("zzz", ""):
        with pytest.raises(InvalidParameterError, match="version must name"):
            registry.promote(name)


def start_writer(registry, router, name, n):
    """A process that is ready to write, once it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(registry.folder), str(router), name, str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def test_writers_wait_for_each_other(registry, routers, tmp_path):
    """Two processes that write at once lose nothing of either, and readers see a whole registry throughout."""
    pm.save_router(routers[0], tmp_path / "router")
    writers = [start_writer(registry, tmp_path / "router", name, 12) for name in ("one", "two")]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        roles = registry.roles()
        if roles.current is not None:
            registry.load(roles.current)
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    noted = [event.why for event in registry.roles().history if event.what == "refit"]
    assert sorted(noted) == sorted(f"{name} {i}" for name, i in itertools.product(("one", "two"), range(12)))
    assert len(registry.roles().versions) == 5


def test_kill_9_leaves_a_whole_registry(registry, routers, tmp_path):
    """Killed at any moment, every version that is named can be loaded, the next writer goes on, and sweeps up."""
    pm.save_router(routers[0], tmp_path / "router")
    registry.add(routers[1])
    for life in range(6):
        process = start_writer(registry, tmp_path / "router", f"life {life}", 10_000)
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(0.02 + 0.013 * life)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        roles = registry.roles()
        for version in roles.versions:
            registry.load(version, learned=False)
            registry.load(version)
    for home in (VERSIONS, LEARNED):
        (registry.folder / home / f"{STAGED}left").mkdir()
    registry.sweep()
    assert not [*registry.folder.glob(f"*/{STAGED}*")]
    json.loads((registry.folder / REGISTRY).read_text())


def test_a_role_that_one_process_has_is_let_go(registry):
    """While one holds it another one is told so; then it is free again."""
    with registry.alone("learner") as first:
        assert first
        with registry.alone("learner") as second:
            assert not second
    with registry.alone("learner") as third:
        assert third
