"""Shapes of fresh networks: UNet, ControlNet, text encoder and noise schedule of a generator trained here.

Input: settings and a seed. Output: networks with weights drawn from that seed; brought weights are read elsewhere
(`generation/stack/brought.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class UnetSettings:
    """Shape of the embedded UNet, ControlNet and text encoder."""

    channels: tuple[int, ...] = (96, 128, 144)
    attention: tuple[bool, ...] = (False, True, True)
    heads: int = 4
    layers_per_block: int = 1
    norm_groups: int = 16
    hint_channels: tuple[int, ...] = (8, 16, 32, 64)
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4


def make_scheduler() -> DDPMScheduler:
    """1,000 DDPM steps; the scaled-linear schedule of Stable Diffusion, ended a little deeper for small latents."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.015,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        steps_offset=1,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, settings: UnetSettings, seed: int) -> CLIPTextModel:
    """A fresh CLIP text encoder for `tokenizer`, without dropout."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_width,
        intermediate_size=settings.text_width * 4,
        projection_dim=settings.text_width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPTextModel(config)


def build_unet(latent_channels: int, latent_size: int, settings: UnetSettings, seed: int) -> UNet2DConditionModel:
    """A fresh UNet whose cross attention reads the text encoder's states."""
    down = tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in settings.attention)
    up = tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(settings.attention))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            down_block_types=down,
            up_block_types=up,
            block_out_channels=settings.channels,
            layers_per_block=settings.layers_per_block,
            attention_head_dim=settings.heads,
            norm_num_groups=settings.norm_groups,
            cross_attention_dim=settings.text_width,
        )


def build_controlnet(
    unet: UNet2DConditionModel, n_structures: int, hint_channels: tuple[int, ...], seed: int
) -> ControlNetModel:
    """A ControlNet grown from `unet` (encoder copied, residuals exactly 0 at first) with one hint channel a structure.

    Each entry of `hint_channels` after the first halves the hint: 4 entries lead from 128 to 16 pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(
            unet, conditioning_channels=n_structures, conditioning_embedding_out_channels=hint_channels
        )
        side = int(unet.config.sample_size) * 2 ** (len(hint_channels) - 1)
        wake_hint_encoder(controlnet, n_structures, side)
    return controlnet


@torch.no_grad()
def wake_hint_encoder(controlnet: ControlNetModel, n_structures: int, side: int, out_std: float = 0.5) -> None:
    """Scale the hint encoder layer by layer, so that hints reach its output with deviation `out_std`.

    diffusers' initial weights shrink a hint about a thousandfold over the encoder and its last layer is zero: a small
    ControlNet then never finds its hint in the steps it has. The residuals still start at exactly 0, by the zero
    convolutions after the blocks. (Layer-sequential unit variance, Mishkin & Matas 2016, per channel.)
    """
    encoder = controlnet.controlnet_cond_embedding
    coarse = torch.rand(16, n_structures, side // 8, side // 8)
    values = (torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") > 0.5).float()
    nn.init.kaiming_normal_(encoder.conv_out.weight)
    for layer in (encoder.conv_in, *encoder.blocks, encoder.conv_out):
        layer.bias.zero_()
        raw = layer(values)
        gain = (out_std if layer is encoder.conv_out else 1.0) / raw.std(dim=(0, 2, 3)).clamp_min(1e-6)
        layer.weight.mul_(gain[:, None, None, None])
        layer.bias.copy_(-raw.mean(dim=(0, 2, 3)) * gain)
        values = torch.nn.functional.silu(layer(values))
