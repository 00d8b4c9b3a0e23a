"""Migration 2: a database of schema 1 comes over whole, and every trigger of the new schema refuses what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from radpref.data.core.errors import Conflict
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.audit import broken_link
from radpref.data.study.db import StudyDatabase
from radpref.data.study.migrations import MIGRATIONS, _apply, migrate
from tests.support.errors import refuses

OLD_ROWS = """
INSERT INTO runs VALUES ('r', 'sets', 'done', '1', '2', '{}', '{}', NULL);
INSERT INTO images SELECT printf('%064d', value), 'synthetic', 8, 8, 8 FROM json_each('[0,1,2,3]');
INSERT INTO conditions(condition_id, mode, text) VALUES ('c', 'T2I', 'x');
INSERT INTO image_sets VALUES ('s', 'r', 0, 'c', 'rating'), ('t', 'r', 1, 'c', 'comparison');
INSERT INTO set_images SELECT 's', value, printf('%064d', value), value, 'baseline' FROM json_each('[0,1,2,3]');
INSERT INTO raters VALUES (1, 'ann', 'human', 'rater', 'h', 7, 1, '{}', '1'),
                          (2, 'sim', 'simulated', 'rater', NULL, 8, 1, '{}', '1');
INSERT INTO presentations VALUES (1, 'token-1', 1, 's', 0, '2031'), (2, 'token-2', 2, 's', 0, '0123');
INSERT INTO score_events VALUES
  (1, 'u1', 1, 1, 'score', 0, 'text', 3, NULL, '{}', '2026-01-02'),
  (2, 'u2', 1, 1, 'score', 0, 'text', NULL, NULL, '{}', '2026-01-03'),
  (3, 'u3', 2, 2, 'score', 1, 'text', 5, NULL, '{"a": 1}', '2026-01-04'),
  (4, 'u4', 1, 1, 'skip', NULL, NULL, NULL, 'reason', '{}', '2026-01-05');
INSERT INTO audit_events VALUES (1, '1', 'ann', 'login', '{}'), (2, '2', 'ann', 'password reset', '{"k": "ä"}');
INSERT INTO pairs VALUES (1, 'r', 's', 0, 1, 'text', 0.5, 1, 'human', 'train');
INSERT INTO pair_events VALUES (1, 1);
INSERT INTO sessions VALUES ('hash', 1, '1', '1', '2');
"""
CARRIED = {
    "runs": "*",
    "image_sets": "*",
    "set_images": "*",
    "raters": "*",
    "presentations": "presentation_id, token, rater_id, set_id, position, slots",
    "score_events": "*",
    "audit_events": "audit_id, at, actor, action, detail",
    "pairs": "*",
    "pair_events": "*",
    "sessions": "*",
}


def old_database(path: Path, rows: str = OLD_ROWS) -> None:
    """A database as the first release wrote it."""
    old = Database(path)
    old.conn.isolation_level = None
    _apply(old.conn, 1, MIGRATIONS[0])
    old.conn.executescript(rows)
    old.conn.close()


def content(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    return {name: connection.execute(f"SELECT {what} FROM {name}").fetchall() for name, what in CARRIED.items()}


def schema(connection: sqlite3.Connection) -> dict[str, str]:
    found = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return dict(found)


def test_every_row_comes_over_and_the_schema_is_that_of_a_fresh_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    old_database(path)
    before = sqlite3.connect(path)
    rows = content(before)
    before.close()
    db = StudyDatabase(path)
    assert content(db.connection) == rows
    fresh = Database(memory=True)
    migrate(fresh)
    assert schema(db.connection) == schema(fresh.conn)
    assert db.value("PRAGMA user_version") == len(MIGRATIONS)
    assert db.rows("PRAGMA foreign_key_check") == []
    assert db.value("PRAGMA integrity_check") == "ok"
    # People's presentations are a pilot's, a program's count; their first event made the pilot.
    assert [tuple(r.values()) for r in db.rows("SELECT phase, repeat_of FROM presentations")] == [
        ("pilot", None),
        ("main", None),
    ]
    assert db.rows("SELECT at, actor, stage FROM stages") == [
        {"at": "2026-01-02", "actor": "first score", "stage": "pilot"}
    ]
    assert broken_link(db.connection) is None
    assert db.rows("SELECT set_id, rater_id, value FROM current_scores") == [{"set_id": "s", "rater_id": 2, "value": 5}]
    assert [r["state"] for r in db.rows("SELECT state FROM counted_presentations ORDER BY 1")] == ["open", "skipped"]
    # The log goes on where it was, also where its end had been.
    with db.write() as connection:
        added = connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, created_at)"
            " VALUES ('u5', 1, 1, 'unskip', '2026-01-06')"
        )
    assert added.lastrowid == 5
    db.close()


def test_an_empty_old_study_is_a_draft(tmp_path: Path) -> None:
    old_database(tmp_path / "study.db", "")
    db = StudyDatabase(tmp_path / "study.db")
    assert db.value("SELECT stage FROM study_stage") == "draft"
    db.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    # Two presentations of one set to one rater: the new schema allows that for repeats only.
    old_database(path, OLD_ROWS + "INSERT INTO presentations VALUES (3, 'token-3', 1, 's', 1, '0123');")
    before = sqlite3.connect(path)
    rows, tables = content(before), schema(before)
    before.close()
    with refuses(Exception, "UNIQUE", "presentations.rater_id"):
        StudyDatabase(path)
    after = sqlite3.connect(path)
    assert (content(after), schema(after)) == (rows, tables)
    assert after.execute("PRAGMA user_version").fetchone() == (1,)
    after.close()


# --- triggers ----------------------------------------------------------------------------------------------------

STAGE = "INSERT INTO stages(at, actor, stage) VALUES ('1', 'x', '{}')"
EVENT = (
    "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, slot, criterion, value, created_at)"
    " VALUES (hex(randomblob(8)), {0}, {0}, '{1}', 0, 'text', {2}, '9')"
)
PAIR = "INSERT INTO pairs VALUES (9, 'r', '{}', 0, 1, 'text', 0.5, 1, 'human', 'train')"
EXPECTED = "INSERT INTO set_expectations VALUES ('{}', 0, 'text', 4, 5, 'why')"
RECORD = (
    "INSERT INTO records(record_id, dataset, patient_id, split, image_sha)"
    " SELECT 'r', 'd', 'p', 'train', sha256 FROM images LIMIT 1"
)
CAPTION = (
    "!INSERT INTO caption_events(record_id, run_id, source, version, caption, created_at)"
    " SELECT record_id, 'r', 'rules', '1', 'x', '1' FROM records"
)
REFUSED: list[tuple[str, tuple[str, ...], str]] = [
    ("score_events_no_update", (), "UPDATE score_events SET value = 0"),
    ("score_events_no_delete", (), "DELETE FROM score_events"),
    ("score_events_no_delete", (), "REPLACE INTO score_events SELECT * FROM score_events WHERE event_id = 1"),
    ("score_events_frozen", ("locked", "frozen"), EVENT.format(1, "score", 3)),
    (
        "score_events_retired",
        ("!UPDATE raters SET active = 0 WHERE rater_id = 1",),
        EVENT.format(1, "score", 3),
    ),
    ("stages_one_step", (), STAGE.format("frozen")),
    ("stages_one_step", ("locked",), STAGE.format("pilot")),
    ("stages_one_step", ("locked",), STAGE.format("locked")),
    ("stages_one_step", ("locked", "frozen"), STAGE.format("locked")),
    ("stages_no_update", (), "UPDATE stages SET actor = 'other'"),
    ("stages_no_delete", (), "DELETE FROM stages"),
    ("image_sets_locked", ("locked",), "INSERT INTO image_sets VALUES ('n', 'r', 9, 'c', 'rating')"),
    ("image_sets_kept", ("locked",), "UPDATE image_sets SET purpose = 'attention'"),
    ("image_sets_stay", ("locked",), "DELETE FROM image_sets WHERE set_id = 't'"),
    (
        "set_images_locked",
        ("locked",),
        "INSERT INTO set_images SELECT 't', 0, sha256, 1, 'a' FROM images LIMIT 1",
    ),
    ("set_images_kept", ("locked",), "UPDATE set_images SET arm = 'aligned'"),
    ("set_images_stay", ("locked",), "DELETE FROM set_images WHERE slot = 3"),
    ("set_expectations_locked", ("locked",), EXPECTED.format("t")),
    ("set_expectations_kept", ("!" + EXPECTED.format("s"), "locked"), "UPDATE set_expectations SET low = 0"),
    ("set_expectations_stay", ("!" + EXPECTED.format("s"), "locked"), "DELETE FROM set_expectations"),
    ("presentations_kept", (), "UPDATE presentations SET phase = 'main'"),
    ("presentations_kept", (), "UPDATE presentations SET slots = '3210'"),
    ("pairs_of_rating_sets", (), PAIR.format("t")),
    (
        "invites_once",
        ("!INSERT INTO invites VALUES (1, 'h', 1, '1', 'x', '2', '1')",),
        "UPDATE invites SET used_at = NULL",
    ),
    ("caption_events_no_update", (CAPTION,), "UPDATE caption_events SET caption = 'y'"),
    ("caption_events_no_delete", (CAPTION,), "DELETE FROM caption_events"),
    ("records_caption_locked", (CAPTION, "locked"), "UPDATE records SET caption = 'y'"),
    ("audit_events_no_update", (), "UPDATE audit_events SET actor = 'other'"),
    ("audit_events_no_delete", (), "DELETE FROM audit_events"),
    (
        "audit_events_chained",
        (),
        "INSERT INTO audit_events(at, actor, action) VALUES ('3', 'x', 'login')",
    ),
]


@pytest.fixture
def migrated(tmp_path: Path) -> Any:
    old_database(tmp_path / "study.db")
    db = StudyDatabase(tmp_path / "study.db")
    yield db
    db.close()


@pytest.mark.parametrize(("trigger", "before", "sql"), REFUSED)
def test_a_trigger_refuses(migrated: StudyDatabase, trigger: str, before: tuple[str, ...], sql: str) -> None:
    with migrated.write() as connection:
        connection.execute(RECORD)
    for step in before:
        with migrated.write() as connection:
            connection.execute(step[1:] if step.startswith("!") else STAGE.format(step))
    with refuses(Conflict), migrated.write() as connection:
        connection.execute(sql)
    # It is this trigger that refuses: without it, and those that keep the same rule, the statement goes through.
    for name in {trigger, "presentations_kept"} | ({"score_events_no_update"} if sql.startswith("REPLACE") else set()):
        migrated.connection.execute(f"DROP TRIGGER {name}")
    outcome = "went through"
    try:
        with migrated.write() as connection:
            connection.execute(sql)
    except Conflict as error:
        outcome = str(error)  # e.g. a second 'locked': another rule, not a trigger
    assert outcome == "went through" or "constraint failed" in outcome


def test_every_new_trigger_is_tried_here(migrated: StudyDatabase) -> None:
    names = {row["name"] for row in migrated.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    elsewhere = {"records_patient_split", "networks_one_role", "networks_no_update", "score_events_pilot"}
    assert names - elsewhere == {case[0] for case in REFUSED}


def test_the_first_event_of_a_person_makes_the_pilot(tmp_path: Path) -> None:
    rows = OLD_ROWS.split("INSERT INTO score_events")[0]
    old_database(tmp_path / "study.db", rows)
    db = StudyDatabase(tmp_path / "study.db")
    for rater, expected in ((2, "draft"), (1, "pilot"), (1, "pilot")):
        with db.write() as connection:
            connection.execute(EVENT.format(rater, "score", 3))
        assert db.value("SELECT stage FROM study_stage") == expected
    db.close()


@pytest.mark.parametrize("bad", [0, 5])
def test_a_rank_is_1_to_4(migrated: StudyDatabase, bad: int) -> None:
    with migrated.write() as connection:
        connection.execute(EVENT.format(1, "rank", 4))
        connection.execute(EVENT.format(1, "rank", "NULL"))
    with refuses(Conflict, "CHECK", "rank"), migrated.write() as connection:
        connection.execute(EVENT.format(1, "rank", bad))


def test_pilot_presentations_count_until_a_lock_that_leaves_them_out(migrated: StudyDatabase) -> None:
    def counted() -> list[int]:
        return [row["presentation_id"] for row in migrated.rows("SELECT * FROM counted_presentations ORDER BY 1")]

    assert counted() == [1, 2]
    with migrated.write() as connection:
        connection.execute(
            "INSERT INTO presentations(presentation_id, token, rater_id, set_id, position, slots, repeat_of)"
            " VALUES (3, 'token-3', 1, 's', 1, '0123', 1)"
        )
    assert counted() == [1, 2], "repeats are never counted"
    with migrated.write() as connection:
        connection.execute(STAGE.format("locked"))
    assert counted() == [2]
    migrated.connection.execute("DROP TRIGGER stages_no_update")
    migrated.connection.execute("UPDATE stages SET detail = '{\"keep_scores\": true}' WHERE stage = 'locked'")
    assert counted() == [1, 2]
