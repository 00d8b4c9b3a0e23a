"""Samples images: condition and seed -> image, with DPM-Solver++ (2M) and classifier-free guidance.

Each image starts from noise of its own `torch.Generator(seed)`, so it does not depend on the batch it is sampled in
(up to floating-point summation order: at most a few grey levels of 255 in float32). Conditions are sampled grouped by
mode: T2I never runs the ControlNet, and M2I under "zero" skips the second branch, which would be identical.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from data.errors import InvalidInput
from generation.conditions import Condition, ConditionBatch, encode_conditions, guided
from generation.models import GeneratorStack

MODE_ORDER: tuple[str, ...] = ("T2I", "TM2I", "M2I")


def initial_noise(stack: GeneratorStack, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents (n, C, h, w), row i drawn from `seeds[i]` alone."""
    shape = stack.latent_shape
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows)


def make_solver(stack: GeneratorStack, n_steps: int) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ 2M on the stack's own noise schedule, set to `n_steps`."""
    if not 1 <= n_steps <= int(stack.scheduler.config.num_train_timesteps):
        raise InvalidInput(f"n_steps is {n_steps}: give 1 to {stack.scheduler.config.num_train_timesteps}")
    solver = DPMSolverMultistepScheduler.from_config(
        stack.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
    )
    solver.set_timesteps(n_steps)
    return solver


@torch.no_grad()
def sample_latents(
    stack: GeneratorStack,
    batch: ConditionBatch,
    seeds: Sequence[int],
    *,
    n_steps: int = 20,
    guidance_scale: float = 2.0,
    bf16: bool = False,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Denoise one batch; scaled latents (n, C, h, w) float32."""
    solver = make_solver(stack, n_steps)
    device = stack.device
    latents = initial_noise(stack, seeds).to(device) * float(solver.init_noise_sigma)
    for timestep in solver.timesteps:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            prediction = guided(stack, latents, timestep.to(device), batch, guidance_scale)
        latents = solver.step(prediction.float(), timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step()
    return latents


def to_pixels(signal: Tensor, dtype: Any = np.uint8) -> np.ndarray:
    """(n, 1, H, W) in [-1, 1] -> (n, H, W) uint8 or uint16 over the whole range of the type."""
    top = np.iinfo(dtype).max
    scaled = signal[:, 0].float().cpu().numpy().astype(np.float64) * 0.5 + 0.5
    return np.asarray(np.round(scaled.clip(0, 1) * top), dtype=dtype)


@torch.no_grad()
def sample(
    stack: GeneratorStack,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    n_steps: int = 20,
    guidance_scale: float = 2.0,
    batch_size: int = 32,
    bf16: bool = False,
    dtype: Any = np.uint8,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """One image per (condition, seed): (N, H, W) uint8, or uint16 with `dtype=np.uint16`, in the order given.

    `progress(n)` is called after each batch with the number of images done in it. InvalidInput on unequal lengths, an
    empty list, a condition without text and mask, or a mask that does not fit the model.
    """
    if len(conditions) != len(seeds):
        raise InvalidInput(f"{len(conditions)} conditions but {len(seeds)} seeds: give one seed for each condition")
    if not conditions:
        raise InvalidInput("no conditions to sample: give at least one")
    if batch_size < 1:
        raise InvalidInput(f"batch_size is {batch_size}: give 1 or more")
    images = np.zeros((len(conditions), stack.image_size, stack.image_size), dtype=dtype)
    modes = [condition.mode for condition in conditions]
    for mode in MODE_ORDER:
        members = [index for index, own in enumerate(modes) if own == mode]
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            batch = encode_conditions(stack, [conditions[i] for i in part])
            latents = sample_latents(
                stack,
                batch,
                [seeds[i] for i in part],
                n_steps=n_steps,
                guidance_scale=guidance_scale,
                bf16=bf16,
            )
            with torch.autocast(stack.device.type, dtype=torch.bfloat16, enabled=bf16):
                decoded = stack.decode_latents(latents)
            images[part] = to_pixels(decoded, dtype)
            if progress is not None:
                progress(len(part))
    return images
