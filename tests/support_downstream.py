"""Pools and small settings for downstream tests, written straight into the tables."""

from __future__ import annotations

import json

import numpy as np

from data.conditions_store import StoredCondition, record_conditions, save_conditions
from data.records import start_run
from data.study import Study

DOWNSTREAM_TOML = """
[downstream]
fractions = [0.5]
multiples = [1]
arms = ["baseline", "aligned"]
seeds = [0, 1, 2]
image_size = 32
n_steps = 4
batch_size = 8

[[downstream.tasks]]
name = "two"
kind = "multilabel"
labels = ["pleural_effusion", "cardiomegaly"]

[[downstream.tasks]]
name = "effusion"
kind = "binary"
labels = ["pleural_effusion"]

[[downstream.tasks]]
name = "heart"
kind = "segmentation"
structure = "heart"
"""


def with_downstream(study: Study, toml: str = DOWNSTREAM_TOML) -> Study:
    """The same study with other downstream settings."""
    path = study.root / "study.toml"
    path.write_text(path.read_text(encoding="utf-8").split("[downstream]")[0] + toml, encoding="utf-8")
    study.db.close()
    return Study(study.root)


def add_pool(study: Study, task_name: str, arm: str, n: int, *, split: str = "train", noise: float = 900.0) -> str:
    """A finished pool of ``n`` images: noisy copies of records of ``split`` with their labels; returns the run id."""
    task = next(task for task in study.config.downstream.tasks if task.name == task_name)
    records = record_conditions(study, split, task.where)
    if task.kind == "segmentation":
        records = [record for record in records if task.structure in record["masks"]]
    rng = np.random.default_rng([len(arm), n])
    config = {"task": task.model_dump(mode="json"), "arm": arm, "n": n}
    with start_run(study, "pool", config) as run:
        for ordinal in range(n):
            record = records[ordinal % len(records)]
            pixels = study.store.image(record["image_sha"]).astype(np.float64)
            image = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 65535).astype(np.uint16)
            with study.db.write() as connection:
                if task.kind == "segmentation":
                    condition = StoredCondition("M2I", None, record["masks"], mask_record=record["record_id"])
                    labels = {}
                else:
                    condition = StoredCondition("T2I", record["caption"] or "", text_record=record["record_id"])
                    labels = {name: int(record["labels"].get(name) or 0) for name in task.labels}
                save_conditions(connection, [condition])
                sha = study.store.put_image(connection, image, "synthetic")
                connection.execute(
                    "INSERT INTO pool_images(run_id, task, arm, ordinal, image_sha, condition_id, seed, labels) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (run.run_id, task_name, arm, ordinal, sha, condition.condition_id, ordinal, json.dumps(labels)),
                )
    return run.run_id


def study_with_pools(study: Study, n: int = 24) -> Study:
    """``study`` with small downstream settings and a pool for every task and arm."""
    opened = with_downstream(study)
    for task in opened.config.downstream.tasks:
        for arm in opened.config.downstream.arms:
            add_pool(opened, task.name, arm, n)
    return opened
