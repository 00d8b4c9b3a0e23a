"""Cells of the grid: one training each, with an id that hashes only what changes its result.

A cell's row stands in table ``cells``, its predictions in ``runs/<run>/cells/<cell_id>.npz``. A finished cell is never
trained again; the real-only cell of a task, fraction and seed is shared by every comparison.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.runs import now
from radpref.downstream.cells.training import Outcome

if TYPE_CHECKING:
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

RECIPE_VERSION = 1
"""Raised when the training code changes what a cell gives."""


@dataclass(frozen=True)
class CellSpec:
    """Everything that changes the result of a cell."""

    task: str
    kind: str
    labels: tuple[str, ...]
    arm: str  # "real", "real_balanced", or the arm of a synthetic pool
    fraction: float
    multiple: int  # 0 for arms without synthetic images
    seed: int
    network: str
    n_steps: int
    batch_size: int
    image_size: int
    n_real: int
    n_synthetic: int
    train_data: str  # hash of the training images and labels, in order
    validation_data: str
    test_data: str
    recipe_version: int  # RECIPE_VERSION
    # Fields that came later go here, with the value that earlier cells had as their default: see `cell_id`.

    @property
    def cell_id(self) -> str:
        """24 hexadecimal digits over all fields; one with a default counts only where it differs from it.

        So a field that is added with a default leaves the cells of older studies their ids.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:24]


@dataclass(frozen=True)
class Cell:
    """A finished cell."""

    cell_id: str
    run_id: str
    spec: CellSpec
    metrics: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """One flat row: where the cell stands in the grid, and its metrics without the per-class table."""
        own = {
            name: getattr(self.spec, name)
            for name in ("task", "kind", "arm", "fraction", "multiple", "seed", "n_real", "n_synthetic")
        }
        flat = {name: value for name, value in self.metrics.items() if not isinstance(value, dict)}
        return {"cell_id": self.cell_id, "run_id": self.run_id, **own, **flat}


def predictions_path(study: Study, run_id: str, cell_id: str) -> Path:
    """Where the predictions of a cell stand."""
    return study.root / "runs" / run_id / "cells" / f"{cell_id}.npz"


def find_cell(study: Study, cell_id: str) -> Cell | None:
    """The finished cell with this id, if its predictions are still there."""
    row = study.db.row("SELECT * FROM cells WHERE cell_id = ?", [cell_id])
    if row is None or not predictions_path(study, row["run_id"], cell_id).is_file():
        return None
    spec = json.loads(row["spec"])
    spec["labels"] = tuple(spec["labels"])
    return Cell(cell_id, row["run_id"], CellSpec(**spec), json.loads(row["metrics"]))


def save_cell(study: Study, run: Run, spec: CellSpec, outcome: Outcome) -> Cell:
    """Store predictions first, then the row, so that a row always has its file."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(outcome.arrays)
    np.savez_compressed(buffer, **arrays)
    write_atomic(predictions_path(study, run.run_id, spec.cell_id), buffer.getvalue())
    content = json.dumps(_without_nan(outcome.metrics))
    with study.db.write() as connection:
        _insert(connection, run.run_id, spec, content)
    return Cell(spec.cell_id, run.run_id, spec, json.loads(content))


def _insert(connection: sqlite3.Connection, run_id: str, spec: CellSpec, content: str) -> None:
    connection.execute(
        "INSERT INTO cells(cell_id, run_id, spec, metrics, finished_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT(cell_id) DO UPDATE SET run_id = excluded.run_id, metrics = excluded.metrics, "
        "finished_at = excluded.finished_at",
        (spec.cell_id, run_id, json.dumps(asdict(spec)), content, now()),
    )


def load_predictions(study: Study, cell: Cell) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a finished cell (see `training.evaluate_network`).

    Raises:
        NotFound: the file was removed.
    """
    path = predictions_path(study, cell.run_id, cell.cell_id)
    if not path.is_file():
        raise NotFound(f"predictions of cell {cell.cell_id} are missing at {path}; run `radpref downstream run` again")
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _without_nan(value: Any) -> Any:
    """NaN as None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
