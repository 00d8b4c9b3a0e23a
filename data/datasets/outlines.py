"""Masks as published sets give them: run lengths on a 1024 x 1024 grid, several rows per image; and boxes.

Input: texts by structure, or boxes. Output: masks at the size they were drawn at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.images import Mask
from radpref.data.imaging.rle import CONVENTIONS, EMPTY, Convention, decode_rle, union_rle

SIDE = 1024
"""Side of the grid on which SIIM-ACR and CANDID-PTX encode masks, whatever the size of the image file."""


def is_empty(text: str) -> bool:
    """True for "-1": annotated, and nothing there."""
    return text.strip() == EMPTY


def convention_of(config: DataConfig, structure: str, default: Convention | None) -> Convention | None:
    """The run-length convention study.toml names for a structure, or ``default``."""
    named = config.rle.get(structure) if isinstance(config.rle, dict) else config.rle
    if named is None:
        return default
    return "relative" if named == "relative" else "absolute"


def fits(texts: Sequence[str], convention: Convention, first: int) -> int:
    """How many of ``texts`` are a mask under ``convention``: runs in order and inside the grid."""
    count = 0
    for text in texts:
        try:
            decode_rle(text, SIDE, SIDE, convention, first=first)
        except InvalidInput:
            continue
        count += 1
    return count


def check_convention(texts: Sequence[str], chosen: Convention | None, config: DataConfig, structure: str) -> None:
    """Try the convention of study.toml on the sampled ``texts``.

    Raises:
        InvalidInput: none is named, or the other one fits more; the line says how many fit each.
    """
    counts: dict[Convention, int] = {name: fits(texts, name, config.rle_first) for name in CONVENTIONS}
    fitting = ", ".join(f"{count} of {len(texts)} fit {name}" for name, count in counts.items())
    if chosen is None:
        raise InvalidInput(f'masks of {structure}: set data.rle = "relative" or "absolute" in study.toml; {fitting}')
    if counts[chosen] < max(counts.values()):
        raise InvalidInput(f"masks of {structure} are not {chosen} as data.rle says: {fitting}; set the other one")


def decode_masks(
    texts: Mapping[str, Sequence[str]],
    conventions: Mapping[str, Convention],
    first: int = 1,
    shape: tuple[int, int] = (SIDE, SIDE),
) -> dict[str, Mask]:
    """Structure -> the union of its texts on the grid of ``shape`` (H, W); structures without a pixel are left out.

    Raises:
        InvalidInput: a text is not a mask of this size.
    """
    masks = {}
    for name, rows in texts.items():
        try:
            mask = union_rle(rows, *shape, conventions[name], first=first)
        except InvalidInput as error:
            raise InvalidInput(f"run lengths of '{name}': {error}") from error
        if mask.any():
            masks[name] = mask
    return masks


def box_mask(boxes: Sequence[tuple[float, float, float, float]], shape: tuple[int, int]) -> Mask:
    """The union of boxes (x, y, width, height; pixels from the upper left corner) on an image (H, W).

    Raises:
        InvalidInput: a box is empty or lies outside the image.
    """
    mask = np.zeros(shape, np.bool_)
    for x, y, width, height in boxes:
        right, bottom = x + width, y + height
        if width <= 0 or height <= 0 or min(x, y) < 0 or right > shape[1] or bottom > shape[0]:
            where = f"{shape[1]}x{shape[0]}"
            raise InvalidInput(f"box x={x:g} y={y:g} {width:g}x{height:g} does not lie in the image of {where}; fix it")
        mask[round(y) : round(bottom), round(x) : round(right)] = True
    return mask
