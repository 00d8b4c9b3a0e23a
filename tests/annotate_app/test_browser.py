"""The scoring page in a real Chromium: whole sets by keyboard and by mouse, the size of the page, texts as texts."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser import DIGITS, Room, checked, opened_set, press, saved

pytestmark = [pytest.mark.browser, pytest.mark.slow]


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
    expect(page.get_by_test_id("end")).to_contain_text("All 3 sets are done")
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
            page.wait_for_function(f"innerWidth === {width} && innerHeight === {height}")
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
    expect(page.get_by_test_id("end")).to_be_visible()


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
    expect(page.get_by_test_id("end")).to_be_visible()
    assert room.scores() == 16


def test_dashboard_in_the_browser(room: Room) -> None:
    page = room.login(room.context(), "office")
    expect(page.get_by_role("heading", name="Progress")).to_be_visible()
    expect(page.get_by_text("simulated", exact=True)).to_be_visible()
    expect(page.get_by_test_id("agreement")).to_contain_text("No scores yet")
    expect(page.get_by_text("Research use, not for diagnosis")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Reading room")).to_be_visible()


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
