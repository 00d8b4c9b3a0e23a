"""MIMIC-CXR: layouts of images and reports, the official split, bad rows."""

from __future__ import annotations

import pytest

from tests.support.datasets import counts, edit_csv, mimic_tree, plan, quarantine


@pytest.mark.parametrize(
    ("end", "dicom", "reports"),
    [(".csv.gz", False, "files"), (".csv", True, "reports"), (".csv", False, "mimic-cxr-reports/files")],
)
def test_mimic_as_a_whole(tmp_path, imported, end, dicom, reports):
    tree = mimic_tree(tmp_path / "raw", end=end, dicom=dicom, reports=reports)
    study, result = imported("mimic", tree, 'labels = ["pneumonia", "normal"]\nuncertain = "ones"')
    assert (result.n_planned, result.n_imported) == (9, 9)  # the lateral view is left out
    held = counts(study)
    assert held["splits"] == {"train": 6, "val": 2, "test": 1}  # the official split
    assert held["positive"] == {"pneumonia": 5}  # 0, 3, 6 and the uncertain 2, 5; the study of 8 has no labels
    assert held["negative"] == {"pneumonia": 3}
    assert held["captions"] == {"Pneumonia": 1}  # image 2 alone has no report; captions of the rest come from theirs
    assert study.db.value("SELECT count(*) FROM records WHERE report LIKE '%IMPRESSION%'") == 8
    assert study.db.value("SELECT count(DISTINCT patient_id) FROM records") == 5
    assert len(result.splits.sha256) == 64


def test_mimic_unlabelled_studies_are_unknown_even_where_blank_is_0(tmp_path):
    records = plan("mimic", mimic_tree(tmp_path / "raw"), blank="0").records
    assert set(records.load(8).labels.values()) == {None}
    assert records.load(0).labels["edema"] == 0.0


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
