"""The page in a real browser: it loads from disk, draws every layer, sorts, searches, obeys nobody.

Chromium and chromedriver are looked for on the path; without them these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_scans import PROTOTYPE, rising, thorough

from srdd.documents.reading import load_scan
from srdd.documents.scan import NotMeasured, Scan, TokenSqnr
from srdd.reports.groups import groups_of
from srdd.reports.html import page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
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
    # Short enough not to be cut, and one of the tags that Plotly takes for markup.
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


def drawn(driver: Any, chart: str) -> Any:
    """A chart after it has been scrolled to and drawn: its element."""
    element = driver.find_element(By.CSS_SELECTOR, f'[data-chart="{chart}"]')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    wait(driver, "return arguments[0].querySelector('.main-svg .subplot')", element)
    return element


def visible(driver: Any, table: str, column: int) -> list[str]:
    """The cells of a column in the rows that are shown."""
    script = (
        "return Array.from(document.getElementById(arguments[0]).tBodies[0].rows)"
        ".filter((r) => !r.hidden).map((r) => r.cells[arguments[1]].textContent.trim())"
    )
    found: list[str] = driver.execute_script(script, table, column)
    return found


def header(driver: Any, table: str, name: str) -> Any:
    (found,) = [
        button
        for button in driver.find_elements(By.CSS_SELECTOR, f"#{table} th button")
        if button.text == name
    ]
    return found


def press(driver: Any, element: Any, key: str) -> None:
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.send_keys(key)


class TestLoading:
    @pytest.mark.parametrize("name", ["prototype", "sites", "two", "hostile"])
    def test_nothing_but_the_file_is_requested(
        self, browser: Any, pages: dict[str, Path], name: str
    ) -> None:
        opened(browser, pages[name])
        for chart in browser.find_elements(By.CSS_SELECTOR, ".chart"):
            browser.execute_script("arguments[0].scrollIntoView()", chart)
        wait(browser, "return document.querySelector('.main-svg .subplot')")
        events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        asked = [url for url in urls if not url.startswith(("data:", "blob:"))]
        assert asked == [pages[name].as_uri()]

    def test_it_can_be_read_without_scripts(self, browser: Any, pages: dict[str, Path]) -> None:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.get(pages["sites"].as_uri())
            assert len(browser.find_elements(By.CSS_SELECTOR, "#layers tbody tr")) == 2 * LAYERS
            assert browser.find_element(By.CSS_SELECTOR, ".noscript").is_displayed()
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def test_no_other_script_runs(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        browser.execute_script(
            "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            "document.body.append(s); document.body.insertAdjacentHTML("
            "'beforeend', '<p onclick=\"window.ran = 2\" id=p>p</p>'); p.click();"
        )
        assert browser.execute_script("return window.ran") is None
        refused = [e["message"] for e in browser.get_log("browser")]
        assert refused
        assert all("Content Security Policy" in message for message in refused)


class TestCharts:
    def test_a_point_a_layer(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        for metric in ("sqnr_db", "relative_error", "deadzone"):
            chart = drawn(browser, f"profile/@place/{metric}")
            points = "return arguments[0].querySelectorAll('.scatterlayer .trace .point').length"
            # Two more are the threshold's ends, which do not show.
            assert wait(browser, points, chart) == LAYERS + 2
        (noise,) = browser.find_elements(By.CSS_SELECTOR, '[data-chart^="noise"]')
        chart = drawn(browser, noise.get_attribute("data-chart"))
        traces = browser.execute_script(
            "return arguments[0].data.filter((t) => t.visible).map((t) => [t.name, t.x.length])",
            chart,
        )
        strategies = {"uniform", "targeted", "variable", "zone"}
        assert dict(traces) == dict.fromkeys(strategies, LAYERS)

    def test_heat_maps_hold_every_layer_and_kind(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["sites"])
        chart = drawn(browser, "heat/@heatseries/@heat")
        rows, columns = browser.execute_script(
            "const t = arguments[0].data[0]; return [t.z.length, t.z[0].length]", chart
        )
        assert (rows, columns) == (1 + 4, LAYERS)
        tokens = drawn(browser, "tokens/@place/@tokens")
        assert browser.execute_script("return arguments[0].data[0].z[0].length", tokens) == LAYERS

    def test_what_is_not_in_the_scan_is_said(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        said = browser.find_element(By.ID, "absent").text
        assert said.endswith("Saturation, Relative L1 error, SQNR of single tokens.")
        chart = browser.find_element(By.CSS_SELECTOR, '[data-chart="tokens/@place/@tokens"]')
        assert not chart.is_displayed()
        opened(browser, pages["sites"])
        assert not browser.find_element(By.ID, "absent").is_displayed()

    def test_another_site_is_drawn_and_listed(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["sites"])
        chart = drawn(browser, "profile/@place/relative_error")
        first = "return arguments[0].data.find((t) => t.customdata).y[0]"
        assert browser.execute_script(first, chart) == pytest.approx(20, abs=1)
        assert not browser.find_element(By.ID, "h-tensors").is_displayed()
        chosen = browser.find_element(By.CSS_SELECTOR, 'input[name="place"]:checked')
        press(browser, chosen, Keys.ARROW_RIGHT)
        wait(
            browser,
            "return Math.abs(arguments[0].data.find((t) => t.customdata).y[0] - 40) < 1",
            chart,
        )
        assert len(visible(browser, "tensors", 0)) == 4 * LAYERS
        assert visible(browser, "layers", 1) == [str(n) for n in range(LAYERS)]
        assert "28 of 28 rows" in browser.find_element(By.CSS_SELECTOR, "[data-count=layers]").text

    def test_a_format_can_be_left_out(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["two"])
        chart = drawn(browser, "profile/@place/sqnr_db")
        assert len(visible(browser, "layers", 0)) == 2 * LAYERS
        key = browser.find_element(By.CSS_SELECTOR, '.key[data-series="0"]')
        press(browser, key, Keys.SPACE)
        assert key.get_attribute("aria-pressed") == "false"
        assert set(visible(browser, "layers", 0)) == {"second mxfp4:floor"}
        wait(
            browser,
            "return arguments[0].data.filter((t) => t.customdata && t.visible).length === 1",
            chart,
        )


class TestTables:
    def test_sorting_by_click_and_by_key(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        rows = load_scan(PROTOTYPE).rows()
        best_first = [
            str(row["layer"])
            for row in sorted(rows, key=lambda row: float(f"{100 * row['relative_error']:.1f}"))
        ]
        button = header(browser, "layers", "rel. err %")
        browser.execute_script("arguments[0].click()", button)
        assert visible(browser, "layers", 1) == best_first
        column = button.find_element(By.XPATH, "..")
        assert column.get_attribute("aria-sort") == "ascending"
        press(browser, button, Keys.ENTER)
        assert column.get_attribute("aria-sort") == "descending"
        assert visible(browser, "layers", 1)[:3] == ["15", "14", "16"]
        press(browser, header(browser, "layers", "layer"), Keys.SPACE)
        assert visible(browser, "layers", 1) == [str(n) for n in range(LAYERS)]
        assert column.get_attribute("aria-sort") is None

    def test_searching(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        box = browser.find_element(By.CSS_SELECTOR, "[data-search=layers]")
        press(browser, box, "early-mid")
        assert visible(browser, "layers", 1) == ["4", "5", "6", "7", "8", "9"]
        assert browser.find_element(By.CSS_SELECTOR, "[data-count=layers]").text == "6 of 28 rows"
        box.clear()
        press(browser, box, "7")
        assert visible(browser, "layers", 1) == ["7"]
        box.clear()
        press(browser, box, "no such thing")
        assert visible(browser, "layers", 1) == []

    def test_only_the_bad_ones(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["prototype"])
        press(browser, browser.find_element(By.CSS_SELECTOR, "[data-bad=layers]"), Keys.SPACE)
        assert visible(browser, "layers", 1) == [str(n) for n in range(LAYERS) if n != 1]


class TestHostile:
    def test_a_name_does_nothing(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["hostile"])
        drawn(browser, "heat/@heatseries/@heat")
        drawn(browser, "profile/@place/sqnr_db")
        assert browser.execute_script("return window.called") == []
        for selector in ("img", "main b:not(.facts b, .advice b, figcaption b)", ".chart a"):
            assert browser.find_elements(By.CSS_SELECTOR, selector) == [], selector
        assert browser.execute_script("return document.scripts.length") == 4
        assert HOSTILE in browser.find_element(By.CSS_SELECTOR, "h1").text

    def test_charts_show_it_literally(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["hostile"])
        chart = drawn(browser, "heat/@heatseries/@heat")
        labels = wait(
            browser,
            "return Array.from(arguments[0].querySelectorAll('.ytick text'), (t) => t.textContent)",
            chart,
        )
        assert {"input: <b>bold</b>", "input: <a href='https://e'>"} < set(labels)
        markup = "return arguments[0].querySelectorAll('.ytick text [style], .ytick a').length"
        assert browser.execute_script(markup, chart) == 0


class TestLooks:
    def test_the_theme_follows_the_system_and_the_switch(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        def background() -> str:
            found: str = browser.execute_script(
                "return getComputedStyle(document.body).backgroundColor"
            )
            return found

        opened(browser, pages["prototype"])
        light = background()
        emulate(browser, "dark")
        wait(browser, "return document.documentElement.dataset.theme === 'dark'")
        dark = background()
        assert light != dark
        press(browser, browser.find_element(By.ID, "theme"), Keys.ENTER)
        assert background() == light

    def test_charts_take_the_colours_of_the_theme(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        emulate(browser, "dark")
        opened(browser, pages["prototype"])
        chart = drawn(browser, "profile/@place/sqnr_db")
        colour = "return arguments[0].data.find((t) => t.customdata).line.color"
        assert browser.execute_script(colour, chart) == "#76a5ff"

    @pytest.mark.parametrize("width", [320, 400, 768, 1280])
    @pytest.mark.parametrize("name", ["sites", "hostile"])
    def test_the_page_is_never_wider_than_the_window(
        self, browser: Any, pages: dict[str, Path], width: int, name: str
    ) -> None:
        resize(browser, width)
        opened(browser, pages[name])
        drawn(browser, "profile/@place/sqnr_db")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width

    def test_in_print_controls_go_and_every_chart_comes(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        emulate(browser, "dark")
        opened(browser, pages["sites"])
        browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        emulate(browser, "dark", "print")
        for selector in (".controls", ".tools", "#theme"):
            assert not browser.find_element(By.CSS_SELECTOR, selector).is_displayed()
        charts = browser.find_elements(By.CSS_SELECTOR, ".chart:not(.none)")
        assert len(charts) >= 6
        for chart in charts:
            assert browser.execute_script(
                "return arguments[0].querySelectorAll('.main-svg .subplot').length", chart
            )
        assert browser.execute_script("return document.documentElement.dataset.theme") == "light"
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert len(printed["data"]) > 50_000

    def test_everything_is_reached_by_tab(self, browser: Any, pages: dict[str, Path]) -> None:
        opened(browser, pages["two"])
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        reached = set()
        for _ in range(80):
            active = browser.switch_to.active_element
            names = (active.get_attribute(a) for a in ("id", "aria-label", "data-search"))
            word = next(filter(None, names), active.text)
            reached.add(f"{active.tag_name} {word}")
            active.send_keys(Keys.TAB)
        for wanted in ("a Skip to the figures", "button theme", "button first mxfp4:floor"):
            assert wanted in reached, reached
        for wanted in (
            "input layers",
            "select Metric of the heat map",
            "summary Figures as a table",
        ):
            assert wanted in reached, reached
        assert "div Table of layers" in reached

    def test_charts_have_names_and_tables_captions(
        self, browser: Any, pages: dict[str, Path]
    ) -> None:
        opened(browser, pages["sites"])
        for chart in browser.find_elements(By.CSS_SELECTOR, ".chart"):
            assert chart.get_attribute("role") == "img"
            assert "table" in chart.get_attribute("aria-label")
        for table in browser.find_elements(By.CSS_SELECTOR, "table.data"):
            assert table.find_elements(By.CSS_SELECTOR, "caption")
        unnamed = browser.execute_script(
            "return Array.from(document.querySelectorAll('button, select, input'))"
            ".filter((e) => !e.textContent.trim() && !e.labels?.length && !e.ariaLabel).length"
        )
        assert unnamed == 0
