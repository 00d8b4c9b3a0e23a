"""How like the real ones synthetic images are, and how varied: pure functions of feature arrays and images.

Features (n, D) of two sets -> Frechet distance and KID with 95 % bootstrap intervals over prompts and patients, and
the Frechet distance extrapolated to endless samples; images of one prompt -> MS-SSIM. Whether images are copies:
`radpref.generation.fidelity.memorisation`. What network gives the features: `radpref.generation.fidelity.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from radpref.data.core.errors import InvalidInput
from radpref.data.core.statistics import Estimate, MeanEstimate
from radpref.generation.fidelity.figures import KernelDistance

ARRAY = npt.NDArray[Any]
N_RESAMPLES = 100
SUBSET_SIZE = 100
"""Images of the subsets that KID's interval comes from; fewer where a set has less than twice as many."""
EXTRAPOLATION_SIZES, EXTRAPOLATION_DRAWS = 8, 6
"""Sizes from n/3 to n, and random subsets of each, that the extrapolated Frechet distance is fitted to."""


def frechet_distance(a: ARRAY, b: ARRAY) -> float:
    """Frechet distance of two Gaussians fitted to features (n, D) and (m, D); 0 for equal sets (FID, Heusel 2017).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). With centred X, Y the trace of the root is the nuclear norm of
    X Y^T / sqrt((n-1)(m-1)), which is cheap for few images of many features; otherwise it comes from the eigenvalues of
    S_a^(1/2) S_b S_a^(1/2), which is symmetric, so that no imaginary part appears. Biased upwards for small n.
    """
    x, y = _features(a, b)
    shift = x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    n, m = len(x) - 1, len(y) - 1
    total = (x**2).sum() / n + (y**2).sum() / m
    if min(len(x), len(y)) < x.shape[1]:
        cross = linalg.svdvals(x @ y.T).sum() / np.sqrt(n * m)
    else:
        values, vectors = linalg.eigh(x.T @ x / n)
        root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        cross = np.sqrt(np.clip(linalg.eigvalsh(root @ (y.T @ y / m) @ root), 0, None)).sum()
    return float(max(shift @ shift + total - 2 * cross, 0.0))


def frechet_with_interval(
    a: ARRAY,
    b: ARRAY,
    rng: np.random.Generator,
    *,
    groups: Sequence[Sequence[Any] | None] = (None, None),
    n_resamples: int = N_RESAMPLES,
    advance: Callable[[int], None] | None = None,
) -> Estimate:
    """Frechet distance with a bootstrap interval, re-centred because resampling itself adds distance.

    Args:
        groups: for `a` and for `b`, what each image belongs to (its prompt, its patient): whole groups are drawn.
        advance: called with 1 after each resample: a thousand features of thousands of images take a second each.

    The interval's ends are the value plus the quantiles of (resample - mean of the resamples).
    """
    x, y = _features(a, b)
    draws = []
    for _ in range(n_resamples):
        rows, others = resample(groups[0], len(x), rng), resample(groups[1], len(y), rng)
        if min(len(rows), len(others)) > 1:
            draws.append(frechet_distance(x[rows], y[others]))
        if advance is not None:
            advance(1)
    value = frechet_distance(x, y)
    low, high = np.percentile(np.array(draws) - np.mean(draws), [2.5, 97.5])
    return Estimate(value, max(0.0, value + float(low)), value + float(high))


def frechet_extrapolated(a: ARRAY, b: ARRAY, rng: np.random.Generator) -> float | None:
    """The Frechet distance that endless samples of both would have: its bias goes like 1/n (Chong and Forsyth 2020).

    Both sets are cut to n = k/3 .. k images, k the smaller set; the line through the distances over 1/n is read at 0.
    None where k is under 30. Negative where the true distance is about 0: shown as it is, it is an estimate.
    """
    x, y = _features(a, b)
    k = min(len(x), len(y))
    if k < 30:
        return None
    sizes = np.unique(np.linspace(k / 3, k, EXTRAPOLATION_SIZES).round().astype(int))
    inverse, found = [], []
    for size in sizes:
        for _ in range(EXTRAPOLATION_DRAWS):
            rows, others = (rng.choice(len(v), size, replace=False) for v in (x, y))
            inverse.append(1 / size)
            found.append(frechet_distance(x[rows], y[others]))
    return float(np.polyfit(inverse, found, 1)[1])


def mmd2(a: ARRAY, b: ARRAY) -> float:
    """Unbiased squared maximum mean discrepancy, cubic polynomial kernel (x.y / D + 1)^3 (KID, Binkowski 2018)."""
    x, y = _features(a, b)
    dim, n, m = x.shape[1], len(x), len(y)
    xx, yy, xy = ((p @ q.T / dim + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def kid(a: ARRAY, b: ARRAY, rng: np.random.Generator, *, n_subsets: int = 100) -> KernelDistance:
    """KID over the full sets, with an interval from random subsets; unbiased, so about 0 for equal laws.

    The spread over subsets of k of n images is scaled by sqrt(k / n) to the spread of the full set.
    """
    x, y = _features(a, b)
    size = min(SUBSET_SIZE, max(2, min(len(x), len(y)) // 2))
    subsets = ([rng.choice(len(v), size, replace=False) for v in (x, y)] for _ in range(n_subsets))
    draws = np.array([mmd2(x[rows], y[others]) for rows, others in subsets])
    value = mmd2(x, y)
    low, high = np.percentile(draws - draws.mean(), [2.5, 97.5]) * np.sqrt(size / min(len(x), len(y)))
    return KernelDistance(value, value + float(low), value + float(high), size)


def standardised(reference: ARRAY) -> Callable[[ARRAY], ARRAY]:
    """Map features (n, D) as (x - mean) / spread, dimension by dimension, both of `reference`.

    The scale of a network's features is an accident of its training: without this one loud dimension is the whole
    Frechet distance, and KID's cubic kernel, made for x.y / D about 1, drowns in its own variance. A dimension that
    hardly ever moves in the reference counts by a hundredth of the median spread, so that it cannot explode.
    """
    known = np.asarray(reference, np.float64)
    mean, spread = known.mean(0), known.std(0)
    spread = np.maximum(spread, max(float(np.median(spread)) / 100, 1e-12))
    return lambda features: (np.asarray(features, np.float64) - mean) / spread


def rows_by_group(groups: Iterable[Hashable]) -> list[list[int]]:
    """The rows of each group (prompt, patient), in the order of their first rows."""
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return list(members.values())


def resample(groups: Sequence[Any] | None, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of one bootstrap draw of `n` images: whole groups (prompts, patients) where they are given."""
    if groups is None:
        return rng.integers(n, size=n)
    parts = rows_by_group(groups)
    return np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))]).astype(np.int64)


def ms_ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> ARRAY:
    """Multi-scale SSIM of uint8 images (B, H, W), pair by pair: (B,), 1 for equal images (Wang 2003)."""
    from torch import from_numpy
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    if a.shape != b.shape or a.ndim != 3 or min(a.shape[1:]) < 24:
        raise InvalidInput(
            f"images of {a.shape} and {b.shape}: MS-SSIM needs two stacks (B, H, W) of one size, 24 pixels or more"
        )
    # As many of the five scales as the 11-pixel window still fits in.
    n_scales = int(np.clip(np.log2((min(a.shape[1:]) - 1) / 10), 1, 5))
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:n_scales]
    x, y = (from_numpy(np.ascontiguousarray(v)).float()[:, None] / 255 for v in (a, b))
    betas = tuple(float(w) for w in weights / weights.sum())
    found = measure(x, y, data_range=1.0, betas=betas, normalize="relu", reduction="none")
    return np.asarray(found.reshape(-1), np.float64)


def group_ms_ssim(group: npt.NDArray[np.uint8]) -> float:
    """Mean MS-SSIM of all pairs of images (k, H, W), k >= 2: how alike the images of one prompt are.

    Raises:
        InvalidInput: fewer than two images.
    """
    if len(group) < 2:
        raise InvalidInput(f"{len(group)} image of a condition has no pair: give at least two")
    first, second = np.triu_indices(len(group), 1)
    return float(ms_ssim(group[first], group[second]).mean())


def mean_interval(values: Sequence[float], rng: np.random.Generator, n_resamples: int = 2000) -> MeanEstimate:
    """Mean of one value per group (NaN: not measured) with a 95 % percentile bootstrap over the groups.

    The interval of a single group is None.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return MeanEstimate(None, None, None, 0)
    if len(known) == 1:
        return MeanEstimate(float(known[0]), None, None, 1)
    means = known[rng.integers(len(known), size=(n_resamples, len(known)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return MeanEstimate(float(known.mean()), float(low), float(high), len(known))


def _features(a: ARRAY, b: ARRAY) -> tuple[ARRAY, ARRAY]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InvalidInput(f"features of shapes {x.shape} and {y.shape} do not compare: give (n, D) and (m, D)")
    if min(len(x), len(y)) < 2:
        raise InvalidInput(f"{len(x)} and {len(y)} images are too few to compare: give at least 2 of each")
    return x, y
