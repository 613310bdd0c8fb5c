"""The page in a real browser: it loads from disk, stands whole, sorts, searches, obeys nobody.

Chromium and chromedriver are looked for on the path; without them these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_scans import PROTOTYPE, rising, thorough

from srdd.documents.scan import NotMeasured, Scan, TokenSqnr, load_scan
from srdd.reports.groups import groups_of
from srdd.reports.html_page import page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no browser here: these tests need chromium and chromedriver on the path",
    ),
]

HOSTILE = (
    "<img src=x onerror=alert(1)><b>bold</b><a href='javascript:alert(2)'>x</a>"
    "</script><script>alert(3)</script>"
)
LAYERS = 28


def both_sites(name: str = "made/up") -> Scan:
    """A scan of output and input, with four tensors a layer at input and tokens."""
    output = thorough(rising(LAYERS), name=name)
    tensors = ("x.self_attn.q_proj", "x.self_attn.o_proj", "x.mlp.up_proj", "x.mlp.down_proj")
    given = thorough(rising(LAYERS, 0.4, 0.2), tensors=tensors, site="input", name=name)
    tokens = TokenSqnr(p5=15.0, p50=16.1, p95=16.2, first_bin=220, counts=[1, 3, 2], undefined=0)
    records = [
        record.model_copy(update={"token_sqnr_db": tokens})
        for record in (*output.records, *given.records)
    ]
    settings = output.settings.model_copy(update={"sites": ["output", "input"]})
    rankings = [*output.rankings, *given.rankings]
    return output.model_copy(
        update={"records": records, "settings": settings, "rankings": rankings}
    )


def hostile() -> Scan:
    tensors = (HOSTILE, "<b>bold</b>", "<a href='https://e'>")
    scan = thorough([0.2, 0.4], tensors=tensors, site="input", name=HOSTILE)
    return scan.model_copy(
        update={
            "warnings": [HOSTILE],
            "not_measured": [NotMeasured(module=HOSTILE, reason=HOSTILE)],
            "run": scan.run.model_copy(update={"command": HOSTILE}),
        }
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    contents = {
        "prototype": [("prototype", load_scan(PROTOTYPE))],
        "sites": [("sites", both_sites())],
        "two": [("first", load_scan(PROTOTYPE)), ("second", both_sites())],
        "hostile": [(HOSTILE, hostile()), ("b", hostile())],
    }
    for name, scans in contents.items():
        text = page([(label, groups_of(scan)) for label, scan in scans])
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in contents}


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    # What a script that should not run would leave behind, whether it calls alert or throws.
    driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "window.called = []; window.alert = (x) => window.called.push(x);"},
    )
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: Any) -> Iterator[Any]:
    """The browser at 1280 pixels and in the light theme; afterwards, that nothing went wrong."""
    emulate(started, "light")
    resize(started, 1280)
    for kind in ("browser", "performance"):
        started.get_log(kind)
    yield started
    assert [entry["message"] for entry in started.get_log("browser")] == []


def emulate(driver: Any, scheme: str, media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def resize(driver: Any, width: int) -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(driver: Any, file: Path) -> None:
    driver.get(file.as_uri())
    wait(driver, "return document.documentElement.dataset.ready")


def wait(driver: Any, script: str, *arguments: Any) -> Any:
    return WebDriverWait(driver, 60, 0.05).until(lambda d: d.execute_script(script, *arguments))


def visible(driver: Any, table: Any, column: str) -> list[str]:
    """The cells of a column in the rows of a table that are shown."""
    script = (
        "const column = Array.from(arguments[0].querySelectorAll('th'))"
        ".findIndex((h) => h.textContent.trim() === arguments[1]);"
        "return Array.from(arguments[0].tBodies[0].rows)"
        ".filter((r) => !r.hidden).map((r) => r.cells[column].textContent.trim())"
    )
    found: list[str] = driver.execute_script(script, table, column)
    return found


def every_row(driver: Any, scan: str = "") -> Any:
    """The folded table of all rows of a scan, unfolded."""
    (details,) = [
        one
        for one in driver.find_elements(By.CSS_SELECTOR, "details.wide")
        if one.text.startswith(f"{scan}: All " if scan else "All ")
    ]
    driver.execute_script("arguments[0].open = true", details)
    return details


def header(driver: Any, table: Any, name: str) -> Any:
    return next(
        button
        for button in table.find_elements(By.CSS_SELECTOR, "th button")
        if button.text == name
    )


def press(driver: Any, element: Any, *keys: str) -> None:
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.send_keys(*keys)


def colours(driver: Any, selector: str, name: str) -> Sequence[str]:
    script = (
        "return Array.from(document.querySelectorAll(arguments[0]),"
        "(e) => getComputedStyle(e)[arguments[1]])"
    )
    found: list[str] = driver.execute_script(script, selector, name)
    return found


class TestLoading:
    @pytest.mark.parametrize("name", ["prototype", "sites", "two", "hostile"])
    def test_nothing_but_the_file_is_requested(
        self, browser: Any, pages: dict[str, Path], name: str
    ) -> None:
        opened(browser, pages[name])
        events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        assert urls == [pages[name].as_uri()]

    def test_it_can_be_read_without_scripts(self, browser: Any, pages: dict[str, Path]) -> None:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.get(pages["sites"].as_uri())
            for selector in (".heat td", ".plot .line", "div.wide .data td", ".text-answer"):
                assert browser.find_element(By.CSS_SELECTOR, selector).is_displayed(), selector
            for selector in ("#theme", ".tools"):
                assert not browser.find_element(By.CSS_SELECTOR, selector).is_displayed()
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def test_no_other_script_and_no_other_style_is_taken(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["prototype"])
        browser.execute_script(
            "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            "document.body.append(s); document.body.insertAdjacentHTML("
            "'beforeend', '<p onclick=\"window.ran = 2\" style=\"color: red\" id=p>p</p>');"
            "p.click();"
        )
        assert browser.execute_script("return window.ran") is None
        assert colours(browser, "#p", "color") == colours(browser, "body", "color")
        refused = [e["message"] for e in browser.get_log("browser")]
        assert len(refused) == 3
        assert all("Content Security Policy" in message for message in refused)


class TestCharts:
    def test_the_drawing_fills_the_width(self, browser: Any, pages: dict[str, Path]) -> None:
        script = (
            "const plot = document.querySelector('.plot').getBoundingClientRect();"
            "const marks = Array.from(document.querySelectorAll('.plot:first-of-type circle'),"
            "(c) => c.getBoundingClientRect()).filter((m) => m.y < plot.bottom);"
            "return [plot.x, plot.right, marks[0].x, marks[marks.length - 1].right]"
        )
        for width in (390, 1280):
            resize(browser, width)
            opened(browser, pages["prototype"])
            left, right, first, last = browser.execute_script(script)
            column = (right - left) / LAYERS
            assert left < first < left + column
            assert right - column < last < right

    def test_a_path_goes_through_its_marks(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        gaps = browser.execute_script(
            "const group = document.querySelector('.plot g'), path = group.querySelector('.line');"
            "const box = path.getScreenCTM(), length = path.getTotalLength();"
            "const points = path.getAttribute('d').slice(1).split('L').map((p) => p.split(' '));"
            "return Array.from(group.querySelectorAll('circle'), (mark, n) => {"
            "  const at = new DOMPoint(...points[n].map(Number)).matrixTransform(box);"
            "  const r = mark.getBoundingClientRect();"
            "  return Math.hypot(at.x - r.x - r.width / 2, at.y - r.y - r.height / 2); })"
        )
        assert len(gaps) == LAYERS
        assert max(gaps) < 1

    def test_a_pointer_reads_the_figures(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        tip = browser.find_element(By.ID, "tip")
        assert not tip.is_displayed()
        hit = browser.find_elements(By.CSS_SELECTOR, ".hit")[3]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", hit)
        ActionChains(browser).move_to_element(hit).perform()
        value = load_scan(PROTOTYPE).rows()[3]["sqnr_db"]
        wait(browser, "return !arguments[0].hidden", tip)
        assert tip.text == f"layer 3\nmxfp4:floor: {value:.1f} dB"
        ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
        wait(browser, "return arguments[0].hidden", tip)

    def test_a_series_can_be_left_out(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["two"])
        toggle = browser.find_element(By.CSS_SELECTOR, '.toggle[data-series="1"]')
        figure = toggle.find_element(By.XPATH, "./ancestor::figure")
        first, second = figure.find_elements(By.CSS_SELECTOR, "svg g")
        press(browser, toggle, Keys.SPACE)
        assert toggle.get_attribute("aria-pressed") == "false"
        assert [first.is_displayed(), second.is_displayed()] == [True, False]
        press(browser, toggle, Keys.SPACE)
        assert second.is_displayed()

    def test_heat_maps_hold_every_layer_and_kind(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["sites"])
        (heat,) = browser.find_elements(By.CSS_SELECTOR, ".heat")
        assert len(heat.find_elements(By.CSS_SELECTOR, "td")) == 4 * LAYERS
        names = [e.text for e in heat.find_elements(By.CSS_SELECTOR, "tbody th")]
        assert names == ["q", "o", "up", "down"]
        shades = colours(browser, ".heat tbody tr:first-child td", "backgroundColor")
        assert len(set(shades)) > 3


class TestTables:
    def test_sorting_by_click_and_by_key(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        rows = load_scan(PROTOTYPE).rows()
        best_first = [
            str(row["layer"])
            for row in sorted(rows, key=lambda row: float(f"{100 * row['relative_error']:.1f}"))
        ]
        details = every_row(browser)
        table = details.find_element(By.TAG_NAME, "table")
        button = header(browser, table, "rel. err %")
        press(browser, button, Keys.ENTER)
        assert visible(browser, table, "layer") == best_first
        column = button.find_element(By.XPATH, "..")
        assert column.get_attribute("aria-sort") == "ascending"
        press(browser, button, Keys.SPACE)
        assert column.get_attribute("aria-sort") == "descending"
        assert visible(browser, table, "layer")[:3] == ["15", "14", "16"]
        browser.execute_script("arguments[0].click()", header(browser, table, "layer"))
        assert visible(browser, table, "layer") == [str(n) for n in range(LAYERS)]
        assert column.get_attribute("aria-sort") is None

    def test_verdicts_are_sorted_by_severity(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        table = every_row(browser).find_element(By.TAG_NAME, "table")
        press(browser, header(browser, table, "verdict"), Keys.ENTER)
        words = visible(browser, table, "verdict")
        assert words == ["at floor"] * 1 + ["poor"] * 26 + ["bad"]

    def test_searching(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        details = every_row(browser)
        table = details.find_element(By.TAG_NAME, "table")
        box = details.find_element(By.CSS_SELECTOR, "input")
        press(browser, box, "early-mid")
        assert visible(browser, table, "layer") == ["4", "5", "6", "7", "8", "9"]
        assert details.find_element(By.TAG_NAME, "output").text == "6 of 28 rows"
        for words, layers in (("7", ["7"]), ("bad last", ["27"]), ("no such thing", [])):
            box.clear()
            press(browser, box, words)
            assert visible(browser, table, "layer") == layers


class TestHostile:
    def test_a_name_does_nothing_and_is_shown(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["hostile"])
        assert browser.execute_script("return window.called") == []
        for selector in ("img", "main b:not(.text-warning > b)", "main a:not(nav a)"):
            assert browser.find_elements(By.CSS_SELECTOR, selector) == [], selector
        assert browser.execute_script("return document.scripts.length") == 1
        assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
        labels = {e.text for e in browser.find_elements(By.CSS_SELECTOR, ".heat tbody th")}
        assert {"<b>bold</b>", "<a href='https://e'>"} < labels


class TestLooks:
    def test_the_theme_follows_the_system_and_the_switch(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["prototype"])
        light = colours(browser, "body, .plot .line", "backgroundColor")
        stroke = colours(browser, ".plot .line", "stroke")
        emulate(browser, "dark")
        assert colours(browser, "body, .plot .line", "backgroundColor") != light
        assert colours(browser, ".plot .line", "stroke") != stroke
        press(browser, browser.find_element(By.ID, "theme"), Keys.ENTER)
        assert colours(browser, "body, .plot .line", "backgroundColor") == light

    @pytest.mark.parametrize("width", [320, 390, 768, 1280])
    @pytest.mark.parametrize("name", ["sites", "hostile"])
    def test_the_page_is_never_wider_than_the_window(
        self, browser: Any, pages: dict[str, Path], width: int, name: str
    ) -> None:
        resize(browser, width)
        opened(browser, pages[name])
        browser.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("name", ["prototype", "sites"])
    def test_verdicts_are_in_sight_on_a_phone(
        self, browser: Any, pages: dict[str, Path], name: str
    ) -> None:
        resize(browser, 390)
        opened(browser, pages[name])
        table = browser.find_element(By.CSS_SELECTOR, "div.wide .scroll")
        wide, seen = browser.execute_script(
            "return [arguments[0].scrollWidth, arguments[0].clientWidth]", table
        )
        assert wide <= seen
        assert header(browser, table, "verdict").is_displayed()

    def test_in_print_controls_go_and_every_chart_stays(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["sites"])
        emulate(browser, "light")
        light = colours(browser, ".plot .line", "stroke")
        emulate(browser, "dark", "print")
        for selector in ("nav", ".tools", "#theme"):
            assert not browser.find_element(By.CSS_SELECTOR, selector).is_displayed()
        for chart in browser.find_elements(By.CSS_SELECTOR, ".plot, .heat"):
            assert chart.is_displayed()
        assert colours(browser, ".plot .line", "stroke") == light
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert len(printed["data"]) > 50_000

    def test_everything_is_reached_by_tab(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["two"])
        every_row(browser, "first")
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        reached = set()
        for _ in range(120):
            active = browser.switch_to.active_element
            reached.add(f"{active.tag_name} {active.get_attribute('aria-label') or active.text}")
            active.send_keys(Keys.TAB)
        for wanted in (
            "a Skip to the content",
            "a By layer",
            "button Dark theme",
            "button second: mxfp4:floor",
            "button vs floor dB",
            "input ",
            "summary Values",
        ):
            assert wanted in reached, reached

    def test_charts_have_names_and_tables_captions(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["sites"])
        for chart in browser.find_elements(By.CSS_SELECTOR, ".plot"):
            assert chart.aria_role == "image"
            assert "SQNR" in chart.accessible_name or "sigma" in chart.accessible_name
        for table in browser.find_elements(By.CSS_SELECTOR, "table"):
            assert table.find_elements(By.CSS_SELECTOR, "caption")
        unnamed = browser.execute_script(
            "return Array.from(document.querySelectorAll('button, select, input'))"
            ".filter((e) => !e.textContent.trim() && !e.labels?.length && !e.ariaLabel).length"
        )
        assert unnamed == 0
