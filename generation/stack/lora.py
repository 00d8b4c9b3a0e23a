"""LoRAs of a brought generator: read in the formats diffusers converts and added into the weights of the baseline.

Input: a file or folder made by diffusers' training scripts (keys ``unet.``, ``text_encoder.``), by kohya
(``lora_unet_``, ``lora_te_``), by peft (``adapter_model.safetensors``), or here (``models/<run>/unet_lora``). Output:
the same stack with changed weights and no adapter layers, so that adapters trained here sit on top and the reference of
preference training holds the LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.parts import PICKLES, TO_SAFETENSORS, read_json, refusing

FILES: tuple[str, ...] = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
NAME = "brought"
_DOWN = re.compile(r"lora_A\.|lora\.down\.|_lora\.down\.|lora_down\.|lora_linear_layer\.down\.")
_PEFT_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora")


def lora_file(path: Path) -> Path:
    """The safetensors file of a LoRA given as file or folder.

    Raises:
        NotFound: there is none.
        InvalidInput: it is pickled, or a folder holds several.
    """
    if path.is_file():
        if path.suffix in PICKLES:
            raise InvalidInput(f"LoRA {path} is pickled, which runs code: {TO_SAFETENSORS}")
        return path
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidInput(f"{path} holds {len(found)} safetensors files: name the one that is the LoRA")
        if pickled := [file.name for file in sorted(path.iterdir()) if file.suffix in PICKLES]:
            raise InvalidInput(f"LoRA {path / pickled[0]} is pickled, which runs code: {TO_SAFETENSORS}")
    raise NotFound(f"no LoRA at {path}: change generator.lora")


def fuse_loras(stack: GeneratorStack, paths: Sequence[Path]) -> None:
    """Add LoRAs into the weights of UNet and text encoder, in this order (changed in place).

    Raises:
        NotFound: a LoRA is not there.
        InvalidInput: it is unreadable, holds no LoRA, or does not fit this model.
    """
    for path in paths:
        load_lora(stack, path)
        _fuse(stack)


def load_lora(stack: GeneratorStack, path: Path) -> None:
    """Put one LoRA on UNet and text encoder as adapter layers called `NAME`; errors as in :func:`fuse_loras`."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    file = lora_file(path)
    state, alphas, metadata = _read(file)
    n_layers = {part: _layers(state, part) for part in ("unet", "text_encoder")}
    if not any(n_layers.values()):
        raise InvalidInput(f"{file} holds no LoRA of a UNet or text encoder: change generator.lora")
    extra: dict[str, Any] = {"metadata": metadata} if metadata else {"network_alphas": alphas}
    extra.setdefault("network_alphas", None)
    misfit = f"LoRA {file} does not fit generator {stack.model_id!r}"
    with refusing(misfit, "take another"), torch.random.fork_rng(devices=[]):
        if n_layers["unet"]:
            Loader.load_lora_into_unet(state, unet=stack.unet, adapter_name=NAME, **extra)
        if n_layers["text_encoder"]:
            _load_text_lora(stack.text_encoder, state, alphas or {}, metadata)
    for part, module in (("unet", stack.unet), ("text_encoder", stack.text_encoder)):
        if (placed := _placed(module)) != n_layers[part]:
            raise InvalidInput(
                f"{misfit} (it has {n_layers[part]} layers for the {part}, {placed} of them exist): take another"
            )


def _load_text_lora(
    encoder: nn.Module, state: dict[str, torch.Tensor], alphas: dict[str, float], metadata: dict[str, Any] | None
) -> None:
    """Put the text encoder's part on by peft itself: transformers' own way refuses peft versions it works with."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    start = "text_encoder."
    own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
    ranks = {key.split(".lora_A.")[0]: int(value.shape[0]) for key, value in own.items() if ".lora_A." in key}
    said = {key.removeprefix(start): value for key, value in (metadata or {}).items() if key.startswith(start)}
    scales = {module: float(said.get("lora_alpha", rank)) for module, rank in ranks.items()}
    scales |= {module: float(said["alpha_pattern"][module]) for module in said.get("alpha_pattern") or {}}
    named = {key.removeprefix(start).removesuffix(".alpha"): a for key, a in alphas.items() if key.startswith(start)}
    for key, alpha in convert_state_dict_to_peft(convert_state_dict_to_diffusers(named)).items() if named else ():
        scales[key.split(".lora_A.")[0]] = float(alpha)
    config = LoraConfig(
        r=max(ranks.values()), target_modules=list(ranks), rank_pattern=dict(ranks), alpha_pattern=dict(scales)
    )
    inject_adapter_in_model(config, encoder, adapter_name=NAME)
    set_peft_model_state_dict(encoder, own, adapter_name=NAME)


def _layers(state: dict[str, torch.Tensor], part: str) -> int:
    return sum(key.startswith(f"{part}.") and _DOWN.search(key) is not None for key in state)


def _placed(module: nn.Module) -> int:
    from peft.tuners.lora import LoraLayer

    return sum(isinstance(layer, LoraLayer) and NAME in layer.r for layer in module.modules())


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, float] | None, dict[str, Any] | None]:
    """Weights with the prefixes ``unet.`` and ``text_encoder.``, kohya's alphas, and peft's settings where stored."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    with refusing(f"LoRA {file} cannot be read", "copy it again"):
        state, alphas, metadata = Loader.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            local_files_only=True,
            use_safetensors=True,
            return_lora_metadata=True,
        )
    if not any(key.startswith(("unet.", "text_encoder.")) for key in state):
        state = {f"unet.{key.removeprefix('base_model.model.')}": value for key, value in state.items()}
        card = file.with_name("adapter_config.json")
        if metadata is None and card.is_file():
            content = read_json(card)
            metadata = {key: content[key] for key in _PEFT_KEYS if content.get(key)}
            metadata["target_modules"] = sorted(
                {key.split(".lora_A.")[0].removeprefix("unet.") for key in state if ".lora_A." in key}
            )
        metadata = {f"unet.{key}": value for key, value in metadata.items()} if metadata else None
    return _flattened(state), _flattened(alphas) if alphas else None, metadata


def _flattened(table: dict[str, Any]) -> dict[str, Any]:
    """Names of the text encoder's layers as transformers has them now: without ``text_model.`` since 5.6."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        wraps = hasattr(CLIPTextModel(CLIPTextConfig(hidden_size=8, num_hidden_layers=0, vocab_size=8)), "text_model")
    start = "text_encoder.text_model."
    return table if wraps else {key.replace(start, "text_encoder.", 1): value for key, value in table.items()}


def _fuse(stack: GeneratorStack) -> None:
    """Add the adapter layers into the weights and take them out."""
    from diffusers.loaders.lora_base import fuse_text_encoder_lora
    from diffusers.utils import recurse_remove_peft_layers

    try:
        if _placed(stack.unet):
            stack.unet.fuse_lora(safe_fusing=True, adapter_names=[NAME])
            stack.unet.unload_lora()
        if _placed(stack.text_encoder):
            fuse_text_encoder_lora(stack.text_encoder, safe_fusing=True, adapter_names=[NAME])
            recurse_remove_peft_layers(stack.text_encoder)
            stack.text_encoder.__dict__.pop("peft_config", None)
    except ValueError as error:
        raise InvalidInput(
            f"a LoRA of generator {stack.model_id!r} has weights that are not finite: drop it"
        ) from error
    stack.text_cache.clear()
