"""What reaches the eye and the ear: depth of the pixels, sets fetched ahead, contrast, names, no motion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.support.annotate import PASSWORD
from tests.support.browser import (
    DIGITS,
    Room,
    checked,
    drawn,
    finish_set,
    grey,
    measures,
    opened_set,
    press,
    save_state,
    saved,
    wait_for,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MakeRoom = Callable[..., Room]

LEVELS = """canvas => {
    const {width, height} = canvas;
    const data = canvas.getContext('2d').getImageData((width - height) / 2 + 8, height / 2, height - 16, 1).data;
    return new Set(data.filter((_, i) => i % 4 === 0)).size; }"""
"""How many grey levels the middle row of a square image shows."""


@pytest.mark.parametrize("bits", [16, 8])
def test_sixteen_bits_keep_their_depth(make_room: MakeRoom, bits: int) -> None:
    """A ramp inside one 8-bit step: a narrow window shows it from 16-bit pixels, and there is nothing in 8-bit ones."""
    room = make_room(modes=("T2I",), bits=bits)
    ramp = np.tile(32768 + np.arange(32, dtype="<u2") * 8, (32, 1))
    body = ramp.tobytes() if bits == 16 else (ramp >> 8).astype(np.uint8).tobytes()
    context = room.context()
    context.route(
        "**/images/*", lambda route: route.fulfill(body=body, headers={"content-type": "application/octet-stream"})
    )
    page = room.login(context)
    opened_set(page, 1, 1)
    assert drawn(page, "A").evaluate(LEVELS) <= 2
    for _ in range(20):
        page.keyboard.press("Shift+ArrowLeft")
    expect(page.get_by_test_id("readout")).to_contain_text("W 2 ")
    shown = drawn(page, "A").evaluate(LEVELS)
    assert shown > 25 if bits == 16 else shown == 1


def test_the_next_set_is_drawn_without_asking_the_server(make_room: MakeRoom) -> None:
    room = make_room(modes=("T2I", "TM2I", "M2I", "TM2I", "T2I"))
    room.expected += ["ERR_FAILED"]
    context = room.context()
    page = room.page(context)
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/api/sets/" in request.url and request.method == "GET":
            asked.append(request.url.partition("/api/sets/")[2])

    page.on("request", note)
    page.goto(room.url)
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")

    def refuse(route: Route) -> None:
        route.abort() if route.request.method == "GET" else route.continue_()

    for number in range(1, 6):
        mode = opened_set(page, number, 5)
        room.traffic[page].wait_for_sets(min(5, number + 2))
        saved(page)
        press(page, DIGITS[mode])
        before = [grey(page, letter) for letter in "ABCD"]
        if number < 5:
            context.route("**/api/**", refuse)
            page.keyboard.press("Enter")
            opened_set(page, number + 1, 5)
            page.wait_for_function(f"performance.getEntriesByName('next-set').length === {number}")
            after = [grey(page, letter) for letter in "ABCD"]
            assert all(one != other for one, other in zip(before, after, strict=True)), "four new images"
            saved(page)
            context.unroute("**/api/**")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("end")).to_be_visible()
    images = [url for url in asked if "/images/" in url]
    assert len(images) == len(set(images)) == 4 * 5, "every image once"
    assert len([url for url in asked if url.endswith("/mask")]) == 3
    states = [url for url in asked if "/" not in url]
    assert len(set(states)) == 4, "the first came with the order"
    assert len(measures(page, "cold")) == 1
    assert len(measures(page, "ack")) == room.study.db.value("SELECT count(*) FROM score_events")
    wait_for(page, lambda: len(measures(page, "echo")) == room.scores(), "the last score's mark is on the screen")


def test_the_script_starts_before_gradio_has_loaded(room: Room) -> None:
    """The first set is fetched although nothing arrives that Gradio's bundle asks for itself."""
    context = room.context()
    room.login(context).wait_for_url(f"{room.url}read/")
    page = room.page(context)
    named = page.request.get(f"{room.url}read/").text()
    held: list[Route] = []
    late = True

    def hold(route: Route) -> None:
        if late and route.request.url.rpartition("/")[2] not in named:
            held.append(route)
        else:
            route.continue_()

    context.route("**/read/assets/*.js", hold)
    with page.expect_request("**/images/D"):
        page.goto(f"{room.url}read/", wait_until="commit")
    arrived = room.traffic[page].arrived
    wait_for(page, lambda: sum("/images/" in url for url in arrived) == 4, "the images of the first set")
    assert held, "Gradio's bundle has parts that the page does not name"
    late = False
    for route in held:
        route.continue_()
    opened_set(page, 1)
    asked = room.traffic[page].asked
    assert asked.count(f"{room.url}api/next") == 1
    assert asked.count(f"{room.url}static/scoring.js") == 1


CONTRAST = """() => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = one => {
        for (let at = one; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const one of document.querySelectorAll('.radpref-root *, dialog *')) {
        const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        const box = one.getBoundingClientRect();
        if (!own || !box.width || !box.height || one.closest('.toast:not(.shown)')) continue;
        const [a, b] = [luminance(parse(getComputedStyle(one).color)), luminance(ground(one))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        found.push([ratio, `${one.className || one.tagName}: ${one.textContent.slice(0, 30)}`]);
    }
    return found;
}"""


def test_texts_stand_out_from_their_ground(room: Room) -> None:
    room.expected += ["ERR_INTERNET_DISCONNECTED"]
    context = room.context()
    page = room.login(context)
    for number in (1, 2, 3):
        mode = opened_set(page, number)
        press(page, DIGITS[mode][:2] + "xz")
        check_contrast(page, 25)
        if number == 1:
            for key in "?nk":
                page.keyboard.press(key)
                expect(page.get_by_role("dialog")).to_be_visible()
                check_contrast(page, 25)
                page.keyboard.press("Escape")
            context.set_offline(True)
            page.keyboard.press("5")
            expect(page.get_by_test_id("save-state")).to_contain_text("Offline")
            check_contrast(page, 25)
            context.set_offline(False)
            saved(page)
            page.reload()
            opened_set(page, 1)
        for row in page.get_by_role("radiogroup").all():
            row.get_by_test_id(f"{row.get_attribute('data-testid')}-3").check(force=True)
        page.keyboard.press("Enter")
    expect(page.get_by_test_id("end")).to_be_visible()
    check_contrast(page, 3)


def check_contrast(page: Page, at_least: int) -> None:
    found = page.evaluate(CONTRAST)
    assert len(found) >= at_least
    assert [(round(ratio, 2), what) for ratio, what in found if ratio < 4.5] == []


def test_names_roles_and_live_regions(make_room: MakeRoom) -> None:
    room = make_room(modes=("TM2I", "TM2I"))
    page = room.login()
    opened_set(page, 1, 2)
    for letter in "ABCD":
        for name in ("Text", "Mask"):
            group = page.get_by_role("radiogroup", name=f"Image {letter}: {name}", exact=True)
            expect(group.get_by_role("radio")).to_have_count(6)
            names = group.get_by_role("radio").evaluate_all("all => all.map(one => one.name)")
            assert len(set(names)) == 1, "one group of radio buttons"
        expect(page.get_by_role("img", name=f"Image {letter}", exact=True)).to_be_visible()
    expect(page.get_by_role("radio", name="5: clearly normal").first).to_be_attached()
    expect(save_state(page)).to_have_attribute("aria-live", "polite")
    expect(page.get_by_test_id("spoken")).to_have_text("Set 1 / 2. Text and mask. Normal. Mask of lungs, heart.")
    expect(page.get_by_role("toolbar", name="Viewer and set")).to_be_visible()
    unnamed = page.locator("button:visible, input:visible").evaluate_all(
        "all => all.filter(one => !(one.textContent.trim() || one.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0
    mark = "one => { const s = getComputedStyle(one); return s.borderColor + s.backgroundColor; }"
    focused, other = page.get_by_test_id("A-text"), page.get_by_test_id("B-text")
    assert focused.evaluate(mark) != other.evaluate(mark), "the focused row is marked"
    page.get_by_test_id("submit").focus()
    page.keyboard.press("ArrowLeft")
    outline = page.locator("button:focus").evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("q")
    page.keyboard.press("4")
    chosen = page.get_by_test_id("A-text-4").locator("xpath=following-sibling::span")
    assert "underline" in chosen.evaluate("one => getComputedStyle(one).textDecorationLine"), "not by colour alone"


def test_who_wants_no_motion_compares_by_key(room: Room) -> None:
    context = room.context(reduced_motion="reduce")
    context.clock.install()
    page = room.login(context)
    opened_set(page, 1)
    tag = page.locator("section[data-letter=A] .letter")
    page.keyboard.press("c")
    expect(tag).to_have_text("B")
    context.clock.run_for(1100)  # longer than two turns of the flicker
    expect(tag).to_have_text("B")
    page.keyboard.press("c")
    expect(tag).to_have_text("A")
    moving = page.locator(".radpref-root *").evaluate_all(
        "all => all.filter(one => { const s = getComputedStyle(one);"
        " return s.animationName !== 'none' || parseFloat(s.transitionDuration) > 0; }).length"
    )
    assert moving == 0
    assert checked(page) == []


def test_every_row_fits_with_feedback_and_ties_on_a_small_screen(make_room: MakeRoom) -> None:
    room = make_room(
        modes=("TM2I", "TM2I"), toml="[annotate]\ntie_break = true\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n"
    )
    page = room.login(room.context(viewport={"width": 1024, "height": 768}))
    opened_set(page, 1, 2)
    press(page, "33333333")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("tie")).to_be_visible()
    outside = page.locator("button:visible, input:visible").evaluate_all(
        "all => all.filter(one => { const b = one.getBoundingClientRect();"
        " return b.right > innerWidth + 1 || b.bottom > innerHeight + 1 || b.left < -1; }).length"
    )
    assert outside == 0
    check_contrast(page, 20)
    page.keyboard.press("Enter")
    finish_set(page, opened_set(page, 2, 2))
