"""Brought generators: any Stable Diffusion 1.x/2.x in diffusers' layout, or as a single safetensors file.

Input: a directory (``unet/ vae/ text_encoder/ tokenizer/ scheduler/``, perhaps ``controlnet/``) or a file, and what
study.toml says about it. Output: a `GeneratorStack` like our own, so that conditions, sampling, preference training and
pools run on it unchanged. What does not fit (another family, parts of different models) is refused on one line.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import ControlNetModel

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.stack.fitting import SUPPORTED, brought_stack, check_controlnet, check_parts, check_size
from radpref.generation.stack.lora import fuse_loras
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.parts import (
    NETWORKS,
    PICKLES,
    TO_SAFETENSORS,
    part_folder,
    read_json,
    read_network,
    read_tokenizer,
)
from radpref.generation.stack.places import CONTROLNET, no_generator
from radpref.generation.stack.schedules import noise_schedule
from radpref.generation.stack.single_file import load_single_file


def load_brought(path: Path, options: ModelOptions) -> GeneratorStack:
    """Load a directory or a single file; LoRAs are added into its weights, its own ControlNet is put in place.

    Raises:
        NotFound: there is nothing at ``path``, or no ControlNet or LoRA where study.toml says.
        InvalidInput: another family of models, a part that is missing or broken, parts that do not fit each other.
    """
    if path.is_file():
        stack = load_single_file(path, options)
    elif path.is_dir():
        stack = _load_directory(path, options)
    else:
        raise no_generator(path)
    check_parts(stack, str(path))
    return apply_options(stack, options, own_controlnet=path / CONTROLNET if path.is_dir() else None)


def apply_options(stack: GeneratorStack, options: ModelOptions, own_controlnet: Path | None = None) -> GeneratorStack:
    """Put ControlNet, LoRAs and settings of study.toml into a loaded stack (changed in place and returned)."""
    if options.unconditional != "auto":
        stack.unconditional = options.unconditional
    if options.image_size is not None:
        stack.image_size = options.image_size
    folder = options.controlnet or own_controlnet
    if not options.with_controlnet:
        folder = stack.controlnet = None
    if folder is not None and (options.controlnet or folder.is_dir()):
        stack.controlnet = read_controlnet(folder, options)
    check_size(stack)
    if stack.controlnet is not None:
        check_controlnet(stack, options.hint, options.palette)
    if options.lora:
        fuse_loras(stack, options.lora)
    return stack


def _load_directory(folder: Path, options: ModelOptions) -> GeneratorStack:
    refuse_other_families(folder)
    networks = {name: read_network(folder, name, kind, options.variant) for name, kind in NETWORKS.items()}
    schedule = part_folder(folder, "scheduler") / "scheduler_config.json"
    scheduler = noise_schedule(read_json(schedule), options.prediction_type, str(schedule))
    tokenizer = read_tokenizer(folder, int(networks["text_encoder"].config.max_position_embeddings))
    return brought_stack(networks, tokenizer, scheduler, options, folder, folder.name)


def refuse_other_families(folder: Path) -> None:
    """InvalidInput that says what a directory is, where it is not Stable Diffusion 1.x/2.x."""
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    name = str(index.get("_class_name", ""))
    second = [
        part for part in ("text_encoder_2", "text_encoder_3", "transformer", "prior") if index.get(part, [None])[0]
    ]
    if second:
        raise InvalidInput(f"{folder} is {family_of(name)} (it has a part {second[0]!r}): {SUPPORTED}")
    present = [part for part in NETWORKS if (folder / part).is_dir()]
    if name and not name.startswith("StableDiffusion") and not present:
        raise InvalidInput(f"{folder} is {family_of(name)}: {SUPPORTED}")
    if present or index:
        return
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    single = [file for file in files if file.endswith(".safetensors")]
    pickled = [file for file in files if Path(file).suffix in PICKLES]
    if (folder / "config.json").is_file() and single:
        raise InvalidInput(
            f"{folder} is one part of a model, not a generator: give the folder that holds unet/ and vae/"
        )
    if single:
        raise InvalidInput(
            f"{folder} is not in diffusers' layout: to load a single file, name it ({folder / single[0]})"
        )
    if pickled:
        raise InvalidInput(f"{folder} holds pickled weights ({pickled[0]}), which run code: {TO_SAFETENSORS}")
    raise InvalidInput(
        f"{folder} is not a generator: it has neither radpref.json nor the folders unet/, vae/, text_encoder/,"
        " tokenizer/ and scheduler/ of a diffusers directory"
    )


def family_of(class_name: str) -> str:
    """A readable name for a diffusers pipeline class."""
    known = {
        "StableDiffusionXL": "Stable Diffusion XL", "StableDiffusion3": "Stable Diffusion 3", "Flux": "Flux",
        "PixArt": "PixArt", "Kandinsky": "Kandinsky", "StableCascade": "Stable Cascade", "LDM": "a latent diffusion",
    }  # fmt: skip
    return next((label for start, label in known.items() if class_name.startswith(start)), f"a {class_name or 'model'}")


def controlnet_folder(folder: Path) -> Path:
    """Where a ControlNet's ``config.json`` is: the folder itself, or ``controlnet/`` in it.

    NotFound where there is no such folder, InvalidInput where it is a file.
    """
    if folder.is_file():
        raise InvalidInput(f"generator.controlnet = {folder} is a file: give a diffusers directory with config.json")
    inner = folder / CONTROLNET if (folder / CONTROLNET).is_dir() else folder
    if not inner.is_dir():
        raise NotFound(f"no ControlNet at {folder}: change generator.controlnet")
    return inner


def read_controlnet(folder: Path, options: ModelOptions) -> ControlNetModel:
    """A ControlNet from its diffusers directory; errors as in :func:`controlnet_folder` and :func:`read_network`."""
    inner = controlnet_folder(folder)
    network: ControlNetModel = read_network(inner.parent, inner.name, ControlNetModel, options.variant)
    return network
