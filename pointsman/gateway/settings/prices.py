"""Dated prices of models: what was stated, then a price file, then the table of genai-prices; never a silent zero."""

from __future__ import annotations

import datetime
import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pointsman.errors import InvalidParameterError
from pointsman.gateway.settings.providers import provider_of

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider, TieredPrices

    from pointsman.gateway.settings.schema import ModelSettings, PriceSettings, UpstreamSettings

Capability = Literal["tools", "vision", "json"]

CAPABILITIES: Final[Mapping[Capability, str]] = {
    "tools": "supports_function_calling",
    "vision": "supports_vision",
    "json": "supports_response_schema",
}
"""What LiteLLM's price file calls each."""

_MAX_FILE_BYTES: Final = 64 * 2**20
_FILE_RATES: Final = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_TABLE_RATES: Final = ("input_mtok", "output_mtok", "cache_read_mtok")


class PriceFileError(InvalidParameterError):
    """A price file cannot be read, or is not in LiteLLM's format."""


class UnknownPriceError(InvalidParameterError):
    """Nothing states the price of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Prices of one tier.

    Attributes:
        above_input_tokens: They hold for a whole request of more input tokens than this.
        input_usd_per_mtok: USD per million tokens of input.
        output_usd_per_mtok: USD per million tokens of output; None where the model has none.
        cached_input_usd_per_mtok: USD per million tokens of input that the upstream had cached.
        usd_per_request: USD of each request.
    """

    above_input_tokens: int = 0
    input_usd_per_mtok: float
    output_usd_per_mtok: float | None
    cached_input_usd_per_mtok: float
    usd_per_request: float = 0.0


Tiers: TypeAlias = tuple[Rates, ...]


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model costs, where that is from, and of which day.

    Attributes:
        source: What states it.
        date: Day of the source, or the newest day it speaks of; None where it has none.
        tiers_at: Tiers in force at a time in Unix seconds, the lowest first: providers announce changes ahead, and some
            are cheaper at night.
    """

    source: str
    date: datetime.date | None
    tiers_at: Callable[[float], Tiers]

    def rates(self, *, input_tokens: int = 0, at: float | None = None) -> Rates:
        """Return the prices of a request of that size at a time in Unix seconds, now where None."""
        tiers = self.tiers_at(time.time() if at is None else at)
        chosen = tiers[0]
        for tier in tiers[1:]:
            if input_tokens > tier.above_input_tokens:
                chosen = tier
        return chosen

    def cost_usd(
        self, *, input_tokens: int, output_tokens: int = 0, cached_input_tokens: int = 0, at: float | None = None
    ) -> float:
        """Return what a call costs, in USD: r + (p_in (n_in - n_cached) + p_cached n_cached + p_out n_out) / 10^6.

        Args:
            input_tokens: All tokens of input, cached ones as well, as OpenAI's `usage.prompt_tokens` counts them.
            output_tokens: Tokens of output, those of reasoning as well.
            cached_input_tokens: Of the input, those that the upstream had cached.
            at: When, in Unix seconds; now where None.

        Returns:
            USD; NaN where there is output of a model without a price of output.
        """
        rates = self.rates(input_tokens=input_tokens, at=at)
        cached = min(max(cached_input_tokens, 0), input_tokens)
        per_mtok = rates.input_usd_per_mtok * (input_tokens - cached) + rates.cached_input_usd_per_mtok * cached
        if output_tokens:
            per_mtok += math.nan if rates.output_usd_per_mtok is None else rates.output_usd_per_mtok * output_tokens
        return rates.usd_per_request + per_mtok / 1e6

    @property
    def is_free(self) -> bool:
        """Whether every call costs nothing, now."""
        return all(
            not (rates.usd_per_request or rates.input_usd_per_mtok or rates.output_usd_per_mtok)
            for rates in self.tiers_at(time.time())
        )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model, from the settings, a price file or the table.

    Attributes:
        price: What it costs.
        context_window: Most tokens of input; None where not known.
        supports: Of tools, vision and json, what it can do.
    """

    price: Price
    context_window: int | None
    supports: frozenset[Capability]


class Catalogue:
    """Where prices are looked up.

    Args:
        file: Price file in LiteLLM's format.
        use_table: Whether to ask the table inside genai-prices.

    Raises:
        PriceFileError: The file cannot be read, or is not in that format.
    """

    def __init__(self, *, file: Path | None = None, use_table: bool = True) -> None:
        self._file = None if file is None else _PriceFile(file)
        self._use_table = use_table

    def facts(
        self, model: ModelSettings, upstream: UpstreamSettings, *, modified: datetime.date | None = None
    ) -> ModelFacts:
        """Return what is known of a model: what its settings state, else the file, else the table.

        Args:
            model: The model.
            upstream: Its upstream, whose URL or `provider` says whose prices to look at.
            modified: Day of the settings, of which a price stated without one is.

        Raises:
            UnknownPriceError: Nothing states the price, or not all that a model of this kind needs.
        """
        asked = model.upstream_model or model.name
        provider = upstream.provider or provider_of(upstream.base_url)
        entry = None if self._file is None else self._file.entry(asked, provider=provider, key=model.price_as)
        found = self._table(asked, upstream, key=model.price_as) if self._use_table else None
        price = None if model.price is None else _stated(model.price, modified=modified)
        if price is None and self._file is not None and entry is not None:
            price = self._file.price(*entry)
        if price is None and found is not None:
            price = _table_price(*found)
        if price is None:
            raise UnknownPriceError(self._unknown(asked, model.price_as))
        if model.kind == "chat" and any(r.output_usd_per_mtok is None for r in price.tiers_at(time.time())):
            raise UnknownPriceError(f"must hold output_usd_per_mtok for a chat model; {price.source} has none")
        known = {} if entry is None else entry[1]
        windows = (
            model.context_window,
            known.get("max_input_tokens"),
            None if found is None else found[1].context_window,
        )
        return ModelFacts(
            price=price,
            context_window=next((int(window) for window in windows if isinstance(window, int) and window > 0), None),
            supports=model.supports if model.supports is not None else _supports(known),
        )

    def _unknown(self, asked: str, key: str | None) -> str:
        looked = [f"price file {self._file.path.name}"] if self._file is not None else []
        if self._use_table:
            looked.append(f"genai-prices {_table_version()}")
        name = f"price_as {key!r}" if key is not None else repr(asked)
        where = f"; not found in {' or '.join(looked)} as {name} of this upstream" if looked else ""
        return (
            f"must be known{where}: state it, 0 where the model is free, or in price_as (LiteLLM's base_model) the "
            "PROVIDER/MODEL whose price it shares"
        )

    def _table(self, asked: str, upstream: UpstreamSettings, *, key: str | None) -> tuple[Provider, ModelInfo] | None:
        from genai_prices.data_snapshot import get_snapshot

        provider, url = upstream.provider, None if upstream.provider else upstream.base_url
        if key is not None:
            provider, slash, asked = key.partition("/")
            url = None
            if not slash:
                return None
        try:
            return get_snapshot().find_provider_model(asked, None, provider, url)
        except LookupError:
            return None


def _stated(price: PriceSettings, *, modified: datetime.date | None) -> Price:
    cached = price.cached_input_usd_per_mtok
    rates = Rates(
        input_usd_per_mtok=price.input_usd_per_mtok,
        output_usd_per_mtok=price.output_usd_per_mtok,
        cached_input_usd_per_mtok=price.input_usd_per_mtok if cached is None else cached,
        usd_per_request=price.usd_per_request,
    )
    return Price(source="settings", date=price.date or modified, tiers_at=lambda _: (rates,))


def _supports(entry: Mapping[str, Any]) -> frozenset[Capability]:
    if not any(name in entry for name in CAPABILITIES.values()):
        return frozenset({"tools", "json"})
    return frozenset(capability for capability, name in CAPABILITIES.items() if entry.get(name) is True)


class _PriceFile:
    """A file in LiteLLM's format: entries by model, USD per token."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            status = path.stat()
            if status.st_size > _MAX_FILE_BYTES:
                raise PriceFileError(f"must be at most {_MAX_FILE_BYTES} bytes")
            entries = json.loads(path.read_bytes())
        except OSError as error:
            raise PriceFileError(f"must be a file that can be read; {error.strerror or error}") from None
        except (ValueError, RecursionError):
            raise PriceFileError("must be JSON in the format of LiteLLM's price file") from None
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise PriceFileError("must be a JSON object of one object a model, as LiteLLM's price file is")
        self.entries: dict[str, dict[str, Any]] = entries
        self.date = datetime.datetime.fromtimestamp(status.st_mtime, tz=datetime.UTC).date()

    def entry(self, asked: str, *, provider: str | None, key: str | None) -> tuple[str, dict[str, Any]] | None:
        """Return the entry of a model and its key.

        A bare name counts only where the entry's provider is the upstream's: the same weights cost otherwise elsewhere.
        """
        if key is not None:
            return (key, self.entries[key]) if key in self.entries else None
        if provider is not None and (full := f"{provider}/{asked}") in self.entries:
            return full, self.entries[full]
        entry = self.entries.get(asked)
        if entry is not None and entry.get("litellm_provider") in (None, provider):
            return asked, entry
        return None

    def price(self, key: str, entry: Mapping[str, Any]) -> Price | None:
        """Return the price an entry states; None where it states none per token."""
        tiers = _tiers(
            *([(0, _per_mtok(entry, name, key)), *_steps(entry, name, key)] for name in _FILE_RATES),
            usd_per_request=_number(entry, "input_cost_per_request", key) or 0.0,
        )
        if tiers is None:
            return None
        return Price(source=f"{self.path.name} ({key})", date=self.date, tiers_at=lambda _: tiers)


Step: TypeAlias = tuple[int, float | None]


def _number(entry: Mapping[str, Any], name: str, key: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise PriceFileError(f"must hold numbers >= 0; {name} of {key!r} is {value!r}")
    return float(value)


def _per_mtok(entry: Mapping[str, Any], name: str, key: str) -> float | None:
    value = _number(entry, name, key)
    # From 1.5e-07 to 0.15 rather than 0.15000000000000002: prices have few digits.
    return None if value is None else float(f"{value * 1e6:.12g}")


def _steps(entry: Mapping[str, Any], name: str, key: str) -> list[Step]:
    above = re.compile(re.escape(name) + r"_above_(\d+)k_tokens")
    return [
        (1000 * int(match[1]), _per_mtok(entry, match[0], key)) for each in entry if (match := above.fullmatch(each))
    ]


def _tiers(
    input_: Iterable[Step], output: Iterable[Step], cached: Iterable[Step], *, usd_per_request: float
) -> Tiers | None:
    """Return the tiers of three prices that may each change at sizes of their own; None where input has no price."""
    steps = [sorted(each, key=lambda step: step[0]) for each in (input_, output, cached)]
    if steps[0][0][1] is None:
        return None

    def at(each: list[Step], start: int) -> float | None:
        return [rate for above, rate in each if above == 0 or (above <= start and rate is not None)][-1]

    tiers = []
    for start in sorted({above for each in steps for above, _ in each}):
        rates = [at(each, start) for each in steps]
        assert rates[0] is not None  # noqa: S101 - the first step has one
        tiers.append(
            Rates(
                above_input_tokens=start,
                input_usd_per_mtok=rates[0],
                output_usd_per_mtok=rates[1],
                cached_input_usd_per_mtok=rates[0] if rates[2] is None else rates[2],
                usd_per_request=usd_per_request,
            )
        )
    return tuple(tiers)


def _table_price(provider: Provider, model: ModelInfo) -> Price | None:
    """Return the price that genai-prices states; None where it states none per token: it would count that as zero."""
    prices = [each.prices for each in model.prices] if isinstance(model.prices, list) else [model.prices]
    by_price: dict[int, Tiers] = {}
    for price in prices:
        tiers = _tiers(
            *(_table_steps(getattr(price, name)) for name in _TABLE_RATES),
            usd_per_request=float(_base(price.requests_kcount) or 0) / 1000,
        )
        if tiers is None:
            return None
        by_price[id(price)] = tiers
    if not prices:
        return None

    def tiers_at(at: float) -> Tiers:
        if len(prices) == 1:
            return by_price[id(prices[0])]
        return by_price[id(model.get_prices(datetime.datetime.fromtimestamp(at, tz=datetime.UTC)))]

    source = f"genai-prices {_table_version()} ({provider.id}/{model.id})"
    return Price(source=source, date=_table_date(), tiers_at=tiers_at)


def _table_steps(price: Any) -> list[Step]:
    base = _base(price)
    steps: list[Step] = [(0, None if base is None else float(base))]
    return steps + [(int(tier.start), float(tier.price)) for tier in getattr(price, "tiers", ())]


def _base(price: Any) -> Any:
    tiered: TieredPrices | Any = price
    return getattr(tiered, "base", price)


@functools.cache
def _table_version() -> str:
    from genai_prices import __version__

    return __version__


@functools.cache
def _table_date() -> datetime.date | None:
    """Return the newest day from which a price of the table holds already: the table is at least as new as that."""
    from genai_prices.data_snapshot import get_snapshot

    starts = (
        getattr(each.constraint, "start_date", None)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        for each in model.prices
    )
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return max((start for start in starts if start is not None and start <= today), default=None)
