"""Every key of the scoring page does what the table of keys says, and the mouse can do the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.annotate import add_people, make_study
from tests.support.browser import Room, checked, finish_set, grey, opened_set, press, saved

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PRESSED = {"invert": False, "linked": True, "large": False, "compare": False, "outline": True}
KEY_OF = {"invert": "i", "linked": "l", "large": "f", "compare": "c", "outline": "o"}
PLAIN_VIEW = "100 %  W 100  L 50"
Desk = tuple[Room, Page]


@pytest.fixture(scope="module")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One window on a study of three sets that ask for text and mask, for all tests of this file."""
    study = make_study(tmp_path_factory.mktemp("keys"), modes=("TM2I", "TM2I", "TM2I"))
    add_people(study)
    room = Room(study, browser)
    page = room.login()
    opened_set(page, 1)
    yield room, page
    room.close()


@pytest.fixture
def page(opened: Desk) -> Page:
    """The window with a plain view of set 1, the keyboard on the text row of image A, nothing scored there."""
    page = opened[1]
    if is_pressed(page, "compare"):
        page.keyboard.press("c")
    for name, wanted in PRESSED.items():
        if is_pressed(page, name) != wanted:
            page.keyboard.press(KEY_OF[name])
    press(page, "rqt")
    expect(readout(page)).to_have_text(PLAIN_VIEW)
    expect(focused_strip(page)).to_have_attribute("data-testid", "A-text")
    return page


def is_pressed(page: Page, name: str) -> bool:
    return page.get_by_test_id(f"tool-{name}").get_attribute("aria-pressed") == "true"


def readout(page: Page) -> Locator:
    return page.get_by_test_id("readout")


def focused_strip(page: Page) -> Locator:
    return page.locator(".strip.focused")


@pytest.mark.parametrize("digit", "012345")
def test_a_digit_scores_the_focused_row_and_goes_on(opened: Desk, page: Page, digit: str) -> None:
    page.keyboard.press(digit)
    expect(page.get_by_test_id(f"A-text-{digit}")).to_be_checked()
    expect(page.get_by_test_id("A-text").locator("input:checked")).to_have_count(1)
    expect(focused_strip(page)).to_have_attribute("data-testid", "A-mask")
    saved(page)
    assert opened[0].study.db.value("SELECT value FROM current_scores") == int(digit)


FOCUS = {
    "q": ("sq", "A-text"),
    "w": ("w", "B-text"),
    "a": ("a", "C-text"),
    "s": ("s", "D-text"),
    "m": ("m", "A-mask"),
    "t": ("mt", "A-text"),
}


@pytest.mark.parametrize("key", FOCUS)
def test_letters_move_the_focus(page: Page, key: str) -> None:
    keys, expected = FOCUS[key]
    press(page, keys)
    expect(focused_strip(page)).to_have_attribute("data-testid", expected)
    expect(page.locator("section.cell.focused")).to_have_attribute("data-letter", expected[0])


MOVES = [
    (["Tab"], "A-mask"),
    (["Tab", "Tab"], "B-text"),
    (["Tab", "Shift+Tab"], "A-text"),
    (["ArrowDown"], "A-mask"),
    (["ArrowDown", "ArrowDown"], "C-text"),
    (["ArrowDown", "ArrowUp"], "A-text"),
    (["ArrowRight"], "B-text"),
    (["ArrowRight", "ArrowLeft"], "A-text"),
]


@pytest.mark.parametrize(("keys", "expected"), MOVES, ids=["-".join(keys) for keys, _ in MOVES])
def test_tab_and_arrows_move_the_focus_and_score_nothing(page: Page, keys: list[str], expected: str) -> None:
    before = checked(page)
    for key in [*keys, " "]:  # the space bar would choose a 0 that nobody sees marked
        page.keyboard.press(key)
    expect(focused_strip(page)).to_have_attribute("data-testid", expected)
    assert checked(page) == before


VIEWS = {
    "+": (["+"], "125 %"),
    "=": (["="], "125 %"),
    "-": (["+", "+", "-"], "125 %"),
    "Shift+ArrowRight": (["Shift+ArrowRight"], "W 105"),
    "Shift+ArrowLeft": (["Shift+ArrowLeft"], "W 95"),
    "Shift+ArrowDown": (["Shift+ArrowDown"], "L 55"),
    "Shift+ArrowUp": (["Shift+ArrowUp"], "L 45"),
}


@pytest.mark.parametrize("key", VIEWS)
def test_zoom_and_window_by_keyboard(page: Page, key: str) -> None:
    keys, expected = VIEWS[key]
    before = {letter: grey(page, letter) for letter in "AD"}
    for each in keys:
        page.keyboard.press(each)
    expect(readout(page)).to_contain_text(expected)
    for letter in "AD":
        assert grey(page, letter) != before[letter], "the four are linked"
    page.keyboard.press("r")
    expect(readout(page)).to_have_text(PLAIN_VIEW)
    assert grey(page, "A") == before["A"]


@pytest.mark.parametrize("key", ["Home", "End", "PageUp", "PageDown"])
def test_pan_by_keyboard(page: Page, key: str) -> None:
    press(page, "++")
    before = grey(page, "A")
    page.keyboard.press(key)
    assert grey(page, "A") != before


def test_i_inverts_and_r_resets(page: Page) -> None:
    plain = grey(page, "B")
    page.keyboard.press("i")
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")
    assert grey(page, "B") != plain
    page.keyboard.press("r")
    assert grey(page, "B") == plain


def test_l_unlinks_the_four(page: Page) -> None:
    before = {letter: grey(page, letter) for letter in "AB"}
    press(page, "l+")
    expect(page.get_by_test_id("tool-linked")).to_have_attribute("aria-pressed", "false")
    assert grey(page, "A") != before["A"]
    assert grey(page, "B") == before["B"]
    page.keyboard.press("l")
    assert grey(page, "B") != before["B"], "linked again, they take the focused view"


def test_f_shows_one_image_large(page: Page) -> None:
    page.keyboard.press("f")
    expect(page.get_by_test_id("image-B")).to_be_hidden()
    page.keyboard.press("w")
    expect(page.get_by_test_id("image-B")).to_be_visible()
    expect(page.get_by_test_id("image-A")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("image-A")).to_be_visible()


def test_c_compares_with_the_last_image(page: Page) -> None:
    press(page, "sq")
    alone = grey(page, "A")
    page.keyboard.press("c")
    expect(page.get_by_text("comparing A and D")).to_be_visible()
    for shown in "DAD":  # in turn, by itself; seen in every frame, as a slower look may see the same one each time
        page.wait_for_function(f"document.querySelector('section[data-letter=A] .letter').textContent === '{shown}'")
    page.keyboard.press("Escape")
    expect(page.get_by_text("comparing")).to_have_count(0)
    assert grey(page, "A") == alone


def test_o_and_brackets_change_the_outline(page: Page) -> None:
    drawn = grey(page, "A")
    page.keyboard.press("o")
    expect(page.get_by_test_id("tool-outline")).to_have_attribute("aria-pressed", "false")
    bare = grey(page, "A")
    assert bare != drawn
    opacity = page.get_by_test_id("opacity")
    before = float(opacity.input_value())
    page.keyboard.press("[")
    expect(opacity).to_have_value(f"{before - 10:.0f}")
    expect(page.get_by_test_id("tool-outline")).to_have_attribute("aria-pressed", "true")
    fainter = grey(page, "A")
    assert fainter not in (bare, drawn)
    page.keyboard.press("]")
    expect(opacity).to_have_value(f"{before:.0f}")
    assert grey(page, "A") == drawn


@pytest.mark.parametrize(("key", "flag"), [("x", "artifact"), ("u", "unrealistic")])
def test_flags(opened: Desk, page: Page, key: str, flag: str) -> None:
    for shown, stored in (("true", 1), ("false", 0)):
        page.keyboard.press(key)
        expect(page.get_by_test_id(f"A-{flag}")).to_have_attribute("aria-pressed", shown)
        saved(page)
        last = "SELECT value FROM score_events WHERE kind = 'flag' AND criterion = ? ORDER BY event_id DESC"
        assert opened[0].study.db.value(last, (flag,)) == stored


def test_z_takes_back_and_again_after_a_reload(page: Page) -> None:
    press(page, "w34wxu")
    saved(page)
    page.reload()
    opened_set(page, 1)
    flags = page.locator("section[data-letter=B] .flag[aria-pressed=true]")
    expect(flags).to_have_count(2)
    page.keyboard.press("z")
    expect(flags).to_have_count(1)
    press(page, "zz")
    expect(flags).to_have_count(0)
    assert [name for name in checked(page) if name.startswith("B")] == ["B-text-3"]
    expect(focused_strip(page)).to_have_attribute("data-testid", "B-mask")
    page.keyboard.press("z")
    assert [name for name in checked(page) if name.startswith("B")] == []


DIALOGS = {"n": "Comment on this set", "k": "Skip this set: why?", "?": "Help"}


@pytest.mark.parametrize("key", DIALOGS)
def test_dialogs_hold_the_keyboard_and_give_it_back(page: Page, key: str) -> None:
    before = checked(page)
    page.keyboard.press(key)
    dialog = page.get_by_role("dialog", name=DIALOGS[key])
    expect(dialog).to_be_visible()
    inside = (
        "document.activeElement === document.body || document.querySelector('dialog').contains(document.activeElement)"
    )
    for _ in range(8):  # Tab goes round inside (the browser's own buttons between the last and the first)
        page.keyboard.press("Tab")
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.wait_for_function("document.activeElement.closest('.strip')?.dataset.testid === 'A-text'")
    assert checked(page) == before


def test_the_toolbar_is_one_stop_and_arrows_walk_in_it(page: Page) -> None:
    page.get_by_test_id("submit").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("tool-invert")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_test_id("tool-previous")).to_be_focused()
    page.get_by_test_id("tool-invert").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")
    expect(focused_strip(page).locator("input:focus")).to_have_count(1)


BUTTONS: dict[str, Callable[[Page], None]] = {
    "tool-invert": lambda page: expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true"),
    "tool-linked": lambda page: expect(page.get_by_test_id("tool-linked")).to_have_attribute("aria-pressed", "false"),
    "tool-large": lambda page: expect(page.get_by_test_id("image-B")).to_be_hidden(),
    "tool-compare": lambda page: expect(page.get_by_text("comparing A")).to_be_visible(),
    "tool-outline": lambda page: expect(page.get_by_test_id("tool-outline")).to_have_attribute("aria-pressed", "false"),
    "B-artifact": lambda page: expect(page.get_by_test_id("B-artifact")).to_have_attribute("aria-pressed", "true"),
    "tool-undo": lambda page: expect(page.get_by_test_id("B-artifact")).to_have_attribute("aria-pressed", "false"),
}


@pytest.mark.parametrize("name", BUTTONS)
def test_the_buttons_do_the_same_by_mouse(page: Page, name: str) -> None:
    page.get_by_test_id(name).click()
    BUTTONS[name](page)


@pytest.mark.parametrize("name", ["comment", "skip", "help"])
def test_dialogs_by_mouse(page: Page, name: str) -> None:
    page.get_by_test_id(f"tool-{name}").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_wheel_drag_and_double_click_on_an_image(page: Page) -> None:
    box = page.get_by_test_id("image-D").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    expect(readout(page)).not_to_contain_text("100 %  ")
    before = grey(page, "A")
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=3)
    page.mouse.up()
    expect(focused_strip(page)).to_have_attribute("data-testid", "D-text")
    assert grey(page, "A") != before
    page.mouse.down(button="right")
    page.mouse.move(x - 60, y + 40, steps=3)
    page.mouse.up(button="right")
    expect(readout(page)).not_to_contain_text("W 100")
    expect(readout(page)).not_to_contain_text("L 50")
    page.get_by_test_id("tool-reset").click()
    expect(readout(page)).to_have_text(PLAIN_VIEW)
    page.get_by_test_id("image-B").dblclick()
    expect(page.get_by_test_id("image-A")).to_be_hidden()
    page.get_by_test_id("image-B").dblclick()
    expect(page.get_by_test_id("image-A")).to_be_visible()


def test_the_opacity_by_mouse(page: Page) -> None:
    before = grey(page, "A")
    page.get_by_test_id("opacity").click(position={"x": 6, "y": 10})
    expect(page.get_by_test_id("opacity")).not_to_have_value("90")
    assert grey(page, "A") != before
    page.keyboard.press("i")  # the keyboard is back on the row
    expect(page.get_by_test_id("tool-invert")).to_have_attribute("aria-pressed", "true")


def test_enter_submits_and_backspace_goes_back(opened: Desk, page: Page) -> None:
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="missing")).to_be_visible()
    opened_set(page, 1)
    finish_set(page, "TM2I")
    opened_set(page, 2)
    page.keyboard.press("Backspace")
    opened_set(page, 1)
    page.keyboard.press("Backspace")
    expect(page.get_by_role("alert").filter(has_text="first set")).to_be_visible()
    page.get_by_test_id("submit").click()
    opened_set(page, 2)
    page.get_by_test_id("tool-previous").click()
    opened_set(page, 1)
    page.keyboard.press("Enter")
    opened_set(page, 2)
    saved(page)
    assert opened[0].study.db.value("SELECT count(*) FROM presentation_states WHERE state = 'submitted'") == 1
