"""CANDID-PTX: masks in either run-length convention, reports, names without suffix, bad rows."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.candid import STRUCTURES
from radpref.data.imaging.framing import fit_mask
from radpref.data.imaging.rle import encode_rle
from tests.support.datasets import (
    CANDID_IDS,
    block,
    candid_tree,
    counts,
    edit_csv,
    found,
    load_all,
    plan,
    quarantine,
    write_csv,
)
from tests.support.errors import refuses

CANDID = 'structures = ["pneumothorax", "rib_fractures", "chest_tubes"]\nrle = "relative"'


@pytest.mark.parametrize("convention", ["relative", "absolute"])
def test_candid_as_a_whole(tmp_path, imported, convention):
    data = CANDID.replace("relative", convention)
    study, result = imported("candid", candid_tree(tmp_path / "raw", convention), data)
    assert (result.n_planned, result.n_imported) == (8, 8)
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
    with refuses(InvalidInput, "pneumothorax", "data.rle", "relative", "absolute", 4, 0):
        plan("candid", tree, structures=STRUCTURES)
    with refuses(InvalidInput, "pneumothorax", "data.rle", "absolute"):
        plan("candid", tree, structures=STRUCTURES, rle="absolute")
    assert (
        plan("candid", tree, structures=["lungs"]).records.load(0).masks == {}
    )  # no structure of the set is named: no mask is read
    assert "name it in data.structures" in found("candid", tree, structures=["lungs"])["images with chest_tubes"].note


def test_candid_conventions_may_differ_by_file(tmp_path):
    tree = candid_tree(tmp_path / "raw")
    masks = [(CANDID_IDS[i], encode_rle(block(300, 300), "absolute", first=0)) for i in (3, 4)]
    rows = [{"anon_SOPUID": uid, "annotation": "1", "mask_rle": text} for uid, text in masks]
    write_csv(tree / "Rib_fracture_mask_rle.csv", rows)
    rle = {"rib_fractures": "absolute", "chest_tubes": "relative", "pneumothorax": "relative"}
    with refuses(InvalidInput, "rib_fractures", "data.rle"):
        plan("candid", tree, structures=STRUCTURES, rle="relative")
    record = plan("candid", tree, structures=STRUCTURES, rle=rle, rle_first=0).records.load(3)
    assert np.array_equal(record.masks["rib_fractures"], fit_mask(block(300, 300), 64))


def test_candid_resized_copies_with_a_suffix_keep_their_masks(tmp_path):
    tree = candid_tree(tmp_path / "raw", dicom=False)
    (tree / "Rib_fracture_mask_rle.csv").unlink()
    config = {"structures": STRUCTURES, "rle": "relative"}
    records = load_all(plan("candid", tree, **config))
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
