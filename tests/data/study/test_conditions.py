"""Conditions in the study record: what a text asks for, identity, masks as stacks, material per split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.conditions import (
    StoredCondition,
    asked_attributes,
    load_condition,
    mask_stack,
    record_conditions,
    save_conditions,
)
from tests.support.data import table_study
from tests.support.errors import refuses

LUNGS, HEART = "a" * 64, "b" * 64


def _put(study, *masks):
    with study.db.write() as connection:
        return [study.store.put_mask(connection, mask) for mask in masks]


# ---- what a text asks for


@pytest.mark.parametrize(
    ("text", "labels", "asked"),
    [
        ("Severe left pleural effusion",
         {"pleural_effusion": 1, "pleural_effusion/left": 1, "pleural_effusion/right": 0},
         {"pleural_effusion": 1, "pleural_effusion/left": 1}),
        ("Severe left effusion with edema", {"pleural_effusion": 1, "pleural_effusion/left": 1, "edema": 1},
         {"pleural_effusion": 1, "pleural_effusion/left": 1, "edema": 1}),
        ("Pleural effusion", {"pleural_effusion": 1, "pleural_effusion/left": 1}, {"pleural_effusion": 1}),
        ("pneumonia pediatric chest radiograph", {"pneumonia": 1.0, "normal": 0.0, "pediatric": 1.0, "adult": 0.0},
         {"pneumonia": 1, "pediatric": 1}),
        ("normal adult chest radiograph", {"pneumonia": 0.0, "normal": 1.0, "pediatric": 0.0, "adult": 1.0},
         {"normal": 1, "adult": 1}),
        ("Pediatric AP chest radiograph. No acute finding.", {"normal": 1, "pediatric": 1},
         {"normal": 1, "pediatric": 1}),
        ("Cardiomegaly", {"cardiomegaly": 1, "edema": 1}, {"cardiomegaly": 1}),  # what it does not name is not asked
        ("Pneumonia", {"pneumonia": None, "normal": None}, {}),  # unknown labels are never asked
        ("Pneumonia", {"pneumonia": 0}, {}),
        ("", {"normal": 1}, {}),
    ],
)  # fmt: skip
def test_a_text_asks_for_the_labels_it_names(text, labels, asked):
    assert asked_attributes(text, labels) == asked


@given(text=st.text(max_size=60), names=st.sets(st.sampled_from(["edema", "edema/left", "normal", "pleural_effusion"])))
def test_what_is_asked_is_always_a_positive_label(text, names):
    labels = dict.fromkeys(names, 1.0)
    asked = asked_attributes(text, labels)
    assert set(asked) <= set(names)
    assert set(asked.values()) <= {1}


def test_captions_of_the_phantom_ask_for_their_finding_and_side(tiny_study):
    for split in ("train", "val"):
        for record in record_conditions(tiny_study, split):
            asked = asked_attributes(record["caption"], record["labels"])
            assert asked, record["caption"]
            assert all(record["labels"][name] == 1 for name in asked)
            for side in ("left", "right"):
                named = side in record["caption"].lower().split()
                assert named == any(name.endswith("/" + side) for name in asked), record["caption"]


# ---- identity and storage


@pytest.mark.parametrize(
    ("mode", "text", "masks"),
    [("T2I", None, {}), ("T2I", "x", {"lungs": LUNGS}), ("M2I", "x", {"lungs": LUNGS}), ("M2I", None, {}),
     ("TM2I", "x", {}), ("TM2I", None, {"lungs": LUNGS})],
)  # fmt: skip
def test_a_condition_has_exactly_what_its_mode_needs(mode, text, masks):
    with refuses(InvalidInput, mode, repr(text), list(masks)):
        StoredCondition(mode, text, masks)


def test_the_identity_depends_on_everything_but_order():
    base = StoredCondition("TM2I", "edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 1}, "r1", "r2")
    same = StoredCondition("TM2I", "edema", {"heart": HEART, "lungs": LUNGS}, {"edema": 1}, "r1", "r2")
    others = [
        StoredCondition("TM2I", "Edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 1}, "r1", "r2"),
        StoredCondition("TM2I", "edema", {"lungs": HEART, "heart": LUNGS}, {"edema": 1}, "r1", "r2"),
        StoredCondition("TM2I", "edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 0}, "r1", "r2"),
        StoredCondition("TM2I", "edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 1}, "r2", "r2"),
        StoredCondition("TM2I", "edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 1}, "r1", "r1"),
        StoredCondition("TM2I", "edema", {"lungs": LUNGS, "heart": HEART}, {"edema": 1}, "r1", "r2", {"k": 1}),
        StoredCondition("T2I", "edema", {}, {"edema": 1}, "r1"),
    ]
    assert same.condition_id == base.condition_id
    assert len({base.condition_id, *(other.condition_id for other in others)}) == len(others) + 1


def test_conditions_are_read_back_as_they_were_saved_and_saving_twice_is_harmless(tiny_study):
    record = next(r for r in record_conditions(tiny_study, "val") if r["masks"])
    source, masks = record["record_id"], record["masks"]
    asked = {"normal": 1}
    conditions = [
        StoredCondition("T2I", "Normal", {}, asked, source),
        StoredCondition("M2I", None, masks, {}, None, source),
        StoredCondition("TM2I", "Normal", masks, asked, source, source, {"note": "x"}),
    ]
    for _ in range(2):
        with tiny_study.db.write() as connection:
            save_conditions(connection, conditions)
    assert tiny_study.db.value("SELECT count(*) FROM conditions") == 3
    assert [load_condition(tiny_study, c.condition_id) for c in conditions] == conditions
    with refuses(NotFound, "nowhere"):
        load_condition(tiny_study, "nowhere")


# ---- masks


def test_masks_become_planes_in_the_order_of_the_study_or_of_the_generator(study):
    lungs, heart = np.zeros((2, 64, 64), dtype=bool)
    lungs[5:30, 5:20], heart[30:50, 20:44] = True, True
    masks = dict(zip(("lungs", "heart"), _put(study, lungs, heart), strict=True))
    stack = mask_stack(study, masks)
    assert stack.shape == (4, 64, 64)
    assert np.array_equal(stack[0], lungs)
    assert np.array_equal(stack[1], heart)
    assert not stack[2:].any()
    assert np.array_equal(mask_stack(study, masks, ("heart", "lungs")), np.stack([heart, lungs]))
    assert mask_stack(study, {}) is None


def test_masks_the_generator_does_not_know_or_of_two_sizes_are_refused(study):
    small, large = np.ones((32, 32), dtype=bool), np.ones((64, 64), dtype=bool)
    one, other = _put(study, small, large)
    with refuses(InvalidInput, "heart", "lungs"):
        mask_stack(study, {"heart": one}, ("lungs",))
    with refuses(InvalidInput, (32, 32), (64, 64)):
        mask_stack(study, {"lungs": one, "heart": other})


# ---- material


def test_records_are_sorted_and_filtered_by_split_and_columns(tmp_path):
    from radpref.data.datasets.importing import import_records

    opened = table_study(tmp_path)
    import_records(opened)
    train = record_conditions(opened, "train")
    assert [r["record_id"] for r in train] == sorted(r["record_id"] for r in train)
    assert {r["split"] for r in train} == {"train"}
    assert set(train[0]["labels"]) == {"ill", "normal", "child"}
    assert set(train[0]["masks"]) == {"lungs"}
    everyone = [r for split in ("train", "val", "test") for r in record_conditions(opened, split)]
    adults = [
        r for split in ("train", "val", "test") for r in record_conditions(opened, split, {"population": "adult"})
    ]
    assert len(everyone) == 8
    assert [r["record_id"] for r in adults] == [r["record_id"] for r in everyone if r["extra"]["population"] == "adult"]
    assert record_conditions(opened, "train", {"population": "nobody"}) == []
    opened.db.close()


def test_an_empty_mask_is_no_condition(tiny_study):
    record = record_conditions(tiny_study, "val")[0]
    (empty,) = _put(tiny_study, np.zeros((64, 64), dtype=bool))
    with tiny_study.db.write() as connection:
        connection.execute("UPDATE record_masks SET mask_sha = ? WHERE record_id = ?", (empty, record["record_id"]))
    assert record_conditions(tiny_study, "val")[0]["masks"] == {}
