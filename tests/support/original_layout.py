"""Turns networks in diffusers' layout into the keys of an original Stable Diffusion checkpoint (tests only)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def _swap(rest: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        if rest == new or rest.startswith(f"{new}."):
            return old + rest.removeprefix(new)
    return rest


def unet_key(key: str, layers: int, has_attention: list[bool]) -> str:
    """One key of a UNet; ``has_attention``: per up block."""
    for new, old in TOP.items():
        if key.startswith(f"{new}."):
            return old + key.removeprefix(new)
    parts = key.split(".")
    if parts[0] == "mid_block":
        kind, place, rest = parts[1], int(parts[2]), ".".join(parts[3:])
        return f"middle_block.{2 * place}.{_swap(rest, RESNET)}" if kind == "resnets" else f"middle_block.1.{rest}"
    block, kind, place, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{parts[-1]}"
        index = block * (layers + 1) + place + 1
        return (
            f"input_blocks.{index}.0.{_swap(rest, RESNET)}" if kind == "resnets" else f"input_blocks.{index}.1.{rest}"
        )
    if kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if has_attention[block] else 1}.conv.{parts[-1]}"
    index = block * (layers + 1) + place
    return f"output_blocks.{index}.0.{_swap(rest, RESNET)}" if kind == "resnets" else f"output_blocks.{index}.1.{rest}"


def vae_key(key: str, n_blocks: int) -> str:
    """One key of an autoencoder."""
    parts = key.split(".")
    if len(parts) > 2 and parts[1] == "mid_block":
        rest = ".".join(parts[4:])
        if parts[2] == "attentions":
            return f"{parts[0]}.mid.attn_1.{_swap(rest, ATTENTION)}"
        return f"{parts[0]}.mid.block_{int(parts[3]) + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        block, rest = int(parts[2]), ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
        where = f"encoder.down.{block}" if parts[1] == "down_blocks" else f"decoder.up.{n_blocks - 1 - block}"
        if parts[3] in ("downsamplers", "upsamplers"):
            return f"{where}.{parts[3].removesuffix('rs')}e.conv.{parts[-1]}".replace("samplee", "sample")
        return f"{where}.block.{parts[4]}.{rest}"
    return key.replace("conv_norm_out", "norm_out")


def text_state(encoder: Any, second: bool) -> dict[str, torch.Tensor]:
    """A CLIP text encoder: wrapped as it is (1.x), or in OpenCLIP's names (2.x)."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    if not second:
        return {f"cond_stage_model.transformer.text_model.{key}": value for key, value in state.items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": torch.eye(encoder.config.hidden_size),
    }
    for index in range(encoder.config.num_hidden_layers):
        start = f"encoder.layers.{index}."
        for kind in ("weight", "bias"):
            rows = [state[f"{start}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"transformer.resblocks.{index}.attn.in_proj_{kind}"] = torch.cat(rows)
        for key, value in state.items():
            rest = key.removeprefix(start)
            if key.startswith(start) and _swap(rest, CLIP) != rest:
                found[f"transformer.resblocks.{index}.{_swap(rest, CLIP)}"] = value
    return {f"cond_stage_model.model.{key}": value for key, value in found.items()}


def save_original(parts: dict[str, Any], path: Path, second: bool, metadata: dict[str, str] | None = None) -> Path:
    """Write the networks of ``parts`` as one file."""
    unet, vae = parts["unet"], parts["vae"]
    ups = [name.startswith("CrossAttn") for name in unet.config.up_block_types]
    state = {
        f"model.diffusion_model.{unet_key(key, unet.config.layers_per_block, ups)}": value
        for key, value in unet.state_dict().items()
    }
    for key, value in vae.state_dict().items():
        old = vae_key(key, len(vae.config.block_out_channels))
        is_projection = ".mid.attn_1." in old and value.ndim == 2
        state[f"first_stage_model.{old}"] = value[:, :, None, None] if is_projection else value
    state |= text_state(parts["text_encoder"], second)
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path, metadata)
    return path
