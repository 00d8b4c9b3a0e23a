"""The generator stack: VAE, UNet, ControlNet, text encoder, tokenizer and scheduler, loaded and saved as one folder.

A stack folder has diffusers' layout (``vae/ unet/ controlnet/ text_encoder/ tokenizer/ scheduler/``) and a
``radpref.json`` that says which structures the hint's channels are, how guidance drops the text, and the image size.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from radpref.data.core.files import write_atomic
from radpref.generation.stack.architecture import (
    UnetSettings,
    build_controlnet,
    build_text_encoder,
    build_unet,
    make_scheduler,
)
from radpref.generation.stack.autoencoder import VaeShape, adapt_signal, build_vae, restore_signal, vae_factor
from radpref.generation.stack.parts import quiet_libraries
from radpref.generation.stack.places import MANIFEST
from radpref.generation.stack.tokenizer import build_tokenizer


@dataclass
class GeneratorStack:
    """Everything that turns a condition and a seed into an image.

    structures: names of the hint's channels, in order; unconditional: how guidance drops the text; image_size in
    pixels; model_id: name under which records refer to it; text_cache: hidden states of texts already encoded.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    controlnet: ControlNetModel | None
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    structures: tuple[str, ...]
    image_size: int
    unconditional: Literal["zero", "empty_prompt"] = "zero"
    model_id: str = "embedded"
    text_cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        device: torch.device = next(iter(self.unet.parameters())).device
        return device

    @property
    def latent_scale(self) -> float:
        """Factor from the VAE's latents to the UNet's."""
        return float(self.vae.config.scaling_factor)

    @property
    def latent_shift(self) -> float:
        """Subtracted from the VAE's latents before scaling; 0 for most models."""
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, h, w) of one image's latents."""
        side = self.image_size // vae_factor(self.vae)
        return int(self.vae.config.latent_channels), side, side

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        return str(self.scheduler.config.prediction_type)

    def modules(self) -> dict[str, nn.Module]:
        """The networks by folder name; without the ControlNet where there is none."""
        named: dict[str, nn.Module] = {"vae": self.vae, "unet": self.unet, "text_encoder": self.text_encoder}
        if self.controlnet is not None:
            named["controlnet"] = self.controlnet
        return named

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> GeneratorStack:
        """Move and cast all networks in place; forgets cached texts."""
        with quiet_libraries():
            for module in self.modules().values():
                module.to(device=device, dtype=dtype)
        choose_attention(self)
        self.text_cache.clear()
        return self

    def eval(self) -> GeneratorStack:
        """All networks in evaluation mode without gradients."""
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def encode_images(self, signal: Tensor) -> Tensor:
        """(B, 1, H, W) in [-1, 1] -> scaled latents (B, C, h, w), the posterior's mean."""
        latents: Tensor = self.vae.encode(adapt_signal(self.vae, signal)).latent_dist.mean
        return (latents - self.latent_shift) * self.latent_scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> (B, 1, H, W) in [-1, 1]."""
        output: Tensor = self.vae.decode(latents / self.latent_scale + self.latent_shift).sample
        return restore_signal(self.vae, output).clamp(-1, 1)


def choose_attention(stack: GeneratorStack) -> None:
    """Plain attention for small latents on a CPU, where the fused kernel's backward pass is several times slower.

    Results agree up to rounding; large latents and accelerators keep the fused kernel, which needs less memory.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    plain = stack.device.type == "cpu" and stack.latent_shape[1] <= 32
    for module in (stack.unet, stack.controlnet):
        if module is not None:
            module.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())


def save_stack(stack: GeneratorStack, folder: Path, half: bool = False) -> None:
    """Write the stack as safetensors (fp16 with `half`); the manifest last, as the sign of completeness."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        for name, module in stack.modules().items():
            saved: Any = copy.deepcopy(module).half() if half else module
            saved.save_pretrained(folder / name)
        stack.tokenizer.save_pretrained(folder / "tokenizer")
        stack.scheduler.save_pretrained(folder / "scheduler")
    manifest = {
        "format": 1,
        "model_id": stack.model_id,
        "structures": list(stack.structures),
        "unconditional": stack.unconditional,
        "image_size": stack.image_size,
        "has_controlnet": stack.controlnet is not None,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def tiny_stack(seed: int = 0, size: int = 32, structures: tuple[str, ...] = ("lungs", "heart")) -> GeneratorStack:
    """A stack with random weights for tests: whole in design, far too small to draw anything."""
    settings = UnetSettings(
        channels=(16, 32),
        attention=(False, True),
        heads=2,
        layers_per_block=1,
        norm_groups=8,
        hint_channels=(8, 8, 8),
        text_width=32,
        text_layers=1,
        text_heads=2,
    )
    vae = build_vae(VaeShape(channels=(8, 16), latent_channels=4), size, seed)
    tokenizer = build_tokenizer(["normal", "severe left pleural effusion", "mild right pneumothorax"], n_merges=100)
    unet = build_unet(4, size // 4, settings, seed + 1)
    stack = GeneratorStack(
        vae=vae,
        unet=unet,
        controlnet=build_controlnet(unet, len(structures), settings.hint_channels, seed + 2),
        text_encoder=build_text_encoder(tokenizer, settings, seed + 3),
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        structures=structures,
        image_size=size,
        model_id="tiny",
    )
    return stack.eval()
