"""Contact sheets: rows of grayscale images, side by side with a gap between groups, lines of text above each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from radpref.data.core.files import write_atomic
from radpref.data.imaging.images import SYNTHETIC_MARK, Mask, encode_png

GAP, TEXT_HEIGHT, BACKGROUND, INK = 6, 18, 18, 225
CHARACTER_WIDTH, MAX_LINES = 6, 4
"""A caption is wrapped to the width of its row at so many pixels a character, and cut after so many lines."""
Page = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SheetRow:
    """One row: a caption, and groups of images (k, H, W) uint8, for example baseline and aligned."""

    caption: str
    groups: Sequence[Page]


def contact_sheet(rows: Sequence[SheetRow], headings: Sequence[str] = (), *, columns: int = 1, scale: int = 1) -> Page:
    """Draw the rows, (H, W) uint8; `headings` name the groups, above the first row.

    Args:
        columns: rows side by side, read like text.
        scale: each pixel of an image becomes scale x scale pixels.
    """
    images = [[group.repeat(scale, 1).repeat(scale, 2) for group in row.groups] for row in rows]
    height, width = images[0][0].shape[1:]
    counts = [max(len(groups[g]) for groups in images) for g in range(len(images[0]))]
    starts = np.cumsum([0, *(count * width + GAP for count in counts)])
    across, top = int(starts[-1]), TEXT_HEIGHT if headings else 0
    captions = [textwrap.wrap(row.caption, max(across // CHARACTER_WIDTH, 12))[:MAX_LINES] for row in rows]
    text_height = TEXT_HEIGHT * max(1, *map(len, captions))
    n_down = -(-len(rows) // columns)
    page = np.full(
        (top + n_down * (text_height + height), min(columns, len(rows)) * across - GAP), BACKGROUND, np.uint8
    )
    corners = [(top + r // columns * (text_height + height), r % columns * across) for r in range(len(rows))]
    for (y, x), groups in zip(corners, images, strict=True):
        for start, group in zip(starts, groups, strict=False):
            for k, image in enumerate(group):
                left = x + int(start) + k * width
                page[y + text_height : y + text_height + height, left : left + width] = image
    picture = Image.fromarray(page)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for start, heading in zip(starts, headings, strict=False):
        draw.text((int(start) + 3, 2), heading, fill=INK, font=font)
    for (y, x), lines in zip(corners, captions, strict=True):
        for number, line in enumerate(lines):
            draw.text((x + 3, y + number * TEXT_HEIGHT + 2), line, fill=INK, font=font)
    return np.asarray(picture)


def mask_picture(mask: Mask, height: int, width: int) -> Page:
    """Masks (S, h, w) bool as one picture (height, width): a grey level per structure, later ones on top."""
    picture = np.zeros(mask.shape[1:], np.uint8)
    for plane, level in zip(mask, np.linspace(90, 230, len(mask)), strict=True):
        picture[plane] = int(level)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))


def save_sheet(
    path: Path, rows: Sequence[SheetRow], headings: Sequence[str] = (), *, columns: int = 1, scale: int = 1
) -> None:
    """Write a contact sheet as PNG, marked synthetic; arguments as in `contact_sheet`."""
    page = contact_sheet(rows, headings, columns=columns, scale=scale)
    write_atomic(path, encode_png(page, text={"Synthetic": SYNTHETIC_MARK}))
