"""The report in a real browser: it draws, it answers to mouse and keyboard, it asks for nothing, all can read it.

Needs Chromium (Debian's package, or COUNTERPOISE_CHROMIUM=/path) and playwright; skipped where there is none of either.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import manifests
from transforms import report

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (390, 820, 1400)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium without a network."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("COUNTERPOISE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        pytest.skip("there is no Chromium on the PATH; apt-get install chromium, or set COUNTERPOISE_CHROMIUM")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


class Visit:
    """One page: what it asked for and complained about is kept."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._on_dialog)
        self.address = file.as_uri()
        self.page.goto(self.address)
        if options.get("java_script_enabled", True):
            self.page.wait_for_function("document.documentElement.dataset.charts")

    def _on_dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def close(self) -> None:
        """Leave, and forget everything."""
        self.context.close()


def visiting(browser: Any, file: Path, **options: Any) -> contextlib.closing[Visit]:
    """A visit that ends with its block."""
    return contextlib.closing(Visit(browser, file, **options))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the known manifest."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.html_report(manifests.manifest()), encoding="utf-8")
    return path


def test_it_draws_and_asks_for_nothing(browser: Any, file: Path) -> None:
    """Every chart is there, nothing leaves the page, and nothing is complained about."""
    with visiting(browser, file) as visit:
        assert visit.page.evaluate("document.documentElement.dataset.charts") == "drawn"
        assert visit.page.locator(".js-plotly-plot").count() == 8
        assert visit.page.locator("#flow-2 .sankey-link").count() > 8
        assert visit.page.locator("table").count() > 10
        assert visit.requests == [visit.address]
        assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Any, file: Path, scheme: str) -> None:
    """axe-core finds no fault of weight, on light and dark, on a telephone and on a desk, with all tables open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for width in (WIDTHS[0], WIDTHS[-1]):
        with visiting(browser, file, color_scheme=scheme, viewport={"width": width, "height": 900}) as visit:
            visit.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            result = axe.Axe().run(visit.page).response
            assert len(result["passes"]) > 20
            faults = [f"{v['impact']}: {v['id']} {v['nodes'][0]['html'][:200]}" for v in result["violations"]
                      if v["impact"] in {"serious", "critical"}]  # fmt: skip
            assert faults == []


def test_the_slider_shows_the_flagged_share(browser: Any, file: Path) -> None:
    """It begins at the build's threshold; each position says what it would flag, in text, in the chart, and aloud."""
    with visiting(browser, file) as visit:
        slider, says = visit.page.locator("#slider"), visit.page.locator("#slider-says")
        assert says.inner_text() == "Threshold 0.500 flags 20 of 138 documents (14.49 %)"
        slider.fill("101")
        assert says.inner_text() == "Threshold 0.395 flags 20 of 138 documents (14.49 %)"
        slider.fill("100")
        assert says.inner_text() == "Threshold 0.391 flags 28 of 138 documents (20.29 %)"
        assert slider.get_attribute("aria-valuetext") == says.inner_text()
        assert visit.page.evaluate("document.getElementById('scores').layout.shapes[0].x0") == 100 / 256
        slider.fill("256")
        assert says.inner_text() == "Threshold 1.000 flags 0 of 138 documents (0 %)"
        assert visit.complaints == []


def test_the_keyboard_reaches_everything(browser: Any, file: Path) -> None:
    """Tab goes over the skip link to the units, the tables and the slider; arrows change them; focus is visible."""
    focused = "(({id, className, name, tagName}) => id || className || name || tagName)(document.activeElement)"
    with visiting(browser, file) as visit:
        seen: list[str] = []
        for _ in range(80):
            visit.page.keyboard.press("Tab")
            seen.append(visit.page.evaluate(focused))
            if seen[-1] == "unit" and seen.count("unit") == 1:
                visit.page.keyboard.press("ArrowRight")
                assert visit.page.locator("input[name=unit]:checked").get_attribute("value") == "1"
                shown = "document.getElementById('flow-0').data.map((trace) => trace.visible)"
                assert visit.page.evaluate(shown) == [False, True, False, False]
            if seen[-1] == "slider":
                break
        assert seen[0] == "skip" and seen[-1] == "slider"
        assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        visit.page.keyboard.press("ArrowLeft")
        assert visit.page.locator("#slider-says").inner_text().startswith("Threshold 0.496")
        visit.page.keyboard.press("Home")
        assert visit.page.locator("#slider-says").inner_text().startswith("Threshold 0.000 flags 138 of 138")


def test_the_books_are_added_up_in_the_page(browser: Any, file: Path, tmp_path: Path) -> None:
    """A number changed after the page was made turns its mark and the summary red."""
    text, number = file.read_text(encoding="utf-8"), '<td class="right">9,100</td>'
    assert text.count(number) == 1
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace(number, number.replace("9,100", "9,093")), encoding="utf-8")
    with visiting(browser, changed) as visit:
        assert visit.page.locator("tr[data-equation] .mark.bad").all_inner_texts() == ["✗ off by 7"]
        assert visit.page.locator("#books-mark").inner_text() == "✗ the books do not close"
        assert visit.page.locator("#books-closed").inner_text() == "35"


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_its_window(browser: Any, file: Path, width: int) -> None:
    """Nothing but tables and diagrams scrolls sideways, and charts keep their height when the window changes."""
    with visiting(browser, file, viewport={"width": width, "height": 900}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        heights = "Array.from(document.querySelectorAll('.js-plotly-plot'), (p) => p.layout.height ?? p.offsetHeight)"
        before = visit.page.evaluate(heights)
        visit.page.set_viewport_size({"width": width + 60, "height": 700})
        visit.page.wait_for_timeout(400)
        assert visit.page.evaluate("Array.from(document.querySelectorAll('.main-svg'), (s) => s.clientHeight)"
                                   ".every((h) => h < 760)")  # fmt: skip
        assert visit.page.evaluate(heights) == before
        assert visit.complaints == []


def test_it_prints(browser: Any, file: Path) -> None:
    """On paper every chart has its height and the width of the page, and afterwards the screen has its own again."""
    with visiting(browser, file) as visit:
        paper = visit.page.pdf(format="A4")
        assert paper.startswith(b"%PDF") and len(paper) > 50_000
        visit.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert visit.page.evaluate("document.getElementById('flow-0')._fullLayout.width") == 680
        visit.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert visit.page.evaluate("document.getElementById('flow-0')._fullLayout.width") > 900
        assert visit.complaints == []


def test_without_scripts_the_tables_stay(browser: Any, file: Path) -> None:
    """With scripts off, or in a browser that cannot unpack the library, the page says so and shows every number."""
    with visiting(browser, file, java_script_enabled=False) as visit:
        assert visit.page.locator("table").first.is_visible()
        assert visit.page.locator("noscript").count() == 1
    with visiting(browser, file) as visit:
        visit.page.add_init_script("delete window.DecompressionStream")
        visit.page.reload()
        visit.page.wait_for_function("document.documentElement.dataset.charts === 'none'")
        assert visit.page.locator("#no-charts").is_visible()
        assert not visit.page.locator(".chart").first.is_visible()
        assert visit.page.locator("#slider-says").inner_text().startswith("Threshold 0.500 flags 20")


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    """Markup in names runs no script, adds no element, asks for nothing, and is drawn as text."""
    path = tmp_path / "hostile.html"
    path.write_text(report.html_report(manifests.hostile()), encoding="utf-8")
    with visiting(browser, path) as visit:
        assert visit.page.locator("img").count() == 0
        assert visit.page.locator("#flow-0 .node-label").filter(has_text="<img").count() > 0
        visit.page.locator("#flow-0 .sankey-link").first.hover()
        assert visit.requests == [visit.address]
        assert visit.complaints == []
