"""LiteLLM's `model_list` as upstreams and models of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pointsman.gateway.settings.document import Place
from pointsman.gateway.settings.prices import CAPABILITIES
from pointsman.gateway.settings.providers import PROVIDERS

_ALIASES: Final = {"ollama_chat": "ollama"}
_OPENAI_LIKE: Final = frozenset(
    ["custom_openai", "hosted_vllm", "litellm_proxy", "llamafile", "lm_studio", "nvidia_nim", "openai_like", "vllm"]
)
"""Prefixes of servers that speak OpenAI's API, wherever they stand."""

_PREFIXES: Final = {
    "gpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "chatgpt": "openai",
    "text-embedding": "openai",
    "claude": "anthropic",
}
"""Whose a model without a provider is, by how its name begins."""

_COSTS: Final = {
    "input_cost_per_token": "input_usd_per_mtok",
    "output_cost_per_token": "output_usd_per_mtok",
    "cache_read_input_token_cost": "cached_input_usd_per_mtok",
}
_TIMEOUTS: Final = {"timeout": "total_s", "stream_timeout": "first_token_s"}
_KINDS: Final = {"chat": "chat", "completion": "chat", "responses": "chat", "embedding": "embedding"}


@dataclass
class Converted:
    """What a `model_list` comes to.

    Attributes:
        upstreams: As under `upstreams`.
        models: As under `models`.
        origins: Place in the `model_list` of each place above, so that faults name what the user wrote.
        faults: Place and rule of what cannot be converted.
        notes: What is left out.
    """

    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[Place, Place] = field(default_factory=dict)
    faults: list[tuple[Place, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert(model_list: Any, *, taken: Mapping[str, Any], n_models: int) -> Converted:
    """Return LiteLLM's list as upstreams and models; references to the environment become `${NAME}`.

    Args:
        model_list: As read from the file.
        taken: Upstreams the file holds besides, whose names are taken.
        n_models: Models the file holds besides, which come first.
    """
    converted = Converted()
    if not isinstance(model_list, list):
        converted.faults.append((("model_list",), "must be a list of model_name and litellm_params"))
        return converted
    for i, entry in enumerate(model_list):
        _Entry(converted, ("model_list", i), taken=taken, n_models=n_models).add(entry)
    return converted


class _Entry:
    """One deployment of the list."""

    def __init__(self, converted: Converted, place: Place, *, taken: Mapping[str, Any], n_models: int) -> None:
        self.into, self.place, self.taken, self.n_models = converted, place, taken, n_models

    def fault(self, rule: str, *at: str) -> None:
        self.into.faults.append(((*self.place, *at), rule))

    def add(self, entry: Any) -> None:
        parts = entry if isinstance(entry, dict) else {}
        parameters, facts = parts.get("litellm_params"), parts.get("model_info") or {}
        if not (isinstance(parameters, dict) and isinstance(facts, dict)):
            return self.fault("must hold model_name and litellm_params")
        name, model = parts.get("model_name"), parameters.get("model")
        if not (isinstance(name, str) and isinstance(model, str)):
            return self.fault("must hold model_name, and in litellm_params a model such as openai/gpt-4o")
        if "*" in name or "*" in model:
            return self.fault("must name one model each: patterns with * are not understood, for each needs its price")
        if any(each["name"] == name for each in self.into.models):
            return self.fault(
                f"must be unique: give the deployments of {name!r} names of their own, and list them under fallback",
                "model_name",
            )
        provider, upstream_model = self.provider(model, parameters.get("custom_llm_provider"))
        if provider is None:
            return self.fault("must start with its provider, such as openai/gpt-4o", "litellm_params", "model")
        known = PROVIDERS.get(provider)
        base_url = parameters.get("api_base") or parameters.get("base_url") or (known and known.base_url)
        if provider not in PROVIDERS and provider not in _OPENAI_LIKE:
            return self.fault(
                f"must be of a provider that speaks OpenAI's API, and {provider!r} is not known to: write openai/MODEL "
                "with the api_base of a server that does (Azure's ends in /openai/v1)",
                *("litellm_params", "model"),
            )
        if base_url is None:
            return self.fault(f"must hold api_base for provider {provider!r}", "litellm_params")
        upstream = self.upstream(provider, base_url, parameters)
        return self.model(name, upstream_model, self.named(provider, upstream), parameters, facts)

    def provider(self, model: str, given: Any) -> tuple[str | None, str]:
        provider, slash, rest = model.partition("/")
        if isinstance(given, str):
            return _ALIASES.get(given, given), rest if slash and provider == given else model
        if slash:
            return _ALIASES.get(provider, provider), rest
        return next((owner for prefix, owner in _PREFIXES.items() if model.startswith(prefix)), None), model

    def upstream(self, provider: str, base_url: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = PROVIDERS.get(provider)
        if provider == "ollama" and isinstance(base_url, str) and not base_url.rstrip("/").endswith("/v1"):
            base_url = f"{base_url.rstrip('/')}/v1"
        upstream: dict[str, Any] = {"base_url": _from_environment(base_url)}
        is_public = known is not None and base_url == known.base_url
        if (key := parameters.get("api_key")) is not None:
            upstream["api_key"] = _from_environment(key)
        elif known is not None and is_public and known.key is not None:
            upstream["api_key"] = f"${{{known.key}:-}}"
        # openai/ before another server's model says how to talk to it, not who asks for money.
        if known is not None and not is_public and provider != "openai":
            upstream["provider"] = provider
        headers = parameters.get("extra_headers") or parameters.get("headers") or {}
        if isinstance(headers, dict):
            upstream["headers"] = {name: _from_environment(value) for name, value in headers.items()}
        if "organization" in parameters:
            upstream.setdefault("headers", {})["OpenAI-Organization"] = _from_environment(parameters["organization"])
        timeouts = {ours: parameters[theirs] for theirs, ours in _TIMEOUTS.items() if theirs in parameters}
        if timeouts:
            upstream["timeouts"] = timeouts
        if "max_retries" in parameters:
            upstream["max_retries"] = parameters["max_retries"]
        return upstream

    def named(self, provider: str, upstream: dict[str, Any]) -> str:
        """Return the name of that upstream, the same for models that share all of it."""
        n = 1
        while True:
            name = provider if n == 1 else f"{provider}-{n}"
            if name not in self.taken and self.into.upstreams.setdefault(name, upstream) == upstream:
                at = ("upstreams", name)
                for ours, theirs in (("base_url", "api_base"), ("api_key", "api_key"), ("headers", "extra_headers")):
                    self.into.origins.setdefault((*at, ours), (*self.place, "litellm_params", theirs))
                self.into.origins.setdefault(at, (*self.place, "litellm_params"))
                return name
            n += 1

    def model(
        self, name: str, upstream_model: str, upstream: str, parameters: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        mode = facts.get("mode", "chat")
        if not (isinstance(mode, str) and mode in _KINDS):
            return self.fault("must be chat, completion, responses or embedding", "model_info", "mode")
        model: dict[str, Any] = {
            "name": name,
            "upstream": upstream,
            "upstream_model": upstream_model,
            "kind": _KINDS[mode],
        }
        if "max_input_tokens" in facts:
            model["context_window"] = facts["max_input_tokens"]
        if any(flag in facts for flag in CAPABILITIES.values()):
            model["supports"] = [
                ability for ability, flag in CAPABILITIES.items() if facts.get(flag, ability != "vision") is True
            ]
        if "base_model" in facts:
            model["price_as"] = facts["base_model"]
        costs = {**facts, **parameters}
        price = {ours: _per_mtok(costs[theirs]) for theirs, ours in _COSTS.items() if theirs in costs}
        if price:
            model["price"] = price
        at = ("models", self.n_models + len(self.into.models))
        written: dict[Place, Place] = {
            (): (),
            ("name",): ("model_name",),
            ("upstream_model",): ("litellm_params", "model"),
            ("context_window",): ("model_info", "max_input_tokens"),
            ("price_as",): ("model_info", "base_model"),
            ("price",): ("model_info",),
        }
        for theirs, ours in _COSTS.items():
            written["price", ours] = ("litellm_params" if theirs in parameters else "model_info", theirs)
        self.into.origins.update({(*at, *ours): (*self.place, *theirs) for ours, theirs in written.items()})
        self.into.models.append(model)
        self.note("litellm_params", parameters, {*_PARAMETERS, *_COSTS})
        self.note("model_info", facts, {*_FACTS, *_COSTS, *CAPABILITIES.values()})
        return None

    def note(self, part: str, given: Mapping[str, Any], used: set[str]) -> None:
        unused = sorted(name for name in given if name not in used)
        if unused:
            self.into.notes.append(f"model_list[{self.place[1]}].{part}: not used: {', '.join(unused)}")


_PARAMETERS: Final = frozenset(
    ["api_base", "api_key", "base_url", "custom_llm_provider", "extra_headers", "headers", "max_retries", "model"]
).union(["organization"], _TIMEOUTS)
_FACTS: Final = frozenset(["base_model", "id", "max_input_tokens", "mode"])


def _from_environment(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("os.environ/"):
        return f"${{{value.removeprefix('os.environ/')}}}"
    return value


def _per_mtok(value: Any) -> Any:
    try:
        # YAML reads 1e-7 without a point as text.
        return float(f"{float(value) * 1e6:.12g}")
    except (TypeError, ValueError):
        return value
