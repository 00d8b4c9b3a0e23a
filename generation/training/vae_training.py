"""Trains the variational autoencoder that turns radiographs into latents (f = 8, 8 latent channels).

Input: a `Corpus`. Output: an `AutoencoderKL` whose latents have zero mean and unit deviation in every channel, and its
reconstruction figures. Most steps see 64 x 64 crops (four times cheaper); the last ones see whole images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from radpref.generation.stack.autoencoder import VaeShape, adapt_signal, build_vae, restore_signal, to_signal
from radpref.generation.training.compute import Compute, Precision, prepare_module
from radpref.generation.training.corpus import Corpus
from radpref.generation.training.loop import Budget, LoopSettings, Part, TrainingLoop

log = logging.getLogger(__name__)

SQUARE_WEIGHT = 8.0


@dataclass(frozen=True)
class VaeSettings(VaeShape):
    """Shape and training of the autoencoder.

    crop: pixels; full_from: the used fraction where crops end.
    """

    crop: int = 64
    batch_size: int = 16
    full_batch_size: int = 6
    full_from: float = 0.8
    kl_weight: float = 1e-5
    gradient_weight: float = 1.5
    bf16: bool = True
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(learning_rate=2e-3, ema_decay=0.998, weight_decay=1e-4)
    )


def gradient_distance(x: Tensor, y: Tensor, n_scales: int = 3) -> Tensor:
    """Distance of horizontal and vertical gradients, summed over dyadic scales; (N, 1, H, W) each.

    Absolute plus `SQUARE_WEIGHT` times squared differences: the absolute ones alone leave out thin, faint structures
    (vessels, pleural lines), as a median would.
    """
    difference = x - y
    total = difference.new_zeros(())
    for scale in range(n_scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        for gradient in (difference[..., 1:, :] - difference[..., :-1, :], difference[..., 1:] - difference[..., :-1]):
            total = total + gradient.abs().mean() + SQUARE_WEIGHT * gradient.square().mean()
    return total


def draw_batch(corpus: Corpus, settings: VaeSettings, generator: torch.Generator, full: bool) -> Tensor:
    """Random whole images or random crops, float32 (B, 1, h, w) in [-1, 1]."""
    size = settings.full_batch_size if full else settings.batch_size
    chosen = torch.randint(len(corpus), (size,), generator=generator).numpy()
    if full or corpus.image_size <= settings.crop:
        return to_signal(corpus.images[np.sort(chosen)])
    corners = torch.randint(corpus.image_size - settings.crop + 1, (size, 2), generator=generator).tolist()
    crops = [
        corpus.images[i, y : y + settings.crop, x : x + settings.crop]
        for i, (y, x) in zip(chosen, corners, strict=True)
    ]
    return to_signal(np.stack(crops))


def train_vae(
    corpus: Corpus,
    folder: Path,
    budget: Budget,
    settings: VaeSettings,
    seed: int = 0,
    start: AutoencoderKL | None = None,
    device: torch.device | None = None,
) -> AutoencoderKL:
    """Train (or resume, or go on from `start`) and return the averaged autoencoder with normalised latents.

    It is trained, and stays, on `device` (default: the processor); images and random numbers come from the processor.
    """
    compute = Compute(device or torch.device("cpu"))
    precision: Precision = "bf16" if settings.bf16 else "f32"
    vae = start if start is not None else build_vae(settings, corpus.image_size, seed)
    prepare_module(vae, compute)
    vae.train()
    generator = torch.Generator().manual_seed(seed)
    loop = TrainingLoop(folder, [(list(vae.parameters()), 1.0)], generator, budget, settings.loop, compute)

    def parts(step: int, progress: float) -> Iterator[Part]:
        del step
        x = compute.put(draw_batch(corpus, settings, generator, full=progress >= settings.full_from))
        with compute.autocast(precision):
            moments = vae.quant_conv(vae.encoder(adapt_signal(vae, x))).float()
            mean, log_variance = moments.chunk(2, dim=1)
            log_variance = log_variance.clamp(-30, 20)
            noise = compute.put(torch.randn(mean.shape, generator=generator))
            y = vae.decoder(vae.post_quant_conv(mean + (0.5 * log_variance).exp() * noise))
        y = restore_signal(vae, y.float())
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
        kl = kl / (x.shape[-1] * x.shape[-2])
        loss = F.l1_loss(y, x) + settings.gradient_weight * gradient_distance(y, x) + settings.kl_weight * 64 * kl
        yield Part(loss, x.shape[0])

    loop.run(parts)
    loop.ema.copy_to_model()
    vae.eval()
    normalise_latents(vae, corpus)
    vae.register_to_config(scaling_factor=1.0)
    return vae


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, corpus: Corpus, n_images: int = 512) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of the posterior means over evenly chosen images and all positions."""
    chosen = np.linspace(0, len(corpus) - 1, min(n_images, len(corpus))).astype(int)
    signals = (adapt_signal(vae, to_signal(corpus.images[part]).to(vae.device)) for part in _batches(chosen, 32))
    latents = torch.cat([vae.encode(signal).latent_dist.mean for signal in signals])
    return latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)).clamp_min(1e-4)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, corpus: Corpus) -> None:
    """Give every latent channel mean 0 and deviation 1 by absorbing the change into the two 1 x 1 convolutions.

    Encoder side: mean' = (mean - m) / s, log variance' = log variance - 2 log s. Decoder side the inverse, so that
    reconstructions stay as they were. Diffusion then sees all channels at one signal-to-noise ratio.
    """
    mean, deviation = latent_statistics(vae, corpus)
    log.info("latent std per channel before normalising: %s", [round(v, 3) for v in deviation.tolist()])
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)
    post.weight.mul_(deviation[None, :, None, None])
    quant.weight[:n].div_(deviation[:, None, None, None])
    quant.bias[:n].sub_(mean).div_(deviation)
    quant.bias[n:].sub_(2 * deviation.log())


@torch.no_grad()
def reconstruction_report(vae: AutoencoderKL, images: np.ndarray) -> dict[str, float]:
    """Held-out figures for uint8 (N,H,W): PSNR of pixels and of gradients in dB, and kept gradient energy (0-1)."""
    errors, gradient_errors, energy_in, energy_out = [], [], [], []
    for part in _batches(np.arange(len(images)), 32):
        x = to_signal(images[part]).to(vae.device)
        latents = vae.encode(adapt_signal(vae, x)).latent_dist.mean
        y = restore_signal(vae, vae.decode(latents).sample).clamp(-1, 1)
        errors.append((x - y).square().mean(dim=(1, 2, 3)))
        gx, gy = _gradients(x), _gradients(y)
        gradient_errors.append((gx - gy).square().mean(dim=(1, 2, 3)))
        energy_in.append(gx.square().mean(dim=(1, 2, 3)))
        energy_out.append(gy.square().mean(dim=(1, 2, 3)))
    mse, gradient_mse = torch.cat(errors), torch.cat(gradient_errors)
    return {
        "psnr_db": float((10 * torch.log10(4 / mse.clamp_min(1e-12))).mean()),
        "gradient_psnr_db": float((10 * torch.log10(4 / gradient_mse.clamp_min(1e-12))).mean()),
        "gradient_energy_kept": float(torch.cat(energy_out).mean() / torch.cat(energy_in).mean().clamp_min(1e-12)),
    }


def _gradients(x: Tensor) -> Tensor:
    """Forward differences, (N, 2, H-1, W-1)."""
    return torch.cat([x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]], dim=1)


def _batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
