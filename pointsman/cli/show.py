"""What commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pointsman.types import State


def make_console(*, stderr: bool = False) -> Console:
    """Return where people read."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    # Into a pipe a table has all the width it needs, not 80 columns.
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=200, soft_wrap=True)


def grid(*columns: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose numbers stand to the right; an empty row is a rule."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    words = {"model", "policy", "estimator", "best single model", "what", "found", "judge", "round", "prompt"}
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        left = column in words
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in rows:
        if row:
            table.add_row(*(escape(cell) for cell in row))
        else:
            table.add_section()
    return table


def number(value: float | None) -> str:
    """Return a number in a cell; a dash where it is not known."""
    return "-" if value is None or value != value else f"{value:.3f}"


def per_thousand(cost_usd: float | None) -> str:
    """Return the cost of 1,000 requests in a cell."""
    return "-" if cost_usd is None or cost_usd != cost_usd else f"{1000 * cost_usd:.3f}"


def interval(low: float, high: float) -> str:
    """Return an interval in a cell."""
    return "-" if low != low else f"[{low:.4f}, {high:.4f}]"


def print_json(state: State) -> None:
    """Print JSON to standard output."""
    typer.echo(json.dumps(state, indent=2, ensure_ascii=False, allow_nan=False))
