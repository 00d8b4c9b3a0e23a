"""Compiled networks for sampling: one graph each of UNet, ControlNet and decoder, whatever the mode.

A graph is compiled for one shape, and compiling takes up to a minute each. So all modes of a compiled stack run the
same number of UNet rows: images that need no second guidance branch come in twice as large batches, and texts alone
get residuals of zero where a ControlNet is there (the zeros are read, 17 MB of bf16 a row at Stable Diffusion's size;
the ControlNet is not run). `tests/generation/sampling/test_compiling.py` counts graphs, breaks and recompilations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from radpref.generation.stack.models import GeneratorStack

INDUCTOR_OPTIONS: dict[str, Any] = {"conv_1x1_as_mm": True}
"""Beside those of a mode: the shortcuts of residual blocks are matrix products on channels-last data."""
GRAPHS_KEPT = 32
"""Of one function: torch falls back to uncompiled networks, with a warning only, after 8, and diffusers' UNets and
ControlNets share one function."""


def compile_networks(stack: GeneratorStack, mode: str, backend: Any = "inductor") -> None:
    """``torch.compile`` on UNet, ControlNet and the VAE's decoder, in place, for fixed shapes.

    `mode` is "default", "reduce-overhead" or "max-autotune"; another `backend` than torch's own takes no mode.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_KEPT)
    options: dict[str, Any] = {}
    if backend == "inductor":
        from torch._inductor import list_mode_options

        options = {"options": list_mode_options(mode) | INDUCTOR_OPTIONS}
    for module in (stack.unet, stack.controlnet, stack.vae.decoder):
        if module is not None:
            module.compile(backend=backend, dynamic=False, **options)


def is_compiled(stack: GeneratorStack) -> bool:
    """Whether `compile_networks` was here: batches must keep one size, or every new size compiles again."""
    return getattr(stack.unet, "_compiled_call_impl", None) is not None


def images_per_batch(stack: GeneratorStack, mode: str, batch_size: int, guidance_scale: float) -> int:
    """Images sampled at once: `batch_size`, twice as many of M2I in a compiled stack, as it needs one branch only."""
    one_branch = mode == "M2I" and guidance_scale != 1.0
    return 2 * batch_size if one_branch and is_compiled(stack) else batch_size


def zero_residuals(unet: UNet2DConditionModel, latents: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a ControlNet gives for samples without a mask, without running one: zeros (down blocks, mid block).

    Shapes, type and channels-last layout are those of the residuals of `latents` (B, C, h, w).
    """
    config = unet.config
    channels = [int(width) for width in config.block_out_channels]
    layers = config.layers_per_block
    depth = [int(layers)] * len(channels) if isinstance(layers, int) else [int(n) for n in layers]
    height, width = latents.shape[-2:]
    shapes = [(channels[0], height, width)]
    for index, (own, n_layers) in enumerate(zip(channels, depth, strict=True)):
        shapes += [(own, height, width)] * n_layers
        if index < len(channels) - 1:
            height, width = (height + 1) // 2, (width + 1) // 2
            shapes.append((own, height, width))

    def zeros(shape: tuple[int, ...]) -> Tensor:
        empty = torch.empty(
            (len(latents), *shape), dtype=latents.dtype, device=latents.device, memory_format=torch.channels_last
        )
        return empty.zero_()

    return tuple(zeros(shape) for shape in shapes), zeros((channels[-1], height, width))
