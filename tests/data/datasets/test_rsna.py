"""RSNA Pneumonia: boxes of one image together, what is normal, bad rows."""

from __future__ import annotations

import json

import numpy as np

from radpref.data.imaging.framing import fit_mask
from tests.support.datasets import RSNA_BOXES, RSNA_IDS, counts, edit_csv, found, load_all, plan, quarantine, rsna_tree

LESION = 'structures = ["lesion"]'


def test_rsna_as_a_whole(tmp_path, imported):
    study, result = imported("rsna", rsna_tree(tmp_path / "raw"), LESION)
    assert (result.n_planned, result.n_imported) == (8, 8)
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
    record = plan("rsna", tree, structures=["lungs"]).records.load(0)
    assert record.masks == {}
    assert "boxes" in record.extra
    assert (
        "'lesion' is in data.structures"
        in found("rsna", tree, structures=["lungs"])["rows of stage_2_train_labels.csv"].note
    )


def test_rsna_target_0_alone_is_not_normal(tmp_path):
    tree = rsna_tree(tmp_path / "raw")
    (tree / "stage_2_detailed_class_info.csv").unlink()
    records = load_all(plan("rsna", tree))
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
