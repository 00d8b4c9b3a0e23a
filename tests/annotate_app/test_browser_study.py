"""The course of a study as a rater meets it in the browser: training, gate, breaks, ties, pauses, the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from radpref.data.study.runs import now
from tests.support.annotate import add_checks
from tests.support.browser import DIGITS, Room, checked, drawn, finish_set, opened_set, press, saved

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NOTHING = "training_sets = 0\nrepeats = 0.0\nattention = 0.0\n"
GATED = "[annotate]\ntraining_sets = 1\ngate = 0.75\ngate_attempts = 2\nrepeats = 0.0\nattention = 0.0\n"
TIES = f"[annotate]\ntie_break = true\n{NOTHING}"
MakeRoom = Callable[..., Room]


def test_training_explains_itself_and_the_gate_lets_try_again(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I",), toml=GATED)
    add_checks(room.study, "training", 1)  # every image is expected to be a 4 or a 5
    page = room.login()
    assert opened_set(page, 1, 1) == "T2I"
    expect(page.get_by_test_id("training")).to_be_visible()
    expect(page.get_by_test_id("notice")).to_contain_text("not analysed")
    press(page, "1234")
    page.keyboard.press("Enter")
    verdicts = {letter: page.get_by_test_id(f"{letter}-text-verdict") for letter in "ABCD"}
    expect(verdicts["A"]).to_contain_text("✗ Wrong")
    expect(verdicts["A"]).to_contain_text("expected 4–5, you gave 1")
    expect(verdicts["A"]).to_contain_text("reason")
    expect(verdicts["D"]).to_contain_text("✓ Right")
    expect(page.get_by_test_id("notice")).to_have_text(
        "1 of 4 answers is in the expected range. Training so far: 25 %. Press Enter to go on."
    )
    expect(page.get_by_test_id("submit")).to_have_text("Next")
    press(page, "5xzi")  # nothing can be changed any more, but looking goes on
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")
    assert checked(page) == ["A-text-1", "B-text-2", "C-text-3", "D-text-4"]
    page.keyboard.press("Enter")
    gate = page.get_by_test_id("gate")
    expect(gate).to_contain_text("25 % of your answers were in the expected range; 75 % are needed")
    expect(gate).to_contain_text("Attempt 1 of 2: 1 attempt is left")
    page.keyboard.press("Backspace")
    expect(verdicts["A"]).to_contain_text("✗ Wrong")
    page.keyboard.press("Enter")
    expect(gate).to_be_visible()
    page.keyboard.press("Enter")
    opened_set(page, 1, 1)
    assert checked(page) == []
    press(page, "4455")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notice")).to_contain_text("4 of 4 answers are")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("begin")).to_contain_text("Scores count from here on")
    page.keyboard.press("Enter")
    assert opened_set(page, 1, 1) == "T2I"
    expect(page.get_by_test_id("training")).to_be_hidden()
    finish_set(page, "T2I")
    expect(page.get_by_test_id("end")).to_contain_text("Thank you")


def test_a_failed_last_attempt_is_the_study_offices_matter(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I",), toml=GATED.replace("gate_attempts = 2", "gate_attempts = 1"))
    add_checks(room.study, "training", 1)
    page = room.login()
    opened_set(page, 1, 1)
    press(page, "0000")
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("notice")).to_contain_text("0 of 4 answers are")
    page.get_by_test_id("submit").click()
    gate = page.get_by_test_id("gate")
    expect(gate).to_contain_text("The study office decides")
    expect(page.get_by_test_id("again")).to_have_count(0)
    page.reload()
    expect(gate).to_contain_text("The study office decides")


def test_feedback_lost_on_the_way_comes_with_the_next_answer(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I",), toml=GATED)
    room.expected += ["ERR_FAILED"]
    add_checks(room.study, "training", 1)
    context = room.context()
    page = room.login(context)
    opened_set(page, 1, 1)
    press(page, "4444")
    saved(page)

    def cut(route: Route) -> None:
        route.fetch()  # the server stores it, the answer is lost
        route.abort()

    context.route("**/events", cut, times=1)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notice")).to_contain_text("4 of 4 answers are")
    assert room.events("submit") == 1


def test_a_pause_names_the_time_and_ends_by_itself_or_by_enter(make_room: MakeRoom) -> None:
    room = make_room()
    context = room.context(timezone_id="Europe/Berlin")
    answers: list[dict[str, Any]] = []

    def early(route: Route) -> None:
        found = route.fetch().json()
        at = datetime.now(UTC) + timedelta(days=2)
        answers.append({**found, "set": None, "stage": "waiting", "opens_at": at.isoformat(), "n_done": 2})
        route.fulfill(json=answers[-1])

    context.route("**/api/next", early)
    page = room.login(context)
    waiting = page.get_by_test_id("waiting")
    expect(waiting).to_contain_text("1 set left. You can go on")
    script = "iso => new Date(iso).toLocaleTimeString('en-GB', {hour: '2-digit', minute: '2-digit'})"
    expect(waiting).to_contain_text(f"at {page.evaluate(script, answers[-1]['opens_at'])}.")
    expect(waiting).not_to_contain_text("repeat")
    context.unroute("**/api/next")
    page.keyboard.press("Enter")
    opened_set(page, 1)


def test_the_frozen_study_is_closed_also_to_a_window_that_is_open(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I", "T2I"))
    room.expected += ["409"]
    page = room.login()
    finish_set(page, opened_set(page, 1, 2))
    opened_set(page, 2, 2)
    saved(page)
    with room.study.db.write() as connection:
        for stage in ("locked", "frozen"):
            connection.execute("INSERT INTO stages(at, actor, stage) VALUES (?, 'office', ?)", (now(), stage))
    page.keyboard.press("3")
    closed = page.get_by_test_id("closed")
    expect(closed).to_contain_text("The study is finished")
    assert room.scores() == 4


def test_a_break_is_proposed_between_sets_only(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I",) * 3, toml=f"[annotate]\nbreak_minutes = 1.5\n{NOTHING}")
    context = room.context()
    context.clock.install()
    page = room.login(context)
    opened_set(page, 1)
    for digit in DIGITS["T2I"]:
        context.clock.fast_forward(25_000)
        page.keyboard.press(digit)
        saved(page)  # as the clock's leap would end the request, too
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Time for a break?")
    expect(dialog).to_contain_text("1 set in 2 minutes of scoring. Done: 1 of 3.")
    saved(page)
    page.keyboard.press("Enter")
    assert opened_set(page, 2) == "T2I"
    press(page, DIGITS["T2I"])
    page.keyboard.press("Enter")
    opened_set(page, 3)
    expect(page.get_by_role("dialog")).to_have_count(0)


def ranks(room: Room) -> list[dict[str, Any]]:
    return room.study.db.rows(
        "SELECT e.slot, e.criterion, e.value, p.slots FROM score_events e JOIN presentations p USING (presentation_id)"
        " WHERE kind = 'rank' ORDER BY event_id"
    )


def test_ties_are_asked_for_and_answered_by_letters(make_room: MakeRoom) -> None:
    room = make_room(modes=("TM2I", "TM2I"), toml=TIES)
    page = room.login()
    opened_set(page, 1, 2)
    press(page, "34343525")  # text: A, B, C have 3; mask: A, B have 4, C, D have 5
    page.keyboard.press("Enter")
    tie = page.get_by_test_id("tie")
    expect(tie).to_contain_text("Text: A, B and C all have 3. Which is the best?")
    page.keyboard.press("s")  # D is not one of them
    expect(page.get_by_role("alert").filter(has_text="D is not one of them")).to_be_visible()
    press(page, "5i")  # no score slips through; looking goes on
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("a")
    expect(tie).to_contain_text("between A and B. Which is better?")
    page.keyboard.press("w")
    expect(tie).to_contain_text("Mask: C and D both have 5")
    page.get_by_test_id("tie-equal").click()
    expect(tie).to_contain_text("Mask: A and B both have 4")
    page.get_by_test_id("tie-A").click()
    opened_set(page, 2, 2)
    saved(page)
    found = {(row["criterion"], "ABCD"[row["slots"].index(str(row["slot"]))]): row["value"] for row in ranks(room)}
    text = {("text", "C"): 1, ("text", "B"): 2, ("text", "A"): 3}
    assert found == {**text, ("mask", "C"): 1, ("mask", "D"): 1, ("mask", "A"): 1, ("mask", "B"): 2}
    assert room.events("submit") == 1
    page.keyboard.press("Backspace")
    opened_set(page, 1, 2)
    press(page, "qt2")  # A leaves the tie, and its rank with it
    saved(page)
    assert ranks(room)[-1]["value"] is None
    page.keyboard.press("z")
    saved(page)
    expect(page.get_by_test_id("A-text-3")).to_be_checked()
    assert ranks(room)[-1]["value"] == 3
    page.keyboard.press("Enter")  # everything is answered: nothing is asked
    opened_set(page, 2, 2)
    saved(page)
    assert room.events("submit") == 2


def test_ties_need_no_answer(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I", "T2I"), toml=TIES)
    page = room.login()
    opened_set(page, 1, 2)
    press(page, "3333")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("tie")).to_contain_text("A, B, C and D all have 3")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("tie")).to_have_count(0)
    assert room.events("submit") == 0
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    opened_set(page, 2, 2)
    saved(page)
    assert ranks(room) == []
    assert room.events("submit") == 1


def test_numbers_and_the_way_back_follow_what_was_done(make_room: MakeRoom) -> None:
    """Sets are fetched ahead, before it is known what will be done first: number and Backspace must not believe it."""
    room = make_room(modes=("T2I",) * 5)
    page = room.login()
    seen: list[list[float]] = []
    for number in (1, 2, 3):
        opened_set(page, number, 5)
        seen.append(picture(page))
        finish_set(page, "T2I")
    opened_set(page, 4, 5)
    for number in (3, 2, 1):
        page.keyboard.press("Backspace")
        opened_set(page, number, 5)
        assert picture(page) == seen[number - 1]
    page.reload()
    opened_set(page, 4, 5)
    for number in (3, 2):
        page.keyboard.press("Backspace")
        opened_set(page, number, 5)
        assert picture(page) == seen[number - 1]
    assert len(checked(page)) == 4


def picture(page: Page) -> list[float]:
    """A finger-print of the pixels of image A in the middle of its canvas."""
    script = """canvas => [...canvas.getContext('2d').getImageData(canvas.width / 2 - 20, 80, 40, 40).data]
        .reduce((sums, value, i) => { sums[i % 97] += value; return sums; }, new Array(97).fill(0))"""
    return [float(value) for value in drawn(page, "A").evaluate(script)]
