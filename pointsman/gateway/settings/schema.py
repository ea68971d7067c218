"""What `pointsman.yaml` may hold: frozen sections, whose attribute docstrings are the configuration reference."""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pointsman.gateway.settings.prices import Capability, Catalogue, ModelFacts, PriceFileError, UnknownPriceError
from pointsman.trade_off import TradeOff

Spelling = Literal["quality_per_usd", "cost_weight", "willingness_to_pay"]
Period = Literal["day", "week", "month", "total"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where settings come from: relative paths start at `folder`, and prices without a date are of `modified`."""

    folder: Path = Path()
    modified: datetime.date | None = None


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - it is frozen


@contextmanager
def coming_from(origin: Origin) -> Iterator[None]:
    """Validate settings as those of a file."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def _fault(rule: str) -> PydanticCustomError:
    # Rules may quote what users wrote, and braces there are no placeholders.
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _url(*, example: str, secrets: str) -> AfterValidator:
    """Return what holds a text to a URL without secrets, which go elsewhere."""

    def check(url: str) -> str:
        try:
            parts = urllib.parse.urlsplit(url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # an open bracket, or a port that is none
            is_url = False
        if not is_url:
            raise _fault(f"must be an http:// or https:// URL, such as {example}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise _fault(f"must hold no user, password or query; put secrets into {secrets}")
        return url.rstrip("/")

    return AfterValidator(check)


def _check_store_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text.startswith("sqlite:///"):
        path = text.removeprefix("sqlite:///")
        if not path or "?" in path:
            raise _fault("must name a file, such as sqlite:///pointsman.db")
        return SecretStr(f"sqlite:///{_origin.get().folder / path}")
    if text.startswith(("postgresql://", "postgres://")):
        return url
    raise _fault("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE")


def _at_origin(path: Path) -> Path:
    return _origin.get().folder / path.expanduser()


def _check_header_names(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise _fault("must have names that HTTP allows: letters, digits and hyphens")
        if any(ord(character) < 32 or ord(character) == 127 for character in value.get_secret_value()):
            raise _fault("must have values of one line")
    return headers


def _check_model_name(name: str) -> str:
    if name == "auto" or name.startswith("auto:"):
        raise _fault("must not be 'auto' or start with 'auto:', by which clients ask for routing")
    return name


def _check_preset_names(presets: dict[str, Any]) -> dict[str, Any]:
    for name in presets:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise _fault("must have names of letters, digits, '_' and '-' that start with a letter: auto:NAME asks it")
    return presets


def _check_secret(key: SecretStr | None) -> SecretStr | None:
    if key is None or not key.get_secret_value():
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
        raise _fault("must be printable ASCII without spaces")
    return key


def _matching(pattern: str, rule: str) -> tuple[AfterValidator, FieldInfo]:
    """Return what holds a text to a pattern, and says the rule in words where it breaks it."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _fault(rule)
        return text

    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


LocalPath = Annotated[Path, AfterValidator(_at_origin)]
BaseUrl = Annotated[str, _url(example="https://api.openai.com/v1", secrets="api_key or headers")]
OtlpUrl = Annotated[str, _url(example="http://localhost:4318", secrets="headers")]
StoreUrl = Annotated[SecretStr, AfterValidator(_check_store_url)]
ApiKey = Annotated[SecretStr | None, AfterValidator(_check_secret)]
Headers = Annotated[dict[str, SecretStr], AfterValidator(_check_header_names)]
Name = Annotated[
    str,
    *_matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
        "must be at most 100 letters, digits, '.', '_' and '-', and start with a letter or digit",
    ),
]
# A model's name goes into response headers.
ModelName = Annotated[
    str,
    *_matching(r"[\x21-\x7e]{1,200}", "must be at most 200 printable ASCII characters, without spaces"),
    AfterValidator(_check_model_name),
]
Hash = Annotated[
    str,
    AfterValidator(str.lower),
    *_matching(r"[0-9a-f]{64}", "must be 64 hexadecimal digits, as `pointsman keys new` prints them"),
]
Requirement = Annotated[
    str,
    *_matching(
        r"(utility|quality|cost_usd)(>=|<=)-?[0-9]*\.?[0-9]+(e-?[0-9]+)?",
        "must be utility, quality or cost_usd, then >= or <=, then a number, such as utility>=0",
    ),
]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Usd = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the settings: frozen, no unknown field, no value in an error's text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        str_strip_whitespace=True,
    )


class ServerSettings(Section):
    """Where the gateway listens. A change needs a restart."""

    host: Text = "127.0.0.1"
    """address to listen on; 0.0.0.0 for all of this machine's, and then set `keys`"""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    """TCP port to listen on"""
    drain_s: Seconds = 30.0
    """longest time that requests in flight may take once the gateway is told to stop, in seconds"""


class TimeoutSettings(Section):
    """How long to wait for an upstream, by phase."""

    connect_s: Seconds = 5.0
    """longest wait for a connection, in seconds"""
    first_token_s: Seconds = 60.0
    """longest wait from the request to the first content, in seconds"""
    between_tokens_s: Seconds = 30.0
    """longest silence within a stream, in seconds"""
    total_s: Seconds = 600.0
    """longest time for a whole answer, in seconds"""


class BreakerSettings(Section):
    """When a model that fails is left alone for a while."""

    failures: Count = 5
    """failures in a row after which the model is no longer chosen"""
    cooldown_s: Seconds = 30.0
    """time after which one request may try it again, in seconds"""


class UpstreamSettings(Section):
    """A server that speaks OpenAI's API."""

    base_url: BaseUrl
    """URL up to and without /chat/completions, such as https://api.openai.com/v1"""
    api_key: ApiKey = None
    """secret sent as `Authorization: Bearer`; write ${NAME} to read an environment variable"""
    headers: Headers = {}
    """further headers of each request; values are secrets"""
    provider: Name | None = None
    """provider in price tables, such as openai, where the base URL does not tell"""
    timeouts: TimeoutSettings = TimeoutSettings()
    """how long to wait, by phase"""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """times a request is sent again where that is safe: no connection, 429 or 503 before any content"""
    max_connections: Count = 1000
    """connections kept open to this server"""
    breaker: BreakerSettings = BreakerSettings()
    """when models here are left alone for a while"""


class PriceSettings(Section):
    """A model's price. An explicit 0 is free; what is not written here is not guessed."""

    input_usd_per_mtok: Usd
    """USD per million tokens of input"""
    output_usd_per_mtok: Usd | None = None
    """USD per million tokens of output; a chat model needs it"""
    cached_input_usd_per_mtok: Usd | None = None
    """USD per million tokens of input that the upstream had cached; that of other input where not given"""
    usd_per_request: Usd = 0.0
    """USD of each request, beside its tokens"""
    date: datetime.date | None = None
    """day the price was looked up; where not given, that of the last change to this file"""


class ModelSettings(Section):
    """A model that clients can ask for and, unless it makes embeddings, the router can choose: an arm."""

    name: ModelName
    """name in logs, answers and requests"""
    upstream: Name
    """name of the upstream that serves it"""
    upstream_model: Text | None = None
    """what the upstream calls it; `name` where not given"""
    kind: Literal["chat", "embedding"] = "chat"
    """what it makes; only chat models are routed"""
    context_window: Count | None = None
    """most tokens of input; where not given, as the price file or table says, else not checked"""
    supports: frozenset[Capability] | None = None
    """of tools, vision and json, what it can do; where not given, as the price file says, else tools and json"""
    price: PriceSettings | None = None
    """its price, above any file or table"""
    price_as: Text | None = None
    """its entry in the price file, or PROVIDER/MODEL of the table, where names do not tell"""


class PriceSourceSettings(Section):
    """Where prices come from that no model states: first the file, then the table. An unknown price is an error."""

    file: LocalPath | None = None
    """price file in the format of LiteLLM's model_prices_and_context_window.json"""
    use_table: bool = True
    """whether to ask the table inside the package genai-prices, which needs no network"""


class TradeOffSettings(Section):
    """How much quality a US dollar is worth, in exactly one of three spellings."""

    quality_per_usd: Usd | None = None
    """lambda: points of quality that one USD is worth; 0 looks at quality only"""
    cost_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 looks at quality only, 1 at cost only; the router's cost scale makes a lambda of it"""
    willingness_to_pay: Positive | None = None
    """USD that one full point of quality may cost"""

    @model_validator(mode="after")
    def _one_spelling(self) -> Self:
        if len(self._given()) != 1:
            raise _fault("must hold exactly one of quality_per_usd, cost_weight and willingness_to_pay")
        return self

    def _given(self) -> list[Spelling]:
        spellings: tuple[Spelling, ...] = ("quality_per_usd", "cost_weight", "willingness_to_pay")
        return [spelling for spelling in spellings if getattr(self, spelling) is not None]

    @property
    def spelling(self) -> Spelling:
        """The spelling given."""
        return self._given()[0]

    @property
    def value(self) -> float:
        """Its value."""
        return float(getattr(self, self.spelling))

    def at(self, cost_scale_usd: float) -> TradeOff:
        """Return the trade-off, given the router's cost scale tau > 0, in USD."""
        if self.spelling == "quality_per_usd":
            return TradeOff(self.value)
        if self.spelling == "cost_weight":
            return TradeOff.from_cost_weight(self.value, cost_scale_usd=cost_scale_usd)
        return TradeOff.from_willingness_to_pay(self.value)


class RouterSettings(Section):
    """What decides."""

    path: LocalPath | None = None
    """folder of a router, as `pointsman fit` writes it"""
    registry: LocalPath | None = None
    """folder of versioned routers; the promoted one decides"""
    version: Text | None = None
    """version of the registry that decides whatever is promoted"""
    default_model: str | None = None
    """model that answers where the router fails or is late; the first chat model where not given"""
    trade_off: TradeOffSettings | None = None
    """trade-off of requests that state none; the router's own where not given"""
    presets: Annotated[dict[str, TradeOffSettings], AfterValidator(_check_preset_names)] = {}
    """trade-offs by name: `model: "auto:NAME"` asks for one"""
    deadline_ms: Annotated[float, Field(gt=0, le=60_000)] = 50.0
    """longest time a decision may take, in milliseconds; then the default model answers"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.registry is not None:
            raise _fault("must hold path or registry, not both")
        if self.version is not None and self.registry is None:
            raise _fault("must hold registry where it holds version")
        return self


class ExplorationSettings(Section):
    """How much is tried that does not look best: what can be learned, and evaluated, later."""

    floor: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """probability spread evenly over the eligible models; 0 makes logs that no one can evaluate another router on"""
    strength: Annotated[float, Field(ge=0, le=10)] = 0.6
    """factor on the uncertainty that is explored; 1 is Thompson sampling, 0 only the floor"""


class BudgetSettings(Section):
    """What all requests together may cost; the router's trade-off is moved to hold it."""

    usd_per_request: Positive | None = None
    """mean cost of a request, in USD"""
    usd_per_day: Positive | None = None
    """cost of a day, in USD"""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.usd_per_request is not None and self.usd_per_day is not None:
            raise _fault("must hold usd_per_request or usd_per_day, not both")
        return self


class KeyBudgetSettings(Section):
    """What a key may spend."""

    usd: Usd
    """USD per period; models that cost nothing stay free beyond it"""
    period: Period = "month"
    """when it starts anew, at midnight UTC: each day, week (Monday) or month, or never (total)"""


class KeySettings(Section):
    """A virtual key; `pointsman keys new` makes one. The key itself is nowhere, only its hash."""

    id: Name
    """name of the key in logs, metrics and errors"""
    sha256: Annotated[Hash, Field(repr=False)]
    """SHA-256 of the key, in hexadecimal"""
    models: tuple[str, ...] | None = None
    """models it may use; all where not given"""
    requests_per_minute: Count | None = None
    """requests admitted in a minute; no limit where not given"""
    tokens_per_minute: Count | None = None
    """tokens of input and output in a minute; no limit where not given"""
    budget: KeyBudgetSettings | None = None
    """what it may spend; no limit where not given"""


class LimitSettings(Section):
    """What one client can take of the gateway. A change of `max_connections` or `read_timeout_s` needs a restart."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 20 * 2**20
    """largest request, in bytes; images travel inside requests"""
    max_answer_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 64 * 2**20
    """largest answer that is not streamed, in bytes"""
    max_connections: Count = 10_000
    """clients connected at once"""
    max_concurrent_requests: Count = 1000
    """requests answered at once; more are refused with 503"""
    read_timeout_s: Seconds = 30.0
    """longest time a client may take to send its request, in seconds"""


class StoreSettings(Section):
    """Where rounds and feedback are kept. A change of `url` or `queue_size` needs a restart."""

    url: Annotated[StoreUrl, Field(validate_default=True)] = SecretStr("sqlite:///pointsman.db")
    """sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE for several replicas; a secret"""
    prompts: Literal["text", "hash", "none"] = "text"
    """how prompts are kept; embeddings, from which is learned, are kept in any case"""
    queue_size: Count = 10_000
    """rounds that may wait to be written; beyond it they are lost, and counted"""
    retention_days: Positive | None = None
    """age at which `pointsman learn` deletes rounds, with their feedback; kept for ever where not given"""

    @property
    def shown_url(self) -> str:
        """The URL without its user and password."""
        url = self.url.get_secret_value()
        if url.startswith("sqlite:"):
            return url
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


class SessionSettings(Section):
    """How conversations stay with a model whose provider has their beginning cached."""

    ttl_s: Annotated[float, Field(ge=0)] = 3600.0
    """silence after which a conversation is decided afresh, in seconds; 0 decides each request by itself"""
    cache_ttl_s: Annotated[float, Field(ge=0)] = 300.0
    """time that providers keep what they cached, in seconds"""
    switching_cost_usd: Usd | None = None
    """USD held against leaving the session's model; where not given, what its cached input would save"""


class GateSettings(Section):
    """What a refitted router must be shown to meet before it serves."""

    requirement: Requirement = "utility>=0"
    """difference with the router that serves, as `pointsman evaluate --require` takes it"""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """probability with which it must hold"""
    min_rounds: Count = 1000
    """rounds with feedback before it is looked at"""


class LearnSettings(Section):
    """How feedback changes routing."""

    enabled: bool = True
    """whether anything is learned; decisions are logged in any case"""
    interval_s: Seconds = 5.0
    """time between two looks for feedback, in seconds"""
    refit_interval_s: Positive | None = None
    """time between two refits from the log, in seconds; never refitted where not given"""
    gate: GateSettings = GateSettings()
    """what a refit must be shown to meet; until then it stays in shadow"""
    canary_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of requests that a router in canary decides"""


class TelemetrySettings(Section):
    """Where OpenTelemetry spans and metrics go; it needs `pip install 'pointsman[otel]'`. A change needs a restart."""

    otlp_endpoint: OtlpUrl | None = None
    """URL of a collector of OTLP over HTTP, without /v1/traces, such as http://localhost:4318; off where not given"""
    headers: Headers = {}
    """sent to the collector; values are secrets"""
    service_name: Text = "pointsman"
    """name of this service there"""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """share of the traces begun here that are sent; of a client's own trace, its traceparent says whether"""


class Settings(BaseSettings):
    """All settings of the gateway, checked as a whole: names refer to what is there, every price is known.

    A setting can also be given by the environment, above the file: POINTSMAN_SERVER__PORT=9000 is server.port.

    Raises:
        pydantic.ValidationError: Each fault with its place; `load_settings` says them in words.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        env_prefix="POINTSMAN_",
        env_nested_delimiter="__",
    )

    server: ServerSettings = ServerSettings()
    upstreams: dict[Name, UpstreamSettings]
    models: tuple[ModelSettings, ...]
    prices: PriceSourceSettings = PriceSourceSettings()
    router: RouterSettings = RouterSettings()
    exploration: ExplorationSettings = ExplorationSettings()
    budget: BudgetSettings = BudgetSettings()
    keys: tuple[KeySettings, ...] = ()
    """virtual keys; without any, the gateway answers everyone who can reach it"""
    limits: LimitSettings = LimitSettings()
    # Its default depends on where the settings come from.
    store: StoreSettings = Field(default_factory=StoreSettings)
    session: SessionSettings = SessionSettings()
    fallback: tuple[str, ...] = ()
    """models that answer, in this order, where the chosen one fails before its first content"""
    learn: LearnSettings = LearnSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    _facts: dict[str, ModelFacts] = PrivateAttr(default_factory=dict)
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(  # the base class asks for these arguments
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment above the file, so that a container changes one setting without a new file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        faults = [*self._naming_faults(), *self._look_up()]
        if faults:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [InitErrorDetails(type=_fault(rule), loc=place, input=got) for place, rule, got in faults],
            )
        return self

    def _naming_faults(self) -> Iterator[tuple[tuple[str | int, ...], str, object]]:
        given = [model.name for model in self.models]
        names = list(dict.fromkeys(given))
        chat = list(dict.fromkeys(model.name for model in self.chat_models))
        if not chat:
            yield ("models",), "must hold at least one model of kind chat", None
        yield from _repeated("models", "name", given)
        for i, model in enumerate(self.models):
            if model.upstream not in self.upstreams:
                yield ("models", i, "upstream"), f"must be one of {sorted(self.upstreams)}", model.upstream
        if self.router.default_model is not None and self.router.default_model not in chat:
            yield ("router", "default_model"), f"must be one of {chat}", self.router.default_model
        for i, name in enumerate(self.fallback):
            if name not in chat:
                yield ("fallback", i), f"must be one of {chat}", name
        yield from _repeated("keys", "id", [key.id for key in self.keys])
        yield from _repeated("keys", "sha256", [key.sha256 for key in self.keys])
        for i, key in enumerate(self.keys):
            for j, name in enumerate(key.models or ()):
                if name not in names:
                    yield ("keys", i, "models", j), f"must be one of {names}", name

    def _look_up(self) -> Iterator[tuple[tuple[str | int, ...], str, object]]:
        try:
            catalogue = Catalogue(file=self.prices.file, use_table=self.prices.use_table)
            for i, model in enumerate(self.models):
                if (upstream := self.upstreams.get(model.upstream)) is None:
                    continue
                try:
                    self._facts[model.name] = catalogue.facts(model, upstream, modified=_origin.get().modified)
                except UnknownPriceError as unknown:
                    yield ("models", i, "price"), str(unknown), None
        except PriceFileError as error:
            yield ("prices", "file"), str(error), str(self.prices.file)

    @property
    def facts(self) -> dict[str, ModelFacts]:
        """Price, context window and capabilities of each model, by name."""
        return self._facts

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these settings that is no fault."""
        return self._notes

    @property
    def chat_models(self) -> tuple[ModelSettings, ...]:
        """The models that are routed, in the order of the file."""
        return tuple(model for model in self.models if model.kind == "chat")

    @property
    def default_model(self) -> str:
        """Name of the model that answers where the router fails."""
        return self.router.default_model or self.chat_models[0].name

    def model(self, name: str) -> ModelSettings | None:
        """Return the model of that name; None where there is none."""
        return next((model for model in self.models if model.name == name), None)


def _repeated(section: str, field: str, values: Iterable[str]) -> Iterator[tuple[tuple[str | int, ...], str, object]]:
    seen: set[str] = set()
    for i, value in enumerate(values):
        if value in seen:
            yield (section, i, field), f"must be unique among {section}", value
        seen.add(value)
