"""Chromium without a window, for the tests of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

PROGRAMS = ("chromium", "chromedriver")
ABSENT = [program for program in PROGRAMS if shutil.which(program) is None]


def need_chromium() -> None:
    """Skip where there is none, in plain words; continuous integration has one."""
    if ABSENT:
        told = f"NOT RUN: {', '.join(ABSENT)} not installed (Debian: chromium chromium-driver)"
        if os.environ.get("GSV_REQUIRE_ORACLE"):
            pytest.fail(told)
        pytest.skip(told)


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A fresh browser; its microphone is a beep, its loudspeaker goes nowhere.

    Args:
        arguments: further ones of the browser's command line.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "lang=en",
        "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream",
        "disable-background-networking", "window-size=1200,1300",
        *arguments,
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What the tests do with it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait(lambda: self("body", By.TAG_NAME).get_attribute("data-ready") == "yes")

    def look(self, width: int, height: int, *, dark: bool) -> None:
        """As on a screen of that size and theme; a narrow one is a phone's."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def __call__(self, name: str, by: str = By.ID) -> Any:
        return self.driver.find_element(by, name)

    def text(self, name: str) -> str:
        return str(self(name).text)

    def press(self, name: str) -> None:
        self(name).click()

    def type(self, name: str, text: str) -> None:
        self(name).clear()
        self(name).send_keys(text)

    def choose(self, selector: str) -> None:
        self(selector, By.CSS_SELECTOR).click()

    def figures(self) -> dict[str, Any]:
        """What the audio thread has told: samples played, their peak, gaps, state."""
        data = {key: self("figures").get_attribute(f"data-{key}") for key in ("state",)}
        numbers = {
            key: float(self("figures").get_attribute(f"data-{key}") or 0)
            for key in ("played", "peak", "gaps")
        }
        return {**data, **numbers}

    def wait(self, condition: Callable[[], Any], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.text("error"), self.text("status"))
            time.sleep(0.03)

    def complaints(self) -> list[str]:
        """What the browser itself found amiss, such as a breach of the page's policy."""
        found = self.driver.get_log("browser")
        return [entry["message"] for entry in found if entry["level"] == "SEVERE"]
