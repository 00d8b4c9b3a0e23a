"""Each published set, as a small tree: the whole import, counted; and the traps, one by one."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from data.conditions_store import asked_attributes
from data.config import parse_config
from data.datasets.candid import STRUCTURES
from data.datasets.findings import finding_caption
from data.datasets.siim import hashed_patient
from data.errors import InvalidInput, NotFound
from data.framing import fit_mask
from data.importing import import_records
from data.readers import READERS, get_reader
from data.rle import encode_rle
from data.study import Study
from data.verify import verify
from tests.support_datasets import (
    CANDID_IDS,
    RSNA_BOXES,
    RSNA_IDS,
    SIIM_IDS,
    block,
    candid_tree,
    chexpert_tree,
    counts,
    edit_csv,
    mimic_tree,
    rsna_tree,
    siim_blocks,
    siim_tree,
    study_of,
    write_csv,
    write_dicom,
    write_image,
)

CANDID = 'structures = ["pneumothorax", "rib_fractures", "chest_tubes"]\nrle = "relative"'
LESION = 'structures = ["lesion"]'


@pytest.fixture
def imported(tmp_path):
    """Imports a tree into a study with these lines in [data]; closes the studies at the end."""
    opened = []

    def run(reader, tree, data="", expect_quarantined=0):
        study = study_of(tmp_path / f"study{len(opened)}", data)
        opened.append(study)
        result = import_records(study, reader, tree)
        assert result["n_quarantined"] == expect_quarantined
        assert verify(study)["problems"] == []
        return study, result

    yield run
    for study in opened:
        study.db.close()


def quarantine(result):
    """record_id -> reason."""
    import csv
    from pathlib import Path

    with Path(result["quarantine"]).open(newline="") as file:
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


def found(reader, tree, **data):
    """what -> the line of the layout check."""
    return {line.what: line for line in plan(reader, tree, **data).found}


def plan(reader, tree, **data):
    return get_reader(reader)(parse_config({"data": {"image_size": 64, **data}}).data, tree)


# --- CheXpert


def test_chexpert_as_a_whole(tmp_path, imported):
    study, result = imported("chexpert", chexpert_tree(tmp_path / "raw"))
    assert (result["n_planned"], result["n_imported"]) == (11, 11)  # 8 frontal of train, 3 of valid
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
    planned = plan("chexpert", chexpert_tree(tmp_path / "raw", name, nested=nested)).planned
    assert len([record.load() for record in planned]) == 11


def test_chexpert_in_batches(tmp_path):
    """The full-size download has tables in one folder and the images of train in others."""
    root = chexpert_tree(tmp_path / "raw", "CheXpert-v1.0 batch 1 (validate & csv)")
    (root / "CheXpert-v1.0 batch 2 (train 1)").mkdir()
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    shutil.move(first / "train", root / "CheXpert-v1.0 batch 2 (train 1)" / "train")
    assert len([record.load() for record in plan("chexpert", root).planned]) == 11


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
    records = [one.load() for one in plan("chexpert", chexpert_tree(tmp_path / "raw"), uncertain=policy).planned]
    uncertain = next(r for r in records if r.record_id == "chexpert/train/patient00001/study1/view2_frontal")
    assert [uncertain.labels[name] for name in ("edema", "consolidation", "pneumonia")] == [
        edema,
        consolidation,
        pneumonia,
    ]
    assert uncertain.labels["pleural_effusion"] is None


def test_blank_labels_are_unknown_unless_study_toml_says_zero(tmp_path):
    tree = chexpert_tree(tmp_path / "raw")
    first = plan("chexpert", tree).planned[3].load()  # the first of train
    assert (first.labels["pleural_effusion"], first.labels["edema"]) == (1.0, None)
    assert plan("chexpert", tree, blank="0").planned[3].load().labels["edema"] == 0.0
    lines = found("chexpert", tree, blank="0", uncertain="mgca")
    assert lines["edema: uncertain"].found == 2
    assert lines["edema: uncertain"].note == "become 1 (data.uncertain); 6 blank become 0 (data.blank)"
    assert lines["pneumonia: uncertain"].note.startswith("become unknown")
    assert (lines["rows of train.csv"].found, lines["rows of train.csv"].expected) == (12, 223_414)
    assert (lines["frontal rows of train.csv"].found, lines["frontal rows of train.csv"].expected) == (8, 191_027)
    assert (lines["patients of train.csv"].found, lines["patients of train.csv"].expected) == (6, 64_540)


def test_chexpert_keeps_only_the_labels_named(tmp_path):
    tree = chexpert_tree(tmp_path / "raw")
    record = plan("chexpert", tree, labels=["edema", "normal"]).planned[0].load()
    assert set(record.labels) == {"edema", "normal"}
    with pytest.raises(InvalidInput, match="'oedema'; this set has normal"):
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
        "no image at",
        "is not a readable image",
        "repeats",
        "'nowhere.jpg'",
    ):
        assert sum(part in reason for reason in reasons) == 1, (part, reasons)
    assert result["n_imported"] == 7
    assert sum(counts(study)["splits"].values()) == 7


def test_chexpert_keeps_patients_where_they_were_when_the_set_grows(tmp_path):
    root = chexpert_tree(tmp_path / "raw")
    before = {r.patient_id: r.split for r in (one.load() for one in plan("chexpert", root).planned)}
    folder = root / "CheXpert-v1.0-small"
    place = "train/patient00099/study1/view1_frontal.jpg"
    write_image(folder / place, 77)
    edit_csv(folder / "train.csv", lambda rows: [dict(rows[0], Path=f"CheXpert-v1.0-small/{place}"), *rows])
    after = {r.patient_id: r.split for r in (one.load() for one in plan("chexpert", root).planned)}
    assert after.items() >= before.items()
    assert len(after) == len(before) + 1


# --- CANDID-PTX


@pytest.mark.parametrize("convention", ["relative", "absolute"])
def test_candid_as_a_whole(tmp_path, imported, convention):
    data = CANDID.replace("relative", convention)
    study, result = imported("candid", candid_tree(tmp_path / "raw", convention), data)
    assert (result["n_planned"], result["n_imported"]) == (8, 8)
    held = counts(study)
    assert sum(held["splits"].values()) == 8
    assert held["positive"] == {"pneumothorax": 3, "rib_fractures": 2, "chest_tubes": 2}
    assert held["negative"] == {"pneumothorax": 5, "rib_fractures": 6, "chest_tubes": 6}
    assert held["masks"] == {"pneumothorax": 3, "rib_fractures": 2, "chest_tubes": 2}
    assert held["captions"] == {}  # reports are there; the one without has no positive label either
    assert study.db.value("SELECT count(*) FROM records WHERE report LIKE 'Case %'") == 7
    assert {row["patient_id"] for row in study.db.rows("SELECT patient_id FROM records")} == {
        "P001",
        "P002",
        "P003",
        "P004",
        "P005",
    }
    record = study.db.row("SELECT * FROM records WHERE record_id = ?", [f"candid/{CANDID_IDS[0]}"])
    sha = study.db.value("SELECT mask_sha FROM record_masks WHERE record_id = ?", [record["record_id"]])
    expected = fit_mask(block(100, 100) | block(600, 600), 64)
    assert np.array_equal(study.store.mask(sha), expected)  # both rows, in either convention


def test_candid_asks_for_the_convention_and_refuses_the_wrong_one(tmp_path):
    tree = candid_tree(tmp_path / "raw")
    with pytest.raises(InvalidInput, match=r"set data\.rle = .* 4 of 4 fit relative, 0 of 4 fit absolute"):
        plan("candid", tree, structures=STRUCTURES)
    with pytest.raises(InvalidInput, match=r"are not absolute as data\.rle says"):
        plan("candid", tree, structures=STRUCTURES, rle="absolute")
    assert (
        plan("candid", tree, structures=["lungs"]).planned[0].load().masks == {}
    )  # no structure of the set is named: no mask is read
    assert "name it in data.structures" in found("candid", tree, structures=["lungs"])["images with chest_tubes"].note


def test_candid_conventions_may_differ_by_file(tmp_path):
    tree = candid_tree(tmp_path / "raw")
    masks = [(CANDID_IDS[i], encode_rle(block(300, 300), "absolute", first=0)) for i in (3, 4)]
    rows = [{"anon_SOPUID": uid, "annotation": "1", "mask_rle": text} for uid, text in masks]
    write_csv(tree / "Rib_fracture_mask_rle.csv", rows)
    rle = {"rib_fractures": "absolute", "chest_tubes": "relative", "pneumothorax": "relative"}
    with pytest.raises(InvalidInput, match="masks of rib_fractures"):
        plan("candid", tree, structures=STRUCTURES, rle="relative")
    record = plan("candid", tree, structures=STRUCTURES, rle=rle, rle_first=0).planned[3].load()
    assert np.array_equal(record.masks["rib_fractures"], fit_mask(block(300, 300), 64))


def test_candid_resized_copies_with_a_suffix_keep_their_masks(tmp_path):
    tree = candid_tree(tmp_path / "raw", dicom=False)
    (tree / "Rib_fracture_mask_rle.csv").unlink()
    config = {"structures": STRUCTURES, "rle": "relative"}
    records = [one.load() for one in plan("candid", tree, **config).planned]
    assert np.array_equal(records[5].masks["chest_tubes"], fit_mask(block(300, 500), 64))
    assert records[5].labels == {"pneumothorax": 0.0, "rib_fractures": None, "chest_tubes": 1.0}
    assert "the label is unknown" in found("candid", tree, **config)["images with rib_fractures"].note


def test_candid_bad_rows_are_quarantined_and_the_rest_imported(tmp_path, imported):
    tree = candid_tree(tmp_path / "raw")

    def spoil(rows):
        by_id = {row["SOPInstanceUID"]: row for row in rows}
        rows.append(dict(by_id[CANDID_IDS[7]], filename="P999_20150101_0.dcm"))  # two patients
        by_id[CANDID_IDS[2]]["EncodedPixels"] = "1048570 20"  # past the last pixel
        by_id[CANDID_IDS[6]]["filename"] = ""

    edit_csv(tree / "Pneumothorax_reports.csv", spoil)
    (tree / "dataset" / CANDID_IDS[5]).unlink()
    (tree / "dataset" / CANDID_IDS[4]).write_bytes(b"\0" * 128 + b"DICMcut")
    study, result = imported("candid", tree, CANDID, expect_quarantined=5)
    reasons = {name.removeprefix("candid/"): reason for name, reason in quarantine(result).items()}
    assert "belongs to patients P005 and P999" in reasons[CANDID_IDS[7]]
    assert "1048590 of 1024x1024" in reasons[CANDID_IDS[2]]
    assert "no patient" in reasons[CANDID_IDS[6]]
    assert "no image at" in reasons[CANDID_IDS[5]]
    assert "cut off" in reasons[CANDID_IDS[4]]
    assert sum(counts(study)["splits"].values()) == 3


# --- SIIM-ACR


@pytest.mark.parametrize("layout", ["stage 1", "stage 2"])
def test_siim_as_a_whole(tmp_path, imported, layout):
    tree = siim_tree(tmp_path / "raw", layout)
    study, result = imported("siim", tree, 'structures = ["pneumothorax"]')
    assert (result["n_planned"], result["n_imported"]) == (8, 8)
    held = counts(study)
    assert sum(held["splits"].values()) == 8
    assert (held["positive"], held["negative"]) == ({"pneumothorax": 3}, {"pneumothorax": 5})
    assert (held["masks"], held["captions"]) == ({"pneumothorax": 3}, {"Pneumothorax": 3})
    for i in range(3):  # the rows of an image are united, none overwrites another
        sha = study.db.value("SELECT mask_sha FROM record_masks WHERE record_id = ?", [f"siim/{SIIM_IDS[i]}"])
        assert np.array_equal(study.store.mask(sha), fit_mask(np.logical_or.reduce(siim_blocks(i)), 64))
    lines = found("siim", tree)
    assert [lines[name].expected for name in ("images", "images with pneumothorax")] == [12_047, 2_669]
    assert lines["images"].note.startswith("1 have several rows")
    assert lines["images with pneumothorax"].note == ""
    assert "masks are left out" in found("siim", tree, structures=["lungs"])["images with pneumothorax"].note


def test_siim_patients_are_hashes_and_stay_together(tmp_path, imported):
    tree = siim_tree(tmp_path / "raw")
    study, _ = imported("siim", tree)
    rows = study.db.rows("SELECT record_id, patient_id, split FROM records ORDER BY record_id")
    patients = [row["patient_id"] for row in rows]
    assert len(set(patients)) == 4
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in patients)
    assert "patient-" not in str([study.db.rows(f'SELECT * FROM "{name}"') for name in study.db.tables.table_names()])
    assert study.db.value("SELECT max(n) FROM (SELECT count(DISTINCT split) n FROM records GROUP BY patient_id)") == 1


def test_siim_plan_reads_no_image(tmp_path, monkeypatch):
    import pydicom

    tree = siim_tree(tmp_path / "raw")
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("a DICOM file was read"))
    assert len(plan("siim", tree).planned) == 8


def test_siim_bad_rows_are_quarantined_and_the_rest_imported(tmp_path, imported):
    tree = siim_tree(tmp_path / "raw", "stage 2")

    def spoil(rows):
        for row in rows:
            if row["ImageId"] == SIIM_IDS[1]:
                row[" EncodedPixels"] = "1048570 20"
            if row["ImageId"] == SIIM_IDS[2]:
                row[" EncodedPixels"] = "12 20 7"

    edit_csv(tree / "stage_2_train.csv", spoil)
    folder = tree / "stage_2_train"
    (folder / f"{SIIM_IDS[3]}.dcm").unlink()
    write_dicom(folder / f"{SIIM_IDS[4]}.dcm", 1, None)
    content = (folder / f"{SIIM_IDS[5]}.dcm").read_bytes()
    (folder / f"{SIIM_IDS[5]}.dcm").write_bytes(content[:-1000])
    study, result = imported("siim", tree, expect_quarantined=5)
    reasons = {name.removeprefix("siim/"): reason for name, reason in quarantine(result).items()}
    assert set(reasons) == set(SIIM_IDS[1:6])
    assert "of 1024x1024" in reasons[SIIM_IDS[1]]
    assert "do not make pairs" in reasons[SIIM_IDS[2]]
    assert "names no patient" in reasons[SIIM_IDS[4]]
    assert sum(counts(study)["splits"].values()) == 3


def test_a_patient_hash_is_the_same_for_the_same_patient_only(tmp_path):
    for i, patient in enumerate(("a", "a", "b")):
        write_dicom(tmp_path / f"{i}.dcm", i, patient)
    one, again, other = (hashed_patient(tmp_path / f"{i}.dcm") for i in range(3))
    assert one == again != other


# --- RSNA


def test_rsna_as_a_whole(tmp_path, imported):
    study, result = imported("rsna", rsna_tree(tmp_path / "raw"), LESION)
    assert (result["n_planned"], result["n_imported"]) == (8, 8)
    held = counts(study)
    assert sum(held["splits"].values()) == 8
    assert held["positive"] == {"pneumonia": 3, "normal": 3}
    assert held["negative"] == {"pneumonia": 5, "normal": 5}
    assert (held["masks"], held["captions"]) == ({"lesion": 3}, {"Pneumonia": 3, "Normal": 3})
    extra = json.loads(study.db.value("SELECT extra FROM records WHERE record_id = ?", [f"rsna/{RSNA_IDS[0]}"]))
    assert json.loads(extra["boxes"]) == [list(box) for box in RSNA_BOXES[0]]  # two rows, one record
    sha = study.db.value("SELECT mask_sha FROM record_masks WHERE record_id = ?", [f"rsna/{RSNA_IDS[0]}"])
    boxes = np.zeros((48, 48), bool)
    boxes[6:18, 4:14] = boxes[20:40, 30:40] = True
    assert np.array_equal(study.store.mask(sha), fit_mask(boxes, 64))


def test_rsna_boxes_are_masks_only_where_the_structure_is_named(tmp_path):
    tree = rsna_tree(tmp_path / "raw")
    record = plan("rsna", tree, structures=["lungs"]).planned[0].load()
    assert record.masks == {}
    assert "boxes" in record.extra
    assert (
        "'lesion' is in data.structures"
        in found("rsna", tree, structures=["lungs"])["rows of stage_2_train_labels.csv"].note
    )


def test_rsna_target_0_alone_is_not_normal(tmp_path):
    tree = rsna_tree(tmp_path / "raw")
    (tree / "stage_2_detailed_class_info.csv").unlink()
    records = [one.load() for one in plan("rsna", tree).planned]
    assert [record.labels["normal"] for record in records] == [0.0] * 3 + [None] * 5
    assert [record.caption for record in records] == ["Pneumonia"] * 3 + [None] * 5
    lines = found("rsna", tree)
    assert "Target 0 alone is not normal" in lines["normal"].note
    assert "one image" in lines["patient identifiers"].note
    assert [line.expected for line in lines.values()][:3] == [30_227, 26_684, 6_012]


def test_rsna_bad_rows_are_quarantined_and_the_rest_imported(tmp_path, imported):
    tree = rsna_tree(tmp_path / "raw")

    def spoil(rows):
        by_id = {row["patientId"]: row for row in rows}
        by_id[RSNA_IDS[1]]["x"] = "44.0"  # 44 + 16 > 48
        by_id[RSNA_IDS[2]]["y"] = "low"
        by_id[RSNA_IDS[3]]["Target"] = "2"
        rows.append(dict(by_id[RSNA_IDS[4]], Target="1"))

    edit_csv(tree / "stage_2_train_labels.csv", spoil)
    (tree / "stage_2_train_images" / f"{RSNA_IDS[5]}.dcm").unlink()
    study, result = imported("rsna", tree, LESION, expect_quarantined=5)
    reasons = {name.removeprefix("rsna/"): reason for name, reason in quarantine(result).items()}
    assert "does not lie in the image of 48x48" in reasons[RSNA_IDS[1]]
    assert "is not four numbers" in reasons[RSNA_IDS[2]]
    assert "is '2'" in reasons[RSNA_IDS[3]]
    assert "0 in one row and 1 in another" in reasons[RSNA_IDS[4]]
    assert "no image at" in reasons[RSNA_IDS[5]]
    assert sum(counts(study)["splits"].values()) == 3


# --- MIMIC-CXR


@pytest.mark.parametrize(
    ("end", "dicom", "reports"),
    [(".csv.gz", False, "files"), (".csv", True, "reports"), (".csv", False, "mimic-cxr-reports/files")],
)
def test_mimic_as_a_whole(tmp_path, imported, end, dicom, reports):
    tree = mimic_tree(tmp_path / "raw", end=end, dicom=dicom, reports=reports)
    study, result = imported("mimic", tree, 'labels = ["pneumonia", "normal"]\nuncertain = "ones"')
    assert (result["n_planned"], result["n_imported"]) == (9, 9)  # the lateral view is left out
    held = counts(study)
    assert held["splits"] == {"train": 6, "val": 2, "test": 1}  # the official split
    assert held["positive"] == {"pneumonia": 5}  # 0, 3, 6 and the uncertain 2, 5; the study of 8 has no labels
    assert held["negative"] == {"pneumonia": 3}
    assert held["captions"] == {"Pneumonia": 1}  # image 2 alone has no report; captions of the rest come from theirs
    assert study.db.value("SELECT count(*) FROM records WHERE report LIKE '%IMPRESSION%'") == 8
    assert study.db.value("SELECT count(DISTINCT patient_id) FROM records") == 5
    assert len(result["splits"]["sha256"]) == 64


def test_mimic_unlabelled_studies_are_unknown_even_where_blank_is_0(tmp_path):
    planned = plan("mimic", mimic_tree(tmp_path / "raw"), blank="0").planned
    assert set(planned[8].load().labels.values()) == {None}
    assert planned[0].load().labels["edema"] == 0.0


def test_mimic_bad_rows_are_quarantined_and_the_rest_imported(tmp_path, imported):
    tree = mimic_tree(tmp_path / "raw", end=".csv")
    ids = {}

    def spoil_split(rows):
        ids.update({i: row["dicom_id"] for i, row in enumerate(rows)})
        rows[1]["split"] = "holdout"
        rows[3]["subject_id"] = "19999999"
        del rows[5]

    def spoil_labels(rows):
        rows[0]["Pneumonia"] = "yes"

    edit_csv(tree / "mimic-cxr-2.0.0-split.csv", spoil_split)
    edit_csv(tree / "mimic-cxr-2.0.0-chexpert.csv", spoil_labels)
    edit_csv(tree / "mimic-cxr-2.0.0-metadata.csv", lambda rows: [*rows, dict(rows[2])])
    next(tree.rglob("00000007*.jpg")).unlink()
    study, result = imported("mimic", tree, expect_quarantined=6)
    reasons = {name.removeprefix("mimic/"): reason for name, reason in quarantine(result).items()}
    assert "'holdout'" in reasons[ids[1]]
    assert "belongs to two patients" in reasons[ids[3]]
    assert "''" in reasons[ids[5]]
    assert "'Pneumonia' holds 'yes'" in reasons[ids[0]]
    assert "no image at" in reasons[ids[7]]
    assert f"repeats {ids[2]}" in reasons[f"{ids[2]}#row12"]
    assert sum(counts(study)["splits"].values()) == 4


# --- what is missing is named in one line


TREES = {"chexpert": chexpert_tree, "candid": candid_tree, "siim": siim_tree, "rsna": rsna_tree, "mimic": mimic_tree}
TABLES = {
    "chexpert": ("CheXpert-v1.0-small/valid.csv", "Path"),
    "candid": ("Pneumothorax_reports.csv", "filename"),
    "siim": ("train-rle.csv", " EncodedPixels"),
    "rsna": ("stage_2_train_labels.csv", "Target"),
    "mimic": ("mimic-cxr-2.0.0-split.csv.gz", "split"),
}


@pytest.mark.parametrize("reader", TREES)
def test_a_missing_folder_table_or_column_is_one_line(tmp_path, reader):
    tree = TREES[reader](tmp_path / "raw")
    name, column = TABLES[reader]
    table = tree / name
    with pytest.raises(InvalidInput, match=f"{reader} reader needs the folder"):
        plan(reader, None)
    with pytest.raises(NotFound, match="no folder at"):
        plan(reader, tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="is a file; give the folder"):
        plan(reader, table)
    edit_csv(table, lambda rows: [{key: cell for key, cell in row.items() if key != column} for row in rows])
    with pytest.raises(InvalidInput, match=f"has no column '{column.strip()}'") as caught:
        plan(reader, tree)
    assert "\n" not in str(caught.value)
    table.write_bytes(b"\x1f\x8b\x08cut" if table.suffix == ".gz" else b'a,b\n"cut,1\n')
    with pytest.raises(InvalidInput):
        plan(reader, tree)
    table.unlink()
    with pytest.raises(NotFound, match="put it there") as caught:
        plan(reader, tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", TREES)
def test_tables_without_images_are_refused_before_all_is_quarantined(tmp_path, reader):
    tree = TREES[reader](tmp_path / "raw")
    for place in [*tree.rglob("*.dcm"), *tree.rglob("*.jpg"), *tree.rglob("1.2.840*")]:
        place.unlink()
    with pytest.raises(NotFound, match=r"none of .*unpack"):
        plan(reader, tree, rle="relative")


@pytest.mark.parametrize("reader", TREES)
def test_every_reader_is_registered_and_named_in_the_configuration(tmp_path, reader):
    assert reader in READERS
    assert parse_config({"data": {"reader": reader}}).data.reader == reader
    planned = plan(reader, TREES[reader](tmp_path / "raw"), rle="relative").planned
    ids = [record.record_id for record in planned]
    assert len(set(ids)) == len(ids) == len(planned)
    assert ids == [planned[i].record_id for i in range(len(planned))]
    assert all(name.startswith(f"{reader}/") for name in ids)


@pytest.mark.parametrize("reader", TREES)
def test_a_record_can_be_loaded_in_another_process(tmp_path, reader):
    """A process gets the work as pickled bytes; they stay small however large the set is."""
    import pickle

    planned = plan(reader, TREES[reader](tmp_path / "raw"), rle="relative").planned
    sent = pickle.dumps(planned[0].load)
    assert len(sent) < 6000
    assert pickle.loads(sent)().record_id == planned[0].record_id


# --- captions of labels


@pytest.mark.parametrize(
    ("labels", "caption"),
    [
        ({"pneumonia": 1.0, "normal": 0.0}, "Pneumonia"),
        ({"pleural_effusion": 1.0, "cardiomegaly": 1.0, "normal": None}, "Pleural effusion"),
        ({"cardiomegaly": 1.0}, "Cardiomegaly"),
        ({"edema": 1.0}, "Pulmonary edema"),
        ({"normal": 1.0, "edema": 0.0}, "Normal"),
        ({"normal": 1.0, "support_devices": 1.0}, "Normal"),
        ({"normal": 0.0, "support_devices": 1.0}, "Support devices"),
        ({"pneumothorax": 0.0}, None),
        ({"pneumonia": 0.0, "normal": None}, None),
        ({"pneumothorax": 0.0, "rib_fractures": 1.0, "chest_tubes": 0.0}, "Fracture"),
        ({"pneumothorax": 0.0, "rib_fractures": 0.0, "chest_tubes": 1.0}, "Chest tube"),
    ],
)
def test_captions_of_labels_ask_for_what_they_name(labels, caption):
    assert finding_caption(labels) == caption
    if caption not in (None, "Normal"):
        assert asked_attributes(caption, labels)
        assert all(labels[name] == 1 for name in asked_attributes(caption, labels))


# --- examples


EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SETS = {"chexpert": "chexpert", "candid-ptx": "candid", "siim": "siim", "rsna": "rsna", "mimic": "mimic"}


@pytest.mark.parametrize("name", SETS)
def test_the_example_of_each_set_imports_its_set_with_labels_and_masks_for_its_tasks(tmp_path, name):
    text = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    study = Study.create(tmp_path / "study", text)
    assert study.config.data.reader == SETS[name]
    tree = TREES[SETS[name]](tmp_path / "raw")
    assert import_records(study, None, tree)["n_imported"] >= 8
    held = counts(study)
    for task in study.config.downstream.tasks:
        if task.kind == "segmentation":
            assert held["masks"][task.structure]
            assert task.structure in held["negative"]
        else:
            known = study.db.rows("SELECT DISTINCT label FROM labels")
            assert {row["label"] for row in known} >= set(task.labels)
    assert verify(study)["ok"]
    study.db.close()


def test_every_example_that_is_shipped_is_a_valid_study():
    examples = sorted(EXAMPLES.glob("*.toml"))
    assert len(examples) >= 6
    for path in examples:
        parse_config(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
