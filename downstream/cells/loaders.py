"""Images and masks at training size as uint8 memory maps, and the batches of one training.

Input: content hashes. Output: ``cache/downstream/<hash>.npy`` (N, S, S) uint8, made once and read lazily.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from radpref.data.core.files import save_array, sha256_bytes
from radpref.data.core.progress import track
from radpref.data.imaging.framing import fit_mask
from radpref.data.imaging.images import to_uint8

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Bytes = npt.NDArray[np.uint8]
Pixels = Literal["images", "masks"]
MAX_SHIFT_FRACTION = 1 / 16
"""Augmentation: shift along each axis, as a fraction of the side."""
MAX_GAIN, MAX_OFFSET = 0.1, 0.1
"""Augmentation: contrast 0.9 to 1.1, brightness -0.1 to 0.1 of full scale."""
PROGRESS_FROM = 500


def pixel_array(study: Study, kind: Pixels, shas: Sequence[str | None], size: int) -> Bytes:
    """Stored images or masks as (N, size, size) uint8, from the cache where they are there; None is an empty mask.

    Images are averaged down (box filter). Masks are of 0 or 1: a pixel is set where half of it is covered; a mask too
    thin for that keeps every pixel it touches, so that making it smaller never empties it.
    """
    key = sha256_bytes(json.dumps([kind, size, [sha or "" for sha in shas]]).encode())[:24]
    path = study.root / "cache" / "downstream" / f"{kind}-{size}-{key}.npy"
    if not path.exists():
        array = np.zeros((len(shas), size, size), np.uint8)
        items = enumerate(shas)
        for i, sha in track(items, f"reading {kind}", len(shas)) if len(shas) >= PROGRESS_FROM else items:
            if sha and kind == "images":
                picture = Image.fromarray(to_uint8(study.store.image(sha)))
                array[i] = np.asarray(picture.resize((size, size), Image.Resampling.BOX))
            elif sha:
                array[i] = fit_mask(study.store.mask(sha), size, keep_thin=True)
        save_array(path, array)
    if not len(shas):
        return np.zeros((0, size, size), np.uint8)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def batch_indices(
    n_items: int,
    batch_size: int,
    n_steps: int,
    rng: np.random.Generator,
    weights: npt.NDArray[np.float64] | None = None,
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield ``n_steps`` batches of indices below ``n_items``: shuffled epochs end to end, or weighted draws.

    Real and synthetic images of one cell are shuffled together, so a batch mixes them at their natural proportion.
    """
    if weights is not None:
        for _ in range(n_steps):
            yield rng.choice(n_items, size=batch_size, p=weights / weights.sum()).astype(np.int64)
        return
    queue = np.empty(0, np.int64)
    for _ in range(n_steps):
        while len(queue) < batch_size:
            queue = np.concatenate([queue, rng.permutation(n_items)])
        batch, queue = queue[:batch_size], queue[batch_size:]
        yield batch


def augment(
    images: Bytes, masks: Bytes | None, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Light augmentation, equal in all arms: small shifts, contrast and brightness. No flips: sides have meaning.

    images: (B, S, S) uint8 -> float32 in about [-2, 2]; masks: (B, S, S) of 0 or 1, shifted alike.
    """
    batch, side = images.shape[:2]
    pad = max(1, round(MAX_SHIFT_FRACTION * side))
    offsets = rng.integers(0, 2 * pad + 1, size=(batch, 2))
    gain = rng.uniform(1 - MAX_GAIN, 1 + MAX_GAIN, size=(batch, 1, 1)).astype(np.float32)
    offset = rng.uniform(-MAX_OFFSET, MAX_OFFSET, size=(batch, 1, 1)).astype(np.float32)
    shifted = _shift(np.pad(images, ((0, 0), (pad, pad), (pad, pad)), mode="edge"), offsets, side)
    moved = None
    if masks is not None:
        moved = _shift(np.pad(masks, ((0, 0), (pad, pad), (pad, pad))), offsets, side).astype(np.float32)
    values = ((shifted.astype(np.float32) / 255 - 0.5) * gain + offset) * np.float32(4)
    return values.astype(np.float32, copy=False), moved


def _shift(padded: Bytes, offsets: npt.NDArray[np.int64], side: int) -> Bytes:
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, offsets, strict=True)])


def normalise(images: Bytes) -> npt.NDArray[np.float32]:
    """(N, S, S) uint8 -> float32 in [-2, 2], as `augment` without its changes."""
    values = (images.astype(np.float32) / 255 - 0.5) * np.float32(4)
    return values.astype(np.float32, copy=False)
