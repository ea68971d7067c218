"""The report in a real browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from example import make_example
from test_page import HOSTILE, _poisoned

from pointsman.report import write

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_DRAWN = """
return [...document.querySelectorAll("canvas")].map((canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const inks = new Set();
  for (let k = 0; k < pixels.length; k += 4) if (pixels[k + 3] > 200) inks.add(pixels.slice(k, k + 3).join());
  const box = canvas.getBoundingClientRect();
  return { id: canvas.parentElement.id, width: box.width, height: box.height, inks: inks.size };
});
"""


def _open(browser: Chrome, path: Path, *, width: int = 1280, scheme: str = "light") -> list[dict[str, Any]]:
    """Open a file and return the console's messages."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    return browser.get_log("browser")


def _requests(browser: Chrome) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def test_it_opens_without_a_word_in_the_console(browser, page_at):
    """No error, no warning, no refusal by the security policy."""
    write(make_example(), page_at)

    assert _open(browser, page_at) == []


def test_it_asks_for_nothing_but_itself(browser, page_at):
    """The only request is the one for the file."""
    write(make_example(), page_at)

    _open(browser, page_at)

    assert _requests(browser) == [page_at.as_uri()]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn(browser, page_at, width, scheme):
    """Each of the ten canvases has a size that fits the screen, and more in it than ink on paper."""
    write(make_example(), page_at)

    _open(browser, page_at, width=width, scheme=scheme)

    drawn = browser.execute_script(_DRAWN)
    assert len(drawn) == 10
    for plot in drawn:
        assert 200 < plot["width"] <= width, plot
        assert plot["height"] > 150, plot
        assert plot["inks"] > 10, plot


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_never_scrolls_sideways(browser, page_at, width):
    """Wide tables scroll in their box, also with all that can be unfolded unfolded and names that never break."""
    evaluation = _poisoned(make_example())
    evaluation["title"] = "unbreakable" * 30
    evaluation["examples"][0]["prompt"] = "w" * 5_000
    write(evaluation, page_at)

    _open(browser, page_at, width=width)
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")

    assert browser.execute_script("return document.documentElement.scrollWidth") == width


def test_hostile_text_is_inert(browser, page_at):
    """Text of the data runs nothing, makes no element, and is read as it was written, in tables, cards and menus."""
    write(_poisoned(make_example()), page_at)

    assert _open(browser, page_at) == []

    assert browser.execute_script("return document.images.length + document.scripts.length") == 3
    assert HOSTILE in browser.execute_script("return document.querySelector('blockquote').textContent")
    assert HOSTILE in browser.execute_script("return document.querySelector('option').textContent")
    assert browser.execute_script(_DRAWN)[0]["inks"] > 10


def test_the_security_policy_holds(browser, page_at):
    """A script, a handler or a request that got into the page all the same is refused."""
    write(make_example(), page_at)
    _open(browser, page_at)

    browser.execute_script(
        """
        window.ran = 0;
        const script = document.createElement("script");
        script.textContent = "window.ran += 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src='http://localhost:9/x.png' onerror='window.ran += 1'>");
        """
    )

    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert browser.execute_script("return window.ran") == 0
    assert sum("Content Security Policy" in message for message in messages) == 3


def test_hovering_tells_the_numbers(browser, page_at):
    """The point under the pointer is named, with its numbers in words."""
    from selenium.webdriver import ActionChains

    write(make_example(), page_at)
    _open(browser, page_at)

    canvas = browser.find_element("css selector", "#plot-frontier canvas")
    x, y = browser.execute_script(
        """
        const { x, y } = Chart.getChart(arguments[0]).getDatasetMeta(0).data[2];
        return [Math.round(x - arguments[0].clientWidth / 2), Math.round(y - arguments[0].clientHeight / 2)];
        """,
        canvas,
    )
    ActionChains(browser).move_to_element_with_offset(canvas, x, y).perform()
    # The library answers a pointer in the next frame.
    told = browser.execute_async_script(
        """
        const [canvas, answer] = arguments;
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const { tooltip } = Chart.getChart(canvas);
          answer([...tooltip.title, ...tooltip.body.flatMap((each) => each.lines)]);
        }));
        """,
        canvas,
    )

    assert told == [
        "auto at trade-off 12.3",
        "quality 80.9 (79.5 to 82.3)",
        "$1.29 ($1.19 to $1.39) per 1,000 requests",
    ]


def test_the_menu_changes_the_plot(browser, page_at):
    """A plot of several states shows the one that was chosen."""
    write(make_example(), page_at)
    _open(browser, page_at)
    title = "return Chart.getChart(document.querySelector('#plot-slices canvas')).options.scales.x.title.text"

    assert browser.execute_script(title) == "auto minus always gpt-4, points"
    browser.execute_script(
        """
        const menu = document.querySelector("#plot-slices").previousElementSibling.querySelector("select");
        menu.selectedIndex = [...menu.options].findIndex((each) => each.text.includes("logging"));
        menu.dispatchEvent(new Event("change"));
        """
    )
    assert browser.execute_script(title) == "auto minus logging, points"


def test_it_prints_light_and_unfolded_and_comes_back(browser, page_at):
    """On paper the plots have light ink and the width of an A4 sheet; afterwards the screen is as it was."""
    write(make_example(), page_at)
    _open(browser, page_at, scheme="dark")
    browser.execute_script(
        """
        const inks = () => {
          const chart = Chart.getChart(document.querySelector("#plot-frontier canvas"));
          return [chart.data.datasets[0].borderColor, Math.round(chart.width)];
        };
        window.seen = [inks()];
        for (const event of ["beforeprint", "afterprint"]) addEventListener(event, () => window.seen.push(inks()));
        """
    )

    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]

    before, printed, after = browser.execute_script("return window.seen")
    assert printed == ["#0072b2", 658]  # 17.4 cm at 96 pixels an inch
    assert before == after
    assert before[0] == "#56b4e9"
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0
    assert base64.b64decode(pdf).startswith(b"%PDF")


def test_without_scripts_the_tables_speak(browser, page_at):
    """With scripts off no empty plot stands about, a note says so, and the numbers can be read."""
    write(make_example(), page_at)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        _open(browser, page_at)
        document = browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        found = browser.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": document, "selector": "figure:not(.drawn)"})
        note = browser.execute_cdp_cmd("DOM.querySelector", {"nodeId": document, "selector": "noscript p"})
        assert len(found["nodeIds"]) == 10
        for node in found["nodeIds"]:
            with pytest.raises(Exception, match="Could not compute box model"):
                browser.execute_cdp_cmd("DOM.getBoxModel", {"nodeId": node})
        assert browser.execute_cdp_cmd("DOM.getBoxModel", {"nodeId": note["nodeId"]})["model"]["height"] > 0
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_an_empty_evaluation_opens_too(browser, page_at):
    """Nothing to draw is no error."""
    write({}, page_at)

    assert _open(browser, page_at) == []
