"""Augmentation pools: nested, balanced, equal conditions and seeds in all arms, training records only, resumable."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from radpref.data.config.downstream import TaskConfig
from radpref.data.core.errors import InvalidInput, NotFound, StorageFull
from radpref.data.study.conditions import record_conditions
from radpref.data.study.pools import is_usable, material, pool_rows
from radpref.data.study.study import Study
from radpref.downstream.cells.tasks import LoadedTask, load_task
from radpref.generation.pools.options import EngineOptions
from radpref.generation.pools.plan import Material, PoolPlan, class_names, class_order, gather, named_class
from radpref.generation.pools.pool import pool_size, run_pool
from tests.support.data import full_disk_after
from tests.support.errors import refuses
from tests.support.masks import replay_transforms
from tests.support.sampling import SAMPLING_TOML, add_aligned_arm, open_copy, stop_after

POOL_TOML = (
    SAMPLING_TOML
    + """
[pool]
shard_size = 8

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
TASKS = ("three", "one", "outline")
FACTS = ("ordinal", "condition_id", "seed", "labels", "image_sha")


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


def _loaded(study: Study, task: TaskConfig, *arms: str) -> LoadedTask:
    """A task as the grid reads it, with the pools of some arms, at the size of the sampled images."""
    downstream = study.config.downstream.model_copy(update={"arms": arms, "image_size": 64})
    study.config = study.config.model_copy(update={"downstream": downstream})
    return load_task(study, task)


def _record(caption: str | None, **labels: float | None) -> dict:
    return {"caption": caption, "labels": labels}


def _images(study: Study, task: str, arm: str = "baseline") -> list[tuple]:
    return [tuple(str(row[fact]) for fact in FACTS) for row in pool_rows(study, task, arm)]


BINARY = TaskConfig(name="t", kind="binary", labels=("pneumonia",))
FIVE = TaskConfig(
    name="five",
    kind="multilabel",
    labels=("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"),
)


# ---- what is asked for


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (_record("mild pneumonia", pneumonia=1.0, normal=0.0), "pneumonia"),
        (_record("normal", pneumonia=0.0, normal=1.0), "normal"),
        (_record(None, pneumonia=1.0, normal=0.0), None),
        (_record("chest radiograph", pneumonia=1.0, normal=0.0), None),  # has it, but does not say so
        (_record("pneumonia", pneumonia=None, normal=None), None),  # says so, but it is not known
        (_record(None, pneumonia=0.0, normal=1.0), None),
    ],
)
def test_captions_that_say_one_label_are_its_prompts(record, name):
    assert named_class(BINARY, record) == name


def test_captions_with_two_labels_of_the_task_or_a_hidden_one_are_not_used():
    both = _record("edema with effusion", edema=1.0, pleural_effusion=1.0, normal=0.0)
    hidden = _record("edema", edema=1.0, pleural_effusion=1.0, normal=0.0)
    assert named_class(FIVE, both) is None
    assert named_class(FIVE, hidden) is None
    assert named_class(FIVE, _record("mild effusion", pleural_effusion=1.0)) == "pleural_effusion"


def _counts(task: TaskConfig, real: dict[str, int], n: int) -> dict[str, int]:
    names = class_names(task)
    return {names[k]: count for k, count in Counter(class_order(task, real, n).tolist()).items()}


def test_a_binary_pool_is_half_normal_or_positive_only():
    assert _counts(BINARY, {"pneumonia": 3}, 20) == {"pneumonia": 10, "normal": 10}
    assert _counts(BINARY, {"pneumonia": 3}, 21) == {"pneumonia": 11, "normal": 10}
    assert _counts(BINARY.model_copy(update={"synthetic": "positive-only"}), {"pneumonia": 3}, 20) == {"pneumonia": 20}


REAL = {"atelectasis": 30, "cardiomegaly": 25, "consolidation": 7, "edema": 50, "pleural_effusion": 80}


@pytest.mark.parametrize("synthetic", ["balanced", "positive-only"])
def test_every_label_reaches_the_most_frequent_one_and_all_grow_alike(synthetic):
    task = FIVE.model_copy(update={"synthetic": synthetic})
    counts = _counts(task, REAL, 1200)
    normal = counts.pop("normal", 0)
    assert normal == (200 if synthetic == "balanced" else 0)
    together = [REAL[label] + counts[label] for label in task.labels]
    assert max(together) - min(together) <= 1  # 1,192 real and synthetic positives in five classes
    assert sum(together) == sum(REAL.values()) + 1200 - normal


def test_a_pool_too_small_to_balance_lifts_the_rarest_as_far_as_it_goes():
    task = FIVE.model_copy(update={"synthetic": "positive-only"})
    counts = _counts(task, REAL, 60)
    together = {label: REAL[label] + counts.get(label, 0) for label in task.labels}
    low = sorted(together[label] for label in ("atelectasis", "cardiomegaly", "consolidation"))
    assert low == [40, 41, 41]
    assert (together["edema"], together["pleural_effusion"]) == (50, 80)


def test_a_shorter_order_is_the_beginning_of_a_longer_one():
    for task in (FIVE, BINARY, FIVE.model_copy(update={"synthetic": "positive-only"})):
        real = {label: REAL.get(label, 9) for label in task.labels}
        whole = class_order(task, real, 1000)
        for n in (0, 1, 7, 250, 999):
            assert np.array_equal(class_order(task, real, n), whole[:n])


@pytest.mark.parametrize("name", TASKS)
def test_multiples_are_nested_and_stretches_may_be_drawn_alone(pooled, name):
    task = _task(pooled, name)
    whole = PoolPlan(pooled, task, 75, seed=5).draw(0, 75)
    for multiple in (2, 5, 10, 25):
        part = PoolPlan(pooled, task, 3 * multiple, seed=5)
        drawn = part.draw(0, 3 * multiple)
        assert [(i.condition.condition_id, i.labels) for i in drawn] == [
            (i.condition.condition_id, i.labels) for i in whole[: 3 * multiple]
        ]
    plan = PoolPlan(pooled, task, 75, seed=5)
    late, early = plan.draw(40, 75), plan.draw(11, 19)  # in any order
    assert [i.condition for i in late] == [i.condition for i in whole[40:]]
    assert [i.condition for i in early] == [i.condition for i in whole[11:19]]
    assert [i.condition for i in PoolPlan(pooled, task, 75, seed=6).draw(0, 75)] != [i.condition for i in whole]


def test_every_source_is_used_before_any_comes_again(pooled):
    task = _task(pooled, "one")
    sources = gather(pooled, task).sources["normal"]
    drawn = PoolPlan(pooled, task, 4 * len(sources), seed=1).draw(0, 4 * len(sources))
    used = [item.condition.text_record for item in drawn if not item.labels["pneumothorax"]]
    assert Counter(used) == dict.fromkeys(sources, 2)


def test_conditions_ask_what_labels_say_and_come_from_the_training_split(pooled):
    train = {record["record_id"]: record for record in record_conditions(pooled, "train")}
    for name in ("three", "one"):
        task = _task(pooled, name)
        for item in PoolPlan(pooled, task, 60, seed=2).draw(0, 60):
            assert item.condition.mode == "T2I"
            positives = [label for label, value in item.labels.items() if value]
            assert sorted(item.labels) == sorted(task.labels)
            assert len(positives) <= 1
            if item.condition.text_record is not None:
                record = train[item.condition.text_record]
                assert item.condition.text == record["caption"]
                assert [label for label in task.labels if record["labels"].get(label) == 1] == positives
            assert dict(item.condition.asked).get((positives or ["normal"])[0]) == 1


def test_labels_without_a_caption_are_asked_by_name(pooled):
    task = TaskConfig(name="t", kind="multilabel", labels=("pleural_effusion", "pneumonia"), prompts="labels")
    material = Material(10, {"pleural_effusion": 2, "pneumonia": 1}, {"pneumonia": ["a"], "normal": ["b"]})
    texts = {
        (item.condition.text, tuple(item.labels.values()), item.condition.text_record)
        for item in PoolPlan(pooled, task, 30, 0, material).draw(0, 30)
    }
    assert texts == {("pleural effusion", (1, 0), None), ("pneumonia", (0, 1), None), ("Normal", (0, 0), None)}
    auto = task.model_copy(update={"prompts": "auto"})
    material = Material(10, {"pleural_effusion": 2, "pneumonia": 1}, {})
    items = PoolPlan(pooled, auto, 6, 0, material).draw(0, 6)
    assert {item.condition.text for item in items} == {"pleural effusion", "pneumonia", "Normal"}


def test_what_cannot_be_asked_is_named(pooled):
    task = TaskConfig(name="t", kind="binary", labels=("pneumonia",), prompts="captions")
    with refuses(InvalidInput, "t", "pneumonia"):
        PoolPlan(pooled, task, 4, 0, Material(4, {"pneumonia": 4}, {"normal": ["a"]}))
    with refuses(InvalidInput, "t", "pneumonia"):
        PoolPlan(pooled, BINARY, 4, 0, Material(4, {"pneumonia": 0}, {}))
    outline = TaskConfig(name="t", kind="segmentation", structure="pneumothorax")
    with refuses(InvalidInput, "pneumothorax", "t"):
        PoolPlan(pooled, outline, 4, 0, Material(4))


def test_the_pool_holds_the_largest_multiple_of_the_largest_real_subset(pooled):
    one = gather(pooled, _task(pooled, "one"))
    assert pool_size(pooled, one) == 24 // 2 * 2
    assert pool_size(pooled, one, multiple=5) == 60
    for name in TASKS:
        task = _task(pooled, name)
        usable = sum(is_usable(task, record) for record in material(pooled, "train", task.where))
        assert usable == len(_loaded(pooled, task).splits["train"]) == gather(pooled, task).n_usable


# ---- masks


def test_masks_are_transformed_and_what_was_done_can_be_done_again(pooled):
    task, structures = _task(pooled, "outline"), pooled.config.data.structures
    sources = {r["record_id"]: r for r in record_conditions(pooled, "train") if "pneumothorax" in r["masks"]}
    kinds = Counter()
    for item in PoolPlan(pooled, task, 40, seed=2).draw(0, 40):
        condition = item.condition
        assert (condition.mode, condition.text, item.labels) == ("M2I", None, {})
        source = sources[condition.mask_record]["masks"]
        stack = np.stack(
            [pooled.store.mask(source[s]) if s in source else np.zeros((64, 64), bool) for s in structures]
        )
        steps = condition.extra["transforms"]
        kinds.update([len(steps), *(step[0] for step in steps)])
        again = replay_transforms(stack, json.loads(json.dumps(steps)))
        assert sorted(condition.masks) == sorted(source)
        for name, sha in condition.masks.items():
            assert np.array_equal(pooled.store.mask(sha), again[structures.index(name)])
            assert np.array_equal(item.planes[name], again[structures.index(name)])
        assert item.planes["pneumothorax"].any()
    assert set(kinds) == {1, 2, 3, "dilate", "erode", "flip", "translate"}


def test_a_transform_that_empties_the_structure_is_redrawn(pooled, monkeypatch):
    import radpref.generation.pools.plan

    real, calls = radpref.generation.pools.plan.compose_transforms, []

    def compose(stack, rng):
        calls.append(stack)
        if len(calls) % 3 == 1:
            return np.zeros_like(stack), []
        if len(calls) % 3 == 2:
            raise InvalidInput("emptied in 20 draws")
        return real(stack, rng)

    monkeypatch.setattr("radpref.generation.pools.plan.compose_transforms", compose)
    drawn = PoolPlan(pooled, _task(pooled, "outline"), 4, seed=2).draw(0, 4)
    assert len(calls) == 12
    assert all(item.planes["pneumothorax"].any() for item in drawn)


def test_masks_that_never_survive_are_one_clear_line(pooled, monkeypatch):
    monkeypatch.setattr(
        "radpref.generation.pools.plan.compose_transforms", lambda stack, rng: (np.zeros_like(stack), [])
    )
    with refuses(InvalidInput, "pneumothorax", 100):
        PoolPlan(pooled, _task(pooled, "outline"), 4, seed=2).draw(0, 1)


def test_the_mask_asked_for_is_the_label_that_is_trained_on(pooled):
    run_pool(pooled, arms=["baseline"], tasks=["outline"], n=6)
    task = _task(pooled, "outline")
    data = _loaded(pooled, task, "baseline").pools["baseline"]
    items = PoolPlan(pooled, task, 6, pooled.config.downstream.seed).draw(0, 6)
    assert data.masks is not None
    assert data.labels.tolist() == [[1.0]] * 6  # never a negative
    for mask, item in zip(data.masks, items, strict=True):
        assert np.array_equal(mask > 0, item.planes["pneumothorax"])


# ---- sampling


def test_arms_share_conditions_seeds_and_labels_but_not_images(pooled):
    add_aligned_arm(pooled)
    found = run_pool(pooled, tasks=["one", "outline"])
    names = ("one/baseline", "one/aligned", "outline/baseline", "outline/aligned")
    assert found["images"] == dict.fromkeys(names, 24)
    assert found["pools"]["one/aligned"]["classes"] == {"normal": 12, "pneumothorax": 12}
    assert found["pools"]["outline/baseline"]["classes"] == {"mask": 24}
    assert {pool["sampled"] for pool in found["pools"].values()} == {24}
    for task in ("one", "outline"):
        baseline, aligned = (pool_rows(pooled, task, arm) for arm in ("baseline", "aligned"))
        assert [row["ordinal"] for row in baseline] == list(range(24))
        for key in ("ordinal", "condition_id", "seed", "labels"):
            assert [row[key] for row in baseline] == [row[key] for row in aligned]
        assert not {row["image_sha"] for row in baseline} & {row["image_sha"] for row in aligned}
        assert len({row["seed"] for row in baseline}) == 24
    splits = pooled.db.rows(
        "SELECT DISTINCT split FROM conditions JOIN records ON record_id = text_record OR record_id = mask_record"
    )
    assert [row["split"] for row in splits] == ["train"]


def test_a_larger_pool_begins_with_the_images_of_a_smaller_one(make_study, monkeypatch):
    grown, whole = make_study("grown"), make_study("whole")
    calls = stop_after(monkeypatch, "radpref.generation.pools.shards.sample_job", 99, AssertionError())
    first = run_pool(grown, arms=["baseline"], tasks=["three"], n=12)
    small = _images(grown, "three")
    second = run_pool(grown, arms=["baseline"], tasks=["three"], multiple=2)
    assert (first["pools"]["three/baseline"]["sampled"], second["pools"]["three/baseline"]["sampled"]) == (12, 16)
    assert len(calls) == 4  # two shards of 12, then the two that were not whole or not there
    run_pool(whole, arms=["baseline"], tasks=["three"])
    assert _images(grown, "three") == _images(whole, "three")
    assert [row[:4] for row in _images(grown, "three")[:12]] == [row[:4] for row in small]
    assert _images(grown, "three")[:8] == small[:8]
    before = len(calls)
    again = run_pool(grown, arms=["baseline"], tasks=["three"], n=5)  # less than there is
    assert (again["images"], again["pools"]["three/baseline"]["sampled"]) == ({"three/baseline": 24}, 0)
    assert len(calls) == before


def test_the_grid_reads_the_pool_of_the_settings_as_they_are_now(pooled):
    first, config = run_pool(pooled, arms=["baseline"], tasks=["one"]), pooled.config
    images = _images(pooled, "one")
    generator = config.generator.model_copy(update={"guidance_scale": 5.0})
    pooled.config = config.model_copy(update={"generator": generator})
    run_pool(pooled, arms=["baseline"], tasks=["one"])
    assert _images(pooled, "one") != images
    pooled.config = config
    back = run_pool(pooled, arms=["baseline"], tasks=["one"])
    assert _images(pooled, "one") == images
    assert [one["pools"]["one/baseline"]["sampled"] for one in (first, back)] == [24, 0]


def test_the_command_takes_its_options(pooled):
    from typer.testing import CliRunner

    from radpref.cli import app

    options = ["--task", "one", "--arm", "baseline", "--n", "5", "--engine", "process", "--device", "cpu", "--json"]
    answer = CliRunner().invoke(app, ["generate", "pool", "--study", str(pooled.root), *options])
    assert answer.exit_code == 0
    pool = json.loads(answer.stdout.splitlines()[-1])["pools"]["one/baseline"]
    assert (pool["n"], pool["classes"]) == (5, {"normal": 2, "pneumothorax": 3})


@pytest.mark.parametrize("task", TASKS)
def test_an_interrupted_pool_resumes_to_the_same_images(make_study, monkeypatch, task):
    whole, broken = make_study("whole"), make_study("broken")
    run_pool(whole, arms=["baseline"], tasks=[task])
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.pools.shards.sample_job", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_pool(broken, arms=["baseline"], tasks=[task])
    assert broken.db.value("SELECT count(*) FROM pool_images") == 16
    with refuses(NotFound, task, "baseline"):
        pool_rows(broken, task, "baseline")
    calls = stop_after(monkeypatch, "radpref.generation.pools.shards.sample_job", 99, AssertionError())
    found = run_pool(broken, arms=["baseline"], tasks=[task])
    assert len(calls) == 1
    assert found["pools"][f"{task}/baseline"]["sampled"] == 8
    assert _images(broken, task) == _images(whole, task)


def test_a_full_disk_loses_one_shard_and_the_rerun_completes(make_study, monkeypatch):
    whole, full = make_study("whole"), make_study("full")
    run_pool(whole, arms=["baseline"], tasks=["one"])
    with monkeypatch.context() as patch:
        full_disk_after(patch, 1 + 8 + 5)  # the run's configuration, one shard, five images of the second
        with refuses(StorageFull):
            run_pool(full, arms=["baseline"], tasks=["one"])
    assert full.db.value("SELECT count(*) FROM pool_images") == 8
    run_pool(full, arms=["baseline"], tasks=["one"])
    assert _images(full, "one") == _images(whole, "one")


def test_a_shard_is_stored_whole_or_not_at_all(pooled, monkeypatch):
    real, calls = pooled.store.add_image, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 13:
            raise RuntimeError("power cut")
        return real(*args)

    monkeypatch.setattr(pooled.store, "add_image", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run_pool(pooled, arms=["baseline"], tasks=["one"])
    assert pooled.db.value("SELECT count(*) FROM pool_images") == 8
    assert pooled.db.value("SELECT count(*) FROM images WHERE origin = 'synthetic'") == 8


def test_a_grid_of_real_images_alone_needs_no_pool(make_study):
    toml = POOL_TOML.replace('arms = ["baseline", "aligned"]', 'arms = ["real_balanced"]')
    study = make_study("real", toml.replace("multiples = [1, 2]", "multiples = [0]"))
    assert run_pool(study) == {"images": {}, "pools": {}}
    assert study.db.value("SELECT count(*) FROM runs WHERE kind = 'pool'") == 0
    with refuses(InvalidInput, "real_balanced"):
        run_pool(study, arms=["real_balanced"])


def test_mistakes_are_named(pooled, monkeypatch):
    with refuses(InvalidInput, "four", "three", "one", "outline"):
        run_pool(pooled, tasks=["four"])
    with refuses(NotFound, "aligned", "align train"):
        run_pool(pooled, arms=["aligned"], tasks=["one"])
    with refuses(InvalidInput, "--n", 3, "--multiple", 2):
        run_pool(pooled, n=3, multiple=2)
    with refuses(InvalidInput, "--engine", "spark", "process", "ray"):
        run_pool(pooled, engine=EngineOptions("spark"))
    with refuses(InvalidInput, "--gpus", 0):
        run_pool(pooled, engine=EngineOptions("ray", gpus=0))
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with refuses(InvalidInput, "--engine", "radpref[ray]"):
        run_pool(pooled, engine=EngineOptions("ray"))
    assert pooled.db.value("SELECT count(*) FROM runs WHERE kind = 'pool'") == 0


def test_pieces_of_a_shard_are_drawn_by_threads_to_the_same_images(make_study, monkeypatch):
    one, many = make_study("one"), make_study("many")
    monkeypatch.setattr("radpref.generation.pools.shards.DRAWN_TOGETHER", 3)
    run_pool(many, arms=["baseline"], tasks=["outline"], n=8)
    monkeypatch.setattr("radpref.generation.pools.shards.DRAWN_TOGETHER", 8)
    run_pool(one, arms=["baseline"], tasks=["outline"], n=8)
    assert _images(one, "outline") == _images(many, "outline")
