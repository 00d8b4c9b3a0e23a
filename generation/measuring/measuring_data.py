"""Arrays a measuring network learns from and is checked on: images, attributes (1, 0, NaN) and structure masks.

Phantoms are drawn from a range of patients per network, so that no two networks, and no generator, share a patient;
real records come in as plain arrays through the same class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import track
from radpref.data.imaging.images import high_byte

FLOAT = npt.NDArray[np.float32]
FIRST_PATIENT = 2**33
"""Patients of measuring networks start here; `draw_spec` draws those of generators below 2**31."""
PATIENTS_PER_DRAW = 10_000_000
CONDITIONS_DRAW = 90
"""The draw whose patients are used for held-out conditions only (`radpref.generation.fidelity.adherence`)."""


@dataclass(frozen=True)
class MeasureData:
    """N images with what is known about them."""

    images: npt.NDArray[np.uint8]  # (N, H, W)
    labels: FLOAT  # (N, A): 1, 0 or NaN (unknown: not in the loss)
    attributes: tuple[str, ...]  # names of the A columns
    masks: npt.NDArray[np.bool_]  # (N, T, H, W)
    has_mask: npt.NDArray[np.bool_]  # (N, T): the mask is known; a known mask may be empty
    structures: tuple[str, ...]  # names of the T channels
    patients: tuple[str, ...]  # (N,) patient of each image
    draw: str = ""  # where the images come from, in words

    def __post_init__(self) -> None:
        n = len(self.images)
        wanted: dict[str, tuple[int, ...]] = {
            "labels": (n, len(self.attributes)),
            "masks": (n, len(self.structures), *self.images.shape[1:]),
            "has_mask": (n, len(self.structures)),
            "patients": (n,),
        }
        for key, shape in wanted.items():
            found = np.shape(getattr(self, key))
            if found != shape:
                raise InvalidInput(f"{key} has shape {found}, {n} images need {shape}: give one row per image")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """Hash over images, labels, masks and patients: what a network saw."""
        digest = hashlib.sha256(json.dumps([self.attributes, self.structures, self.patients]).encode())
        for array in (self.images, self.labels, np.packbits(self.masks), self.has_mask):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def take(self, index: npt.NDArray[Any] | Sequence[int]) -> MeasureData:
        """The rows of `index`, in that order."""
        rows = np.asarray(index, dtype=np.int64)
        return MeasureData(
            self.images[rows], self.labels[rows], self.attributes, self.masks[rows], self.has_mask[rows],
            self.structures, tuple(self.patients[i] for i in rows), self.draw,
        )  # fmt: skip

    def split(self, validation_fraction: float, rng: np.random.Generator) -> tuple[MeasureData, MeasureData]:
        """Two parts without a common patient: (train, validation); at least one patient on each side."""
        names = sorted(set(self.patients))
        if len(names) < 2:
            raise InvalidInput(f"{len(names)} patient cannot be split in two: give records of at least 2 patients")
        order = rng.permutation(len(names))
        n_kept = min(max(1, round(validation_fraction * len(names))), len(names) - 1)
        kept = {names[i] for i in order[:n_kept]}
        inside = np.array([patient in kept for patient in self.patients])
        return self.take(np.flatnonzero(~inside)), self.take(np.flatnonzero(inside))


def label_rows(labels: Sequence[Mapping[str, float | None]], attributes: Sequence[str]) -> FLOAT:
    """Label dictionaries -> (N, A) float32; an attribute that is missing or None becomes NaN."""
    rows = [[np.nan if (value := row.get(name)) is None else value for name in attributes] for row in labels]
    return np.array(rows, np.float32).reshape(len(rows), len(attributes))


# --- phantoms --------------------------------------------------------------------------------------------------


def phantom_specs(n: int, draw: int, seed: int) -> list[Any]:
    """`n` phantom specs with patients of range `draw` only (all combinations, held-out ones too)."""
    from dataclasses import replace

    from radpref.data.phantom.spec import draw_spec

    if not 0 <= n <= PATIENTS_PER_DRAW:
        raise InvalidInput(f"cannot draw {n} phantoms: give 0 to {PATIENTS_PER_DRAW}")
    rng = np.random.default_rng([seed, draw])
    first = FIRST_PATIENT + draw * PATIENTS_PER_DRAW
    return [replace(draw_spec(rng), patient_seed=first + i) for i in range(n)]


def phantom_attributes() -> tuple[str, ...]:
    """The attributes of phantom records, in a fixed order: findings, "normal", then "<finding>/<side>"."""
    from radpref.data.phantom.spec import FINDINGS, SIDES

    sided = [f"{name}/{side}" for name in FINDINGS for side in ("left", "right") if side in SIDES[name]]
    return (*FINDINGS, "normal", *sided)


def phantom_labels(findings: Sequence[Any]) -> dict[str, int]:
    """1 or 0 for each of `phantom_attributes`: what a phantom with these findings shows."""
    shown = {finding.name for finding in findings} | {f"{finding.name}/{finding.side}" for finding in findings}
    shown |= set() if findings else {"normal"}
    return {name: int(name in shown) for name in phantom_attributes()}


def phantom_asked(findings: Sequence[Any]) -> dict[str, int]:
    """What a caption of these findings asks for: {"pleural_effusion": 1, "pleural_effusion/left": 1}, {"normal": 1}."""
    return {name: 1 for name, value in phantom_labels(findings).items() if value}


def phantom_data(n: int, draw: int, seed: int, size: int, cache: Path | None = None) -> MeasureData:
    """Render `n` phantoms of `size` pixels; kept in `cache` (npz), so that an interrupted training goes on."""
    from radpref.data.phantom.render import render
    from radpref.data.phantom.spec import STRUCTURES

    path = None if cache is None else cache / f"phantoms-{draw}-{seed}-{n}-{size}.npz"
    attributes = phantom_attributes()
    words = f"{n} phantoms of {size} px, patient range {draw}, seed {seed}"
    specs = phantom_specs(n, draw, seed)
    patients = tuple(f"phantom-{spec.patient_seed}" for spec in specs)
    if path is not None and path.is_file():
        with np.load(path) as kept:
            masks = np.unpackbits(kept["masks"], axis=-1, count=size).astype(bool)
            images, labels = kept["images"], kept["labels"]
    else:
        images = np.zeros((n, size, size), np.uint8)
        masks = np.zeros((n, len(STRUCTURES), size, size), bool)
        for i, spec in enumerate(track(specs, f"phantoms, draw {draw}", n)):
            phantom = render(spec, size)
            images[i] = high_byte(phantom.image)
            masks[i] = [phantom.masks[name] for name in STRUCTURES]
        labels = label_rows([phantom_labels(spec.findings) for spec in specs], attributes)
        if path is not None:
            packed = np.packbits(masks, axis=-1)
            write_atomic(path, lambda file: np.savez(file, images=images, labels=labels, masks=packed))
    known = np.ones((n, len(STRUCTURES)), bool)
    return MeasureData(images, labels, attributes, masks, known, tuple(STRUCTURES), patients, words)


# --- figures ---------------------------------------------------------------------------------------------------


def f1(labels: npt.NDArray[Any], called: npt.NDArray[Any]) -> float:
    """F1 of boolean calls; NaN where nothing is positive and nothing was called."""
    positive, called = np.asarray(labels).astype(bool), np.asarray(called).astype(bool)
    total = int(positive.sum() + called.sum())
    return float(2 * (positive & called).sum() / total) if total else float("nan")


def best_threshold(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    """The threshold with the best F1 for `score >= threshold`, half-way between two scores; 0.5 for one class."""
    positive = np.asarray(labels).astype(bool)
    if positive.all() or not positive.any():
        return 0.5
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked, hits = np.asarray(scores, np.float64)[order], np.cumsum(positive[order])
    values = 2 * hits / (np.arange(1, len(order) + 1) + positive.sum())
    values[:-1][ranked[:-1] == ranked[1:]] = -1  # a cut cannot separate equal scores
    best = int(np.argmax(values))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)
