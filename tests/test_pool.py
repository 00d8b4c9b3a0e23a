"""Augmentation pools: nested, balanced, equal conditions and seeds in all arms, training records only, resumable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data.conditions_store import record_conditions
from data.config import TaskConfig
from data.errors import InvalidInput, NotFound, StorageFull
from data.pools import pool_rows
from data.study import Study
from generation.pool import class_cycle, classification_conditions, pool_size, run_pool, segmentation_conditions
from tests.support_data import full_disk_after
from tests.support_sampling import SAMPLING_TOML, add_aligned_arm, open_copy, stop_after

POOL_TOML = (
    SAMPLING_TOML
    + """
[downstream]
fractions = [0.25, 0.5]
multiples = [1, 2]
arms = ["baseline", "aligned"]

[[downstream.tasks]]
name = "three"
kind = "multilabel"
labels = ["cardiomegaly", "consolidation", "edema"]

[[downstream.tasks]]
name = "one"
kind = "binary"
labels = ["pneumothorax"]

[[downstream.tasks]]
name = "outline"
kind = "segmentation"
structure = "pneumothorax"
"""
)


@pytest.fixture
def make_study(tmp_path, _tiny_template):
    """Makes copies of the tiny study with a generator, closed at the end."""
    made = []

    def make(name, toml=POOL_TOML):
        made.append(open_copy(_tiny_template, tmp_path / name, toml))
        return made[-1]

    yield make
    for opened in made:
        opened.db.close()


@pytest.fixture
def pooled(make_study):
    return make_study("pooled")


def _task(study: Study, name: str) -> TaskConfig:
    return next(task for task in study.config.downstream.tasks if task.name == name)


def _record(name: str, caption: str | None, **labels: float | None) -> dict:
    return {"record_id": name, "caption": caption, "labels": labels, "masks": {}}


BINARY = TaskConfig(name="t", kind="binary", labels=("pneumonia",))


# ---- the plan


def test_the_pool_holds_the_largest_multiple_of_the_largest_real_subset(pooled):
    assert pool_size(pooled, _task(pooled, "one")) == 24 // 2 * 2


def test_a_binary_pool_is_balanced_and_its_conditions_name_one_label():
    records = [
        _record("a", "mild pneumonia", pneumonia=1.0, normal=0.0),
        _record("b", "normal", pneumonia=0.0, normal=1.0),
        _record("c", None, pneumonia=1.0, normal=0.0),  # no caption: never asked for
        _record("d", "chest radiograph", pneumonia=1.0, normal=0.0),  # has it, but does not say so
        _record("e", "pneumonia", pneumonia=None, normal=None),  # says so, but it is not known
    ]
    drawn = classification_conditions(BINARY, records, 21, np.random.default_rng(0))
    assert {c.text_record for c, _ in drawn} == {"a", "b"}
    counts = Counter(labels["pneumonia"] for _, labels in drawn)
    assert abs(counts[0] - counts[1]) == 1
    for condition, labels in drawn:
        assert condition.mode == "T2I"
        assert labels == {"pneumonia": int(condition.text == "mild pneumonia")}
        assert dict(condition.asked) == ({"pneumonia": 1} if labels["pneumonia"] else {"normal": 1})


def test_a_caption_with_two_labels_of_the_task_is_not_used():
    task = TaskConfig(name="t", kind="multilabel", labels=("edema", "pleural_effusion"))
    both = _record("both", "edema with effusion", edema=1.0, pleural_effusion=1.0, normal=0.0)
    hidden = _record("hidden", "edema", edema=1.0, pleural_effusion=1.0, normal=0.0)
    singles = [
        _record("edema", "edema", edema=1.0, pleural_effusion=0.0, normal=0.0),
        _record("effusion", "effusion", edema=0.0, pleural_effusion=1.0, normal=0.0),
        _record("normal", "normal", edema=0.0, pleural_effusion=0.0, normal=1.0),
    ]
    drawn = classification_conditions(task, [both, hidden, *singles], 60, np.random.default_rng(1))
    assert {c.text_record for c, _ in drawn} == {"edema", "effusion", "normal"}
    assert {tuple(labels.values()) for _, labels in drawn} == {(1, 0), (0, 1), (0, 0)}


def test_rarer_labels_come_more_often():
    task = TaskConfig(name="t", kind="multilabel", labels=("often", "seldom"))
    records = [_record(str(i), "often", often=1.0, seldom=0.0) for i in range(9)]
    records.append(_record("s", "seldom", often=0.0, seldom=1.0))
    period = Counter(class_cycle(task, records))
    assert period["seldom"] > period["often"] >= 1
    assert period["normal"] == 1


def test_a_label_without_captions_is_named():
    with pytest.raises(InvalidInput, match="task 't': no training record has a caption for 'normal'"):
        classification_conditions(BINARY, [_record("a", "pneumonia", pneumonia=1.0)], 4, np.random.default_rng(0))


def test_a_smaller_plan_is_the_beginning_of_a_larger_one(pooled):
    for name in ("three", "one"):
        task, records = _task(pooled, name), record_conditions(pooled, "train")
        short, long = (classification_conditions(task, records, n, np.random.default_rng(5)) for n in (7, 40))
        assert long[:7] == short
    task, records = _task(pooled, "outline"), record_conditions(pooled, "train")
    short, long = (segmentation_conditions(pooled, task, records, n, np.random.default_rng(5)) for n in (7, 40))
    assert long[:7] == short


# ---- masks


def test_every_mask_condition_keeps_the_structure_and_is_transformed(pooled):
    records = record_conditions(pooled, "train")
    drawn = segmentation_conditions(pooled, _task(pooled, "outline"), records, 30, np.random.default_rng(2))
    originals = {sha for record in records for sha in record["masks"].values()}
    sources = {record["record_id"] for record in records if "pneumothorax" in record["masks"]}
    assert len(drawn) == 30
    for condition, labels in drawn:
        assert (condition.mode, condition.text, labels) == ("M2I", None, {})
        assert condition.mask_record in sources
        assert pooled.store.mask(condition.masks["pneumothorax"]).any()
    moved = [condition.masks["pneumothorax"] not in originals for condition, _ in drawn]
    assert np.mean(moved) > 0.8
    assert len({condition.masks["pneumothorax"] for condition, _ in drawn}) > 15


def test_a_transform_that_empties_the_structure_is_redrawn(pooled, monkeypatch):
    import data.masks

    real, calls = data.masks.transform_mask, []

    def transform(stack, kind, rng):
        calls.append(kind)
        if len(calls) % 3 == 1:
            return np.zeros_like(stack)
        if len(calls) % 3 == 2:
            raise InvalidInput("emptied in 20 draws")
        return real(stack, kind, rng)

    monkeypatch.setattr("data.masks.transform_mask", transform)
    records = record_conditions(pooled, "train")
    drawn = segmentation_conditions(pooled, _task(pooled, "outline"), records, 4, np.random.default_rng(2))
    assert len(calls) == 12
    assert all(pooled.store.mask(condition.masks["pneumothorax"]).any() for condition, _ in drawn)


def test_masks_that_never_survive_are_one_clear_line(pooled, monkeypatch):
    monkeypatch.setattr("data.masks.transform_mask", lambda stack, kind, rng: np.zeros_like(stack))
    records = record_conditions(pooled, "train")
    with pytest.raises(InvalidInput, match="emptied a mask of 'pneumothorax'; import larger masks"):
        segmentation_conditions(pooled, _task(pooled, "outline"), records, 4, np.random.default_rng(2))


def test_a_structure_without_training_masks_is_named(pooled):
    task = TaskConfig(name="t", kind="segmentation", structure="pneumothorax")
    records = [record for record in record_conditions(pooled, "train") if "pneumothorax" not in record["masks"]]
    with pytest.raises(InvalidInput, match="no training record has a mask of 'pneumothorax'"):
        segmentation_conditions(pooled, task, records, 2, np.random.default_rng(0))


# ---- sampling


def test_arms_share_conditions_seeds_and_labels_but_not_images(pooled):
    add_aligned_arm(pooled)
    found = run_pool(pooled, tasks=["one", "outline"])
    assert found == {
        "images": dict.fromkeys(("one/baseline", "one/aligned", "outline/baseline", "outline/aligned"), 24)
    }
    for task in ("one", "outline"):
        baseline, aligned = (pool_rows(pooled, task, arm) for arm in ("baseline", "aligned"))
        assert [row["ordinal"] for row in baseline] == list(range(24))
        for key in ("ordinal", "condition_id", "seed", "labels"):
            assert [row[key] for row in baseline] == [row[key] for row in aligned]
        assert not {row["image_sha"] for row in baseline} & {row["image_sha"] for row in aligned}
        assert len({row["seed"] for row in baseline}) == 24
    labels = Counter(row["labels"]["pneumothorax"] for row in pool_rows(pooled, "one", "baseline"))
    assert labels == {0: 12, 1: 12}
    splits = pooled.db.rows(
        "SELECT DISTINCT split FROM conditions JOIN records ON record_id = text_record OR record_id = mask_record"
    )
    assert [row["split"] for row in splits] == ["train"]


def test_a_finished_pool_is_not_sampled_again_and_a_smaller_one_is_its_prefix(make_study, monkeypatch):
    large, small = make_study("large"), make_study("small", POOL_TOML.replace("multiples = [1, 2]", "multiples = [1]"))
    for opened in (large, small):
        run_pool(opened, arms=["baseline"], tasks=["one"])
    rows, prefix = pool_rows(large, "one", "baseline"), pool_rows(small, "one", "baseline")
    assert (len(rows), len(prefix)) == (24, 12)
    for key in ("condition_id", "seed", "labels"):
        assert [row[key] for row in rows[:12]] == [row[key] for row in prefix]
    stop_after(monkeypatch, "generation.sets.sample_stored", 0, AssertionError("sampled again"))
    assert run_pool(large, arms=["baseline"], tasks=["one"]) == {"images": {"one/baseline": 24}}
    assert large.db.value("SELECT count(*) FROM runs WHERE kind = 'pool'") == 1


def test_an_interrupted_pool_resumes_to_the_same_images(make_study, monkeypatch):
    monkeypatch.setattr("generation.pool.CHUNK", 8)
    whole, broken = make_study("whole"), make_study("broken")
    run_pool(whole, arms=["baseline"], tasks=["three"])
    with monkeypatch.context() as patch:
        stop_after(patch, "generation.sets.sample_stored", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_pool(broken, arms=["baseline"], tasks=["three"])
    assert broken.db.value("SELECT count(*) FROM pool_images") == 16
    with pytest.raises(NotFound, match="no finished pool for task 'three'"):
        pool_rows(broken, "three", "baseline")
    calls = stop_after(monkeypatch, "generation.sets.sample_stored", 99, AssertionError())
    run_pool(broken, arms=["baseline"], tasks=["three"])
    assert len(calls) == 1
    assert pool_rows(broken, "three", "baseline") == pool_rows(whole, "three", "baseline")


def test_a_full_disk_loses_nothing_and_the_rerun_completes(make_study, monkeypatch):
    monkeypatch.setattr("generation.pool.CHUNK", 8)
    whole, full = make_study("whole"), make_study("full")
    run_pool(whole, arms=["baseline"], tasks=["one"])
    with monkeypatch.context() as patch:
        full_disk_after(patch, 1 + 8 + 5)  # the run's configuration, one chunk, five images of the second
        with pytest.raises(StorageFull, match="free space and run the same command again"):
            run_pool(full, arms=["baseline"], tasks=["one"])
    assert full.db.value("SELECT count(*) FROM pool_images") == 8
    run_pool(full, arms=["baseline"], tasks=["one"])
    assert pool_rows(full, "one", "baseline") == pool_rows(whole, "one", "baseline")


def test_unknown_tasks_and_arms_are_named(pooled):
    with pytest.raises(InvalidInput, match=r"unknown task in four; study\.toml has three, one, outline"):
        run_pool(pooled, tasks=["four"])
    with pytest.raises(NotFound, match="no arm 'aligned'"):
        run_pool(pooled, arms=["aligned"], tasks=["one"])
