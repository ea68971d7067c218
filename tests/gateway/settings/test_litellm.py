"""LiteLLM's model_list: what it says is what comes of it, and what cannot be is told by its place."""

from __future__ import annotations

import pytest

from pointsman.gateway.settings.litellm import convert


def converted(*entries: object, taken=(), n_models: int = 0):
    """Convert a list."""
    return convert(list(entries), taken=dict.fromkeys(taken), n_models=n_models)


def entry(model: str, name: str = "m", *, facts: object = None, **parameters: object) -> dict[str, object]:
    """One deployment."""
    return {"model_name": name, "litellm_params": {"model": model, **parameters}, "model_info": facts}


def test_the_provider_is_the_prefix():
    """Its public URL and the variable its key is in by custom; what follows is the upstream's name of the model."""
    found = converted(
        entry("openrouter/openai/gpt-4o", "a"),
        entry("gpt-4o", "b"),
        entry("claude-x", "c"),
        entry("ollama_chat/q", "d"),
    )
    assert not found.faults
    assert [(each["upstream"], each["upstream_model"]) for each in found.models] == [
        ("openrouter", "openai/gpt-4o"),
        ("openai", "gpt-4o"),
        ("anthropic", "claude-x"),
        ("ollama", "q"),
    ]
    assert found.upstreams["openrouter"] == {
        "base_url": "https://openrouter.ai/api/v1",
        "api_key": "${OPENROUTER_API_KEY:-}",
        "headers": {},
    }
    assert "api_key" not in found.upstreams["ollama"]


def test_keys_come_from_the_environment_by_name():
    """os.environ/NAME is ${NAME}, in the key, the URL, headers and the organization."""
    found = converted(
        entry(
            "openai/x",
            api_base="os.environ/BASE",
            api_key="os.environ/KEY",
            extra_headers={"X-A": "os.environ/A"},
            organization="os.environ/ORG",
        )
    )
    assert found.upstreams["openai"] == {
        "base_url": "${BASE}",
        "api_key": "${KEY}",
        "headers": {"X-A": "${A}", "OpenAI-Organization": "${ORG}"},
    }


def test_models_of_one_server_share_an_upstream():
    """Another URL, key or timeout is another upstream; names that the file has taken are left alone."""
    found = converted(
        entry("openai/a", "a", api_base="http://x/v1"),
        entry("openai/b", "b", api_base="http://x/v1"),
        entry("openai/c", "c", api_base="http://y/v1"),
        entry("openai/d", "d", api_base="http://y/v1", timeout=5, stream_timeout=1, max_retries=0),
        taken=["openai"],
    )
    assert [each["upstream"] for each in found.models] == ["openai-2", "openai-2", "openai-3", "openai-4"]
    assert found.upstreams["openai-4"]["timeouts"] == {"total_s": 5, "first_token_s": 1}
    assert found.upstreams["openai-4"]["max_retries"] == 0


def test_another_server_under_openai_is_not_openai():
    """Its prices are not OpenAI's; under its own provider's name they are that provider's."""
    found = converted(entry("openai/gpt-4o", "a", api_base="http://x/v1"), entry("groq/l", "b", api_base="http://x/v1"))
    assert "provider" not in found.upstreams["openai"]
    assert found.upstreams["groq"]["provider"] == "groq"


def test_costs_and_capabilities_are_those_of_the_list():
    """Costs per token become USD per million, wherever they stand; a flag that is not given is not denied."""
    facts = {
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": "6e-7",
        "max_input_tokens": 8,
        "supports_vision": True,
        "supports_response_schema": False,
        "mode": "chat",
        "base_model": "azure/gpt-4o",
    }
    (model,) = converted(
        entry("openai/x", api_base="http://x", cache_read_input_token_cost=7.5e-08, facts=facts)
    ).models
    assert model["price"] == {
        "input_usd_per_mtok": 0.15,
        "output_usd_per_mtok": 0.6,
        "cached_input_usd_per_mtok": 0.075,
    }
    assert (model["context_window"], model["supports"], model["price_as"]) == (8, ["tools", "vision"], "azure/gpt-4o")


def test_embeddings_are_not_chat():
    """`mode` says so; modes that are neither are told."""
    (model,) = converted(entry("openai/e", facts={"mode": "embedding"})).models
    assert model["kind"] == "embedding"
    assert converted(entry("openai/e", facts={"mode": "image_generation"})).faults[0][0][-2:] == ("model_info", "mode")


def test_what_is_left_out_is_noted():
    """Names only, never values."""
    found = converted(entry("openai/x", rpm=3, tags=["secret"], facts={"id": "1", "team": "secret"}))
    assert found.notes == [
        "model_list[0].litellm_params: not used: rpm, tags",
        "model_list[0].model_info: not used: team",
    ]


@pytest.mark.parametrize(
    ("entries", "place", "told"),
    [
        (["x"], (0,), "must hold model_name"),
        ([{"model_name": "a"}], (0,), "must hold model_name"),
        ([{"model_name": "a", "litellm_params": {"model": 3}}], (0,), "a model such as openai/gpt-4o"),
        ([entry("openai/*")], (0,), "must name one model each"),
        ([entry("bedrock/claude")], (0, "litellm_params", "model"), "is not known to: write openai/MODEL"),
        ([entry("mystery")], (0, "litellm_params", "model"), "must start with its provider"),
        ([entry("hosted_vllm/x")], (0, "litellm_params"), "must hold api_base"),
        ([entry("openai/a"), entry("openai/b")], (1, "model_name"), "must be unique"),
    ],
)
def test_what_cannot_be_converted_is_told(entries, place, told):
    """At its place in the list."""
    ((at, rule),) = converted(*entries).faults
    assert at == ("model_list", *place)
    assert told in rule
