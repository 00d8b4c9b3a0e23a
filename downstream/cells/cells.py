"""Cells of the grid: one training each, with an id that hashes only what changes its result.

A cell's row is in table ``cells``, its predictions in ``runs/<run>/cells/<cell_id>.npz``. A finished cell is never
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
from pydantic import TypeAdapter

from radpref.data.core.errors import NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
from radpref.data.study.runs import now
from radpref.downstream.cells.metrics import Metrics, nan_to_null, null_to_nan

if TYPE_CHECKING:
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

Predictions = dict[str, npt.NDArray[Any]]
"""Per test image: "patients", and "labels", "probabilities", "thresholds" or "areas", "areas_half"."""
RECIPE_VERSION = 1
"""Raised when the training code changes what a cell gives."""


@dataclass(frozen=True)
class Outcome:
    """What a training gives: metrics on the test set, and the arrays from which they are computed."""

    metrics: Metrics
    arrays: Predictions


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
    metrics: Metrics

    def row(self) -> CellRow:
        """The cell as the grid's result lists it."""
        place = {name: value for name, value in vars(self.spec).items() if name in CellRow.__dataclass_fields__}
        return CellRow(self.cell_id, self.run_id, **place, metrics=self.metrics.values)


@dataclass(frozen=True)
class CellRow:
    """A cell in a grid's result: its place in the grid and its metrics, without those of single classes."""

    cell_id: str
    run_id: str
    task: str
    kind: str
    arm: str
    fraction: float
    multiple: int
    seed: int
    n_real: int
    n_synthetic: int
    metrics: dict[str, float]

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> CellRow:
        """A stored row: flat, metrics beside the place."""
        place = {field.name: stored[field.name] for field in fields(cls) if field.name != "metrics"}
        return cls(**place, metrics=null_to_nan({name: stored[name] for name in stored if name not in place}))

    def to_json(self) -> dict[str, Any]:
        """The flat row that `from_json` reads."""
        place = asdict(self)
        return place | nan_to_null(place.pop("metrics"))

    def value(self, metric: str) -> float:
        """One metric; NaN where the cell has none of that name."""
        return self.metrics.get(metric, float("nan"))


def predictions_path(study: Study, run_id: str, cell_id: str) -> Path:
    """Where the predictions of a cell are."""
    return study.root / "runs" / run_id / "cells" / f"{cell_id}.npz"


def find_cell(study: Study, cell_id: str) -> Cell | None:
    """The finished cell with this id, if its predictions are still there."""
    row = study.db.row("SELECT * FROM cells WHERE cell_id = ?", [cell_id])
    if row is None or not predictions_path(study, row["run_id"], cell_id).is_file():
        return None
    spec = TypeAdapter(CellSpec).validate_json(row["spec"])
    return Cell(cell_id, row["run_id"], spec, Metrics.from_json(json.loads(row["metrics"])))


def save_cell(study: Study, run: Run, spec: CellSpec, outcome: Outcome) -> Cell:
    """Store predictions first, then the row, so that a row always has its file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **outcome.arrays)  # type: ignore[arg-type]  # its stub has allow_pickle among the names
    write_atomic(predictions_path(study, run.run_id, spec.cell_id), buffer.getvalue())
    content = json.dumps(outcome.metrics.to_json())
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO cells(cell_id, run_id, spec, metrics, finished_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT(cell_id) DO UPDATE SET run_id = excluded.run_id, metrics = excluded.metrics, "
            "finished_at = excluded.finished_at",
            (spec.cell_id, run.run_id, json.dumps(asdict(spec)), content, now()),
        )
    return Cell(spec.cell_id, run.run_id, spec, outcome.metrics)


def load_predictions(study: Study, cell: Cell) -> Predictions:
    """The arrays of a finished cell (see `training.evaluate_network`).

    Raises:
        NotFound: the file was removed.
    """
    path = predictions_path(study, cell.run_id, cell.cell_id)
    if not path.is_file():
        raise NotFound(f"predictions of cell {cell.cell_id} are missing at {path}; run `radpref downstream run` again")
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
