"""What a researcher watches while a generator trains: a sheet of samples with captions, and the loss at fixed noise.

Input: conditions and images of the validation split. Output: one PNG per observation and figures for metrics.jsonl.
Conditions, seeds, times and noise are the same every time, so that sheets and losses of one run compare step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radpref.data.imaging.sheets import SheetRow, mask_picture, save_sheet
from radpref.data.study.conditions import MODES
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.training.latents import LatentCorpus
from radpref.generation.training.unet_training import Draw, NoiseObjective, TrainSettings

FIRST_SEED = 100
"""Image number k of a sheet starts from noise of seed FIRST_SEED + k."""
NOISE_SEED = 707
MIN_TILE, N_COLUMNS = 128, 4
"""Samples are shown at this many pixels at least, so many beside each other."""


def choose_conditions(candidates: Sequence[Condition], mode_mix: Sequence[float], n: int) -> list[Condition]:
    """At most `n` conditions, evenly spread, the modes of the mix in turn.

    candidates: one per record, with text and mask where the record has them; each is cut to what its mode shows.
    """
    wanted = [mode for mode, share in zip(MODES, mode_mix, strict=True) if share > 0]
    found: list[Condition] = []
    each = -(-n // max(len(wanted), 1))
    for mode in wanted:
        fitting = [c for c in (_as_mode(candidate, mode) for candidate in candidates) if c is not None]
        chosen = np.linspace(0, len(fitting) - 1, min(each, len(fitting))).astype(int)
        found += [fitting[i] for i in chosen]
    return found[:n]


def _as_mode(condition: Condition, mode: str) -> Condition | None:
    """The condition with only what a mode shows; None where it lacks that."""
    cut = replace(
        condition,
        text=None if mode == "M2I" else condition.text,
        mask=None if mode == "T2I" else condition.mask,
    )
    if (cut.text is None and mode != "M2I") or (cut.mask is None and mode != "T2I"):
        return None
    return cut


class Validation:
    """Called with a step it writes ``<title>-<step>.png`` and returns ``validation_loss``."""

    def __init__(
        self,
        stack: GeneratorStack,
        objective: NoiseObjective | None,
        conditions: Sequence[Condition],
        folder: Path,
        title: str,
        *,
        n_steps: int = 20,
        guidance_scale: float = 2.0,
    ) -> None:
        """`objective`: of the validation corpus, None for no loss; sampling as in section [generator]."""
        self.stack, self.objective, self.conditions = stack, objective, list(conditions)
        self.folder, self.title = folder, title
        self.n_steps, self.guidance_scale = n_steps, guidance_scale

    def __call__(self, step: int) -> dict[str, Any]:
        """Sample and measure with the weights as they are now."""
        with _evaluating(self.stack):
            figures: dict[str, Any] = {}
            if self.objective is not None:
                figures["validation_loss"] = round(validation_loss(self.objective), 6)
            if self.conditions:
                path = self.folder / f"{self.title}-{step:06d}.png"
                images = sample(
                    self.stack,
                    self.conditions,
                    [FIRST_SEED + k for k in range(len(self.conditions))],
                    n_steps=self.n_steps,
                    guidance_scale=self.guidance_scale,
                    batch_size=len(self.conditions),
                )
                with_mask = any(condition.mask is not None for condition in self.conditions)
                rows = [
                    sheet_row(image, condition, with_mask=with_mask)
                    for image, condition in zip(images, self.conditions, strict=True)
                ]
                save_sheet(path, rows, columns=N_COLUMNS, scale=-(-MIN_TILE // images.shape[1]))
                figures["sheet"] = path.name
        return figures


@contextmanager
def _evaluating(stack: GeneratorStack) -> Iterator[None]:
    """Evaluation mode for the duration of a block; texts encoded by weights that change are forgotten."""
    modes = [(module, module.training) for module in stack.modules().values()]
    for module, _ in modes:
        module.eval()
    stack.text_cache.clear()
    try:
        yield
    finally:
        stack.text_cache.clear()
        for module, was_training in modes:
            module.train(was_training)


def validation_draw(corpus: LatentCorpus, settings: TrainSettings, n_timesteps: int) -> Draw:
    """Every row once, with its first caption and all its masks (as far as the mode mix knows them).

    Times are spread evenly over all of them; times and noise depend on the number of rows alone.
    """
    n = len(corpus)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    order = torch.randperm(n, generator=generator)
    has_text = settings.mode_mix[0] + settings.mode_mix[2] > 0
    has_mask = settings.mode_mix[1] + settings.mode_mix[2] > 0
    ids = torch.tensor([captions[0] if captions else 0 for captions in corpus.caption_ids])
    known = torch.tensor([bool(captions) and has_text for captions in corpus.caption_ids])
    return Draw(
        rows=np.arange(n),
        text_ids=ids,
        text_present=known.float(),
        keep=torch.from_numpy(corpus.present.copy()) & has_mask,
        timesteps=((order + 0.5) / n * n_timesteps).long(),
        noise=torch.randn((n, *corpus.latents.shape[1:]), generator=generator),
    )


@torch.no_grad()
def validation_loss(objective: NoiseObjective, batch_size: int = 16) -> float:
    """Mean loss of the objective's corpus at fixed times and noise."""
    corpus, stack = objective.corpus, objective.stack
    draw = validation_draw(corpus, objective.settings, int(stack.scheduler.config.num_train_timesteps))
    total = torch.zeros((), device=objective.compute.device)
    for start in range(0, len(corpus), batch_size):
        own = slice(start, min(start + batch_size, len(corpus)))
        total = total + objective.loss(draw, own) * (own.stop - own.start)
    return float(total) / len(corpus)


def sheet_row(image: np.ndarray, condition: Condition, *, with_mask: bool) -> SheetRow:
    """A sample (H, W) uint8 under its caption; with_mask: to the left of it its mask, black where it has none."""
    caption = f"{condition.mode}: {condition.text or '(no text)'}"
    if not with_mask:
        return SheetRow(caption, (image[None],))
    mask = np.zeros_like(image) if condition.mask is None else mask_picture(condition.mask, *image.shape)
    return SheetRow(caption, (mask[None], image[None]))
