"""``radpref generate check``: whether a generator loads, what it is, and whether it draws in every mode.

Input: a study folder, or a model alone. Output: what was found, and figures of one tiny test image per mode (few steps,
small: proof that the parts work together, not a picture to judge).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from radpref.data.config.study_config import StudyConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.imaging.images import SYNTHETIC_MARK, encode_png
from radpref.generation.sampling.sampler import decode, sample_latents, size_note, to_pixels
from radpref.generation.stack.autoencoder import vae_factor
from radpref.generation.stack.conditions import Condition, encode_conditions, hint_colours
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.options import ModelOptions, find_generator, options_of, study_options
from radpref.generation.stack.places import named_generator, place_of

if TYPE_CHECKING:
    from radpref.data.study.study import Study

TEST_TEXT = "Normal chest radiograph"
TEST_STEPS = 2
TEST_LATENTS = 16
"""Side of a test image's latents at most: 128 pixels for Stable Diffusion."""


def run_check(root: Path, model: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Load and try a generator.

    Args:
        root: the study's folder; without a study.toml there, ``model`` must be given and the defaults hold.
        model: directory, single file, hub id or name; default ``generator.model`` of the study.
        out: folder for the test images.

    Raises:
        NotFound: there is no such model, or neither study nor model.
        InvalidInput: it does not load, or draws values that are not finite.
    """
    from radpref.data.study.study import Study

    study = Study(root) if model is None or (root / "study.toml").is_file() else None
    config = study.config if study is not None else StudyConfig()
    name = model or config.generator.model
    with bar("checking the generator", 4) as advance:
        stack, options = _load(study, name, config)
        advance(1)
        facts = describe(stack, options)
        tried: dict[str, Any] = {}
        for mode, condition in test_conditions(stack).items():
            tried[mode], image = try_mode(stack, mode, condition, config.generator.guidance_scale)
            if out is not None:
                write_atomic(out / f"{mode}.png", encode_png(image, text={"Synthetic": SYNTHETIC_MARK}))
            advance(1)
    notes = _notes(stack, config if study is not None else None)
    return {"model": name, **facts, "test_images": tried, **({"notes": notes} if notes else {})}


def _load(study: Study | None, name: str, config: StudyConfig) -> tuple[GeneratorStack, ModelOptions]:
    from radpref.generation.stack.adapters import load_generator

    place = named_generator(study, name)
    if study is not None:
        found = find_generator(study, place)
        return load_generator(found), study_options(study)
    options = options_of(config.generator, config.data.structures, Path())
    return load_stack(place_of(place, Path.cwd()), options=options), options


def describe(stack: GeneratorStack, options: ModelOptions) -> dict[str, Any]:
    """What a stack is: family, sizes, prediction type, hint, schedule."""
    schedule = stack.scheduler.config
    hint: dict[str, Any] = {"hint": "none (no ControlNet: T2I only)"}
    if stack.controlnet is not None:
        colours = hint_colours(stack.controlnet)
        said = f"channels ({len(stack.structures)})" if colours is None else "rgb"
        hint = {"hint": said, "structures": list(stack.structures)}
        if colours is not None:
            codes = ["#" + bytes(colour).hex() for colour in colours]
            hint["colours"] = dict(zip(stack.structures, codes, strict=True))
    return {
        "family": family_of_stack(stack),
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in stack.modules().items()},
        "prediction_type": stack.prediction_type,
        "zero_terminal_snr": bool(schedule.rescale_betas_zero_snr),
        "schedule": f"{schedule.beta_schedule} {schedule.beta_start:g}-{schedule.beta_end:g},"
        f" {schedule.num_train_timesteps} steps; sampled by DPM-Solver++",
        "image_size": stack.image_size,
        "latents": "x".join(map(str, stack.latent_shape)),
        "text_tokens": int(stack.tokenizer.model_max_length),
        "unconditional": stack.unconditional,
        **hint,
        **({"lora": [str(path) for path in options.lora]} if options.lora else {}),
    }


def family_of_stack(stack: GeneratorStack) -> str:
    """Stable Diffusion 1.x or 2.x by the text encoder and width, or what else it is."""
    text, channels = stack.text_encoder.config, tuple(stack.unet.config.block_out_channels)
    if channels == (320, 640, 1280, 1280):
        known = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
        if text.hidden_size in known:
            return known[text.hidden_size]
    return f"Stable Diffusion type, widths {'/'.join(map(str, channels))}"


def test_conditions(stack: GeneratorStack) -> dict[str, Condition]:
    """One condition for each mode the stack can do; masks are boxes, moved a little from structure to structure."""
    conditions = {"T2I": Condition(TEST_TEXT)}
    if stack.controlnet is not None:
        side = TEST_LATENTS
        mask = np.zeros((len(stack.structures), side, side), dtype=bool)
        for index in range(len(stack.structures)):
            start = 2 + index % 6
            mask[index, start : start + 7, start : start + 7] = True
        conditions |= {"M2I": Condition(None, mask), "TM2I": Condition(TEST_TEXT, mask)}
    return conditions


def try_mode(
    stack: GeneratorStack, mode: str, condition: Condition, guidance_scale: float
) -> tuple[dict[str, float], np.ndarray]:
    """Draw one tiny image; (figures, (H, W) uint8).

    Raises:
        InvalidInput: it is not finite.
    """
    whole = stack.image_size
    stack.image_size = min(whole, TEST_LATENTS * vae_factor(stack.vae))
    started = time.monotonic()
    try:
        batch = encode_conditions(stack, [condition])
        latents = sample_latents(stack, batch, [0], n_steps=TEST_STEPS, guidance_scale=guidance_scale)
        signal = decode(stack, latents)
    finally:
        stack.image_size = whole
    if not bool(torch.isfinite(latents).all() and torch.isfinite(signal).all()):
        raise InvalidInput(f"generator {stack.model_id!r} draws values that are not finite ({mode}): copy it again")
    image: np.ndarray = to_pixels(signal)[0]
    seconds = round(time.monotonic() - started, 2)
    return {"side": image.shape[0], "mean": float(image.mean()), "deviation": float(image.std()), "s": seconds}, image


def _notes(stack: GeneratorStack, config: StudyConfig | None) -> list[str]:
    """What works but is probably not meant."""
    notes = []
    if config is not None and (note := size_note(config.data.image_size, stack.image_size)):
        notes.append(note)
    if int(stack.text_encoder.config.num_hidden_layers) == 24 and stack.text_encoder.config.hidden_size == 1024:
        notes.append("the text encoder has 24 layers; Stable Diffusion 2.x reads the 23rd: convert the model again")
    if config is not None and config.sets.mix[0] < 100 and stack.controlnet is None:
        notes.append("no ControlNet: set sets.mix = [100, 0, 0], or name one as generator.controlnet")
    return notes
