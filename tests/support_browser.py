"""A served study and real Chromium windows on it; whatever the windows do wrong fails the test at its end."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from annotate_app.server import create_app
from data.study import Study
from tests.support_annotate import PASSWORD

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE_MS = 30_000
DIGITS = {"T2I": "0153", "M2I": "5420", "TM2I": "01234501"}
"""Scores to type for a set of each mode: no two images alike in a criterion, and 0 among them."""


class Room:
    """A served study, its browser windows, and what these did wrong: errors on the console, requests elsewhere."""

    def __init__(self, study: Study, browser: Browser) -> None:
        self.study, self.browser = study, browser
        self.problems: list[str] = []
        self.expected: list[str] = []
        """Parts of messages that a test brings about on purpose."""
        self.port = 0
        self._stack = ExitStack()
        self.start()

    @property
    def url(self) -> str:
        """Address of the reading room."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Serve; again on the same port after :meth:`stop`."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(create_app(self.study), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(timeout=10)
            listener.close()

        self._stack.callback(end)

    def stop(self) -> None:
        """End the server; the windows stay."""
        self._stack.close()

    def close(self) -> None:
        """End everything and check that nothing went wrong."""
        for context in self.browser.contexts:
            context.close()
        self.stop()
        self.study.db.close()
        assert self.problems == []

    def context(self, **options: Any) -> BrowserContext:
        """A fresh browser profile."""
        return self.browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})

    def page(self, context: BrowserContext) -> Page:
        """A window whose errors and outward requests are noted."""
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        page.on("pageerror", lambda error: self._note(True, f"page error: {error}"))
        page.on("request", lambda request: self._note(not self._is_own(request.url), f"external: {request.url}"))
        return page

    def _is_own(self, url: str) -> bool:
        return url.startswith((self.url, "data:", f"blob:{self.url}"))

    def _note(self, wrong: bool, text: str) -> None:
        if wrong and not any(part in text for part in self.expected):
            self.problems.append(text)

    def login(self, context: BrowserContext | None = None, name: str = "ann") -> Page:
        """Log in by keyboard in a new window."""
        page = self.page(context or self.context())
        page.goto(self.url)
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        return page

    def scores(self) -> int:
        """Current scores in the record."""
        return int(self.study.db.value("SELECT count(*) FROM current_scores"))

    def events(self, kind: str) -> int:
        """Events of a kind in the record."""
        return int(self.study.db.value("SELECT count(*) FROM score_events WHERE kind = ?", (kind,)))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one named by RADPREF_CHROMIUM."""
    chromium = os.environ.get("RADPREF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium found; `make setup` installs it (or set RADPREF_CHROMIUM to its path)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something that the page does not show."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for: {what}"
        time.sleep(0.05)


def opened_set(page: Page, number: int, total: int = 3) -> str:
    """Wait until set ``number`` is shown; returns its mode."""
    expect(page.get_by_test_id("place")).to_have_text(f"Set {number} / {total}", timeout=PATIENCE_MS)
    return str(page.locator(".radpref-root").get_attribute("data-mode"))


def save_state(page: Page) -> Locator:
    """The line that says Saved, Saving or Offline."""
    return page.locator(".radpref-root").get_by_role("status")


def saved(page: Page) -> None:
    """Wait until everything has reached the server."""
    expect(save_state(page)).to_have_text("Saved", timeout=PATIENCE_MS)


def press(page: Page, keys: str) -> None:
    """Press one key after the other."""
    for key in keys:
        page.keyboard.press(key)


def finish_set(page: Page, mode: str) -> None:
    """Score a set by keyboard and submit it."""
    press(page, DIGITS[mode])
    page.keyboard.press("Enter")


def checked(page: Page) -> list[str]:
    """Test ids of the chosen scores."""
    found = page.locator("input[type=radio]:checked").evaluate_all("all => all.map(one => one.dataset.testid)")
    return [str(name) for name in found]


def grey(page: Page, letter: str) -> float:
    """Mean grey level of a canvas, once the next frame is drawn."""
    script = """canvas => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => {
        const {width, height} = canvas; let sum = 0;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        for (let i = 0; i < data.length; i += 4) sum += data[i] * (1 + i % 7);
        resolve(sum / (data.length / 4)); })))"""
    return float(page.get_by_test_id(f"image-{letter}").evaluate(script))


def measures(page: Page, name: str) -> list[float]:
    """Durations of the page's own User Timing entries of a name, milliseconds."""
    return [float(value) for value in page.evaluate(f"performance.getEntriesByName('{name}').map(one => one.duration)")]
