"""A YAML file as plain values, with the line of each, and its `${NAME}` filled in from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from pointsman.errors import InvalidParameterError

Place: TypeAlias = tuple[str | int, ...]
"""Where a value stands: names of fields and numbers of list entries, from the top."""

_MAX_VALUES: Final = 100_000
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class DocumentError(InvalidParameterError):
    """A text is not YAML that can be read one way only.

    Attributes:
        place: Where, as far as it is known.
        line: Line, from 1; None where not known.
    """

    def __init__(self, message: str, *, place: Place = (), line: int | None = None) -> None:
        super().__init__(message)
        self.place, self.line = place, line


class UnsetVariableError(InvalidParameterError):
    """A value asks for an environment variable that is not set, or for none that could be."""


@dataclass(frozen=True)
class Document:
    """Values of a YAML file.

    Attributes:
        values: The top-level mapping.
        lines: Line of each place, from 1.
    """

    values: dict[str, Any]
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of the nearest place around it that the file holds."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return None


def parse(text: str) -> Document:
    """Return the values of a YAML text.

    Raises:
        DocumentError: It is no YAML, no mapping at the top, holds a name twice, or values without end.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        values = {} if node is None else _construct(loader, node, (), lines, within=())
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        # The library's own message quotes the file, which may hold secrets; of its problem only what it expected stays.
        mark = getattr(error, "problem_mark", None)
        problem = re.sub(r"'[^']{4,}'", "'...'", getattr(error, "problem", None) or "it cannot be read")
        line = None if mark is None else mark.line + 1
        if line is not None and "${" in "".join(text.splitlines()[line - 1 : line]):
            problem += '; within { } write "${NAME}" in quotes'
        raise DocumentError(f"is no valid YAML: {problem}", line=line) from None
    except (ValueError, RecursionError):
        raise DocumentError("is no valid YAML: a value cannot be read, or is too deep") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise DocumentError("must be a mapping of names to settings at the top")
    return Document(values, lines)


def _construct(loader: yaml.SafeLoader, node: yaml.Node, place: Place, lines: dict[Place, int], *, within: Any) -> Any:
    """Return the value of a node; the library's own way keeps no lines, and the last of two equal names."""
    line = node.start_mark.line + 1
    if node in within:
        raise DocumentError("must not hold itself", place=place, line=line)
    lines[place] = line
    if len(lines) > _MAX_VALUES:
        raise DocumentError(f"must hold at most {_MAX_VALUES} values", line=line)
    within = (*within, node)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, each, (*place, i), lines, within=within) for i, each in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    named: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise DocumentError("must have names, not lists or mappings", place=place, line=key.start_mark.line + 1)
        if key.value in named:
            raise DocumentError("is there twice; keep one", place=(*place, key.value), line=key.start_mark.line + 1)
        named.add(key.value)
    loader.flatten_mapping(node)
    values = {}
    for key, value in node.value:
        values[key.value] = _construct(loader, value, (*place, key.value), lines, within=within)
        lines[(*place, key.value)] = key.start_mark.line + 1
    return values


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Return a text with `${NAME}` and `${NAME:-default}` filled in; `$${` stands for `${`.

    As in a shell, the default also stands for a variable that is set to nothing.

    Raises:
        UnsetVariableError: A variable without a default is not set, or a name is none.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        inside = match[1]
        if inside is None:
            raise UnsetVariableError("must close ${ with }; write $${ for the characters themselves")
        name, default_given, default = inside.partition(":-")
        if not _NAME.fullmatch(name):
            raise UnsetVariableError("must name an environment variable in ${...}, such as ${OPENAI_API_KEY}")
        if default_given:
            return environment.get(name) or default
        if name not in environment:
            raise UnsetVariableError(
                f"needs environment variable {name}, which is not set: set it, or write ${{{name}:-}} for none"
            )
        return environment[name]

    return _VARIABLE.sub(value, text)
