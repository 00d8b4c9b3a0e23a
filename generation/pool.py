"""Augmentation pools: synthetic training images for each downstream task and arm, with labels.

Input: training-split records (single-finding captions, masks) and an arm's generator. Output: rows of
``pool_images``; a multiple m of n real images takes the first m*n ordinals, so 2x lies inside 5x, and so on.
All arms share conditions and seeds, ordinal by ordinal (paper, "Downstream benchmark").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conditions_store import StoredCondition, asked_attributes, mask_stack, record_conditions, save_conditions
from data.errors import InvalidInput
from data.progress import bar
from data.records import finished_run, start_run

if TYPE_CHECKING:
    from data.config import TaskConfig
    from data.images import Mask
    from data.records import Run
    from data.study import Study

CHUNK = 32
MAX_DRAWS = 100
"""Draws of one transformed mask before giving up."""


def pool_size(study: Study, task: TaskConfig) -> int:
    """Images the grid needs at most: the largest multiple of the largest real subset of the task."""
    records = record_conditions(study, "train", task.where)
    settings = study.config.downstream
    return int(np.ceil(max(settings.fractions) * len(records))) * max(settings.multiples, default=0)


def class_cycle(task: TaskConfig, records: Sequence[dict[str, Any]]) -> list[str]:
    """Labels in the order in which the pool asks for them, one period.

    Binary: the label and "normal" in turn (balanced). Multi-label: every label as often as it takes to balance the
    real training set's classes to the most frequent one (rarer classes come more often), and "normal" once.
    """
    if task.kind == "binary":
        return [task.labels[0], "normal"]
    counts = {label: sum(r["labels"].get(label) == 1 for r in records) for label in task.labels}
    most = max(counts.values(), default=0)
    weights = {label: 1 + (most - count) / max(most, 1) for label, count in counts.items()}
    period: list[str] = ["normal"]
    for label, weight in weights.items():
        period += [label] * max(1, round(2 * weight))
    return period


def classification_conditions(
    task: TaskConfig, records: Sequence[dict[str, Any]], n: int, rng: np.random.Generator
) -> list[tuple[StoredCondition, dict[str, int]]]:
    """``n`` (text condition, labels): captions of training records that name exactly one label of the task.

    Raises:
        InvalidInput: no training record gives a caption for one of the labels.
    """
    prompts: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        asked = [a for a in asked_attributes(record["caption"] or "", record["labels"]) if "/" not in a]
        own = [label for label in task.labels if label in asked]
        positives = [label for label in task.labels if record["labels"].get(label) == 1]
        if len(own) == 1 and positives == own:
            prompts.setdefault(own[0], []).append(record)
        elif not positives and record["labels"].get("normal") == 1 and record["caption"]:
            prompts.setdefault("normal", []).append(record)
    period = class_cycle(task, records)
    missing = sorted(set(period) - set(prompts))
    if missing:
        raise InvalidInput(
            f"task '{task.name}': no training record has a caption for '{missing[0]}'; "
            "import such records or leave the label out"
        )
    order = [period[i] for i in rng.permutation(len(period))]
    drawn = []
    for index in range(n):
        label = order[index % len(order)]
        record = prompts[label][int(rng.integers(len(prompts[label])))]
        condition = StoredCondition(
            "T2I",
            record["caption"],
            {},
            asked_attributes(record["caption"], record["labels"]),
            text_record=record["record_id"],
        )
        drawn.append((condition, {name: int(name == label) for name in task.labels}))
    return drawn


def segmentation_conditions(
    study: Study, task: TaskConfig, records: Sequence[dict[str, Any]], n: int, rng: np.random.Generator
) -> list[tuple[StoredCondition, dict[str, int]]]:
    """``n`` (mask condition, {}) from transformed training masks in which the task's structure is not empty.

    The masks are stored; each is the label of its image. A transform that empties the structure is redrawn.

    Raises:
        InvalidInput: no training record has a mask of the structure, or the masks are too small to be transformed.
    """
    structure = str(task.structure)
    sources = [record for record in records if structure in record["masks"]]
    if not sources:
        raise InvalidInput(
            f"task '{task.name}': no training record has a mask of '{structure}'; import masks or leave the task out"
        )
    channels = study.config.data.structures
    drawn: list[tuple[StoredCondition, dict[str, int]]] = []
    while len(drawn) < n:
        moved = [_moved_masks(study, sources, structure, rng) for _ in range(min(CHUNK, n - len(drawn)))]
        with study.db.write() as connection:
            for record_id, stack in moved:
                masks = {
                    name: study.store.put_mask(connection, stack[i])
                    for i, name in enumerate(channels)
                    if stack[i].any()
                }
                drawn.append((StoredCondition("M2I", None, masks, {}, mask_record=record_id), {}))
    return drawn


def _moved_masks(
    study: Study, sources: Sequence[dict[str, Any]], structure: str, rng: np.random.Generator
) -> tuple[str, Mask]:
    """(record, transformed masks (S, H, W)) of a random source; drawn again where ``structure`` comes out empty."""
    from data.masks import TRANSFORMS, transform_mask

    channel, kinds = study.config.data.structures.index(structure), sorted(TRANSFORMS)
    for _ in range(MAX_DRAWS):
        record = sources[int(rng.integers(len(sources)))]
        stack = mask_stack(study, record["masks"])
        if stack is None:
            continue
        try:
            moved = transform_mask(stack, kinds[int(rng.integers(len(kinds)))], rng)
        except InvalidInput:  # this mask cannot be moved so without losing a structure
            continue
        if moved[channel].any():
            return str(record["record_id"]), moved
    raise InvalidInput(f"{MAX_DRAWS} transforms in a row emptied a mask of '{structure}'; import larger masks")


def run_pool(study: Study, *, arms: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """Sample the pools of all tasks and arms that the grid of study.toml needs; resumes; returns counts.

    Raises:
        InvalidInput: an unknown task, or material for a label is missing.
        NotFound: an arm has no model yet.
    """
    settings = study.config.downstream
    wanted = [task for task in settings.tasks if tasks is None or task.name in tasks]
    if tasks is not None and len(wanted) != len(set(tasks)):
        raise InvalidInput(
            f"unknown task in {', '.join(tasks)}; study.toml has {', '.join(t.name for t in settings.tasks)}"
        )
    counts: dict[str, Any] = {}
    for task in wanted:
        for arm in arms or settings.arms:
            counts[f"{task.name}/{arm}"] = _pool(study, task, arm)
    return {"images": counts}


def _pool(study: Study, task: TaskConfig, arm: str) -> int:
    from generation.adapters import arm_identity, load_arm
    from generation.sets import image_seed, sample_stored

    n = pool_size(study, task)
    settings = study.config.downstream
    generator = study.config.generator.model_dump(mode="json")
    config = {
        "task": task.model_dump(mode="json"),
        "arm": arm,
        "model": arm_identity(study, arm),
        "n": n,
        "seed": settings.seed,
        "generator": generator,
    }
    if finished_run(study, "pool", config):
        return n
    rng = np.random.default_rng([settings.seed, 303, image_seed(task.name)])
    records = record_conditions(study, "train", task.where)
    draw = (
        segmentation_conditions(study, task, records, n, rng)
        if task.kind == "segmentation"
        else classification_conditions(task, records, n, rng)
    )
    with start_run(study, "pool", config) as run:
        with study.db.write() as connection:
            save_conditions(connection, [condition for condition, _ in draw])
        known = int(study.db.value("SELECT count(*) FROM pool_images WHERE run_id = ?", [run.run_id]))
        stack = load_arm(study, arm)
        with bar(f"pool {task.name} / {arm}", n) as advance:
            advance(known)
            for start in range(known, n, CHUNK):
                chunk = draw[start : start + CHUNK]
                seeds = [image_seed("pool", settings.seed, task.name, start + i) for i in range(len(chunk))]
                images = sample_stored(study, stack, [condition for condition, _ in chunk], seeds)
                _store(study, run, task.name, arm, start, chunk, seeds, images)
                advance(len(chunk))
        run.result = {"n": n}
    return n


def _store(
    study: Study,
    run: Run,
    task: str,
    arm: str,
    start: int,
    chunk: list[tuple[StoredCondition, dict[str, int]]],
    seeds: list[int],
    images: np.ndarray,
) -> None:
    with study.db.write() as connection:
        for i, ((condition, labels), seed) in enumerate(zip(chunk, seeds, strict=True)):
            sha = study.store.put_image(connection, images[i], "synthetic")
            connection.execute(
                "INSERT INTO pool_images VALUES (?,?,?,?,?,?,?,?)",
                (run.run_id, task, arm, start + i, sha, condition.condition_id, seed, json.dumps(labels)),
            )
