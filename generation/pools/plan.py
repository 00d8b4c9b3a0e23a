"""What a pool asks for, ordinal by ordinal: the class and the prompt, or the transformed mask.

Input: the study's training records. Output: `PoolPlan`, which draws any stretch of ordinals alone: nothing of it
depends on how many images are drawn in all, where a pool was interrupted, or who draws. So 2x lies inside 5x, and all
arms share conditions (paper, "Downstream benchmark").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.masks import compose_transforms
from radpref.data.study.conditions import StoredCondition, asked_attributes, mask_stack
from radpref.data.study.pools import NORMAL, is_usable, lift_lowest, material

if TYPE_CHECKING:
    from radpref.data.config.downstream import TaskConfig
    from radpref.data.imaging.images import Mask, MaskFile
    from radpref.data.study.study import Study

MAX_DRAWS = 100
"""Draws of one transformed mask before giving up."""


@dataclass(frozen=True)
class Item:
    """One image to sample: its condition and labels.

    planes: structure -> transformed mask (H, W) bool; mask_files: the files they were written to.
    """

    condition: StoredCondition
    labels: dict[str, int]
    planes: dict[str, Mask] = field(default_factory=dict)
    mask_files: tuple[MaskFile, ...] = ()


@dataclass
class Material:
    """What the training records give: how many the task can use, positives by label, and sources by class."""

    n_usable: int = 0
    real: dict[str, int] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Class -> records with a caption that names it and nothing else of the task; "mask" -> records with the mask."""


def gather(study: Study, task: TaskConfig) -> Material:
    """Read the training records once, keeping names and counts only (there may be hundreds of thousands)."""
    found = Material(real=dict.fromkeys(task.labels, 0))
    for record in material(study, "train", task.where):
        found.n_usable += is_usable(task, record)
        if task.kind == "segmentation":
            if task.structure in record["masks"]:
                found.sources.setdefault("mask", []).append(record["record_id"])
            continue
        for label in task.labels:
            found.real[label] += record["labels"].get(label) == 1
        if (name := named_class(task, record)) is not None:
            found.sources.setdefault(name, []).append(record["record_id"])
    return found


def named_class(task: TaskConfig, record: Mapping[str, Any]) -> str | None:
    """The class that a record's caption alone asks for: its one positive label, if the caption says it; "normal"; None.

    A caption that names two labels of the task, or hides one, would teach a wrong label.
    """
    labels = record["labels"]
    asked = asked_attributes(record["caption"] or "", labels)
    positives = [label for label in task.labels if labels.get(label) == 1]
    if len(positives) == 1:
        return positives[0] if [label for label in task.labels if label in asked] == positives else None
    return NORMAL if not positives and labels.get(NORMAL) == 1 and record["caption"] else None


def class_names(task: TaskConfig) -> list[str]:
    """The classes of a classification pool: the labels, and "normal" unless the task is positive-only."""
    return [*task.labels, *([NORMAL] if task.synthetic == "balanced" else [])]


def class_order(task: TaskConfig, real: Mapping[str, int], n: int) -> npt.NDArray[np.int16]:
    """Which of `class_names` each of the first ``n`` images is of; a longer order begins with a shorter one.

    Binary: the label and "normal" in turn. Multi-label: one image in (labels + 1) is normal; each other one is of the
    label that is rarest in real and synthetic images together, so that every class reaches the most frequent one and
    all grow alike from there (paper, "synthetic images balance every class to the most frequent one").
    """
    labels, with_normal = len(task.labels), task.synthetic == "balanced"
    order = np.full(n, labels, np.int16)
    place = np.arange(n) % (labels + 1) != labels if with_normal else np.ones(n, np.bool_)
    wanted = int(place.sum())
    order[place] = lift_lowest([real[label] for label in task.labels], wanted)
    return order


class PoolPlan:
    """The first ``n`` images of a task's pool, drawn by stretches."""

    def __init__(self, study: Study, task: TaskConfig, n: int, seed: int, material: Material | None = None) -> None:
        """Read the material of the task.

        Raises:
            InvalidInput: the training records give no prompt for a class, or no mask of the structure.
        """
        self.study, self.task, self.n, self.seed = study, task, n, seed
        self.material = gather(study, task) if material is None else material
        self._salt = int.from_bytes(hashlib.sha256(task.name.encode()).digest()[:6], "big")
        self._cycles: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
        if task.kind == "segmentation":
            if not self.material.sources.get("mask"):
                raise InvalidInput(
                    f"task '{task.name}': no training record has a mask of '{task.structure}'; import masks or leave"
                    " the task out"
                )
            return
        self.classes = class_names(task)
        self.order = class_order(task, self.material.real, n)
        for name in self.classes:
            self._refuse_unknown(name)

    def _refuse_unknown(self, name: str) -> None:
        if self.task.prompts == "captions" and not self.material.sources.get(name):
            raise InvalidInput(
                f"task '{self.task.name}': no training record has a caption for '{name}'; import such records, leave"
                ' the label out, or set prompts = "labels" to ask by its name'
            )
        if name != NORMAL and not self.material.real[name] and not self.material.sources.get(name):
            raise InvalidInput(
                f"task '{self.task.name}': no training record is labelled '{name}'; import such records or leave the"
                " label out"
            )

    def draw(self, start: int, stop: int) -> list[Item]:
        """The images of ordinals ``start`` to ``stop`` - 1."""
        if self.task.kind == "segmentation":
            return [self._mask_item(ordinal) for ordinal in range(start, stop)]
        return self._text_items(start, stop)

    def _rng(self, *parts: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 303, self._salt, *parts])

    def _source(self, name: str, rank: int) -> str:
        """The source of a class's ``rank``-th image: every record once in drawn order, then all again in another."""
        records = self.material.sources[name]
        cycle, place = divmod(rank, len(records))
        order = self._cycles.get((name, cycle))
        if order is None:  # threads may both come here: they find the same
            salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
            order = self._rng(1, salt, cycle).permutation(len(records))
            others = {key: value for key, value in self._cycles.items() if key[0] != name}
            self._cycles = {**others, (name, cycle): order}
        return records[int(order[place])]

    def _text_items(self, start: int, stop: int) -> list[Item]:
        ranks = {k: int((self.order[:start] == k).sum()) for k in range(len(self.classes))}
        chosen: list[tuple[str, str | None]] = []
        for k in map(int, self.order[start:stop]):
            name = self.classes[k]
            by_name = self.task.prompts == "labels" or not self.material.sources.get(name)
            chosen.append((name, None if by_name else self._source(name, ranks[k])))
            ranks[k] += 1
        needed = sorted({record for _, record in chosen if record is not None})
        records = {record["record_id"]: record for record in material(self.study, "train", records=needed)}
        return [self._text_item(name, None if source is None else records[source]) for name, source in chosen]

    def _text_item(self, name: str, record: Mapping[str, Any] | None) -> Item:
        if record is None:
            condition = StoredCondition("T2I", prompt_of(name), {}, {name: 1})
        else:
            asked = asked_attributes(record["caption"], record["labels"])
            condition = StoredCondition("T2I", record["caption"], {}, asked, text_record=record["record_id"])
        return Item(condition, {label: int(label == name) for label in self.task.labels})

    def _mask_item(self, ordinal: int) -> Item:
        """A transformed mask in which the structure is not empty; it is the condition and the label.

        Raises:
            InvalidInput: the masks are too small to be transformed.
        """
        structures, rng = self.study.config.data.structures, self._rng(2, ordinal)
        channel = structures.index(str(self.task.structure))
        sources = self.material.sources["mask"]
        for attempt in range(MAX_DRAWS):
            record_id = self._source("mask", ordinal) if not attempt else sources[int(rng.integers(len(sources)))]
            record = next(material(self.study, "train", records=[record_id]))
            stack = mask_stack(self.study, record["masks"])
            if stack is None:
                continue
            try:
                moved, steps = compose_transforms(stack, rng)
            except InvalidInput:  # this mask cannot be moved so without losing a structure
                continue
            if moved[channel].any():
                return self._moved_item(record_id, moved, steps)
        raise InvalidInput(
            f"{MAX_DRAWS} transforms in a row emptied a mask of '{self.task.structure}'; import larger masks"
        )

    def _moved_item(self, record_id: str, moved: Mask, steps: Sequence[Any]) -> Item:
        planes = {name: moved[i] for i, name in enumerate(self.study.config.data.structures) if moved[i].any()}
        files = {name: self.study.store.write_mask(plane) for name, plane in planes.items()}
        shas = {name: file.sha256 for name, file in files.items()}
        condition = StoredCondition("M2I", None, shas, mask_record=record_id, extra={"transforms": list(steps)})
        return Item(condition, {}, planes, tuple(files.values()))


def prompt_of(name: str) -> str:
    """The prompt by which a class is asked for without a caption: "pneumonia", "pleural effusion", "Normal"."""
    return "Normal" if name == NORMAL else name.replace("_", " ")
