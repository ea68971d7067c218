"""Settings that follow their file: a right one is taken over, a wrong one changes nothing and says why."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from pointsman.gateway.settings import InvalidSettingsError, SettingsFile

TEXT = """\
upstreams: {local: {base_url: http://localhost:1/v1}}
models: [{name: small, upstream: local, price_as: small}]
prices: {file: prices.json}
server: {port: 8000}
"""


def write(path, text: str) -> None:
    """Replace a file at once, as editors and Kubernetes do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def prices(cost: float) -> str:
    """A price file of one model."""
    return json.dumps({"small": {"input_cost_per_token": cost, "output_cost_per_token": cost}})


@pytest.fixture
def path(tmp_path):
    """A file of settings beside a price file."""
    write(tmp_path / "prices.json", prices(1e-6))
    write(tmp_path / "pointsman.yaml", TEXT)
    return tmp_path / "pointsman.yaml"


def test_a_right_file_is_taken_over_and_a_wrong_one_is_not(path):
    """Between the two the old settings stay in force, and `error` says what is wrong."""
    file = SettingsFile(path)
    first = file.settings
    assert not file.changed()
    write(path, TEXT.replace("name: small", "nam: small"))
    assert file.changed()
    assert not file.reload()
    assert file.settings is first
    assert "models[0].nam is no setting" in str(file.error)
    assert not file.changed()  # it was looked at
    write(path, TEXT.replace("name: small", "name: other"))
    assert file.changed()
    assert file.reload()
    assert file.error is None
    assert [model.name for model in file.settings.models] == ["other"]
    path.unlink()
    assert file.changed()
    assert not file.reload()
    assert [model.name for model in file.settings.models] == ["other"]


def test_another_price_file_is_another_price(path):
    """The price file is watched as well, also one that the settings name only since they changed."""
    file = SettingsFile(path)
    write(path.with_name("prices.json"), prices(2e-6))
    assert file.changed()
    assert file.reload()
    assert file.settings.facts["small"].price.rates().input_usd_per_mtok == 2
    write(path.with_name("more.json"), prices(3e-6))
    write(path, TEXT.replace("prices.json", "more.json"))
    assert file.reload()
    assert not file.changed()
    write(path.with_name("more.json"), prices(4e-6))
    assert file.changed()


def test_what_needs_a_restart_is_named(path):
    """Where it listens, where and how it keeps rounds, what connections may do; nothing else."""
    file = SettingsFile(path)
    write(path, TEXT.replace("8000", "8001") + "store: {url: 'sqlite:///other.db', queue_size: 5}\nfallback: [small]\n")
    assert file.reload()
    assert file.need_restart == ("server", "store.url", "store.queue_size")
    write(path, TEXT + "limits: {max_connections: 5, read_timeout_s: 5, max_body_bytes: 5000}\n")
    assert file.reload()
    assert file.need_restart == ("limits.max_connections", "limits.read_timeout_s")
    write(path, TEXT + "fallback: [small]\n")
    assert file.reload()
    assert file.need_restart == ()


def test_a_wrong_file_does_not_start(path):
    """At the start there is nothing to keep."""
    write(path, "models: 3\n")
    with pytest.raises(InvalidSettingsError):
        SettingsFile(path)


def test_watching_sees_each_change(path):
    """Once a change, right or wrong."""

    async def watched() -> list[tuple[int, bool]]:
        file, seen = SettingsFile(path), []
        texts = [TEXT.replace("8000", "8001"), TEXT.replace("8000", "many"), TEXT.replace("8000", "8002")]
        write(path, texts.pop(0))
        async for changed in file.watch(interval_s=0.01):
            seen.append((changed.settings.server.port, changed.error is None))
            if not texts:
                return seen
            write(path, texts.pop(0))
        return seen

    assert asyncio.run(asyncio.wait_for(watched(), 20)) == [(8001, True), (8001, False), (8002, True)]
