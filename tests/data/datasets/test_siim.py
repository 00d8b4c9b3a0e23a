"""SIIM-ACR: rows united, patients as hashes, no file read while planning, bad rows."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.datasets.siim import hashed_patient
from radpref.data.imaging.framing import fit_mask
from tests.support.datasets import (
    SIIM_IDS,
    counts,
    edit_csv,
    found,
    plan,
    quarantine,
    siim_blocks,
    siim_tree,
    write_dicom,
)


@pytest.mark.parametrize("layout", ["stage 1", "stage 2"])
def test_siim_as_a_whole(tmp_path, imported, layout):
    tree = siim_tree(tmp_path / "raw", layout)
    study, result = imported("siim", tree, 'structures = ["pneumothorax"]')
    assert (result.n_planned, result.n_imported) == (8, 8)
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
    assert len(plan("siim", tree).records) == 8


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
