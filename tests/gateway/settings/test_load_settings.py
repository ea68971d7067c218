"""A file of settings: what is right is read as written, and each fault is told once, with its line and no secret."""

from __future__ import annotations

import datetime
import os

import pytest

from pointsman.errors import PointsmanError
from pointsman.gateway.settings import InvalidSettingsError, load_settings

GOOD = """\
upstreams:
  openai:
    base_url: https://api.openai.com/v1/
    api_key: ${PLANTED}
models:
  - name: small
    upstream: openai
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
  - {name: large, upstream: openai, upstream_model: gpt-4o, price: {input_usd_per_mtok: 5, output_usd_per_mtok: 10}}
"""
SECRET = "sk-planted-4f1d0c9b8a7e6d5c4b3a2f1e"  # noqa: S105 - it opens nothing


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The secret that the file asks for, and no setting beside it."""
    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PLANTED", SECRET)


@pytest.fixture
def load(tmp_path):
    """Load a text as a file."""

    def load(text: str):
        path = tmp_path / "pointsman.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path)

    return load


def faults(load, text: str) -> list[str]:
    """Return each fault of a text as LINE: what."""
    with pytest.raises(InvalidSettingsError) as caught:
        load(text)
    assert isinstance(caught.value, PointsmanError)
    assert SECRET not in str(caught.value) + repr(caught.value)
    return [f"{fault.line}: {fault}" for fault in caught.value.faults]


def test_a_file_is_read_as_written(load, tmp_path):
    """Values, defaults, the environment's secrets, and paths that start at the file's folder."""
    settings = load(GOOD + "router: {path: deep/router}\nserver: {port: '9000'}\n")
    upstream = settings.upstreams["openai"]
    assert upstream.base_url == "https://api.openai.com/v1"
    assert upstream.api_key.get_secret_value() == SECRET
    assert [model.name for model in settings.models] == ["small", "large"]
    assert settings.default_model == "small"
    assert (settings.server.port, settings.server.host) == (9000, "127.0.0.1")
    assert settings.router.path == tmp_path / "deep" / "router"
    assert settings.store.shown_url == f"sqlite:///{tmp_path}/pointsman.db"
    price = settings.facts["large"].price
    assert price.cost_usd(input_tokens=1_000_000, output_tokens=100_000) == pytest.approx(6.0)
    assert (
        price.date
        == datetime.datetime.fromtimestamp((tmp_path / "pointsman.yaml").stat().st_mtime, datetime.UTC).date()
    )


def test_secrets_show_nowhere(load):
    """Neither text, representation nor JSON of settings holds one."""
    postgres = f"store: {{url: 'postgresql://me:{SECRET}@db/log?password={SECRET}'}}\n"
    headers = GOOD.replace("    api_key", "    headers: {X-Token: '${PLANTED}'}\n    api_key")
    settings = load(headers + postgres)
    assert settings.store.url.get_secret_value().count(SECRET) == 2
    for text in (str(settings), repr(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in text
    assert settings.store.shown_url == "postgresql://db/log"


def test_settings_are_frozen(load):
    """What was checked cannot change."""
    settings = load(GOOD)
    for change in (lambda: setattr(settings, "fallback", ()), lambda: setattr(settings.server, "port", 1)):
        with pytest.raises(ValueError, match="frozen"):
            change()


def test_every_fault_is_told_at_once_with_its_line(load):
    """Sorted by line; each names the place, the rule, what was written, and what the setting is."""
    text = GOOD + "server: {port: 70000, hots: x}\nrouter:\n  deadline_ms: soon\nlearn: {gate: {confidence: 2}}\n"
    found = faults(load, text)
    assert found == [
        "10: server.hots is no setting (did you mean host?)",
        "10: server.port must be <= 65535; got 70000 (TCP port to listen on)",
        "12: router.deadline_ms must be a valid number, unable to parse string as a number; got 'soon' "
        "(longest time a decision may take, in milliseconds; then the default model answers)",
        "13: learn.gate.confidence must be < 1; got 2 (probability with which it must hold)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("upstream: openai\n", "upstream: opnai\n", "7: models[0].upstream must be one of ['openai']; got 'opnai'"),
        ("name: small", "name: large", "9: models[1].name must be unique among models; got 'large'"),
        ("name: small", "name: auto:fast", "6: models[0].name must not be 'auto' or start with 'auto:'"),
        ("name: small", 'name: "a\\nb"', "6: models[0].name must be at most 200 printable ASCII characters"),
        ("https://api.openai.com/v1/", "api.openai.com", "3: upstreams.openai.base_url must be an http:// or https://"),
        ("https://api", "https://me:${PLANTED}@api", "3: upstreams.openai.base_url must hold no user, password"),
        ("input_usd_per_mtok: 1,", "", "8: models[0].price.input_usd_per_mtok must be given"),
        (", output_usd_per_mtok: 2", "", "8: models[0].price must hold output_usd_per_mtok for a chat model"),
        ("_mtok: 1,", "_mtok: .nan,", "8: models[0].price.input_usd_per_mtok must be a finite number; got nan"),
        ("models:", "fallback: [small, huge]\nmodels:", "5: fallback[1] must be one of ['small', 'large']; got 'huge'"),
        ("models:", "router: {default_model: x}\nmodels:", "5: router.default_model must be one of"),
        ("models:", "router: {path: a, registry: b}\nmodels:", "5: router must hold path or registry, not both"),
        ("models:", "router: {version: a}\nmodels:", "5: router must hold registry where it holds version"),
        ("models:", "router: {presets: {'0.3': {cost_weight: 1}}}\nmodels:", "5: router.presets must have names of"),
        ("models:", "router: {trade_off: {}}\nmodels:", "5: router.trade_off must hold exactly one of"),
        ("models:", "budget: {usd_per_day: 1, usd_per_request: 1}\nmodels:", "5: budget must hold usd_per_request or"),
        ("models:", "store: {url: mysql://x}\nmodels:", "5: store.url must be sqlite:///FILE or postgresql://"),
        ("models:", "prices: {file: none.json}\nmodels:", "5: prices.file must be a file that can be read; No such"),
        ("models:", "keys: [{id: a, sha256: zz}]\nmodels:", "5: keys[0].sha256 must be 64 hexadecimal digits"),
        (
            "models:",
            f"keys: [{{id: a, sha256: '{'0' * 64}', models: [x]}}]\nmodels:",
            "5: keys[0].models[0] must be one of",
        ),
        ("models:", "_env_file: x\nmodels:", "5: _env_file is no setting"),
        (
            "models:",
            "general_settings: {master_key: x}\nmodels:",
            "5: general_settings is LiteLLM's, of whose settings",
        ),
        ("models:", "model_lists: []\nmodels:", "5: model_lists is no setting (did you mean models?)"),
        (
            "    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}\n",
            "",
            "6: models[0].price must be known; not found",
        ),
    ],
)
def test_a_fault_says_the_rule_and_the_place(load, old, new, told):
    """One line each, and only one for one mistake."""
    assert old in GOOD
    (found,) = faults(load, GOOD.replace(old, new, 1))
    assert found.startswith(told), found


def test_an_unset_variable_is_a_fault_unless_it_has_a_default(load):
    """It says which, and how to do without; nothing else is told of that value."""
    (found,) = faults(load, GOOD + "server: {port: '${NO_SUCH_PORT}'}\n")
    assert found == (
        "10: server.port needs environment variable NO_SUCH_PORT, which is not set: "
        "set it, or write ${NO_SUCH_PORT:-} for none"
    )
    assert load(GOOD + "server: {port: '${NO_SUCH_PORT:-81}'}\n").server.port == 81
    assert load(GOOD.replace("${PLANTED}", "${NO_SUCH_KEY:-}")).upstreams["openai"].api_key is None


def test_values_of_the_environment_are_never_shown(load, monkeypatch):
    """Neither one that a file asks for, in whatever field, nor one above the file."""
    (found,) = faults(load, GOOD + "server: {port: '${PLANTED}'}\n")
    assert "server.port must be a valid integer" in found
    monkeypatch.setenv("POINTSMAN_SERVER__PORT", SECRET)
    (found,) = faults(load, GOOD + "server: {port: 80}\n")
    assert found.endswith("(from environment variable POINTSMAN_SERVER__PORT)")


@pytest.mark.parametrize(
    "text",
    [
        f"api_keys: {SECRET}\n",
        f"server: {SECRET}\n",
        f"server: {{host: 1, port: {SECRET}}}\n",
        f"keys: [{{id: a, sha256: {SECRET}}}]\n",
        f"store: {{url: 'mysql://a:{SECRET}@b'}}\n",
        f"fallback: [{SECRET}]\n",
        f"router: {{default_model: 'Bearer {SECRET}'}}\n",
        f'x: "{SECRET}\n',
        f"x: {{ {SECRET}: {{\n",
        f"x: !!python/object:{SECRET} 1\n",
        f"x: *{SECRET}\n",
        f"x: 'it''s {SECRET}\n",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(load, text):
    """Whatever is wrong with it, its value is not part of what is told."""
    assert faults(load, GOOD + text)


@pytest.mark.parametrize(
    "change",
    [
        ("api_key: ${PLANTED}", "api_key: 271828"),
        ("api_key: ${PLANTED}", "headers: 271828"),
        ("models:", "store: {url: 271828}\nmodels:"),
        ("models:", "keys: [{id: a, sha256: x271828}]\nmodels:"),
    ],
)
def test_a_secret_field_never_shows_its_value(load, change):
    """However short it is, and whatever it looks like."""
    (found,) = faults(load, GOOD.replace(*change))
    assert "271828" not in found


def test_the_environment_stands_above_the_file(load, monkeypatch):
    """One setting of a section is changed; the others stay."""
    monkeypatch.setenv("POINTSMAN_SERVER__PORT", "9001")
    monkeypatch.setenv("POINTSMAN_UPSTREAMS__OPENAI__API_KEY", "sk-other")
    settings = load(GOOD + "server: {host: 0.0.0.0, port: 80}\n")
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 9001)  # noqa: S104 - nothing listens
    assert settings.upstreams["openai"].api_key.get_secret_value() == "sk-other"
    monkeypatch.setenv("POINTSMAN_ROUTER", "not json")
    assert faults(load, GOOD)[0].startswith("None: router must be JSON")


def test_files_that_are_none(tmp_path):
    """A missing file, a folder and bytes that are no text are told in one line."""
    with pytest.raises(InvalidSettingsError, match="cannot be read: No such file or directory; `pointsman init`"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(InvalidSettingsError, match="cannot be read"):
        load_settings(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSettingsError, match="must be UTF-8 text"):
        load_settings(tmp_path / "bytes.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InvalidSettingsError, match="upstreams must be given"):
        load_settings(tmp_path / "empty.yaml")


def test_a_litellm_list_alone_is_enough(load):
    """Upstreams and models come of it; what is not used is noted; faults name the place in the list."""
    listed = (
        "model_list:\n  - model_name: llama\n    litellm_params: {model: groq/llama-3.1-8b-instant, rpm: 3}\n"
        "  - model_name: own\n    litellm_params: {model: openai/x, api_base: 'http://localhost:1/v1'}\n"
        "    model_info: {input_cost_per_token: 1e-7, output_cost_per_token: 0.0000002}\n"
    )
    settings = load(listed)
    assert settings.facts["llama"].price.source.endswith("(groq/llama-3.1-8b-instant)")
    assert settings.facts["own"].price.rates().input_usd_per_mtok == 0.1
    assert settings.notes == ("model_list[0].litellm_params: not used: rpm",)
    assert [model.name for model in load(GOOD + listed).models] == ["small", "large", "llama", "own"]
    assert faults(load, GOOD + listed.replace("0.0000002", "-1"))[0].startswith(
        "15: model_list[1].model_info.output_cost_per_token must be >= 0; got -1"
    )
    assert faults(load, listed.replace("groq/", "bedrock/").replace("openai/x", "x"))[1:] == [
        "5: model_list[1].litellm_params.model must start with its provider, such as openai/gpt-4o"
    ]
    assert faults(load, GOOD + listed.replace("    model_info", "    other"))[0].startswith(
        "13: model_list[1].model_info must be known"
    )
