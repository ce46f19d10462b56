"""The report in a real browser, as on a phone and as on a desk: nothing is loaded, nothing breaks, all of it works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
]  # fmt: skip
PHONE, DESK = (360, 740), (1280, 900)
SECTIONS = ["front", "pictures", "numbers", "ablation", "times", "use", "method"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="there is no browser: apt-get install chromium chromium-driver"
    ),
]


class Browser:
    """The report of a tuned model, open in a window of some size."""

    def __init__(self, driver: Any, size: tuple[int, int], page: Path) -> None:
        self.driver, self.phone = driver, size == PHONE
        shape = {"width": size[0], "height": size[1], "deviceScaleFactor": 2 if self.phone else 1}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape | {"mobile": self.phone})
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": self.phone})
        driver.get("about:blank")
        for log in ("browser", "performance"):
            driver.get_log(log)  # forgets what came before the page
        driver.get(page.as_uri())

    def ask(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def wait_for(self, script: str) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 5).until(lambda _: self.ask(script))

    def point_at(self, element: Any, press: bool = False) -> None:
        """Tap it on a phone, hover over it or press it on a desk."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        self.ask("arguments[0].scrollIntoView({block: 'center'})", element)
        kind = "touch" if self.phone else "mouse"
        actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind))
        actions.pointer_action.move_to(element)
        if press or self.phone:
            actions.pointer_action.pointer_down().pointer_up()
        actions.perform()

    def pictures(self) -> list[str]:
        """What is to be seen in each place of the gallery."""
        return self.ask(
            "return [...document.querySelectorAll('.cells')].map((row) => [...row.children].filter("
            "(cell) => getComputedStyle(cell).visibility === 'visible').map((cell) => cell.children[0].src).join())"
        )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(params=[PHONE, DESK], ids=["phone", "desk"])
def browser(request: pytest.FixtureRequest, driver: Any, done: Any) -> Browser:
    return Browser(driver, request.param, done.out / "report.html")


@pytest.fixture(scope="module")
def comparison(done: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison: without a search, with more pictures, and with names."""
    facts = {name: value for name, value in done.result.facts.items() if name != "search"}
    front = [replace(f, name=f"a recipe of {i}", searched=None) for i, f in enumerate(done.result.front)]
    folder = tmp_path_factory.mktemp("compared")
    replace(done.result, facts=facts, front=front, trials=()).save(folder)
    return folder / "report.html"


def test_the_page_is_whole_and_loads_nothing(browser: Browser, tmp_path: Path) -> None:
    assert browser.ask("return [...document.querySelectorAll('section')].map((s) => s.id)") == SECTIONS
    assert browser.ask("return document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    assert browser.ask("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    browser.driver.save_screenshot(str(tmp_path / "page.png"))
    assert browser.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_comparison_fits_as_well(driver: Any, comparison: Path, size: tuple[int, int]) -> None:
    browser = Browser(driver, size, comparison)
    assert browser.ask("return document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    assert len(browser.ask("return [...document.querySelector('.cells').children]")) == 6
    assert driver.get_log("browser") == []


def test_a_recipe_is_told_where_it_is_pointed_at(browser: Browser, done: Any) -> None:
    panel, chosen = browser.find("#point"), done.result.chosen
    assert f"Recipe {chosen.name}, confirmed: {chosen.confirmed.speed.value:.2f}× faster" in panel.text
    browser.point_at(browser.find("#plot rect.default"))
    browser.wait_for("return document.getElementById('point').textContent.startsWith('The default')")
    browser.find("#plot").send_keys("\ue014")  # arrow right
    assert "faster" in panel.text and "steps" in panel.text and "\n" in panel.text


def test_the_pictures_turn_by_key_and_by_tap(browser: Browser) -> None:
    first, told = browser.pictures(), browser.find("output").text
    assert told == "default" and all(source.count("data:image/") == 1 for source in first)
    browser.find("#turn").send_keys("\ue014")
    second = browser.pictures()
    assert browser.find("output").text.startswith("recipe") and all(a != b for a, b in zip(first, second))
    browser.point_at(browser.find(".cells"), press=True)
    browser.wait_for("return document.querySelector('output').textContent === 'reference'")
    assert browser.pictures() != second
    browser.find(".controls button").click()
    assert all(source.count("data:image/") == 4 for source in browser.pictures())
