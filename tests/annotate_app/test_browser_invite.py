"""The page behind an invitation, in a real Chromium: rules, mistakes, a used link, an outage."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from radpref.annotate_app import invites
from radpref.annotate_app.accounts import check_password
from tests.support.browser import Room

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GOOD = "seven quiet lighthouses"


def opened(room: Room, token: str) -> Page:
    page = room.page(room.context())
    page.goto(f"{room.url}invite#{token}")
    return page


def fill(page: Page, password: str, again: str | None = None) -> None:
    page.get_by_label("New password").fill(password)
    page.get_by_label("Repeat the password").fill(password if again is None else again)
    page.keyboard.press("Enter")


def kept(page: Page) -> list[str]:
    found = page.locator("#rules li.kept").evaluate_all("all => all.map(one => one.dataset.rule)")
    return [str(name) for name in found]


def test_a_person_sets_a_password_and_is_in_the_reading_room(room: Room) -> None:
    token = invites.invite(room.study.db, "carla")
    requests: list[str] = []
    page = room.page(room.context())
    page.on("request", lambda request: requests.append(f"{request.url} {request.headers.get('referer', '')}"))
    page.goto(f"{room.url}invite#{token}")
    expect(page.get_by_role("status")).to_contain_text("this link works once")
    expect(page.get_by_label("Name", exact=True)).to_have_value("carla")
    expect(page.get_by_label("New password")).to_be_focused()
    assert kept(page) == []
    fill(page, "carla and more")
    assert kept(page) == ["length", "different", "same"]
    expect(page.get_by_role("alert")).to_contain_text("does not keep every rule")
    fill(page, GOOD, "another thing")
    assert kept(page) == ["length", "different", "name"]
    assert invites.find(room.study.db, token).username == "carla"
    fill(page, GOOD)
    page.wait_for_url(f"{room.url}read/")
    assert check_password(room.study.db, "carla", GOOD) is not None
    # The token was in the address all the while, and in no request line and no Referer of it.
    sent = [line for line in requests if token in line.split("#")[0] or token in line.partition(" ")[2]]
    assert sent == []
    page.go_back()
    assert "#" not in page.url or token not in page.content()


def test_rules_and_server_agree(room: Room) -> None:
    """What the page lets pass the server takes, and what it marks the server refuses."""
    token = invites.invite(room.study.db, "carla")
    page = opened(room, token)
    expect(page.get_by_label("New password")).to_be_visible()
    for password, accepted in (
        ("aaaabbbbcccc", False),
        ("sevench", False),
        ("Carla1234567", False),
        ("eightch8", True),
    ):
        page.get_by_label("New password").fill(password)
        page.get_by_label("Repeat the password").fill(password)
        assert (len(kept(page)) == 4) == accepted, password
        answer = page.request.post(f"{room.url}invite", data={"token": token, "password": password})
        assert answer.ok == accepted, password


def test_a_used_an_empty_and_a_replaced_link_say_what_to_do(room: Room) -> None:
    room.expected.append("404")  # the browser notes the refused request on its console
    first = invites.invite(room.study.db, "carla")
    invites.invite(room.study.db, "carla")
    page = opened(room, first)
    expect(page.get_by_role("status")).to_contain_text("ask the study office")
    expect(page.get_by_label("New password")).to_be_hidden()
    page.goto("about:blank")
    page.goto(f"{room.url}invite")
    expect(page.get_by_role("status")).to_contain_text("Open the whole link")
    page.get_by_role("link", name="Log in with a password").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_an_outage_loses_nothing(room: Room) -> None:
    room.expected.append("ERR_")
    token = invites.invite(room.study.db, "carla")
    page = opened(room, token)
    expect(page.get_by_label("New password")).to_be_visible()
    page.context.set_offline(True)
    fill(page, GOOD)
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Set password and log in").click()
    page.wait_for_url(f"{room.url}read/")


def test_it_fits_a_telephone(room: Room) -> None:
    token = invites.invite(room.study.db, "carla")
    page = opened(room, token)
    page.set_viewport_size({"width": 360, "height": 740})
    expect(page.get_by_label("New password")).to_be_visible()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
