"""Small studies for the tests of the reading room: random arrays as images, sets and conditions put in directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.records import start_run
from data.study import Study

MODES = ("T2I", "M2I", "TM2I")
TEXTS = {"T2I": "Severe left pleural effusion", "TM2I": "Normal", "M2I": None}


def add_sets(
    study: Study,
    modes: tuple[str, ...] = MODES,
    *,
    seed: int = 0,
    size: int = 32,
    bits: int = 16,
    texts: dict[str, str | None] | None = None,
) -> list[str]:
    """One rating set per entry of ``modes``; returns the set ids."""
    rng = np.random.default_rng(seed)
    ids = []
    with (
        start_run(study, "sets", {"seed": seed, "modes": list(modes)}, resume=False) as run,
        study.db.write() as connection,
    ):
        for ordinal, mode in enumerate(modes):
            condition = f"condition-{seed}-{ordinal}"
            connection.execute(
                "INSERT INTO conditions(condition_id, mode, text, asked) VALUES (?, ?, ?, ?)",
                (condition, mode, (texts or TEXTS)[mode], json.dumps({"normal": 1} if mode == "TM2I" else {})),
            )
            if mode != "T2I":
                for structure, box in {"lungs": (4, 14), "heart": (16, 26)}.items():
                    mask = np.zeros((size, size), dtype=bool)
                    mask[box[0] : box[1], 6:-6] = True
                    connection.execute(
                        "INSERT INTO condition_masks VALUES (?, ?, ?)",
                        (condition, structure, study.store.put_mask(connection, mask)),
                    )
            set_id = f"set-{seed}-{ordinal}"
            ids.append(set_id)
            connection.execute(
                "INSERT INTO image_sets VALUES (?, ?, ?, ?, 'rating')", (set_id, run.run_id, ordinal, condition)
            )
            for slot in range(4):
                pixels = rng.integers(0, 2**bits, (size, size)).astype(np.uint16 if bits == 16 else np.uint8)
                sha = study.store.put_image(connection, pixels, "synthetic")
                connection.execute(
                    "INSERT INTO set_images VALUES (?, ?, ?, ?, 'baseline')", (set_id, slot, sha, 771100 + slot)
                )
    return ids


def make_study(root: Path, toml: str = "", **options: Any) -> Study:
    """A fresh study with one T2I, one M2I and one TM2I set (or ``modes``)."""
    study = Study.create(root / "pilot", toml)
    add_sets(study, **options)
    return study
