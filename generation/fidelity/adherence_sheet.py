"""The contact sheet of the held-out condition report: asked, generated and the judge's verdict, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from radpref.generation.fidelity.held_out import IMAGES, Answers, HeldOutCondition

TITLE = "left: phantom render of the condition, asked mask outlined; right: generated. + hit, - miss"
OUTLINES = ((90, 200, 250), (255, 120, 120), (250, 220, 90), (140, 255, 140), (220, 150, 255))


def outlined(image: IMAGES, mask: npt.NDArray[np.bool_] | None) -> IMAGES:
    """Grey (H, W) -> RGB (H, W, 3) with the contour of each asked structure in its colour."""
    out = np.repeat(image[:, :, None], 3, axis=2)
    for plane, colour in zip([] if mask is None else mask, OUTLINES, strict=False):
        inner = plane.copy()
        inner[1:-1, 1:-1] = plane[1:-1, 1:-1] & plane[:-2, 1:-1] & plane[2:, 1:-1] & plane[1:-1, :-2] & plane[1:-1, 2:]
        out[plane & ~inner] = colour
    return out


def contact_sheet(conditions: Sequence[HeldOutCondition], images: IMAGES, answers: Answers, columns: int = 4) -> bytes:
    """PNG: per condition the phantom render with the asked mask's outline, the generated image, text and verdict."""
    size = images.shape[1]
    width, height = 2 * size + 8, size + 30
    rows = -(-len(conditions) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + 18), "black")
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (4, 3),
        "left: phantom render of the condition, asked mask outlined; right: generated. + hit, - miss",
        fill="white",
    )
    for i, (condition, image) in enumerate(zip(conditions, images, strict=True)):
        x, y = i % columns * width, i // columns * height + 18
        sheet.paste(Image.fromarray(outlined(condition.render, condition.mask)), (x, y))
        sheet.paste(Image.fromarray(image).convert("RGB"), (x + size, y))
        verdict = ""
        if condition.asked:
            side = answers.side_right(i, condition.asked)
            verdict = f"{'+' if answers.found(i, condition.asked) else '-'} finding"
            verdict += "" if side is None else f"  {'+' if side else '-'} side"
        draw.text((x + 2, y + size), f"{condition.mode} {condition.text or '(mask only)'}"[: width // 6], fill="white")
        draw.text((x + 2, y + size + 13), f"{condition.group}  {verdict}", fill=(170, 170, 170))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
