"""The settings' own description: which fields stand where, and what they are."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from pointsman.gateway.settings.document import Place
from pointsman.gateway.settings.schema import Settings


def spelled(place: Place) -> str:
    """Return a place as users write it: models[0].price."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def field_at(place: Place) -> FieldInfo | None:
    """Return the field that a place is, or is in: `supports` for models[0].supports[1]; None where there is none."""
    section: type[BaseModel] | None = Settings
    found: FieldInfo | None = None
    for part in place:
        if section is not None and isinstance(part, str) and part in section.model_fields:
            found = section.model_fields[part]
            section, inner = None, sections_in(found.annotation)
            if inner:
                section = inner[0]
        elif section is not None and found is not None and _is_collection(found.annotation):
            found = FieldInfo(annotation=section)
        elif section is not None:
            return None
    return found


def section_at(place: Place) -> type[BaseModel] | None:
    """Return the section at a place; None where there is none."""
    if not place:
        return Settings
    found = field_at(place)
    inner = [] if found is None else sections_in(found.annotation)
    return inner[0] if inner else None


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a type holds: those of a tuple, a mapping, or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in typing.get_args(annotation) for section in sections_in(inner)]


def is_secret(field: FieldInfo) -> bool:
    """Return whether a field holds something that no one may read."""
    return _holds(field.annotation, SecretStr)


def _holds(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_holds(inner, kind) for inner in typing.get_args(annotation))


def _is_collection(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, dict)
