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
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Frame,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from radpref.annotate_app.server import create_app
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD

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
PATIENCE_MS = 90_000
expect.set_options(timeout=PATIENCE_MS)  # a busy machine may take longer than Playwright's five seconds
DIGITS = {"T2I": "0153", "M2I": "5420", "TM2I": "01234501"}
"""Scores to type for a set of each mode: no two images alike in a criterion, and 0 among them."""


class Traffic:
    """Requests of one window: every address asked for, what arrived for the page that it shows, what is on its way."""

    def __init__(self, page: Page) -> None:
        self.asked: list[str] = []
        self.arrived: list[str] = []
        self._open: set[Request] = set()
        self._page = page
        page.on("framenavigated", self._navigated)
        page.on("request", self._begun)
        page.on("requestfinished", lambda request: self._ended(request, arrived=True))
        page.on("requestfailed", lambda request: self._ended(request, arrived=False))

    def _navigated(self, frame: Frame) -> None:
        if frame == self._page.main_frame:
            self.arrived.clear()

    def _begun(self, request: Request) -> None:
        self.asked.append(request.url)
        self._open.add(request)

    def _ended(self, request: Request, *, arrived: bool) -> None:
        self._open.discard(request)
        if arrived:
            self.arrived.append(request.url)

    def wait_for_sets(self, sets: int) -> None:
        """Wait until the images of so many sets have been fetched, with the masks that are asked for beside them.

        Not Playwright's "networkidle": that is half a second without requests, once in the life of a page, and a busy
        machine takes that long between two requests.
        """

        def here() -> bool:
            return not self._open and sum("/images/" in url for url in self.arrived) >= 4 * sets

        wait_for(self._page, here, f"{sets} sets in this window")


class Room:
    """A served study, its browser windows, and what these did wrong: errors on the console, requests elsewhere."""

    def __init__(self, study: Study, browser: Browser) -> None:
        self.study, self.browser = study, browser
        self.problems: list[str] = []
        self.expected: list[str] = []
        """Parts of messages that a test brings about on purpose."""
        self.traffic: dict[Page, Traffic] = {}
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
        self.traffic[page] = Traffic(page)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._note(True, f"page error: {error}"))
        page.on("request", lambda request: self._note(not self._is_own(request.url), f"external: {request.url}"))
        return page

    def _is_own(self, url: str) -> bool:
        return url.startswith((self.url, "data:", f"blob:{self.url}"))

    def _console(self, message: ConsoleMessage) -> None:
        self._note(message.type == "error", f"console: {message.text}", f" ({message.location.get('url', '')})")

    def _note(self, wrong: bool, text: str, where: str = "") -> None:
        if wrong and not any(part in text for part in self.expected):
            self.problems.append(text + where)

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
def open_browser(*flags: str) -> Iterator[Browser]:
    """Debian's Chromium, or the one named by RADPREF_CHROMIUM; with more flags than the usual ones."""
    chromium = os.environ.get("RADPREF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium found; `make setup` installs it (or set RADPREF_CHROMIUM to its path)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *flags])
        yield opened
        opened.close()


def wait_for(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Wait for something that no locator can tell. The page's own events go on being handled meanwhile."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_MS / 1000:.0f} s for: {what}"
        page.wait_for_timeout(20)


def opened_set(page: Page, number: int, total: int = 3) -> str:
    """Wait until set ``number`` is shown; returns its mode."""
    expect(page.get_by_test_id("place")).to_have_text(f"Set {number} / {total}")
    return str(page.locator(".radpref-root").get_attribute("data-mode"))


def save_state(page: Page) -> Locator:
    """The line that says Saved, Saving or Offline."""
    return page.locator(".radpref-root").get_by_role("status")


def saved(page: Page) -> None:
    """Wait until everything has reached the server."""
    expect(save_state(page)).to_have_text("Saved")


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
    found = page.locator(".strip input[type=radio]:checked").evaluate_all("all => all.map(one => one.dataset.testid)")
    return [str(name) for name in found]


DRAWN = """async canvas => {
    const frame = () => new Promise(requestAnimationFrame);
    const pixels = length => Math.max(1, Math.round(length * devicePixelRatio));
    do {
        await frame();
        await frame();
    } while (canvas.width !== pixels(canvas.clientWidth) || canvas.height !== pixels(canvas.clientHeight));
}"""


def drawn(page: Page, letter: str) -> Locator:
    """A canvas, once it has its place on the page and shows what was asked for until now."""
    canvas = page.get_by_test_id(f"image-{letter}")
    canvas.evaluate(DRAWN)
    return canvas


def grey(page: Page, letter: str) -> float:
    """Mean grey level of a canvas, once it is drawn."""
    script = """canvas => {
        const {width, height} = canvas; let sum = 0;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        for (let i = 0; i < data.length; i += 4) sum += data[i] * (1 + i % 7);
        return sum / (data.length / 4); }"""
    return float(drawn(page, letter).evaluate(script))


def measures(page: Page, name: str) -> list[float]:
    """Durations of the page's own User Timing entries of a name, milliseconds."""
    return [float(value) for value in page.evaluate(f"performance.getEntriesByName('{name}').map(one => one.duration)")]
