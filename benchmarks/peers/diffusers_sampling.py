"""diffusers' own pipelines as the peer of sampling: run as they are, set by set, four images a call.

The networks are copies of ours with diffusers' default attention and memory layout; schedule, steps, guidance and
initial latents are the same. `controlled` is what somebody with a ControlNet runs for every mode (a black hint where
there is no mask), `plain` is `StableDiffusionPipeline`, which knows texts only. A text that is absent is a zero
embedding, as everywhere here: the pipelines would encode an empty prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from radpref.generation.sampling.sampler import make_solver, to_pixels
from radpref.generation.stack.autoencoder import restore_signal
from radpref.generation.stack.conditions import Condition, has_text, mask_to_hint
from radpref.generation.stack.models import GeneratorStack

SET_SIZE = 4


class DiffusersPeer:
    """The two pipelines on copies of a stack's networks."""

    def __init__(self, stack: GeneratorStack, n_steps: int, guidance_scale: float) -> None:
        self.n_steps, self.guidance_scale = n_steps, guidance_scale
        self.structures, self.image_size, self.device = len(stack.structures), stack.image_size, stack.device
        parts: dict[str, Any] = {
            "vae": copy.deepcopy(stack.vae),
            "unet": copy.deepcopy(stack.unet),
            "text_encoder": copy.deepcopy(stack.text_encoder),
            "tokenizer": stack.tokenizer,
            "scheduler": make_solver(stack, n_steps),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        controlnet = copy.deepcopy(stack.controlnet)
        self._networks = (parts["unet"], controlnet)
        self.fuse_attention(True)
        self.dtype: torch.dtype = parts["unet"].dtype
        self.width = int(parts["text_encoder"].config.hidden_size)
        self.plain = StableDiffusionPipeline(**parts)
        self.controlled = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
        for pipeline in (self.plain, self.controlled):
            pipeline.set_progress_bar_config(disable=True)

    def fuse_attention(self, on: bool) -> None:
        """Torch's fused attention, which is diffusers' default, or the sums written out."""
        for network in filter(None, self._networks):
            network.set_attn_processor(AttnProcessor2_0() if on else AttnProcessor())

    @contextmanager
    def steps(self, n: int) -> Iterator[None]:
        """Another number of steps for a block."""
        before, self.n_steps = self.n_steps, n
        try:
            yield
        finally:
            self.n_steps = before

    def _texts(self, condition: Condition) -> dict[str, Any]:
        """Prompt, or a zero embedding where there is none; the negative one is zero."""
        length = int(self.plain.tokenizer.model_max_length)
        zero = torch.zeros(1, length, self.width, device=self.device, dtype=self.dtype)
        said = {"prompt": [condition.text]} if has_text(condition.text) else {"prompt_embeds": zero}
        return {**said, "negative_prompt_embeds": zero, "num_images_per_prompt": SET_SIZE}

    def hint(self, condition: Condition) -> Tensor:
        """(1, S, H, W); black where there is no mask."""
        return mask_to_hint(condition.mask, self.structures, self.image_size)[None].to(self.device, self.dtype)

    @torch.no_grad()
    def sample_set(
        self, condition: Condition, latents: Tensor, *, plain: bool = False, scale: float = 1.0, output: str = "pt"
    ) -> Tensor:
        """Four images of a condition from initial latents (4, C, h, w); `output` "latent" leaves them undecoded."""
        common = {
            **self._texts(condition),
            "num_inference_steps": self.n_steps,
            "guidance_scale": self.guidance_scale,
            "latents": latents.to(self.device, self.dtype),
            "output_type": output,
        }
        if plain:
            result = self.plain(**common, height=self.image_size, width=self.image_size)
        else:
            result = self.controlled(**common, image=self.hint(condition), controlnet_conditioning_scale=scale)
        return torch.as_tensor(result.images)

    def grey(self, images: Tensor) -> np.ndarray:
        """What `sample_set` drew, (4, C, H, W) in [0, 1], as (4, H, W) uint8."""
        return to_pixels(restore_signal(self.plain.vae, images.float() * 2 - 1))
