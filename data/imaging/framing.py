"""From a file to the study's square: read a radiograph (PNG, JPEG, DICOM), set it and its masks on one black square.

Input: a path, or arrays (H, W). Output: arrays (S, S); the aspect is kept: resized by area, padded, never cropped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.images import GrayImage, Mask, is_marked_synthetic, read_image

SMALLEST = 16
"""Smallest side of a radiograph that is taken, pixels."""


def read_radiograph(path: Path) -> GrayImage:
    """A real radiograph at its own size (H, W), uint8 or uint16, from PNG, JPEG, DICOM and whatever Pillow reads.

    Raises:
        NotFound: no such file.
        InvalidInput: not readable, marked synthetic, smaller than 16 pixels, or of one grey value.
    """
    from radpref.data.imaging.dicom import is_dicom, read_dicom

    if is_dicom(path):
        image = read_dicom(path)
    else:
        if is_marked_synthetic(path):
            raise InvalidInput(f"{path} carries the synthetic mark of radpref; it is not a real radiograph, remove it")
        image = read_image(path)
    check_content(image, str(path))
    return image


def check_content(image: GrayImage, name: str) -> None:
    """Refuse an image (H, W) that cannot be a radiograph; ``name`` says whose it is.

    Raises:
        InvalidInput: a side is under 16 pixels, or there is one grey value only.
    """
    if min(image.shape) < SMALLEST:
        raise InvalidInput(f"{name} is {image.shape[1]}x{image.shape[0]} pixels; give at least {SMALLEST}x{SMALLEST}")
    if image.min() == image.max():
        raise InvalidInput(f"{name} has one grey value only; replace or remove it")


def read_mask(path: Path) -> Mask:
    """A mask file at its own size (H, W) bool, by `read_image`: every pixel above 0 is in."""
    return read_image(path) > 0


def frame(
    image: GrayImage, masks: Mapping[str, Mask], size: int, *, scaled: Collection[str] = ()
) -> tuple[GrayImage, dict[str, Mask]]:
    """An image (H, W) and its masks (H, W) bool on the study's square (size, size); masks without a pixel are dropped.

    ``scaled``: structures that may be drawn at another scale than the image, which then is a resized copy of what they
    were drawn on (run lengths count on the grid of the published set).

    Raises:
        InvalidInput: a mask has another size than the image; where ``scaled``, another aspect.
    """
    framed: dict[str, Mask] = {}
    for structure, mask in masks.items():
        if mask.shape != image.shape and not (structure in scaled and _alike(mask.shape, image.shape)):
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            hint = "use images that were not cropped or stretched" if structure in scaled else "export both at one size"
            raise InvalidInput(f"mask '{structure}' is {sizes}; {hint}")
        square = fit_mask(mask, size)
        if square.any():
            framed[structure] = square
    return fit_image(image, size), framed


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Equal aspect, up to the pixel that rounding a side may cost."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def fit_image(image: GrayImage, size: int) -> GrayImage:
    """An image (H, W) on a black (size, size) square, aspect kept: area mean down, bicubic up; dtype kept."""
    if image.shape == (size, size):
        return image
    top = np.iinfo(image.dtype).max
    scaled = np.round(_fit(image.astype(np.float32), size)).clip(0, top)
    return scaled.astype(np.uint8) if image.dtype == np.uint8 else scaled.astype(np.uint16)


def fit_mask(mask: Mask, size: int, *, keep_thin: bool = False) -> Mask:
    """A mask (H, W) bool placed exactly as :func:`fit_image` places its image; a pixel is in from half coverage.

    ``keep_thin``: a mask that this would empty keeps every pixel it touches.
    """
    if mask.shape == (size, size):
        return mask
    coverage = _fit(mask.astype(np.float32), size, smooth=False)
    fitted = coverage >= 0.5
    return coverage > 0 if keep_thin and not fitted.any() else fitted


def _fit(values: np.ndarray, size: int, *, smooth: bool = True) -> np.ndarray:
    height, width = values.shape
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    method = Image.Resampling.BICUBIC if smooth and scale > 1 else Image.Resampling.BOX
    resized = np.asarray(Image.fromarray(values).resize((w, h), method))
    square = np.zeros((size, size), np.float32)
    top, left = (size - h) // 2, (size - w) // 2
    square[top : top + h, left : left + w] = resized
    return square
