"""Trains UNet, text encoder and ControlNet on latents with the noise-prediction loss.

    E || eps - eps_theta(z_t, t, c_text, c_mask) ||^2      (the study's Methods, "Model"; DDPM, Ho et al. 2020, Eq. 14)

Input: a stack and a `LatentCorpus`. Output: the stack with averaged weights. Text to image first (UNet or its LoRA, and
text encoder), then with masks (ControlNet, with or without the others); any images with captions or masks go through
the same functions. Models of velocity are trained on velocity. All random numbers of a step are drawn for the whole
batch, in every process alike (`radpref.generation.training.compute`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import MODES
from radpref.generation.stack.adapters import lora_parameters
from radpref.generation.stack.conditions import ConditionBatch, make_batch, predict_noise
from radpref.generation.stack.models import GeneratorStack, choose_attention
from radpref.generation.training.compute import Compute, Precision, prepare_module
from radpref.generation.training.latents import LatentCorpus, cache_text_states
from radpref.generation.training.loop import Budget, LoopSettings, Observe, Part, TrainingLoop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """What is trained and how.

    batch_size: images of one optimizer step, over all processes; accumulation: parts in which a process computes its
    share, one after the other; mode_mix: shares of T2I, M2I, TM2I; text_drop: share of texts taken away, for guidance;
    channel_drop: share of mask channels taken away, so that any subset of structures works as a condition;
    min_snr_gamma: None for a plain mean; coarse_weight: of `coarse_error`, 0 for none; unet_rate, text_rate,
    control_rate: factors on the learning rate, 0 freezes that network (a UNet that carries a LoRA trains the LoRA
    alone); checkpointing: recompute activations instead of keeping them; cache_text: encode each text once (only for a
    frozen text encoder).
    """

    batch_size: int = 32
    mode_mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    text_drop: float = 0.15
    channel_drop: float = 0.3
    min_snr_gamma: float | None = 5.0
    unet_rate: float = 1.0
    text_rate: float = 0.0
    control_rate: float = 0.0
    coarse_weight: float = 1.0
    precision: Precision = "bf16"
    accumulation: int = 1
    checkpointing: bool = False
    cache_text: bool = False
    loop: LoopSettings = field(default_factory=LoopSettings)


TEXT_STAGE = TrainSettings(text_rate=0.5, loop=LoopSettings(ema_decay=0.998))
MASK_STAGE = TrainSettings(
    mode_mix=(0.0, 0.5, 0.5),
    unet_rate=0.0,
    control_rate=1.0,
    loop=LoopSettings(ema_decay=0.997, warmup_steps=50),
)
"""The ControlNet alone: text to image stays exactly what the first stage made it."""
FINE_TUNE = TrainSettings(
    mode_mix=(0.4, 0.2, 0.4),
    text_rate=0.5,
    control_rate=1.0,
    loop=LoopSettings(learning_rate=3e-4, ema_decay=0.998),
)
"""All three networks, for real images starting from the embedded weights."""


@dataclass(frozen=True)
class Draw:
    """The random choices of one whole batch, on the CPU: everything but the images themselves.

    rows (B,); text_ids, text_present (B,); keep (B, S) bool: mask channels that are shown; timesteps (B,); noise
    (B, C, h, w).
    """

    rows: np.ndarray
    text_ids: Tensor
    text_present: Tensor
    keep: Tensor
    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """Rows on the device: latents and noise (n, C, h, w) float32, timesteps (n,), text ids and presence of text (n,),
    hint (n, S, H, W); mask_present (n,) stays on the CPU, where it decides what is computed.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text_ids: Tensor
    text_present: Tensor
    hint: Tensor
    mask_present: Tensor


def draw_batch(
    corpus: LatentCorpus, settings: TrainSettings, generator: torch.Generator, n_timesteps: int = 1000
) -> Draw:
    """Draw rows, modes, captions, mask channels, times and noise of a whole batch, all from `generator`."""
    size = settings.batch_size
    rows = torch.randint(len(corpus), (size,), generator=generator).numpy()
    modes = torch.multinomial(torch.tensor(settings.mode_mix), size, replacement=True, generator=generator)
    picks = torch.rand(size, generator=generator).tolist()
    dropped = torch.rand(size, generator=generator) < settings.text_drop
    captions = [corpus.caption_ids[row] for row in rows]
    chosen = torch.tensor([ids[int(pick * len(ids))] if ids else 0 for ids, pick in zip(captions, picks, strict=True)])
    known = torch.tensor([bool(ids) for ids in captions])
    wants_text = (modes != MODES.index("M2I")) & known
    text_present = wants_text & ~dropped
    if corpus.empty_id is not None:  # the text that this model knows as none
        chosen = torch.where(wants_text & dropped, corpus.empty_id, chosen)
        text_present = wants_text
    present = torch.from_numpy(corpus.present[rows])
    keep = torch.rand(size, present.shape[1], generator=generator) >= settings.channel_drop
    wants_mask = modes != MODES.index("T2I")
    if bool(wants_mask.any()):
        keep = _keep_one(keep, present, generator)
    keep = keep & present & wants_mask[:, None]
    timesteps = torch.randint(n_timesteps, (size,), generator=generator)
    noise = torch.randn((size, *corpus.latents.shape[1:]), generator=generator)
    return Draw(rows, chosen, text_present.float(), keep, timesteps, noise)


def _keep_one(keep: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Make sure that a row keeps at least one of its non-empty channels; (n, S) bool each."""
    lost = ~(keep & present).any(dim=1)
    weights = present.float() * torch.rand(present.shape, generator=generator)
    best = F.one_hot(weights.argmax(dim=1), present.shape[1]).bool()
    return keep | (best & lost[:, None])


def load_rows(corpus: LatentCorpus, draw: Draw, own: slice, compute: Compute) -> TrainingBatch:
    """Read the rows `own` of a drawn batch and put them on the device."""
    rows, keep = draw.rows[own], draw.keep[own]
    size, width = corpus.image_size, keep.shape[1]
    if bool(keep.any()):
        hint = corpus.hints(rows, compute) * compute.put(keep)[:, :, None, None]
    else:
        hint = torch.zeros(len(rows), width, size, size, device=compute.device)
    return TrainingBatch(
        latents=compute.put(torch.from_numpy(np.asarray(corpus.latents[rows]))).float(),
        noise=compute.put(draw.noise[own]),
        timesteps=compute.put(draw.timesteps[own]),
        text_ids=draw.text_ids[own],
        text_present=compute.put(draw.text_present[own]),
        hint=hint,
        mask_present=keep.any(dim=1).float(),
    )


def loss_weights(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float | None, prediction_type: str) -> Tensor:
    """Min-SNR weights (B,) of the squared error (Hang et al. 2023, Eq. 8); ones where gamma is None."""
    if gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    alpha = alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    divisor = snr if prediction_type == "epsilon" else snr + 1
    return snr.clamp(max=gamma) / divisor


def noise_loss(
    stack: GeneratorStack,
    rows: TrainingBatch,
    batch: ConditionBatch,
    settings: TrainSettings,
    control: nn.Module | None,
    compute: Compute,
) -> Tensor:
    """Weighted mean squared error of the predicted noise (or velocity) at the rows' times; a scalar."""
    scheduler, timesteps = stack.scheduler, rows.timesteps
    noisy = scheduler.add_noise(rows.latents, rows.noise, timesteps)
    is_epsilon = stack.prediction_type == "epsilon"
    target = rows.noise if is_epsilon else scheduler.get_velocity(rows.latents, rows.noise, timesteps)
    with compute.autocast(settings.precision):
        prediction = predict_noise(stack.unet, control, noisy, timesteps, batch)
    residual = prediction.float() - target
    alphas = scheduler.alphas_cumprod.to(residual.device)
    weights = loss_weights(alphas, timesteps, settings.min_snr_gamma, stack.prediction_type)
    coarse = coarse_error(residual, alphas[timesteps]) if settings.coarse_weight else residual.new_zeros(())
    return (residual.square().mean(dim=(1, 2, 3)) * weights + settings.coarse_weight * coarse).mean()


def coarse_error(residual: Tensor, alphas: Tensor, sides: tuple[int, ...] = (4, 16)) -> Tensor:
    """Squared error of the residual (B, C, h, w) averaged over blocks, relative to the noise of such averages; (B,).

    At nearly pure noise the plain error hardly weighs the image's mean (1 / (h w) of it), yet dividing by the tiny
    signal there turns a small error of the mean into an image that is far too bright or dark. A block average of side k
    has noise variance 1 / k^2 and at best k^2 times the signal-to-noise ratio; its weight is k^2 up to a ratio of one
    and falls inversely beyond. The optimum is the same as without (after Hoogeboom et al. 2023, multiscale loss).
    """
    snr = alphas / (1 - alphas)
    total = torch.zeros_like(snr)
    for side in sides:
        if side <= residual.shape[-1]:
            error = F.avg_pool2d(residual, side).square().mean(dim=(1, 2, 3))
            total = total + error * (1 / snr).clamp(max=float(side**2))
    return total


def _parameter_groups(stack: GeneratorStack, settings: TrainSettings) -> list[tuple[list[nn.Parameter], float]]:
    """Trainable parameters with their rate factors; freezes everything else."""
    for frozen in stack.modules().values():
        frozen.requires_grad_(False).eval()
    groups: list[tuple[list[nn.Parameter], float]] = []
    chosen: list[tuple[nn.Module | None, float]] = [
        (stack.unet, settings.unet_rate),
        (stack.text_encoder, settings.text_rate),
        (stack.controlnet, settings.control_rate),
    ]
    lora = list(lora_parameters(stack.unet).values())
    for module, rate in chosen:
        if module is None or rate <= 0:
            continue
        if module is stack.unet and lora:
            for parameter in lora:
                parameter.requires_grad_(True)
        else:
            module.requires_grad_(True)
        module.train()
        groups.append(([p for p in module.parameters() if p.requires_grad], rate))
    if not groups:
        raise InvalidInput("nothing to train: unet_rate, text_rate and control_rate are all 0")
    return groups


class NoiseObjective:
    """The loss of a stack on a corpus, computed in parts by every process on its own rows."""

    def __init__(
        self,
        stack: GeneratorStack,
        corpus: LatentCorpus,
        settings: TrainSettings,
        compute: Compute,
        text_states: np.ndarray | None,
    ) -> None:
        """`text_states`: cached states (U, L, D) of the corpus' texts, None to encode texts as they come."""
        self.stack, self.corpus, self.settings, self.compute = stack, corpus, settings, compute
        self.text_states = text_states
        self.control = stack.controlnet if sum(settings.mode_mix[1:]) > 0 else None

    def loss(self, draw: Draw, own: slice) -> Tensor:
        """Mean loss of some rows of a drawn batch."""
        rows = load_rows(self.corpus, draw, own, self.compute)
        batch = make_batch(self._states(rows), rows.hint, rows.text_present, rows.mask_present)
        return noise_loss(self.stack, rows, batch, self.settings, self.control, self.compute)

    def _states(self, rows: TrainingBatch) -> Tensor:
        if self.text_states is not None:
            return self.compute.put(torch.from_numpy(self.text_states[rows.text_ids.numpy()])).float()
        with self.compute.autocast(self.settings.precision):
            ids = self.compute.put(self.corpus.token_ids[rows.text_ids])
            states: Tensor = self.stack.text_encoder(input_ids=ids).last_hidden_state
        return states.float()

    def parts(self, draw: Draw) -> Iterator[Part]:
        """The losses of this process' rows, part by part; their sum is the mean over the rows."""
        n = self.settings.accumulation
        for part in range(n):
            own = self.compute.own_rows(len(draw.rows), part, n)
            yield Part(self.loss(draw, own) / n, own.stop - own.start)


def train(
    stack: GeneratorStack,
    corpus: LatentCorpus,
    folder: Path,
    budget: Budget,
    settings: TrainSettings,
    seed: int = 0,
    compute: Compute | None = None,
    observe: Observe | None = None,
) -> GeneratorStack:
    """Train (or resume) the stack in place and return it with averaged weights, frozen.

    Raises:
        InvalidInput: masks are asked for and the stack has no ControlNet; a batch that the processes cannot share;
            fp16 without CUDA; a loss that is no longer a number.
        RadprefError: the device's memory did not suffice.
    """
    if sum(settings.mode_mix[1:]) > 0 and stack.controlnet is None:
        raise InvalidInput(f"mode mix {settings.mode_mix} trains masks, but the stack has no ControlNet: add one first")
    compute = compute or Compute(stack.device)
    compute.check_batch(settings.batch_size, settings.accumulation)
    for module in (stack.unet, stack.controlnet):
        if module is not None:
            prepare_module(module, compute, checkpointing=settings.checkpointing)
    prepare_module(stack.text_encoder, compute)
    choose_attention(stack)
    groups = _parameter_groups(stack, settings)
    generator = torch.Generator().manual_seed(seed)
    cached = settings.cache_text and settings.text_rate <= 0
    states = cache_text_states(stack, corpus, folder, compute) if cached else None
    objective = NoiseObjective(stack, corpus, settings, compute, states)
    loop = TrainingLoop(folder, groups, generator, budget, settings.loop, compute, settings.precision)
    control_group = len(groups) - 1 if settings.control_rate > 0 and stack.controlnet is not None else None
    n_timesteps = int(stack.scheduler.config.num_train_timesteps)

    def parts(step: int, progress: float) -> Iterator[Part]:
        del step, progress
        draw = draw_batch(corpus, settings, generator, n_timesteps)
        if control_group is not None:
            loop.active[control_group] = bool(draw.keep.any())
        return objective.parts(draw)

    loop.run(parts, observe)
    loop.keep()
    stack.text_cache.clear()
    return stack.eval()
