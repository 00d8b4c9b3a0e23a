"""Nonsense, floods and full disks at the event route: refused or stored once, never half, never a 500."""

from __future__ import annotations

import json
import resource
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from benchmarks.room import log_in, make_room, serving
from radpref.annotate_app.server import create_app
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_people, make_study

FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = ("score", "rank", "flag", "comment", "skip", "unskip", "submit")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
NEAR = st.sampled_from(
    [0, 5, 6, -1, 3.5, 3.0, "5", True, None, float("nan"), 10**30, [3], {"a": 3}, "\ud800", "٣", "A\n"]
)
FIELDS = {
    "kind": st.sampled_from(KINDS),
    "letter": st.sampled_from("ABCD"),
    "criterion": st.sampled_from(("text", "mask", "artifact")),
    "value": st.integers(0, 5),
    "comment": st.text(max_size=20),
    "seen": st.integers(0, 9),
    "tab": st.just("t"),
    "client": st.just({}),
}
EVENT = st.fixed_dictionaries({}, optional={key: good | NEAR | JSON for key, good in FIELDS.items()})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    opened = make_study(tmp_path_factory.mktemp("fuzz"), ("TM2I",))
    add_people(opened)
    yield opened
    opened.db.close()


@pytest.fixture(scope="module")
def clients(study: Study) -> Iterator[dict[str, TestClient]]:
    app = create_app(study)
    with TestClient(app):
        found = {name: TestClient(app, raise_server_exceptions=False) for name in ("ann", "bob")}
        for name, client in found.items():
            assert client.post("/login", json={"username": name, "password": PASSWORD}).status_code == 200
        yield found
        for client in found.values():
            client.close()


@pytest.fixture(scope="module")
def path(clients: dict[str, TestClient]) -> str:
    return f"/api/sets/{clients['ann'].get('/api/next').json()['set']['token']}/events"


def send(client: TestClient, path: str, content: Any) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post(path, content=body, headers={"content-type": "application/json"})  # type: ignore[return-value]


def n_events(study: Study) -> int:
    return int(study.db.value("SELECT count(*) FROM score_events"))


@FUZZ
@given(event=EVENT)
def test_any_event_is_stored_once_or_refused(
    study: Study, clients: dict[str, TestClient], path: str, event: dict[str, Any]
) -> None:
    before = n_events(study)
    answer = send(clients["ann"], path, {"uuid": str(uuid.uuid4()), **event})
    assert answer.status_code in (200, 404, 409, 422), (event, answer.text)
    assert n_events(study) == before + (answer.status_code == 200)
    if answer.status_code == 200 and event.get("kind") in ("score", "flag"):
        row = study.db.row("SELECT value, slot FROM score_events ORDER BY event_id DESC LIMIT 1")
        assert row is not None
        assert type(event.get("value")) is int or event.get("value") is None
        assert (row["value"] is None and event.get("value") is None) or row["value"] == event["value"]
    else:
        assert "\n" not in answer.text


@FUZZ
@given(content=JSON | st.binary(max_size=200) | st.text(max_size=50))
def test_any_body_that_is_no_event_is_refused(
    study: Study, clients: dict[str, TestClient], path: str, content: Any
) -> None:
    before = n_events(study)
    for way in (path, "/api/training/again" if content is None else path, "/login", "/invite"):
        answer = send(clients["ann"], way, content)
        assert 400 <= answer.status_code < 500, (way, content, answer.text)
    assert n_events(study) == before


@pytest.mark.parametrize("value", [b"3.5", b"3.0", b'"5"', b"true", b"NaN", b"Infinity", b"6", b"-1", b"1e400", b"[3]"])
@pytest.mark.parametrize("kind", ["score", "flag", "rank"])
def test_values_out_of_range(study: Study, clients: dict[str, TestClient], path: str, value: bytes, kind: str) -> None:
    before = n_events(study)
    criterion = b"artifact" if kind == "flag" else b"text"
    body = b'{"uuid":"%s","seen":0,"tab":"t","kind":"%s","letter":"A","criterion":"%s","value":%s}'
    answer = send(clients["ann"], path, body % (str(uuid.uuid4()).encode(), kind.encode(), criterion, value))
    assert answer.status_code == 422
    assert n_events(study) == before


def event(**fields: Any) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "seen": 0,
        "tab": "t",
        "kind": "flag",
        "letter": "A",
        "criterion": "artifact",
        "value": 1,
        **fields,
    }


def test_one_uuid_a_hundred_times_at_once_is_one_row(study: Study, clients: dict[str, TestClient], path: str) -> None:
    before, same = n_events(study), event()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: send(clients["ann"], path, same), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["version"] for answer in answers}) == 1
    assert n_events(study) == before + 1
    assert send(clients["ann"], path, {**same, "value": 0}).status_code == 409
    assert n_events(study) == before + 1


def test_good_and_bad_events_at_once(study: Study, clients: dict[str, TestClient], path: str) -> None:
    """They meet in one commit of the writing thread: the bad ones take nobody with them."""
    before = n_events(study)
    bodies = [event(value=1 if n % 3 else 7, letter="ABCD"[n % 4]) for n in range(90)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: send(clients["ann"], path, body), bodies))
    assert [answer.status_code for answer in answers] == [200 if n % 3 else 422 for n in range(90)]
    assert n_events(study) == before + 60


def test_tokens_of_another_rater(study: Study, clients: dict[str, TestClient], path: str) -> None:
    before = n_events(study)
    assert send(clients["bob"], path, event()).status_code == 404
    for part in ("", "/images/A", "/mask"):
        assert clients["bob"].get(path.removesuffix("/events") + part).status_code == 404
    assert n_events(study) == before


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel lets the server's files grow no further: 507 until there is room; what was acknowledged is there."""
    study = make_room(tmp_path / "study", 3, size=32)
    login = log_in(study, 1)[0]
    with serving(study.root) as server, httpx.Client(timeout=30) as client:
        base, cookie = f"http://127.0.0.1:{server.port}/api/", {"cookie": login.cookie}
        state = client.get(f"{base}next", headers=cookie).json()["set"]
        process = psutil.Process(server.process.pid)
        unlimited = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (study.db.path.stat().st_size + 40_000, unlimited[1]))

        def post() -> tuple[str, httpx.Response]:
            body = {"uuid": str(uuid.uuid4()), "seen": 0, "tab": "t", "kind": "comment", "comment": "x" * 1900}
            url = f"{base}sets/{state['token']}/events"
            return body["uuid"], client.post(url, json=body, headers=cookie)  # type: ignore[return-value]

        acknowledged = []
        for _ in range(60):
            key, answer = post()
            if answer.status_code != 200:
                break
            acknowledged.append(key)
        assert answer.status_code == 507, answer.text
        assert "disk is full" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
        assert post()[1].status_code == 507, "still full"
        assert client.get(f"{base}next", headers=cookie).status_code == 200, "reading goes on"
        process.rlimit(resource.RLIMIT_FSIZE, unlimited)
        key, answer = post()
        assert answer.status_code == 200, "room again, without a restart"
        acknowledged.append(key)
    assert {row["uuid"] for row in study.db.rows("SELECT uuid FROM score_events")} == set(acknowledged)
    assert len(acknowledged) > 5
    assert study.db.value("PRAGMA integrity_check") == "ok"
    study.db.close()
