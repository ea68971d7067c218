"""The learner as a process: killed at any moment it goes on, and learns nothing twice."""

# ruff: noqa: S603 - the processes started here are our own code
from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import pointsman as pm
from pointsman.errors import InvalidRouterError
from pointsman.gateway.decide import RouteRequest
from pointsman.gateway.learn.worker import Learner, run
from pointsman.gateway.routing import RouterDecider, open_registry
from pointsman.gateway.settings import SettingsFile
from pointsman.live import online
from pointsman.logs.store import Feedback, Round, SqliteStore
from pointsman.versions import Registry
from tests.gateway.routers import PRICES, mean_quality, price, router_settings, traffic
from tests.tables import MODELS, small_logs, small_table


@pytest.fixture(scope="module")
def fitted():
    """A router that does not learn, and one of it that does."""
    log, _, _ = small_logs()
    router = pm.fit(log, method="direct")
    return router, pm.warm_start(router, log)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    with SqliteStore.open(tmp_path / "log.db") as store:
        yield store


def settings_file(folder, **more):
    """The settings of `router_settings`, as a file."""
    models = [{"name": name, "upstream": "main", "price": price(PRICES[name])} for name in MODELS]
    path = folder / "pointsman.yaml"
    path.write_text(
        json.dumps(
            {
                "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
                "models": models,
                "store": {"url": "sqlite:///log.db"},
                "router": {"registry": "registry"},
                "learn": {"interval_s": 0.02},
                **more,
            }
        )
    )
    return path


def start(path):
    """A learner of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pointsman.gateway.learn", "--config", str(path)], stderr=subprocess.PIPE, text=True
    )


def wait_until(is_so, process, *, seconds=60.0):
    """Wait until something is so, while the process lives."""
    until = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)


def learned_through(registry):
    """How far what decides has learned."""
    roles = registry.roles()
    return 0 if roles.current is None else online(registry.load(roles.current)).learned_through


def test_routing_rises_from_nothing(tmp_path, store):
    """Without any router, feedback alone takes quality from that of an even choice to near the best's."""
    settings = router_settings(tmp_path)
    registry = open_registry(settings)
    decider = RouterDecider(registry, settings, seed=0)
    learner = Learner(registry, store, settings)
    table = small_table()
    before = mean_quality(decider, table)
    assert before == pytest.approx(table.quality.mean(), abs=0.05)
    for i in range(8):
        traffic(decider, store, table, n_rounds=60, first=60 * i)
        assert learner.step() == 60
        assert decider.refresh()
    assert mean_quality(decider, table) > 0.85  # the best single model has 0.9, at ten times the price
    assert decider.version.endswith("+480")
    assert learner.step() == 0
    assert not decider.refresh()  # nothing new was learned, and nothing is written


def test_kill_9_learns_nothing_twice(tmp_path, fitted, store):
    """Killed four times while feedback comes in, it is where one that was never killed would be."""
    registry = Registry(tmp_path / "registry")
    version = registry.add(fitted[1])
    registry.promote(version)
    path = settings_file(tmp_path)
    settings = SettingsFile(path).settings
    decider = RouterDecider(registry, settings, seed=0)
    table = small_table()
    n_said = 0
    for life in range(4):
        process = start(path)
        before = learned_through(registry)
        for _ in range(3 + life):
            traffic(decider, store, table, n_rounds=17, first=n_said)
            n_said += 17
        wait_until(lambda: learned_through(registry) > before, process)  # noqa: B023 - called at once
        time.sleep(0.004 * life)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert registry.load(version, learned=False).facts == fitted[1].facts
    process = start(path)
    traffic(decider, store, table, n_rounds=17, first=n_said)
    n_said += 17
    wait_until(lambda: learned_through(registry) == n_said, process)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    fresh = Registry(tmp_path / "fresh")
    fresh.promote(fresh.add(fitted[1]))
    once = Learner(fresh, store, settings)
    assert once.step() == n_said
    found, expected = (online(each).learner for each in (registry.load(version), once.router))
    assert found.n_outcomes == pytest.approx(expected.n_outcomes)
    # In batches of other sizes the same numbers are added up, so they differ by rounding only.
    np.testing.assert_allclose(found.quality.mean, expected.quality.mean, atol=1e-8)


def test_a_router_that_does_not_learn_is_made_one_that_does(tmp_path, fitted, store):
    """Once there is enough feedback; and what made it so is not learned again."""
    settings = router_settings(tmp_path)
    registry = Registry(settings.router.registry)
    version = registry.add(fitted[0])
    registry.promote(version)
    decider = RouterDecider(registry, settings, seed=0)
    learner = Learner(registry, store, settings)
    assert learner.step() == 0  # the store is empty
    traffic(decider, store, small_table(), n_rounds=60)
    assert learner.step() == 0
    assert decider.version == version
    traffic(decider, store, small_table(), n_rounds=60, first=60)
    assert learner.step() == 0
    assert learned_through(registry) == 120
    traffic(decider, store, small_table(), n_rounds=5, first=120)
    assert learner.step() == 5
    assert decider.refresh()
    assert decider.version == f"{version}+125"
    bandit = online(learner.router).learner
    assert bandit.n_outcomes == pytest.approx(125)


def test_a_model_that_is_new_is_tried(tmp_path, fitted, store):
    """The configured model that the router does not know is one of its arms at the next step, at its price."""
    registry = Registry(tmp_path / "registry")
    version = registry.add(fitted[1])
    registry.promote(version)
    settings = router_settings(tmp_path, models=(*MODELS, "new"))
    decider = RouterDecider(registry, settings)
    assert decider.decide(RouteRequest(prompt="soup")).probabilities["new"] == pytest.approx(0.02 / 4)
    assert Learner(registry, store, settings).step() == 0
    assert decider.refresh()
    assert decider.decide(RouteRequest(prompt="soup")).probabilities["new"] > 0.02
    ready = decider._routers.deciding
    cost_usd = ready.expected(decider.decide(RouteRequest(prompt="soup")).context, ("cheap", "new"))[1]
    assert cost_usd[1] / cost_usd[0] == pytest.approx(10, rel=0.3)  # 1 and 0.1 USD a million tokens


def test_what_it_cannot_learn_is_read_past(tmp_path, fitted, store):
    """Contexts of another encoder, and of models that are gone, stop nothing."""
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.add(fitted[1]))
    settings = router_settings(tmp_path)
    decider = RouterDecider(registry, settings, seed=0)
    contexts = [np.ones(7, np.float32), None, np.full(256, np.nan, np.float32), np.ones(256, np.float32)]
    for i, context in enumerate(contexts):
        model = "dear" if i < 3 else "gone"
        store.add_rounds([Round(round_id=f"r{i}", decided_at=float(i), model=model, propensity=0.5, context=context)])
        store.add_feedback([Feedback(feedback_id=f"f{i}", round_id=f"r{i}", received_at=float(i), quality=0.0)])
    mean = online(fitted[1]).learner.quality.mean.copy()
    learner = Learner(registry, store, settings)
    assert learner.step() == 4
    np.testing.assert_array_equal(online(learner.router).learner.quality.mean, mean)
    traffic(decider, store, small_table(), n_rounds=3)
    assert learner.step() == 3
    assert not np.array_equal(online(learner.router).learner.quality.mean, mean)


def test_a_roll_back_goes_on_learning_where_it_was(tmp_path, fitted, store):
    """The version that comes back learns all that was said while another one decided."""
    settings = router_settings(tmp_path)
    registry = Registry(settings.router.registry)
    first = registry.add(fitted[1])
    registry.promote(first)
    decider, learner = RouterDecider(registry, settings, seed=0), Learner(registry, store, settings)
    traffic(decider, store, small_table(), n_rounds=20)
    assert learner.step() == 20
    second = registry.add(pm.warm_start(fitted[0], small_logs()[0], trust=0.5))
    registry.promote(second)
    traffic(decider, store, small_table(), n_rounds=10, first=20)
    assert learner.step() == 30
    assert registry.roll_back() == first
    assert learner.step() == 10
    assert learner.version == first
    registry.pin(second)
    decider.refresh()
    assert decider.version == second  # as it was added, though it had learned
    traffic(decider, store, small_table(), n_rounds=10, first=30)
    assert learner.step() == 10  # the current one goes on learning meanwhile
    assert learner.version == first


def test_what_is_on_trial_learns_as_well(tmp_path, fitted, store):
    """A canary that learns has the same feedback as what decides, a shadow that does not stays what it was."""
    settings = router_settings(tmp_path, learn={"canary_share": 0.5})
    registry = Registry(settings.router.registry)
    registry.promote(registry.add(fitted[1]))
    canary = registry.add(pm.warm_start(fitted[0], small_logs()[0], trust=0.5))
    registry.canary(canary)
    registry.shadow(registry.add(fitted[0]))
    decider, learner = RouterDecider(registry, settings, seed=0), Learner(registry, store, settings)
    traffic(decider, store, small_table(), n_rounds=20)
    assert learner.step() == 20
    assert online(registry.load(canary, learned=True)).learned_through == learned_through(registry) == 20
    assert decider.refresh()
    traffic(decider, store, small_table(), n_rounds=20, first=20)
    served = {judged.round.router_version for judged in store.feedback_after(20)}
    assert {version.rpartition("+")[2] for version in served} == {"20"}
    assert len(served) == 2
    assert learner.step() == 20


def test_a_trial_that_is_broken_stops_nothing(tmp_path, fitted, store):
    """The current version learns on, and the learner says once which one does not."""
    settings = router_settings(tmp_path)
    registry = Registry(settings.router.registry)
    registry.promote(registry.add(fitted[1]))
    canary = registry.add(pm.warm_start(fitted[0], small_logs()[0], trust=0.5))
    registry.canary(canary)
    for path in (registry.folder / "versions" / canary).iterdir():
        path.write_bytes(b"broken")
    decider, learner = RouterDecider(registry, settings, seed=0), Learner(registry, store, settings)
    traffic(decider, store, small_table(), n_rounds=20)
    assert (learner.step(), learned_through(registry)) == (20, 20)


def test_what_was_learned_wrongly_is_not_kept(tmp_path, fitted, store):
    """A posterior that makes no probabilities any more stays out of the registry, and the next step begins anew."""
    settings = router_settings(tmp_path)
    registry = Registry(settings.router.registry)
    version = registry.add(fitted[1])
    registry.promote(version)
    decider, learner = RouterDecider(registry, settings, seed=0), Learner(registry, store, settings)
    traffic(decider, store, small_table(), n_rounds=5)
    learner.step()
    online(learner.router).learner.quality.mean[:] = math.nan
    traffic(decider, store, small_table(), n_rounds=5, first=5)
    with pytest.raises(InvalidRouterError, match="not kept"):
        learner.step()
    assert learned_through(registry) == 5
    assert learner.step() == 5
    assert learned_through(registry) == 10


def test_without_the_database_routing_goes_on(tmp_path, fitted, store):
    """The store gone, the learner says so and lives; decisions are what they were."""
    registry = Registry(tmp_path / "registry")
    version = registry.add(fitted[1])
    registry.promote(version)
    path = settings_file(tmp_path)
    settings = SettingsFile(path).settings
    traffic(RouterDecider(registry, settings, seed=0), store, small_table(), n_rounds=30)
    process = start(path)
    wait_until(lambda: learned_through(registry) == 30, process)
    decider = RouterDecider(registry, settings)
    before = decider.decide(RouteRequest(prompt="soup")).probabilities
    store.close()
    for each in tmp_path.glob("log.db*"):
        if each.is_file():
            each.write_bytes(b"no database any more")
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert "nothing was learned this time" in errors
    again = RouterDecider(registry, settings)
    assert again.version == f"{version}+30"
    assert again.decide(RouteRequest(prompt="soup")).probabilities == before


def test_one_learner_at_a_time(tmp_path, fitted, store):
    """A second one says that there is one, and stops."""
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.add(fitted[1]))
    path = settings_file(tmp_path)
    with registry.alone("learner"):
        process = start(path)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "another one is at work" in errors


def test_says_that_another_registry_needs_a_restart(tmp_path, fitted, caplog):
    """It goes on with the one that it began with; other changes are taken over without a word."""
    file = SettingsFile(settings_file(tmp_path))
    stop = threading.Event()
    learner = threading.Thread(target=run, args=(file, stop))
    learner.start()
    try:
        for more, is_told in (({"session": {"ttl_s": 5}}, False), ({"router": {"registry": "another"}}, True)):
            settings_file(tmp_path, **more)
            until = time.monotonic() + 20
            while ("needs a restart" in caplog.text) != is_told or file.changed():
                assert time.monotonic() < until
                time.sleep(0.02)
            time.sleep(0.1)
            assert ("needs a restart" in caplog.text) == is_told
    finally:
        stop.set()
        learner.join()
    assert not (tmp_path / "another").exists()


def test_a_refit_is_due_by_the_history(tmp_path, fitted, store):
    """Its time counts from the last one, so a restart neither repeats nor forgets it."""
    registry = Registry(tmp_path / "registry")
    version = registry.add(fitted[1])
    registry.promote(version)
    rarely = router_settings(tmp_path, learn={"refit_interval_s": 3600.0})
    often = router_settings(tmp_path, learn={"refit_interval_s": 1e-3})
    assert not Learner(registry, store, router_settings(tmp_path)).is_refit_due()
    assert not Learner(registry, store, rarely).is_refit_due()
    learner = Learner(registry, store, often)
    time.sleep(0.002)
    assert learner.is_refit_due()
    learner.refit_aside()
    until = time.monotonic() + 30
    while not any(event.what == "refit" for event in registry.roles().history):
        assert time.monotonic() < until
        time.sleep(0.01)
    told = registry.roles().history[-1]
    assert (told.what, told.version) == ("refit", None)
    assert "needs rounds" in told.why  # the store is empty


def test_once_is_once(tmp_path, fitted, store):
    """With `once` it learns what is there, and returns."""
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.add(fitted[1]))
    file = SettingsFile(settings_file(tmp_path))
    traffic(RouterDecider(registry, file.settings, seed=0), store, small_table(), n_rounds=4)
    run(file, once=True)
    assert learned_through(registry) == 4
