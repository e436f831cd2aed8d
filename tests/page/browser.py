"""A headless Chromium, and reports opened in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.toolchain import needs

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
)
PATIENCE = 20.0
"""Seconds that the page has for anything."""


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with an empty profile. Skips the test where there is none."""
    needs("chromium", "chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    try:
        yield driver
    finally:
        driver.quit()


class Report:
    """A report that is open in a browser."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        driver.get("about:blank")
        driver.get(path.as_uri())
        self.wait("document.body.dataset.ready")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.driver.execute_script(f"return {script}")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true; returns its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            value = self.run(expression)
            if value:
                return value
            time.sleep(0.03)
        raise AssertionError(f"the page never had {expression}")

    def ready(self, view: str, stage: str) -> None:
        """Wait until a view shows a stage."""
        self.wait(f"document.body.dataset.ready === {f'{view} {stage}'!r}")

    def find(self, selector: str) -> Any:
        """The first element of a selector."""
        return self.driver.find_element("css selector", selector)

    def press(self, *keys: str) -> None:
        """Press keys, with the focus nowhere."""
        self.run("document.activeElement.blur()")
        self.find("body").send_keys(*keys)

    def click(self, text: str) -> None:
        """Click the button of a text."""
        self.driver.find_element("xpath", f"//button[normalize-space()='{text}']").click()

    def search(self, text: str) -> None:
        """Search for a symbol and open the best match."""
        from selenium.webdriver.common.keys import Keys

        self.press("/")
        self.wait("document.activeElement.type === 'search'")
        field = self.find("input[type=search]")
        field.clear()
        field.send_keys(text)
        self.wait("document.querySelector('.symbol.cursor')")
        field.send_keys(Keys.ENTER)
        self.wait(f"document.querySelector('.details h2').textContent === {text!r}")

    def text(self, selector: str) -> str:
        """The text of an element."""
        return str(self.run(f"document.querySelector({selector!r}).textContent"))

    def complaints(self) -> list[str]:
        """What the page wrote to the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that the page asked for, since the last question."""
        import json

        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url.startswith(("http:", "https:", "ws:", "wss:"))]
