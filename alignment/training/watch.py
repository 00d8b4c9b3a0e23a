"""Drift and diversity watch: the same prompts and seeds sampled again and again while the policy is trained.

Over-optimisation shows here and in the sheet, not in implicit accuracy: bright false opacities everywhere had the
best accuracy of a trial. Features come from the frozen `fidelity` network, which is neither rater nor judge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import NotFound
from radpref.data.imaging.sheets import SheetRow, save_sheet
from radpref.data.study.conditions import StoredCondition
from radpref.generation.measuring.roles import load_network
from radpref.generation.sampling.sets import image_seed, sample_conditions
from radpref.generation.stack.models import GeneratorStack

if TYPE_CHECKING:
    from radpref.data.study.study import Study
    from radpref.generation.stack.conditions import Condition

log = logging.getLogger(__name__)

Images = npt.NDArray[np.uint8]
FeatureRows = npt.NDArray[np.float64]
N_PROMPTS = 4
"""Prompts that are watched, at most."""
MODES = ("T2I", "TM2I", "M2I")
"""Which kinds of prompt are preferred, texts first."""
IMAGES_PER_PROMPT = 4
PIXEL_GRID = 16


def pixel_features(images: Images) -> FeatureRows:
    """Block means on a 16 x 16 grid, (N, H, W) -> (N, 256): used where there is no fidelity network."""
    n, height, width = images.shape
    rows, columns = (np.linspace(0, side, PIXEL_GRID + 1).astype(int)[:-1] for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float64), rows, axis=1), columns, axis=2)
    area = np.diff([*rows, height])[:, None] * np.diff([*columns, width])[None]
    return np.asarray((sums / area).reshape(n, -1) / 255)


@dataclass(frozen=True)
class Features:
    """What images are compared by, and its name: images (n, H, W) uint8 -> (n, D)."""

    name: str
    of: Callable[[Images], FeatureRows]

    def by_prompt(self, images: Images) -> FeatureRows:
        """Of k images of each prompt: (prompts, k, H, W) -> (prompts, k, D)."""
        return self.of(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], -1)


def feature_function(study: Study) -> Features:
    """Features of the study's `fidelity` network; pixel features where there is none."""
    try:
        net = load_network(study, "fidelity", "fidelity")
    except NotFound as error:
        log.warning("%s; the watch uses pixel features", error)
        return Features("pixels", pixel_features)
    return Features(f"{net.name} {net.sha256[:12]}", lambda images: net.features(images).astype(np.float64))


def within_distance(features: FeatureRows) -> float:
    """Mean pairwise distance within prompts: features (prompts, k, D), k >= 2."""
    k = features.shape[1]
    first, second = np.triu_indices(k, 1)
    return float(np.linalg.norm(features[:, first] - features[:, second], axis=-1).mean())


def drift_and_diversity(features: FeatureRows, baseline: FeatureRows) -> dict[str, float]:
    """Compare features (prompts, k, D) of policy and baseline, equal prompts and seeds.

    Returns:
        drift: distance of the mean features, in units of the baseline's mean distance within a prompt (0 at first).
        paired_shift: mean distance of images of equal seed, in the same unit.
        diversity: mean pairwise distance within prompts, relative to the baseline's (1 at first).
    """
    unit = max(within_distance(baseline), 1e-12)
    drift = np.linalg.norm(features.mean((0, 1)) - baseline.mean((0, 1)))
    shift = np.linalg.norm(features - baseline, axis=-1).mean()
    return {
        "drift": float(drift / unit),
        "paired_shift": float(shift / unit),
        "diversity": within_distance(features) / unit,
    }


@dataclass(frozen=True)
class Prompt:
    """A condition and its caption in the sheets."""

    caption: str
    condition: Condition

    @classmethod
    def of(cls, stored: StoredCondition, condition: Condition) -> Prompt:
        """The prompt of a stored condition: its caption is the text, or names the masks."""
        return cls(stored.text or f"mask: {', '.join(sorted(stored.masks))}", condition)


class Watch:
    """Fixed prompts and seeds with what the baseline makes of them."""

    def __init__(
        self, study: Study, baseline: GeneratorStack, prompts: Sequence[Prompt], folder: Path, seed: int
    ) -> None:
        """Sample what everything is compared with; `baseline` may be a policy that still equals it."""
        self.settings, self.prompts, self.folder, self.seed = study.config.generator, prompts, folder, seed
        self.features = feature_function(study)
        self.baseline = self.sample(baseline)

    def sample(self, stack: GeneratorStack) -> Images:
        """(prompts, k, H, W) uint8 with the study's own sampler settings."""
        repeated = [prompt.condition for prompt in self.prompts for _ in range(IMAGES_PER_PROMPT)]
        seeds = [image_seed("watch", self.seed, index) for index in range(len(repeated))]
        images = sample_conditions(self.settings, stack, repeated, seeds)
        return images.reshape(len(self.prompts), IMAGES_PER_PROMPT, *images.shape[1:])

    def observe(self, stack: GeneratorStack, step: int) -> dict[str, Any]:
        """Sample, compare, and leave a sheet ``watch/step-000100.png``; the figures of `drift_and_diversity`."""
        images = self.sample(stack)
        rows = [
            SheetRow(prompt.caption, (before, now))
            for prompt, before, now in zip(self.prompts, self.baseline, images, strict=True)
        ]
        save_sheet(self.folder / f"step-{step:06d}.png", rows, ("baseline", f"step {step}"))
        return drift_and_diversity(self.features.by_prompt(images), self.features.by_prompt(self.baseline))
