"""Which generator a study names, and what study.toml says of it: found once, without torch, and passed on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from radpref.data.config.data import DataConfig
from radpref.data.config.generation import GeneratorConfig
from radpref.generation.stack.places import TRAINED, require_generator, resolved

if TYPE_CHECKING:
    from radpref.data.study.study import Study


@dataclass(frozen=True)
class ModelOptions:
    """What study.toml says about a brought model; paths are resolved. Fields as in ``[generator]``."""

    structures: tuple[str, ...] = DataConfig().structures
    controlnet: Path | None = None
    lora: tuple[Path, ...] = ()
    unconditional: Literal["auto", "zero", "empty_prompt"] = "auto"
    hint: Literal["auto", "channels", "rgb"] = "auto"
    palette: dict[str, str] = field(default_factory=dict)
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    image_size: int | None = None
    variant: str | None = None
    config: Path | None = None
    with_controlnet: bool = True
    """False: a ControlNet is left out, also the model's own, as one is going to be grown from the UNet."""


def options_of(settings: GeneratorConfig, structures: tuple[str, ...], root: Path) -> ModelOptions:
    """The options of a study whose folder is ``root``: paths are relative to it."""
    same = ("unconditional", "hint", "palette", "prediction_type", "image_size", "variant")
    return ModelOptions(
        **{name: getattr(settings, name) for name in same},
        structures=structures,
        controlnet=resolved(settings.controlnet, root) if settings.controlnet else None,
        lora=tuple(resolved(name, root) for name in settings.lora),
        config=resolved(settings.config, root) if settings.config else None,
    )


@dataclass(frozen=True)
class FoundGenerator:
    """A generator's folder or file, and what study.toml says of it; None for one that was trained in the study."""

    path: Path
    options: ModelOptions | None


def find_generator(study: Study, name: str | None = None) -> FoundGenerator:
    """The study's generator, or the one called ``name`` in study.toml.

    What [generator] says about a brought model (ControlNet, LoRA, ...) counts for a model named by its place; one that
    was trained here was saved with it. Errors as in :func:`require_generator`.
    """
    name = name or study.config.generator.model
    path = require_generator(study, name)
    return FoundGenerator(path, None if name == TRAINED else study_options(study))


def study_options(study: Study) -> ModelOptions:
    """What study.toml says about a brought model."""
    return options_of(study.config.generator, study.config.data.structures, study.root)
