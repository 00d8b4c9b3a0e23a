"""Every kind of damage that `study verify` names."""

import json

import pytest
from typer.testing import CliRunner

from radpref.data.cli import study_app
from radpref.data.core.sqlite import sqlite3
from radpref.data.imaging.images import encode_png
from radpref.data.study.runs import now, start_run
from radpref.data.study.splits import hash_lines
from radpref.data.upkeep.verify import MAX_LISTED, verify
from tests.support.data import add_event, add_pair, add_rated_set, gray


def problems(study):
    found = verify(study)
    assert all("\n" not in line for line in found.problems + found.notes)
    assert found.ok == (not found.problems)
    return found.problems


def test_sound_study(tiny_study):
    ids = [add_rated_set(tiny_study, i, mode) for i, mode in enumerate(("T2I", "M2I", "TM2I"))]
    with tiny_study.db.write() as connection:
        add_pair(connection, ids[0])
    before = tiny_study.db.path.read_bytes()
    found = verify(tiny_study)
    assert found.problems == []
    assert found.notes == []
    assert found.checked["images"] == 48 + 12
    assert found.checked["events"] == 12
    assert tiny_study.db.path.read_bytes() == before


def first_file(study, kind="images"):
    return min((study.root / kind).rglob("*.png"))


def test_changed_missing_and_strange_files(tiny_study):
    files = sorted((tiny_study.root / "images").rglob("*.png"))
    files[0].write_bytes(encode_png(gray(1)))
    files[1].unlink()
    (tiny_study.root / "images" / "notes.txt").write_text("x")
    sorted((tiny_study.root / "masks").rglob("*.png"))[0].unlink()
    found = problems(tiny_study)
    assert len(found) == 4
    assert any("was changed" in line and files[0].name in line for line in found)
    assert any("image" in line and "is missing" in line and files[1].name in line for line in found)
    assert any("mask" in line and "is missing" in line for line in found)
    assert any("notes.txt does not belong here" in line for line in found)


def test_left_over_file_is_a_note(tiny_study):
    tiny_study.store.write_image(gray(5), "synthetic")
    found = verify(tiny_study)
    assert found.ok
    assert "an interruption left it" in found.notes[0]


def test_many_problems_are_counted(tiny_study):
    for path in (tiny_study.root / "images").rglob("*.png"):
        path.unlink()
    found = problems(tiny_study)
    assert len(found) == MAX_LISTED + 1
    assert found[-1] == f"... and {48 - MAX_LISTED} more like the last line"


def tamper(study, *statements):
    """Change the file behind the back of radpref: no foreign keys, no triggers."""
    study.db.close()
    connection = sqlite3.connect(study.root / "study.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_dropped_trigger_and_deleted_scores(tiny_study):
    add_rated_set(tiny_study)
    tamper(tiny_study, "DROP TRIGGER score_events_no_delete", "DELETE FROM score_events WHERE event_id = 4")
    found = problems(tiny_study)
    assert "schema: trigger score_events_no_delete is missing" in found
    assert "event log: 4 events were written, 3 are there up to number 3" in found


def test_changed_trigger(tiny_study):
    tamper(
        tiny_study,
        "DROP TRIGGER score_events_no_update",
        "CREATE TRIGGER score_events_no_update BEFORE UPDATE ON score_events BEGIN SELECT 1; END",
    )
    assert problems(tiny_study) == ["schema: trigger score_events_no_update was changed"]


def test_foreign_keys(tiny_study):
    tamper(tiny_study, "DELETE FROM masks")
    assert any(line.startswith("foreign key: row") and "masks" in line for line in problems(tiny_study))


def test_event_of_another_rater_and_of_another_criterion(tiny_study):
    ids = add_rated_set(tiny_study, 0)
    other = add_rated_set(tiny_study, 1, rater="sim-2")
    with tiny_study.db.write() as connection:
        wrong_rater = add_event(connection, ids, 0, "text", 2, rater_id=other["rater_id"])
        wrong_criterion = add_event(connection, ids, 0, "mask", 2)
    assert problems(tiny_study) == [
        f"event {wrong_rater} is by another rater than its presentation",
        f"event {wrong_criterion} scores mask of a T2I set",
    ]


def test_clock_that_went_back_is_a_note(tiny_study):
    ids = add_rated_set(tiny_study)
    with tiny_study.db.write() as connection:
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, created_at)"
            " VALUES ('u', ?, ?, 'submit', '2001')",
            (ids["presentation_id"], ids["rater_id"]),
        )
    found = verify(tiny_study)
    assert found.ok
    assert "the clock went back" in found.notes[0]


def test_mask_of_other_size(tiny_study):
    with tiny_study.db.write() as connection:
        sha = tiny_study.store.put_mask(connection, gray(1, 32) > 9)
        connection.execute(
            "UPDATE record_masks SET mask_sha = ? WHERE structure = 'heart'"
            " AND record_id = (SELECT min(record_id) FROM record_masks)",
            (sha,),
        )
    assert ["is 32x32, its image 64x64" in line for line in problems(tiny_study)] == [True]


def test_patient_in_two_splits(tiny_study):
    tamper(
        tiny_study,
        "UPDATE records SET patient_id = 'same' WHERE record_id IN (SELECT min(record_id) FROM records GROUP BY split)",
    )
    assert problems(tiny_study) == ["patient phantom/same is in 3 splits"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_test_records_as_source_of_rated_sets(tiny_study, split):
    record = tiny_study.db.value("SELECT min(record_id) FROM records WHERE split = ?", (split,))
    add_rated_set(tiny_study, source=record)
    expected = (
        [f"leak: test record {record} is source of condition condition-0 used in a set"] if split == "test" else []
    )
    assert problems(tiny_study) == expected


def test_mask_of_a_test_record_under_another_name(tiny_study):
    add_rated_set(tiny_study, mode="M2I")
    with tiny_study.db.write() as connection:
        connection.execute(
            "UPDATE condition_masks SET mask_sha = (SELECT mask_sha FROM record_masks JOIN records USING (record_id)"
            " WHERE split = 'test' AND structure = 'lungs' LIMIT 1)"
        )
    assert [line.startswith("leak: a mask of test record") for line in problems(tiny_study)] == [True]


def test_pool_from_a_test_record(tiny_study):
    record = tiny_study.db.value("SELECT min(record_id) FROM records WHERE split = 'test'")
    add_rated_set(tiny_study)
    with tiny_study.db.write() as connection:
        connection.execute(
            "INSERT INTO conditions(condition_id, mode, text, text_record) VALUES ('p', 'T2I', 'x', ?)", (record,)
        )
        sha = connection.execute("SELECT image_sha FROM set_images").fetchone()[0]
        connection.execute("INSERT INTO pool_images VALUES ('sets-run', 't', 'baseline', 0, ?, 'p', 1, '{}')", (sha,))
    assert problems(tiny_study) == [f"leak: test record {record} is source of condition p used in a pool"]


def test_pairs_that_mix_kinds_or_rest_on_foreign_events(tiny_study):
    ids = [add_rated_set(tiny_study, 0, rater="ann"), add_rated_set(tiny_study, 1), add_rated_set(tiny_study, 2)]
    ids[2]["events"] = ids[1]["events"]
    with tiny_study.db.write() as connection:
        for one in ids:
            add_pair(connection, one)
        connection.execute("UPDATE pairs SET rater_kind = 'human' WHERE pair_id = 2")
    found = problems(tiny_study)
    assert "pairs of run sets-run mix human and simulated raters" in found
    assert sum("of a human rater" in line for line in found) == 2
    assert sum("concerns another set" in line for line in found) == 2


def test_source_in_both_splits_of_pairs(tiny_study):
    record = tiny_study.db.row("SELECT * FROM records WHERE split = 'val' LIMIT 1")
    ids = [add_rated_set(tiny_study, i, source=record["record_id"]) for i in range(2)]
    with tiny_study.db.write() as connection:
        add_pair(connection, ids[0], "train")
        add_pair(connection, ids[1], "held_out")
    assert problems(tiny_study) == [
        f"leak: patient phantom/{record['patient_id']} is source of both splits of pair run sets-run"
    ]


def test_incomplete_set_and_real_image_in_a_set(tiny_study):
    add_rated_set(tiny_study)
    with tiny_study.db.write() as connection:
        connection.execute("DELETE FROM set_images WHERE slot = 3")
        connection.execute("UPDATE set_images SET image_sha = (SELECT image_sha FROM records LIMIT 1) WHERE slot = 0")
    assert ["3 images" in line or "holds the real image" in line for line in problems(tiny_study)] == [True, True]


def test_models_and_runs(tiny_study):
    from radpref.data.core.files import sha256_tree

    folder = tiny_study.root / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "w").write_text("weights")
    with tiny_study.db.write() as connection:
        for name, path in (("m", "models/m"), ("n", "models/n")):
            connection.execute(
                "INSERT INTO models VALUES (?, NULL, 'aligned', ?, ?, '{}', ?)",
                (name, path, sha256_tree(folder), now()),
            )
    assert problems(tiny_study) == ["model n: models/n is missing; restore a backup"]
    (folder / "w").write_text("other")
    next(iter((tiny_study.root / "runs").glob("*/config.json"))).unlink()
    found = problems(tiny_study)
    assert "model m: the files of models/m were changed" in found
    assert sum("has no config.json" in line for line in found) == 1


def test_hash_of_the_training_images(tiny_study):
    rows = tiny_study.db.rows("SELECT image_sha FROM records WHERE split = 'train'")
    sources = {"training images": hash_lines([row["image_sha"] for row in rows])}
    with start_run(tiny_study, "train", {"n": 1}, sources):
        pass
    found = verify(tiny_study)
    assert found.notes == []
    assert found.checked["trainings on the training split"] == 1
    with start_run(tiny_study, "train", {"n": 2}, {"training images": "another"}) as run:
        pass
    assert verify(tiny_study).notes == [
        f"run {run.run_id} did not train on today's training split; were records added since?"
    ]


def test_command_exits_1_and_lists(tiny_study):
    first_file(tiny_study).unlink()
    result = CliRunner().invoke(study_app, ["verify", "--study", str(tiny_study.root)])
    assert result.exit_code == 1
    assert "problem: image images/" in result.output
    result = CliRunner().invoke(study_app, ["verify", "--study", str(tiny_study.root), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
