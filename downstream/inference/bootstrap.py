"""Hierarchical bootstrap over seeds and test patients of the difference between two arms.

Input: per seed, sums per patient from which the metric is computed (`radpref.downstream.cells.metrics`). Output: a
percentile CI. All seeds are tested on the same patients, so the two are crossed: each replicate draws seeds and, once
for all of them, patients; both arms see the same draws (paired).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.downstream.inference.power import CONFIDENCE

Float = npt.NDArray[np.float64]
Score = Callable[[Float], Float]


def sums_by_patient(sums: Float, patients: npt.NDArray[np.int64], n_patients: int) -> Float:
    """Add the per-image sums (N, ...) of each patient: (P, ...). patients: (N,) indices below ``n_patients``."""
    total = np.zeros((n_patients, *sums.shape[1:]))
    np.add.at(total, patients, sums)
    return total


def bootstrap_difference(
    a: Sequence[Float], b: Sequence[Float], score: Score, rng: np.random.Generator, n_boot: int = 1000
) -> tuple[float, float]:
    """95 % percentile CI of mean over seeds of score(a) - score(b).

    a, b: one array (P, ...) of per-patient sums per seed, the same patients in the same order everywhere.
    score: maps summed sums (B, ...) to metric values (B,). Draws in which the metric is undefined are left out.

    Raises:
        InvalidInput: no seed, unequal numbers of seeds, or other patients in one arm.
    """
    if not a or len(a) != len(b) or len({len(x) for x in (*a, *b)}) != 1:
        raise InvalidInput(
            f"bootstrap got {len(a)} and {len(b)} seeds or other patients; run both arms on one test set"
        )
    n_seeds, n_patients = len(a), len(a[0])
    weights = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_boot).astype(np.float64)
    summed = ([np.tensordot(weights, sums, axes=1) for sums in arm] for arm in (a, b))  # (n_boot, ...) per seed
    columns = [score(x) - score(y) for x, y in zip(*summed, strict=True)]
    drawn_seeds = rng.integers(n_seeds, size=(n_boot, n_seeds))
    means = np.take_along_axis(np.stack(columns, axis=1), drawn_seeds, axis=1).mean(axis=1)  # (n_boot,)
    return percentile_interval(means[np.isfinite(means)])


def percentile_interval(draws: Float) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws (B,); NaN without any."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (math.nan, math.nan)
    return float(low), float(high)
