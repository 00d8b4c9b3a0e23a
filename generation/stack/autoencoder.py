"""The autoencoder between radiographs and latents: its shape, fresh weights, and what it reads and answers.

Input: uint8 images or signals in [-1, 1]. Output: what an autoencoder of any layout reads (1, 3 or folded channels),
and its answer as one channel again. The embedded autoencoder sees each image folded 2 x 2 into four channels (pixel
unshuffle): the same reduction by 8 with two instead of three convolutional halvings, which trains and decodes twice as
fast on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor


@dataclass(frozen=True)
class VaeShape:
    """Shape of an autoencoder; fold: side of the pixel blocks folded into channels."""

    channels: tuple[int, ...] = (32, 64, 96)
    fold: int = 2
    latent_channels: int = 8
    layers_per_block: int = 1
    norm_groups: int = 8


def build_vae(shape: VaeShape, image_size: int, seed: int) -> AutoencoderKL:
    """A fresh autoencoder with weights drawn from `seed`."""
    n_blocks = len(shape.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            in_channels=shape.fold**2,
            out_channels=shape.fold**2,
            down_block_types=("DownEncoderBlock2D",) * n_blocks,
            up_block_types=("UpDecoderBlock2D",) * n_blocks,
            block_out_channels=shape.channels,
            layers_per_block=shape.layers_per_block,
            latent_channels=shape.latent_channels,
            norm_num_groups=shape.norm_groups,
            sample_size=image_size // shape.fold,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )


def to_signal(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, H, W) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32)).div_(127.5).sub_(1.0).unsqueeze(1)


def fold_of(vae: AutoencoderKL) -> int:
    """Side of the pixel blocks folded into the autoencoder's channels: 1 for 1- and 3-channel ones, 2 for 4."""
    return math.isqrt(int(vae.config.in_channels)) if vae.config.in_channels not in (1, 3) else 1


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent."""
    return int(fold_of(vae) * 2 ** (len(vae.config.block_out_channels) - 1))


def adapt_signal(vae: AutoencoderKL, signal: Tensor) -> Tensor:
    """(B, 1, H, W) -> what the autoencoder reads: itself, three equal channels, or folded pixel blocks."""
    if vae.config.in_channels == 3:
        return signal.expand(-1, 3, -1, -1)
    return F.pixel_unshuffle(signal, fold_of(vae))


def restore_signal(vae: AutoencoderKL, output: Tensor) -> Tensor:
    """The autoencoder's output -> (B, 1, H, W): unfolded, or the mean of three channels."""
    if vae.config.in_channels == 3:
        return output.mean(dim=1, keepdim=True)
    return F.pixel_shuffle(output, fold_of(vae))
