"""The study office's dashboard: who may read it, what it never tells, and its page in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from radpref.annotate_app import dashboard
from radpref.annotate_app.guard import RULES
from radpref.annotate_app.server import STATIC, create_app
from radpref.data.agreement.rater_quality import QualityReport
from radpref.data.reader_study.lifecycle import freeze, lock
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_event
from radpref.data.study.audit import audit
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, PLAIN, add_people, add_sets, make_study, password_hash
from tests.support.browser import Room, wait_for
from tests.support.quality import Habit, add_expectations, fill_study

Login = Callable[[str | None], TestClient]
WICKED = "<img src=x onerror=alert(1)> ${alert(2)} {{7*7}}"
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://(?!www\.w3\.org/2000/svg)"
)
HABITS = [Habit("ann", leniency=0.6), Habit("bob", drift=-1.5, fast=0.4), Habit("sim-1", kind="simulated")]


def scored_study(root: Path) -> Study:
    """Three raters on 48 sets of two arms, with attention checks and repeats; carol was invited and never came."""
    study = make_study(root, ("T2I",) * 24 + ("TM2I",) * 12)
    add_sets(study, ("T2I",) * 12, seed=1)
    with study.db.write() as connection:
        connection.execute("UPDATE image_sets SET purpose = 'comparison' WHERE run_id = 'secret-run-1'")
        connection.execute(
            "UPDATE set_images SET arm = 'aligned' WHERE slot > 1"
            " AND set_id IN (SELECT set_id FROM image_sets WHERE purpose = 'comparison')"
        )
    add_expectations(study, ["set-0-0", "set-0-1"], "attention")
    ids = add_people(study)
    add_rater(study.db, "carol", None, "human", "rater")
    fill_study(study, HABITS, ids, n_repeats=6, seed=2)
    return study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    made = scored_study(tmp_path)
    yield made
    made.db.close()


@pytest.fixture
def login(study: Study) -> Iterator[Login]:
    clients: list[TestClient] = []
    app = create_app(study)

    def opened(name: str | None) -> TestClient:
        client = TestClient(app, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        if name:
            assert client.post("/login", json={"username": name, "password": PASSWORD}).status_code == 200
        return client

    yield opened
    for client in clients:
        client.__exit__(None, None, None)


def admin_pages() -> list[str]:
    """Every GET route under /api/admin on the allow-list."""
    found = [rule.path for rule in RULES if rule.method == "GET" and rule.path.startswith("/api/admin/")]
    assert all(re.fullmatch(r"[a-z/]+", path) for path in found), "a route with a parameter: test it by itself"
    return found


def test_quality_is_for_the_study_office_only(login: Login) -> None:
    for name, status in ((None, 401), ("ann", 403), ("bob", 403), ("office", 200)):
        assert login(name).get("/api/admin/quality").status_code == status
    found = login("office").get("/api/admin/quality").json()
    assert set(found["by_kind"]) == {"human", "simulated"}
    assert [rater["username"] for rater in found["by_kind"]["human"]["raters"]] == ["ann", "bob", "carol"]
    assert {flag["username"] for flag in found["by_kind"]["human"]["flags"]} >= {"bob"}
    agreement = login("office").get("/api/admin/agreement").json()
    assert "T2I" in agreement["by_kind"]["human"]["modes"]
    assert "kendall_tau" in agreement["by_kind"]["human"]["criteria"]["text"]["measures"]


def test_no_arm_in_any_answer_before_the_freeze(login: Login, study: Study) -> None:
    with study.db.write() as connection:
        audit(
            connection, "office", "sets sampled", {"arms": "baseline, aligned", "n": 12, "nested": {"arm": "aligned"}}
        )
    office = login("office")
    texts = {path: office.get(path).text for path in admin_pages()}
    assert set(texts) >= {"/api/admin/overview", "/api/admin/agreement", "/api/admin/quality", "/api/admin/study"}
    secret = re.compile(r"baseline|aligned|7711\d\d|secret-run|set-\d-|condition-\d|sha256|[0-9a-f]{64}")
    for path, text in texts.items():
        assert not secret.search(text), (path, secret.search(text))
    hidden = [line for line in json.loads(texts["/api/admin/quality"])["audit"] if line["action"] == "sets sampled"]
    assert [line["detail"] for line in hidden] == ["(hidden until the freeze); n: 12"]
    lock(study, "office", keep_scores=True)
    assert "(hidden until the freeze)" in office.get("/api/admin/quality").text
    freeze(study, "office")
    assert "arms: baseline, aligned; n: 12" in office.get("/api/admin/quality").text
    for path in admin_pages():
        assert not secret.search(office.get(path).text.replace("baseline, aligned", "")), path


def test_figures_are_kept_between_refreshes(study: Study) -> None:
    clock, calls = [100.0], []

    def compute(of: Study) -> dict[str, Any]:
        calls.append(of)
        clock[0] += 2.0  # a computation takes two seconds
        return {"n": len(calls)}

    kept = dashboard.CachedFigures(study, compute, lambda: clock[0])
    assert [kept.get()["n"] for _ in range(5)] == [1] * 5
    clock[0] += 1000
    assert kept.get()["n"] == 1, "nothing has changed"
    shown = study.db.row("SELECT presentation_id, rater_id FROM presentations JOIN raters USING (rater_id) LIMIT 1")
    assert shown
    add = "00000000-0000-4000-8000-00000000000{}".format

    def comment(number: int) -> None:
        event = ScoreEvent(add(number), shown["presentation_id"], shown["rater_id"], "comment", comment="x")
        record_event(study.db, event)

    comment(1)
    assert kept.get()["n"] == 2
    comment(2)
    clock[0] += 39.0
    assert kept.get()["n"] == 2, "two seconds of work are not spent again within forty"
    clock[0] += 2.0
    assert kept.get()["n"] == 3
    comment(3)
    study.db.connection.execute("UPDATE raters SET active = 0 WHERE username = 'bob'")
    assert kept.get()["n"] == 4, "what the study office does shows at once"


def test_several_dashboards_cost_as_much_as_one(login: Login, monkeypatch: pytest.MonkeyPatch, study: Study) -> None:
    calls, nobody = [], QualityReport({}, too_fast_s=1.5, n_boot=0, by_kind={})
    monkeypatch.setattr(dashboard, "study_quality", lambda *_, **__: calls.append(1) or nobody)
    with TestClient(create_app(study)) as client:
        client.post("/login", json={"username": "office", "password": PASSWORD})
        for _ in range(20):
            assert client.get("/api/admin/quality").status_code == 200
    assert len(calls) == 1


def test_remarks_and_audit_are_short_and_newest_first(study: Study) -> None:
    shown = study.db.row("SELECT presentation_id, rater_id FROM presentations WHERE rater_id = 1 LIMIT 1")
    assert shown
    event = ScoreEvent("00000000-0000-4000-8000-000000000009", shown["presentation_id"], 1, "comment", comment=WICKED)
    record_event(study.db, ScoreEvent(event.uuid[:-1] + "8", event.presentation_id, 1, "skip", comment="unclear"))
    record_event(study.db, event)
    found = dashboard.remarks(study)
    assert (found[0]["comment"], found[0]["username"], found[0]["kind"]) == (WICKED, "ann", "comment")
    assert {one["kind"] for one in found} == {"comment", "skip"}
    assert {one["rater_kind"] for one in found} <= {"human", "simulated"}
    with study.db.write() as connection:
        audit(connection, "office", "long", {"text": "y" * 500, "seal": {"a": 1}, "sets_sha256": "0" * 64})
    assert dashboard.audit_tail(study)[0]["detail"] == "text: " + "y" * 80


def test_a_name_can_hold_no_markup(login: Login) -> None:
    office = login("office")
    for name in (WICKED, "<b>x</b>", "a b", "=cmd", ""):
        answer = office.post("/api/admin/raters", json={"action": "invite", "name": name})
        assert answer.status_code == 422, name
        assert "<" not in answer.json()["error"] or answer.headers["content-type"].startswith("application/json")


def test_the_scripts_make_no_markup_from_texts() -> None:
    scripts = sorted(STATIC.glob("admin*.js")) + sorted(STATIC.glob("plots*.js"))
    assert len(scripts) == 4
    for path in scripts:
        assert not MARKUP.search(path.read_text(encoding="utf-8")), path.name


# --- the page ----------------------------------------------------------------------------------------------------

PLOTS = [
    "progress", "pace", "agreement-icc_2_1", "agreement-alpha_ordinal", "agreement-kappa_quadratic",
    "agreement-kendall_tau", "agreement-preference_agreement", "agreement-icc_2_k", "coverage", "leniency",
    "histograms", "position", "repeats", "repeats-shares", "attention", "drift", "too-fast", "straight-line",
]  # fmt: skip


@pytest.fixture
def room(study: Study, browser: Browser) -> Iterator[Room]:
    opened = Room(study, browser)
    yield opened
    opened.close()


def opened_dashboard(room: Room, **options: Any) -> Page:
    page = room.login(room.context(**options), "office")
    ready(page)
    return page


def refreshed(page: Page) -> AbstractContextManager[object]:
    """Wait at the block's end until the page has the last of its figures: till then buttons may be drawn anew."""
    return page.expect_response("**/api/admin/agreement")


def ready(page: Page) -> None:
    expect(page.get_by_test_id("updated")).to_contain_text("Updated")


@pytest.mark.browser
@pytest.mark.slow
def test_every_plot_has_a_title_axes_and_a_text(room: Room) -> None:
    page = opened_dashboard(room)
    for name in PLOTS:
        plot = page.get_by_test_id(f"plot-{name}")
        expect(plot).to_be_visible()
        assert plot.locator("figcaption strong").inner_text(), name
        assert plot.locator("figcaption span").inner_text().startswith("Good: "), name
        drawings = plot.get_by_role("img")
        assert drawings.count() >= 1, name
        label = drawings.first.get_attribute("aria-label") or ""
        assert re.search(r"\d", label), (name, label)
        assert "undefined" not in label + plot.inner_text(), name
        assert "NaN" not in plot.evaluate("one => one.outerHTML"), name
        assert plot.locator("svg .axis").count() >= 1, name
        assert plot.locator("details table tbody tr").count() >= 1, name
    leniency = page.get_by_test_id("plot-leniency").get_by_role("img").get_attribute("aria-label") or ""
    quality = dashboard.quality(room.study)["by_kind"]["human"]["raters"][0]
    assert f"ann: {quality['leniency']['value']:.2f} (" in leniency, "what is drawn is what was computed"
    assert "carol: n too small: 0 sets shared with another rater, needs 10" in leniency
    text = page.locator(".radpref-root").inner_text()
    assert not re.search(r"\b(baseline|aligned)\b", text)
    for stage in ("Draft", "Pilot", "Locked", "Frozen"):
        expect(page.get_by_role("listitem").filter(has_text=stage)).to_be_visible()
    expect(page.locator("li[aria-current=step]")).to_have_text("Pilot")
    expect(page.get_by_test_id("may")).to_contain_text("radpref study lock")
    expect(page.get_by_test_id("flags")).to_contain_text("Too fast")


@pytest.mark.browser
@pytest.mark.slow
def test_an_overlap_design_has_an_icc_and_says_from_what(tmp_path: Path, browser: Browser) -> None:
    study = make_study(tmp_path, ("T2I",) * 48)
    ids = add_people(study)
    ids["carol"] = add_rater(study.db, "carol", None, "human", "rater").rater_id
    fill_study(study, [Habit(name, done=0.5) for name in ("ann", "bob", "carol")], ids, seed=2)
    found = dashboard.agreement(study)["by_kind"]["human"]["criteria"]["text"]
    assert found["icc_basis"] == "incomplete"
    room = Room(study, browser)
    try:
        plot = opened_dashboard(room).get_by_test_id("plot-agreement-icc_2_1")
        expect(plot.locator("figcaption")).to_contain_text("Not every rater scored every image")
        label = plot.get_by_role("img").get_attribute("aria-label") or ""
        assert f"{found['measures']['icc_2_1']['value']:.2f} (" in label
    finally:
        room.close()
        study.db.close()


@pytest.mark.browser
@pytest.mark.slow
def test_people_and_simulated_raters_are_never_in_one_plot(room: Room) -> None:
    page = opened_dashboard(room)
    plots = page.locator("figure")
    assert "sim-1" not in " ".join(plots.all_inner_texts())
    expect(page.get_by_role("note")).to_have_count(0)
    page.get_by_role("button", name="Simulated raters").click()
    expect(page.get_by_role("note")).to_have_text(
        "Simulated raters: these scores were given by programs, not by people."
    )
    shown = " ".join(plots.all_inner_texts())
    assert "sim-1" in shown
    assert not re.search(r"\b(ann|bob|carol)\b", shown)
    assert page.locator("figure svg circle.mark").count() == 0, "simulated raters have marks of their own"
    page.get_by_role("button", name="People").click()
    expect(page.get_by_test_id("plot-leniency")).to_contain_text("ann")


@pytest.mark.browser
@pytest.mark.slow
def test_texts_are_texts(room: Room) -> None:
    with room.study.db.write() as connection:
        connection.execute("UPDATE conditions SET text = ? WHERE text IS NOT NULL", (WICKED,))
        connection.execute("UPDATE raters SET username = ? WHERE username = 'ann'", (WICKED,))
        audit(connection, WICKED, WICKED, {WICKED: WICKED})
    shown = room.study.db.row("SELECT presentation_id FROM presentations WHERE rater_id = 1 LIMIT 1")
    assert shown
    event = ScoreEvent("00000000-0000-4000-8000-000000000009", shown["presentation_id"], 1, "comment", comment=WICKED)
    record_event(room.study.db, event)
    page = opened_dashboard(room)
    first = page.get_by_test_id("remarks").locator("tbody tr").first
    expect(first.locator("td").nth(1)).to_have_text(WICKED)
    expect(first.locator("td").nth(4)).to_have_text(WICKED)
    expect(first.locator("td").nth(5)).to_have_text(WICKED)
    expect(page.get_by_test_id("audit").get_by_text(WICKED).first).to_be_visible()
    assert page.locator(".radpref-root img").count() == 0
    page.get_by_role("button", name=f"Retire {WICKED}").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Retire {WICKED}?")
    assert page.locator("dialog img").count() == 0


@pytest.mark.browser
@pytest.mark.slow
def test_it_refreshes_by_itself_and_keeps_the_place(room: Room) -> None:
    context = room.context()
    context.clock.install()
    hidden = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true })"
    context.add_init_script(hidden % "true")  # so nothing but its own opening fetches anything
    page = room.login(context, "office")
    ready(page)
    page.get_by_test_id("plot-leniency").get_by_text("Numbers").click()
    root = page.locator(".radpref-root")
    root.evaluate("one => { one.scrollTop = 1500; }")
    before = page.get_by_test_id("plot-progress").inner_text()
    with room.study.db.write() as connection:
        connection.execute("UPDATE raters SET active = 0 WHERE username = 'bob'")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_test_id("updated")).to_have_text("Paused: this window is hidden.")
    context.clock.run_for(120_000)
    assert requests == [], "a hidden window asks for nothing"
    page.evaluate(hidden % "false")
    context.clock.run_for(31_000)
    expect(page.get_by_test_id("raters")).to_contain_text("retired")
    ready(page)
    assert root.evaluate("one => one.scrollTop") == 1500
    assert page.get_by_test_id("plot-leniency").locator("details").get_attribute("open") is not None
    assert page.get_by_test_id("plot-progress").inner_text() == before
    room.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "Failed to fetch"]
    context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("alert").filter(has_text="Not refreshed at")).to_contain_text("What you see is from")
    expect(page.get_by_test_id("plot-progress")).to_be_visible()
    context.set_offline(False)


@pytest.mark.browser
@pytest.mark.slow
def test_raters_are_invited_reset_retired_and_reinstated(room: Room) -> None:
    page = opened_dashboard(room)
    page.get_by_role("button", name="Invite somebody").click()
    name = page.get_by_label("Name", exact=False)
    name.fill("dora")
    expect(name).to_have_css("background-color", "rgb(11, 13, 16)")  # light text: Gradio's own white would hide it
    with refreshed(page):
        page.get_by_role("button", name="Make the link").click()
    dialog = page.get_by_role("dialog")
    link = dialog.get_by_label("One-time link").input_value()
    assert re.fullmatch(re.escape(room.url) + r"invite#[A-Za-z0-9_-]{43}", link)
    dialog.get_by_role("button", name="Copy link").click()
    expect(dialog.get_by_role("status")).to_contain_text(re.compile("Copied|Ctrl"))
    dialog.get_by_role("button", name="Done").click()
    row = page.get_by_test_id("raters").get_by_role("row").filter(has_text="dora")
    expect(row).to_contain_text("no password yet")
    wait_for(page, lambda: link not in page.content(), "the link is shown once")
    for button, confirm, state in (("Retire", "Retire", "retired"), ("Reinstate", "Reinstate", "no password yet")):
        row.get_by_role("button", name=button).click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Cancel").click()
        row.get_by_role("button", name=button).click()
        with refreshed(page):
            dialog.get_by_role("button", name=confirm, exact=True).click()
        expect(row).to_contain_text(state)
    bob = page.get_by_test_id("raters").get_by_role("row").filter(has_text="bob")
    order = room.study.db.rows("SELECT * FROM presentations ORDER BY presentation_id")
    bob.get_by_role("button", name="Reset").click()
    with refreshed(page):
        dialog.get_by_role("button", name="Reset password").click()
    expect(dialog.get_by_label("One-time link")).to_be_visible()
    page.keyboard.press("Escape")
    expect(bob).to_contain_text("no password yet")
    assert room.study.db.rows("SELECT * FROM presentations ORDER BY presentation_id") == order
    expect(page.get_by_test_id("audit")).to_contain_text("password reset")
    room.expected += ["409", "422"]
    page.get_by_role("button", name="Invite somebody").click()
    page.get_by_label("Name", exact=False).fill("no blanks")
    page.get_by_role("button", name="Make the link").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not usable")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1024, 1440])
def test_it_fits_the_window_and_the_paper(room: Room, width: int) -> None:
    page = opened_dashboard(room, viewport={"width": width, "height": 900})
    root = page.locator(".radpref-root")
    assert root.evaluate("one => one.scrollWidth <= one.clientWidth")
    sizes = page.locator("figure svg text").evaluate_all(
        "all => all.map(one => parseFloat(getComputedStyle(one).fontSize)"
        " * one.ownerSVGElement.getBoundingClientRect().width / one.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(sizes) >= 9.5, "letters on the screen, pixels"
    outside = page.locator("figure svg text").evaluate_all(
        """all => all.filter(one => {
            const t = one.getBoundingClientRect(), b = one.ownerSVGElement.getBoundingClientRect();
            return t.left < b.left - 1 || t.right > b.right + 1 || t.bottom > b.bottom + 2 || t.top < b.top - 2;
        }).map(one => one.textContent)"""
    )
    assert outside == []
    page.emulate_media(media="print")
    assert root.evaluate("one => getComputedStyle(one).position") == "static"
    assert root.evaluate("one => getComputedStyle(one).backgroundColor") == "rgb(255, 255, 255)"
    expect(page.get_by_role("button", name="Refresh")).to_be_hidden()
    expect(page.get_by_test_id("plot-leniency")).to_be_visible()


@pytest.mark.browser
@pytest.mark.slow
def test_a_study_in_which_nobody_has_scored(browser: Browser, tmp_path: Path) -> None:
    study = make_study(tmp_path / "other")
    add_rater(study.db, "office", password_hash(), "human", "admin")
    add_rater(study.db, "ann", password_hash(), "human", "rater")
    room = Room(study, browser)
    page = opened_dashboard(room)
    expect(page.locator("li[aria-current=step]")).to_have_text("Draft")
    expect(page.get_by_test_id("agreement")).to_contain_text("No scores yet")
    expect(page.get_by_test_id("plot-progress")).to_contain_text("not started")
    expect(page.get_by_test_id("plot-leniency")).to_contain_text("n too small")
    expect(page.get_by_test_id("flags")).to_contain_text("No flags")
    text = page.locator(".radpref-root").inner_text()
    assert not re.search(r"NaN|undefined|null", text)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Reading room")).to_be_visible()
    room.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_office_lets_a_rater_past_the_gate(browser: Browser, tmp_path: Path) -> None:
    study = make_study(tmp_path / "gated", ("T2I",) * 6, toml=PLAIN + "gate = 0.9\n")
    ids = add_people(study)
    add_expectations(study, ["set-0-0", "set-0-1"], "training")
    fill_study(study, [Habit("ann", careless=1.0)], ids)
    room = Room(study, browser)
    page = opened_dashboard(room)
    row = page.get_by_test_id("raters").get_by_role("row").filter(has_text="ann")
    expect(row).to_contain_text("in training")
    expect(page.get_by_test_id("plot-training")).to_contain_text("0 of 8 answers, 2 sets")
    row.get_by_role("button", name="Let in").click()
    page.get_by_role("dialog").get_by_role("button", name="Let in", exact=True).click()
    expect(row).not_to_contain_text("in training")
    expect(row.get_by_role("button", name="Let in")).to_have_count(0)
    assert study.db.value("SELECT actor FROM admissions WHERE rater_id = ?", (ids["ann"],)) == "office"
    room.close()
