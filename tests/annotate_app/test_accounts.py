"""Passwords, sessions, back-off, login and logout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from radpref.annotate_app.accounts import (
    Backoff,
    Sessions,
    check_new_password,
    check_password,
    generate_password,
    hash_password,
    token_hash,
)
from radpref.annotate_app.guard import COOKIE, SECURE_COOKIE
from radpref.annotate_app.server import create_app
from radpref.data.core.errors import InvalidInput
from radpref.data.reader_study.raters import set_password_hash
from radpref.data.study.study import Study
from tests.support import ROOT
from tests.support.annotate import PASSWORD, add_people, make_study
from tests.support.errors import refuses


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path)
    add_people(opened)
    yield opened
    opened.db.close()


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with TestClient(create_app(study), follow_redirects=False) as opened:
        yield opened


def test_hashes_are_argon2id_and_salted() -> None:
    one, two = hash_password(PASSWORD), hash_password(PASSWORD)
    assert one.startswith("$argon2id$")
    assert one != two
    assert PASSWORD not in one


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_unusable_passwords(password: str) -> None:
    with refuses(InvalidInput, 8, 256):
        hash_password(password)


def test_made_passwords_differ() -> None:
    made = {generate_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(password) == 19 for password in made)


def test_check_password(study: Study) -> None:
    assert check_password(study.db, "ann", PASSWORD) == 1
    assert check_password(study.db, "ANN", PASSWORD) == 1
    for name, password in (
        ("ann", PASSWORD + "x"),
        ("ann", ""),
        ("nobody", PASSWORD),
        ("sim-1", ""),
        ("ann", "\ud800"),
    ):
        assert check_password(study.db, name, password) is None


def test_sessions_are_stored_hashed_and_renewed(study: Study) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    first = sessions.open(1)
    assert sessions.find(first) is not None
    second = sessions.open(1, old_token=first)
    assert first != second
    assert sessions.find(first) is None
    stored = [row["token_hash"] for row in study.db.rows("SELECT token_hash FROM sessions")]
    assert stored == [token_hash(second)]
    sessions.close(second)
    assert sessions.find(second) is None
    assert sessions.find(None) is sessions.find("x" * 500) is None


@pytest.mark.parametrize(("column", "minutes"), [("last_seen_at", -11), ("expires_at", -1)])
def test_idle_and_absolute_expiry(study: Study, column: str, minutes: int) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    token = sessions.open(1)
    with study.db.write() as connection:
        at = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
        connection.execute(f"UPDATE sessions SET {column} = ?", (at,))
    assert sessions.find(token) is None


def test_use_keeps_a_session_alive(study: Study) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    token = sessions.open(1)
    earlier = (datetime.now(UTC) - timedelta(minutes=9)).isoformat(timespec="microseconds")
    with study.db.write() as connection:
        connection.execute("UPDATE sessions SET last_seen_at = ?", (earlier,))
    assert sessions.find(token) is not None
    assert study.db.value("SELECT last_seen_at FROM sessions") > earlier


def test_a_reset_and_a_retired_rater_end_logins(study: Study) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    ann, bob = sessions.open(1), sessions.open(2)
    set_password_hash(study.db, "ann", "new")
    with study.db.write() as connection:
        connection.execute("UPDATE raters SET active = 0 WHERE username = 'bob'")
    assert sessions.find(ann) is None
    assert sessions.find(bob) is None


def test_backoff_doubles_and_forgets() -> None:
    clock = [0.0]
    backoff = Backoff(lambda: clock[0])
    for _ in range(5):
        assert backoff.begin("ann", "1") == 0
    waits = []
    for _ in range(4):
        wait = backoff.begin("Ann", "2")
        waits.append(wait)
        clock[0] += wait
        assert backoff.begin("ann", "3") == 0
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert backoff.begin("bob", "3") == 0, "another account is free"
    clock[0] += 1000
    assert backoff.begin("ann", "1") == 0


def test_backoff_by_address_holds_for_any_name() -> None:
    backoff = Backoff(lambda: 0.0)
    waits = [backoff.begin(f"name-{index}", "same") for index in range(30)]
    assert waits[:20] == [0.0] * 20
    assert all(wait > 0 for wait in waits[20:])
    assert backoff.begin("name", "other") == 0


def test_success_forgets_the_accounts_failures() -> None:
    backoff = Backoff(lambda: 0.0)
    for _ in range(40):
        assert backoff.begin("ann", "1") == 0
        backoff.success("ann", "1")


def test_login_sets_a_strict_cookie_with_a_new_id(client: TestClient) -> None:
    for _ in range(2):
        before = client.cookies.get(COOKIE)
        answer = client.post("/login", data={"username": "ann", "password": PASSWORD})
        assert answer.status_code == 303
        flags = answer.headers["set-cookie"].lower()
        assert "httponly" in flags
        assert "samesite=strict" in flags
        assert "path=/" in flags
        assert "expires" not in flags
        assert client.cookies.get(COOKIE) != before
        if before:
            assert client.get("/api/session", headers={"cookie": f"{COOKIE}={before}"}).status_code == 401
    assert client.get("/").headers["location"] == "read/"


def test_under_tls_the_cookie_is_secure_and_host_only(study: Study) -> None:
    with TestClient(create_app(study), base_url="https://reading.example", follow_redirects=False) as client:
        answer = client.post("/login", data={"username": "office", "password": PASSWORD})
        assert answer.headers["set-cookie"].startswith(SECURE_COOKIE)
        assert "secure" in answer.headers["set-cookie"].lower()
        assert client.get("/").headers["location"] == "admin/"


def test_wrong_passwords_are_counted_and_say_nothing(client: TestClient) -> None:
    for name in ("ann", "nobody"):
        for _ in range(12):  # the waits grow, so that a slow machine is refused too
            answer = client.post("/login", json={"username": name, "password": "wrong password"})
            if answer.status_code == 429:
                break
            assert answer.status_code == 401
            assert answer.json() == {"error": "name or password is wrong"}
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1


def test_login_page_shows_the_error_escaped(client: TestClient) -> None:
    answer = client.post("/login", data={"username": "<script>", "password": "wrong password"})
    assert answer.status_code == 401
    assert "name or password is wrong" in answer.text
    assert "<script>" not in answer.text
    assert "Research use, not for diagnosis" in answer.text
    assert "right is at image left" in answer.text


def test_strange_credentials(client: TestClient) -> None:
    for body in ({}, [], {"username": 3, "password": []}, {"username": "x" * 300, "password": "y"}):
        assert client.post("/login", json=body).status_code in (401, 422)
    assert client.post("/login", content=b"\xff=\xff").status_code in (401, 422)


def test_logout_ends_the_session(client: TestClient) -> None:
    client.post("/login", data={"username": "ann", "password": PASSWORD})
    token = client.cookies.get(COOKIE)
    assert client.post("/logout").headers["location"] == "login"
    assert client.get("/api/session", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


def test_slow_hashing_is_off_the_event_loop(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Login and invitation hash for tens of milliseconds: meanwhile the loop must go on serving others."""
    from radpref.annotate_app import account_routes, accounts, invites

    on_loop: list[bool] = []

    def note() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            on_loop.append(False)
        else:
            on_loop.append(True)

    def check(*arguments: Any) -> int | None:
        note()
        return accounts.check_password(*arguments)

    def make(password: str) -> str:
        note()
        return hash_password(password)

    monkeypatch.setattr(account_routes, "check_password", check)
    monkeypatch.setattr(invites, "hash_password", make)
    with TestClient(create_app(study)) as client:
        assert client.post("/login", json={"username": "ann", "password": PASSWORD}).status_code == 200
        body = {"token": invites.invite(study.db, "carla"), "password": "seven quiet lighthouses"}
        assert client.post("/invite", json=body).status_code == 200
    assert on_loop == [False, False]


def test_an_unknown_name_costs_a_whole_verification_too(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time of an answer would tell which names exist."""
    from radpref.annotate_app import accounts

    class Counting:
        def __init__(self) -> None:
            self.inner, self.verified = accounts._hasher, []  # type: ignore[var-annotated]

        def hash(self, password: str) -> str:
            return self.inner.hash(password)

        def verify(self, hashed: str, password: str) -> bool:
            self.verified.append(hashed.split("$")[1:4])
            return self.inner.verify(hashed, password)

    counting = Counting()
    monkeypatch.setattr(accounts, "_hasher", counting)
    for name in ("ann", "nobody", "sim-1"):
        assert check_password(study.db, name, "wrong password") is None
    assert len(counting.verified) == 3
    assert counting.verified[0] == counting.verified[1] == counting.verified[2], "with the same parameters"
    assert counting.verified[0][0] == "argon2id"


def test_no_token_of_a_login_is_stored(study: Study, client: TestClient) -> None:
    client.post("/login", data={"username": "ann", "password": PASSWORD})
    token = client.cookies.get(COOKIE)
    assert token
    assert token.encode() not in study.db.path.read_bytes()
    assert len(token) >= 43, "256 random bits"


def test_no_account_and_no_default_password_in_a_fresh_study(tmp_path: Path) -> None:
    from radpref.rounds import DEMO_ACCOUNTS

    fresh = make_study(tmp_path / "fresh")
    assert fresh.db.value("SELECT count(*) FROM raters") == 0
    guesses = [("admin", "admin"), ("admin", "password"), ("office", ""), ("", "")]
    guesses += [(name, password) for name, _, password in DEMO_ACCOUNTS]
    for name, password in guesses:
        assert check_password(fresh.db, name, password) is None
    fresh.db.close()
    # The demo's passwords stand where the demo makes them and nowhere else.
    root = ROOT
    sources = [path for room in ("annotate_app", "data", "generation", "alignment", "downstream") for path in
               (root / room).rglob("*.py")] + [root / "src/radpref/cli.py"]  # fmt: skip
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not any(password in text for _, _, password in DEMO_ACCOUNTS), path.name


def test_a_session_does_not_outlive_its_absolute_end_however_busy(study: Study) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    token = sessions.open(1)
    earlier = (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="microseconds")
    with study.db.write() as connection:
        connection.execute("UPDATE sessions SET last_seen_at = ?", (earlier,))
    ends = study.db.value("SELECT expires_at FROM sessions")
    assert sessions.find(token) is not None
    assert study.db.value("SELECT last_seen_at FROM sessions") > earlier
    assert study.db.value("SELECT expires_at FROM sessions") == ends


def test_expired_sessions_are_swept_away(study: Study) -> None:
    sessions = Sessions(study.db, life_hours=1, idle_minutes=10)
    sessions.open(1)
    with study.db.write() as connection:
        connection.execute("UPDATE sessions SET expires_at = '2020-01-01T00:00:00.000000+00:00'")
    sessions.open(2)
    assert [row["rater_id"] for row in study.db.rows("SELECT rater_id FROM sessions")] == [2]


@pytest.mark.parametrize("password", ["short", "carla is here", "aaaa bbbb aaaa", "\ud800 and some more"])
def test_badly_chosen_passwords(password: str) -> None:
    with pytest.raises(InvalidInput):
        check_new_password("carla", password)


def test_well_chosen_passwords() -> None:
    for password in ("correct horse battery", "Ünïcödé and ☂", "al-fresco dinner"):
        check_new_password("al", password)
