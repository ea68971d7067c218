"""The gate: a refit serves once it is shown to be no worse on later rounds; until then it stays in shadow."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import pointsman as pm
from pointsman.errors import StatisticalWarning
from pointsman.gateway.decide import RouteRequest
from pointsman.gateway.learn.heard import read_log
from pointsman.gateway.learn.refit import HELD_OUT, refit
from pointsman.gateway.routing import RouterDecider
from pointsman.live import online
from pointsman.logs.store import SqliteStore
from pointsman.versions import Registry
from tests.gateway.routers import mean_quality, router_settings, traffic
from tests.tables import small_logs, small_table

FLOOR = 0.6
N_ROUNDS = 900


@pytest.fixture(autouse=True)
def _quiet():
    """Refits of a few hundred rounds warn of what they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticalWarning)
        yield


@pytest.fixture(scope="module")
def fitted():
    """Routers of the small table: the one that routes, and the one that learns from it."""
    log, _, _ = small_logs()
    router = pm.fit(log, method="direct")
    return {"direct": router, "online": pm.warm_start(router, log)}


@pytest.fixture
def make(tmp_path):
    """Makes a registry in which this router serves, with a log of what it did, and closes the store in the end."""
    stores = []

    def make(router, *, name="a", n_rounds=N_ROUNDS, prompts=True, **gate):
        folder = tmp_path / name
        folder.mkdir()
        settings = router_settings(
            folder,
            exploration={"floor": FLOOR},
            learn={"gate": {"min_rounds": 300, **gate}},
            router={"registry": folder / "registry", "trade_off": {"quality_per_usd": 50.0}},
        )
        registry = Registry(folder / "registry")
        registry.promote(registry.add(router))
        store = SqliteStore.open(folder / "log.db")
        stores.append(store)
        traffic(RouterDecider(registry, settings, seed=0), store, small_table(n_prompts=600, seed=5), n_rounds=n_rounds)
        if not prompts:
            store.execute("UPDATE rounds SET prompt = NULL")
        return registry, store, settings

    yield make
    for store in stores:
        store.close()


def worst():
    """A router that learned from a log in which good and bad are exchanged."""
    log, _, _ = small_logs()
    return pm.fit(log.with_columns(quality=1 - log.quality), method="direct")


@pytest.mark.parametrize("prompts", [True, False])
def test_a_better_router_is_promoted(make, prompts):
    """Against one that takes bad models for good: it serves, has learned all that was said, and can be taken back.

    Whether prompts are kept, or only what the router saw of them.
    """
    registry, store, settings = make(worst(), prompts=prompts)
    before = registry.roles().current
    table = small_table(n_prompts=100, seed=6)
    bad = mean_quality(RouterDecider(registry, settings), table)
    outcome = refit(registry, store, settings)
    assert outcome.is_promoted, outcome.why
    roles = registry.roles()
    assert (roles.current, roles.previous) == (outcome.version, before)
    assert [verdict["met"] for verdict in outcome.verdicts] == [True]
    assert outcome.verdicts[0]["quality_per_usd"] == 50.0
    decider = RouterDecider(registry, settings)
    assert mean_quality(decider, table) > bad + 0.1
    assert decider.version == f"{outcome.version}+{N_ROUNDS}"
    # What serves has learned each outcome once, the later ones as well, and says so to whoever evaluates it.
    learned = registry.load(outcome.version)
    assert online(learned).learner.n_outcomes == pytest.approx(N_ROUNDS)
    compared = registry.load(outcome.version, learned=False)
    assert online(compared).learner.n_outcomes == pytest.approx(round(N_ROUNDS * (1 - HELD_OUT)))
    assert learned.training_rounds.size == N_ROUNDS
    assert compared.training_rounds.size == round(N_ROUNDS * (1 - HELD_OUT))
    assert [event.what for event in roles.history][-2:] == ["promote", "refit"]
    assert registry.roll_back() == before


def test_what_is_not_shown_to_be_better_stays_in_shadow(make, fitted):
    """Against one that learned from the same table nothing is shown: it decides on trial, and the old one serves."""
    registry, store, settings = make(fitted["online"])
    before = registry.roles().current
    outcome = refit(registry, store, settings)
    assert not outcome.is_promoted
    assert "not shown to meet utility>=0" in outcome.why
    roles = registry.roles()
    assert (roles.current, roles.shadow) == (before, outcome.version)
    decided = RouterDecider(registry, settings).decide(RouteRequest(prompt="soup"))
    assert decided.router_version == before
    assert decided.shadow_version.startswith(outcome.version)


def test_a_margin_lets_an_equal_router_pass(make, fitted):
    """The same comparison meets a requirement that allows for a tenth of a point."""
    registry, store, settings = make(fitted["online"], requirement="utility>=-0.1")
    assert refit(registry, store, settings).is_promoted


def test_too_few_rounds_are_not_looked_at(make, fitted):
    """Nothing is fitted, and the history says why."""
    registry, store, settings = make(fitted["direct"], n_rounds=100)
    outcome = refit(registry, store, settings)
    assert outcome.version is None
    assert "100 rounds have feedback; the gate asks for 300" in outcome.why
    assert registry.roles().history[-1].why == outcome.why


def test_what_serves_is_compared_as_it_was(make, fitted, monkeypatch):
    """A version that goes on learning has learned, where it is compared, the feedback on the earlier rounds alone."""
    registry, store, settings = make(fitted["online"])
    seen = {}

    def kept(target, log, **options):
        seen.update(log=log, base=options["against"]["serving"], candidate=target["refit"])
        raise ValueError("enough was seen")

    monkeypatch.setattr("pointsman.gateway.learn.refit.evaluate", kept)
    assert "enough was seen" in refit(registry, store, settings).why
    n_early = round(N_ROUNDS * (1 - HELD_OUT))
    n_before = online(fitted["online"]).learner.n_outcomes
    assert online(seen["base"]).learner.n_outcomes == pytest.approx(n_before + n_early)
    assert seen["log"].n_rounds == N_ROUNDS - n_early
    assert not np.isin(seen["log"].identity, seen["candidate"].training_rounds).any()


def test_rounds_in_which_no_other_model_was_possible_are_left_out(make, fitted):
    """Conversations that stayed, and models that clients named, are not fitted on nor compared on."""
    registry, store, settings = make(fitted["online"], n_rounds=400)
    store.execute("UPDATE rounds SET policy = 'sticky' WHERE rowid % 4 = 0")
    store.execute("UPDATE rounds SET policy = 'pinned' WHERE rowid % 4 = 1")
    assert "200 rounds have feedback" in refit(registry, store, settings).why
    log, seq = read_log(store)
    assert (log.n_rounds, seq) == (400, 400)


def test_a_log_without_overlap_promotes_nothing(make, fitted):
    """Where the log never drew what the refit would, the comparison says so, and the old router serves."""
    registry, store, settings = make(worst())
    store.execute("DELETE FROM rounds WHERE model <> 'cheap'")
    outcome = refit(registry, store, settings)
    assert not outcome.is_promoted
