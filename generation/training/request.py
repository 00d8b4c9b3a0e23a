"""What a training is asked for, refused before torch is loaded where study.toml, database and disk tell.

Input: a study and ``--device``. Output: nothing, or one of the project's errors.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import has_captions, has_masks
from radpref.data.study.empty_splits import empty_line, is_empty
from radpref.generation.stack.device import check_device
from radpref.generation.stack.places import require_generator, said_size
from radpref.generation.training.study_corpus import require_material

if TYPE_CHECKING:
    from radpref.data.config.generation import TrainConfig
    from radpref.data.study.study import Study

log = logging.getLogger(__name__)

FRESH = "fresh"
"""`train.start`: the embedded architecture with weights drawn anew."""
FRESH_MULTIPLE = 32
"""Pixels that a side must be a multiple of there: the halvings of autoencoder and UNet."""


def check_training(study: Study, device: str = "auto") -> None:
    """Refuse a training that cannot begin, by what study.toml, database and disk say alone; loads no torch.

    Raises:
        InvalidInput: a device word, a start or an image size that cannot be, no caption and no mask to learn from,
            or none to compare losses on (``keep = "best"``).
        NotFound: no record to learn from, or no start model.
    """
    check_device(device)
    require_material(study)
    settings, size = study.config.train, study.config.data.image_size
    if settings.keep == "best":
        _require_validation(study)
    if settings.start != FRESH:
        said = said_size(require_generator(study, settings.start))
        require_size(study, study.config.generator.image_size or said or size)
        return
    if not settings.vae_steps:
        raise InvalidInput("train.start = 'fresh' with vae_steps = 0 leaves a random autoencoder: set vae_steps")
    check_fresh_size(size)


def has_text_stage(settings: TrainConfig) -> bool:
    """Whether section [train] has text steps with anything to train."""
    return bool(settings.unet_steps and (settings.unet != "frozen" or settings.text_encoder == "trained"))


def has_mask_stage(settings: TrainConfig, *, masks: bool) -> bool:
    """Whether it has mask steps; `masks`: there are training images with masks."""
    return bool(settings.control_steps and settings.control != "none" and masks)


def _require_validation(study: Study) -> None:
    """Refuse ``keep = "best"`` where no validation image has what a stage trains: its losses would rank nothing."""
    settings, masks = study.config.train, has_masks(study, "train")
    needs = (
        (has_text_stage(settings), has_captions, "text", "caption", "write captions with `radpref data caption`"),
        (has_mask_stage(settings, masks=masks), has_masks, "mask", "mask", "set control = 'none'"),
    )
    for has_stage, has_any, steps, what, way_out in needs:
        if has_stage and not has_any(study, "val"):
            raise InvalidInput(
                f"train.keep = 'best' compares losses of the {steps} steps on the validation split, which has no image"
                f" with a {what}: import such images, {way_out}, or set keep = 'last'"
            )


def warn_without_validation(study: Study) -> None:
    """Say that a training goes on without what the validation split shows, and how to fill it."""
    if is_empty(study, "val"):
        log.warning("no validation sheets and losses; %s", empty_line(study, "val"))


def require_size(study: Study, drawn: int) -> None:
    """InvalidInput where the study's images have another size than the generator makes, pixels."""
    if (size := study.config.data.image_size) != drawn:
        raise InvalidInput(f"data.image_size = {size}, but the generator makes {drawn}; set it to that")


def check_fresh_size(size: int) -> None:
    """InvalidInput where the halvings of a fresh model do not divide an image size, pixels."""
    if size % FRESH_MULTIPLE:
        raise InvalidInput(
            f"data.image_size = {size} does not suit train.start = 'fresh': take a multiple of {FRESH_MULTIPLE}"
        )
