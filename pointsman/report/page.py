"""The page: sections in order, with style, script and data inside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pointsman.errors import InvalidParameterError
from pointsman.report.markup import Html, folded, paragraph, tag
from pointsman.report.plots import Plot
from pointsman.report.reading import Evaluated, string
from pointsman.report.sections.base import Section
from pointsman.report.sections.examples import examples
from pointsman.report.sections.frontier import differences, frontier
from pointsman.report.sections.numbers import all_numbers, limits
from pointsman.report.sections.savings import savings
from pointsman.report.sections.slices import slices
from pointsman.report.sections.trust import trust
from pointsman.report.sections.verdict import verdict
from pointsman.types import State

_SECTIONS = (frontier, differences, savings, slices, examples, trust, limits, all_numbers)

_NO_SCRIPT = (
    "Scripts are switched off, so the plots are not drawn. Nothing is lost: all that they show stands in the tables."
)


def render(evaluation: State) -> str:
    """Return an evaluation as one HTML file that needs nothing else: no network, no other file.

    The same evaluation gives the same file. Every text of it is shown as text, whatever it holds.

    Args:
        evaluation: JSON-ready; null is not known and "inf" is infinity. Any list may be empty and any number null:
            the section then says why. Qualities and utilities are in quality points, in [0, 1]; costs in USD per
            request. Keys: `title`, `created`, `pointsman_version`, `log`, `level`, `estimator`, `policies`,
            `headline`, `rows`, `frontier`, `comparisons`, `savings` (a positive value is in the policy's favour),
            `slices`, `examples`, `models`, `overlap`, `calibration`, `balance`, `missing`, `sensitivity`, `warnings`,
            `limits`.

    Raises:
        InvalidParameterError: A value is of the wrong kind.
    """
    evaluated = Evaluated(state=evaluation)
    return assemble(
        title=string(evaluation, "title") or "Evaluation",
        first=("verdict", "Verdict"),
        header=verdict(evaluated),
        sections=[section(evaluated) for section in _SECTIONS],
        facts=(
            ("Log", string(evaluation, "log")),
            ("Made", string(evaluation, "created")),
            ("By", f"Pointsman {string(evaluation, 'pointsman_version')}".strip()),
            ("Intervals", evaluated.level),
            ("Estimator", string(evaluation, "estimator")),
        ),
    )


def assemble(
    *, title: str, first: tuple[str, str], header: Html, sections: Sequence[Section], facts: Sequence[tuple[str, str]]
) -> str:
    """Return a page of these parts, with style, script and data inside.

    Args:
        title: Of the window.
        first: Id of the header, and what the table of contents calls it.
        header: What stands on top.
        sections: What follows.
        facts: Name and fact for the foot of the page; empty facts are left out.
    """
    plots = [plot for section in sections for plot in section.plots]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} \N{MIDDLE DOT} Pointsman"),
        tag("style", _style()),
    )
    body = tag(
        "body",
        tag("a", f"To the {first[1].lower()}", href=f"#{first[0]}", class_="skip"),
        _contents(first, sections),
        tag(
            "main",
            tag("noscript", paragraph(_NO_SCRIPT, class_="absent")),
            header,
            *(section.markup() for section in sections),
            _footer(facts),
        ),
        tag("script", _embedded(plots), type="application/json", id="plots"),
        *(tag("script", script) for script in _scripts()),
    )
    page = f"<!DOCTYPE html>\n{tag('html', head, body, lang='en', class_='unscripted')}\n"
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return page.encode("utf-8", errors="replace").decode("utf-8")


def write(evaluation: State, path: str | os.PathLike[str]) -> None:
    """Write what `render` returns to a file, whole or not at all; a file that stands there is replaced.

    Raises:
        InvalidParameterError: As `render`, or there is no folder to write to.
        OSError: The disk is full, or access is denied.
    """
    write_page(render(evaluation), path)


def write_page(page: str, path: str | os.PathLike[str]) -> None:
    """Write a page to a file, whole or not at all; a file that stands there is replaced.

    Raises:
        InvalidParameterError: There is no folder to write to.
        OSError: The disk is full, or access is denied.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidParameterError(f"path must lie in a folder that exists; got {target}: make {target.parent} first")
    if target.is_dir():
        raise InvalidParameterError(f"path must name a file; got the folder {target}: add a name such as report.html")
    handle, staged = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps a file to its owner; a report is as readable as any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(staged, 0o666 & ~mask)
        os.replace(staged, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        raise


def _contents(first: tuple[str, str], sections: Sequence[Section]) -> Html:
    links = [first, *((section.id, section.short) for section in sections)]
    return tag(
        "nav",
        tag("ol", *(tag("li", tag("a", short, href=f"#{id_}")) for id_, short in links)),
        aria_label="Contents",
    )


def _footer(facts: Sequence[tuple[str, str]]) -> Html:
    return tag(
        "footer",
        tag("dl", *(tag("div", tag("dt", name), tag("dd", fact)) for name, fact in facts if fact), class_="facts"),
        paragraph("This file stands alone: it asks the network for nothing and sends nothing."),
        folded(
            "Licence of the plot library",
            tag("pre", _asset("chart.js/LICENSE.md")),
            printed=False,
        ),
    )


def _embedded(plots: list[Plot]) -> Html:
    data = json.dumps([plot.state() for plot in plots], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Nothing in a string may end the element that holds it, or open a comment in it.
    return Html(data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _asset(name: str) -> str:
    return files("pointsman.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def _style() -> Html:
    return Html(_asset("report.css"))


def _scripts() -> tuple[Html, Html]:
    # The library's last line asks developers' tools for a file that is not there.
    library = _asset("chart.js/chart.umd.min.js").partition("\n//# sourceMappingURL=")[0]
    return Html(library), Html(_asset("report.js"))


def _policy() -> str:
    """Return what the browser may do: run these scripts, use this style, and nothing else."""
    scripts = " ".join(_hash(script) for script in _scripts())
    return f"default-src 'none'; script-src {scripts}; style-src {_hash(_style())}; base-uri 'none'; form-action 'none'"


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
