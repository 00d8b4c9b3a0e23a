"""What a fidelity report is asked for, refused before torch is loaded where study.toml, database and disk tell.

Input: the options of ``radpref generate fidelity``. Output: nothing, or one of the project's errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.conditions import has_conditions
from radpref.data.study.empty_splits import how_to_fill, require_split
from radpref.data.study.runs import latest_run
from radpref.generation.stack.places import BASELINE, SHIPPED, find_model, require_arms

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Split = Literal["val", "train", "test"]
SAMPLES_PER_PROMPT = 4
DEFAULT_N = 400
NETWORKS = ("auto", "torchxrayvision", "fidelity")
"""Feature networks that may be asked for."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class FidelityRequest:
    """What to measure, and against what."""

    arms: tuple[str, ...] = ()
    """Arms to sample; none: the baseline and every other arm of downstream.arms that is trained."""
    n: int | None = None
    """Images of each; None: `DEFAULT_N`, of a folder all."""
    against: str = "val"
    """The split that FID and KID compare with. Copies are always judged by the validation split."""
    prompts: str = "val"
    """The split whose captions and masks are sampled: val, or train (the harder test for copies)."""
    images: Path | None = None
    """A folder of images to measure instead of arms."""
    network: str = "auto"
    """The feature network, one of `NETWORKS`."""
    pictures: bool = True
    """Show samples, and write ``pictures.html`` with nearest neighbours (real images) beside the page."""
    seed: int = 0
    """Seed of prompts, samples and resampling."""

    def check(self, study: Study) -> None:
        """Refuse what cannot be measured.

        Raises:
            InvalidInput: a bad option, or a split without captions and masks to sample from.
            NotFound: no such arm, generator or folder, or a split without images.
        """
        if self.n is not None and self.n < 2 * SAMPLES_PER_PROMPT:
            raise InvalidInput(f"--n {self.n}: give at least {2 * SAMPLES_PER_PROMPT} images, better {DEFAULT_N}")
        if self.against not in get_args(Split):
            raise InvalidInput(f"--against {self.against}: choose val, train or test")
        if self.prompts not in ("val", "train"):
            raise InvalidInput(f"--prompts {self.prompts}: choose val or train (test conditions are never sampled)")
        if self.arms and self.images:
            raise InvalidInput("--arm and --images exclude each other: measure an arm, or a folder")
        if self.network not in NETWORKS:
            raise InvalidInput(f"--network {self.network}: choose one of {', '.join(NETWORKS)}")
        for split in self.splits:
            require_images(study, split)
        if self.images is not None:
            image_files(self.images)
            return
        require_arms(study, self.arms or [BASELINE])
        if not has_conditions(study, self.prompts):
            raise no_conditions(self.prompts)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose real images are read."""
        return tuple(dict.fromkeys(("train", "val", self.against)))

    def arm_names(self, study: Study) -> tuple[str, ...]:
        """The arms to sample, each once."""
        if self.arms:
            return tuple(dict.fromkeys(self.arms))
        others = [arm for arm in study.config.downstream.arms if arm != BASELINE and _is_trained(study, arm)]
        return (BASELINE, *dict.fromkeys(others))


def _is_trained(study: Study, arm: str) -> bool:
    try:
        find_model(study, arm)
    except NotFound:
        return False
    return True


def require_images(study: Study, split: str) -> None:
    """Refuse a split with fewer than two real images.

    Raises:
        NotFound: it is empty, or holds one.
    """
    require_split(study, split)
    if (n := int(study.db.value("SELECT count(*) FROM records WHERE split = ?", (split,)))) < 2:
        raise NotFound(f"{n} real image in split '{split}', two are needed: {how_to_fill(study, split)}")


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted by name.

    Raises:
        NotFound: no such folder, or fewer than two images in it.
    """
    if not folder.is_dir():
        raise NotFound(f"no folder {folder}: give one that holds PNG, JPEG or TIFF files")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(files) < 2:
        raise NotFound(f"{len(files)} images in {folder}: give a folder with PNG, JPEG or TIFF files")
    return files


def no_conditions(split: str) -> InvalidInput:
    """The error of a split without captions and masks to sample from."""
    return InvalidInput(f"no record of split '{split}' has a caption or a mask to sample from: import some")


def check_share(study: Study, out: Path) -> None:
    """Refuse to share what was not trained here, or into a folder that holds something.

    Raises:
        NotFound: no generator trained in this study.
        InvalidInput: ``out`` holds something, or the study samples from a shipped model, not from what it trained.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is there and not empty; choose a new folder")
    latest_run(study, "train")
    if (model := study.config.generator.model) in SHIPPED:
        raise InvalidInput(f"generator.model = {model!r} is not what this study trained; set it to 'trained'")
