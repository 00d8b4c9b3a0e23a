"""Pools and small settings for downstream tests, written straight into the tables."""

from __future__ import annotations

import json
import uuid

import numpy as np

from radpref.data.core.files import write_atomic
from radpref.data.imaging.images import encode_png
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_events
from radpref.data.study.conditions import StoredCondition, record_conditions, save_conditions
from radpref.data.study.runs import start_run
from radpref.data.study.study import Study

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


def add_rated_sets(study: Study, n_sets: int = 6, kinds: tuple[str, ...] = ("simulated",), n_raters: int = 2) -> None:
    """Rating sets of training images (text only) with scores of ``n_raters`` raters of each kind."""
    rng = np.random.default_rng(5)
    records = record_conditions(study, "val")[:n_sets]
    with start_run(study, "sets", {"n": n_sets}) as run, study.db.write() as connection:
        for ordinal, record in enumerate(records):
            condition = StoredCondition("T2I", record["caption"] or "Normal", text_record=record["record_id"])
            save_conditions(connection, [condition])
            connection.execute(
                "INSERT INTO image_sets(set_id, run_id, ordinal, condition_id) VALUES (?, ?, ?, ?)",
                (f"set-{ordinal}", run.run_id, ordinal, condition.condition_id),
            )
            for slot in range(4):
                image = rng.integers(0, 255, (16, 16)).astype(np.uint8)
                sha = study.store.put_image(connection, image, "synthetic")
                row = (f"set-{ordinal}", slot, sha, slot, "baseline")
                connection.execute("INSERT INTO set_images VALUES (?, ?, ?, ?, ?)", row)
    truth = rng.integers(0, 6, (len(records), 4))
    for kind in kinds:
        for number in range(n_raters):
            rater = add_rater(study.db, f"{kind}-{number + 1}", kind=kind)
            ensure_presentations(study.db, rater.rater_id, seed=0)
            for row in study.db.rows("SELECT * FROM presentations WHERE rater_id = ?", [rater.rater_id]):
                events = []
                for slot in range(4):
                    value = truth[int(row["set_id"][4:]), slot] + rng.integers(-1, 2)
                    events.append(
                        ScoreEvent(
                            str(uuid.uuid4()), row["presentation_id"], rater.rater_id, "score", slot, "text",
                            int(np.clip(value, 0, 5)),
                        )
                    )  # fmt: skip
                record_events(study.db, events)


def add_alignment(study: Study, n_steps: int = 40, raters: str = "simulated") -> None:
    """Finished runs "align" and "evaluate" with logs and contact sheets of the shapes those steps leave."""
    rng = np.random.default_rng(2)
    settings = study.config.align.model_dump(mode="json")
    with start_run(study, "align", {"arm": "aligned", "raters": raters, "align": settings}) as run:
        for step in range(1, n_steps + 1):
            line = {
                "step": step, "loss": 0.69 - 0.003 * step + float(rng.normal(0, 0.02)), "grad_norm": 1.0,
                "train_accuracy": 0.5 + 0.006 * step, "winner_shift": 1e-5 * step, "loser_shift": 2e-5 * step,
            }  # fmt: skip
            if step % 4 == 0:
                line |= {
                    "held_out_loss": 0.7 - 0.002 * step, "held_out_accuracy": 0.5 + 0.004 * step,
                    "held_out_winner_shift": 1e-5 * step, "held_out_loser_shift": 2e-5 * step,
                }  # fmt: skip
            if step % 10 == 0:
                line |= {"drift": 0.01 * step, "paired_shift": 0.02 * step, "diversity": 1 - 0.001 * step}
            run.log(**line)
        run.result = {"run_id": run.run_id, "n_steps": n_steps, "loss": 0.6, "diversity": 0.96, "train_s": 12.0}
    measure = {"value": 0.61, "low": 0.52, "high": 0.7, "n": 50}
    arms = {arm: {"hit_rate": measure, "mask_dice": measure, "drift": 0.1} for arm in ("baseline", "aligned")}
    compared = {"win_rate": measure, "n_win": 30, "judge_gain": measure, "rater_gain": None}
    with start_run(study, "evaluate", {"n_conditions": 50}) as run:
        sheet = rng.integers(0, 255, (160, 520)).astype(np.uint8)
        write_atomic(run.folder / "sheets" / "000-t2i.png", encode_png(sheet))
        run.result = {
            "n_conditions": 50,
            "n_images": 4,
            "tie": 0.02,
            "arms": arms,
            "comparisons": {"aligned": compared},
        }
