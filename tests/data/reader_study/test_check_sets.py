"""Training sets and attention checks: made once, from the training split alone, with answers that the record proves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import radpref.data.reader_study.check_sets as checks_module
from radpref.data.datasets.importing import import_records
from radpref.data.reader_study.check_sets import _fitted, ensure_checks
from radpref.data.reader_study.expectations import Expectation, expect_mask, expect_text, range_of_dice
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support.annotate import add_sets
from tests.support.data import table_study

TOML = """
name = "checks"
[data]
image_size = 64
n_train = 60
n_val = 8
n_test = 8
[sets]
mix = [50, 25, 25]
[annotate]
training_sets = 4
attention = 0.25
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checks") / "study"
    study = Study.create(root, TOML)
    import_records(study)
    add_sets(study, ("T2I",) * 16, size=64, bits=8)
    study.db.close()
    return root


@pytest.fixture
def real(tmp_path: Path, template: Path) -> Iterator[Study]:
    """60/8/8 phantoms and 16 rating sets: 4 training sets and 4 attention checks are due."""
    shutil.copytree(template, tmp_path / "study")
    study = Study(tmp_path / "study")
    yield study
    study.db.close()


def checks(study: Study) -> list[dict[str, Any]]:
    return study.db.rows(
        "SELECT s.set_id, s.purpose, s.ordinal, c.*, r.split FROM image_sets s JOIN conditions c USING (condition_id)"
        " LEFT JOIN records r ON r.record_id = coalesce(c.text_record, c.mask_record)"
        " WHERE s.purpose IN ('training', 'attention') ORDER BY s.set_id"
    )


def plan(study: Study) -> list[tuple[Any, ...]]:
    """Everything that was made, without the run's name."""
    return [
        tuple(row.values())
        for row in study.db.rows(
            "SELECT s.ordinal, s.purpose, s.condition_id, i.slot, i.image_sha, x.criterion, x.low, x.high, x.reason"
            " FROM image_sets s JOIN set_images i USING (set_id) JOIN set_expectations x USING (set_id, slot)"
            " ORDER BY s.ordinal, i.slot, x.criterion"
        )
    ]


def test_made_once(real: Study) -> None:
    result = ensure_checks(real)
    assert (result.training, result.attention, result.made, result.note) == (4, 4, 8, None)
    stored = plan(real)
    assert ensure_checks(real).made == 0
    assert plan(real) == stored
    assert real.db.value("SELECT count(*) FROM runs WHERE kind = 'checks'") == 1


def test_the_same_study_gives_the_same_checks(real: Study, template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "twin")
    twin = Study(tmp_path / "twin")
    ensure_checks(real)
    ensure_checks(twin)
    assert plan(real) == plan(twin)
    twin.db.close()


def test_modes_follow_the_mix_and_each_set_holds_both_kinds(real: Study) -> None:
    ensure_checks(real)
    rows = checks(real)
    for purpose in ("training", "attention"):
        assert sorted(row["mode"] for row in rows if row["purpose"] == purpose) == ["M2I", "T2I", "T2I", "TM2I"]
    assert len({row["text_record"] or row["mask_record"] for row in rows}) == 8, "no condition twice"
    for row in rows:
        images = real.db.rows(
            "SELECT x.criterion, x.low, x.high, x.reason FROM set_expectations x WHERE set_id = ?", (row["set_id"],)
        )
        assert len(images) == (8 if row["mode"] == "TM2I" else 4)
        for criterion in {one["criterion"] for one in images}:
            ranges = [(one["low"], one["high"]) for one in images if one["criterion"] == criterion]
            assert 1 <= ranges.count((4, 5)) <= 2
            assert sum(high <= 3 for _, high in ranges) >= 2
        assert all(one["reason"].endswith(".") and "\n" not in one["reason"] for one in images)


def test_only_the_training_split_and_different_patients(real: Study) -> None:
    ensure_checks(real)
    assert {row["split"] for row in checks(real)} == {"train"}
    shown = real.db.rows(
        "SELECT c.key AS set_id, r.split, r.patient_id FROM runs, json_each(result, '$.records') c,"
        " json_each(c.value) v JOIN records r ON r.record_id = v.value WHERE kind = 'checks'"
    )
    assert len(shown) == 32
    assert {row["split"] for row in shown} == {"train"}
    assert len({(row["set_id"], row["patient_id"]) for row in shown}) == 32
    assert {row["set_id"] for row in shown} == {row["set_id"] for row in checks(real)}
    images = "SELECT DISTINCT arm, seed FROM set_images JOIN image_sets USING (set_id) WHERE purpose <> 'rating'"
    assert real.db.rows(images) == [{"arm": "real", "seed": 0}]


def test_verify_finds_a_check_from_another_split(real: Study) -> None:
    ensure_checks(real)
    # The sampled sets of this test have a run without a folder and no sources; all else must be whole.
    assert [line for line in verify(real).problems if "secret-run" not in line] == []
    with real.db.write() as connection:
        connection.execute(
            "UPDATE records SET split = 'val' WHERE record_id = (SELECT text_record FROM conditions"
            " JOIN image_sets USING (condition_id) WHERE purpose = 'attention' AND text_record IS NOT NULL LIMIT 1)"
        )
    found = [line for line in verify(real).problems if "not of the training split" in line]
    assert any(line.startswith("attention set ") for line in found)
    assert any("-checks-" in line and line.startswith("run ") for line in found)


def test_expectations_agree_with_the_labels(real: Study) -> None:
    ensure_checks(real)
    labels: dict[str, dict[str, float]] = {}
    for row in real.db.rows("SELECT * FROM labels"):
        labels.setdefault(row["record_id"], {})[row["label"]] = row["value"]
    records = json.loads(real.db.value("SELECT result FROM runs WHERE kind = 'checks'"))["records"]
    n_absent = 0
    for row in checks(real):
        asked = [name for name in json.loads(row["asked"]) if "/" not in name]
        for one in real.db.rows(
            "SELECT * FROM set_expectations WHERE set_id = ? AND criterion = 'text'", (row["set_id"],)
        ):
            given = [labels[records[row["set_id"]][one["slot"]]][name] for name in asked]
            if (one["low"], one["high"]) == (4, 5):
                assert set(given) == {1.0}
            elif (one["low"], one["high"]) == (0, 1):
                n_absent += 1
                assert set(given) == {0.0}
                assert "no " in one["reason"]
    assert n_absent > 4


def test_checks_have_the_geometry_of_the_sampled_images(real: Study) -> None:
    with real.db.write() as connection:
        connection.execute("DELETE FROM set_images")
        connection.execute("DELETE FROM image_sets")
    add_sets(real, ("T2I",) * 16, seed=3, size=48, bits=8)
    ensure_checks(real)
    sizes = real.db.rows(
        "SELECT DISTINCT width, height, bit_depth, origin FROM set_images JOIN image_sets USING (set_id)"
        " JOIN images ON sha256 = image_sha WHERE purpose <> 'rating'"
    )
    assert sizes == [{"width": 48, "height": 48, "bit_depth": 8, "origin": "real"}]
    sha = real.db.value("SELECT image_sha FROM set_images JOIN image_sets USING (set_id) WHERE purpose = 'attention'")
    assert real.store.image(sha).shape == (48, 48)


def test_images_are_brought_to_size_and_depth() -> None:
    deep = np.full((40, 40), 51400, np.uint16)
    assert np.array_equal(_fitted(deep, (40, 40), 8), np.full((40, 40), 200, np.uint8))
    assert np.array_equal(_fitted(deep, (20, 20), 16), np.full((20, 20), 51400, np.uint16))
    flat = np.full((40, 40), 7, np.uint8)
    assert np.array_equal(_fitted(flat, (80, 80), 16), np.full((80, 80), 7 * 257, np.uint16))


def test_more_rating_sets_get_their_share(real: Study) -> None:
    ensure_checks(real)
    before = {row["set_id"] for row in checks(real)}
    add_sets(real, ("T2I",) * 8, seed=4, size=64, bits=8)
    result = ensure_checks(real)
    assert (result.training, result.attention, result.made) == (4, 6, 2)
    rows = checks(real)
    assert before < {row["set_id"] for row in rows}
    assert len({row["text_record"] or row["mask_record"] for row in rows}) == 10


def test_an_interrupted_run_is_taken_up(real: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("radpref.data.reader_study.check_sets._store", fails)
    with pytest.raises(OSError, match="power cut"):
        ensure_checks(real)
    assert checks(real) == []
    monkeypatch.undo()
    assert ensure_checks(real).made == 8
    assert real.db.rows("SELECT status FROM runs WHERE kind = 'checks'") == [{"status": "done"}]


def test_a_crash_after_the_sets_were_stored_makes_no_second_ones(real: Study) -> None:
    ensure_checks(real)
    stored = plan(real)
    with real.db.write() as connection:
        connection.execute("UPDATE runs SET status = 'running' WHERE kind = 'checks'")
    result = ensure_checks(real)
    assert (result.training, result.attention) == (4, 4)
    assert plan(real) == stored


def test_nothing_is_made_after_the_lock(real: Study) -> None:
    with real.db.write() as connection:
        for stage in ("pilot", "locked"):
            connection.execute("INSERT INTO stages(at, actor, stage) VALUES (?, 'office', ?)", (now(), stage))
    result = ensure_checks(real)
    assert result.made == 0
    assert result.note == "0 of 4 training sets and 0 of 4 attention sets could be made: the study is locked"


def test_studies_without_usable_records_go_without(study: Study) -> None:
    result = ensure_checks(study)
    assert (result.training, result.made) == (0, 0)
    assert "0 of 3 training sets could be made: the training split has too few records" in result.note
    assert study.db.value("SELECT count(*) FROM runs") == 0


def test_captions_that_ask_for_no_label_give_mask_sets_only(tmp_path: Path) -> None:
    study = table_study(tmp_path)  # captions "Chest radiograph. Case 3.", every mask alike
    import_records(study)
    result = ensure_checks(study)
    assert result.made == 0, "equal masks of other patients prove nothing"
    assert result.note is not None
    study.db.close()


def test_records_that_prove_nothing_are_given_up_soon(real: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that say what is there, never what is absent: a large data set must not keep the server from starting."""
    with real.db.write() as connection:
        connection.execute("DELETE FROM labels WHERE value = 0")
        connection.execute("DELETE FROM record_masks")
    monkeypatch.setattr("radpref.data.reader_study.check_sets.MAX_TRIES", 5)
    judged: list[str] = []
    real_judge = checks_module.expect_text

    def counted(source: Any, shown_record: Any) -> Any:
        judged.append(source["record_id"])
        return real_judge(source, shown_record)

    monkeypatch.setattr(checks_module, "expect_text", counted)
    assert ensure_checks(real).made == 0
    assert len(set(judged)) == 5


def test_a_broken_file_is_said_and_stops_nobody(real: Study) -> None:
    for path in real.root.glob("masks/*/*.png"):
        path.write_bytes(b"no image")
    result = ensure_checks(real)
    assert result.made == 0
    assert "is not a readable image" in result.note


def record(name: str, caption: str | None = None, **labels: float | None) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in labels.items()}
    return {"record_id": name, "patient_id": name, "caption": caption, "labels": named, "masks": {}}


LEFT = {"pleural_effusion": 1.0, "pleural_effusion__left": 1.0, "pleural_effusion__right": 0.0}
RIGHT = {"pleural_effusion": 1.0, "pleural_effusion__left": 0.0, "pleural_effusion__right": 1.0}


@pytest.mark.parametrize(
    ("source", "shown", "expected"),
    [
        (record("a", "Large left effusion", **LEFT), record("b", "x", pleural_effusion=0.0), (0, 1)),
        (record("a", "Large left effusion", **LEFT), record("b", "x", pleural_effusion=None), None),
        (record("a", "Large left effusion", **LEFT), record("b", "Right effusion", **RIGHT), (0, 2)),
        (record("a", "Large left effusion", **LEFT), record("b", "large left  Effusion.", **LEFT), (4, 5)),
        (record("a", "Large left effusion", **LEFT), record("b", "Small left effusion", **LEFT), None),
        (record("a", "Large effusion", **LEFT), record("b", "Right effusion", **RIGHT), None),
        (record("a", "Normal", normal=1.0), record("b", "x", normal=0.0, edema=1.0), (0, 2)),
        (record("a", "Normal", normal=1.0), record("b", "x", edema=1.0), None),
        (record("a", "Left pneumonia", pneumonia=1.0), record("b", "x", pneumonia=0.0, consolidation=1.0), None),
        (record("a", "Left pneumonia", pneumonia=1.0), record("b", "x", pneumonia=0.0, cardiomegaly=1.0), (0, 1)),
        (record("a", "Chest radiograph", pneumonia=1.0), record("b", "x", pneumonia=0.0), None),
        (record("a", "Edema and effusion", edema=1.0, pleural_effusion=1.0), record("b", "x", edema=0.0), None),
    ],
)
def test_what_a_text_proves(source: dict[str, Any], shown: dict[str, Any], expected: tuple[int, int] | None) -> None:
    found = expect_text(source, shown)
    assert (None if found is None else (found.low, found.high)) == expected


def test_reasons_are_plain() -> None:
    left = record("a", "Large left effusion", **LEFT)
    absent, other = record("b", "x", pleural_effusion=0.0), record("b", "x", **RIGHT)
    assert expect_text(left, absent) == Expectation(0, 1, "The labels of this radiograph say: no pleural effusion.")
    found = expect_text(left, other)
    assert found is not None
    assert found.reason == "The labels of this radiograph say: pleural effusion on the right, not on the left."


def box(top: int, bottom: int) -> np.ndarray:
    mask = np.zeros((20, 20), dtype=bool)
    mask[top:bottom] = True
    return mask


def test_what_a_mask_proves() -> None:
    files = {"a": box(0, 10), "b": box(5, 15), "c": box(12, 20), "small": np.ones((4, 4), dtype=bool)}

    def of(name: str, **masks: str) -> dict[str, Any]:
        return {**record(name), "masks": masks}

    source = of("one", lungs="a")
    assert expect_mask(source, source, files.__getitem__) == (
        Expectation(4, 5, "The mask was drawn on this radiograph."),
        1.0,
    )
    for masks, low, high in (({"lungs": "b"}, 1, 3), ({"lungs": "c"}, 0, 1), ({"heart": "a"}, 0, 1)):
        found = expect_mask(source, of("two", **masks), files.__getitem__)
        assert found is not None
        assert (found[0].low, found[0].high) == (low, high)
    for other in (of("two"), of("two", lungs="a"), of("two", lungs="small")):
        assert expect_mask(source, other, files.__getitem__) is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_overlap_never_lowers_what_is_expected(a: float, b: float) -> None:
    low, high = (range_of_dice(value) for value in sorted((a, b)))
    if low is not None and high is not None:
        assert low[0] <= high[0]
        assert low[1] <= high[1]
    for found in (low, high):
        assert found is None or 0 <= found[0] < found[1] <= 5
