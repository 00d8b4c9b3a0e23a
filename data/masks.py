"""Geometric transforms of mask stacks, for conditions that are new but anatomically alike (paper, pipeline 6).

Input: (S, H, W) bool, one channel per structure; all channels move together. Output: a new stack of that shape.
A transform never empties a structure that was there: an emptied mask would mean "no condition", not "no disease".
Flips are allowed here because masks alone carry no word for a side; images and texts are never flipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from data.errors import InvalidInput
from data.images import Mask

MAX_RADIUS_FRACTION = 0.02
"""Largest radius of dilation and erosion, as a fraction of the side."""
MAX_SHIFT_FRACTION = 0.08
"""Largest translation along each axis, as a fraction of the side."""
MAX_DRAWS = 20


def _disk(radius: int) -> Mask:
    axis = np.arange(-radius, radius + 1)
    return np.asarray(axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2, dtype=np.bool_)


def _radius(stack: Mask, rng: np.random.Generator) -> int:
    return int(rng.integers(1, max(1, round(MAX_RADIUS_FRACTION * stack.shape[-1])) + 1))


def dilate(stack: Mask, rng: np.random.Generator) -> Mask:
    """Grow every structure by a disk of a drawn radius (1 pixel to 2 % of the side)."""
    disk = _disk(_radius(stack, rng))
    return np.stack([ndimage.binary_dilation(channel, disk) for channel in stack]).astype(np.bool_)


def erode(stack: Mask, rng: np.random.Generator) -> Mask:
    """Shrink every structure by a disk of a drawn radius; a structure that would vanish is kept as it was."""
    disk = _disk(_radius(stack, rng))
    shrunk = [ndimage.binary_erosion(channel, disk, border_value=1) for channel in stack]
    kept = [small if small.any() else channel for small, channel in zip(shrunk, stack, strict=True)]
    return np.stack(kept).astype(np.bool_)


def flip(stack: Mask, rng: np.random.Generator) -> Mask:
    """Mirror left and right. ``rng`` is not used."""
    return np.ascontiguousarray(stack[:, :, ::-1])


def translate(stack: Mask, rng: np.random.Generator) -> Mask:
    """Shift all structures together by up to 8 % of the side; what leaves the frame is cut off."""
    height, width = stack.shape[1:]
    limits = (max(1, round(MAX_SHIFT_FRACTION * height)), max(1, round(MAX_SHIFT_FRACTION * width)))
    down, right = (int(rng.integers(-limit, limit + 1)) for limit in limits)
    moved = np.zeros_like(stack)
    target = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
    source = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
    moved[:, target[0], target[1]] = stack[:, source[0], source[1]]
    return moved


TRANSFORMS: dict[str, Callable[[Mask, np.random.Generator], Mask]] = {
    "dilate": dilate,
    "erode": erode,
    "flip": flip,
    "translate": translate,
}


def transform_mask(stack: Mask, kind: str, rng: np.random.Generator) -> Mask:
    """Apply the transform ``kind`` of `TRANSFORMS` to a mask stack (S, H, W) bool.

    A draw that empties a structure is thrown away and drawn again.

    Raises:
        InvalidInput: an unknown kind, another shape or dtype, an all-black stack, or no draw keeps every structure.
    """
    if kind not in TRANSFORMS:
        raise InvalidInput(f"unknown mask transform '{kind}'; choose one of {', '.join(sorted(TRANSFORMS))}")
    if stack.ndim != 3 or stack.dtype != np.bool_:
        raise InvalidInput(f"a mask stack must be (S, H, W) bool, got {stack.shape} {stack.dtype}")
    present = stack.any(axis=(1, 2))
    if not present.any():
        raise InvalidInput("an all-black mask means no condition and cannot be transformed; give a mask with pixels")
    for _ in range(MAX_DRAWS):
        moved = TRANSFORMS[kind](stack, rng)
        if np.array_equal(moved.any(axis=(1, 2)), present):
            return moved
    raise InvalidInput(f"'{kind}' emptied a structure in {MAX_DRAWS} draws; use a larger mask or another transform")
