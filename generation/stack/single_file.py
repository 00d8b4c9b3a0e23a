"""Reads Stable Diffusion 1.x/2.x from one safetensors file in the original layout, fully offline.

Input: a file with the keys ``model.diffusion_model.``, ``first_stage_model.`` and ``cond_stage_model.``.
diffusers converts the weights; it would fetch the shapes from a hub, so the configuration files of 1.x and 2.x lie in
``generation/stack/configs/`` (or a directory of the user's says them). Output: a `GeneratorStack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.stack.fitting import SUPPORTED, brought_stack
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.parts import (
    NETWORKS,
    PICKLES,
    TO_SAFETENSORS,
    part_folder,
    read_json,
    read_tokenizer,
    refusing,
)
from radpref.generation.stack.schedules import noise_schedule
from radpref.generation.stack.tokenizer import END, clip_tokenizer

if TYPE_CHECKING:
    from radpref.generation.stack.options import ModelOptions

CONFIGS = Path(__file__).parent / "configs"
Family = Literal["sd1", "sd2"]
UNET, VAE, TEXT_1, TEXT_2 = (
    "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.", "cond_stage_model.model.",
)  # fmt: skip
PADDING: dict[Family, str] = {"sd1": END, "sd2": "!"}
_OTHERS = (
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
)


@dataclass(frozen=True)
class FileFacts:
    """What the keys and the header of a file say: family, and prediction type where the header names it."""

    family: Family
    prediction_type: str | None


def inspect_file(path: Path) -> FileFacts:
    """Find out what a safetensors file is from its keys, without reading weights.

    Raises:
        InvalidInput: it is not a safetensors file, another family, or not a whole model; says what it is.
    """
    if path.suffix in PICKLES:
        raise InvalidInput(f"{path} is pickled, which runs code: {TO_SAFETENSORS}")
    with refusing(f"{path} is not a safetensors file", "copy it again"), safe_open(path, framework="pt") as file:
        keys, header = list(file.keys()), dict(file.metadata() or {})

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in keys)

    for part, label in _OTHERS:
        if any(key.removeprefix(UNET).startswith(part) for key in keys):
            raise InvalidInput(f"{path} is {label}: {SUPPORTED}")
    if any("lora" in key for key in keys):
        raise InvalidInput(f"{path} is a LoRA, not a model: name it as generator.lora")
    if has("control_model.", "controlnet_"):
        raise InvalidInput(f"{path} is a ControlNet, not a model: convert it to a diffusers directory for"
                           " generator.controlnet")  # fmt: skip
    if not has(UNET):
        raise InvalidInput(f"{path} is not a whole Stable Diffusion model (no keys {UNET}*): {SUPPORTED}")
    if not has(TEXT_1, TEXT_2):
        raise InvalidInput(f"{path} has no text encoder (cond_stage_model.*): take the full file")
    if not has(VAE, "vae."):
        raise InvalidInput(f"{path} has no autoencoder ({VAE}*): take the file with VAE baked in")
    said = header.get("modelspec.prediction_type", "").lower()
    prediction = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}.get(said)
    return FileFacts("sd2" if has(TEXT_2) else "sd1", prediction)


def load_single_file(path: Path, options: ModelOptions) -> GeneratorStack:
    """Load the file; ControlNet and LoRAs are put in place by the caller.

    Raises:
        NotFound: the configuration directory is missing.
        InvalidInput: see :func:`inspect_file`; weights that the configuration does not fit; a 2.x model of which nobody
            says what it predicts (the weights do not tell).
    """
    facts = inspect_file(path)
    folder = options.config or CONFIGS / facts.family
    if not folder.is_dir():
        raise NotFound(f"no configuration at {folder}: change generator.config")
    for part in ("unet", "vae", "text_encoder"):
        read_json(part_folder(folder, part) / "config.json")
    schedule = part_folder(folder, "scheduler") / "scheduler_config.json"
    prediction = _prediction_type(path, facts, options)
    scheduler = noise_schedule(read_json(schedule), prediction, str(schedule))
    tokenizer: Any
    if (folder / "tokenizer").is_dir():
        positions = int(read_json(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77))
        tokenizer = read_tokenizer(folder, positions)
    else:
        tokenizer = clip_tokenizer(PADDING[facts.family])
    networks = _read_networks(path, folder, tokenizer, scheduler)
    return brought_stack(networks, tokenizer, scheduler, options, folder, path.stem)


def _prediction_type(path: Path, facts: FileFacts, options: ModelOptions) -> str:
    if options.prediction_type != "auto":
        return options.prediction_type
    if options.config is not None:
        return "auto"
    if facts.prediction_type is not None:
        return facts.prediction_type
    if facts.family == "sd1":
        return "epsilon"
    raise InvalidInput(
        f"{path} is Stable Diffusion 2.x, whose weights do not say what they predict: set generator.prediction_type to"
        " 'v_prediction' (768-pixel models, with generator.image_size = 768) or 'epsilon' (512-pixel base models)"
    )


def _read_networks(path: Path, folder: Path, tokenizer: Any, scheduler: Any) -> dict[str, Any]:
    """The converted networks, float32."""
    from diffusers import StableDiffusionPipeline

    with refusing(f"{path} does not fit the configuration in {folder}", "give its own as generator.config"):
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path),
            config=str(folder),
            local_files_only=True,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
        )
    networks: dict[str, Any] = {}
    for name, kind in NETWORKS.items():
        network = getattr(pipeline, name)
        absent = [key for key, value in network.named_parameters() if value.is_meta]
        if not isinstance(network, kind) or absent:
            raise InvalidInput(
                f"{path} lacks {len(absent)} weights of its {name} ({(absent or ['all'])[0]}, ...):"
                " take the full file, or give its configuration as generator.config"
            )
        networks[name] = network.float()
    return networks
