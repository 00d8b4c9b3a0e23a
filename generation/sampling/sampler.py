"""Samples images: condition and seed -> image, with DPM-Solver++ (2M) and classifier-free guidance.

Each image starts from noise of its own `torch.Generator(seed)`, so it does not depend on the batch it is sampled in
(up to floating-point summation order: at most a few grey levels of 255 in float32). Conditions are sampled grouped by
mode: T2I never runs the ControlNet, and M2I skips the second branch, which would be identical. What does not depend
on the step is computed once a batch (`generation/sampling/denoising.py`). Nothing here is approximate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from radpref.data.core.errors import InvalidInput
from radpref.generation.sampling.compiling import images_per_batch, is_compiled
from radpref.generation.sampling.denoising import autocast, denoiser, make_ready
from radpref.generation.stack.conditions import Condition, ConditionBatch, encode_conditions
from radpref.generation.stack.device import pick_device
from radpref.generation.stack.models import GeneratorStack

if TYPE_CHECKING:
    from radpref.data.study.study import Study

log = logging.getLogger(__name__)

MODE_ORDER: tuple[str, ...] = ("T2I", "TM2I", "M2I")
DECODED_PIXELS = 16 * 512 * 512
"""Pixels decoded at once: the decoder's activations need more memory than the UNet's."""


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
    precision: str = "f32",
) -> Tensor:
    """Denoise one batch; scaled latents (n, C, h, w) float32. The loop never waits for the device."""
    solver = make_solver(stack, n_steps)
    solver.set_begin_index(0)
    steps = solver.timesteps.to(stack.device)
    latents = initial_noise(stack, seeds).to(stack.device) * float(solver.init_noise_sigma)
    compiled = is_compiled(stack)
    with autocast(stack, precision), denoiser(stack, batch, guidance_scale) as predict:
        for index, timestep in enumerate(solver.timesteps):
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            prediction = predict(latents, steps[index])
            latents = solver.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def to_pixels(signal: Tensor, dtype: Any = np.uint8) -> np.ndarray:
    """(n, 1, H, W) in [-1, 1] -> (n, H, W) uint8 or uint16 over the whole range of the type."""
    top = np.iinfo(dtype).max
    exact = torch.float32 if signal.device.type == "mps" else torch.float64
    scaled = (signal[:, 0].to(exact) * 0.5 + 0.5).clamp_(0, 1).mul_(int(top)).round_()
    small = scaled.to(torch.uint8 if dtype == np.uint8 else torch.int32)
    return np.asarray(small.cpu().numpy(), dtype=dtype)


@torch.no_grad()
def decode(stack: GeneratorStack, latents: Tensor, precision: str = "f32", *, whole: bool = False) -> Tensor:
    """Scaled latents (n, C, h, w) -> (n, 1, H, W) float32 in [-1, 1], as many at once as memory allows.

    `whole` decodes in float32 whatever the precision, for 16-bit images: an autoencoder that rounds to 8 or 11
    significant bits would invent the lower ones.
    """
    if whole:
        stack.vae.float()
        precision = "f32"
    most = max(1, DECODED_PIXELS // stack.image_size**2)
    at_once = next(size for size in range(min(most, len(latents)), 0, -1) if len(latents) % size == 0)
    weights = next(iter(stack.vae.parameters())).dtype
    with autocast(stack, precision):
        parts = torch.split(latents.to(weights).contiguous(), at_once)
        return torch.cat([stack.decode_latents(part).float() for part in parts])


@torch.no_grad()
def sample(
    stack: GeneratorStack,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    n_steps: int = 20,
    guidance_scale: float = 2.0,
    batch_size: int = 32,
    precision: str = "f32",
    dtype: Any = np.uint8,
    on_batch: Callable[[list[int], np.ndarray], None] | None = None,
) -> np.ndarray:
    """One image per (condition, seed): (N, H, W) uint8, or uint16 with `dtype=np.uint16`, in the order given.

    After each batch `on_batch(indices, images)` gets the places and the images done in it.
    A compiled stack gets batches of one number of UNet rows (`images_per_batch`): the last of a mode is filled up with
    its last image.

    Raises:
        InvalidInput: unequal lengths, an empty list, a condition without text and mask, a mask that does not fit the
            model, or a bad precision.
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
        at_once = images_per_batch(stack, mode, batch_size, guidance_scale)
        for start in range(0, len(members), at_once):
            part = members[start : start + at_once]
            rows = part + [part[-1]] * (at_once - len(part)) if is_compiled(stack) else part
            latents = sample_latents(
                stack,
                encode_conditions(stack, [conditions[i] for i in rows]),
                [seeds[i] for i in rows],
                n_steps=n_steps,
                guidance_scale=guidance_scale,
                precision=precision,
            )
            deep = dtype != np.uint8
            decoded = [decode(stack, piece, precision, whole=deep) for piece in torch.split(latents, batch_size)]
            images[part] = to_pixels(torch.cat(decoded), dtype)[: len(part)]
            if on_batch is not None:
                on_batch(part, images[part])
    return images


def load_sampler(study: Study, arm: str = "baseline", device: str = "auto") -> GeneratorStack:
    """The generator of an arm, ready to sample as study.toml says (precision, compilation).

    `device` is "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        NotFound: no such arm, or its folder is gone.
        InvalidInput: no such device, or it cannot do what study.toml asks for.
    """
    from radpref.generation.stack.adapters import load_arm

    settings, stack = study.config.generator, load_arm(study, arm, pick_device(device))
    if note := size_note(study.config.data.image_size, stack.image_size):
        log.warning("%s", note)
    return make_ready(
        stack,
        precision=settings.precision,
        compile_mode=settings.compile_mode if settings.compile else None,
    )


def size_note(size: int, drawn: int) -> str:
    """What happens where a generator draws another size than the study's records have, pixels; "" where it does not."""
    if size == drawn:
        return ""
    return (
        f"data.image_size is {size}, the generator draws {drawn} pixels: masks are scaled to {drawn}, and fidelity is"
        f" measured at {size}; to work at {drawn}, set data.image_size to it in a new study before importing"
    )
