"""Invitations, resets, retired raters: the accounts of people who were never given a password by mail."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from radpref.annotate_app import invites
from radpref.annotate_app.accounts import check_password, hash_password, token_hash
from radpref.annotate_app.guard import COOKIE
from radpref.annotate_app.server import create_app
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.raters import admit, get_rater, reinstate, retire
from radpref.data.reader_study.scores import score_table
from radpref.data.study.audit import broken_link
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_people, make_study
from tests.support.errors import refuses

GOOD = "seven quiet lighthouses"


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path, ("T2I",) * 3)
    add_people(opened)
    yield opened
    opened.db.close()


@pytest.fixture
def app(study: Study) -> Any:
    return create_app(study)


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def login(app: Any, client: TestClient) -> Callable[[str], TestClient]:
    def enter(name: str) -> TestClient:
        other = TestClient(app, follow_redirects=False)
        assert other.post("/login", json={"username": name, "password": PASSWORD}).status_code == 200
        return other

    return enter


def actions(study: Study) -> list[tuple[str, str]]:
    return [(row["actor"], row["action"]) for row in study.db.rows("SELECT * FROM audit_events ORDER BY audit_id")]


# --- the link ----------------------------------------------------------------------------------------------------


def test_an_invitation_sets_the_password_once_and_logs_in(study: Study, client: TestClient) -> None:
    token = invites.invite(study.db, "carla", actor="office")
    assert check_password(study.db, "carla", "") is None
    asked = client.post("/invite", json={"token": token})
    assert asked.json()["username"] == "carla"
    answer = client.post("/invite", json={"token": token, "password": GOOD})
    assert answer.json() == {"ok": True}
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/api/session").json() == {"username": "carla", "role": "rater"}
    assert check_password(study.db, "carla", GOOD) == get_rater(study.db, "carla").rater_id
    for body in ({"token": token}, {"token": token, "password": GOOD + "x"}):
        again = client.post("/invite", json=body)
        assert (again.status_code, again.json()["error"]) == (404, invites.GONE)
    assert check_password(study.db, "carla", GOOD) is not None
    assert ("office", "rater invited") in actions(study)
    assert ("carla", "invitation accepted") in actions(study)
    assert broken_link(study.db.connection) is None


def test_the_token_is_stored_hashed_and_in_no_audit_row(study: Study) -> None:
    token = invites.invite(study.db, "carla")
    assert study.db.value("SELECT token_hash FROM invites") == token_hash(token)
    assert not any(token in str(value) for row in study.db.rows("SELECT * FROM audit_events") for value in row.values())
    assert token.encode() not in study.db.path.read_bytes()
    assert invites.link("https://x.example/room/", token) == f"https://x.example/room/invite#{token}"
    for address in (
        "x.example",
        "https://x.example/a b",
        "https://x.example/#part",
        "https://x.example/?q=1",
        "https://",
    ):
        with refuses(InvalidInput, "--base-url", address):
            invites.link(address, token)


def test_a_new_invitation_voids_the_older_one(study: Study) -> None:
    first = invites.invite(study.db, "carla")
    second = invites.invite(study.db, "CARLA")
    with refuses(NotFound):
        invites.find(study.db, first)
    assert invites.find(study.db, second).username == "carla"


def test_expired_unknown_and_odd_tokens(study: Study, client: TestClient) -> None:
    token = invites.invite(study.db, "carla", days=1)
    late = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    with study.db.write() as connection:
        connection.execute("UPDATE invites SET expires_at = ?", (late,))
    for odd in (token, "x" * 43, "", None, 3, [], "x" * 5000):
        answer = client.post("/invite", json={"token": odd, "password": GOOD})
        assert (answer.status_code, answer.json()["error"]) == (404, invites.GONE), odd
    assert client.post("/invite", json=[]).status_code == 404
    assert client.post("/invite", content=b"token=x").status_code == 422
    assert check_password(study.db, "carla", GOOD) is None


@pytest.mark.parametrize("days", [0, -1, 91, float("nan"), float("inf")])
def test_days_must_be_sensible(study: Study, days: float) -> None:
    with refuses(InvalidInput, days, 90):
        invites.invite(study.db, "carla", days=days)
    assert study.db.value("SELECT count(*) FROM invites") == 0


@pytest.mark.parametrize(
    "password", ["short", "", "x" * 257, "aaaaabbbbb", "my name is Carla", "\ud800abcdefgh", 7, None]
)
def test_a_bad_password_is_refused_and_the_link_stays_valid(study: Study, client: TestClient, password: Any) -> None:
    token = invites.invite(study.db, "carla")
    body = json.dumps({"token": token, "password": password})  # lone surrogates escaped, as a browser sends them
    answer = client.post("/invite", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert check_password(study.db, "carla", str(password).encode("utf-8", "replace").decode()) is None
    assert invites.find(study.db, token).username == "carla"


def test_two_windows_at_once_use_it_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    token = invites.invite(study.db, "carla")
    inside: list[int] = []

    def slow_hash(password: str) -> str:
        if not inside:  # while the first window hashes, the second one goes all the way
            inside.append(1)
            invites.accept(study.db, token, "the second window")
        return hash_password(password)

    monkeypatch.setattr(invites, "hash_password", slow_hash)
    with pytest.raises(NotFound):
        invites.accept(study.db, token, "the first window")
    assert check_password(study.db, "carla", "the second window") is not None


def test_guessing_links_is_slowed_down_per_address(client: TestClient, study: Study) -> None:
    token = invites.invite(study.db, "carla")
    for index in range(40):  # the waits grow, so that a slow machine has to wait too
        answer = client.post("/invite", json={"token": f"{index:043d}"})
        assert answer.status_code == 404 if index < 20 else answer.status_code in (404, 429)
        # A good link from there waits too, and is not used up by it.
        if answer.status_code == 429 and client.post("/invite", json={"token": token}).status_code == 429:
            break
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert invites.find(study.db, token)


def test_the_page_names_no_token_and_another_site_cannot_post(study: Study, client: TestClient) -> None:
    page = client.get("/invite")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert study.config.title in page.text
    token = invites.invite(study.db, "carla")
    foreign = {"origin": "https://evil.example"}
    assert client.post("/invite", json={"token": token, "password": GOOD}, headers=foreign).status_code == 403
    assert invites.find(study.db, token)


def test_who_cannot_be_invited(study: Study) -> None:
    with refuses(Conflict, "rater reset", "ann"):
        invites.invite(study.db, "ann")
    with refuses(InvalidInput, "sim-1"):
        invites.invite(study.db, "sim-1")
    with refuses(InvalidInput, "boss"):
        invites.invite(study.db, "carla", role="boss")
    invites.invite(study.db, "carla", role="admin")
    with refuses(Conflict, "carla", "admin"):
        invites.invite(study.db, "carla", role="rater")
    retire(study.db, "carla")
    with refuses(Conflict, "carla", "rater reinstate"):
        invites.invite(study.db, "carla")


def test_a_reset_ends_the_password_the_logins_and_older_links(study: Study, app: Any, login: Any) -> None:
    ann = login("ann")
    first = invites.reset(study.db, "ann", actor="office")
    assert ann.get("/api/session").status_code == 401
    assert check_password(study.db, "ann", PASSWORD) is None
    second = invites.reset(study.db, "ann", actor="office")
    with pytest.raises(NotFound):
        invites.find(study.db, first)
    invites.accept(study.db, second, GOOD)
    assert check_password(study.db, "ann", GOOD) == 1


# --- retired and admitted raters ---------------------------------------------------------------------------------


def score_all(client: TestClient, n: int) -> None:
    for _ in range(n):
        shown = client.get("/api/next").json()["set"]
        for letter in "ABCD":
            post(client, shown["token"], kind="score", letter=letter, criterion="text", value=3)
        post(client, shown["token"], kind="submit")


def post(client: TestClient, token: str, **fields: Any) -> Any:
    body = {"uuid": str(uuid.uuid4()), "tab": "tab", "seen": 0, **fields}
    answer = client.post(f"/api/sets/{token}/events", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def snapshot(study: Study) -> tuple[Any, ...]:
    presentations = study.db.rows("SELECT * FROM presentations ORDER BY presentation_id")
    events = study.db.rows("SELECT * FROM score_events ORDER BY event_id")
    return presentations, events, score_table(study.db).to_dict("records")


def test_retiring_ends_logins_and_changes_nobodys_order_or_scores(study: Study, login: Any, client: TestClient) -> None:
    ann, bob = login("ann"), login("bob")
    score_all(ann, 2)
    score_all(bob, 1)
    token = ann.get("/api/next").json()["set"]["token"]
    bobs = bob.get("/api/next").json()
    before = snapshot(study)
    retire(study.db, "ann", "office")
    assert ann.get("/api/session").status_code == 401
    late = {"uuid": str(uuid.uuid4()), "kind": "score", "letter": "A", "criterion": "text", "value": 1}
    assert ann.post(f"/api/sets/{token}/events", json=late).status_code == 401
    assert client.post("/login", json={"username": "ann", "password": PASSWORD}).status_code == 401
    assert bob.get("/api/next").json() == bobs
    assert snapshot(study) == before
    with refuses(Conflict, "ann", "rater reinstate"):
        retire(study.db, "ann")
    reinstate(study.db, "ann", "office")
    with refuses(Conflict, "ann"):
        reinstate(study.db, "ann")
    again = login("ann")
    assert again.get("/api/next").json()["set"]["token"] == token
    assert snapshot(study) == before
    assert [pair for pair in actions(study) if "retired" in pair[1] or "reinstated" in pair[1]] == [
        ("office", "rater retired"),
        ("office", "rater reinstated"),
    ]


@pytest.mark.parametrize("end", [("retire",), ("reset",), ("reset", "--password")])
def test_a_login_ends_at_once_also_from_another_process(
    study: Study, login: Any, client: TestClient, end: tuple[str, ...]
) -> None:
    ann, bob = login("ann"), login("bob")
    for _ in range(3):
        assert [one.get("/api/session").status_code for one in (ann, bob)] == [200, 200]
    command = [sys.executable, "-m", "radpref", "annotate", "rater", end[0], "ann", *end[1:]]
    subprocess.run([*command, "--study", str(study.root)], check=True, capture_output=True)
    assert [one.get("/api/session").status_code for one in (ann, bob)] == [401, 200]
    if end == ("retire",):
        reinstate(study.db, "ann")
        assert ann.get("/api/session").status_code == 401, "a login does not come back with the rater"


def test_an_invitation_of_a_retired_rater_is_void(study: Study) -> None:
    token = invites.invite(study.db, "carla")
    retire(study.db, "carla")
    with pytest.raises(NotFound):
        invites.accept(study.db, token, GOOD)
    reinstate(study.db, "carla")
    with pytest.raises(NotFound):
        invites.accept(study.db, token, GOOD)


def test_admit_is_audited_and_once(study: Study) -> None:
    admit(study.db, "ann", "office")
    assert study.db.row("SELECT rater_id, actor, share FROM admissions") == {
        "rater_id": 1,
        "actor": "office",
        "share": None,
    }
    assert actions(study)[-1] == ("office", "rater admitted")
    with refuses(Conflict, "ann"):
        admit(study.db, "ann")
    for name in ("office", "sim-1"):
        with pytest.raises(InvalidInput):
            admit(study.db, name)


# --- the dashboard's routes --------------------------------------------------------------------------------------


def test_the_office_does_it_in_the_browser(study: Study, login: Any, client: TestClient) -> None:
    office = login("office")
    made = office.post("/api/admin/raters", json={"action": "invite", "name": " carla ", "role": "rater"})
    assert made.status_code == 200, made.text
    path, _, token = made.json()["link"].partition("#")
    assert path == "invite"
    assert client.post("/invite", json={"token": token, "password": GOOD}).status_code == 200
    for action in ("admit", "retire", "reinstate"):
        answer = office.post("/api/admin/raters", json={"action": action, "name": "carla"})
        assert answer.json() == {"action": action, "name": "carla"}
    again = office.post("/api/admin/raters", json={"action": "reset", "name": "carla"}).json()["link"]
    assert client.post("/invite", json={"token": again.partition("#")[2]}).json()["username"] == "carla"
    done = [pair for pair in actions(study) if pair[0] == "office" and pair[1] != "login"]
    assert [action for _, action in done] == [
        "rater added", "rater invited", "rater admitted", "rater retired", "rater reinstated", "password reset",
    ]  # fmt: skip
    assert office.post("/api/admin/raters", json={"action": "retire", "name": "office"}).status_code == 409
    assert study.db.value("SELECT active FROM raters WHERE username = 'office'") == 1


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({}, 422), ([], 422), ({"action": "invite"}, 422), ({"action": "invite", "name": 3}, 422),
        ({"action": "boss", "name": "ann"}, 422), ({"action": "invite", "name": "a b"}, 422),
        ({"action": "invite", "name": "x", "role": 3}, 422), ({"action": "invite", "name": "x", "role": "root"}, 422),
        ({"action": ["retire"], "name": "ann"}, 422), ({"action": "retire", "name": "nobody"}, 404),
        ({"action": "reset", "name": "sim-1"}, 422), ({"action": "invite", "name": "ann"}, 409),
    ],
)  # fmt: skip
def test_bad_requests_of_the_office(login: Any, payload: Any, status: int) -> None:
    answer = login("office").post("/api/admin/raters", json=payload)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_only_the_office_may(study: Study, login: Any, client: TestClient) -> None:
    body = {"action": "retire", "name": "bob"}
    assert client.post("/api/admin/raters", json=body).status_code == 401
    assert login("ann").post("/api/admin/raters", json=body).status_code == 403
    assert client.get("/api/admin/study").status_code == 401
    assert login("ann").get("/api/admin/study").status_code == 403
    assert study.db.value("SELECT active FROM raters WHERE username = 'bob'") == 1


def test_the_office_sees_the_stage(study: Study, login: Any) -> None:
    office, ann = login("office"), login("ann")
    assert office.get("/api/admin/study").json()["stage"] == "draft"
    score_all(ann, 1)
    shown = office.get("/api/admin/study").json()
    assert shown["stage"] == "pilot"
    assert shown["pilot"] == {"n_scores": 4, "n_raters": 1}
    assert shown["arms_visible"] is False
    assert shown["history"][0]["actor"] == "first score"
    assert not any(secret in str(shown) for secret in ("baseline", "secret-run"))


def test_the_cookie_of_an_invitation_replaces_an_older_login(study: Study, login: Any) -> None:
    ann = login("ann")
    before = ann.cookies.get(COOKIE)
    token = invites.invite(study.db, "carla")
    assert ann.post("/invite", json={"token": token, "password": GOOD}).status_code == 200
    assert ann.cookies.get(COOKIE) != before
    assert ann.get("/api/session").json()["username"] == "carla"
    assert ann.get("/api/session", headers={"cookie": f"{COOKIE}={before}"}).status_code == 401
