"""A router comes back from disk as it was, and what is not a router does not come back at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pointsman.encode.static import StaticEncoder
from pointsman.errors import InvalidRouterError
from pointsman.folder import read_folder, write_folder
from pointsman.pipeline import fit
from pointsman.policies import METHODS
from pointsman.registry import load_router, save_router
from pointsman.trade_off import TradeOff
from tests.tables import small_logs

PROMPTS = ["python loop", "soup", ""]


@pytest.fixture(scope="module")
def router():
    """A fitted router."""
    return fit(small_logs()[0], method="direct", seed=3, default_quality_per_usd=7)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"always"}))
def test_every_method_survives_the_disk(method, tmp_path):
    """The loaded router gives the same probabilities and facts, and saves to the same bytes."""
    router = fit(small_logs(n_prompts=120)[0], method=method)
    first = save_router(router, tmp_path / "a")
    loaded = load_router(tmp_path / "a")
    context = router.context(PROMPTS)
    for value in (0.0, 50.0):
        assert np.array_equal(
            loaded.probabilities(context, TradeOff(value)), router.probabilities(context, TradeOff(value))
        )
    assert save_router(loaded, tmp_path / "b") == first
    for name in ("manifest.json", "arrays.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert np.array_equal(loaded.training_rounds, router.training_rounds)


def test_the_same_fit_gives_the_same_bytes(router, tmp_path):
    """Same log, same seed, same folder; another seed, another one."""
    again = fit(small_logs()[0], method="direct", seed=3, default_quality_per_usd=7)
    assert save_router(router, tmp_path / "a") == save_router(again, tmp_path / "b")
    for name in ("manifest.json", "arrays.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_manifest_says_where_a_router_comes_from(router, tmp_path):
    """Version, arms with prices, trade-off scale, encoder, log hash, method, seed: readable without any code."""
    save_router(router.reprice("dear", 0.5), tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["method"] == "direct"
    assert manifest["seed"] == 3
    assert manifest["package_version"]
    assert manifest["training"]["log_hash"] == small_logs()[0].content_hash
    assert manifest["training"]["n_rounds"] == small_logs()[0].n_rounds
    assert manifest["training"]["propensities"] == "logged"
    assert {arm["name"]: arm["cost_factor"] for arm in manifest["arms"]} == {"cheap": 1, "coder": 1, "dear": 0.5}
    assert manifest["trade_off"] == {"cost_scale_usd": router.cost_scale_usd, "default_quality_per_usd": 7}
    assert manifest["encoder"]["kind"] == "static"
    assert load_router(tmp_path / "r").arms.cost_factors.tolist() == [1, 1, 0.5]


def _rewritten(router, path, change):
    """Write the router with its manifest or arrays changed, and all hashes right."""
    save_router(router, path)
    manifest, arrays = read_folder(path)
    change(manifest, arrays)
    write_folder(path, manifest=manifest, arrays=arrays)


CHANGES = {
    "method of another name": lambda m, _: m.update(method="unheard of"),
    "method of another state": lambda m, _: m.update(method="knn"),
    "no arms": lambda m, _: m.pop("arms"),
    "an arm too few": lambda m, _: m["arms"].pop(),
    "an arm twice": lambda m, _: m["arms"].append(m["arms"][0]),
    "a negative price": lambda m, _: m["arms"][0].update(cost_factor=-1),
    "a price that is text": lambda m, _: m["arms"][0].update(cost_factor="1"),
    "no training rounds": lambda _, a: a.pop("training_rounds"),
    "training rounds of another kind": lambda _, a: a.update(training_rounds=np.zeros(3)),
    "an unknown fact": lambda m, _: m["training"].update(more=1),
    "another encoder": lambda m, _: m["encoder"].update(max_tokens=7),
    "an unknown encoder": lambda m, _: m["encoder"].update(kind="unheard of"),
    "an encoder of no description": lambda m, _: m.update(encoder=[]),
    "features of another number": lambda m, _: m["training"].update(n_features=3),
    "coefficients of another shape": lambda _, a: a.update({"policy.quality_coef": np.zeros((2, 2))}),
    "coefficients of NaN": lambda _, a: a.update({"policy.quality_intercept": np.full((3, 1), np.nan)}),
    "means of other models": lambda m, _: m["training"].update(mean_quality={}),
    "a trade-off below zero": lambda m, _: m["trade_off"].update(default_quality_per_usd=-1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_whose_parts_do_not_fit_is_refused(change, router, tmp_path):
    """A stranger's folder may have right hashes and still be no router: one error, which names the folder."""
    _rewritten(router, tmp_path / "r", CHANGES[change])
    with pytest.raises(InvalidRouterError, match=str(tmp_path / "r")):
        load_router(tmp_path / "r")


def test_an_encoder_of_ones_own_is_given_back_by_hand(router, tmp_path):
    """The right one is taken, another one is refused."""
    save_router(router, tmp_path / "r")
    assert load_router(tmp_path / "r", encoder=StaticEncoder()).encoder.max_tokens == 512
    with pytest.raises(InvalidRouterError, match="not the one"):
        load_router(tmp_path / "r", encoder=StaticEncoder(max_tokens=3))


def test_a_repriced_method_that_cannot_be_is_refused_on_load(tmp_path):
    """A price in the manifest of a method that ignores prices is an error, not a silence."""
    router = fit(small_logs()[0], method="uniform")
    _rewritten(router, tmp_path / "r", lambda m, _: m["arms"][0].update(cost_factor=2))
    with pytest.raises(InvalidRouterError, match="cost_factor"):
        load_router(tmp_path / "r")


def test_facts_survive_the_disk(router, tmp_path):
    """Every fact comes back, lists as lists."""
    save_router(router, tmp_path / "r")
    loaded = load_router(tmp_path / "r")
    assert dataclasses.asdict(loaded.facts) == dataclasses.asdict(router.facts)
