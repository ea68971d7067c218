"""What a section is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.report.markup import Child, Column, Html, folded, join, table, tag
from pointsman.report.plots import Plot
from pointsman.report.quantities import brief


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        id: Of the element, and of the link to it.
        title: Its heading.
        short: What the table of contents calls it.
        body: What stands under the heading.
        plots: What the script draws in it.
    """

    id: str
    title: str
    short: str
    body: Html
    plots: Sequence[Plot] = ()

    def markup(self) -> Html:
        """Return the section."""
        return tag("section", tag("h2", self.title, id=f"{self.id}-title"), self.body, id=self.id)


_PAPER_ROWS = 20


def plotted(label: str, columns: Sequence[Column], rows: Sequence[Sequence[Child]]) -> Html:
    """Return the numbers of a plot, folded; a long table stays so on paper, where the plot has to do."""
    return folded("The numbers, as a table", table(label, columns, rows), printed=len(rows) <= _PAPER_ROWS)


def dial(quality_per_usd: float | None) -> str:
    """Return a trade-off in words."""
    return "any trade-off" if quality_per_usd is None else f"trade-off {brief(quality_per_usd)}"


def dial_meaning(quality_per_usd: float | None) -> Html | None:
    """Return what a trade-off asks of a dollar, in units as shown; None where it is not known."""
    if quality_per_usd is None:
        return None
    if quality_per_usd == 0:
        return join("At trade-off 0 cost does not count: only quality does.")
    # One quality unit is 100 points, and 1,000 requests share the dollar: lambda x 100 / 1,000.
    return join(
        f"At trade-off {brief(quality_per_usd)}, spending $1 more per 1,000 requests is worth it "
        f"if it buys more than {brief(quality_per_usd / 10)} quality points."
    )
