"""The arm "finetuned": plain diffusion training on the images that were scored well, the baseline to beat.

Same parameters (LoRA, ControlNet), steps, images per step, rates and sampler as Diffusion-DPO; no reference forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radpref.alignment.preferences.preference_sets import CRITERIA, PreferenceSets
from radpref.alignment.training.draws import scheduled, step_generator
from radpref.alignment.training.losses import image_errors
from radpref.alignment.training.policy import Policy
from radpref.data.core.errors import NotFound
from radpref.data.reader_study.scores import N_SLOTS
from radpref.generation.stack.conditions import ConditionBatch
from radpref.generation.training.loop import Part

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig


@dataclass(frozen=True)
class Selection:
    """Images to train on, (set, slot) each; the threshold really used; a warning where it is not the wanted one."""

    images: tuple[tuple[int, int], ...]
    threshold: float
    warning: str | None = None


def image_scores(sets: PreferenceSets) -> Tensor:
    """Mean score of every image over raters, then over the criteria it was scored on: (N, K), NaN where unscored."""
    return torch.stack([sets.scores[criterion] for criterion in CRITERIA]).nanmean(0)


def select_images(scores: Tensor, min_score: float) -> Selection:
    """Images with a mean score (N, K) of at least `min_score`; the top tenth where that would be fewer.

    Raises:
        NotFound: no image has a score.
    """
    known = [
        (float(value), n, k) for n, row in enumerate(scores.tolist()) for k, value in enumerate(row) if value == value
    ]
    if not known:
        raise NotFound("no image of a training set has a score: score sets, then run `radpref align pairs` again")
    good = [(n, k) for value, n, k in known if value >= min_score]
    least = max(1, math.ceil(len(known) / 10))
    if len(good) >= least:
        return Selection(tuple(good), min_score)
    best = sorted(known, key=lambda item: (-item[0], item[1], item[2]))[:least]
    warning = (
        f"only {len(good)} of {len(known)} images have a mean score >= {min_score:g}; "
        f"took the best tenth instead ({least} images, mean score >= {best[-1][0]:.2f})"
    )
    return Selection(tuple(sorted((n, k) for _, n, k in best)), best[-1][0], warning)


@dataclass(frozen=True)
class TrainingImages:
    """What plain training reads: latents (N, C, h, w), M conditions, and the condition of each image (N,)."""

    latents: Tensor
    conditions: ConditionBatch
    condition_of: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def selected_images(sets: PreferenceSets, selection: Selection) -> TrainingImages:
    """The selected images of rated sets."""
    device = sets.latents.device
    rows = torch.tensor([n for n, _ in selection.images], device=device)
    slots = torch.tensor([k for _, k in selection.images], device=device)
    return TrainingImages(sets.latents[rows, slots], sets.conditions, rows)


class FinetuneStep:
    """step -> loss: the mean denoising error of as many images as a DPO step sees, a (t, noise) for each."""

    def __init__(self, policy: Policy, images: TrainingImages, settings: AlignConfig) -> None:
        self.policy, self.images, self.settings = policy, images, settings

    def __call__(self, step: int) -> Part:
        """The loss of one step, with gradient."""
        images, settings = self.images, self.settings
        device = images.latents.device
        chosen = torch.tensor(
            scheduled(step, len(images), settings.sets_per_step * N_SLOTS, settings.seed), device=device
        )
        latents = images.latents[chosen]
        generator = step_generator(settings.seed, 808, step)
        timesteps = torch.randint(0, self.policy.n_timesteps, (len(chosen),), generator=generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noisy = self.policy.add_noise(latents, noise, timesteps)
        conditions = images.conditions.select(images.condition_of[chosen])
        noise_pred = self.policy.noise_pred(noisy, timesteps, conditions, None)
        return Part(image_errors(noise_pred, noise).mean(), len(chosen))
