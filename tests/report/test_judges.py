"""The page of a fusion: its sections, what it says of what is missing, that nothing in it can run, and how it draws."""

from __future__ import annotations

import re

import pytest
from judges_example import make_fusion
from test_browser import _DRAWN, _open, _requests
from test_page import HOSTILE, _Outline, _poisoned

from pointsman.errors import InvalidParameterError
from pointsman.report import render_fusion, write_fusion

SECTIONS = ["finding", "bias", "slices", "agreement", "worth", "coverage", "next", "gain"]


def test_every_section_is_there_in_order():
    """The finding comes first, then every section, each with its link in the contents; no id occurs twice."""
    outline = _Outline(render_fusion(make_fusion()))

    ids = [attributes.get("id") for tag, attributes in outline.tags if tag in ("header", "section")]
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a" and attributes.get("class") != "skip"]
    every = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert ids == SECTIONS
    assert links == [f"#{section}" for section in SECTIONS]
    assert len(every) == len(set(every))
    assert outline.open == []


def test_the_finding_is_the_only_first_heading():
    """Its sentence heads the page, with its cue in words, and the gamed model is named in bold."""
    page = render_fusion(make_fusion())

    assert re.findall(r"<h1>(.*?)</h1>", page) == [make_fusion()["headline"]["sentence"]]
    assert "A model games a judge" in _Outline(page).text
    assert "<strong>mistral-7b-instruct (by gpt-judge)</strong>" in page


@pytest.mark.parametrize("kind", ["gamed", "biased", "agrees", "gold-only", "no-gold"])
def test_every_kind_of_finding_has_a_word(kind):
    """The cue never hangs on its colour alone."""
    fusion = make_fusion()
    fusion["headline"]["kind"] = kind

    word = {
        "gamed": "A model games a judge",
        "biased": "Biased, and corrected",
        "agrees": "No bias seen",
        "gold-only": "All gold",
        "no-gold": "Not corrected",
    }[kind]
    assert re.search(rf'<p class="cue"><span aria-hidden="true">.</span> {word}</p>', render_fusion(fusion))


def test_numbers_are_in_points_and_signed():
    """Biases x 100 with their sign, intervals beside them; what replaces nothing has no price."""
    text = _Outline(render_fusion(make_fusion())).text

    assert "+55.0 (+46.0 to +64.0)" in text
    assert "270 (189 to 378)" in text
    assert "replaces none" in text
    assert "lower the regret of routing by 0.21 points a request; as many drawn at random, by 0.08" in text


def test_small_slices_stand_in_the_table_only():
    """Four gold labels draw no mark: their interval would squeeze all others."""
    page = render_fusion(make_fusion())

    assert "2 more, of fewer than 10 gold labels each, stand in the table only." in page
    section = page.partition('<section id="slices">')[2].partition("</section>")[0]
    assert section.count("code") == 2


def test_a_fusion_without_gold_says_why():
    """With every list empty the sections that stay say what is missing, and no plot is left."""
    fusion = {key: [] if isinstance(value, list) else None for key, value in make_fusion().items()}
    fusion["headline"] = {"kind": "no-gold", "sentence": "How far the judges are off cannot be told."}
    for state in (fusion, {}):
        page = render_fusion(state)
        assert 'class="absent"' in page
        assert "<canvas" not in page
        assert not re.search(r"\bnan\b|\binf\b|None", _Outline(page).text)


def test_a_value_of_the_wrong_kind_is_refused():
    """The message names the key."""
    fusion = make_fusion()
    fusion["bias"][0]["value"] = "much"
    with pytest.raises(InvalidParameterError, match="value must be a number"):
        render_fusion(fusion)


def test_hostile_text_stays_text():
    """Names and prompts make no element and no handler."""
    plain, hostile = (_Outline(render_fusion(each)) for each in (make_fusion(), _poisoned(make_fusion())))

    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in plain.tags}
    assert not [key for _, attributes in hostile.tags for key in attributes if key.startswith("on") or key == "style"]
    assert HOSTILE in hostile.text


def test_it_is_written_whole(tmp_path):
    """The file holds what is rendered; a folder that is not there is refused."""
    write_fusion(make_fusion(), tmp_path / "judges.html")

    assert (tmp_path / "judges.html").read_text(encoding="utf-8") == render_fusion(make_fusion())
    with pytest.raises(InvalidParameterError, match="path must lie in a folder that exists"):
        write_fusion(make_fusion(), tmp_path / "nowhere" / "judges.html")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn(browser, page_at, width, scheme):
    """Four canvases, each with more in it than ink on paper, no word in the console, no request, no sideways scroll."""
    write_fusion(make_fusion(), page_at)

    assert _open(browser, page_at, width=width, scheme=scheme) == []

    assert _requests(browser) == [page_at.as_uri()]
    drawn = browser.execute_script(_DRAWN)
    assert [plot["id"] for plot in drawn] == ["plot-bias", "plot-bias-slices", "plot-calibration", "plot-gain"]
    for plot in drawn:
        assert 200 < plot["width"] <= width, plot
        assert plot["inks"] > 10, plot
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width


def test_the_menu_shows_the_other_judge(browser, page_at):
    """Each judge has its own panel, in its own name."""
    write_fusion(make_fusion(), page_at)
    _open(browser, page_at)
    title = "return Chart.getChart(document.querySelector('#plot-bias canvas')).options.scales.x.title.text"

    assert browser.execute_script(title) == "gpt-judge minus gold, points"
    browser.execute_script(
        """
        const menu = document.querySelector("#plot-bias").previousElementSibling.querySelector("select");
        menu.selectedIndex = 1;
        menu.dispatchEvent(new Event("change"));
        """
    )
    assert browser.execute_script(title) == "thumbs minus gold, points"


def test_hostile_names_run_nothing_in_a_browser(browser, page_at):
    """Three scripts are ours, and there is no image."""
    write_fusion(_poisoned(make_fusion()), page_at)

    assert _open(browser, page_at) == []

    assert browser.execute_script("return document.images.length + document.scripts.length") == 3
