"""Are generated images copies of training images? Nearest neighbours, against the same of held-out real patients.

Pure functions. Two spaces, both unit vectors: a *thumbnail* (32 x 32, blurred by area averaging, freed of gain, offset
and the average radiograph; compared over small shifts and zooms, also mirrored) and a network's *features*. Two
questions of an image, as in Carlini et al. 2023: is it near to a training image, and nearer to that one than to the
next ones (a bland image is near to many)? What "near" means is read off held-out real patients, who cannot be copies:
their conformal p-values are exact whatever the space. Rule and thresholds: docs/adr/0015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from radpref.data.core.errors import InvalidInput
from radpref.data.core.statistics import Estimate
from radpref.generation.fidelity.figures import CopyVerdict, Medians, SpaceFigures
from radpref.generation.fidelity.likeness import resample

FLOAT = npt.NDArray[np.float32]
THUMBNAIL = 32
"""Side of the thumbnail, pixels: outlines of heart, ribs and devices stay, noise and the decoder's blur do not."""
SHIFT = 2
"""Shifts tried in each direction, thumbnail pixels: 6 % of the image's width."""
ZOOMS = (0.94, 0.97, 1.0, 1.03, 1.06)
"""Zooms tried: as far as augmented training images go (`radpref.generation.training.latents`), which may be copied
too."""
N_NEXT = 20
"""How many further neighbours the nearest one is compared with (Carlini: 50 of 50,000; a study has fewer)."""
QUERY_BLOCK = 50
"""Images compared at once; each has 250 variants."""
COPY_LEVEL = 0.01
"""An image is suspect below the 1st percentile of held-out patients, of distance *and* of ratio in one space."""
TWIN_DISTANCE = 0.2
"""Thumbnails nearer than this (correlation 0.98) are the same radiograph: no two patients come so close."""
TOLERATED_SHARE = 0.05
"""Clean enough: the upper bound of the share of suspects stays below this."""
HELD_OUT_NEEDED = 80
"""With fewer held-out images nothing is cleared: 6 % copies are then often missed (docs/adr/0015)."""


@dataclass(frozen=True)
class Neighbours:
    """For n images: distance (0 to 2) to the nearest training image, its index, and nearest / mean of the next ones."""

    distance: npt.NDArray[np.float64]
    ratio: npt.NDArray[np.float64]
    index: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[Any]) -> Neighbours:
        """The neighbours of some of the images."""
        return Neighbours(self.distance[rows], self.ratio[rows], self.index[rows])

    def __len__(self) -> int:
        return len(self.distance)


Vectors = Callable[[npt.NDArray[Any]], FLOAT]
"""Rows of a table of images -> unit vectors (n, variants, D)."""


def unit(rows: npt.NDArray[Any]) -> FLOAT:
    """(..., D) -> float32 of length 1 (zeros stay zeros)."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-8), np.float32)


def feature_vectors(features: npt.NDArray[Any]) -> FLOAT:
    """Features (n, D) -> unit vectors (n, 1, D): their Euclidean distance is sqrt(2 - 2 cosine)."""
    return unit(features)[:, None]


def thumbnail_vectors(thumbnails: npt.NDArray[Any], average: FLOAT | None = None, *, shifted: bool) -> FLOAT:
    """Thumbnails uint8 (n, 32, 32) -> unit vectors (n, variants, 28*28) without gain, offset and average radiograph.

    Args:
        average: mean of such vectors over training images, taken out because all chests look alike; (784,).
        shifted: every shift of up to `SHIFT` pixels at every zoom, all also mirrored; otherwise the middle alone.
    """
    if thumbnails.ndim != 3 or thumbnails.shape[1:] != (THUMBNAIL, THUMBNAIL):
        raise InvalidInput(f"thumbnails of shape {thumbnails.shape}: give (n, {THUMBNAIL}, {THUMBNAIL})")
    side = THUMBNAIL - 2 * SHIFT
    images = thumbnails.astype(np.float32)
    scaled = [zoom(images, factor) for factor in ZOOMS] if shifted else [images]
    offsets = [(dy, dx) for dy in range(2 * SHIFT + 1) for dx in range(2 * SHIFT + 1)] if shifted else [(SHIFT, SHIFT)]
    sources = [*scaled, *(source[:, :, ::-1] for source in scaled)] if shifted else scaled
    crops = [source[:, dy : dy + side, dx : dx + side] for source in sources for dy, dx in offsets]
    rows = np.stack(crops, axis=1).reshape(len(images), len(crops), side * side)
    rows = unit(rows - rows.mean(-1, keepdims=True))
    return rows if average is None else unit(rows - average)


def zoom(images: FLOAT, factor: float) -> FLOAT:
    """Images (n, S, S) enlarged (or, below 1, shrunk) about their middle, linearly; the border goes on as it ends."""
    side = images.shape[-1]
    middle = (side - 1) / 2
    place = np.clip(middle + (np.arange(side) - middle) / factor, 0, side - 1)
    first = np.minimum(place.astype(np.int64), side - 2)
    weights = np.zeros((side, side), np.float32)
    weights[np.arange(side), first] = 1 - (place - first)
    weights[np.arange(side), first + 1] += place - first
    return np.asarray(weights @ images @ weights.T, np.float32)


def find_neighbours(queries: npt.NDArray[Any], vectors: Vectors, training: Callable[[], Iterable[FLOAT]]) -> Neighbours:
    """Nearest training image of each query, block by block: memory does not grow with the training set.

    Args:
        queries: table (n, ...) of which `vectors` makes unit vectors; the best of an image's variants counts.
        training: makes a fresh pass over unit vectors (b, D) of the training images, in order.

    Raises:
        InvalidInput: fewer than two training images.
    """
    parts = []
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = vectors(queries[start : start + QUERY_BLOCK])
        n, n_variants, dim = rows.shape
        best = np.full((n, N_NEXT + 1), -np.inf, np.float32)
        index = np.zeros((n, N_NEXT + 1), np.int64)
        seen = 0
        for block in training():
            alike = (rows.reshape(n * n_variants, dim) @ block.T).reshape(n, n_variants, len(block)).max(1)
            both = np.concatenate([best, alike], axis=1)
            places = np.concatenate([index, np.broadcast_to(np.arange(seen, seen + len(block)), alike.shape)], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, : N_NEXT + 1]
            best, index = np.take_along_axis(both, order, 1), np.take_along_axis(places, order, 1)
            seen += len(block)
        if seen < 2:
            raise InvalidInput(f"{seen} training images: a copy check needs at least 2")
        distance = np.sqrt(np.clip(2 - 2 * best[:, : min(seen, N_NEXT + 1)].astype(np.float64), 0, None))
        ratio = distance[:, 0] / np.maximum(distance[:, 1:].mean(1), 1e-8)
        parts.append((distance[:, 0], ratio, index[:, 0]))
    if not parts:
        return Neighbours(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    return Neighbours(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def copy_level(n_held_out: int) -> float:
    """Level of the conformal test: `COPY_LEVEL`, or the smallest that so few held-out images can show."""
    return max(COPY_LEVEL, 1 / (n_held_out + 1))


def conformal(values: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """P values (1 + number of reference values at or below) / (m + 1): how unusually low, exact at any m."""
    ranks = np.searchsorted(np.sort(reference), values, side="right")
    return np.asarray((1 + ranks) / (len(reference) + 1), np.float64)


def suspects(generated: Neighbours, held_out: Neighbours) -> npt.NDArray[np.bool_]:
    """(n,): distance and ratio are both lower than held-out patients' at `copy_level`."""
    level = copy_level(len(held_out))
    low = conformal(generated.distance, held_out.distance) <= level
    return np.asarray(low & (conformal(generated.ratio, held_out.ratio) <= level))


def space_figures(
    generated: Neighbours,
    held_out: Neighbours,
    rng: np.random.Generator,
    groups: Sequence[Sequence[Any] | None] = (None, None),
    n_resamples: int = 500,
) -> SpaceFigures:
    """One space in figures, with 95 % bootstrap intervals over prompts (generated) and patients (held-out)."""

    def measure(own: Neighbours, real: Neighbours) -> dict[str, float]:
        limits = np.percentile(real.distance, [1, 5])
        ranks = np.searchsorted(np.sort(real.distance), own.distance)
        return {
            "below_1": float((own.distance < limits[0]).mean()),
            "below_5": float((own.distance < limits[1]).mean()),
            "nearer": float(1 - ranks.mean() / len(real)),
            "ratio_below_1": float((own.ratio < np.percentile(real.ratio, 1)).mean()),
            "suspects": float(suspects(own, real).mean()),
        }

    value = measure(generated, held_out)
    draws = []
    for _ in range(n_resamples):
        rows, others = resample(groups[0], len(generated), rng), resample(groups[1], len(held_out), rng)
        draws.append(measure(generated.take(rows), held_out.take(others)))

    def estimate(name: str) -> Estimate:
        low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
        return Estimate(value[name], min(value[name], float(low)), max(value[name], float(high)))

    return SpaceFigures(
        **{name: estimate(name) for name in value},
        median_distance=Medians(float(np.median(generated.distance)), float(np.median(held_out.distance))),
        median_ratio=Medians(float(np.median(generated.ratio)), float(np.median(held_out.ratio))),
    )


def verdict(
    suspect: npt.NDArray[np.bool_],
    twins: npt.NDArray[np.bool_],
    n_held_out: int,
    rng: np.random.Generator,
    groups: Sequence[Any] | None = None,
) -> CopyVerdict:
    """The decision: "suspicious", "clean enough", or "too few images to say".

    Suspicious: a thumbnail is the same radiograph as a training image, or more images are suspects than held-out real
    patients would be by chance (the lower 95 % bound of the share exceeds two spaces at `copy_level`). Clean enough:
    neither, the upper bound stays below `TOLERATED_SHARE`, and there are `HELD_OUT_NEEDED` held-out images.

    Args:
        suspect: (n,) suspects of either space. twins: (n,) thumbnails within `TWIN_DISTANCE` of a training image.
        groups: the prompt of each image.
    """
    n, k = len(suspect), int(suspect.sum())
    draws = [float(suspect[resample(groups, n, rng)].mean()) for _ in range(2000)]
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    # The bootstrap knows nothing beyond what it saw: none of ten is not "certainly none" (Clopper-Pearson knows).
    exact = float(binomtest(k, n).proportion_ci(method="exact").high)
    upper = max(high, exact)
    expected = 2 * copy_level(n_held_out)
    chance, most = (f"{100 * value:.1f} %" for value in (expected, upper))
    if twins.any():
        word, why = "suspicious", f"{int(twins.sum())} of {n} images are the same radiograph as a training image"
    elif low > expected:
        word = "suspicious"
        why = f"{k} of {n} images lie nearer to one training image than held-out patients do; {chance} by chance"
    elif n_held_out < HELD_OUT_NEEDED:
        word = "too few images to say"
        why = f"{n_held_out} held-out images are too few: import {HELD_OUT_NEEDED} or more for the validation split"
    elif upper <= TOLERATED_SHARE:
        word = "clean enough"
        why = f"{k} of {n} images are suspects; at most {most} with 95 % confidence"
    else:
        word = "too few images to say"
        why = f"{k} of {n} images are suspects, up to {most} with 95 % confidence: measure more images"
    return CopyVerdict(word, why, k, int(twins.sum()), Estimate(k / n, low, upper), expected)
