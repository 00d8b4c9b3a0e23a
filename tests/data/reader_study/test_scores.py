from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from radpref.data.core.errors import Conflict, InvalidInput, NotFound, RadprefError
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import (
    TABLE_COLUMNS,
    ScoreEvent,
    StaleWrite,
    record_event,
    record_events,
    required_scores,
    score_table,
)
from radpref.data.study.study import Study
from tests.support.annotate import add_sets, make_study
from tests.support.errors import refuses


@pytest.fixture
def scored(tmp_path: Path) -> Iterator[Study]:
    study = make_study(tmp_path)
    for name in ("ann", "bob"):
        rater = add_rater(study.db, name)
        ensure_presentations(study.db, rater.rater_id, 0)
    yield study
    study.db.close()


def presentation(study: Study, mode: str, rater_id: int = 1) -> int:
    return int(
        study.db.value(
            "SELECT presentation_id FROM presentations JOIN image_sets USING (set_id)"
            " JOIN conditions USING (condition_id) WHERE mode = ? AND rater_id = ?",
            (mode, rater_id),
        )
    )


def event(shown: int, kind: Any = "score", **fields: Any) -> ScoreEvent:
    if kind == "score":
        fields = {"slot": 0, "criterion": "text", "value": 3, **fields}
    return ScoreEvent(
        uuid=fields.pop("uuid", str(uuid.uuid4())),
        presentation_id=shown,
        rater_id=fields.pop("rater_id", 1),
        kind=kind,
        **fields,
    )


def test_required_scores() -> None:
    assert required_scores("T2I") == [(0, "text"), (1, "text"), (2, "text"), (3, "text")]
    assert len(required_scores("TM2I")) == 8
    with refuses(InvalidInput, "X2I", "T2I", "M2I", "TM2I"):
        required_scores("X2I")


def test_same_uuid_a_hundred_times_is_one_row(scored: Study) -> None:
    first = event(presentation(scored, "T2I"))
    ids = {record_event(scored.db, first) for _ in range(100)}
    assert len(ids) == 1
    assert scored.db.value("SELECT count(*) FROM score_events") == 1


def test_same_uuid_in_parallel_is_one_row(scored: Study) -> None:
    first, ids = event(presentation(scored, "T2I")), []
    threads = [threading.Thread(target=lambda: ids.append(record_event(scored.db, first))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_same_uuid_for_other_content_is_a_conflict(scored: Study) -> None:
    shown, name = presentation(scored, "T2I"), str(uuid.uuid4())
    record_event(scored.db, event(shown, uuid=name, value=3))
    with refuses(Conflict, name):
        record_event(scored.db, event(shown, uuid=name, value=4))
    assert score_table(scored.db)["value"].tolist() == [3]


@pytest.mark.parametrize("value", [3.5, 3.0, "5", True, False, float("nan"), 6, -1, 10**30, [3], {"a": 1}, b"3"])
def test_scores_are_whole_numbers_from_0_to_5(scored: Study, value: Any) -> None:
    with refuses(InvalidInput, repr(value), "0-5"):
        record_event(scored.db, event(presentation(scored, "T2I"), value=value))
    assert scored.db.value("SELECT count(*) FROM score_events") == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"slot": None},
        {"slot": 4},
        {"slot": -1},
        {"slot": True},
        {"slot": "0"},
        {"criterion": None},
        {"criterion": "artifact"},
        {"criterion": ["text"]},
        {"uuid": "x"},
        {"uuid": None},
        {"uuid": str(uuid.uuid4()).upper()},
        {"comment": "hello"},
        {"client": {"x": float("nan")}},
        {"client": {"x": "y" * 5000}},
        {"client": {"x": object()}},
    ],
)
def test_unusable_fields(scored: Study, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        record_event(scored.db, event(presentation(scored, "T2I"), **fields))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vote", {}),
        (None, {}),
        ("submit", {"slot": 1}),
        ("submit", {"value": 1}),
        ("skip", {}),
        ("comment", {}),
        ("submit", {"comment": "x"}),
        ("skip", {"comment": "x", "slot": 0}),
        ("comment", {"comment": "x" * 2001}),
        ("comment", {"comment": "\ud800"}),
        ("comment", {"comment": 3}),
        ("comment", {"comment": "a\x00b"}),
        ("flag", {"slot": 0, "criterion": "artifact", "value": 2}),
        ("flag", {"slot": 0, "criterion": "artifact"}),
        ("flag", {"slot": 0, "criterion": "text", "value": 1}),
        ("flag", {"criterion": "artifact", "value": 1}),
    ],
)
def test_unusable_kinds(scored: Study, kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        record_event(scored.db, event(presentation(scored, "T2I"), kind, **fields))
    assert "\n" not in str(caught.value)


def test_every_message_is_one_line(scored: Study) -> None:
    with pytest.raises(RadprefError) as caught:
        record_event(scored.db, event(presentation(scored, "T2I"), value="x\n" * 400))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_only_asked_criteria(scored: Study) -> None:
    with refuses(InvalidInput, "T2I", "mask"):
        record_event(scored.db, event(presentation(scored, "T2I"), criterion="mask"))
    with refuses(InvalidInput, "M2I", "text"):
        record_event(scored.db, event(presentation(scored, "M2I")))
    for criterion in ("text", "mask"):
        record_event(scored.db, event(presentation(scored, "TM2I"), criterion=criterion))


def test_nobody_scores_for_another(scored: Study) -> None:
    with pytest.raises(NotFound):
        record_event(scored.db, event(presentation(scored, "T2I", rater_id=2)))
    with pytest.raises(NotFound):
        record_event(scored.db, event(999))


def test_undo_is_an_event_and_null_is_not_zero(scored: Study) -> None:
    shown = presentation(scored, "T2I")
    for value in (0, 4):
        record_event(scored.db, event(shown, value=value))
    record_event(scored.db, event(shown, slot=1, value=0))
    assert sorted(score_table(scored.db)[["slot", "value"]].itertuples(index=False, name=None)) == [(0, 4), (1, 0)]
    record_event(scored.db, event(shown, value=None))
    assert score_table(scored.db)["slot"].tolist() == [1]
    assert scored.db.value("SELECT count(*) FROM score_events") == 4


def test_the_log_refuses_changes(scored: Study) -> None:
    record_event(scored.db, event(presentation(scored, "T2I")))
    for sql in ("UPDATE score_events SET value = 5", "DELETE FROM score_events"):
        with refuses(Conflict, "append-only"), scored.db.write() as connection:
            connection.execute(sql)
    with pytest.raises(sqlite3.IntegrityError):
        scored.db.connection.execute("UPDATE score_events SET value = 5")


def test_submit_needs_every_score(scored: Study) -> None:
    shown = presentation(scored, "TM2I")
    with refuses(Conflict, 8):
        record_event(scored.db, event(shown, "submit"))
    events = [event(shown, slot=slot, criterion=criterion) for slot, criterion in required_scores("TM2I")]
    assert len(record_events(scored.db, [*events, event(shown, "submit")])) == 9
    state = "SELECT state FROM presentation_states WHERE presentation_id = ?"
    assert scored.db.value(state, (shown,)) == "submitted"


def test_many_events_are_all_or_none(scored: Study) -> None:
    shown = presentation(scored, "T2I")
    with pytest.raises(InvalidInput):
        record_events(scored.db, [event(shown), event(shown, criterion="mask")])
    assert scored.db.value("SELECT count(*) FROM score_events") == 0


def test_skipped_sets_leave_the_table(scored: Study) -> None:
    shown = presentation(scored, "T2I")
    record_event(scored.db, event(shown))
    record_event(scored.db, event(shown, "skip", comment="unclear"))
    assert score_table(scored.db).empty
    record_event(scored.db, event(shown, "unskip"))
    assert len(score_table(scored.db)) == 1


def test_stale_windows_are_refused(scored: Study) -> None:
    shown = presentation(scored, "T2I")
    record_event(scored.db, event(shown, client={"tab": "one"}), seen=0)
    record_event(scored.db, event(shown, slot=1, client={"tab": "one"}), seen=0)  # own events are no surprise
    with refuses(StaleWrite):
        record_event(scored.db, event(shown, slot=2, client={"tab": "two"}), seen=1)
    record_event(scored.db, event(shown, slot=2, client={"tab": "two"}), seen=2)
    with pytest.raises(StaleWrite):
        record_event(scored.db, event(shown, slot=3, client={"tab": "one"}), seen=2)


def test_a_repeated_event_is_never_stale(scored: Study) -> None:
    shown = presentation(scored, "T2I")
    first = event(shown, client={"tab": "one"})
    known = record_event(scored.db, first, seen=0)
    record_event(scored.db, event(shown, client={"tab": "two"}), seen=1)
    assert record_event(scored.db, first, seen=0) == known


def test_orders_are_seeded_and_never_change(tmp_path: Path) -> None:
    def orders(name: str, seed: int) -> tuple[Study, list[tuple[str, str]]]:
        study = make_study(tmp_path / name, modes=("T2I",) * 16)
        rater = add_rater(study.db, "ann")
        assert ensure_presentations(study.db, rater.rater_id, seed) == 16
        return study, rows(study)

    def rows(study: Study) -> list[tuple[str, str]]:
        found = study.db.rows("SELECT set_id, slots FROM presentations ORDER BY position")
        return [(row["set_id"], row["slots"]) for row in found]

    (one, first), (_, again), (_, other) = orders("a", 1), orders("b", 1), orders("c", 2)
    assert first == again != other
    assert sorted(row[0] for row in first) != [row[0] for row in first]
    add_sets(one, ("M2I", "M2I"), seed=9)
    assert ensure_presentations(one.db, 1, 1) == 2
    assert ensure_presentations(one.db, 1, 1) == 0
    assert rows(one)[:16] == first
    assert one.db.value("SELECT count(DISTINCT token) FROM presentations") == 18


def test_every_slot_stands_equally_often_at_every_letter(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 16)
    ensure_presentations(study.db, add_rater(study.db, "ann").rater_id, 0)
    slots = [row["slots"] for row in study.db.rows("SELECT slots FROM presentations")]
    counts = Counter((place, slot) for order in slots for place, slot in enumerate(order))
    assert set(counts.values()) == {4}
    assert len(counts) == 16


def test_raters_have_orders_of_their_own(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 12)
    found = []
    for name in ("ann", "bob"):
        rater = add_rater(study.db, name)
        ensure_presentations(study.db, rater.rater_id, 0)
        rows = study.db.rows("SELECT set_id FROM presentations WHERE rater_id = ? ORDER BY position", (rater.rater_id,))
        found.append([row["set_id"] for row in rows])
    assert found[0] != found[1]
    assert sorted(found[0]) == sorted(found[1])


def test_unknown_rater_gets_no_presentations(scored: Study) -> None:
    with pytest.raises(NotFound):
        ensure_presentations(scored.db, 99, 0)


def test_score_table_has_its_columns_when_empty(study: Study) -> None:
    table = score_table(study.db)
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TABLE_COLUMNS


def test_score_table_keeps_people_and_programs_apart(scored: Study) -> None:
    sim = add_rater(scored.db, "sim", kind="simulated")
    ensure_presentations(scored.db, sim.rater_id, 0)
    record_event(scored.db, event(presentation(scored, "T2I")))
    record_event(scored.db, event(presentation(scored, "T2I", sim.rater_id), rater_id=sim.rater_id, value=1))
    assert len(score_table(scored.db)) == 2
    assert score_table(scored.db, "human")["username"].tolist() == ["ann"]
    assert score_table(scored.db, "simulated")["rater_kind"].tolist() == ["simulated"]


def test_only_rating_sets_are_in_the_table(scored: Study) -> None:
    record_event(scored.db, event(presentation(scored, "T2I")))
    with scored.db.write() as connection:
        connection.execute("UPDATE image_sets SET purpose = 'training'")
    assert score_table(scored.db).empty
