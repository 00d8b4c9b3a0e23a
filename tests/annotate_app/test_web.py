"""Every own route, as anonymous, rater, other rater and admin; bad input; a full disk and a locked database."""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from radpref.annotate_app import admin, scoring
from radpref.annotate_app.accounts import Sessions
from radpref.annotate_app.guard import RULES, find_rule
from radpref.annotate_app.server import create_app
from radpref.data.core.errors import StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.raters import get_rater
from radpref.data.study.db import translate
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_people, add_sets, make_study

Login = Callable[[str | None], TestClient]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path)
    add_people(opened)
    yield opened
    opened.db.close()


@pytest.fixture
def login(study: Study) -> Iterator[Login]:
    app = create_app(study)
    clients: list[TestClient] = []

    def enter(name: str | None) -> TestClient:
        client = TestClient(app, follow_redirects=False, raise_server_exceptions=False)
        if name:
            answer = client.post("/login", json={"username": name, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
        clients.append(client)
        return client

    with TestClient(app):
        yield enter
    for client in clients:
        client.close()


def current(client: TestClient, mode: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/next").json()["set"]
    while mode and found["mode"] != mode:
        found = client.get(f"/api/sets/{found['next']}").json()
    return found


def post(client: TestClient, token: str, **fields: Any) -> Any:
    body = {"uuid": str(uuid.uuid4()), "seen": 0, "tab": "one", "kind": "score", "letter": "A", **fields}
    return client.post(f"/api/sets/{token}/events", json=body)


def score_all(client: TestClient, state: dict[str, Any], value: int = 3) -> None:
    for letter in "ABCD":
        for criterion in state["criteria"]:
            assert post(client, state["token"], letter=letter, criterion=criterion, value=value).status_code == 200


def test_who_may_do_what(login: Login, study: Study) -> None:
    ann, bob, office, nobody = login("ann"), login("bob"), login("office"), login(None)
    token = current(ann)["token"]
    (study.reports / "2026-a").mkdir(parents=True)
    (study.reports / "2026-a" / "index.html").write_text("<p>report</p>")
    (study.reports / "2026-a" / "table.csv").write_text("a,b\n")
    expected = {  # anonymous, rater, other rater, admin
        "/": (303, 303, 303, 303),
        "/login": (200, 200, 200, 200),
        "/api/session": (401, 200, 200, 200),
        "/api/next": (401, 200, 200, 403),
        f"/api/sets/{token}": (401, 200, 404, 403),
        f"/api/sets/{token}/images/A": (401, 200, 404, 403),
        f"/api/sets/{token}/mask": (401, (200, 404), 404, 403),
        "/api/admin/overview": (401, 403, 403, 200),
        "/api/admin/agreement": (401, 403, 403, 200),
        "/report": (303, 303, 303, 307),
        "/report/": (303, 303, 303, 200),
        "/report/table.csv": (303, 303, 303, 200),
        "/read/": (303, 200, 200, 303),
        "/admin/": (303, 303, 303, 200),
        "/read/theme.css": (401, 200, 200, 403),
        "/admin/theme.css": (401, 403, 403, 200),
        "/static/scoring.js": (200, 200, 200, 200),
        "/manifest.json": (200, 200, 200, 200),
        "/favicon.ico": (204, 204, 204, 204),
        "/robots.txt": (200, 200, 200, 200),
    }
    for path, statuses in expected.items():
        for client, wanted in zip((nobody, ann, bob, office), statuses, strict=True):
            found = client.get(path).status_code
            assert found in (wanted if isinstance(wanted, tuple) else (wanted,)), (path, found, wanted)
    body = {"uuid": str(uuid.uuid4()), "seen": 0, "tab": "one", "kind": "comment", "comment": "x"}
    for client, wanted in ((nobody, 401), (bob, 404), (office, 403), (ann, 200)):
        assert client.post(f"/api/sets/{token}/events", json=body).status_code == wanted


def test_own_routes_and_the_allow_list_are_the_same(login: Login) -> None:
    own = login(None).app.routes  # type: ignore[attr-defined]
    for route in own:
        if not getattr(route, "methods", None):
            continue
        path = route.path.replace("{token}", "t" * 24).replace("{letter}", "A")
        path = path.replace("/static/{name}", "/static/x.js").replace("{name}", "x.csv")
        for method in route.methods - {"HEAD"}:
            assert find_rule(method, path), f"{method} {route.path} is not on the allow-list"


@pytest.mark.parametrize("mount", ["read", "admin"])
def test_no_gradio_route_but_the_pages_parts(login: Login, mount: str) -> None:
    client = login("ann" if mount == "read" else "office")
    rest = [
        "gradio_api/upload",
        "gradio_api/queue/join",
        "gradio_api/queue/data",
        "gradio_api/info",
        "gradio_api/run/predict",
        "gradio_api/call/x",
        "gradio_api/deep_link",
        "gradio_api/heartbeat/x",
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=../study.db",
        "file=/etc/passwd",
        "gradio_api/proxy=http://example.org",
        "monitoring",
        "monitoring/summary",
        "config",
        "config/",
        "login",
        "token",
        "gradio_api/token",
        "gradio_api/openapi.json",
        "docs",
        "openapi.json",
        "gradio_api/runs",
        "gradio_api/run-history/records",
        "gradio_api/vibe-edit/",
        "static/../../../study.db",
        "assets/../index.html",
        "assets/%2e%2e/%2e%2e/config",
        "gradio_api/reset",
        "gradio_api/cancel",
        "gradio_api/startup-events",
        "svelte/x",
        "custom_component/x",
        "manifest.json",
        "pwa_icon",
        "robots.txt",
        "gradio_api/dev/reload",
    ]
    for path in rest:
        for method in ("GET", "POST", "PUT", "DELETE"):
            assert client.request(method, f"/{mount}/{path}").status_code == 404, (method, path)


def test_every_gradio_route_is_refused_or_known(login: Login) -> None:
    """A Gradio release that adds a route fails here only if the guard would let it in."""
    client = login("ann")
    mounted = next(route for route in client.app.routes if getattr(route, "path", "") == "/read")  # type: ignore[attr-defined]
    let_in = set()
    for route in mounted.app.routes:
        path = "/read" + getattr(route, "path", "").replace("{path:path}", "x.js")
        let_in |= {route.path for method in getattr(route, "methods", None) or () if find_rule(method, path)}
    assert let_in == {"/", "/assets/{path:path}", "/theme.css"}


def test_traversal_and_strange_paths(login: Login) -> None:
    client = login("office")
    for path in (
        "/static/..%2fserver.py",
        "/static/login.html",
        "/static/%2e%2e/server.py",
        "/report/../study.db",
        "/report/..%2fstudy.toml",
        "/report/.x.csv",
        "/api/sets/x",
        "/api/sets/%00",
        "/api",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/read//config",
        "/READ/",
        "/study.db",
    ):
        assert client.get(path).status_code == 404, path


def test_report_is_not_found_before_there_is_one(login: Login) -> None:
    answer = login("office").get("/report/")
    assert answer.status_code == 404
    assert "no report yet" in answer.json()["error"]


def test_score_a_set_and_resume_at_the_next(login: Login) -> None:
    client = login("ann")
    for _ in range(3):
        state = current(client)
        assert all(value is None for scores in state["scores"].values() for value in scores.values())
        assert post(client, state["token"], kind="submit", letter=None).status_code == 409
        score_all(client, state, 0)
        again = client.get(f"/api/sets/{state['token']}").json()
        assert all(value == 0 for scores in again["scores"].values() for value in scores.values())
        assert current(client)["token"] == state["token"], "not done before it is submitted"
        answer = post(client, state["token"], kind="submit", letter=None, seen=again["version"])
        assert answer.json()["n_done"] == state["n_done"] + 1
    done = client.get("/api/next").json()
    assert (done["set"], done["total"], done["n_done"]) == (None, 3, 3)


def test_an_undone_score_reopens_a_submitted_set(login: Login) -> None:
    client = login("ann")
    state = current(client)
    score_all(client, state)
    post(client, state["token"], kind="submit", letter=None)
    assert current(client)["token"] != state["token"]
    post(client, state["token"], criterion=state["criteria"][0], value=None)
    assert current(client)["token"] == state["token"]


def test_skip_flag_and_comment_are_events(login: Login, study: Study) -> None:
    client = login("ann")
    state = current(client)
    assert post(client, state["token"], kind="flag", letter="C", criterion="artifact", value=1).status_code == 200
    assert post(client, state["token"], kind="comment", letter=None, comment="<b>${alert(1)}</b>").status_code == 200
    assert post(client, state["token"], kind="skip", letter=None, comment="unclear").json()["n_done"] == 1
    again = client.get(f"/api/sets/{state['token']}").json()
    assert again["flags"]["C"] == {"artifact": True}
    assert again["comment"] == "<b>${alert(1)}</b>"
    assert again["state"] == "skipped"
    assert again["version"] == study.db.value("SELECT count(*) FROM score_events") == 3
    assert current(client)["token"] != state["token"]


def test_letters_are_the_stored_slots(login: Login, study: Study) -> None:
    client = login("ann")
    state = current(client)
    post(client, state["token"], letter="B", criterion=state["criteria"][0], value=5)
    row = study.db.row("SELECT e.slot, p.slots FROM score_events e JOIN presentations p USING (presentation_id)")
    assert row is not None
    assert str(row["slot"]) == row["slots"][1]


def test_new_sets_come_at_the_end(login: Login, study: Study) -> None:
    client = login("ann")
    first = current(client)
    add_sets(study, ("T2I",), seed=5)
    again = client.get("/api/next").json()
    assert again["total"] == 4
    assert again["set"]["token"] == first["token"]


def test_normal_has_its_own_anchors(login: Login, study: Study) -> None:
    client = login("ann")
    config = study.config.annotate
    assert current(client, "TM2I")["anchors"]["text"] == list(config.normal_anchors)
    assert current(client, "T2I")["anchors"] == {"text": list(config.text_anchors)}
    assert current(client, "M2I")["anchors"] == {"mask": list(config.mask_anchors)}


def test_bad_scores_are_refused(login: Login, study: Study) -> None:
    client = login("ann")
    state = current(client)
    values: list[Any] = [3.5, 3.0, "5", True, 6, -1, 10**40, [], {}]
    for value in values:
        answer = post(client, state["token"], criterion=state["criteria"][0], value=value)
        assert answer.status_code == 422
        assert "\n" not in answer.json()["error"]
    assert study.db.value("SELECT count(*) FROM score_events") == 0


def test_bad_events_are_4xx_with_one_line(login: Login, study: Study) -> None:
    client = login("ann")
    path = f"/api/sets/{current(client, 'T2I')['token']}/events"
    good = {"uuid": str(uuid.uuid4()), "seen": 0, "tab": "t", "kind": "score", "letter": "A", "criterion": "text"}
    good["value"] = 3
    wrong: list[Any] = [None, [], "x", 3, {}, {**good, "extra": 1}, {**good, "client": {"a": "b"}}]
    wrong += [{**good, "client": {"a": value}} for value in (True, None, 10**400, {})] + [{**good, "client": []}]
    wrong += [{**good, "client": {str(index): 1 for index in range(13)}}, {**good, "client": {"x" * 41: 1}}]
    wrong += [{key: value for key, value in good.items() if key != left} for left in good if left != "value"]
    strange: list[Any] = ["", -1, 1.5, True, [], {}, "E\n", "AB" * 40, 10**400, "\ud800", "ä" * 100]
    keys = ("uuid", "kind", "letter", "criterion", "seen", "tab")
    wrong += [{**good, key: value} for key in keys for value in strange]
    for body in wrong:
        answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (body, answer.status_code, answer.text)
        assert "\n" not in answer.json()["error"]
    assert study.db.value("SELECT count(*) FROM score_events") == 0


def test_bodies_that_are_no_json(login: Login) -> None:
    client = login("ann")
    path = f"/api/sets/{current(client)['token']}/events"
    bodies = [
        b"",
        b"{",
        b"NaN",
        b'{"value": NaN}',
        b"[" * 9000,
        b"\xff\xfe",
        b'{"value": ' + b"9" * 6000 + b"}",
        b"null",
    ]
    for body in bodies:
        assert client.post(path, content=body, headers={"content-type": "application/json"}).status_code == 422
        assert client.post(path, content=body, headers={"content-type": "text/plain"}).status_code == 422
        other = client.post("/login", content=body, headers={"content-type": "application/json"})
        assert other.status_code in (401, 422, 429)


def test_large_bodies_are_refused(login: Login) -> None:
    client = login("ann")
    path = f"/api/sets/{current(client)['token']}/events"
    assert client.post(path, content=b"x" * 20_000).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    assert client.post(path, content=chunks(), headers={"content-type": "application/json"}).status_code == 413


def test_same_uuid_again_is_fine_and_for_other_content_409(login: Login, study: Study) -> None:
    client = login("ann")
    state = current(client, "T2I")
    name = str(uuid.uuid4())
    for _ in range(5):
        assert post(client, state["token"], uuid=name, criterion="text", value=2).json() == {"version": 1}
    answer = post(client, state["token"], uuid=name, criterion="text", value=4)
    assert answer.status_code == 409
    assert study.db.value("SELECT count(*) FROM score_events") == 1


def test_a_stale_window_gets_409_with_its_reason(login: Login) -> None:
    client = login("ann")
    state = current(client, "T2I")
    assert post(client, state["token"], criterion="text", value=2, tab="one").status_code == 200
    answer = post(client, state["token"], criterion="text", value=4, tab="two")
    assert (answer.status_code, answer.json()["reason"]) == (409, "stale")
    assert post(client, state["token"], criterion="text", value=4, tab="two", seen=1).status_code == 200


def test_another_site_cannot_post(login: Login) -> None:
    client = login("ann")
    state = current(client)
    path = f"/api/sets/{state['token']}/events"
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert client.post(path, json={}, headers=headers).status_code == 403
        assert client.post("/login", json={}, headers=headers).status_code == 403
        assert client.post("/logout", headers=headers).status_code == 403
    assert client.post(path, json={}, headers={"origin": "http://testserver"}).status_code == 422


def test_headers_of_every_answer(login: Login) -> None:
    client = login("ann")
    for path in (
        "/login",
        "/read/",
        "/api/next",
        "/static/scoring.js",
        "/nothing",
        f"/api/sets/{current(client)['token']}/images/A",
    ):
        answer = client.get(path, headers={"origin": "http://evil.example"})
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert ("unsafe-eval" in policy) == (path == "/read/")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
        if path != "/static/scoring.js":
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("words", ["attempt to write a readonly database", "unable to open database file"])
def test_a_record_that_cannot_be_written_is_503_so_that_the_page_keeps_the_score(
    login: Login, study: Study, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    client = login("ann")
    state = current(client, "T2I")

    def refused(*_: Any, **__: Any) -> int:
        error = sqlite3.OperationalError(words)
        raise translate(error, study.root / "study.db") from error

    monkeypatch.setattr(scoring, "append_event", refused)
    answer = post(client, state["token"], criterion="text", value=2)
    assert answer.status_code == 503
    assert str(study.root) not in answer.text
    monkeypatch.undo()
    assert post(client, state["token"], criterion="text", value=2).status_code == 200


def test_full_disk_is_507_and_loses_nothing(login: Login, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login("ann")
    state = current(client, "T2I")

    def full(*_: Any, **__: Any) -> int:
        raise StorageFull(f"no space left for {study.root}/study.db; free space")

    monkeypatch.setattr(scoring, "append_event", full)
    answer = post(client, state["token"], criterion="text", value=2)
    assert answer.status_code == 507
    assert str(study.root) not in answer.text

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"{study.root}/x")

    monkeypatch.setattr(scoring, "append_event", no_space)
    assert post(client, state["token"], criterion="text", value=2).status_code == 507
    monkeypatch.undo()
    assert post(client, state["token"], criterion="text", value=2).status_code == 200


def test_a_locked_database_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radpref.data.study.db.BUSY_TIMEOUT_MS", 50)
    study = make_study(tmp_path)
    add_people(study)
    with TestClient(create_app(study), raise_server_exceptions=False) as client:
        client.post("/login", json={"username": "ann", "password": PASSWORD})
        state = current(client, "T2I")
        other = sqlite3.connect(study.db.path, isolation_level=None)
        for level in ("EXCLUSIVE", "IMMEDIATE"):
            other.execute(f"BEGIN {level}")
            answer = post(client, state["token"], criterion="text", value=2)
            other.execute("ROLLBACK")
            assert answer.status_code == 503, answer.text
            assert str(study.root) not in answer.text
        other.close()
        assert post(client, state["token"], criterion="text", value=2).status_code == 200


@pytest.mark.parametrize("kind", [OSError, RuntimeError, sqlite3.DatabaseError])
@pytest.mark.parametrize("broken", ["scoring", "admin", "login"])
def test_unexpected_errors_say_nothing(
    login: Login, study: Study, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], broken: str
) -> None:
    """Of every route, and of the guard itself: one line without a path, under the headers of every answer."""
    client, office = login("ann"), login("office")
    path = f"/api/sets/{current(client)['token']}/images/A"

    def fails(*_: Any) -> None:
        raise kind(f"broken {study.root}/images/ab/secret.png")

    monkeypatch.setattr(scoring, "image_bytes", fails)
    monkeypatch.setattr(admin, "overview", fails)
    if broken == "login":
        monkeypatch.setattr(Sessions, "find", fails)
    answer = office.get("/api/admin/overview") if broken == "admin" else client.get(path)
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server could not do this; tell the study office"}
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_missing_and_broken_image_files_are_404_without_a_name(login: Login, study: Study) -> None:
    client = login("ann")
    token = current(client)["token"]
    for path in study.root.glob("images/*/*.png"):
        path.write_bytes(b"no image")
    broken = client.get(f"/api/sets/{token}/images/A")
    for path in study.root.glob("images/*/*.png"):
        path.unlink()
    missing = client.get(f"/api/sets/{token}/images/A")
    for answer in (broken, missing):
        assert answer.status_code == 404
        assert "this image cannot be read" in answer.json()["error"]


def test_a_set_that_lost_its_images_stops_nobody(login: Login, study: Study) -> None:
    client = login("ann")
    token = current(client)["token"]
    with study.db.write() as connection:
        connection.execute(
            "DELETE FROM set_images WHERE set_id = (SELECT set_id FROM presentations WHERE token = ?)", (token,)
        )
    assert current(client)["image"] == {"width": 128, "height": 128, "bits": 8}
    missing = client.get(f"/api/sets/{token}/images/A")
    assert (missing.status_code, "cannot be read" in missing.json()["error"]) == (404, True)
    skipped = post(client, token, kind="skip", letter=None, comment="An image cannot be read")
    assert skipped.status_code == 200, skipped.text
    assert current(client)["token"] != token


def test_a_study_without_sets(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "empty", "")
    add_people(study)
    with TestClient(create_app(study)) as client:
        client.post("/login", json={"username": "ann", "password": PASSWORD})
        found = client.get("/api/next").json()
        assert (found["room"], found["stage"], found["total"], found["set"]) == ("empty", "done", 0, None)


def test_dashboard_marks_simulated_raters(login: Login, study: Study) -> None:
    ann = login("ann")
    score_all(ann, current(ann))
    data = login("office").get("/api/admin/overview").json()
    assert {rater["username"]: rater["kind"] for rater in data["raters"]} == {
        "ann": "human",
        "bob": "human",
        "sim-1": "simulated",
    }
    assert data["raters"][0]["n_scores"] in (4, 8)
    assert data["raters"][0]["n_sets"] == 3
    assert data["admins"] == ["office"]
    report = login("office").get("/api/admin/agreement").json()
    assert "not_computable" in report["by_kind"]["human"]["criteria"]["overall"]


def test_people_table_counts_what_is_analysed(login: Login, study: Study) -> None:
    ann = login("ann")
    scoring.next_set(study, get_rater(study.db, "ann").rater_id)
    with study.db.write() as connection:  # how a check comes into the order is not what this is about
        connection.execute("UPDATE image_sets SET purpose = 'attention' WHERE set_id = 'set-0-1'")
    tokens = dict(study.db.connection.execute("SELECT set_id, token FROM presentations").fetchall())
    for name, value, active_ms in [("set-0-0", 1, -5000), ("set-0-1", 5, 1e15), ("set-0-2", 2, 20_000)]:
        score_all(ann, ann.get(f"/api/sets/{tokens[name]}").json(), value)
        body = {"uuid": str(uuid.uuid4()), "seen": 100, "tab": "one", "kind": "submit"}
        sent = {**body, "client": {"active_ms": active_ms}}
        assert ann.post(f"/api/sets/{tokens[name]}/events", json=sent).status_code == 200
    line = login("office").get("/api/admin/overview").json()["raters"][0]
    assert (line["n_scores"], line["mean_score"]) == (4 + 8, round((4 * 1 + 8 * 2) / 12, 2)), "no attention check"
    assert line["s_per_set"] == 20.0, "times that cannot be are left out"


def test_allow_list_has_no_rule_without_a_reader() -> None:
    assert {rule.who for rule in RULES} == {"public", "any", "rater", "admin"}
    assert all(rule.who == "public" or rule.method != "POST" or rule.path.startswith("/api/") for rule in RULES)
