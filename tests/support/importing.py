"""Readers for tests of the import engine; worker processes import them by name, so they stand in a module."""

from __future__ import annotations

import csv
import os
import signal
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radpref.data.config.data import DataConfig
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record

Row = dict[str, str]


class Counter:
    """How many records are alive at once, and how many were loaded."""

    def __init__(self) -> None:
        self.alive = self.peak = self.n_loaded = 0
        self._lock = threading.Lock()

    def born(self, record: LoadedRecord) -> LoadedRecord:
        with self._lock:
            self.alive += 1
            self.n_loaded += 1
            self.peak = max(self.peak, self.alive)
        weakref.finalize(record, self._gone)
        return record

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


COUNTER = Counter()


def read_listed(config: DataConfig, path: Path | None) -> ImportPlan:
    """A CSV of ``id, patient, split, seed, does``; ``does`` is blank, or what goes wrong when the row is loaded."""
    assert path is not None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = (Found("rows", len(rows), 12, "of the list"), Found("patients", len({row["patient"] for row in rows})))
    return ImportPlan(_Listed(config, rows), found, (path,))


@dataclass(frozen=True)
class _Listed:
    config: DataConfig
    rows: list[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def record_id(self, i: int) -> str:
        return self.rows[i]["id"]

    def load(self, i: int) -> LoadedRecord:
        return _load(self.config, self.rows[i])


def _load(config: DataConfig, row: Row) -> LoadedRecord:
    match row["does"]:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            raise MemoryError("cannot allocate 9 GiB")
        case "odd":
            raise RuntimeError("first line\nsecond line")
        case "silent":
            raise ZeroDivisionError
        case "interrupt":
            raise KeyboardInterrupt
    pixels = np.random.default_rng(int(row["seed"])).integers(0, 256, (config.image_size,) * 2).astype(np.uint8)
    record = Record(row["id"], "listed", row["patient"], row["split"], pixels, {"lungs": pixels > 99}, {"ill": 1.0})
    return COUNTER.born(record)


def write_list(path: Path, n: int, **columns: dict[int, str]) -> Path:
    """A list of ``n`` records; ``columns`` replaces single cells by row number."""
    names = ("id", "patient", "split", "seed", "does")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for i in range(n):
            row = {"id": f"r{i:05d}", "patient": f"p{i}", "split": "train", "seed": str(i), "does": ""}
            row |= {name: cells[i] for name, cells in columns.items() if i in cells}
            writer.writerow([row[name] for name in names])
    return path


def die() -> None:
    """What a worker process does that cannot live here."""
    os._exit(1)
