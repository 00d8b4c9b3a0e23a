"""Which images of a pool a cell trains on: every label lifted to the most frequent one of the cell's own real subset.

Input: labels of the real subset and of the pools. Output: rows of each arm's pool. Arms that share conditions get the
same rows; multiples are nested for one generator state (paper, "synthetic images balance every class").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from radpref.data.study.pools import lift_lowest
from radpref.downstream.cells.tasks import Indices, synthetic_subset

Labels = npt.NDArray[np.float64]


def pool_classes(labels: Labels) -> npt.NDArray[np.int64]:
    """(N, L) labels of a pool -> (N,) the label that is 1, or L where none is."""
    positive = labels == 1
    return np.asarray(np.where(positive.any(axis=1), positive.argmax(axis=1), labels.shape[1]), np.int64)


def class_shares(real: Labels, pool: Labels, n: int) -> npt.NDArray[np.int64]:
    """How many of ``n`` synthetic images are of each label, and last of none.

    Those of none keep the part that they have in the pool. The others lift the label that is rarest in real and
    synthetic images together.
    """
    n_labels = pool.shape[1]
    without = round(n * float((pool_classes(pool) == n_labels).mean())) if len(pool) else 0
    have = [int(count) for count in (real == 1).sum(axis=0)]
    lifted = np.bincount(lift_lowest(have, n - without), minlength=n_labels)
    return np.append(lifted, without).astype(np.int64)


def balanced_subset(
    real: Labels, pools: Mapping[str, Labels], n_wanted: int, task: str, rng: np.random.Generator
) -> dict[str, Indices]:
    """Rows of each arm's pool, sorted: as many in every arm, and of each class as `class_shares` says.

    Rows of a class are a prefix of one seeded order. Where a pool holds too few of a class, others take their places;
    `synthetic_subset` refuses a pool that is too small in all.
    """
    sizes = {arm: len(labels) for arm, labels in pools.items()}
    n = len(synthetic_subset(sizes, n_wanted, task, rng))
    order = rng.permutation(min(sizes.values()))
    chosen = {}
    for arm, labels in pools.items():
        counts, classes = class_shares(real, labels, n), pool_classes(labels)[order]
        taken = np.concatenate([np.flatnonzero(classes == k)[:count] for k, count in enumerate(counts)])
        rest = np.setdiff1d(np.arange(len(order)), taken)[: n - len(taken)]
        chosen[arm] = np.sort(order[np.concatenate([taken, rest])]).astype(np.int64)
    return chosen
