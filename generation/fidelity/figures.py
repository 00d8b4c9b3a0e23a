"""What a fidelity report holds, figure by figure; field names are the keys of ``fidelity.json``.

All intervals are 95 %. Distances of the copy check are lists of one number per image, by space ("pixels", "features").
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from radpref.data.core.statistics import Estimate, MeanEstimate


@dataclass(frozen=True)
class KernelDistance(Estimate):
    """KID, and the number of images in the subsets that its interval is from."""

    subset_size: int


@dataclass(frozen=True)
class Distances:
    """How far n images are from the real ones: FID, FID extrapolated to endless samples, KID."""

    n: int
    frechet: Estimate
    frechet_extrapolated: float | None
    kid: KernelDistance


@dataclass(frozen=True)
class StructureDice:
    """Mean Dice of one structure: with the mask that was asked for, and with that of another prompt."""

    asked: MeanEstimate
    chance: MeanEstimate | None


@dataclass(frozen=True)
class ConditionFigures:
    """Whether images follow their conditions.

    masks: by structure. sides: share of images with the asked side, None where no prompt names one that the network
    knows. mirror: share of images whose one-sided structures match the asked mask better than its mirror image.
    """

    masks: dict[str, StructureDice]
    sides: MeanEstimate | None
    mirror: MeanEstimate | None


@dataclass(frozen=True)
class Medians:
    """A median over generated images and over held-out real ones."""

    generated: float
    held_out: float


@dataclass(frozen=True)
class SpaceFigures:
    """Nearness to the training images in one space; without copying the shares are 0.01, 0.05, 0.5 and 0.01.

    below_1, below_5: share of images nearer to a training image than the 1st, 5th percentile of held-out patients.
    nearer: P(a generated image is nearer to the training set than a held-out one). ratio_below_1: as below_1, of the
    ratio of the nearest to the next ones. suspects: share of images that are low in both.
    """

    below_1: Estimate
    below_5: Estimate
    nearer: Estimate
    ratio_below_1: Estimate
    suspects: Estimate
    median_distance: Medians
    median_ratio: Medians


@dataclass(frozen=True)
class CopyVerdict:
    """The decision on copies (`radpref.generation.fidelity.memorisation.verdict`) and the figures behind it."""

    verdict: str
    why: str
    n_suspects: int
    n_twins: int
    share: Estimate
    expected: float


@dataclass(frozen=True)
class Memorisation(CopyVerdict):
    """The decision on copies, the figures of each space, and every image's distance to its nearest training image."""

    spaces: dict[str, SpaceFigures]
    distance: dict[str, list[float]]


@dataclass(frozen=True)
class SourceFigures(Distances):
    """All figures of one arm or folder.

    n_prompts: None where the prompts are not known. drawn, measured: side in pixels of the samples as drawn (None: as
    measured) and as measured. real: the distances of as many real images in the generator's place.
    """

    n_prompts: int | None
    drawn: int | None
    measured: int
    real: Distances
    diversity: MeanEstimate | None
    conditions: ConditionFigures | None
    memorisation: Memorisation


@dataclass(frozen=True)
class NetworkName:
    """A network by its name and the hash of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class FeatureNetworkName(NetworkName):
    """The feature network; `published`: its figures are comparable with figures in print."""

    about: str
    published: bool


@dataclass(frozen=True)
class HeldOutPatients:
    """The held-out real images that say what "near" is; n_twins of them were left out, being training images too."""

    n: int
    n_twins: int
    copy_level: float
    distance: dict[str, list[float]]


@dataclass(frozen=True)
class RealFigures:
    """The part of a report that no generator changes; halves: one half of the reference against the other."""

    network: FeatureNetworkName
    structures_network: NetworkName
    against: str
    ideal: str
    n_real: int
    n_train: int
    n_val: int
    halves: Distances | None
    diversity: MeanEstimate | None
    conditions: ConditionFigures | None
    held_out: HeldOutPatients


@dataclass(frozen=True)
class FidelityReport:
    """What `radpref.generation.fidelity.report.run_fidelity` measured, and where its page is.

    prompts: the split whose conditions were sampled, None for a folder of images.
    """

    run_id: str
    prompts: str | None
    real: RealFigures
    images: dict[str, SourceFigures]
    page: Path
    already_done: bool = False

    def stored(self) -> dict[str, Any]:
        """The JSON values of ``fidelity.json``: no path, because a study may be moved."""
        return {
            "run_id": self.run_id,
            **asdict(self.real),
            "images": {name: asdict(found) for name, found in self.images.items()},
            "prompts": self.prompts,
        }

    def as_json(self) -> dict[str, Any]:
        """What the command prints with ``--json``."""
        done = {"already_done": True} if self.already_done else {}
        return {**self.stored(), "page": str(self.page), **done}

    @classmethod
    def read(cls, page: Path, *, already_done: bool) -> FidelityReport:
        """The report of a finished run, from the ``fidelity.json`` beside its page."""
        found: dict[str, Any] = json.loads(page.with_name("fidelity.json").read_text(encoding="utf-8"))
        real = TypeAdapter(RealFigures).validate_python(found)
        images = TypeAdapter(dict[str, SourceFigures]).validate_python(found["images"])
        return cls(found["run_id"], found["prompts"], real, images, page, already_done)

    def figures(self) -> dict[str, dict[str, Any]]:
        """The few figures of each arm or folder that a terminal shows."""
        return {name: _summary(found) for name, found in self.images.items()}

    def summary(self) -> dict[str, Any]:
        """What the command prints: {page, network, images: name -> figures}."""
        return {"page": str(self.page), "network": self.real.network.name, "images": self.figures()}


def _summary(found: SourceFigures) -> dict[str, Any]:
    pixels = {"pixels": f"drawn at {found.drawn}, measured at {found.measured}"} if found.drawn else {}
    return {
        **pixels,
        "FID": found.frechet.value,
        "FID of as many real images": found.real.frechet.value,
        "KID": found.kid.value,
        "MS-SSIM": found.diversity.value if found.diversity else None,
        "copies": f"{found.memorisation.verdict}: {found.memorisation.why}",
    }
