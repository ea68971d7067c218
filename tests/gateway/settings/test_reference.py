"""What the settings say of themselves: the reference, the schema, the template, and what a gateway would do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman import fit
from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.gateway.routing import open_registry
from pointsman.gateway.settings import Settings, load_settings
from pointsman.gateway.settings.plan import plan
from pointsman.gateway.settings.reference import reference, schema
from pointsman.gateway.settings.template import TEMPLATE
from pointsman.registry import save_router
from tests.tables import small_logs

DOCS = Path(__file__).resolve().parents[3] / "docs"
FREE = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}


def test_the_page_is_that_of_the_settings():
    """`python -m pointsman.gateway.settings.reference > docs/configuration.md` was run after the last change."""
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference()


def test_every_setting_is_described():
    """Each row of the reference says what the setting is."""
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.split(" | ")[-1].strip(" |") == ""] == []


def test_the_schema_is_printed_for_editors():
    """It knows every section, LiteLLM's list, and holds no masked default."""
    command = [sys.executable, "-m", "pointsman.gateway.settings.reference", "--schema"]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603 - our own
    assert printed == json.loads(json.dumps(schema()))
    assert set(printed["properties"]) == {*Settings.model_fields, "model_list"}
    assert "***" not in json.dumps(printed)


@pytest.mark.parametrize("switched_on", [False, True])
def test_the_template_is_right_as_it_is_and_with_all_switched_on(tmp_path, monkeypatch, switched_on):
    """Nothing that a user may uncomment is wrong."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("GROQ_API_KEY", "gsk-x")
    text = re.sub(r"(?m)^#(?! )(?=\S)|^#(?=  )", "", TEMPLATE) if switched_on else TEMPLATE
    (tmp_path / "pointsman.yaml").write_text(text)
    (tmp_path / "model_prices_and_context_window.json").write_text("{}")
    settings = load_settings(tmp_path / "pointsman.yaml")
    assert len(settings.models) == (4 if switched_on else 2)
    assert len(settings.keys) == (1 if switched_on else 0)


def settings_of(**sections: object) -> Settings:
    """Return small settings."""
    local = {"base_url": "http://localhost:1/v1"}
    models = [{"name": name, "upstream": "local", "price": FREE} for name in ("a", "b")]
    return Settings(**{"upstreams": {"local": local}, "models": models, **sections})


def test_a_plan_says_what_deserves_a_second_look():
    """An open gateway, an upstream without a key or a model, no exploration, old prices; else nothing."""
    assert plan(settings_of())["notes"] == []
    told = plan(
        settings_of(
            server={"host": "0.0.0.0"},  # noqa: S104 - nothing listens
            upstreams={
                "local": {"base_url": "https://far.example/v1"},
                "spare": {"base_url": "https://far.example/v1", "api_key": "sk-planted"},
            },
            models=[{"name": "a", "upstream": "local", "price": {**FREE, "date": "2020-01-01"}}],
            exploration={"floor": 0},
            store={"url": "postgresql://u:planted@h/d"},
        )
    )
    assert told["notes"] == [
        "there are no keys: whoever reaches 0.0.0.0 may use the gateway",
        "upstream local gets no API key",
        "no model is served by upstream spare",
        "exploration.floor is 0: models that are not chosen are never learned about",
        "prices may have changed since: a (2020-01-01)",
    ]
    assert "planted" not in json.dumps(told)
    assert told["models"][0]["price_source"] == "settings"


def test_a_plan_opens_the_router(tmp_path):
    """A folder that is no router is an error; models it does not know, or that are not served, are noted."""
    with pytest.raises(InvalidRouterError):
        plan(settings_of(router={"path": tmp_path / "none"}))
    log, _, _ = small_logs()
    router = fit(log, method="best-single")
    save_router(router, tmp_path / "router")
    settings = settings_of(router={"path": tmp_path / "router"})
    told = plan(settings)
    assert told["router"]["models"] == list(router.arms.names)
    assert "is new to the registry" in told["router"]["why"]
    registry = open_registry(settings)
    assert told["router"]["version"] == registry.roles().current
    assert told["router"]["registry"] == str(registry.folder)
    assert plan(settings)["router"]["why"] == "it is promoted"
    assert told["notes"] == [
        "the router was not fitted on a, b",
        f"the router knows {', '.join(router.arms.names)}, which no upstream serves here",
    ]


def test_a_plan_says_which_version_decides(tmp_path):
    """None yet, and then what does; the promoted one, the pinned one, the one that the settings name."""
    settings = settings_of(router={"registry": tmp_path / "registry"}, store={"url": f"sqlite:///{tmp_path}/log.db"})
    assert plan(settings)["router"]["version"] is None
    assert "has learned nothing" in plan(settings)["router"]["why"]
    assert not (tmp_path / "registry").exists()
    registry = open_registry(settings)
    first = registry.roles().current
    log, _, _ = small_logs()
    second = registry.promote(registry.add(fit(log, method="best-single")))
    assert plan(settings)["router"] == {"registry": str(registry.folder), "version": second, "why": "it is promoted"}
    registry.pin(first)
    assert (plan(settings)["router"]["version"], plan(settings)["router"]["why"]) == (first, "it is pinned")
    asked = settings_of(router={"registry": tmp_path / "registry", "version": second[:6]})
    assert (plan(asked)["router"]["version"], plan(asked)["router"]["why"]) == (second, "router.version asks for it")
    with pytest.raises(InvalidParameterError, match="version must name one"):
        plan(settings_of(router={"registry": tmp_path / "registry", "version": "none"}))
    beside = plan(settings_of(store={"url": f"sqlite:///{tmp_path}/log.db"}))
    assert beside["router"]["registry"] == f"{tmp_path}/log.db.routers"
