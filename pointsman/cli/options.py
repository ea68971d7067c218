"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.errors import InvalidParameterError

if TYPE_CHECKING:
    from pointsman.logs import FullFeedback, Labels


Json = Annotated[bool, typer.Option("--json", help="Print only JSON, for machines.")]


Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn.")]


Lambdas = Annotated[
    list[float] | None,
    typer.Option(
        "--quality-per-usd",
        metavar="L",
        help="Trade-off: points of quality that one USD is worth, >= 0; 0 looks at quality only, inf at cost only. "
        "Repeat it for several. By default 0, .05, .1, .2 and .5 over the mean cost of the dearest model.",
    ),
]


Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="Only these models, separated by commas.")]


Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only rows with this value; repeat it for several columns."),
]


QualityColumn = Annotated[str, typer.Option("--quality-column", help="Column of the table that holds quality.")]


CostColumn = Annotated[
    str, typer.Option("--cost-column", help="Column of the table that holds cost in USD; 'none' for no cost.")
]


Propensity = Annotated[
    str,
    typer.Option("--propensity", help="auto, logged or estimated; auto estimates those that the log does not hold."),
]


LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="More labels of the log's rounds, of any sources: round_id, quality, quality_source.",
    ),
]


Gold = Annotated[
    str, typer.Option("--gold", metavar="SOURCE", help="The source whose labels are the truth; all others are judges.")
]


CorrectionName = Annotated[
    str,
    typer.Option("--correction", help="How judges' labels are corrected by gold ones: a name of `pointsman doctor`."),
]


def read_labels_file(path: Path | None) -> Labels | None:
    """Return the labels in a file; None where there is none."""
    if path is None:
        return None
    from pointsman.logs import read_labels

    return read_labels(path)


def read_table_file(
    path: Path, *, quality_column: str, cost_column: str, models: str | None, where: Sequence[str] | None
) -> FullFeedback:
    """Return the table in a file, read as the table options say."""
    from pointsman.logs import read_full_feedback

    return read_full_feedback(
        path,
        quality_column=quality_column,
        cost_column=None if cost_column == "none" else cost_column,
        models=split_names(models),
        where=_conditions(where or []),
    )


def split_names(models: str | None) -> list[str] | None:
    """Return the names in a list separated by commas."""
    return None if models is None else [name.strip() for name in models.split(",") if name.strip()]


def _conditions(where: Sequence[str]) -> Mapping[str, str]:
    conditions: dict[str, str] = {}
    for condition in where:
        column, equals, value = condition.partition("=")
        if not (column and equals):
            raise InvalidParameterError(f"where must be COLUMN=VALUE; got {condition!r}")
        conditions[column] = value
    return conditions
