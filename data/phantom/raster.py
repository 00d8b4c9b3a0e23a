"""Drawing on the detector: coordinate frames, splatted tubes, blurs and band-limited texture.

Everything is float32 of shape (H, W). Lengths are in cm of the patient plane; x grows to the image right
(the patient's LEFT, radiological convention), y grows downwards, (0, 0) is the middle of the film.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float32]
Real = NDArray[np.floating[Any]]
Points = NDArray[np.float64]

HALF_FIELD_CM = 17.5
"""Half the side of the square film: 35 cm x 35 cm."""


@dataclass(frozen=True)
class Pose:
    """Positioning of the patient before the film."""

    angle_rad: float = 0.0  # tilt in the film plane
    scale: float = 1.0  # magnification
    shift_x_cm: float = 0.0
    shift_y_cm: float = 0.0
    yaw_cm: float = 0.0  # rotation about the long axis: front structures move against the spine


@lru_cache(maxsize=8)
def _base_grid(size: int) -> tuple[Array, Array]:
    """Film coordinates of the pixel centres in cm, two (size, size) float32 arrays."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1) * HALF_FIELD_CM
    grid_x, grid_y = np.meshgrid(axis.astype(np.float32), axis.astype(np.float32))
    return grid_x, grid_y


@dataclass(frozen=True)
class Frame:
    """A film of `size` x `size` pixels seen from the patient: `x`, `y` in patient cm, `px_cm` a pixel's side."""

    size: int
    pose: Pose
    x: Array = field(init=False)
    y: Array = field(init=False)
    px_cm: float = field(init=False)

    def __post_init__(self) -> None:
        film_x, film_y = _base_grid(self.size)
        dx, dy = film_x - np.float32(self.pose.shift_x_cm), film_y - np.float32(self.pose.shift_y_cm)
        cos = np.float32(np.cos(self.pose.angle_rad) / self.pose.scale)
        sin = np.float32(np.sin(self.pose.angle_rad) / self.pose.scale)
        object.__setattr__(self, "x", dx * cos + dy * sin)
        object.__setattr__(self, "y", dy * cos - dx * sin)
        object.__setattr__(self, "px_cm", 2 * HALF_FIELD_CM / self.size / self.pose.scale)

    def to_pixels(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Patient cm -> (column, row) in pixels, pixel centres at integers."""
        cos, sin = np.cos(self.pose.angle_rad) * self.pose.scale, np.sin(self.pose.angle_rad) * self.pose.scale
        film_x = x * cos - y * sin + self.pose.shift_x_cm
        film_y = x * sin + y * cos + self.pose.shift_y_cm
        per_cm = self.size / (2 * HALF_FIELD_CM)
        return (film_x + HALF_FIELD_CM) * per_cm - 0.5, (film_y + HALF_FIELD_CM) * per_cm - 0.5


def splat(frame: Frame, x: Points, y: Points, volume: Points) -> Array:
    """Thickness map (cm) of point volumes (cm3) at patient positions: bilinear deposit / pixel area."""
    size = frame.size
    col, row = frame.to_pixels(x, y)
    inside = (col > -1) & (col < size) & (row > -1) & (row < size)
    col, row, volume = col[inside] + 1, row[inside] + 1, volume[inside]
    c0, r0 = col.astype(np.int64), row.astype(np.int64)
    fc, fr = col - c0, row - r0
    side = size + 2
    base = r0 * side + c0
    index = np.concatenate((base, base + 1, base + side, base + side + 1))
    vol_low, vol_high = volume * (1 - fr), volume * fr
    weight = np.concatenate((vol_low * (1 - fc), vol_low * fc, vol_high * (1 - fc), vol_high * fc))
    flat = np.bincount(index, weight, minlength=side * side)
    padded = flat[: side * side].reshape(side, side)[1:-1, 1:-1]
    return (padded / frame.px_cm**2).astype(np.float32)


@lru_cache(maxsize=64)
def _transfer(size: int, sigma_px: float) -> Array:
    """DCT-II transfer function of a Gaussian blur (reflecting borders), (size, size)."""
    axis = np.exp(-0.5 * (np.pi * np.arange(size) / size * sigma_px) ** 2)
    return np.outer(axis, axis).astype(np.float32)


def blur(image: Array, sigma_px: float) -> Array:
    """Gaussian blur with reflecting borders, exact in the cosine domain."""
    spectrum = fft.dctn(image, norm="ortho", overwrite_x=False)
    spectrum *= _transfer(image.shape[0], round(float(sigma_px), 2))
    return cast(Array, fft.idctn(spectrum, norm="ortho", overwrite_x=True).astype(np.float32, copy=False))


def texture(rng: np.random.Generator, size: int, exponent: float, modes: int = 48, lowest: int = 1) -> Array:
    """Zero-mean unit-variance 1/f^exponent noise of at most `modes` cosine modes a side.

    The number of draws does not depend on `size`, so a patient looks the same at every size.
    """
    order = np.hypot(*np.meshgrid(np.arange(modes), np.arange(modes)))
    amplitude = np.where((order >= lowest) & (order < modes), np.maximum(order, 1.0) ** -exponent, 0.0)
    coefficients = rng.standard_normal((modes, modes)) * amplitude
    coefficients /= np.sqrt((amplitude**2).sum()) + 1e-12
    kept = min(modes, size)
    spectrum = np.zeros((size, size), np.float32)
    spectrum[:kept, :kept] = coefficients[:kept, :kept] * size
    return cast(Array, fft.idctn(spectrum, norm="ortho", overwrite_x=True).astype(np.float32, copy=False))


def cover(distance_cm: Real, width_cm: float) -> Array:
    """Smooth 0..1 coverage of a signed inside distance: 0 at -width/2, 1 at +width/2."""
    t = np.clip(distance_cm / np.float32(width_cm) + np.float32(0.5), 0, 1)
    return cast(Array, (t * t * (3 - 2 * t)).astype(np.float32, copy=False))


def dome(fraction: Real) -> Array:
    """sqrt(1 - f^2), 0 outside |f| >= 1: thickness profile of a round body across its width."""
    return cast(Array, np.sqrt(np.maximum(1 - fraction * fraction, 0)).astype(np.float32, copy=False))


def table(values: NDArray[np.float32], grid: Array, start: float, step: float) -> Array:
    """Linear look-up of an evenly spaced table at `grid`; clamps at both ends."""
    position = np.clip((grid - np.float32(start)) * np.float32(1 / step), 0, len(values) - 1.001)
    low = position.astype(np.intp)
    base = values[low]
    return cast(Array, base + (values[low + 1] - base) * (position - low.astype(np.float32)))
