"""The report as text: its sections, what it says of what is missing, and that nothing in it can run."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib.resources
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from example import make_example

from pointsman.errors import InvalidParameterError
from pointsman.report import render, write

SECTIONS = [
    "verdict", "frontier", "differences", "savings", "slices", "examples", "trust", "limits", "numbers",
]  # fmt: skip

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--"

VOID = {"br", "hr", "meta"}


class _Outline(HTMLParser):
    """Reads a page as a browser would: tags with their attributes, text, and what was left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _poisoned(value: Any) -> Any:
    """Return an evaluation in which every text holds what would break a careless page."""
    if isinstance(value, dict):
        return {key: _poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_poisoned(each) for each in value]
    return value + HOSTILE if isinstance(value, str) and value not in ("inf", "router", "always", "logging") else value


def _emptied() -> dict[str, Any]:
    """Return an evaluation of which nothing came out."""
    return {key: [] if isinstance(value, list) else None for key, value in make_example().items()}


def test_every_section_is_there_in_order():
    """The verdict comes first, then every section, each with its link in the contents."""
    outline = _Outline(render(make_example()))

    ids = [attributes.get("id") for tag, attributes in outline.tags if tag in ("header", "section")]
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a" and attributes.get("class") != "skip"]
    assert ids == SECTIONS
    assert links == [f"#{section}" for section in SECTIONS]
    assert outline.open == []


def test_ids_are_unique():
    """No two elements share an id, so that every link and every plot finds its place."""
    ids = [attributes["id"] for _, attributes in _Outline(render(make_example())).tags if "id" in attributes]

    assert len(ids) == len(set(ids))


def test_the_verdict_is_the_only_first_heading():
    """The sentence of the verdict is the heading of the page, with its cue in words."""
    page = render(make_example())

    assert re.findall(r"<h1>(.*?)</h1>", page) == [make_example()["headline"]["sentence"]]
    assert 'class="better"' in page
    assert "Better" in _Outline(page).text


@pytest.mark.parametrize("verdict", ["better", "worse", "undecided", "refused"])
def test_every_verdict_has_a_word(verdict):
    """The cue never hangs on its colour alone."""
    evaluation = make_example()
    evaluation["headline"]["verdict"] = verdict

    word = {"better": "Better", "worse": "Worse", "undecided": "Undecided", "refused": "No verdict"}[verdict]
    assert re.search(rf'<p class="cue"><span aria-hidden="true">.</span> {word}</p>', render(evaluation))


def test_an_empty_evaluation_says_why_everywhere():
    """With every list empty and every number null each section stays, and says what is missing."""
    page = render(_emptied())

    for section in SECTIONS[1:]:
        body = page.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        assert 'class="absent"' in body, section
    assert "<canvas" not in page


def test_nothing_at_all_is_an_evaluation_too():
    """Missing keys are read as empty."""
    assert _Outline(render({})).open == []


@pytest.mark.parametrize("key", [key for key, value in make_example().items() if isinstance(value, list)])
def test_each_list_may_be_empty(key):
    """No section needs the list of another."""
    evaluation = make_example()
    evaluation[key] = []

    assert _Outline(render(evaluation)).open == []


@pytest.mark.parametrize("nothing", [None, float("nan"), "inf"])
def test_every_number_may_be_unknown_or_unbounded(nothing):
    """Null, NaN and infinity are shown in words wherever a number may stand, and drawn nowhere."""

    def without_numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_numbers(each) for key, each in value.items()}
        if isinstance(value, list):
            return [without_numbers(each) for each in value]
        return nothing if isinstance(value, float) else value

    outline = _Outline(render({**without_numbers(make_example()), "level": 0.95}))

    assert outline.open == []
    assert not re.search(r"\bnan\b|\binf\b|None", outline.text)


def test_hostile_text_stays_text():
    """Text of the data adds no element, no attribute and no script, and can be read as it was."""
    plain, hostile = _Outline(render(make_example())), _Outline(render(_poisoned(make_example())))

    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in plain.tags}
    assert "img" not in {tag for tag, _ in hostile.tags}
    assert sum(tag == "script" for tag, _ in hostile.tags) == 3
    assert not [key for _, attributes in hostile.tags for key in attributes if key.startswith("on") or key == "style"]
    assert HOSTILE in hostile.text


def test_the_embedded_data_cannot_end_its_element():
    """The JSON of the plots holds no character that HTML reads, and is JSON still."""
    page = render(_poisoned(make_example()))

    data = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page)
    assert data is not None
    assert not set("<>&") & set(data[1])
    assert HOSTILE in json.loads(data[1])[0]["panels"][0]["series"][0]["label"]


def test_the_policy_allows_these_scripts_and_this_style_and_nothing_else():
    """The hashes of the content security policy are those of what stands in the page."""
    page = render(make_example())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    allowed = policy[1].replace("&#x27;", "'")

    inline = re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", page, flags=re.DOTALL)
    assert len(inline) == 3
    for script, style in inline:
        digest = hashlib.sha256((script or style).encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in allowed
    assert allowed.startswith("default-src 'none';")
    assert "unsafe" not in allowed


def test_nothing_refers_to_anything_outside():
    """No element loads anything, and every link stays on the page."""
    page = render(_poisoned(make_example()))
    assert "sourceMappingURL" not in page
    for tag, attributes in _Outline(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "action", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")


def test_every_plot_has_a_caption_and_a_table():
    """What a plot shows is said in words, and stands in a table for those who cannot see or run it."""
    page = render(make_example())

    figures = re.findall(r"<figure><figcaption><strong>(.+?)</strong> (.+?)</figcaption>", page)
    plots = json.loads(page.partition('id="plots">')[2].partition("</script>")[0])
    assert len(figures) == len(plots) == 10
    assert page.count("The numbers, as a table") == 8  # the three differences share theirs
    assert "<noscript>" in page


def test_many_pairs_are_drawn_apart():
    """Beyond three pairs, a plot of differences shows one policy compared with at a time, the verdict's first."""
    evaluation = make_example()
    rivals = [{**row, "policy": "rival"} for row in evaluation["comparisons"]]
    evaluation["comparisons"] = rivals + evaluation["comparisons"]

    plots = json.loads(render(evaluation).partition('id="plots">')[2].partition("</script>")[0])

    panels = next(plot["panels"] for plot in plots if plot["id"] == "plot-difference-utility")
    assert [panel["label"] for panel in panels] == ["always gpt-4", "logging"]
    assert panels[0]["series"][0]["label"] == "auto minus always gpt-4"
    assert len(panels[0]["series"]) == 2


def test_every_number_of_the_rows_stands_in_a_table():
    """The table of all numbers has one line a row, in points and in USD per 1,000 requests."""
    evaluation = make_example()
    body = render(evaluation).partition('<section id="numbers">')[2]

    lines = body.partition('aria-label="All numbers"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    assert lines.count("<tr>") == len(evaluation["rows"])
    assert "80.9 (80.0 to 81.8)" in lines  # quality .809, .8003 to .8177
    assert "$1.29 ($1.24 to $1.34)" in lines  # 0.00129 USD a request, 4% either way


def test_a_long_prompt_is_cut_and_can_be_unfolded():
    """About 300 characters show; the rest is a click away, and of a book only the start is in the file."""
    evaluation = make_example()
    evaluation["examples"] = [{**evaluation["examples"][0], "prompt": "word " * 100_000}]
    body = render(evaluation).partition('<section id="examples">')[2].partition("</section>")[0]

    shown, _, folded = body.partition("<details")
    assert 250 < shown.count("word ") * 5 <= 300
    assert "490,000 more characters are not in this file" in folded
    assert len(body) < 15_000


def test_the_same_evaluation_gives_the_same_file():
    """Rendering is a function of the evaluation, and leaves it as it was."""
    evaluation = make_example()
    before = copy.deepcopy(evaluation)

    assert render(evaluation) == render(make_example())
    assert evaluation == before


def test_the_file_is_as_small_as_its_parts():
    """On 11 models, 14 tasks and 5 trade-offs the file stays under half a megabyte, of which the library is 210 KB."""
    assert len(render(make_example()).encode()) < 500_000


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"rows": {"policy": "auto"}}, "rows must be a list"),
        ({"rows": ["auto"]}, "rows must be a list of objects"),
        ({"level": "high"}, "level must be a number"),
        ({"level": 95}, "level must be in"),
        ({"headline": "auto wins"}, "headline must be an object"),
        ([], "evaluation must be an object"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(wrong, named):
    """What cannot be read is an error that names it, not a page with a hole."""
    with pytest.raises(InvalidParameterError, match=named):
        render(wrong)


def test_write_replaces_the_file_whole(tmp_path):
    """A report is written beside its place and moved there; nothing else is left."""
    path = tmp_path / "report.html"
    path.write_text("old")

    write(make_example(), path)

    assert path.read_text(encoding="utf-8") == render(make_example())
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path):
    """An error costs nothing of what was there."""
    path = tmp_path / "report.html"
    path.write_text("old")

    with pytest.raises(InvalidParameterError):
        write({"rows": 1}, path)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_to_no_folder_or_onto_one_is_named(tmp_path):
    """The path is checked before anything is written."""
    with pytest.raises(InvalidParameterError, match="folder that exists"):
        write({}, tmp_path / "missing" / "report.html")
    with pytest.raises(InvalidParameterError, match="must name a file"):
        write({}, tmp_path)


def test_half_a_character_does_not_stop_the_report(tmp_path):
    """JSON may hold half of a surrogate pair, which no file can; it is replaced."""
    write({"title": "half \ud83d of one"}, tmp_path / "report.html")

    assert "half ? of one" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_vendored_library_is_what_its_notice_says():
    """The sum in the notice is that of the file, and the licence is beside it."""
    folder = Path(str(importlib.resources.files("pointsman.report").joinpath("assets", "chart.js")))

    digest = hashlib.sha256((folder / "chart.umd.min.js").read_bytes()).hexdigest()
    assert digest in (folder / "NOTICE.md").read_text(encoding="utf-8")
    assert "MIT" in (folder / "LICENSE.md").read_text(encoding="utf-8")
