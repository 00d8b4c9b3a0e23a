"""The id of a cell: every field counts, and it stays when fields with defaults are added."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from radpref.downstream.cells.cells import CellSpec

STORED = {
    "task": "effusion", "kind": "binary", "labels": ("pleural_effusion",), "arm": "baseline", "fraction": 1.0,
    "multiple": 1, "seed": 0, "network": "small", "n_steps": 2, "batch_size": 4, "image_size": 16, "n_real": 24,
    "n_synthetic": 24, "train_data": "c0401f646ffd7d0e5582282f+4953036e2124465efcf39e49",
    "validation_data": "48feb7d87e636e355e05a1f4", "test_data": "1ea8bced0be7171b9b119326", "recipe_version": 1,
}  # fmt: skip
"""A cell of the study in ``tests/fixtures``, as revision 1ab5f78 stored it."""
STORED_ID = "0e65eed3768ac7b34ee2bc27"


@dataclass(frozen=True)
class LaterSpec(CellSpec):
    """A cell of a later version."""

    warmup_steps: int = 0


def test_a_cell_of_an_older_version_keeps_its_id() -> None:
    assert CellSpec(**STORED).cell_id == STORED_ID
    assert LaterSpec(**STORED).cell_id == STORED_ID
    assert LaterSpec(**STORED, warmup_steps=5).cell_id != STORED_ID


def test_every_field_counts() -> None:
    spec = LaterSpec(**STORED)
    changed = [replace(spec, **{field.name: "another"}) for field in fields(spec)]
    assert len({spec.cell_id, *(one.cell_id for one in changed)}) == 1 + len(changed)
