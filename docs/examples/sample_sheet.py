"""Draws sample sheets of a study's generator: every caption of the validation split, masks alone, texts with masks.

    python docs/examples/sample_sheet.py --study studies/real --out sheet.png [--n 8] [--arm baseline] [--seed 0]

Seeds are consecutive and nothing is left out: what the sheet shows was not chosen. Asked masks are outlined in white.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from radpref.data.imaging.sheets import SheetRow, save_sheet
from radpref.data.study.conditions import mask_stack, record_conditions
from radpref.data.study.study import Study
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.adapters import load_arm
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.models import GeneratorStack

ROWS_WITH_MASKS = 2


def conditions_of(study: Study, n: int) -> list[tuple[str, list[Condition]]]:
    """Rows of ``n`` conditions: each caption of the validation split, then masks, then captions with masks."""
    records = record_conditions(study, "val")
    captions = sorted({str(record["caption"]) for record in records if record["caption"]})
    rows = [(f"T2I: {text}", [Condition(text, None)] * n) for text in captions]
    masked = [record for record in records if record["masks"]][: 2 * ROWS_WITH_MASKS * n]
    masks = [mask_stack(study, record["masks"]) for record in masked]
    for k in range(ROWS_WITH_MASKS):
        rows.append(("M2I: asked outline in white", [Condition(None, mask) for mask in masks[k * n : (k + 1) * n]]))
    for k in range(ROWS_WITH_MASKS, 2 * ROWS_WITH_MASKS):
        part = slice(k * n, (k + 1) * n)
        pairs = [Condition(str(r["caption"]), mask) for r, mask in zip(masked[part], masks[part], strict=True)]
        rows.append(("TM2I: the record's caption and outline", pairs))
    return [(title, row) for title, row in rows if row]


def outlined(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The image (H, W) uint8 with the contour of the asked masks (S, H, W) in white."""
    if mask is None:
        return image
    shown = image.copy()
    for plane in mask:
        shown[plane & ~ndimage.binary_erosion(plane)] = 255
    return shown


def draw(study: Study, stack: GeneratorStack, n: int, seed: int) -> list[SheetRow]:
    """The rows of the sheet, sampled with the study's own steps and guidance."""
    settings = study.config.generator
    titled = conditions_of(study, n)
    flat = [condition for _, row in titled for condition in row]
    images = sample(
        stack,
        flat,
        [seed + k for k in range(len(flat))],
        n_steps=settings.n_steps,
        guidance_scale=settings.guidance_scale,
    )
    rows, start = [], 0
    for title, row in titled:
        part = images[start : start + len(row)]
        start += len(row)
        rows.append(SheetRow(title, [np.stack([outlined(i, c.mask) for i, c in zip(part, row, strict=True)])]))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Draw sample sheets of a study's generator.")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", default="baseline")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    study = Study(options.study)
    save_sheet(options.out, draw(study, load_arm(study, options.arm), options.n, options.seed))


if __name__ == "__main__":
    main()
