"""HTML that cannot be broken by what it shows: text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

_VOID = frozenset({"br", "hr", "meta"})


class Html(str):
    """Markup made by this module; any other string is text, and is escaped."""

    __slots__ = ()


Child: TypeAlias = str | None
"""What stands inside an element: markup, text to escape, or nothing."""

EMPTY = Html("")


def text(value: str) -> Html:
    """Return a string as it shall be read, whatever it holds."""
    return value if isinstance(value, Html) else Html(escape(value.replace("\0", "\N{REPLACEMENT CHARACTER}")))


def join(*children: Child) -> Html:
    """Return children one after the other, text escaped."""
    return Html("".join(text(child) for child in children if child is not None))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        *children: Markup stays, text is escaped, None is left out.
        **attributes: `class_` is written `class`, `aria_label` is written `aria-label`; True stands bare, None and
            False are left out.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*children)}</{name}>")


def paragraph(*children: Child, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return tag("p", *children, class_=class_)


def term(word: str, meaning: str) -> Html:
    """Return a word where it is defined, and what it means in a parenthesis."""
    return join(tag("dfn", word), f" ({meaning})")


def folded(summary: str, *children: Child, printed: bool = True) -> Html:
    """Return what opens on a click, and by itself on paper unless `printed` is False."""
    return tag("details", tag("summary", summary), *children, data_printed=printed)


def absent(why: str) -> Html:
    """Return what stands in place of something that could not be shown."""
    return paragraph(why, class_="absent")


def bullets(items: Sequence[Child]) -> Html:
    """Return a list."""
    return tag("ul", *(tag("li", item) for item in items))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        numeric: Whether its cells are numbers, which stand to the right.
    """

    title: str
    numeric: bool = True


def words(title: str) -> Column:
    """Return a column of words."""
    return Column(title=title, numeric=False)


def numbers(title: str) -> Column:
    """Return a column of numbers."""
    return Column(title=title)


def table(label: str, columns: Sequence[Column], rows: Sequence[Sequence[Child]]) -> Html:
    """Return a table that scrolls inside its box where it is wider than the screen; its first column names the row."""
    head = tag("tr", *(tag("th", column.title, scope="col", class_=_side(column)) for column in columns))
    body = (
        tag(
            "tr",
            *(
                tag("td" if k else "th", cell, class_=_side(column), scope=None if k else "row")
                for k, (column, cell) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for row in rows
    )
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *body)),
        class_="scroll",
        role="region",
        aria_label=label,
        tabindex=0,
    )


def _side(column: Column) -> str | None:
    return "number" if column.numeric else None
