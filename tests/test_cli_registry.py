"""`pointsman registry` and `pointsman learn`: what is there, one change at a time, and what a refit came to."""

from __future__ import annotations

import json

import pytest

import pointsman as pm
from pointsman.cli import learn, registry  # noqa: F401 - they add the commands
from pointsman.gateway.routing import RouterDecider
from pointsman.gateway.settings import SettingsFile
from pointsman.logs import write_log
from pointsman.logs.store import SqliteStore
from pointsman.registry import save_router
from pointsman.versions import Registry
from tests.gateway.routers import traffic
from tests.tables import MODELS, small_logs, small_table
from tests.test_cli import ends_with_one_line, run

COMMANDS = ("list", "add", "promote", "rollback", "pin", "shadow", "canary", "remove", "diff")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with two routers and a log."""
    folder = tmp_path_factory.mktemp("routers")
    log, held_out, _ = small_logs()
    save_router(pm.fit(log, method="direct"), folder / "direct")
    save_router(pm.fit(log, method="best-single"), folder / "best-single")
    write_log(held_out, folder / "log.parquet")
    return folder


@pytest.fixture
def versions(fitted, tmp_path):
    """A registry to which both were added."""
    folder = tmp_path / "registry"
    names = [
        json.loads(run("registry", "add", folder, fitted / name, "--json").output)["version"]
        for name in ("direct", "best-single")
    ]
    return folder, *names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    """`--help` shows how each command is called."""
    result = run("registry", command, "--help")
    assert result.exit_code == 0
    assert f"Example: pointsman registry {command}" in result.output


def test_versions_are_promoted_and_taken_back(versions):
    """Each command says what decides, and the list says how it came to be so."""
    folder, a, b = versions
    assert f"{a} is promoted; {a} decides" in run("registry", "promote", folder, a[:6]).output
    run("registry", "promote", folder, b, "--why", "better at law")
    assert f"{a} is current again; {a} decides" in run("registry", "rollback", folder).output
    assert f"{b} is pinned; {b} decides" in run("registry", "pin", folder, b).output
    assert f"nothing is pinned; {a} decides" in run("registry", "pin", folder).output
    run("registry", "shadow", folder, b)
    run("registry", "canary", folder, b)
    told = json.loads(run("registry", "list", folder, "--json").output)
    assert (told["deciding"], told["shadow"], told["canary"]) == (a, b, b)
    listed = run("registry", "list", folder).output
    assert f"promote {b}: better at law" in listed
    assert "previous, shadow, canary" in listed
    assert f"{a} decides" in listed


def test_two_versions_are_compared(versions, fitted):
    """In what they differ, and how often on a log's prompts."""
    folder, a, b = versions
    asked = ("registry", "diff", folder, a, b, "--log", fitted / "log.parquet", "--quality-per-usd", "20")
    told = json.loads(run(*asked, "--json").output)
    assert told["n_prompts"] == pm.read_log(fitted / "log.parquet").n_rounds
    assert f"{told['share_differs']:.1%} of decisions differ" in run(*asked).output


def test_what_is_wrong_is_one_line(versions, tmp_path):
    """A version that is not there, nothing to go back to, and a folder that is no router."""
    folder = versions[0]
    assert "version must name" in ends_with_one_line(run("registry", "promote", folder, "zzz"), 2)
    assert "previous version" in ends_with_one_line(run("registry", "rollback", folder), 2)
    assert "router folder" in ends_with_one_line(run("registry", "add", folder, tmp_path), 2)


def test_learning_from_the_command_line(fitted, tmp_path):
    """`learn --once` learns what is there; `--refit` says whether the refit serves, in its exit code as well."""
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    path = tmp_path / "pointsman.yaml"
    settings = {
        "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
        "models": [{"name": name, "upstream": "main", "price": price} for name in MODELS],
        "store": {"url": "sqlite:///log.db"},
        "router": {"registry": "registry"},
        "learn": {"gate": {"min_rounds": 200}},
    }
    path.write_text(json.dumps(settings))
    refused = run("learn", "--config", path, "--refit", "--json")
    assert refused.exit_code == 1
    assert "needs rounds" in json.loads(refused.output)["why"]
    settings_now = SettingsFile(path).settings
    versions = Registry(tmp_path / "registry")
    with SqliteStore.open(tmp_path / "log.db") as store:
        traffic(RouterDecider(versions, settings_now, seed=0), store, small_table(), n_rounds=300)
    assert run("learn", "--config", path, "--once").exit_code == 0
    roles = versions.roles()
    assert versions.load(roles.current).policy.learned_through == 300
    told = json.loads(run("learn", "--config", path, "--refit", "--json").stdout)
    assert told["version"] in versions.roles().versions
    assert [verdict["requirement"] for verdict in told["verdicts"]] == ["utility>=0"]
    assert told["is_promoted"] == (versions.roles().current == told["version"])
