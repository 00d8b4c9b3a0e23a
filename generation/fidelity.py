"""How like the real ones synthetic images are, how varied, and whether they are copies.

Features of a network that does nothing else (`fidelity`, never a rater or the judge) -> Frechet distance and KID with
confidence intervals; MS-SSIM inside groups of one prompt -> diversity; nearest training neighbour -> memorisation.
All figures are pure functions of feature arrays; `fidelity_report` puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from data.errors import InvalidInput
from generation.measure import MeasureNet

ARRAY = npt.NDArray[Any]


def frechet_distance(a: ARRAY, b: ARRAY) -> float:
    """Frechet distance of two Gaussians fitted to features (n, D) and (m, D); 0 for equal sets (FID, Heusel 2017).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); the trace of the root from the eigenvalues of
    S_a^(1/2) S_b S_a^(1/2), which is symmetric, so that no imaginary part appears. Biased upwards for small n.
    """
    x, y = _features(a, b)
    shift = x.mean(0) - y.mean(0)
    cov_x, cov_y = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    values, vectors = linalg.eigh(cov_x)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(linalg.eigvalsh(root @ cov_y @ root), 0, None)).sum()
    return float(max(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - 2 * cross, 0.0))


def frechet_with_interval(
    a: ARRAY, b: ARRAY, rng: np.random.Generator, *, n_resamples: int = 100, confidence: float = 0.95
) -> dict[str, float]:
    """Frechet distance with a bootstrap interval over images, re-centred because resampling itself adds distance.

    Returns:
        value, low, high: low and high are value plus the quantiles of (resample - mean of the resamples).
    """
    x, y = _features(a, b)
    draws = np.array(
        [
            frechet_distance(x[rng.integers(len(x), size=len(x))], y[rng.integers(len(y), size=len(y))])
            for _ in range(n_resamples)
        ]
    )
    value, tail = frechet_distance(x, y), 50 * (1 - confidence)
    low, high = np.percentile(draws - draws.mean(), [tail, 100 - tail])
    return {"value": value, "low": max(0.0, value + float(low)), "high": value + float(high)}


def mmd2(a: ARRAY, b: ARRAY) -> float:
    """Unbiased squared maximum mean discrepancy, cubic polynomial kernel (x.y / D + 1)^3 (KID, Binkowski 2018)."""
    x, y = _features(a, b)
    dim, n, m = x.shape[1], len(x), len(y)
    xx, yy, xy = ((p @ q.T / dim + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def kid(
    a: ARRAY, b: ARRAY, rng: np.random.Generator, *, n_subsets: int = 100, subset_size: int = 100,
    confidence: float = 0.95,
) -> dict[str, float]:  # fmt: skip
    """KID over the full sets, with an interval from random subsets; unbiased, so about 0 for equal laws.

    The spread over subsets of k of n images is scaled by sqrt(k / n) to the spread of the full set.

    Returns:
        value, low, high, subset_size.
    """
    x, y = _features(a, b)
    size = min(subset_size, max(2, min(len(x), len(y)) // 2))
    draws = np.array(
        [
            mmd2(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)])
            for _ in range(n_subsets)
        ]
    )
    value, tail = mmd2(x, y), 50 * (1 - confidence)
    low, high = np.percentile(draws - draws.mean(), [tail, 100 - tail]) * np.sqrt(size / min(len(x), len(y)))
    return {"value": value, "low": value + float(low), "high": value + float(high), "subset_size": size}


def ms_ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Multi-scale SSIM of two uint8 images (H, W): 1 for equal images (Wang 2003)."""
    from torch import from_numpy
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    if a.shape != b.shape or min(a.shape) < 24:
        raise InvalidInput(f"images of {a.shape} and {b.shape}: MS-SSIM needs two of one size, 24 pixels or more")
    # As many of the five scales as the 11-pixel window still fits in.
    n_scales = int(np.clip(np.log2((min(a.shape) - 1) / 10), 1, 5))
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:n_scales]
    x, y = (from_numpy(np.ascontiguousarray(v)).float()[None, None] / 255 for v in (a, b))
    betas = tuple(float(w) for w in weights / weights.sum())
    return float(measure(x, y, data_range=1.0, betas=betas, normalize="relu"))


def diversity(groups: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
    """Mean MS-SSIM of all pairs inside each group (images of one condition, (k, H, W)): lower is more varied.

    Returns:
        ms_ssim (mean over groups), sem (standard error over groups; NaN for one), n_groups.
    """
    values = [
        np.mean([ms_ssim(group[i], group[j]) for i in range(len(group)) for j in range(i)])
        for group in groups
        if len(group) > 1
    ]
    if not values:
        raise InvalidInput(f"{len(groups)} groups without a pair of images: give at least two images of one condition")
    sem = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"ms_ssim": float(np.mean(values)), "sem": sem, "n_groups": len(values)}


def nearest_training(
    synthetic: ARRAY, training: ARRAY, held_out: ARRAY, *, copy_quantile: float = 0.01
) -> dict[str, Any]:
    """Are they copies? Distance of each synthetic image (n, D) to its nearest training image, against held-out ones.

    Held-out real images were never seen, so the lowest `copy_quantile` of their distances marks "nearer than real
    images ever are"; with no memorisation about that share of the synthetic ones lies below.

    Returns:
        median, held_out_median, threshold, n_suspect, suspect_share, nearest (index per image), distance (per image).
    """
    x, t = _features(synthetic, training)
    h, _ = _features(held_out, training)
    distance, nearest = _nearest(x, t)
    reference, _ = _nearest(h, t)
    threshold = float(np.quantile(reference, copy_quantile))
    suspect = distance < threshold
    return {
        "median": float(np.median(distance)),
        "held_out_median": float(np.median(reference)),
        "threshold": threshold,
        "n_suspect": int(suspect.sum()),
        "suspect_share": float(suspect.mean()),
        "nearest": nearest.tolist(),
        "distance": distance.tolist(),
    }


def _nearest(x: ARRAY, table: ARRAY) -> tuple[ARRAY, ARRAY]:
    from scipy.spatial import cKDTree

    distance, index = cKDTree(table).query(x)
    return np.asarray(distance), np.asarray(index)


def _features(a: ARRAY, b: ARRAY) -> tuple[ARRAY, ARRAY]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InvalidInput(f"features of shapes {x.shape} and {y.shape} do not compare: give (n, D) and (m, D)")
    if min(len(x), len(y)) < 2:
        raise InvalidInput(f"{len(x)} and {len(y)} images are too few to compare: give at least 2 of each")
    return x, y


def fidelity_report(
    net: MeasureNet,
    synthetic: npt.NDArray[np.uint8],
    real: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    training: npt.NDArray[np.uint8] | None = None,
    groups: Sequence[npt.NDArray[np.uint8]] = (),
) -> dict[str, Any]:
    """All figures of one arm as plain JSON values.

    Args:
        net: the network of role `fidelity`.
        synthetic, real: uint8 (N, H, W); `real` are held-out real images.
        training: the generator's training images, for the copy check; left out where not given.
        groups: images of one condition each, for diversity.

    Raises:
        InvalidInput: `net` has another role, or there are too few images.
    """
    if net.role != "fidelity":
        raise InvalidInput(f"{net.name} has role {net.role!r}: measure fidelity with a network of role 'fidelity'")
    fake, true = net.features(synthetic), net.features(real)
    half = rng.permutation(len(true))
    report: dict[str, Any] = {
        "network": {"name": net.name, "sha256": net.sha256},
        "n_synthetic": len(fake),
        "n_real": len(true),
        "frechet": frechet_with_interval(fake, true, rng),
        "kid": kid(fake, true, rng),
    }
    if len(true) >= 8:  # two halves of the real set: what an ideal generator would reach at half the size
        first, second = true[half[: len(true) // 2]], true[half[len(true) // 2 :]]
        report["real_vs_real"] = {"frechet": frechet_distance(first, second), "kid": mmd2(first, second)}
    if groups:
        report["diversity"] = diversity(groups)
    if training is not None:
        found = nearest_training(fake, net.features(training), true)
        report["nearest_training"] = {key: value for key, value in found.items() if key not in ("nearest", "distance")}
    return report
