"""Trains the decoder of a finished autoencoder further; latents, and so a UNet trained on them, stay as they are.

Input: latents and the images they stand for. Output: the same autoencoder with another decoder. Pixel errors alone
make a decoder that draws the mean of all textures a latent may stand for: smooth lungs. Against a patch discriminator
it draws one of them (Esser et al. 2021, "Taming Transformers", section 3.1; Rombach et al. 2022, appendix G). What it
draws is likely texture, not that patient's texture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call

from radpref.generation.stack.autoencoder import restore_signal, to_signal
from radpref.generation.training.compute import Compute, Precision, prepare_module
from radpref.generation.training.loop import Budget, Part, TrainingLoop
from radpref.generation.training.vae_training import VaeSettings, gradient_distance

LATENT_NOISE = 0.05
ADVERSARIAL_WARMUP_STEPS = 100
"""Steps in which only the discriminator's loss counts its verdict; it knows nothing at first."""
FEATURE_WEIGHT = 1.0
MAX_ADVERSARIAL_WEIGHT = 10.0


class PatchDiscriminator(nn.Module):
    """Tells real patches of about 40 pixels from decoded ones: (B, 1, H, W) in [-1, 1] -> logits (B, 1, H/8, W/8)."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128)) -> None:
        """`channels`: widths of the halving layers."""
        super().__init__()
        widths = [1, *channels]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(pairwise(widths)):
            norm = nn.GroupNorm(min(8, after), after) if k else nn.Identity()
            layers.append(nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), norm, nn.LeakyReLU(0.2)))
        last = widths[-1]
        layers.append(
            nn.Sequential(nn.Conv2d(last, last, 3, 1, 1), nn.GroupNorm(min(8, last), last), nn.LeakyReLU(0.2))
        )
        self.layers = nn.ModuleList(layers)
        self.head = nn.Conv2d(last, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the features of every layer."""
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.head(x), features


def discriminator_loss(real: Tensor, decoded: Tensor) -> Tensor:
    """Hinge loss of logits: real ones above 1, decoded ones below -1; a scalar."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + decoded).mean())


def feature_distance(real: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features, over layers (Wang et al. 2018, pix2pixHD, Eq. 4)."""
    layers = [F.l1_loss(b.float(), a.detach().float()) for a, b in zip(real, decoded, strict=True)]
    return torch.stack(layers).mean()


def adversarial_weight(fit: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """Weight that gives both losses gradients of one size at the decoder's last layer (Esser et al. 2021, Eq. 7)."""
    wanted = torch.autograd.grad(fit, last, retain_graph=True)[0].norm()
    given = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
    weight: Tensor = (wanted / (given + 1e-6)).clamp(max=MAX_ADVERSARIAL_WEIGHT).detach()
    return weight


def refine_decoder(
    vae: AutoencoderKL,
    latents: np.ndarray,
    images: np.ndarray,
    folder: Path,
    budget: Budget,
    settings: VaeSettings,
    seed: int = 0,
    adversarial: float = 0.0,
) -> AutoencoderKL:
    """Train the decoder alone on whole images and return the autoencoder with its averaged decoder.

    latents: (N, C, h, w), the posterior means of `images`, uint8 (N, H, W). A little noise on the latents makes the
    decoder tolerant of sampled ones. `adversarial`: weight of the patch discriminator's verdict relative to the pixel
    and gradient errors; 0 trains without one.
    """
    compute = Compute(vae.device)
    precision: Precision = "bf16" if settings.bf16 else "f32"
    prepare_module(vae, compute)
    vae.requires_grad_(False)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True).train()
    groups = [(list(decoder.parameters()), 1.0)]
    critic = None
    if adversarial > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = PatchDiscriminator()
        prepare_module(critic, compute)
        groups.append((list(critic.parameters()), 1.0))
    generator = torch.Generator().manual_seed(seed)
    loop = TrainingLoop(folder, groups, generator, budget, settings.loop, compute)

    def parts(step: int, progress: float) -> Iterator[Part]:
        del progress
        chosen = np.sort(torch.randint(len(images), (settings.full_batch_size,), generator=generator).numpy())
        z = torch.from_numpy(np.asarray(latents[chosen]).astype(np.float32))
        z = compute.put(z + LATENT_NOISE * torch.randn(z.shape, generator=generator))
        x = compute.put(to_signal(images[chosen]))
        with compute.autocast(precision):
            y = vae.decoder(vae.post_quant_conv(z))
        y = restore_signal(vae, y.float())
        fit = F.l1_loss(y, x) + settings.gradient_weight * gradient_distance(y, x)
        if critic is not None:
            weight = adversarial if step >= ADVERSARIAL_WARMUP_STEPS else 0.0
            fit = _against(critic, x, y, fit, weight, vae.decoder.conv_out.weight, compute.autocast(precision))
        yield Part(fit, len(chosen))

    loop.run(parts)
    loop.ema.copy_to_model()
    return vae.requires_grad_(False).eval()


def _against(
    critic: nn.Module, x: Tensor, y: Tensor, fit: Tensor, weight: float, last: nn.Parameter, mixed: torch.autocast
) -> Tensor:
    """One loss for both players, so that one optimizer and one checkpoint hold both.

    The decoder's terms see the critic with constant weights, the critic's term sees constant images. `last`: the
    decoder's last layer; `mixed`: the precision that the critic computes in.
    """
    frozen = {name: value.detach() for name, value in critic.named_parameters()}
    with mixed:
        logits, features = critic(torch.cat([x, y.detach()]))
        verdict, decoded = functional_call(critic, frozen, (y,))
    real, fake = logits.float().chunk(2)
    own = discriminator_loss(real, fake)
    if weight == 0:
        return fit + own
    fit = fit + FEATURE_WEIGHT * feature_distance([f[: len(x)] for f in features], decoded)
    persuade = -verdict.float().mean()
    weight_now = weight * adversarial_weight(fit, persuade, last)
    total: Tensor = fit + weight_now * persuade + own
    return total
