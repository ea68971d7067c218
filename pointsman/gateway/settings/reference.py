"""The configuration reference: `python -m pointsman.gateway.settings.reference > docs/configuration.md`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pointsman.gateway.settings.fields import is_secret, sections_in
from pointsman.gateway.settings.providers import PROVIDERS
from pointsman.gateway.settings.schema import Settings
from pointsman.types import State

_INTRODUCTION = """\
# Configuration

*Made by `python -m pointsman.gateway.settings.reference` from the settings themselves; change those, not this page.*

`pointsman init` writes a commented `pointsman.yaml`, and `pointsman serve --check` says what a file would do, or what
is wrong with it: every fault at once, with its line. A setting that does not exist is a fault. For editors,
`python -m pointsman.gateway.settings.reference --schema` prints a JSON schema.

- **Secrets** stay in the environment: `${NAME}` within a value is replaced by the variable, `${NAME:-default}` where it
  may be unset, and `$${` stands for `${`. Within `{ }` YAML wants quotes around them. No value that came from the
  environment, and no value of a secret field, is ever shown.
- **One setting by the environment**, above the file: `POINTSMAN_SERVER__PORT=9000` is `server.port`.
- **Paths** start at the folder of the file.
- **Changes** are taken over while the gateway runs; a file with a fault leaves the old settings in force and says why.
  `server`, `telemetry` and a few others, as each section says, need a restart.
- **Prices** are, in this order: `price` of the model; the price file; the table of genai-prices, whose data are in the
  package, by the upstream's URL or `provider`. Each is shown with its source and day: of a price of the settings, its
  `date` or that of the file's last change; of the price file, that of its last change; of the table, the newest day
  from which one of its prices holds, for it has no other. A model without a price is a fault; an explicit 0 is a price.
  `price_as` says whose price a model shares where its upstream does not tell.
"""

_LITELLM = """\
## model_list

LiteLLM's list, instead of `upstreams` and `models` or beside them. Of each entry these are understood: `model_name`;
`litellm_params` with `model`, `api_base`, `api_key`, `custom_llm_provider`, `organization`, `extra_headers`, `timeout`,
`stream_timeout`, `max_retries`; `model_info` with `mode`, `max_input_tokens`, `base_model`, and of what it supports
`supports_function_calling`, `supports_vision` and `supports_response_schema`; and in either the costs per token.
`os.environ/NAME` is `${NAME}`. `pointsman serve --check` says what is left out. Several deployments of one name are a
fault: give each a name, and list them under `fallback`. Known by name are
PROVIDERS;
any other server that speaks OpenAI's API is `openai/MODEL` with its `api_base`.

```yaml
model_list:
  - model_name: llama
    litellm_params:
      model: groq/llama-3.1-8b-instant
      api_key: os.environ/GROQ_API_KEY
```
"""


def reference() -> str:
    """Return the configuration reference, in Markdown."""
    known = ", ".join(f"`{name}`" for name in PROVIDERS)
    return "\n".join([_INTRODUCTION, *_sections(), _LITELLM.replace("PROVIDERS", known)])


def schema() -> State:
    """Return the JSON schema of a file; `${NAME}` in the place of a number is not part of it."""
    described: State = Settings.model_json_schema()
    described["properties"]["model_list"] = {
        "type": "array",
        "items": {"type": "object", "required": ["model_name", "litellm_params"]},
        "description": "LiteLLM's list of models, instead of upstreams and models or beside them",
    }
    described["required"] = []  # a model_list stands for both
    url = Settings.model_fields["store"].get_default(call_default_factory=True).url
    described["$defs"]["StoreSettings"]["properties"]["url"]["default"] = url.get_secret_value()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def _sections() -> Iterator[str]:
    top = []
    for name, field in Settings.model_fields.items():
        inner = sections_in(field.annotation)
        if inner:
            yield from _section(inner[0], _place(name, field.annotation), field.description)
        else:
            top.append(_row(name, field))
    yield "\n".join(["## At the top\n", *_table(top)])


def _section(section: type[BaseModel], place: str, said: str | None) -> Iterator[str]:
    rows = [_row(name, field) for name, field in section.model_fields.items()]
    about = (section.__doc__ or "").strip().split("\n\n")[0]
    about += f" {said[0].upper()}{said[1:]}." if said else ""
    yield "\n".join([f"## {place}\n", f"{about}\n", *_table(rows)])
    for name, field in section.model_fields.items():
        for inner in sections_in(field.annotation):
            yield from _section(inner, f"{place}.{_place(name, field.annotation)}", None)


def _place(name: str, annotation: Any) -> str:
    kind = typing.get_origin(annotation)
    return f"{name}.NAME" if kind is dict else f"{name}[]" if kind is tuple else name


def _table(rows: list[str]) -> list[str]:
    return ["| setting | type | default | |", "| --- | --- | --- | --- |", *rows, ""]


def _row(name: str, field: FieldInfo) -> str:
    about = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_type(field)} | {_default(field)} | {about} |"


def _type(field: FieldInfo) -> str:
    if sections_in(field.annotation):
        inner, kind = sections_in(field.annotation)[0], typing.get_origin(field.annotation)
        what = re.sub(r"(?<!^)(?=[A-Z])", "-", inner.__name__.removesuffix("Settings")).lower()
        return f"{what} by name" if kind is dict else f"list of {what}" if kind is tuple else "section"
    text = "secret" if is_secret(field) and typing.get_origin(field.annotation) is not dict else _word(field.annotation)
    return ", ".join([text, *_limits(field.metadata), *_limits_within(field.annotation)])


def _limits(rules: Iterable[Any]) -> list[str]:
    return [
        f"{sign} {getattr(rule, name):,}"
        for rule in rules
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(rule, name, None) is not None
    ]


def _limits_within(annotation: Any) -> list[str]:
    """Return the limits of a type that may also be None: they stand inside the union."""
    return [
        limit
        for inner in typing.get_args(annotation)
        for extra in getattr(inner, "__metadata__", ())
        for limit in _limits(getattr(extra, "metadata", ()))
    ]


def _word(annotation: Any) -> str:
    kind, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is typing.Annotated:
        return _word(inner[0])
    if kind is typing.Literal:
        return " \\| ".join(f"`{each}`" for each in inner)
    if kind in (tuple, frozenset):
        return f"list of {_word(inner[0])}"
    if kind is dict:
        return f"{_word(inner[1])} by name"
    if inner:
        return " or ".join(_word(each) for each in inner if each is not type(None))
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Path: "path",
        SecretStr: "secret",
    }
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or default is None or isinstance(default, BaseModel) or default in ((), {}):
        return ""
    text = default.get_secret_value() if isinstance(default, SecretStr) else default
    return f"`{json.dumps(text) if isinstance(text, bool | int | float) else text}`"


def main() -> None:
    """Print the reference, or the JSON schema."""
    parser = argparse.ArgumentParser(description="Print the configuration reference.")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema instead")
    asked = parser.parse_args()
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n" if asked.schema else reference())


if __name__ == "__main__":
    main()
