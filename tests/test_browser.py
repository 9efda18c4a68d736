"""The HTML report in a browser, as a colleague opens it: from disk, in headless Chromium. Run with `pytest -m slow`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium

import onnxopt
import train_digits
from common import realdata
from onnxopt import Contract
from onnxopt.report import html
from onnxopt.report.json import to_json

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
Open = Callable[[onnxopt.Result], Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def open_(browser: Any, tmp_path: Path) -> Open:
    """Opens the report of a result from disk; its key figures are there, quickly, and nothing goes wrong."""

    from selenium.webdriver.support.wait import WebDriverWait  # noqa: PLC0415 (comes with the extra `test`)

    def opened(result: onnxopt.Result) -> Any:
        page = tmp_path / "report.html"
        page.write_text(html.render(json.loads(to_json(result))), encoding="utf-8")
        assert page.stat().st_size < 2e6
        browser.get(page.as_uri())
        # `get` may return while the page's load handler runs; until it ends, loadEventEnd is 0.
        loaded = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
        took = WebDriverWait(browser, 10).until(lambda browser: browser.execute_script(loaded))
        assert took < 1000
        assert not browser.get_log("browser")
        text = browser.find_element("tag name", "header").text
        assert f"{result.source.name} is" in text
        assert f"{result.bytes_before / result.bytes_after:.2f}" in text
        return browser

    return opened


def column(browser: Any, index: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('.sortable tbody')].map(g => g.rows[0].cells[arguments[0]].dataset.v)"
    )
    return list(browser.execute_script(script, index))


def sort_and_open(browser: Any) -> None:
    """Headings sort both ways, by mouse and by keyboard; a name opens what is known of its weight."""
    buttons = browser.find_elements("css selector", ".sortable thead button")
    index = next(i for i, button in enumerate(buttons) if button.text.startswith("After"))
    before = column(browser, index)
    buttons[index].click()
    assert list(map(float, column(browser, index))) == sorted(map(float, before), reverse=True)
    buttons[index].send_keys("\ue007")  # Enter
    assert list(map(float, column(browser, index))) == sorted(map(float, before))
    assert browser.find_elements("css selector", "th[aria-sort=ascending] button") == [buttons[index]]
    buttons[0].click()
    assert column(browser, index) == before
    name = browser.find_element("css selector", ".name")
    detail = browser.find_element("id", name.get_attribute("aria-controls"))
    assert not detail.is_displayed()
    name.click()
    assert detail.is_displayed()
    assert "Nodes" in detail.text
    name.send_keys(" ")
    assert not detail.is_displayed()
    assert not browser.get_log("browser")


def fits(browser: Any, width: int) -> None:
    """The page is not wider than the screen, as its tables and figures scroll in their own boxes."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_data(open_: Open, tmp_path: Path) -> None:
    browser = open_(onnxopt.optimize(DIGITS, tmp_path / "small.onnx"))
    sort_and_open(browser)
    fits(browser, 390)


def test_dark_is_dark(open_: Open, tmp_path: Path) -> None:
    browser = open_(onnxopt.optimize(DIGITS, tmp_path / "small.onnx", lossless=True))
    seen = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        seen[scheme] = [
            browser.execute_script(script, *what) for what in (("body", "backgroundColor"), ("svg text", "fill"))
        ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    shades = {key: [sum(map(int, color[4:-1].split(","))) for color in colors] for key, colors in seen.items()}
    assert shades["light"][0] - shades["light"][1] > 300
    assert shades["dark"][1] - shades["dark"][0] > 300


def test_with_a_metric(open_: Open, tmp_path: Path) -> None:
    images, labels, _, _ = train_digits.split()
    np.savez(tmp_path / "data.npz", input=images, labels=labels)
    result = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", Contract(max_drop=3), str(tmp_path / "data.npz"))
    browser = open_(result)
    assert "top1" in browser.find_element("tag name", "header").text
    assert "asked for: at most 3" in browser.page_source
    sort_and_open(browser)


@pytest.mark.skipif(
    not (realdata.MODELS / "resnet56.onnx").is_file(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names them"
)
def test_many_layers(open_: Open, tmp_path: Path) -> None:
    result = onnxopt.optimize(realdata.MODELS / "resnet56.onnx", tmp_path / "small.onnx", effort="fast")
    browser = open_(result)
    assert len(browser.find_elements("css selector", ".sortable tbody")) == len(result.events) - 1 > 50
    sort_and_open(browser)
    fits(browser, 390)
