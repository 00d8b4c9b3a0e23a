"""Contact sheets: rows of grayscale images, side by side with a gap between groups, a line of text above each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from radpref.data.core.files import write_atomic
from radpref.data.imaging.images import encode_png

GAP, TEXT_HEIGHT, BACKGROUND, INK = 6, 18, 18, 225


@dataclass(frozen=True)
class SheetRow:
    """One row: a caption, and groups of images (k, H, W) uint8, for example baseline and aligned."""

    caption: str
    groups: Sequence[npt.NDArray[np.uint8]]


def contact_sheet(rows: Sequence[SheetRow], headings: Sequence[str] = ()) -> npt.NDArray[np.uint8]:
    """Draw the rows, (H, W) uint8; `headings` name the groups, above the first row."""
    widths = [max(len(row.groups[g]) for row in rows) for g in range(len(rows[0].groups))]
    height, width = rows[0].groups[0].shape[1:]
    top = TEXT_HEIGHT if headings else 0
    starts = np.cumsum([0, *(count * width + GAP for count in widths)])
    page = np.full((top + len(rows) * (TEXT_HEIGHT + height), int(starts[-1]) - GAP), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        y = top + r * (TEXT_HEIGHT + height) + TEXT_HEIGHT
        for start, group in zip(starts, row.groups, strict=False):
            for k, image in enumerate(group):
                page[y : y + height, start + k * width : start + (k + 1) * width] = image
    picture = Image.fromarray(page)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for start, heading in zip(starts, headings, strict=False):
        draw.text((int(start) + 3, 2), heading, fill=INK, font=font)
    for r, row in enumerate(rows):
        draw.text((3, top + r * (TEXT_HEIGHT + height) + 2), row.caption, fill=INK, font=font)
    return np.asarray(picture)


def save_sheet(path: Path, rows: Sequence[SheetRow], headings: Sequence[str] = ()) -> None:
    """Write a contact sheet as PNG, marked synthetic."""
    text = {"Synthetic": "radpref synthetic images; research use, not for diagnosis"}
    write_atomic(path, encode_png(contact_sheet(rows, headings), text=text))
