"""The scoring page in a real Chromium: keyboard only, reload in the middle, offline, two windows, an expired login."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from annotate_app.server import create_app
from data.study import Study
from tests.support_annotate import PASSWORD, add_people, make_study

pytestmark = [pytest.mark.browser, pytest.mark.slow]
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


class Room:
    """A served study and what its browser windows did wrong."""

    def __init__(self, study: Study, url: str, browser: Browser) -> None:
        self.study, self.url, self.browser = study, url, browser
        self.problems: list[str] = []
        self.expected: list[str] = []

    def context(self) -> BrowserContext:
        return self.browser.new_context(viewport={"width": 1440, "height": 900})

    def page(self, context: BrowserContext) -> Page:
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

    def login(self, context: BrowserContext, name: str = "ann") -> Page:
        page = self.page(context)
        page.goto(self.url)
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        return page

    def scores(self) -> int:
        return int(self.study.db.value("SELECT count(*) FROM current_scores"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("RADPREF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium found; `make setup` installs it (or set RADPREF_CHROMIUM to its path)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def room(tmp_path: Path, browser: Browser) -> Iterator[Room]:
    study = make_study(tmp_path)
    add_people(study)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(study), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    opened = Room(study, f"http://127.0.0.1:{listener.getsockname()[1]}/", browser)
    yield opened
    for context in browser.contexts:
        context.close()
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()
    study.db.close()
    assert opened.problems == []


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for: {what}"
        time.sleep(0.05)


def opened_set(page: Page, number: int) -> str:
    """Wait until set ``number`` is shown; returns its mode."""
    expect(page.get_by_test_id("place")).to_have_text(f"Set {number} / 3", timeout=PATIENCE_MS)
    return str(page.locator(".radpref-root").get_attribute("data-mode"))


def save_state(page: Page) -> Locator:
    return page.locator(".radpref-root").get_by_role("status")


def saved(page: Page) -> None:
    expect(save_state(page)).to_have_text("Saved", timeout=PATIENCE_MS)


def press(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def checked(page: Page) -> list[str]:
    found = page.locator("input[type=radio]:checked").evaluate_all("all => all.map(one => one.dataset.testid)")
    return [str(name) for name in found]


def grey(page: Page, letter: str) -> float:
    """Mean grey level of a canvas."""
    script = """canvas => { const {width, height} = canvas;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        let sum = 0; for (let i = 0; i < data.length; i += 4) sum += data[i]; return sum / (data.length / 4); }"""
    return float(page.get_by_test_id(f"image-{letter}").evaluate(script))


def test_three_modes_by_keyboard_with_a_reload_in_the_middle(room: Room) -> None:
    page = room.login(room.context())
    modes = []
    for number in (1, 2, 3):
        mode = opened_set(page, number)
        modes.append(mode)
        assert checked(page) == [], "nothing is chosen before the rater chooses"
        digits = DIGITS[mode]
        press(page, digits[:2])
        saved(page)
        if number == 2:
            before = checked(page)
            page.reload()
            assert opened_set(page, 2) == mode
            assert checked(page) == before
            assert len(before) == 2
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="missing")).to_be_visible()
        press(page, digits[2:])
        page.keyboard.press("Enter")
    expect(page.get_by_test_id("end")).to_contain_text("All 3 sets are done", timeout=PATIENCE_MS)
    saved(page)
    assert sorted(modes) == ["M2I", "T2I", "TM2I"]
    assert room.scores() == 16
    assert room.study.db.value("SELECT count(*) FROM presentation_states WHERE state = 'submitted'") == 3
    rows = room.study.db.rows(
        "SELECT v.criterion, v.value, v.slot, v.slots, c.mode FROM current_scores v JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id)"
    )
    for row in rows:
        place = row["slots"].index(str(row["slot"]))
        step = place if row["mode"] != "TM2I" else 2 * place + (row["criterion"] == "mask")
        assert row["value"] == int(DIGITS[row["mode"]][step])
    page.keyboard.press("Backspace")
    opened_set(page, 3)
    assert len(checked(page)) == len(DIGITS[modes[2]])


def test_no_scrolling_and_a_grid_that_fills_the_window(room: Room) -> None:
    page = room.login(room.context())
    for number, mode in enumerate(("first", "second", "third"), start=1):
        mode = opened_set(page, number)
        for width, height in ((1440, 900), (1024, 768), (3840, 2160)):
            page.set_viewport_size({"width": width, "height": height})
            root = "document.scrollingElement"
            sizes = page.evaluate(
                f"[{root}.scrollHeight, {root}.scrollWidth, document.querySelector('.grid').clientHeight]"
            )
            assert sizes[0] <= height
            assert sizes[1] <= width
            assert sizes[2] >= 0.8 * height
            outside = page.locator("button:visible, input:visible").evaluate_all(
                "all => all.filter(one => { const b = one.getBoundingClientRect();"
                " return b.right > innerWidth + 1 || b.bottom > innerHeight + 1 || b.left < -1; }).length"
            )
            assert outside == 0
        page.set_viewport_size({"width": 1440, "height": 900})
        size = page.locator(".condition > :last-child").evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
        assert size >= 18
        for text in ("Research use, not for diagnosis", "Patient's right is at image left"):
            expect(page.get_by_text(text)).to_be_visible()
        press(page, DIGITS[mode])
        page.keyboard.press("Enter")
    expect(page.get_by_test_id("end")).to_be_visible(timeout=PATIENCE_MS)


def test_keys_of_the_viewer(room: Room) -> None:
    page = room.login(room.context())
    number, mode = 1, opened_set(page, 1)
    while mode != "TM2I":
        press(page, DIGITS[mode])
        page.keyboard.press("Enter")
        number += 1
        mode = opened_set(page, number)
    page.keyboard.press("o")
    expect(page.get_by_test_id("tool-outline")).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(300)
    plain = grey(page, "A")
    page.keyboard.press("i")
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(300)
    assert abs(grey(page, "B") - plain) < 60, "the four are linked"
    assert grey(page, "A") != plain
    page.keyboard.press("r")
    page.wait_for_timeout(300)
    assert grey(page, "A") == plain
    page.keyboard.press("s")
    expect(page.locator("section.cell.focused")).to_have_attribute("data-letter", "D")
    page.keyboard.press("m")
    expect(page.locator(".strip.focused")).to_have_attribute("data-testid", "D-mask")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".strip.focused")).to_have_attribute("data-testid", "D-text")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".strip.focused")).to_have_attribute("data-testid", "C-text")
    page.keyboard.press("Tab")
    expect(page.locator(".strip.focused")).to_have_attribute("data-testid", "C-mask")
    page.keyboard.press("f")
    expect(page.get_by_test_id("image-A")).to_be_hidden()
    page.keyboard.press("q")
    expect(page.get_by_test_id("image-A")).to_be_visible()
    page.keyboard.press("f")
    page.get_by_test_id("image-B").dblclick()
    expect(page.get_by_test_id("image-A")).to_be_hidden()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.get_by_text("comparing B and")).to_be_visible()
    page.keyboard.press("c")
    box = page.get_by_test_id("image-A").bounding_box()
    assert box
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, -600)
    expect(page.locator(".readout")).not_to_contain_text("100 %  ")
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 120, box["y"] + 90)
    page.mouse.up(button="right")
    expect(page.locator(".readout")).not_to_contain_text("W 100")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("score the focused row")
    page.keyboard.press("Escape")
    assert checked(page) == []


def test_flags_undo_comment_and_skip_by_keyboard(room: Room) -> None:
    page = room.login(room.context())
    mode = opened_set(page, 1)
    press(page, "3x")
    row = DIGITS[mode] and page.locator(".flag[aria-pressed=true]")
    expect(row).to_have_count(1)
    press(page, "zz")
    expect(row).to_have_count(0)
    assert checked(page) == []
    page.keyboard.press("n")
    page.keyboard.type("<img src=x onerror=alert(1)> ${alert(2)}")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_test_id("condition")).to_contain_text("comment")
    page.keyboard.press("k")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    opened_set(page, 2)
    saved(page)
    reasons = room.study.db.rows("SELECT kind, comment FROM score_events WHERE comment IS NOT NULL ORDER BY event_id")
    assert [row["comment"] for row in reasons] == [
        "<img src=x onerror=alert(1)> ${alert(2)}",
        "The condition is unclear",
    ]
    assert room.scores() == 0


def test_mouse_alone_is_enough(room: Room) -> None:
    page = room.login(room.context())
    for number in (1, 2, 3):
        mode = opened_set(page, number)
        for letter in "ABCD":
            for criterion in {"T2I": ["text"], "M2I": ["mask"], "TM2I": ["text", "mask"]}[mode]:
                page.get_by_test_id(f"{letter}-{criterion}-4").check(force=True)
        page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("end")).to_be_visible(timeout=PATIENCE_MS)
    assert room.scores() == 16


def test_offline_outbox_drains(room: Room) -> None:
    room.expected += ["ERR_INTERNET_DISCONNECTED"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    saved(page)
    page.wait_for_timeout(1500)  # the next sets are fetched ahead
    context.set_offline(True)
    press(page, DIGITS[mode])
    expect(save_state(page)).to_contain_text("Offline", timeout=PATIENCE_MS)
    page.keyboard.press("Enter")
    second = opened_set(page, 2)
    press(page, DIGITS[second][0])
    assert room.scores() == 0
    stored = page.evaluate("JSON.stringify(Object.entries(localStorage))")
    assert stored.count("uuid") == len(DIGITS[mode]) + 2
    for word in ("baseline", "condition-", "set-0", "ann", "sha"):
        assert word not in stored
    context.set_offline(False)
    saved(page)
    assert room.scores() == len(DIGITS[mode]) + 1
    assert room.study.db.value("SELECT count(*) FROM score_events") == len(DIGITS[mode]) + 2
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('radpref:')).length") == 0


def test_a_reload_after_an_outage_sends_what_was_left(room: Room) -> None:
    room.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "Failed to fetch"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    context.route("**/events", lambda route: route.abort())
    press(page, DIGITS[mode][:3])
    expect(save_state(page)).to_contain_text("Offline (3)", timeout=PATIENCE_MS)
    context.unroute("**/events")
    page.reload()
    assert opened_set(page, 1) == mode
    saved(page)
    assert len(checked(page)) == 3
    assert room.scores() == 3


def test_two_windows_end_in_a_banner(room: Room) -> None:
    room.expected += ["409"]
    context = room.context()
    one = room.login(context)
    opened_set(one, 1)
    two = room.page(context)
    two.goto(room.url)
    opened_set(two, 1)
    press(two, "5")
    saved(two)
    press(one, "2")
    expect(one.get_by_test_id("banner")).to_contain_text("changed in another window", timeout=PATIENCE_MS)
    one.get_by_role("button", name="Reload").click()
    opened_set(one, 1)
    saved(one)
    assert len(checked(one)) == 1
    assert room.study.db.value("SELECT value FROM current_scores") == 5


def test_an_expired_login_loses_nothing(room: Room) -> None:
    room.expected += ["401"]
    page = room.login(room.context())
    mode = opened_set(page, 1)
    saved(page)
    with room.study.db.write() as connection:
        connection.execute("DELETE FROM sessions")
    time.sleep(5.2)  # longer than logins are remembered by the server
    press(page, DIGITS[mode][:2])
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Your login has ended", timeout=PATIENCE_MS)
    dialog.get_by_label("Name").fill("ann")
    dialog.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    saved(page)
    wait_for(lambda: room.scores() >= 1, "the waiting scores")
    assert room.study.db.value("SELECT count(*) FROM score_events") == len(checked(page))


def test_dashboard_in_the_browser(room: Room) -> None:
    page = room.login(room.context(), "office")
    expect(page.get_by_role("heading", name="Progress")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("simulated", exact=True)).to_be_visible()
    expect(page.get_by_test_id("agreement")).to_contain_text("No scores yet", timeout=PATIENCE_MS)
    expect(page.get_by_text("Research use, not for diagnosis")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Reading room")).to_be_visible(timeout=PATIENCE_MS)


def test_texts_are_never_markup(room: Room) -> None:
    wicked: Any = "<img src=x onerror=alert(1)> ${alert(2)} {{7*7}}"
    with room.study.db.write() as connection:
        connection.execute("UPDATE conditions SET text = ? WHERE text IS NOT NULL", (wicked,))
    page = room.login(room.context())
    number, mode = 1, opened_set(page, 1)
    if mode == "M2I":
        press(page, DIGITS[mode])
        page.keyboard.press("Enter")
        number += 1
        opened_set(page, number)
    expect(page.locator(".condition .text")).to_have_text(wicked)
    assert page.locator(".condition img").count() == 0
