"""One batch's noise predictions over all sampling steps: what does not depend on the step is made once, exactly.

Made once per batch: the text states of both guidance branches, whether there are masks (no look at the device between
two steps), and the ControlNet's hint encoder, whose output depends on the hint alone. T2I never runs the ControlNet,
and M2I has one branch. Input: a `GeneratorStack` and a `ConditionBatch`. Output: noise (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.generation.sampling.compiling import compile_networks, is_compiled, zero_residuals
from radpref.generation.stack.conditions import (
    ConditionBatch,
    Residuals,
    both_branches,
    controlnet_hint,
    guide,
    masked_rows,
    needs_guidance,
    predict_noise,
)

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from radpref.generation.stack.models import GeneratorStack

PRECISIONS: dict[str, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Denoiser:
    """Predicts the noise of one batch at any time step, under guidance; entered with `denoiser`."""

    def __init__(self, stack: GeneratorStack, batch: ConditionBatch, guidance_scale: float) -> None:
        self.stack, self.scale = stack, guidance_scale
        self.two_branches = needs_guidance(batch, guidance_scale)
        self.masked = masked_rows(batch)
        self.batch = both_branches(stack, batch) if self.two_branches else batch
        self.residuals: Residuals | None = None

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The guided prediction (B, C, h, w) in float32; `timestep` is a tensor of one element on the device."""
        stack = self.stack
        rows = torch.cat([latents, latents]) if self.two_branches else latents
        # one layout in every step and mode: a compiled network is compiled again for another
        rows = rows.to(stack.unet.dtype).contiguous()
        if self.masked == "none" and stack.controlnet is not None and is_compiled(stack) and self.residuals is None:
            self.residuals = zero_residuals(stack.unet, rows)
        output = predict_noise(
            stack.unet,
            stack.controlnet,
            rows,
            timestep.expand(len(rows)),
            self.batch,
            self.masked,
            self.residuals,
        ).float()
        return guide(output, self.scale) if self.two_branches else output


@contextmanager
def denoiser(stack: GeneratorStack, batch: ConditionBatch, guidance_scale: float) -> Iterator[Denoiser]:
    """A `Denoiser`; inside the block the ControlNet takes encoded hints. One block at a time and stack."""
    weights = stack.unet.dtype
    batch = replace(batch, text_states=batch.text_states.to(weights), hint=batch.hint.to(weights))
    if stack.controlnet is None or masked_rows(batch) == "none":
        yield Denoiser(stack, batch, guidance_scale)
        return
    with encoded_hints(stack.controlnet, batch.hint) as hint:
        yield Denoiser(stack, replace(batch, hint=hint), guidance_scale)


@contextmanager
def encoded_hints(controlnet: ControlNetModel, hint: Tensor) -> Iterator[Tensor]:
    """The hint encoder's output (B, C, h, w) for `hint`; inside the block the ControlNet takes that for a hint."""
    encoder = controlnet.controlnet_cond_embedding
    swapped = controlnet.config.controlnet_conditioning_channel_order == "bgr"
    painted = controlnet_hint(controlnet, hint)
    encoded = encoder(painted.flip(1) if swapped else painted)
    controlnet.controlnet_cond_embedding = nn.Identity()
    try:
        # the ControlNet turns the channels of what it is given, so they are turned beforehand
        yield encoded.flip(1) if swapped else encoded
    finally:
        controlnet.controlnet_cond_embedding = encoder


def autocast(stack: GeneratorStack, precision: str) -> Any:
    """Autocast to `precision` where the weights are float32; weights of another type are used as they are.

    Raises:
        InvalidInput: an unknown precision, or fp16 without a GPU.
    """
    if precision not in PRECISIONS:
        raise InvalidInput(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and stack.device.type == "cpu":
        raise InvalidInput("precision 'fp16' needs a GPU: choose 'bf16' or 'f32' for the processor")
    enabled = precision != "f32" and stack.unet.dtype == torch.float32
    return torch.autocast(stack.device.type, dtype=PRECISIONS[precision] if enabled else None, enabled=enabled)


def make_ready(stack: GeneratorStack, *, precision: str = "f32", compile_mode: str | None = None) -> GeneratorStack:
    """Lay a stack out for sampling (changed in place and returned); not for training afterwards.

    Convolutions run on channels-last weights. On a GPU the weights are cast to `precision` once (autocast would cast
    frozen ones in every call). `compile_mode` compiles UNet, ControlNet and decoder with ``torch.compile``: "default",
    "reduce-overhead" (CUDA graphs) or "max-autotune"; batches are then padded to one size, and cuDNN tries its
    algorithms once for each shape (a setting of the whole process).
    """
    if compile_mode is not None and stack.device.type != "cuda":
        raise InvalidInput(f"generator.compile needs a GPU; this model is on {stack.device.type}: set it to false")
    autocast(stack, precision)
    for name, module in stack.modules().items():
        if name != "text_encoder":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if stack.device.type != "cpu" and precision != "f32":
        stack.to(stack.device, PRECISIONS[precision])
    if compile_mode is not None:
        torch.backends.cudnn.benchmark = True
        compile_networks(stack, compile_mode)
    return stack
