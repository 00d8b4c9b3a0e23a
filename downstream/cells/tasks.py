"""Tasks as arrays: real records by split, nested real fractions by patient, and synthetic pools with their labels.

Input: the study's records and pools. Output: :class:`TaskData` at the grid's image size.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.study.empty_splits import require_split
from radpref.data.study.pools import PLAIN_ARMS, is_usable, material, pool_run
from radpref.data.study.splits import SPLITS, real_fraction
from radpref.downstream.cells.loaders import Bytes, Pixels, pixel_array

if TYPE_CHECKING:
    from radpref.data.config.downstream import TaskConfig
    from radpref.data.study.study import Study

LOG = logging.getLogger(__name__)
Indices = npt.NDArray[np.int64]
SHORTFALL_ALLOWED = 0.1
"""A pool may be this much smaller than a cell asks for (rounding by patient); the count is then cut in all arms."""


@dataclass(frozen=True)
class TaskData:
    """N images with the labels of one task."""

    images: Bytes  # (N, S, S) uint8
    labels: npt.NDArray[np.float64]  # (N, L): 1, 0 or NaN (unknown); segmentation: (N, 1), structure present
    masks: Bytes | None  # (N, S, S) of 0 or 1, segmentation only
    patients: tuple[str, ...]  # (N,); synthetic images: one name each
    shas: tuple[str, ...]  # (N,) content hashes of image (and mask), for the cell's identity

    def __len__(self) -> int:
        return len(self.shas)

    def take(self, index: Indices) -> TaskData:
        """The rows of ``index``, in that order."""
        masks = None if self.masks is None else self.masks[index]
        names = tuple(self.patients[i] for i in index)
        return TaskData(self.images[index], self.labels[index], masks, names, tuple(self.shas[i] for i in index))

    def identity(self, index: Indices | None = None) -> str:
        """Hash of which images (the rows of ``index``, or all), with which labels, in which order."""
        rows = np.arange(len(self)) if index is None else index
        labels = np.nan_to_num(self.labels[rows], nan=-1.0).astype(np.int8).tobytes()
        return hashlib.sha256(json.dumps([self.shas[i] for i in rows]).encode() + labels).hexdigest()[:24]


def concatenate(parts: Sequence[TaskData]) -> TaskData:
    """The parts one after the other."""
    masks = [part.masks for part in parts if part.masks is not None]
    return TaskData(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(masks) if masks else None,
        tuple(name for part in parts for name in part.patients),
        tuple(sha for part in parts for sha in part.shas),
    )


def task_labels(task: TaskConfig) -> tuple[str, ...]:
    """Names of the outputs: the labels, or the structure of a segmentation task.

    Raises:
        InvalidInput: the task names no label, more than one for a binary task, or no structure.
    """
    if task.kind == "segmentation":
        if not task.structure:
            raise InvalidInput(f"task '{task.name}' is a segmentation but names no structure; add structure = \"...\"")
        return (task.structure,)
    if not task.labels or (task.kind == "binary" and len(task.labels) != 1):
        raise InvalidInput(
            f"task '{task.name}' is {task.kind} and has labels {list(task.labels)}; name one (binary) or more"
        )
    return task.labels


class _Row(NamedTuple):
    """One image of a task before its pixels are read."""

    image_sha: str
    patient: str
    mask_sha: str | None
    labels: list[float]


@dataclass(frozen=True)
class LoadedTask:
    """A task with everything that its cells draw from, as memory maps."""

    config: TaskConfig
    labels: tuple[str, ...]
    splits: dict[str, TaskData]
    pools: dict[str, TaskData]  # by arm
    real: dict[tuple[float, int], Indices]  # (fraction, seed) -> training rows, the same in every arm


def load_task(study: Study, task: TaskConfig) -> LoadedTask:
    """Read the real records of every split and the pools of every synthetic arm; draw the real subsets.

    Raises:
        NotFound: a split is empty or has no record that the task can use, or a pool is missing or empty.
        Conflict: a condition of a pool comes from a record outside the training split.
    """
    settings, size = study.config.downstream, study.config.downstream.image_size
    runs = {arm: pool_run(study, task.name, arm) for arm in settings.arms if arm not in PLAIN_ARMS}
    rows = {split: _split_rows(study, task, split) for split in SPLITS}
    pool_rows = {arm: _pool_rows(study, task, arm, run_id) for arm, run_id in runs.items()}
    loaded = [_assemble(study, task, size, own) for own in (*rows.values(), *pool_rows.values())]
    splits, pools = dict(zip(rows, loaded, strict=False)), dict(zip(pool_rows, loaded[len(rows) :], strict=True))
    train = splits["train"]
    real = {}
    for fraction, seed in itertools.product(settings.fractions, settings.seeds):
        rng = np.random.default_rng([settings.seed, seed, 11])
        real[fraction, seed] = real_fraction(train.patients, train.labels, fraction, rng)
    return LoadedTask(task, task_labels(task), splits, pools, real)


def _split_rows(study: Study, task: TaskConfig, split: str) -> list[_Row]:
    """The real records of ``split`` that the task can use (`is_usable`), sorted by record id."""
    require_split(study, split)
    names = task_labels(task)
    usable = [record for record in material(study, split, task.where) if is_usable(task, record)]
    if not usable:
        raise NotFound(
            f"task '{task.name}': no usable {split} record of {', '.join(names)}; import data or change the task"
        )
    if task.kind == "segmentation":
        found = [(record, record["masks"].get(names[0])) for record in usable]
        return [_Row(record["image_sha"], record["patient"], sha, [float(sha is not None)]) for record, sha in found]
    return [_Row(record["image_sha"], record["patient"], None, _values(record["labels"], names)) for record in usable]


def _values(labels: dict[str, float | None], names: Sequence[str]) -> list[float]:
    """1, 0 or NaN (unknown) of each name."""
    return [math.nan if (value := labels.get(name)) is None else float(value) for name in names]


def _assemble(study: Study, task: TaskConfig, size: int, rows: Sequence[_Row]) -> TaskData:
    labels = np.array([row.labels for row in rows], np.float64).reshape(len(rows), len(task_labels(task)))
    wanted: dict[Pixels, list[str | None]] = {"images": [row.image_sha for row in rows]}
    if task.kind == "segmentation":
        wanted["masks"] = [row.mask_sha for row in rows]
    arrays = {kind: pixel_array(study, kind, shas, size) for kind, shas in wanted.items()}
    names = (tuple(row.patient for row in rows), tuple(f"{row.image_sha}:{row.mask_sha or ''}" for row in rows))
    return TaskData(arrays["images"], labels, arrays.get("masks"), *names)


def _pool_rows(study: Study, task: TaskConfig, arm: str, run_id: str) -> list[_Row]:
    """The images of a pool in the order of its ordinals; a label that the pool does not name is unknown.

    The label of a segmentation image is the mask it was sampled from; an image without a mask of the structure is
    left out (an empty mask means "no condition", never "no disease").
    """
    names = task_labels(task)
    structure = names[0] if task.kind == "segmentation" else ""
    found = study.db.rows(
        "SELECT p.*, m.mask_sha, k.n_pixels FROM pool_images p "
        "LEFT JOIN condition_masks m ON m.condition_id = p.condition_id AND m.structure = ? "
        "LEFT JOIN masks k ON k.sha256 = m.mask_sha WHERE p.run_id = ? AND p.task = ? AND p.arm = ? ORDER BY p.ordinal",
        [structure, run_id, task.name, arm],
    )
    if not found:
        raise NotFound(f"the pool of task '{task.name}', arm '{arm}' is empty; run `radpref generate pool` again")
    _refuse_leak(study, run_id, task.name, arm)
    rows: list[_Row] = []
    for row in found:
        name = f"synthetic/{arm}/{row['ordinal']}"
        if task.kind == "segmentation":
            if row["mask_sha"] is None or not row["n_pixels"]:
                LOG.warning("left out %s of task %s: its condition has no mask of %s", name, task.name, structure)
                continue
            rows.append(_Row(row["image_sha"], name, row["mask_sha"], [1.0]))
        else:
            rows.append(_Row(row["image_sha"], name, None, _values(json.loads(row["labels"]), names)))
    return rows


def _refuse_leak(study: Study, run_id: str, task: str, arm: str) -> None:
    leaked = study.db.value(
        "SELECT r.record_id FROM pool_images p JOIN conditions c USING (condition_id) "
        "JOIN records r ON r.record_id IN (c.text_record, c.mask_record) "
        "WHERE p.run_id = ? AND p.task = ? AND p.arm = ? AND r.split <> 'train' LIMIT 1",
        [run_id, task, arm],
    )
    if leaked is not None:
        where = f"pool of task '{task}', arm '{arm}'"
        raise Conflict(f"{where} uses record {leaked} from outside the training split; sample it again")


def synthetic_subset(pool_sizes: dict[str, int], n_wanted: int, task: str, rng: np.random.Generator) -> Indices:
    """Rows of the pools to use, the same in every arm: a seeded draw, nested over multiples (a prefix of one order).

    Raises:
        InvalidInput: a pool is more than 10 % too small.
    """
    arm, n_common = min(pool_sizes.items(), key=lambda item: item[1])
    if n_common < math.floor(n_wanted * (1 - SHORTFALL_ALLOWED)):
        where = f"pool of task '{task}', arm '{arm}'"
        raise InvalidInput(f"{where} has {n_common} images, {n_wanted} are needed; run `radpref generate pool`")
    return rng.permutation(n_common)[:n_wanted].astype(np.int64)
