"""What server and scoring page say to each other: stages, training and its gate, repeats, ranks, the log."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from radpref.annotate_app import assignment, scoring
from radpref.annotate_app.presentations import Presentation, rater_presentations
from radpref.annotate_app.server import create_app
from radpref.data.datasets.importing import import_records
from radpref.data.study.audit import broken_link
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_checks, add_people, add_sets, make_study

GATED = "[annotate]\ntraining_sets = 2\ngate = 0.75\ngate_attempts = 2\nrepeats = 0.0\nattention = 0.0\n"
REPEATS = "[annotate]\ntraining_sets = 0\nrepeats = 0.5\nrepeat_gap_sets = 1\nattention = 0.0\nrepeat_gap_hours = "
Open = Callable[..., tuple[Study, TestClient]]


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Open]:
    """A study with ``n`` T2I sets, and a browser in which ann is logged in."""
    opened: list[tuple[Study, TestClient]] = []

    def make(toml: str, n: int = 4, training: int = 0) -> tuple[Study, TestClient]:
        study = make_study(tmp_path, modes=("T2I",) * n, toml=toml)
        add_people(study)
        if training:
            add_checks(study, "training", training)
        client = TestClient(create_app(study))
        client.__enter__()
        assert client.post("/login", json={"username": "ann", "password": PASSWORD}).status_code == 200
        opened.append((study, client))
        return study, client

    yield make
    for study, client in opened:
        client.__exit__(None, None, None)
        study.db.close()


def send(client: TestClient, token: str, kind: str, letter: str | None = None, **fields: Any) -> Any:
    body = {"uuid": str(uuid.uuid4()), "seen": 1000, "tab": "one", "kind": kind, "letter": letter, **fields}
    return client.post(f"/api/sets/{token}/events", json=body)


def finish(client: TestClient, state: dict[str, Any], value: int | dict[str, int] = 3) -> dict[str, Any]:
    """Score every image (one value, or one by letter) and submit; the answer to the submit."""
    for letter in "ABCD":
        for criterion in state["criteria"]:
            chosen = value if isinstance(value, int) else value[letter]
            assert send(client, state["token"], "score", letter, criterion=criterion, value=chosen).status_code == 200
    answer = send(client, state["token"], "submit")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def next_of(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/next").json()
    return found


def stage_to(study: Study, *stages: str, detail: str = "{}") -> None:
    with study.db.write() as connection:
        for stage in stages:
            connection.execute(
                "INSERT INTO stages(at, actor, stage, detail) VALUES (?, 'office', ?, ?)", (now(), stage, detail)
            )


def test_training_comes_first_and_explains_itself(enter: Open) -> None:
    _, client = enter("[annotate]\ntraining_sets = 2\nrepeats = 0.0\nattention = 0.0\n", training=2)
    for number in (1, 2):
        found = next_of(client)
        state = found["set"]
        assert (found["stage"], found["total"], found["n_done"]) == ("training", 2, number - 1)
        assert (state["training"], state["number"], state["feedback"]) == (True, number, None)
        answer = finish(client, state, {"A": 5, "B": 4, "C": 0, "D": 5})
        assert (answer["n_done"], answer["share"]) == (number, 0.75)
        assert answer["feedback"]["A"]["text"]["ok"] is True
        assert answer["feedback"]["C"]["text"] | {"why": ""} == {"low": 4, "high": 5, "ok": False, "why": ""}
        assert answer["feedback"]["C"]["text"]["why"].startswith("reason ")
        again = client.get(f"/api/sets/{state['token']}").json()
        assert again["feedback"] == answer["feedback"]
    found = next_of(client)
    assert (found["stage"], found["total"], found["n_done"], found["last"]) == ("rating", 4, 0, None)
    assert (found["set"]["training"], found["set"]["feedback"], found["set"]["number"]) == (False, None, 1)
    assert found["set"]["previous"] is None


def test_an_answered_training_set_cannot_be_bettered(enter: Open) -> None:
    study, client = enter(GATED, training=2)
    state = next_of(client)["set"]
    name = str(uuid.uuid4())
    for letter in "ABCD":
        send(client, state["token"], "score", letter, criterion="text", value=0)
    assert send(client, state["token"], "submit", uuid=name).json()["share"] == 0.0
    answer = send(client, state["token"], "score", "A", criterion="text", value=5)
    assert answer.status_code == 409
    assert "reason" not in answer.json(), "no stale window: the page must not offer a reload"
    assert send(client, state["token"], "submit", uuid=name).status_code == 200, "a retried submit is none"
    assert study.db.value("SELECT count(*) FROM score_events") == 5


def test_the_gate_opens_for_who_answers_well_enough(enter: Open) -> None:
    study, client = enter(GATED, training=2)
    finish(client, next_of(client)["set"], 5)
    finish(client, next_of(client)["set"], {"A": 4, "B": 5, "C": 1, "D": 0})  # 6 of 8
    assert next_of(client)["stage"] == "rating"
    assert study.db.row("SELECT actor, share FROM admissions") == {"actor": "gate", "share": 0.75}
    assert study.db.value("SELECT count(*) FROM audit_events WHERE action = 'rater admitted'") == 1
    next_of(client)
    assert study.db.value("SELECT count(*) FROM admissions") == 1
    assert broken_link(study.db.connection) is None


def test_the_gate_stays_shut_and_attempts_run_out(enter: Open) -> None:
    study, client = enter(GATED, training=2)
    orders, room = [], next_of(client)["room"]
    for attempt in (1, 2):
        assert client.post("/api/training/again").status_code == 409, "not in the middle of an attempt"
        letters = {}
        for number in (1, 2):
            state = next_of(client)["set"]
            assert (state["number"], state["total"], state["n_done"]) == (number, 2, number - 1)
            finish(client, state, 5 if number == 1 else 0)
            shown = study.db.row("SELECT set_id, slots FROM presentations WHERE token = ?", (state["token"],))
            assert shown is not None
            letters[shown["set_id"]] = shown["slots"]
        orders.append(letters)
        found = next_of(client)
        assert (found["stage"], found["set"], found["room"]) == ("gate", None, room)
        assert found["gate"] == {"share": 0.5, "pass": 0.75, "attempt": attempt, "attempts": 2, "blocked": attempt == 2}
        if attempt == 1:
            begun = client.post("/api/training/again")
            assert begun.status_code == 200
            assert begun.json()["stage"] == "training"
    assert client.post("/api/training/again").status_code == 409
    assert orders[0].keys() == orders[1].keys()
    assert all(orders[0][name] != orders[1][name] for name in orders[0])
    assert study.db.value("SELECT count(*) FROM presentations WHERE repeat_of IS NOT NULL") == 2
    with study.db.write() as connection:
        connection.execute("INSERT INTO admissions VALUES (1, ?, 'office', NULL)", (now(),))
    assert next_of(client)["stage"] == "rating"


def test_training_again_is_not_for_everybody(enter: Open) -> None:
    _, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    assert client.post("/api/training/again").status_code == 409


def test_numbers_and_neighbours_follow_the_order_of_finishing(enter: Open) -> None:
    _, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    first = next_of(client)["set"]
    second = client.get(f"/api/sets/{first['next']}").json()
    assert second["number"] == 1, "nothing is finished yet"
    finish(client, second)
    finish(client, first)
    found = next_of(client)
    assert found["last"] == first["token"]
    assert (found["set"]["number"], found["set"]["previous"]) == (3, first["token"])
    back = client.get(f"/api/sets/{first['token']}").json()
    assert (back["number"], back["previous"]) == (2, second["token"])
    # Opened again, it keeps its number.
    send(client, second["token"], "score", "A", criterion="text", value=None)
    assert client.get(f"/api/sets/{second['token']}").json()["number"] == 1
    assert next_of(client)["set"]["token"] == second["token"]


def test_repeats_wait_their_hours(enter: Open) -> None:
    study, client = enter(REPEATS + "4.0\n")
    seen, total = [], 6
    while (found := next_of(client))["set"] is not None:
        assert (found["stage"], found["total"], found["set"]["number"]) == ("rating", total, len(seen) + 1)
        seen.append(found["set"]["token"])
        finish(client, found["set"])
    assert len(seen) == 4
    assert (found["stage"], found["n_done"]) == ("waiting", 4)
    finished = study.db.value(
        "SELECT min(e.created_at) FROM score_events e JOIN presentations p ON p.repeat_of = e.presentation_id"
        " WHERE e.kind = 'submit'"
    )
    wait = datetime.fromisoformat(found["opens_at"]) - datetime.fromisoformat(finished)
    assert timedelta(hours=4) < wait <= timedelta(hours=4, seconds=1)
    assert found["last"] == seen[-1]


def test_repeats_look_like_all_other_sets(enter: Open) -> None:
    study, client = enter(REPEATS + "0.0\n")
    add_checks(study, "attention", 2)
    keys, sizes, tokens = set(), set(), []
    while (found := next_of(client))["set"] is not None:
        state = found["set"]
        keys.add(tuple(sorted(state)))
        sizes |= {len(client.get(f"/api/sets/{state['token']}/images/{letter}").content) for letter in "ABCD"}
        tokens.append(state["token"])
        finish(client, state)
    assert found["stage"] == "done"
    assert (len(keys), len(sizes), len(tokens)) == (1, 1, 6)
    repeats = study.db.rows(
        "SELECT p.slots AS again, o.slots AS first, p.position - o.position AS gap, p.set_id = o.set_id AS same"
        " FROM presentations p JOIN presentations o ON o.presentation_id = p.repeat_of"
    )
    assert len(repeats) == 2
    assert all(row["again"] != row["first"] and row["gap"] > 1 and row["same"] for row in repeats)


def test_a_frozen_study_is_closed(enter: Open) -> None:
    study, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    state = next_of(client)["set"]
    finish(client, state)
    stage_to(study, "locked", "frozen", detail='{"keep_scores": 1}')
    found = next_of(client)
    assert (found["stage"], found["set"], found["n_done"], found["total"]) == ("closed", None, 1, 4)
    assert send(client, state["token"], "score", "A", criterion="text", value=1).status_code == 409


def test_a_lock_lets_people_begin_anew_in_the_same_room(enter: Open) -> None:
    study, client = enter("[annotate]\ntraining_sets = 1\nrepeats = 0.0\nattention = 0.0\n", training=1)
    finish(client, next_of(client)["set"])
    pilot = next_of(client)
    finish(client, pilot["set"])
    stage_to(study, "locked")
    found = next_of(client)
    assert (found["room"], found["stage"]) == (pilot["room"], "rating"), "who was trained is not trained again"
    assert (found["total"], found["n_done"], found["last"]) == (4, 0, None)
    assert study.db.value("SELECT count(*) FROM presentations WHERE phase = 'main'") == 4
    assert client.get(f"/api/sets/{pilot['set']['token']}").json()["state"] == "submitted"
    late = send(client, pilot["set"]["token"], "score", "A", criterion="text", value=1)
    assert late.status_code == 200, "an outbox may still hold scores of the pilot"


def test_a_lock_that_keeps_the_scores_goes_on(enter: Open) -> None:
    study, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    finish(client, next_of(client)["set"])
    stage_to(study, "locked", detail='{"keep_scores": true}')
    found = next_of(client)
    assert (found["total"], found["n_done"]) == (4, 1)


def test_ranks_and_the_log(enter: Open) -> None:
    _, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\ntie_break = true\n")
    found = next_of(client)
    token = found["set"]["token"]
    assert (found["tie_break"], found["break_minutes"], found["set"]["tie_break"]) == (True, 40.0, True)
    assert found["set"]["ranks"]["A"] == {"text": None}
    assert found["set"]["log"] == []
    send(client, token, "score", "A", criterion="text", value=4)
    send(client, token, "rank", "A", criterion="text", value=1)
    send(client, token, "rank", "B", criterion="text", value=2)
    send(client, token, "rank", "B", criterion="text", value=None)
    send(client, token, "comment", comment="x")
    state = client.get(f"/api/sets/{token}").json()
    assert (state["ranks"]["A"]["text"], state["ranks"]["B"]["text"], state["version"]) == (1, None, 5)
    assert state["scores"]["A"] == {"text": 4}
    assert [(one["kind"], one["letter"], one["criterion"], one["value"]) for one in state["log"]] == [
        ("score", "A", "text", 4),
        ("rank", "A", "text", 1),
        ("rank", "B", "text", 2),
        ("rank", "B", "text", None),
        ("comment", None, None, None),
    ]
    assert set(state["log"][0]) == {"kind", "letter", "criterion", "value", "comment"}
    for value in (0, 5, 1.5, "1", True):
        assert send(client, token, "rank", "A", criterion="text", value=value).status_code == 422
    assert send(client, token, "rank", "A", criterion="mask", value=1).status_code == 422
    assert send(client, token, "rank", criterion="text", value=1).status_code == 422


def test_a_score_costs_two_queries_and_an_insert(enter: Open) -> None:
    """One SELECT of the presentation; in the write one SELECT and the INSERT. More raters must not make it dearer."""
    study, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    token = next_of(client)["set"]["token"]
    send(client, token, "score", "A", criterion="text", value=4)
    statements: list[str] = []
    study.db.connection.set_trace_callback(statements.append)
    body = {"uuid": str(uuid.uuid4()), "seen": 1, "tab": "one", "kind": "score", "letter": "B"}
    scoring.save_event(study, 1, token, {**body, "criterion": "text", "value": 3})
    study.db.connection.set_trace_callback(None)
    kinds = [" ".join(text.split()[:2]) for text in dict.fromkeys(statements)]  # triggers repeat their statement
    assert kinds == ["SELECT p.presentation_id,", "BEGIN IMMEDIATE", "SELECT event_id,", "INSERT INTO", "COMMIT"]


def test_an_unfinished_run_is_not_offered(enter: Open) -> None:
    study, client = enter("[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n")
    add_sets(study, ("T2I",) * 2, seed=7)
    with study.db.write() as connection:
        connection.execute("UPDATE runs SET status = 'running' WHERE run_id = 'secret-run-7'")
    assert next_of(client)["total"] == 4
    with study.db.write() as connection:
        connection.execute("UPDATE runs SET status = 'done'")
    assert next_of(client)["total"] == 6


def presentation(number: int, repeat_of: int | None = None, finish: int | None = None) -> Presentation:
    done = finish is not None
    return Presentation(number, f"token-{number}", number, "set", "rating", repeat_of, "main", done, finish, finish)


@pytest.mark.parametrize(("hours", "expected"), [(None, "token-1"), (3.9, None), (4.1, "token-2")])
def test_a_repeat_comes_four_hours_after_its_first_showing(
    enter: Open, hours: float | None, expected: str | None
) -> None:
    """Before that it is passed over; and while the first showing is open, that one comes."""
    study, client = enter(REPEATS + "4.0\n", n=1)
    next_of(client)
    if hours is not None:
        at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        with study.db.write() as connection:
            connection.execute(
                "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, created_at)"
                " VALUES ('x', 1, 1, 'submit', ?)",
                (at,),
            )
    order = [presentation(1, finish=None if hours is None else 1), presentation(2, repeat_of=1)]
    found = assignment.next_open(study, order)
    assert (found.token if found else None) == expected


def test_a_set_behind_comes_before_one_that_was_passed_over(enter: Open) -> None:
    study, _ = enter(REPEATS + "4.0\n", n=1)
    order = [presentation(1, finish=1), presentation(2), presentation(3), presentation(4)]
    after = [assignment.next_open(study, order, number) for number in (-1, 1, 2, 3, 4)]
    assert [found.token if found else None for found in after] == [f"token-{number}" for number in (2, 2, 3, 4, 2)]
    assert assignment.next_open(study, order[:2], 2) is None, "not the set itself"


def test_real_images_come_in_the_form_of_sampled_ones(tmp_path: Path) -> None:
    """The default study on phantoms: every set a rater is given has the same keys and the same number of bytes."""
    toml = "[data]\nimage_size = 64\nn_train = 40\nn_val = 2\nn_test = 2\n[annotate]\nattention = 0.3\nrepeats = 0.2\n"
    study = Study.create(tmp_path / "study", toml + "repeat_gap_hours = 0.0\n")
    import_records(study)
    add_sets(study, ("T2I",) * 10, size=64, bits=8)
    add_people(study)
    create_app(study)
    seen = []
    scoring.next_set(study, 1)
    for one in rater_presentations(study, 1):
        state = scoring.set_state(study, 1, one.token)
        pixels = [len(scoring.image_bytes(study, 1, one.token, letter)) for letter in "ABCD"]
        seen.append((one.purpose, state.training, tuple(sorted(asdict(state))), state.image, *pixels))
    assert Counter(row[0] for row in seen) == {"training": 3, "rating": 12, "attention": 3}
    assert len({row[2:] for row in seen}) == 1
    assert {row[1] for row in seen if row[0] != "training"} == {False}
    study.db.close()
