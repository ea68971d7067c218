"""Prices: where they come from, of which day, what a call costs, and that none is ever a silent zero."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from pointsman.gateway.settings.prices import Catalogue, PriceFileError, UnknownPriceError
from pointsman.gateway.settings.schema import ModelSettings, UpstreamSettings

OPENAI = UpstreamSettings(base_url="https://api.openai.com/v1")
LOCAL = UpstreamSettings(base_url="http://localhost:8000/v1")
ENTRIES = {
    "sample_spec": {"max_input_tokens": "max input tokens, if the provider specifies it"},
    "gpt-4o": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 8e-06,
        "cache_read_input_token_cost": 5e-07,
        "max_input_tokens": 100_000,
        "supports_vision": True,
        "supports_function_calling": True,
    },
    "gemini/long": {
        "litellm_provider": "gemini",
        "input_cost_per_token": 1.25e-06,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
    },
    "image": {"litellm_provider": "openai", "output_cost_per_image": 0.04},
}


@pytest.fixture
def file(tmp_path):
    """A small price file in LiteLLM's format."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(ENTRIES))
    return path


def price_of(catalogue: Catalogue, upstream: UpstreamSettings = OPENAI, **model: object):
    """Return the price of a model."""
    return catalogue.facts(ModelSettings(**{"name": "m", "upstream": "u", **model}), upstream).price


def test_the_users_price_stands_above_the_file_above_the_table(file):
    """Each says where it is from, and of which day."""
    stated = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 4, "date": "2026-10-01"}
    both = Catalogue(file=file)
    own = price_of(both, name="gpt-4o", price=stated)
    assert (own.source, own.date, own.rates().input_usd_per_mtok) == ("settings", datetime.date(2026, 10, 1), 3)
    of_file = price_of(both, name="gpt-4o")
    written = datetime.datetime.fromtimestamp(file.stat().st_mtime, tz=datetime.UTC).date()
    assert (of_file.source, of_file.date) == ("prices.json (gpt-4o)", written)
    assert of_file.rates().input_usd_per_mtok == 2.0
    of_table = price_of(Catalogue(), name="gpt-4o")
    assert of_table.source.startswith("genai-prices ")
    assert of_table.source.endswith("(openai/gpt-4o)")
    assert datetime.date(2026, 1, 1) < of_table.date <= datetime.datetime.now(tz=datetime.UTC).date()


def test_what_the_file_knows_besides_is_taken_over(file):
    """Context window and capabilities; the settings stand above them, and nothing known means tools and JSON."""
    known = Catalogue(file=file).facts(ModelSettings(name="gpt-4o", upstream="u"), OPENAI)
    assert (known.context_window, known.supports) == (100_000, {"tools", "vision"})
    stated = ModelSettings(name="gpt-4o", upstream="u", context_window=7, supports=["json"])
    facts = Catalogue(file=file).facts(stated, OPENAI)
    assert (facts.context_window, facts.supports) == (7, {"json"})
    table = Catalogue().facts(ModelSettings(name="gpt-4o", upstream="u"), OPENAI)
    assert (table.context_window, table.supports) == (128_000, {"tools", "json"})


def test_a_call_costs_its_tokens_cached_ones_apart():
    """Cost is r + (p_in (n - c) + p_cached c + p_out m) / 10^6; without a cached price all input costs the same."""
    stated = {
        "input_usd_per_mtok": 2,
        "cached_input_usd_per_mtok": 0.5,
        "output_usd_per_mtok": 8,
        "usd_per_request": 0.01,
    }
    price = price_of(Catalogue(), price=stated)
    cost = price.cost_usd(input_tokens=1000, cached_input_tokens=400, output_tokens=50)
    assert cost == pytest.approx(0.01 + (2 * 600 + 0.5 * 400 + 8 * 50) / 1e6)
    assert price.cost_usd(input_tokens=10, cached_input_tokens=99) == pytest.approx(0.01 + 0.5 * 10 / 1e6)
    del stated["cached_input_usd_per_mtok"]
    uncached = price_of(Catalogue(), price=stated)
    assert uncached.cost_usd(input_tokens=1000, cached_input_tokens=400) == pytest.approx(0.01 + 2e-3)


def test_a_tier_holds_for_the_whole_request(file):
    """At 200,000 tokens the first price, from the next on the second, of input and output alike."""
    upstream = UpstreamSettings(base_url="http://proxy:1/v1", provider="gemini")
    price = price_of(Catalogue(file=file), upstream, name="long")
    assert price.cost_usd(input_tokens=200_000, output_tokens=1000) == pytest.approx(0.25 + 0.01)
    assert price.cost_usd(input_tokens=200_001, output_tokens=1000) == pytest.approx(0.5000025 + 0.015)


@pytest.mark.parametrize("at", [None, datetime.datetime(2026, 3, 1, 3, tzinfo=datetime.UTC)])
def test_costs_are_those_of_the_table(at):
    """Of every chat model that has a price, at several sizes and hours, as genai-prices counts them itself."""
    n_models = 0
    for url in (
        "https://api.openai.com/v1",
        "https://api.deepseek.com/v1",
        "https://api.anthropic.com/v1",
        "https://generativelanguage.googleapis.com/v1beta/openai",
    ):
        upstream = UpstreamSettings(base_url=url)
        provider = get_snapshot().find_provider(None, None, url)
        for model in provider.models:
            try:
                price = price_of(Catalogue(), upstream, name=model.id)
            except UnknownPriceError:
                continue
            n_models += 1
            for n, cached, out in ((1000, 0, 100), (300_000, 1000, 500)):
                usage = Usage(input_tokens=n, cache_read_tokens=cached, output_tokens=out)
                theirs = calc_price(usage, model.id, provider_api_url=url, genai_request_timestamp=at)
                ours = price.cost_usd(
                    input_tokens=n,
                    cached_input_tokens=cached,
                    output_tokens=out,
                    at=None if at is None else at.timestamp(),
                )
                # Fees per request are in their total only where requests are in their usage.
                ours -= price.rates(input_tokens=n, at=None if at is None else at.timestamp()).usd_per_request
                assert ours == pytest.approx(float(theirs.total_price), rel=1e-9), model.id
    assert n_models > 50


def test_no_price_is_an_error_never_zero(file):
    """Unknown names, unknown places, entries without a price per token, and chat models without a price of output."""
    both = Catalogue(file=file)
    for model, upstream in (
        ({"name": "no-such-model"}, OPENAI),
        ({"name": "gpt-4o"}, LOCAL),  # the same weights elsewhere have another price
        ({"name": "image"}, OPENAI),
        ({"name": "m", "price_as": "openai/no-such-model"}, OPENAI),
        ({"name": "gpt-4o", "price_as": "no-such-key"}, OPENAI),
    ):
        with pytest.raises(
            UnknownPriceError, match=r"must be known; not found in price file prices\.json or genai-prices"
        ):
            price_of(both, upstream, **model)
    with pytest.raises(UnknownPriceError, match=r"must be known: state it"):
        price_of(Catalogue(use_table=False), name="gpt-4o")
    with pytest.raises(UnknownPriceError, match="output_usd_per_mtok"):
        price_of(both, price={"input_usd_per_mtok": 1})


def test_models_the_table_has_no_price_of_are_unknown():
    """It lists some without any, and would count their calls as 0 USD."""
    empty = [
        (provider, model)
        for provider in get_snapshot().providers
        for model in provider.models
        if not isinstance(model.prices, list) and not {k for k, v in vars(model.prices).items() if v is not None}
    ]
    assert empty
    for provider, model in empty[:20]:
        with pytest.raises(UnknownPriceError):
            price_of(Catalogue(), UpstreamSettings(base_url="http://x/v1", provider=provider.id), name=model.id)


def test_zero_is_a_price_where_it_is_stated():
    """A free model costs nothing, and says so; embeddings need no price of output and have none."""
    free = price_of(Catalogue(), price={"input_usd_per_mtok": 0, "output_usd_per_mtok": 0})
    assert free.is_free
    assert free.cost_usd(input_tokens=10**6, output_tokens=10**6) == 0
    embedding = price_of(Catalogue(), kind="embedding", price={"input_usd_per_mtok": 0.02})
    assert not embedding.is_free
    assert embedding.cost_usd(input_tokens=500_000) == pytest.approx(0.01)
    assert math.isnan(embedding.cost_usd(input_tokens=1, output_tokens=1))


def test_a_price_can_be_anothers(file):
    """By the file's key, or by provider and model of the table, wherever the model runs."""
    assert price_of(Catalogue(file=file), LOCAL, price_as="gpt-4o").source == "prices.json (gpt-4o)"
    assert price_of(Catalogue(), LOCAL, price_as="openai/gpt-4o").source.endswith("(openai/gpt-4o)")


def test_prices_that_change_are_those_of_the_time_of_the_call():
    """A price that holds from a day on is not charged before it."""
    provider, model = next(
        (provider, model)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        and type(model.prices[-1].constraint).__name__ == "StartDateConstraint"
        and isinstance(model.prices[0].prices.input_mtok, Decimal)
        and isinstance(model.prices[-1].prices.input_mtok, Decimal)
        and model.prices[0].prices.input_mtok != model.prices[-1].prices.input_mtok
        and all(each.prices.input_mtok is not None and each.prices.output_mtok is not None for each in model.prices)
    )
    price = price_of(Catalogue(), UpstreamSettings(base_url="http://x/v1", provider=provider.id), name=model.id)
    start = datetime.datetime.combine(model.prices[-1].constraint.start_date, datetime.time(), tzinfo=datetime.UTC)
    after = price.rates(at=start.timestamp()).input_usd_per_mtok
    assert after == float(model.prices[-1].prices.input_mtok)
    assert price.rates(at=start.timestamp() - 1).input_usd_per_mtok != after


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{" * 10_000, '{"a": {"litellm_provider": "openai"}'])
def test_a_file_in_another_format_is_refused(tmp_path, text):
    """It says what it should be."""
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(PriceFileError, match="LiteLLM's price file"):
        Catalogue(file=tmp_path / "prices.json")


@pytest.mark.parametrize("value", [-1, "1e-6", True, None])
def test_a_price_in_a_file_must_be_a_number(tmp_path, value):
    """Text and negative numbers are refused; null is no price."""
    (tmp_path / "prices.json").write_text(json.dumps({"m": {"input_cost_per_token": value}}))
    with pytest.raises(UnknownPriceError if value is None else PriceFileError):
        price_of(Catalogue(file=tmp_path / "prices.json"))
