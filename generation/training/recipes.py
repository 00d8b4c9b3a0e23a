"""From section [train] of study.toml to what is trained: the start model, its ControlNet, stages and their rates.

Input: the section and the start stack. Output: `TrainSettings` of the two stages; a stack that has what they train.
What does not fit together is refused here, before anything is computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from radpref.data.config.generation import TrainConfig
from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.adapters import lora_parameters, merge_lora
from radpref.generation.stack.architecture import (
    UnetSettings,
    build_controlnet,
    build_text_encoder,
    build_unet,
    make_scheduler,
)
from radpref.generation.stack.autoencoder import build_vae
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.tokenizer import build_tokenizer
from radpref.generation.training.compute import Compute
from radpref.generation.training.request import FRESH, check_fresh_size, has_mask_stage, has_text_stage
from radpref.generation.training.unet_training import FINE_TUNE, TEXT_STAGE, TrainSettings
from radpref.generation.training.vae_training import VaeSettings

SMALL_RATE, LARGE_RATE, LARGE_LORA_RATE, LARGE_CONTROL_RATE = 5e-4, 1e-5, 1e-4, 1e-5
LARGE_PARAMETERS = 100_000_000
"""From so many parameters on a UNet counts as Stable-Diffusion-sized (SD 1.5: 860 million)."""
SMALL_HINT, LARGE_HINT = (8, 16, 32, 64, 96, 128), (16, 32, 96, 256, 256, 256)
"""Widths of a new ControlNet's hint encoder, as many as there are halvings from image to latents, and one; the large
ones are ControlNet's own (Zhang et al. 2023)."""


@dataclass(frozen=True)
class Recipe:
    """The two stages; None where a stage has nothing to train. rates as they were resolved."""

    text: TrainSettings | None
    masks: TrainSettings | None
    learning_rate: float
    control_learning_rate: float


def is_large(path: Path) -> bool:
    """Whether a start model on disk is Stable-Diffusion-sized, by the shapes in its files alone.

    path: a diffusers directory (its ``unet/`` counts) or a single safetensors file.
    """
    from safetensors import safe_open

    folder = path / "unet" if (path / "unet").is_dir() else path
    files: Iterable[Path] = folder.glob("*.safetensors") if folder.is_dir() else [folder]
    sizes: dict[str, int] = {}  # by name: a directory may hold shards, or the same weights in two precisions
    for file in files:
        if file.is_file():
            with safe_open(file, framework="pt") as opened:
                sizes |= {name: math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return sum(sizes.values()) >= LARGE_PARAMETERS


def learning_rates(settings: TrainConfig, large: bool) -> tuple[float, float]:
    """(text steps, mask steps): as set, or the defaults for the model's size."""
    default = SMALL_RATE if not large else LARGE_LORA_RATE if settings.unet == "lora" else LARGE_RATE
    rate = settings.learning_rate or default
    return rate, settings.control_learning_rate or (LARGE_CONTROL_RATE if large else rate / 2)


def make_recipe(settings: TrainConfig, large: bool, *, masks: bool) -> Recipe:
    """Settings of the text and the mask stage; `masks`: whether there is anything to train masks on.

    Raises:
        InvalidInput: nothing at all would be trained.
    """
    rate, control_rate = learning_rates(settings, large)
    unet = 0.0 if settings.unet == "frozen" else 1.0
    text = settings.text_rate if settings.text_encoder == "trained" else 0.0
    plain = settings.loss == "plain" or (settings.loss == "auto" and large)

    def common(base: TrainSettings, learning_rate: float) -> TrainSettings:
        loop = replace(
            base.loop,
            learning_rate=learning_rate,
            ema_decay=settings.ema_decay,
            warmup_steps=settings.warmup_steps,
            checkpoint_s=60 * settings.checkpoint_minutes,
            log_every=settings.log_every,
            observe_every=settings.sheet_every,
            keep_best="validation_loss" if settings.keep == "best" else "",
        )
        return replace(
            base,
            batch_size=settings.batch_size,
            text_drop=settings.prompt_drop,
            channel_drop=settings.channel_drop,
            min_snr_gamma=None if plain else base.min_snr_gamma,
            coarse_weight=0.0 if plain else base.coarse_weight,
            unet_rate=unet,
            text_rate=text,
            precision=settings.precision,
            accumulation=settings.accumulation,
            checkpointing=settings.checkpointing,
            loop=loop,
        )

    if not (unet or text or masks) and settings.control_steps and settings.control != "none":
        raise InvalidInput("[train] trains a ControlNet alone, but no training image has a mask: import masks")
    text_stage = mask_stage = None
    if has_text_stage(settings):
        text_stage = replace(common(TEXT_STAGE, rate), cache_text=not text)
    if has_mask_stage(settings, masks=masks):
        share = settings.mix[0] / 100, settings.mix[1] / 100, settings.mix[2] / 100
        mask_stage = replace(common(FINE_TUNE, control_rate), mode_mix=share)
        if settings.control_alone:
            mask_stage = replace(mask_stage, unet_rate=0.0, text_rate=0.0)
        mask_stage = replace(mask_stage, cache_text=mask_stage.text_rate == 0)
    if text_stage is None and mask_stage is None and not settings.vae_steps:
        raise InvalidInput(
            "[train] trains nothing: set unet_steps with unet or text_encoder trained, or control_steps with masks"
        )
    return Recipe(text_stage, mask_stage, rate, control_rate)


def fresh_stack(
    texts: Sequence[str],
    structures: tuple[str, ...],
    image_size: int,
    seed: int,
    vae: AutoencoderKL | None = None,
    shape: UnetSettings | None = None,
    n_merges: int = 1200,
) -> GeneratorStack:
    """The embedded architecture with weights drawn from `seed` and a tokenizer of `texts`; no ControlNet yet.

    vae: an autoencoder that is trained already; n_merges: of the tokenizer. Errors as in :func:`check_fresh_size`.
    """
    check_fresh_size(image_size)
    shape = shape or UnetSettings()
    tokenizer = build_tokenizer(texts, n_merges)
    stack = GeneratorStack(
        vae=vae or build_vae(VaeSettings(), image_size, seed),
        unet=None,  # set below, when the latents' shape is known
        controlnet=None,
        text_encoder=build_text_encoder(tokenizer, shape, seed + 1),
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        structures=structures,
        image_size=image_size,
        model_id=FRESH,
    )
    channels, side, _ = stack.latent_shape
    stack.unet = build_unet(channels, side, shape, seed + 2)
    return stack.eval()


def fit_structures(
    stack: GeneratorStack, settings: TrainConfig, structures: tuple[str, ...], with_masks: set[str]
) -> tuple[str, ...]:
    """The structures that the stack's hint will have; where a new ControlNet is to be grown the old one is dropped.

    Args:
        structures: those of study.toml. with_masks: those that training images have masks of.

    Raises:
        InvalidInput: the start's ControlNet has no channel for some of the masks, its weights contradict its own
            list of structures, or a new ControlNet is asked for and there are no masks.
    """
    if settings.control == "new" and not with_masks and settings.control_steps:
        raise InvalidInput(
            "train.control = 'new', but no training image has a mask: import masks, or set train.control = 'none'"
        )
    controlnet = stack.controlnet
    if controlnet is not None and settings.control != "new":
        channels, colours = int(controlnet.config.conditioning_channels), controlnet.config.get("hint_colours")
        if colours is None and channels != len(stack.structures):
            raise InvalidInput(
                f"the ControlNet of {settings.start} takes {channels} mask channels, its structures are "
                f"{list(stack.structures)}: set train.control = 'new' to train a new one"
            )
        unknown = sorted(with_masks - set(stack.structures))
        if unknown and settings.control_steps and settings.control == "auto":
            raise InvalidInput(
                f"the ControlNet of {settings.start} knows masks of {list(stack.structures)}, not of {unknown}: set "
                "train.control = 'new' to train a new one, or 'none' to leave masks out"
            )
        return stack.structures
    if settings.control == "none":
        return stack.structures
    stack.controlnet = None
    stack.structures = structures
    return structures


def grow_controlnet(stack: GeneratorStack, seed: int) -> ControlNetModel:
    """A new ControlNet from the stack's UNet as it is now (with its LoRA, if any), one hint channel a structure."""
    unet: UNet2DConditionModel = stack.unet
    if lora_parameters(unet):
        unet = copy.deepcopy(unet)
        merge_lora(unet)
    halvings = math.log2(stack.image_size / stack.latent_shape[1])
    widths = LARGE_HINT if stack_is_large(stack) else SMALL_HINT
    return build_controlnet(unet, len(stack.structures), widths[: round(halvings) + 1], seed)


def stack_is_large(stack: GeneratorStack) -> bool:
    """Whether the UNet is Stable-Diffusion-sized."""
    n_parameters: int = sum(p.numel() for p in stack.unet.parameters())
    return n_parameters >= LARGE_PARAMETERS


def check_recipe(recipe: Recipe, compute: Compute) -> None:
    """InvalidInput early for what the stages would refuse late: uneven batches, and fp16 without CUDA."""
    for stage in (recipe.text, recipe.masks):
        if stage is not None:
            compute.check_batch(stage.batch_size, stage.accumulation)
            compute.scaler(stage.precision)
