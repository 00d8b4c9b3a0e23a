"""CheXpert: variants of the archive, the official validation set as test split, label policies, bad rows."""

from __future__ import annotations

import json
import shutil

import pytest

from radpref.data.core.errors import InvalidInput
from tests.support.datasets import chexpert_tree, counts, edit_csv, found, load_all, plan, quarantine, write_image
from tests.support.errors import refuses


def test_chexpert_as_a_whole(tmp_path, imported):
    study, result = imported("chexpert", chexpert_tree(tmp_path / "raw"))
    assert (result.n_planned, result.n_imported) == (11, 11)  # 8 frontal of train, 3 of valid
    held = counts(study)
    assert held["splits"]["test"] == 3
    assert held["splits"].get("train", 0) + held["splits"].get("val", 0) == 8
    assert held["positive"] == {"pleural_effusion": 3, "normal": 2}
    assert held["captions"] == {"Pleural effusion": 3, "Normal": 2}
    assert study.db.value("SELECT count(DISTINCT patient_id) FROM records") == 8
    assert study.db.value("SELECT count(*) FROM labels") == 11 * 14
    row = study.db.row("SELECT * FROM records WHERE record_id = 'chexpert/train/patient00001/study1/view1_frontal'")
    assert json.loads(row["extra"]) == {"sex": "Female", "age": "68", "view": "AP"}


@pytest.mark.parametrize(
    ("name", "nested"), [("CheXpert-v1.0", True), ("CheXpert-v1.0-small", True), ("CheXpert-v1.0-small", False)]
)
def test_chexpert_variants_of_the_archive(tmp_path, name, nested):
    assert len(load_all(plan("chexpert", chexpert_tree(tmp_path / "raw", name, nested=nested)))) == 11


def test_chexpert_in_batches(tmp_path):
    """The full-size download has tables in one folder and the images of train in others."""
    root = chexpert_tree(tmp_path / "raw", "CheXpert-v1.0 batch 1 (validate & csv)")
    (root / "CheXpert-v1.0 batch 2 (train 1)").mkdir()
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    shutil.move(first / "train", root / "CheXpert-v1.0 batch 2 (train 1)" / "train")
    assert len(load_all(plan("chexpert", root))) == 11


def test_chexpert_validation_images_are_the_test_split_and_nothing_else(tmp_path, imported):
    """Also where a row of train.csv names an image of valid/, or a patient of valid.csv."""
    root = chexpert_tree(tmp_path / "raw")
    folder = root / "CheXpert-v1.0-small"

    def smuggle(rows):
        stolen = dict(rows[0], Path="CheXpert-v1.0-small/train/patient64541/study9/view1_frontal.jpg")
        also = dict(rows[0], Path="CheXpert-v1.0-small/valid/patient64700/study1/view1_frontal.jpg")
        rows += [stolen, also]

    edit_csv(folder / "train.csv", smuggle)
    write_image(folder / "train/patient64541/study9/view1_frontal.jpg", 1, (48, 40))
    write_image(folder / "valid/patient64700/study1/view1_frontal.jpg", 2, (48, 40))
    study, result = imported("chexpert", root, expect_quarantined=1)
    assert "official validation set" in next(iter(quarantine(result).values()))
    test = {row["record_id"] for row in study.db.rows("SELECT record_id FROM records WHERE split = 'test'")}
    assert {name.split("/")[1] for name in test} == {"valid"}
    assert len(test) == 4
    assert study.db.value("SELECT count(*) FROM records WHERE split <> 'test' AND record_id LIKE '%/valid/%'") == 0


def test_an_image_of_valid_copied_into_train_stays_in_the_test_split_only(tmp_path, imported):
    root = chexpert_tree(tmp_path / "raw")
    folder = root / "CheXpert-v1.0-small"
    copied = "valid/patient64541/study1/view1_frontal.jpg"
    shutil.copy(folder / copied, folder / "train/patient00003/study1/view1_frontal.jpg")
    study, result = imported("chexpert", root, expect_quarantined=1)
    ((name, reason),) = quarantine(result).items()
    assert name == "chexpert/train/patient00003/study1/view1_frontal"
    assert "identical" in reason
    assert counts(study)["splits"]["test"] == 3


@pytest.mark.parametrize(
    ("policy", "edema", "consolidation", "pneumonia"),
    [
        ("blank", None, None, None),
        ("zeros", 0, 0, 0),
        ("ones", 1, 1, 1),
        ("mgca", 1, 0, None),
        ({"edema": 0, "others": "1"}, 0, 1, 1),
        ({"pneumonia": "1"}, None, None, 1),
    ],
)
def test_uncertain_labels_follow_the_policy_named(tmp_path, policy, edema, consolidation, pneumonia):
    records = load_all(plan("chexpert", chexpert_tree(tmp_path / "raw"), uncertain=policy))
    uncertain = next(r for r in records if r.record_id == "chexpert/train/patient00001/study1/view2_frontal")
    assert [uncertain.labels[name] for name in ("edema", "consolidation", "pneumonia")] == [
        edema,
        consolidation,
        pneumonia,
    ]
    assert uncertain.labels["pleural_effusion"] is None


def test_blank_labels_are_unknown_unless_study_toml_says_zero(tmp_path):
    tree = chexpert_tree(tmp_path / "raw")
    first = plan("chexpert", tree).records.load(3)  # the first of train
    assert (first.labels["pleural_effusion"], first.labels["edema"]) == (1.0, None)
    assert plan("chexpert", tree, blank="0").records.load(3).labels["edema"] == 0.0
    lines = found("chexpert", tree, blank="0", uncertain="mgca")
    assert lines["positive: pleural_effusion"].found == 3
    assert lines["positive: edema"].found == 0
    assert lines["positive: edema"].note == "2 uncertain -> 1, 6 blank -> 0"
    assert lines["positive: pneumonia"].note.startswith("2 uncertain -> unknown")
    assert (lines["rows of train.csv"].found, lines["rows of train.csv"].expected) == (12, 223_414)
    assert (lines["frontal rows of train.csv"].found, lines["frontal rows of train.csv"].expected) == (8, 191_027)
    assert (lines["patients of train.csv"].found, lines["patients of train.csv"].expected) == (6, 64_540)


def test_chexpert_keeps_only_the_labels_named(tmp_path):
    tree = chexpert_tree(tmp_path / "raw")
    record = plan("chexpert", tree, labels=["edema", "normal"]).records.load(0)
    assert set(record.labels) == {"edema", "normal"}
    with refuses(InvalidInput, "oedema", "data.labels"):
        plan("chexpert", tree, labels=["oedema"])


def test_chexpert_bad_rows_are_quarantined_and_the_rest_imported(tmp_path, imported):
    root = chexpert_tree(tmp_path / "raw")
    folder = root / "CheXpert-v1.0-small"

    def spoil(rows):
        rows[0]["Edema"] = "2"
        rows[3]["Path"] = "nowhere.jpg"
        rows.append(dict(rows[1]))

    edit_csv(folder / "train.csv", spoil)
    (folder / "train/patient00003/study1/view1_frontal.jpg").write_bytes(b"\xff\xd8cut")
    (folder / "valid/patient64541/study1/view1_frontal.jpg").unlink()
    study, result = imported("chexpert", root, expect_quarantined=5)
    reasons = sorted(quarantine(result).values())
    for part in (
        "label column 'Edema' holds '2'",
        f"no image at {folder / 'valid/patient64541/study1/view1_frontal.jpg'}",  # beside the table, not above it
        "is not a readable image",
        "repeats",
        "'nowhere.jpg'",
    ):
        assert sum(part in reason for reason in reasons) == 1, (part, reasons)
    assert result.n_imported == 7
    assert sum(counts(study)["splits"].values()) == 7


def test_chexpert_keeps_patients_where_they_were_when_the_set_grows(tmp_path):
    root = chexpert_tree(tmp_path / "raw")
    before = {r.patient_id: r.split for r in load_all(plan("chexpert", root))}
    folder = root / "CheXpert-v1.0-small"
    place = "train/patient00099/study1/view1_frontal.jpg"
    write_image(folder / place, 77)
    edit_csv(folder / "train.csv", lambda rows: [dict(rows[0], Path=f"CheXpert-v1.0-small/{place}"), *rows])
    after = {r.patient_id: r.split for r in load_all(plan("chexpert", root))}
    assert after.items() >= before.items()
    assert len(after) == len(before) + 1
