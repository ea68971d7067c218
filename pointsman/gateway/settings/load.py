"""A file of settings, read and checked: all faults at once, each with its line, and no secret in any."""

from __future__ import annotations

import datetime
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings.exceptions import SettingsError

from pointsman.errors import PointsmanError
from pointsman.gateway.settings import litellm
from pointsman.gateway.settings.document import (
    Document,
    DocumentError,
    Place,
    UnsetVariableError,
    interpolate,
    parse,
)
from pointsman.gateway.settings.fields import field_at, is_secret, section_at, spelled
from pointsman.gateway.settings.schema import Origin, Settings, coming_from

_MAX_BYTES: Final = 8 * 2**20
_LONGEST_SHOWN: Final = 60
_LITELLM_SECTIONS: Final = ("environment_variables", "general_settings", "litellm_settings", "router_settings")
_LOOKS_SECRET: Final = re.compile(r"(?i)\b(sk|pk|pm|gsk|xai|hf|ghp|key|bearer)[-_ ]|AIza|://[^/]*@|[A-Za-z0-9_-]{24,}")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with a file of settings.

    Attributes:
        place: Where: `server.port`; empty for the file itself.
        rule: What must be.
        got: What is there, where it may be shown.
        hint: What the setting is, or what may have been meant.
        line: Line of the file, from 1; None where not known.
    """

    place: str
    rule: str
    got: str | None = None
    hint: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        """Return it in one line."""
        text = f"{self.place} {self.rule}" if self.place else self.rule
        text += "" if self.got is None else f"; got {self.got}"
        return text if self.hint is None else f"{text} ({self.hint})"


class InvalidSettingsError(PointsmanError, ValueError):
    """Settings break their rules.

    Attributes:
        source: The file.
        faults: All that is wrong, in the order of the file.
    """

    def __init__(self, source: str | os.PathLike[str], faults: Iterable[Fault]) -> None:
        self.source = os.fspath(source)
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line is None, fault.line or 0, fault.place)))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return one line for each fault."""
        return [f"{self.source}{'' if f.line is None else f':{f.line}'}: {f}" for f in self.faults]


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """Return the settings in a YAML file, after checking all of them.

    `${NAME}` in a value is the environment's, `${NAME:-default}` where that may be unset; POINTSMAN_SERVER__PORT in the
    environment stands above server.port. LiteLLM's `model_list` is understood, beside upstreams and models or instead.
    Relative paths start at the file's folder.

    Raises:
        InvalidSettingsError: The file cannot be read, or breaks rules: all of them are told at once.
    """
    file = Path(path)
    try:
        status = file.stat()
        if status.st_size > _MAX_BYTES:
            raise InvalidSettingsError(path, [Fault(place="", rule=f"must be at most {_MAX_BYTES} bytes")])
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        rule = f"cannot be read: {error.strerror or error}; `pointsman init` writes one"
        raise InvalidSettingsError(path, [Fault(place="", rule=rule)]) from None
    except UnicodeDecodeError:
        raise InvalidSettingsError(path, [Fault(place="", rule="must be UTF-8 text")]) from None
    try:
        document = parse(text)
    except DocumentError as error:
        raise InvalidSettingsError(
            path, [Fault(place=spelled(error.place), rule=str(error), line=error.line)]
        ) from None
    modified = datetime.datetime.fromtimestamp(status.st_mtime, tz=datetime.UTC).date()
    return _Reading(path, document).settings(Origin(folder=file.absolute().parent, modified=modified))


class _Reading:
    """From a document to settings."""

    def __init__(self, source: str | os.PathLike[str], document: Document) -> None:
        self.source = source
        self.document = document
        self.raw = dict(document.values)
        self.faults: list[Fault] = []
        self.origins: Mapping[Place, Place] = {}
        self.notes: tuple[str, ...] = ()

    def settings(self, origin: Origin) -> Settings:
        for name in [name for name in self.raw if name.startswith("_")]:
            del self.raw[name]  # the base class would take it for an option of its own
            self.fault((name,), "is no setting")
        if "model_list" in self.raw:
            self.convert()
        values = {name: self.fill(value, (name,)) for name, value in self.raw.items()}
        settings = None
        try:
            with coming_from(origin):
                settings = Settings(**values)
        except SettingsError as error:
            named = re.search(r'field "(\w+)"', str(error))
            field = named[1] if named else ""
            self.fault((field,), "must be JSON")
        except ValidationError as error:
            wrong = {fault.place for fault in self.faults}
            if self.faults:
                wrong.add("models")  # there may be too few only because some could not be converted
            told = [self.of(details) for details in error.errors(include_url=False, include_context=False)]
            self.faults += [fault for fault in told if fault.place not in wrong]
        if settings is None or self.faults:
            raise InvalidSettingsError(self.source, self.faults)
        settings._notes = self.notes
        return settings

    def convert(self) -> None:
        upstreams, models = self.raw.get("upstreams") or {}, self.raw.get("models") or []
        if not (isinstance(upstreams, dict) and isinstance(models, list)):
            del self.raw["model_list"]
            return
        converted = litellm.convert(self.raw.pop("model_list"), taken=upstreams, n_models=len(models))
        self.raw["upstreams"] = {**upstreams, **converted.upstreams}
        self.raw["models"] = [*models, *converted.models]
        self.origins, self.notes = converted.origins, tuple(converted.notes)
        for place, rule in converted.faults:
            self.fault(place, rule)

    def fill(self, value: Any, place: Place) -> Any:
        """Return a value with the environment's filled in."""
        if isinstance(value, dict):
            return {name: self.fill(each, (*place, name)) for name, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each, (*place, i)) for i, each in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return interpolate(value, os.environ)
        except UnsetVariableError as error:
            self.fault(place, str(error))
            return value

    def of(self, details: ErrorDetails) -> Fault:
        """Return a fault that the schema found, in our words."""
        place = tuple(part for part in details["loc"] if part != "[key]")
        if details["type"] == "extra_forbidden":
            if place[0] in _LITELLM_SECTIONS:
                return self.make(place, "is LiteLLM's, of whose settings only model_list is understood: take it out")
            section = section_at(place[:-1])
            names = [] if section is None else list(section.model_fields)
            meant = difflib.get_close_matches(str(place[-1]), names, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(names)}" if names else None
            return self.make(place, "is no setting", hint=hint)
        field = field_at(place)
        hint = None if field is None else field.description
        if details["type"] == "missing":
            return self.make(place, "must be given", hint=hint)
        if "[key]" in details["loc"]:
            return self.make(place, f"as a name {_rule(details['msg'])}")
        # A rule of ours says all there is to say.
        return self.make(
            place, _rule(details["msg"]), got=self.shown(place), hint=None if details["type"] == "rule" else hint
        )

    def shown(self, place: Place) -> str | None:
        """Return what the user wrote at a place; None where it may be a secret, is long, or is not in the file."""
        if _variable(place) in os.environ:
            return None
        value: Any = self.document.values
        for part in self.told(place):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        field = field_at(place)
        if isinstance(value, dict | list) or (field is not None and (is_secret(field) or not field.repr)):
            return None
        text = repr(value)
        return None if len(text) > _LONGEST_SHOWN or _LOOKS_SECRET.search(text) else text

    def fault(self, place: Place, rule: str) -> None:
        self.faults.append(self.make(place, rule))

    def make(self, place: Place, rule: str, *, got: str | None = None, hint: str | None = None) -> Fault:
        if (variable := _variable(place)) in os.environ:
            hint = f"from environment variable {variable}"
        told = self.told(place)
        return Fault(place=spelled(told), rule=rule, got=got, hint=hint, line=self.document.line(told))

    def told(self, place: Place) -> Place:
        """Return where the user wrote what stands at a place now."""
        for end in range(len(place), 0, -1):
            if (written := self.origins.get(place[:end])) is not None:
                return written
        return place


def _rule(message: str) -> str:
    """Return a message of pydantic's in our words."""
    message = re.sub(r"^(?:Input|String|Tuple|Dictionary|Value|List|Set) should ", "must ", message)
    message = message.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    message = message.replace("greater than", ">").replace("less than", "<")
    return message if message.startswith("must ") else f"must be right: {message}"


def _variable(place: Place) -> str:
    """Return the environment variable that stands above a place."""
    return "POINTSMAN_" + "__".join(str(part) for part in place).upper()
