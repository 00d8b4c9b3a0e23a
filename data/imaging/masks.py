"""Geometric transforms of mask stacks, for conditions that are new but anatomically alike (paper, pipeline 6).

Input: (S, H, W) bool, one channel per structure; all channels move together. Output: a new stack of that shape, and
what was done to it as a list of steps such as ``["translate", -3, 5]``, by which it can be made again.
A transform never empties a structure that was there: an emptied mask would mean "no condition", not "no disease".
Flips are allowed here because masks alone carry no word for a side; images and texts are never flipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.images import Mask

MAX_RADIUS_FRACTION = 0.02
"""Largest radius of dilation and erosion, as a fraction of the side."""
MAX_SHIFT_FRACTION = 0.08
"""Largest translation along each axis, as a fraction of the side."""
MAX_DRAWS = 20
Step = list[Any]
"""The kind of a transform and its parameters, whole numbers."""


def _disk(radius: int) -> Mask:
    axis = np.arange(-radius, radius + 1)
    return np.asarray(axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2, dtype=np.bool_)


def _draw_radius(stack: Mask, rng: np.random.Generator) -> list[int]:
    """1 pixel to 2 % of the side."""
    return [int(rng.integers(1, max(1, round(MAX_RADIUS_FRACTION * stack.shape[-1])) + 1))]


def _draw_shift(stack: Mask, rng: np.random.Generator) -> list[int]:
    """Down and right, each up to 8 % of the side."""
    limits = [max(1, round(MAX_SHIFT_FRACTION * side)) for side in stack.shape[1:]]
    return [int(rng.integers(-limit, limit + 1)) for limit in limits]


def dilate(stack: Mask, radius: int) -> Mask:
    """Grow every structure by a disk."""
    return np.stack([ndimage.binary_dilation(channel, _disk(radius)) for channel in stack]).astype(np.bool_)


def erode(stack: Mask, radius: int) -> Mask:
    """Shrink every structure by a disk; a structure that would vanish is kept as it was."""
    shrunk = [ndimage.binary_erosion(channel, _disk(radius), border_value=1) for channel in stack]
    kept = [small if small.any() else channel for small, channel in zip(shrunk, stack, strict=True)]
    return np.stack(kept).astype(np.bool_)


def flip(stack: Mask) -> Mask:
    """Mirror left and right."""
    return np.ascontiguousarray(stack[:, :, ::-1])


def translate(stack: Mask, down: int, right: int) -> Mask:
    """Shift all structures together; what leaves the frame is cut off."""
    height, width = stack.shape[1:]
    moved = np.zeros_like(stack)
    target = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
    source = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
    moved[:, target[0], target[1]] = stack[:, source[0], source[1]]
    return moved


@dataclass(frozen=True)
class Transform:
    """How a kind of transform draws its parameters, and what it does with them."""

    draw: Callable[[Mask, np.random.Generator], list[int]]
    apply: Callable[..., Mask]


TRANSFORMS: dict[str, Transform] = {
    "dilate": Transform(_draw_radius, dilate),
    "erode": Transform(_draw_radius, erode),
    "flip": Transform(lambda stack, rng: [], flip),
    "translate": Transform(_draw_shift, translate),
}
GROUPS: tuple[tuple[str, ...], ...] = (("dilate", "erode"), ("flip",), ("translate",))
"""A composition takes at most one of each group: growing and shrinking would undo each other."""


def compose_transforms(stack: Mask, rng: np.random.Generator, most: int = len(GROUPS)) -> tuple[Mask, list[Step]]:
    """Apply one to ``most`` transforms of different groups in drawn order; the new stack and the steps that made it."""
    n = int(rng.integers(1, min(most, len(GROUPS)) + 1))
    steps: list[Step] = []
    for group in rng.permutation(len(GROUPS))[:n]:
        kinds = GROUPS[int(group)]
        kind = kinds[int(rng.integers(len(kinds)))]
        stack, parameters = transform_mask(stack, kind, rng)
        steps.append([kind, *parameters])
    return stack, steps


def transform_mask(stack: Mask, kind: str, rng: np.random.Generator) -> tuple[Mask, list[int]]:
    """Apply the transform ``kind`` of `TRANSFORMS` to a mask stack (S, H, W) bool; the new stack and what was drawn.

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
    transform = TRANSFORMS[kind]
    for _ in range(MAX_DRAWS):
        parameters = transform.draw(stack, rng)
        moved = transform.apply(stack, *parameters)
        if np.array_equal(moved.any(axis=(1, 2)), present):
            return moved, parameters
    raise InvalidInput(f"'{kind}' emptied a structure in {MAX_DRAWS} draws; use a larger mask or another transform")


def dice(a: Mask, b: Mask) -> npt.NDArray[np.float64]:
    """Dice overlap of two mask stacks (..., H, W) bool -> (...,) in [0, 1]; 1 where both are empty (Dice 1945)."""
    total = a.sum((-2, -1), dtype=np.int64) + b.sum((-2, -1), dtype=np.int64)
    shared = np.logical_and(a, b).sum((-2, -1), dtype=np.int64)
    return np.where(total == 0, 1.0, 2 * shared / np.maximum(total, 1))
