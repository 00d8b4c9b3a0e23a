"""What can go wrong while somebody scores, in a real Chromium: nothing is lost, and the page says what happened."""

from __future__ import annotations

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from tests.support.annotate import PASSWORD
from tests.support.browser import DIGITS, Room, checked, finish_set, opened_set, press, save_state, saved, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_offline_outbox_drains(room: Room) -> None:
    room.expected += ["ERR_INTERNET_DISCONNECTED"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    saved(page)
    room.traffic[page].wait_for_sets(3)
    context.set_offline(True)
    press(page, DIGITS[mode])
    expect(save_state(page)).to_contain_text("Offline")
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
    expect(save_state(page)).to_contain_text("Offline (3)")
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
    expect(one.get_by_test_id("banner")).to_contain_text("changed in another window")
    one.get_by_role("button", name="Reload").click()
    opened_set(one, 1)
    saved(one)
    assert len(checked(one)) == 1
    assert room.study.db.value("SELECT value FROM current_scores") == 5


def test_an_expired_login_loses_nothing(room: Room) -> None:
    room.expected += ["401"]
    page = room.login()
    mode = opened_set(page, 1)
    saved(page)
    with room.study.db.write() as connection:
        connection.execute("DELETE FROM sessions")
    press(page, DIGITS[mode][:2])
    log_in_again(page, "ann")
    saved(page)
    wait_for(page, lambda: room.scores() >= 1, "the waiting scores")
    assert room.study.db.value("SELECT count(*) FROM score_events") == len(checked(page))


RETRIES = """window.retries = [];
const plain = window.setTimeout;
window.setTimeout = (then, ms, ...rest) => {
    if (new Error().stack.split('\\n')[2].includes('outbox.js')) retries.push(ms);
    return plain(then, ms, ...rest);
};"""
"""Notes the waiting times of the outbox, each once its timer runs."""


def test_a_minute_offline_by_the_clock(room: Room) -> None:
    """Retries slow down to one in ten seconds, go on, and the page takes up again by itself."""
    room.expected += ["ERR_FAILED"]
    context = room.context()
    page = room.page(context)
    page.clock.install()
    page.add_init_script(RETRIES)
    page.goto(room.url)
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    mode = opened_set(page, 1)
    saved(page)
    tries: list[str] = []

    def refuse(route: Route) -> None:
        tries.append(route.request.url)
        route.abort()

    context.route("**/events", refuse)
    press(page, DIGITS[mode])
    expect(save_state(page)).to_have_text(f"Offline ({len(DIGITS[mode])})")
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 60)  # from here on time passes in steps only
    for _ in range(8):
        before = page.evaluate("retries.length")
        page.clock.fast_forward(10_000)
        page.wait_for_function(f"retries.length > {before}")
    waits = page.evaluate("retries")
    assert waits == [1000, 2000, 4000, 8000, *[10_000] * (len(waits) - 4)], "retries do not hammer"
    assert len(tries) == len(waits)
    assert room.scores() == 0
    context.unroute("**/events")
    page.clock.fast_forward(10_000)
    saved(page)
    assert room.scores() == len(DIGITS[mode])


def test_the_server_is_killed_and_comes_back(room: Room) -> None:
    room.expected += ["ERR_CONNECTION_", "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED"]
    page = room.login()
    mode = opened_set(page, 1)
    press(page, DIGITS[mode][:2])
    saved(page)
    room.traffic[page].wait_for_sets(3)
    room.stop()
    press(page, DIGITS[mode][2:])
    expect(save_state(page)).to_contain_text("Offline")
    expect(page.get_by_role("alert").filter(has_text="kept in this browser")).to_be_visible()
    page.keyboard.press("Enter")
    finish_set(page, opened_set(page, 2))
    opened_set(page, 3)
    room.start()
    saved(page)
    finish_set(page, opened_set(page, 3))
    expect(page.get_by_test_id("end")).to_contain_text("All 3 sets are done")
    assert page.evaluate("performance.getEntriesByName('cold').length") == 1, "the page was never loaded again"
    assert room.scores() == 16
    assert room.events("submit") == 3


def test_the_last_submit_waits_for_the_server(room: Room) -> None:
    room.expected += ["ERR_INTERNET_DISCONNECTED"]
    context = room.context()
    page = room.login(context)
    for number in (1, 2):
        finish_set(page, opened_set(page, number))
    mode = opened_set(page, 3)
    saved(page)
    context.set_offline(True)
    finish_set(page, mode)
    expect(page.get_by_test_id("pending")).to_contain_text("kept in this browser")
    context.set_offline(False)
    expect(page.get_by_test_id("end")).to_be_visible()
    assert room.events("submit") == 3


@pytest.mark.parametrize(("status", "words"), [(507, "Server disk full"), (503, "Server busy"), (500, "Offline")])
def test_a_server_that_cannot_write(room: Room, status: int, words: str) -> None:
    room.expected += [str(status)]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    context.route("**/events", lambda route: route.fulfill(status=status, json={"error": "not now"}))
    for number, digit in enumerate(DIGITS[mode][:3], start=1):
        page.keyboard.press(digit)
        expect(save_state(page)).to_have_text(f"{words} ({number})")
    assert room.scores() == 0
    context.unroute("**/events")
    saved(page)
    assert room.scores() == 3
    assert room.study.db.value("SELECT count(*) FROM score_events") == 3


@pytest.mark.parametrize("body", ["", '{"version": 1', '{"welcome": "to the guest network"}'])
def test_an_answer_that_was_cut_off_is_asked_for_again(room: Room, body: str) -> None:
    """The server has stored the score; what it said is lost on the way, or another's page comes in its place."""
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)

    def cut(route: Route) -> None:
        route.fetch()
        route.fulfill(status=200, body=body)

    context.route("**/events", cut, times=1)
    for number, digit in enumerate(DIGITS[mode], start=1):
        page.keyboard.press(digit)
        saved(page)
        assert room.scores() == number
    assert room.study.db.value("SELECT count(*) FROM score_events") == len(DIGITS[mode])
    assert len(checked(page)) == len(DIGITS[mode])


def test_a_refused_event_is_told_and_taken_back(room: Room) -> None:
    room.expected += ["422"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    saved(page)
    context.route("**/events", lambda route: route.fulfill(status=422, json={"error": "this is not usable"}))
    page.keyboard.press(DIGITS[mode][0])
    expect(page.get_by_role("alert").filter(has_text="Not stored: this is not usable")).to_be_visible()
    wait_for(page, lambda: checked(page) == [], "what the server holds is shown again")
    assert page.evaluate("Object.keys(localStorage).length") == 0


def test_closing_the_tab_asks_only_while_something_is_unsent(room: Room) -> None:
    room.expected += ["ERR_FAILED"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    page.keyboard.press(DIGITS[mode][0])
    saved(page)
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", answer)
    page.reload()
    opened_set(page, 1)
    assert asked == []
    context.route("**/events", lambda route: route.abort())
    page.keyboard.press(DIGITS[mode][1])
    expect(save_state(page)).to_contain_text("Offline (1)")
    page.reload()
    assert asked == ["beforeunload"]
    context.unroute("**/events")
    saved(page)
    assert room.scores() == 2


def test_a_broken_image_can_be_skipped(room: Room) -> None:
    room.expected += ["404"]
    context = room.context()
    context.route("**/images/C", lambda route: route.fulfill(status=404, json={"error": "this image cannot be read"}))
    page = room.login(context)
    expect(page.get_by_test_id("broken")).to_contain_text("This set cannot be shown")
    context.unroute("**/images/C")
    page.keyboard.press("Enter")
    opened_set(page, 2)
    saved(page)
    assert room.events("skip") == 1


def test_double_enter_submits_once(room: Room) -> None:
    """An impatient second Enter must not reach the next set, nor the same one again."""
    page = room.login()
    mode = opened_set(page, 1)
    press(page, DIGITS[mode])
    page.evaluate(
        "for (let i = 0; i < 3; i += 1)"
        " window.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))"
    )
    opened_set(page, 2)
    saved(page)
    assert room.events("submit") == 1


def test_somebody_else_logs_in_at_the_same_window(room: Room) -> None:
    """The next person's page is loaded afresh, and what the first one left unsent is not sent in their name."""
    room.expected += ["401"]
    context = room.context()
    page = room.login(context)
    mode = opened_set(page, 1)
    saved(page)
    page.evaluate("window.before = true")
    context.clear_cookies()
    page.keyboard.press(DIGITS[mode][0])
    log_in_again(page, "bob")
    page.wait_for_function("!window.before")
    opened_set(page, 1)
    assert room.scores() == 0
    assert checked(page) == []


def log_in_again(page: Page, name: str) -> None:
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Your session has ended")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
