"""The result of a grid: its cells, its primary comparisons with their verdicts, what it could have found.

Input: finished cells and the planned family. Output: :class:`GridResult`, stored as JSON with the grid's run and read
back from there by the report; fields are the keys of that JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

from radpref.downstream.cells.cells import Cell, CellRow
from radpref.downstream.inference.comparisons import Comparison, Contrast, Loader, compare_family
from radpref.downstream.inference.power import DesignPower, PowerRow, power_table, study_example
from radpref.downstream.inference.t_tests import MIN_SEEDS, RELEVANT_DIFFERENCE

if TYPE_CHECKING:
    from radpref.data.config.downstream import DownstreamConfig

N_BOOT = 1000
PLACE = ("task", "arm", "fraction", "multiple", "seed")
FlatCell = Annotated[CellRow, BeforeValidator(CellRow.from_json), PlainSerializer(CellRow.to_json)]
AnyComparison = Annotated[Comparison, Field(union_mode="left_to_right")]


@dataclass(frozen=True)
class Rules:
    """What the verdicts rest on."""

    alpha: float
    family_size: int
    min_seeds: int
    relevant_difference: float
    primary: tuple[str, ...]
    n_boot: int
    n_seeds: int  # the fewest of any comparison


@dataclass(frozen=True)
class GridResult:
    """Everything that a finished grid says."""

    cells: tuple[FlatCell, ...]
    per_class: tuple[dict[str, str | int | float | None], ...]  # a row per cell and class, for the CSV
    comparisons: tuple[AnyComparison, ...]
    power: tuple[PowerRow, ...]
    study_power: DesignPower
    rules: Rules
    splits: dict[str, Any] = field(default_factory=dict)  # `radpref.data.study.splits.split_manifest`
    run_id: str = ""

    @classmethod
    def from_json(cls, run_id: str, stored: dict[str, Any]) -> GridResult:
        """The stored result of grid run ``run_id``."""
        return _JSON.validate_python({**stored, "run_id": run_id})

    def to_json(self) -> dict[str, Any]:
        """What a run stores; undefined and infinite figures are null."""
        stored: dict[str, Any] = json.loads(_JSON.dump_json(self))
        return stored


_JSON = TypeAdapter(GridResult)


def grid_result(
    settings: DownstreamConfig, cells: Sequence[Cell], family: Sequence[Contrast], load: Loader
) -> GridResult:
    """Compare the arms and say with what power. load: reads the predictions of a cell."""
    rng = np.random.default_rng([settings.seed, 17])
    rows = compare_family(cells, family, settings.alpha, load, rng, N_BOOT)
    n_seeds = min((row.n for row in rows), default=len(set(settings.seeds)))
    return GridResult(
        cells=tuple(cell.row() for cell in cells),
        per_class=tuple(
            {**{key: getattr(cell.spec, key) for key in PLACE}, "class": name, **values}
            for cell in cells
            for name, values in cell.metrics.per_class.items()
        ),
        comparisons=rows,
        power=power_table(max(n_seeds, 2), len(family), settings.alpha),
        study_power=study_example(),
        rules=Rules(
            settings.alpha, len(family), MIN_SEEDS, RELEVANT_DIFFERENCE, settings.primary, N_BOOT, n_seeds,
        ),
    )  # fmt: skip
