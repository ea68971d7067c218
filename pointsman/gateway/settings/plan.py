"""What a gateway of these settings would do, before it does it."""

from __future__ import annotations

import datetime
import ipaddress
import json
import math
import urllib.parse
from typing import Final

from pointsman.gateway.settings.schema import KeySettings, Settings
from pointsman.types import State

_OLD_PRICE: Final = datetime.timedelta(days=180)


def plan(settings: Settings) -> State:
    """Return what would be served, at which prices, and what of it deserves a second look; without any secret.

    Nothing is sent or written. A router folder is opened and checked.

    Raises:
        InvalidRouterError: `router.path` holds no router, or a damaged one; or the registry cannot be read.
        InvalidParameterError: The registry has no `router.version`.
        MissingDependencyError: `telemetry` is on, and its packages are not installed.
    """
    if settings.telemetry.otlp_endpoint is not None:
        import pointsman.gateway.tracing  # noqa: F401
    router, notes = _router(settings)
    return {
        "listen": f"http://{settings.server.host}:{settings.server.port}",
        "models": [_model(settings, name) for name in settings.facts],
        "router": router,
        "default_model": settings.default_model,
        "fallback": list(settings.fallback),
        "exploration_floor": settings.exploration.floor,
        "budget": settings.budget.model_dump(),
        "presets": {name: {each.spelling: each.value} for name, each in settings.router.presets.items()},
        "keys": [key.id for key in settings.keys],
        "store": settings.store.shown_url,
        "retention_days": settings.store.retention_days,
        "prompts": settings.store.prompts,
        "learn": settings.learn.model_dump(),
        "telemetry": settings.telemetry.otlp_endpoint,
        "notes": [*settings.notes, *_doubts(settings), *notes],
    }


def _model(settings: Settings, name: str) -> State:
    model, facts = settings.model(name), settings.facts[name]
    assert model is not None  # noqa: S101 - facts are those of the models
    rates = facts.price.rates()
    return {
        "name": name,
        "kind": model.kind,
        "upstream": model.upstream,
        "upstream_model": model.upstream_model or name,
        "base_url": settings.upstreams[model.upstream].base_url,
        "input_usd_per_mtok": rates.input_usd_per_mtok,
        "cached_input_usd_per_mtok": rates.cached_input_usd_per_mtok,
        "output_usd_per_mtok": rates.output_usd_per_mtok,
        "usd_per_request": rates.usd_per_request,
        "price_source": facts.price.source,
        "price_date": None if facts.price.date is None else facts.price.date.isoformat(),
        "context_window": facts.context_window,
        "supports": sorted(facts.supports),
    }


def _router(settings: Settings) -> tuple[State, list[str]]:
    from pointsman.gateway.routing import registry_folder
    from pointsman.registry import load_router
    from pointsman.versions import HASH_LENGTH, Registry

    asked = settings.router
    registry = Registry(registry_folder(settings))
    roles = registry.roles()
    told: State = {"registry": str(registry.folder)}
    if asked.version is not None:
        told |= {"version": registry.resolve(asked.version), "why": "router.version asks for it"}
    elif roles.deciding is not None:
        told |= {"version": roles.deciding, "why": "it is pinned" if roles.pinned else "it is promoted"}
    else:
        told |= {"version": None, "why": "there is none yet: one that has learned nothing is made at the start"}
    if asked.path is None:
        return told, []
    router = load_router(asked.path)
    manifest = json.loads((asked.path / "manifest.json").read_bytes())
    version = str(manifest["content_hash"])[:HASH_LENGTH]
    if version not in roles.versions and asked.version is None and roles.pinned is None:
        told |= {"version": version, "why": f"{asked.path} is new to the registry, and promoted at the start"}
    served = {model.name for model in settings.chat_models}
    unknown, absent = sorted(served.difference(router.arms.names)), sorted(set(router.arms.names) - served)
    notes = []
    if unknown:
        notes.append(f"the router was not fitted on {', '.join(unknown)}")
    if absent:
        notes.append(f"the router knows {', '.join(absent)}, which no upstream serves here")
    return {**told, "path": str(asked.path), "method": router.facts.method, "models": list(router.arms.names)}, notes


def _doubts(settings: Settings) -> list[str]:
    notes = []
    if not settings.keys and not _is_local(settings.server.host):
        notes.append(f"there are no keys: whoever reaches {settings.server.host} may use the gateway")
    used = {model.upstream for model in settings.models}
    for name, upstream in settings.upstreams.items():
        if name not in used:
            notes.append(f"no model is served by upstream {name}")
        elif upstream.api_key is None and not upstream.headers and not _is_local(_host(upstream.base_url)):
            notes.append(f"upstream {name} gets no API key")
    forgotten = [key.id for key in settings.keys if _looks_back_days(key) > (settings.store.retention_days or math.inf)]
    if forgotten:
        notes.append(
            f"store.retention_days is {settings.store.retention_days:g}: after a restart the budgets of "
            f"{', '.join(forgotten)} forget what was spent before that"
        )
    if settings.exploration.floor == 0:
        notes.append("exploration.floor is 0: models that are not chosen are never learned about")
    today = datetime.datetime.now(tz=datetime.UTC).date()
    old = [
        f"{name} ({facts.price.date})"
        for name, facts in settings.facts.items()
        if facts.price.date is not None and today - facts.price.date > _OLD_PRICE
    ]
    if old:
        notes.append(f"prices may have changed since: {', '.join(old)}")
    return notes


def _looks_back_days(key: KeySettings) -> float:
    return 0.0 if key.budget is None else {"day": 1, "week": 7, "month": 31, "total": math.inf}[key.budget.period]


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
