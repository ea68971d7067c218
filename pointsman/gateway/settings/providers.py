"""Providers that speak OpenAI's API: where, under which name price files know them, and where their keys stand."""

from __future__ import annotations

from typing import Final, NamedTuple


class KnownProvider(NamedTuple):
    """A provider whose OpenAI-compatible endpoint is public.

    Attributes:
        base_url: Up to and without /chat/completions.
        key: Environment variable that holds the key by custom; None where none is asked for.
    """

    base_url: str
    key: str | None


PROVIDERS: Final[dict[str, KnownProvider]] = {
    "anthropic": KnownProvider("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "cerebras": KnownProvider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepseek": KnownProvider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": KnownProvider("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": KnownProvider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": KnownProvider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": KnownProvider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": KnownProvider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "ollama": KnownProvider("http://localhost:11434/v1", None),
    "openai": KnownProvider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "openrouter": KnownProvider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": KnownProvider("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "together_ai": KnownProvider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": KnownProvider("https://api.x.ai/v1", "XAI_API_KEY"),
}
"""By LiteLLM's name."""


def provider_of(base_url: str) -> str | None:
    """Return LiteLLM's name of the provider at a base URL; None where it is none of those known."""
    return next((name for name, known in PROVIDERS.items() if base_url.startswith(known.base_url)), None)
