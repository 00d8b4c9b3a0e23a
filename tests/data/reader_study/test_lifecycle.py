"""Draft, pilot, locked, frozen: the steps, their seals, who may learn the arms, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpref.data.cli import study_app
from radpref.data.config.reader_study import AnnotateConfig
from radpref.data.core.errors import Conflict
from radpref.data.reader_study import lifecycle
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.seals import annotate_section, changed_keys
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support.data import add_event, add_rated_set
from tests.support.errors import missing_names, refuses

runner = CliRunner()


@pytest.fixture
def rated(study: Study) -> Study:
    """Two sets, one scored by a person (4 scores, a pilot), both by a simulated rater."""
    add_rated_set(study, 0)
    add_rated_set(study, 1)
    add_person_scores(study, 0)
    return study


def add_person_scores(study: Study, ordinal: int, phase: str = "pilot", name: str = "ann") -> dict[str, Any]:
    """Scores of a person for a set that is there; with a submit."""
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO raters(username, kind, role, order_seed, created_at) VALUES (?, 'human', 'rater', 1, '1')"
            " ON CONFLICT DO NOTHING",
            (name,),
        )
        rater = connection.execute("SELECT rater_id FROM raters WHERE username = ?", (name,)).fetchone()[0]
        place = connection.execute("SELECT count(*) FROM presentations WHERE rater_id = ?", (rater,)).fetchone()[0]
        added = connection.execute(
            "INSERT INTO presentations(token, rater_id, set_id, position, slots, phase)"
            " VALUES (hex(randomblob(9)), ?, ?, ?, '0123', ?)",
            (rater, f"set-{ordinal}", place, phase),
        )
        ids = {"presentation_id": added.lastrowid, "rater_id": rater}
        for slot in range(4):
            add_event(connection, ids, slot, "text", 2)
    return ids


def seal_problems(study: Study) -> list[str]:
    return [line for line in verify(study).problems if line.startswith(("stage", "[annotate]", "schema"))]


def set_toml(study: Study, section: str) -> Study:
    (study.root / "study.toml").write_text(f'name = "fresh"\n[data]\nimage_size = 64\n{section}')
    return Study(study.root)


# --- steps -------------------------------------------------------------------------------------------------------


def test_the_whole_life(rated: Study) -> None:
    db = rated.db
    assert lifecycle.stage(db) == "pilot"
    assert lifecycle.pilot_scores(db) == lifecycle.PilotScores(4, 1)
    locked = lifecycle.lock(rated, "office")
    assert (locked.stage, locked.keep_scores, locked.n_left_out) == ("locked", False, 4)
    assert db.value("SELECT count(*) FROM counted_presentations WHERE phase = 'pilot' AND purpose = 'rating'") == 0
    add_person_scores(rated, 1, "main")
    assert lifecycle.open_work(db) == [lifecycle.OpenWork("ann", n_sets=1, n_open=1, n_begun=1)]
    add_rater(db, "idle", None, "human", "rater")
    assert lifecycle.freeze(rated, "office") == lifecycle.Frozen("frozen", n_open=1, not_begun=["idle"])
    with refuses(Conflict, "frozen"):
        add_person_scores(rated, 0, "main", "bob")
    audited = db.rows("SELECT actor, action, detail FROM audit_events WHERE actor = 'office' ORDER BY audit_id")
    assert [(row["actor"], row["action"]) for row in audited] == [("office", "locked"), ("office", "frozen")]
    stored = [json.loads(row["detail"]) for row in db.rows("SELECT detail FROM stages ORDER BY stage_id")]
    assert [json.loads(row["detail"]) for row in audited] == stored[1:]
    assert [detail.get("n_events") for detail in stored] == [None, 12, 16]
    assert seal_problems(rated) == []
    assert verify(rated).checked["seals"] == 2


def test_kept_scores_stay_in_the_analysis(rated: Study) -> None:
    assert lifecycle.lock(rated, "office", keep_scores=True).n_left_out == 0
    assert rated.db.value("SELECT count(*) FROM counted_presentations WHERE phase = 'pilot'") == 3
    assert lifecycle.status(rated).history[-1].kept_scores is True


def test_a_draft_is_locked_without_a_pilot(study: Study) -> None:
    add_rated_set(study)
    lifecycle.lock(study, "office")
    assert [row["stage"] for row in study.db.rows("SELECT stage FROM stages ORDER BY stage_id")] == ["pilot", "locked"]
    assert seal_problems(study) == []


def test_what_a_lock_refuses(study: Study) -> None:
    with refuses(Conflict, "generate sets"):
        lifecycle.lock(study, "office")
    add_rated_set(study)
    with study.db.write() as connection:
        connection.execute("INSERT INTO runs VALUES ('other', 'sets', 'running', ?, NULL, '{}', '{}', NULL)", (now(),))
    with refuses(Conflict, "other", "generate sets"):
        lifecycle.lock(study, "office")
    with refuses(Conflict, "draft", "study lock"):
        lifecycle.freeze(study, "office")
    assert lifecycle.stage(study.db) == "draft"
    assert study.db.value("SELECT count(*) FROM audit_events") == 0
    with study.db.write() as connection:
        connection.execute("UPDATE runs SET status = 'done'")
    lifecycle.lock(study, "office")
    with refuses(Conflict, "locked"):
        lifecycle.lock(study, "office")
    lifecycle.freeze(study, "office")
    for step in (lifecycle.lock, lifecycle.freeze):
        with refuses(Conflict, "frozen"):
            step(study, "office")


def test_checks_are_made_before_the_lock(tiny_study: Study) -> None:
    with tiny_study.db.write() as connection:
        records = connection.execute("SELECT record_id FROM records WHERE split = 'val' LIMIT 20").fetchall()
    for number, (record,) in enumerate(records):
        add_rated_set(tiny_study, number, rater="ann", source=str(record))
    found = lifecycle.lock(tiny_study, "office").checks
    assert found.training == tiny_study.config.annotate.training_sets
    assert found.attention == 1
    assert found.note is None
    assert verify(tiny_study).problems == []


def test_a_lock_says_which_checks_could_not_be_made(study: Study) -> None:
    add_rated_set(study)
    assert "0 of 3 training sets could be made" in str(lifecycle.lock(study, "office").checks.note)


# --- seals -------------------------------------------------------------------------------------------------------


def tamper(study: Study, table: str, sql: str) -> None:
    """Change rows past the triggers of a table, which are put back."""
    connection = study.db.connection
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(sql)
    connection.execute("PRAGMA foreign_keys = ON")
    for _, text in found:
        connection.execute(text)


@pytest.mark.parametrize(
    ("table", "sql", "named"),
    [
        ("score_events", "UPDATE score_events SET value = 5 WHERE event_id = 2", "a score event up to number 12"),
        ("score_events", "UPDATE score_events SET client = '{\"a\": 1}' WHERE event_id = 12", "was changed"),
        ("score_events", "DELETE FROM score_events WHERE event_id = 3", "12 score events were sealed, 11 of them"),
        (
            "score_events",
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, created_at)"
            " VALUES ('x', 1, 1, 'unskip', '')",
            "1 score events were added after the freeze",
        ),
        ("set_images", "UPDATE set_images SET arm = 'aligned' WHERE slot = 2", "a set, its images"),
        ("conditions", "UPDATE conditions SET text = 'other'", "a set, its images"),
        ("image_sets", "UPDATE image_sets SET purpose = 'attention'", "a set, its images"),
        ("stages", "UPDATE stages SET detail = json_set(detail, '$.annotate.repeats', 0.4)", "stored [annotate]"),
        ("stages", "UPDATE stages SET detail = json_set(detail, '$.keep_scores', 1)", "differs from what the audit"),
        ("stages", "UPDATE stages SET detail = '{}'", "has no seal"),
    ],
)
def test_a_change_after_the_freeze_is_found(rated: Study, table: str, sql: str, named: str) -> None:
    lifecycle.lock(rated, "office")
    lifecycle.freeze(rated, "office")
    assert seal_problems(rated) == []
    tamper(rated, table, sql)
    found = seal_problems(rated)
    assert any(line.startswith("stage frozen") and named in line for line in found), found


def test_scoring_after_the_lock_breaks_no_seal(rated: Study) -> None:
    lifecycle.lock(rated, "office")
    add_person_scores(rated, 1, "main")
    assert seal_problems(rated) == []


def test_a_changed_annotate_section_is_named(rated: Study) -> None:
    lifecycle.lock(rated, "office")
    changed = set_toml(rated, "[annotate]\nrepeats = 0.2\nbreak_minutes = 5.0\n")
    assert sorted(changed_keys(changed)) == ["break_minutes = 5.0 (was 40.0)", "repeats = 0.2 (was 0.1)"]
    assert len(seal_problems(changed)) == 2
    with refuses(Conflict, "repeats", 0.2, 0.1):
        lifecycle.require_locked_config(changed)
    with refuses(Conflict, "break_minutes", 5.0, 40.0):
        lifecycle.freeze(changed, "office")
    assert lifecycle.status(changed).changed
    logins = set_toml(rated, "[annotate]\nsession_hours = 2.0\nidle_minutes = 5.0\n")
    lifecycle.require_locked_config(logins)
    assert seal_problems(logins) == []


def test_a_key_that_a_newer_radpref_brings_must_stand_at_its_default(
    rated: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radpref.data.reader_study.seals.FREE", ("session_hours", "idle_minutes", "tie_break"))
    lifecycle.lock(rated, "office")  # by a radpref that knew no tie_break
    monkeypatch.undo()
    assert "tie_break" in annotate_section(AnnotateConfig())
    assert changed_keys(rated) == []
    assert changed_keys(set_toml(rated, "[annotate]\ntie_break = true\n")) == ["tie_break = True (was False)"]


# --- arms --------------------------------------------------------------------------------------------------------


def test_arms_are_revealed_after_the_freeze_and_each_time_is_written_down(rated: Study) -> None:
    for _ in range(2):
        with refuses(Conflict, "study freeze"):
            lifecycle.reveal_arms(rated.db, "office", "a look")
        if lifecycle.stage(rated.db) == "pilot":
            lifecycle.lock(rated, "office")
    lifecycle.freeze(rated, "office")
    lifecycle.reveal_arms(rated.db, "office", "report")
    last = rated.db.row("SELECT * FROM audit_events ORDER BY audit_id DESC LIMIT 1")
    assert last is not None
    assert (last["actor"], last["action"], json.loads(last["detail"])) == (
        "office", lifecycle.REVEALED, {"purpose": "report"},
    )  # fmt: skip


def test_unblinding_needs_a_reason_and_stays_visible(rated: Study) -> None:
    with refuses(Conflict, "--reason"):
        lifecycle.unblind(rated.db, "office", "  ")
    assert lifecycle.early_unblinding(rated.db) is None
    lifecycle.unblind(rated.db, "office", "adverse finding")
    lifecycle.reveal_arms(rated.db, "office", "report")
    shown = lifecycle.status(rated)
    assert shown.arms_visible is True
    assert shown.unblinded is not None
    assert (shown.unblinded.actor, shown.unblinded.reason) == ("office", "adverse finding")
    lifecycle.lock(rated, "office")
    lifecycle.freeze(rated, "office")
    with refuses(Conflict, "frozen"):
        lifecycle.unblind(rated.db, "office", "again")


def test_a_study_of_programs_alone_is_free(study: Study) -> None:
    add_rated_set(study)
    lifecycle.reveal_arms(study.db, "office", "report")
    assert study.db.value("SELECT count(*) FROM audit_events") == 0


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def at(rated: Study) -> tuple[str, str]:
    return "--study", str(rated.root)


def run(*arguments: str) -> Any:
    return runner.invoke(study_app, list(arguments))


def test_lock_asks_when_scores_leave_the_analysis(rated: Study, at: tuple[str, str]) -> None:
    refused = run("lock", *at)
    assert isinstance(refused.exception, Conflict)
    assert missing_names(str(refused.exception), 4, 1, "--yes") == []
    assert lifecycle.stage(rated.db) == "pilot"
    locked = run("lock", "--yes", "--json", *at)
    assert json.loads(locked.stdout)["n_left_out"] == 4
    assert rated.db.value("SELECT actor FROM stages WHERE stage = 'locked'").startswith("command line")


def test_lock_with_kept_scores_asks_nothing(rated: Study, at: tuple[str, str]) -> None:
    assert run("lock", "--keep-scores", *at).exit_code == 0
    assert lifecycle.stage(rated.db) == "locked"


def test_freeze_says_who_is_not_done(rated: Study, at: tuple[str, str]) -> None:
    run("lock", "--yes", *at)
    add_person_scores(rated, 1, "main")
    with rated.db.write() as connection:
        sql = (
            "INSERT INTO raters(username, kind, role, order_seed, active, created_at) VALUES (?, 'human', ?, 1, ?, '1')"
        )
        connection.executemany(sql, [("bob", "rater", 1), ("gone", "rater", 0), ("office", "admin", 1)])
    refused = run("freeze", *at)
    assert isinstance(refused.exception, Conflict)
    assert missing_names(str(refused.exception), "bob", "ann", "gone", "office") == ["gone", "office"]
    assert lifecycle.status(rated).not_begun == ["bob"]
    assert run("freeze", "--yes", *at).exit_code == 0
    assert lifecycle.stage(rated.db) == "frozen"


def test_a_person_at_the_terminal_is_asked(rated: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from radpref.data.cli import study_commands
    from radpref.data.core import console

    asked: list[str] = []
    monkeypatch.setattr(console.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(console.typer, "confirm", lambda text, abort: asked.append(text))
    study_commands.lock(rated.root, keep_scores=False, yes=False, as_json=False)
    assert "There is no way back. Go on?" in asked[0]
    assert lifecycle.stage(rated.db) == "locked"


def test_show_and_unblind(rated: Study, at: tuple[str, str]) -> None:
    shown = run("show", *at).stdout
    assert "stage: pilot" in shown
    assert "radpref study lock" in shown
    assert isinstance(run("unblind", "--reason", " ", *at).exception, Conflict)
    assert run("unblind", *at).exit_code == 2
    assert run("unblind", "--reason", "adverse finding", *at).exit_code == 0
    assert "unblinded before the freeze by command line" in run("show", *at).stdout
    assert json.loads(run("show", "--json", *at).stdout)["stage"]["unblinded"]["reason"] == "adverse finding"


def test_verify_after_a_restore(rated: Study, tmp_path: Path) -> None:
    lifecycle.lock(rated, "office")
    for arguments in (("backup", str(tmp_path / "b"), "--study", str(rated.root)),
                      ("restore", str(tmp_path / "b"), str(tmp_path / "c"))):  # fmt: skip
        assert run(*arguments).exit_code == 0
    again = Study(tmp_path / "c")
    assert seal_problems(again) == []
    assert lifecycle.stage(again.db) == "locked"
    again.db.close()
