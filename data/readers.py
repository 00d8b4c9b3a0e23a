"""Data-set readers: where records come from. The registry is :data:`READERS`.

Input: the study's data configuration and an optional path. Output: :class:`PlannedRecord` items, cheap to list,
whose ``load()`` renders or reads one record; so an import can skip what it already has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data.config import DataConfig
from data.errors import InvalidInput, NotFound
from data.images import GrayImage, Mask
from data.labels import phantom_labels
from data.splits import SPLITS

STUDY_PATIENTS = 2**32
"""First patient seed of studies: phantoms that trained the shipped networks lie below it, or from 2**33 upwards."""
PATIENTS_PER_SPLIT = 1_000_000


@dataclass(frozen=True)
class Record:
    """One radiograph as it enters the study record.

    image: (S, S) uint8 or uint16; masks: structure -> (S, S) bool, none empty; labels: 1.0, 0.0 or None (unknown).
    """

    record_id: str
    dataset: str
    patient_id: str
    split: str
    image: GrayImage
    masks: dict[str, Mask]
    labels: dict[str, float | None]
    caption: str | None = None
    report: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRecord:
    """A record that can be loaded; ``load`` raises `RadprefError` for a record that must be quarantined."""

    record_id: str
    load: Callable[[], Record]


Reader = Callable[[DataConfig, Path | None], list[PlannedRecord]]


def read_phantom(config: DataConfig, path: Path | None = None) -> list[PlannedRecord]:
    """``n_train``, ``n_val`` and ``n_test`` phantom patients, one view each; every split has its own patient seeds."""
    if path is not None:
        raise InvalidInput(f"the phantom reader reads no file, got {path}; leave PATH away or choose reader 'table'")
    from data.phantom_spec import STRUCTURES

    unknown = sorted(set(config.structures) - set(STRUCTURES))
    if unknown:
        raise InvalidInput(f"data.structures has {unknown[0]!r}; the phantom draws {', '.join(STRUCTURES)}")
    planned = []
    for k, n in enumerate((config.n_train, config.n_val, config.n_test)):
        if n > PATIENTS_PER_SPLIT:
            raise InvalidInput(f"data.n_{SPLITS[k]} = {n}: give at most {PATIENTS_PER_SPLIT} patients")
        planned += [_plan_phantom(config, k, i) for i in range(n)]
    return planned


def _plan_phantom(config: DataConfig, split_index: int, i: int) -> PlannedRecord:
    split = SPLITS[split_index]
    record_id = f"phantom-{config.seed}-{split}-{i:06d}"
    return PlannedRecord(record_id, lambda: _load_phantom(config, split_index, i, record_id))


def _load_phantom(config: DataConfig, split_index: int, i: int, record_id: str) -> Record:
    from data.phantom import render
    from data.phantom_spec import draw_spec

    first = STUDY_PATIENTS + (config.seed % 1000 * len(SPLITS) + split_index) * PATIENTS_PER_SPLIT
    spec = replace(draw_spec(np.random.default_rng([config.seed, split_index, i])), patient_seed=first + i)
    shown = render(spec, config.image_size)
    return Record(
        record_id=record_id,
        dataset="phantom",
        patient_id=f"phantom-{spec.patient_seed}",
        split=SPLITS[split_index],
        image=shown.image,
        masks={name: shown.masks[name] for name in config.structures if shown.masks[name].any()},
        labels=phantom_labels(shown.labels, spec),
        caption=shown.caption,
        report=shown.report,
    )


def read_table(config: DataConfig, path: Path | None = None) -> list[PlannedRecord]:
    """The rows of a CSV or parquet file; see :mod:`data.table`."""
    from data.table import plan_table

    source = path or (Path(config.path) if config.path else None)
    if source is None:
        raise InvalidInput("the table reader needs a file; give PATH or set data.path in study.toml")
    return plan_table(config, source)


READERS: dict[str, Reader] = {"phantom": read_phantom, "table": read_table}


def get_reader(name: str) -> Reader:
    """The reader called ``name``.

    Raises:
        NotFound: there is none; the choices are listed.
    """
    if name not in READERS:
        raise NotFound(f"no reader called {name!r}; choose one of {', '.join(READERS)}")
    return READERS[name]
