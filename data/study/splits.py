"""Patient-disjoint splits, nested real fractions, and a hashed manifest.

Input: patient identifiers and a seed. Output: a split per patient, rows of a real fraction, or the manifest of a study.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput

if TYPE_CHECKING:
    from radpref.data.study.db import StudyDatabase

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
    _check_fractions(fractions)
    names = sorted(set(patients))
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    n_train = round(fractions[0] * len(names))
    n_val = round(fractions[1] * len(names))
    return {names[i]: "train" if k < n_train else "val" if k < n_train + n_val else "test" for k, i in enumerate(order)}


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InvalidInput(f"split fractions are {list(fractions)}; give three shares that sum to 1")


Name = TypeVar("Name", str, int)


def connected_components(keys: Mapping[Name, Collection[Hashable]]) -> list[list[Name]]:
    """Groups of names that share a key, directly or through others; each sorted, ordered by their first name."""
    from scipy.sparse import coo_array, csgraph  # slow to load, and most importers only assign splits

    names, numbers = sorted(keys), dict[Hashable, int]()
    rows = [i for i, name in enumerate(names) for _ in keys[name]]
    columns = [numbers.setdefault(key, len(names) + len(numbers)) for name in names for key in keys[name]]
    n_nodes = len(names) + len(numbers)  # names and keys are the two sides of one graph
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n_nodes, n_nodes))
    groups: dict[int, list[Name]] = {}
    for name, component in zip(names, csgraph.connected_components(graph, directed=False)[1], strict=False):
        groups.setdefault(int(component), []).append(name)
    return sorted(groups.values())


def hashed_split(dataset: str, patient: str, seed: int, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)) -> str:
    """The split of one patient without knowing the others: a hash of (seed, dataset, patient) cut at ``fractions``.

    A set that grows, or whose patients are known only file by file, keeps every patient where they were. Shares are met
    on average, not exactly. A share of 0 is never drawn.
    """
    _check_fractions(fractions)
    digest = hashlib.sha256(f"{seed}/{dataset}/{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for split, share in zip(SPLITS, fractions, strict=True):
        end += share
        if place < end:
            return split
    return next(split for split, share in zip(reversed(SPLITS), reversed(fractions), strict=True) if share > 0)


def real_order(
    patients: Sequence[str], labels: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[list[str], int]:
    """Patients in the seeded order from which real fractions are prefixes, and the size of the stratified minimum.

    patients: (N,), one per record; labels: (N, L) of 1, 0 or NaN. The first patient in the drawn order with a
    positive, and the first with a negative, of every label come first: each fraction, however small, holds both
    classes, and the fractions stay nested.
    """
    names = sorted(set(patients))
    order = [names[i] for i in rng.permutation(len(names))]
    rows: dict[str, list[int]] = {}
    for i, patient in enumerate(patients):
        rows.setdefault(patient, []).append(i)
    front: list[str] = []
    for column in range(labels.shape[1]):
        for value in (1.0, 0.0):
            first = next((p for p in order if (labels[rows[p], column] == value).any()), None)
            if first is not None and first not in front:
                front.append(first)
    front.sort(key=order.index)
    leading = set(front)
    return front + [patient for patient in order if patient not in leading], len(front)


def real_fraction(
    patients: Sequence[str], labels: npt.NDArray[np.float64], fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Rows of a real subset: whole patients up to ``fraction`` of the records, 1 % inside 10 % inside 100 %.

    The same generator state gives nested subsets for any fractions; another seed redraws them. Never smaller than the
    stratified minimum of `real_order` (at least two patients).

    Raises:
        InvalidInput: the fraction is not in (0, 1], or there is no record.
    """
    if not 0 < fraction <= 1:
        raise InvalidInput(f"fraction = {fraction}: give a fraction of the real training set above 0 and up to 1")
    if not len(patients):
        raise InvalidInput("no patients to draw from; import records first")
    order, n_minimum = real_order(patients, labels, rng)
    counts = Counter(patients)
    total = np.cumsum([counts[patient] for patient in order])
    n_patients = max(int((total <= math.ceil(fraction * len(patients))).sum()), n_minimum, min(2, len(order)))
    chosen = set(order[:n_patients])
    return np.array([i for i, patient in enumerate(patients) if patient in chosen], np.int64)


def hash_lines(lines: Sequence[str]) -> str:
    """SHA-256 over the lines in sorted order: one hash for a set of identifiers."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@dataclass(frozen=True)
class SplitSummary:
    """One split: its size, and a hash over record, patient and image."""

    n_records: int
    n_patients: int
    sha256: str


@dataclass(frozen=True)
class SplitManifest:
    """Who is in which split, and a hash over all of it."""

    train: SplitSummary
    val: SplitSummary
    test: SplitSummary
    sha256: str


def split_manifest(db: StudyDatabase) -> SplitManifest:
    """The manifest of the records as they are now."""
    splits = {}
    for split in SPLITS:
        rows = db.rows("SELECT dataset, record_id, patient_id, image_sha FROM records WHERE split = ?", (split,))
        lines = [f"{row['record_id']} {row['dataset']}/{row['patient_id']} {row['image_sha']}" for row in rows]
        n_patients = len({(row["dataset"], row["patient_id"]) for row in rows})
        splits[split] = SplitSummary(len(rows), n_patients, hash_lines(lines))
    return SplitManifest(**splits, sha256=hash_lines([f"{split} {found.sha256}" for split, found in splits.items()]))
