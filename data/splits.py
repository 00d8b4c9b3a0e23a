"""Patient-disjoint splits, nested fractions of them, and a hashed manifest.

Input: patient identifiers and a seed. Output: a split per patient, subsets of patients, or the manifest of a study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InvalidInput

if TYPE_CHECKING:
    from data.db import StudyDatabase

SPLITS = ("train", "val", "test")
ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def canonical_split(name: str) -> str:
    """ "train", "val" or "test" for a table's spelling of it.

    Raises:
        InvalidInput: anything else.
    """
    lowered = name.strip().lower()
    split = ALIASES.get(lowered, lowered)
    if split not in SPLITS:
        raise InvalidInput(f"split {name!r} is unknown; use train, val or test")
    return split


def assign_splits(
    patients: Iterable[str], seed: int, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> dict[str, str]:
    """A split for every patient: a seeded shuffle cut at ``fractions`` (train, val, test; they sum to 1)."""
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InvalidInput(f"split fractions are {list(fractions)}; give three shares that sum to 1")
    names = sorted(set(patients))
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    n_train = round(fractions[0] * len(names))
    n_val = round(fractions[1] * len(names))
    return {names[i]: "train" if k < n_train else "val" if k < n_train + n_val else "test" for k, i in enumerate(order)}


def nested_patients(patients: Iterable[str], fraction: float, seed: int) -> list[str]:
    """``fraction`` of the patients (at least one), sorted; a smaller fraction of one seed lies inside a larger one.

    Raises:
        InvalidInput: the fraction is not in (0, 1], or there is no patient.
    """
    if not 0 < fraction <= 1:
        raise InvalidInput(f"real fraction is {fraction}; give a share above 0 and up to 1")
    names = sorted(set(patients))
    if not names:
        raise InvalidInput("there is no patient to draw from; import records first")
    order = np.random.default_rng([seed, 23]).permutation(len(names))
    return sorted(names[i] for i in order[: max(1, round(fraction * len(names)))])


def hash_lines(lines: Sequence[str]) -> str:
    """SHA-256 over the lines in sorted order: one hash for a set of identifiers."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def split_manifest(db: StudyDatabase) -> dict[str, Any]:
    """Who is in which split: per split n_records, n_patients and a hash over record, patient and image."""
    manifest: dict[str, Any] = {}
    for split in SPLITS:
        rows = db.rows("SELECT dataset, record_id, patient_id, image_sha FROM records WHERE split = ?", (split,))
        lines = [f"{row['record_id']} {row['dataset']}/{row['patient_id']} {row['image_sha']}" for row in rows]
        manifest[split] = {
            "n_records": len(rows),
            "n_patients": len({(row["dataset"], row["patient_id"]) for row in rows}),
            "sha256": hash_lines(lines),
        }
    manifest["sha256"] = hash_lines([f"{split} {manifest[split]['sha256']}" for split in SPLITS])
    return manifest
