"""A stack from a folder or file: shipped, trained here, or brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel

from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.brought import apply_options, load_brought
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.parts import part_folder, quiet_libraries, read_json, read_network, read_tokenizer
from radpref.generation.stack.places import MANIFEST, SHIPPED
from radpref.generation.stack.schedules import noise_schedule


def load_stack(
    path_or_name: str | Path = "embedded",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: ModelOptions | None = None,
) -> GeneratorStack:
    """Load a stack folder, a shipped one by its name in `SHIPPED`, or a brought model; frozen, in evaluation mode.

    Args:
        options: what study.toml says about a brought model; without it the defaults.

    Raises:
        NotFound: there is nothing at that place.
        InvalidInput: a part is missing or unreadable, or the model is of a kind that does not work here; one line.
    """

    folder = SHIPPED.get(str(path_or_name)) or Path(path_or_name)
    with quiet_libraries():
        if (folder / MANIFEST).exists():
            stack = _load(folder, _read_manifest(folder))
            if options is not None:
                apply_options(stack, options)
        else:
            stack = load_brought(folder, options or ModelOptions())
        return stack.to(device, dtype).eval()


def _load(folder: Path, manifest: dict[str, Any]) -> GeneratorStack:
    schedule = part_folder(folder, "scheduler") / "scheduler_config.json"
    text_encoder = read_network(folder, "text_encoder", CLIPTextModel)
    return GeneratorStack(
        vae=read_network(folder, "vae", AutoencoderKL),
        unet=read_network(folder, "unet", UNet2DConditionModel),
        controlnet=read_network(folder, "controlnet", ControlNetModel) if manifest["has_controlnet"] else None,
        text_encoder=text_encoder,
        tokenizer=read_tokenizer(folder, int(text_encoder.config.max_position_embeddings)),
        scheduler=noise_schedule(read_json(schedule), origin=str(schedule)),
        structures=tuple(manifest["structures"]),
        image_size=int(manifest["image_size"]),
        unconditional=manifest["unconditional"],
        model_id=str(manifest["model_id"]),
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    manifest = read_json(path)
    manifest.setdefault("model_id", folder.name)
    manifest.setdefault("has_controlnet", (folder / "controlnet").is_dir())
    missing = [key for key in ("structures", "unconditional", "image_size") if key not in manifest]
    if missing:
        raise InvalidInput(f"{path} lacks {missing}: add them")
    if manifest["unconditional"] not in ("zero", "empty_prompt"):
        raise InvalidInput(f"{path}: unconditional is {manifest['unconditional']!r}: choose 'zero' or 'empty_prompt'")
    return manifest
