"""`pointsman init`, `serve --check` and `keys new`: files that work, faults of one line, and a key shown once."""

from __future__ import annotations

import hashlib
import json

import pytest

from pointsman.gateway.settings.template import TEMPLATE
from tests.test_cli import ends_with_one_line, run


@pytest.fixture
def config(tmp_path, monkeypatch):
    """What `init` writes, and the key it asks for."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    path = tmp_path / "pointsman.yaml"
    assert run("init", "--out", path).exit_code == 0
    return path


@pytest.mark.parametrize("command", [("init",), ("serve",), ("keys", "new")])
def test_help_has_an_example(command):
    """`--help` shows how each command is called."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: pointsman {' '.join(command)}" in result.output


def test_init_writes_a_file_once(config):
    """What is there already is kept."""
    assert config.read_text() == TEMPLATE
    assert "--out must be a new file" in ends_with_one_line(run("init", "--out", config), 2)


def test_check_says_what_would_be_served(config):
    """Where, which models, at which dated price; the key is in no output."""
    result = run("serve", "--config", config, "--check")
    assert result.exit_code == 0, result.output
    for told in (
        "http://127.0.0.1:8080",
        "gpt-4o-mini",
        "genai-prices",
        "open to all who can reach it",
        "pointsman.db",
    ):
        assert told in result.stdout, told
    as_json = run("serve", "--config", config, "--check", "--json")
    assert [model["name"] for model in json.loads(as_json.stdout)["models"]] == ["gpt-4o-mini", "gpt-4o"]
    assert "sk-planted" not in result.output + as_json.output
    assert list(config.parent.iterdir()) == [config]


def test_check_tells_each_fault_in_a_line(config):
    """With file and line, for editors; exit code 2."""
    config.write_text(TEMPLATE.replace("port: 8080", "port: x").replace("interval_s", "intervals"))
    result = run("serve", "--config", config, "--check")
    assert "learn.intervals is no setting (did you mean interval_s?)" in ends_with_one_line(result, 2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {config}:7: server.port must be a valid integer")
    assert "cannot be read" in ends_with_one_line(run("serve", "--config", config.parent / "no.yaml", "--check"), 2)


def test_a_new_key_is_shown_once_with_its_hash():
    """The hash is the key's, two keys differ, and a name that cannot be is refused."""
    first, second = (json.loads(run("keys", "new", "--id", "team-b", "--json").stdout) for _ in range(2))
    assert first["id"] == "team-b"
    assert first["sha256"] == hashlib.sha256(first["key"].encode()).hexdigest()
    assert first["key"] != second["key"]
    text = run("keys", "new").stdout
    assert text.count("pm-") == 1
    assert "letters, digits" in ends_with_one_line(run("keys", "new", "--id", "a b"), 2)
