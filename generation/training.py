"""Trains UNet, text encoder and ControlNet on latents with the noise-prediction loss.

    E || eps - eps_theta(z_t, t, c_text, c_mask) ||^2      (the study's Methods, "Model"; DDPM, Ho et al. 2020, Eq. 14)

Input: a stack and a `Corpus`. Output: the stack with averaged weights. Text to image first (UNet and text encoder),
then with masks (UNet and ControlNet, modes mixed); any images with captions or masks go through the same functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InvalidInput
from data.progress import bar
from generation.conditions import ConditionBatch, make_batch, predict_noise
from generation.corpus import Corpus
from generation.loop import Budget, LoopSettings, TrainingLoop
from generation.models import GeneratorStack, choose_attention
from generation.tokenizer import tokenize
from generation.vae_training import to_signal

log = logging.getLogger(__name__)

MODES: tuple[str, ...] = ("T2I", "M2I", "TM2I")


@dataclass(frozen=True)
class TrainSettings:
    """What is trained and how.

    mode_mix: shares of T2I, M2I, TM2I; text_drop: share of texts taken away, for guidance; channel_drop: share of mask
    channels taken away, so that any subset of structures works as a condition; min_snr_gamma: None for a plain mean;
    coarse_weight: of `coarse_error`, 0 for none; unet_rate, text_rate, control_rate: factors on the learning rate, 0
    freezes that network.
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
    bf16: bool = True
    loop: LoopSettings = field(default_factory=LoopSettings)


TEXT_STAGE = TrainSettings(text_rate=0.5, loop=LoopSettings(learning_rate=1e-3, ema_decay=0.998, warmup_steps=100))
MASK_STAGE = TrainSettings(
    mode_mix=(0.0, 0.5, 0.5),
    unet_rate=0.0,
    control_rate=1.0,
    loop=LoopSettings(learning_rate=1e-3, ema_decay=0.997, warmup_steps=50),
)
"""The ControlNet alone: text to image stays exactly what the first stage made it."""
FINE_TUNE = TrainSettings(
    mode_mix=(0.4, 0.2, 0.4),
    unet_rate=1.0,
    text_rate=0.5,
    control_rate=1.0,
    loop=LoopSettings(learning_rate=3e-4, ema_decay=0.998, warmup_steps=100),
)
"""All three networks, for real images starting from the embedded weights."""


@dataclass(frozen=True)
class LatentCorpus:
    """What training reads: one row per image (or augmented variant of it).

    latents: float16 (M, C, h, w), scaled; packed_masks: uint8 (M, S, H, W/8); token_ids: int64 (U, L) of the unique
    captions; caption_ids: per row the indices of its captions (may be empty); image_size: pixels.
    """

    latents: np.ndarray
    packed_masks: np.ndarray
    token_ids: Tensor
    caption_ids: list[list[int]]
    image_size: int

    def __len__(self) -> int:
        return len(self.latents)

    def hints(self, rows: np.ndarray) -> Tensor:
        """Masks of some rows as float32 (n, S, H, W) in {0, 1}."""
        packed = np.asarray(self.packed_masks[rows])
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self.image_size)).float()


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Small shifts (4 %), zooms (6 %) and gains (8 %); no flips, as laterality matters.

    images (n, 1, H, W) in [-1, 1], masks (n, S, H, W) in {0, 1}; both come back alike.
    """
    n = len(images)
    draws = torch.rand(n, 4, generator=generator) * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + 0.06 * draws[:, 0]
    theta[:, :, 2] = 0.08 * draws[:, 1:3]  # half of the image is 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    moved_masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    gain = (1 + 0.08 * draws[:, 3])[:, None, None, None]
    return ((moved + 1) * gain - 1).clamp(-1, 1), moved_masks


def encode_corpus(
    stack: GeneratorStack, corpus: Corpus, folder: Path, n_variants: int = 1, seed: int = 0, batch_size: int = 64
) -> LatentCorpus:
    """Encode images once; variant 0 is the image itself, the others are augmented. Kept in `folder`, memory-mapped.

    InvalidInput where structures or image size of corpus and stack differ.
    """
    if corpus.structures != stack.structures:
        raise InvalidInput(f"masks are {list(corpus.structures)}, the model's {list(stack.structures)}: make equal")
    if corpus.image_size != stack.image_size:
        raise InvalidInput(f"corpus images are {corpus.image_size} px, the model's {stack.image_size}: resize them")
    if len(corpus) == 0:
        raise InvalidInput("the corpus has no images: import some first")
    folder.mkdir(parents=True, exist_ok=True)
    n_rows = len(corpus) * n_variants
    latent_path, mask_path = folder / "latents.npy", folder / "masks.npy"
    if not (latent_path.exists() and np.load(latent_path, mmap_mode="r").shape[0] == n_rows):
        latents = np.zeros((n_rows, *stack.latent_shape), dtype=np.float16)
        masks = np.zeros((n_rows, *corpus.packed_masks.shape[1:]), dtype=np.uint8)
        generator = torch.Generator().manual_seed(seed)
        with bar("encode images", n_rows) as advance:
            for start in range(0, n_rows, batch_size):
                rows = np.arange(start, min(start + batch_size, n_rows))
                images, planes = _variant(corpus, rows, generator)
                latents[rows] = stack.encode_images(images).to(torch.float16).numpy()
                masks[rows] = planes
                advance(len(rows))
        np.save(mask_path, masks)
        np.save(folder / "latents.part.npy", latents)
        (folder / "latents.part.npy").replace(latent_path)
    return _assemble(stack, corpus, latent_path, mask_path, n_variants)


def _variant(corpus: Corpus, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Images and packed masks of rows; rows beyond the corpus' length are augmented variants."""
    sources = rows % len(corpus)
    images = to_signal(np.asarray(corpus.images[sources]))
    packed = np.asarray(corpus.packed_masks[sources])
    is_variant = torch.from_numpy(rows >= len(corpus))
    if bool(is_variant.any()):
        planes = torch.from_numpy(corpus.masks(sources)).float()
        moved, moved_planes = augment(images, planes, generator)
        images = torch.where(is_variant[:, None, None, None], moved, images)
        chosen = torch.where(is_variant[:, None, None, None], moved_planes, planes)
        packed = np.packbits(chosen.numpy() > 0.5, axis=-1)
    return images, packed


def _assemble(
    stack: GeneratorStack, corpus: Corpus, latent_path: Path, mask_path: Path, n_variants: int
) -> LatentCorpus:
    unique = list(dict.fromkeys(text for texts in corpus.captions for text in texts)) or ["normal"]
    index = {text: number for number, text in enumerate(unique)}
    caption_ids = [[index[text] for text in texts] for texts in corpus.captions]
    return LatentCorpus(
        np.load(latent_path, mmap_mode="r"),
        np.load(mask_path, mmap_mode="r"),
        tokenize(stack.tokenizer, unique),
        caption_ids * n_variants,
        stack.image_size,
    )


@dataclass(frozen=True)
class TrainingBatch:
    """Drawn rows: latents (B, C, h, w) float32, token ids (B, L), presence of text (B,), hint (B, S, H, W)."""

    latents: Tensor
    token_ids: Tensor
    text_present: Tensor
    hint: Tensor


def draw_batch(corpus: LatentCorpus, settings: TrainSettings, generator: torch.Generator) -> TrainingBatch:
    """Draw rows, modes, captions and mask channels, all from `generator`."""
    size = settings.batch_size
    rows = torch.randint(len(corpus), (size,), generator=generator).numpy()
    modes = torch.multinomial(torch.tensor(settings.mode_mix), size, replacement=True, generator=generator)
    picks = torch.rand(size, generator=generator).tolist()
    dropped = torch.rand(size, generator=generator) < settings.text_drop
    captions = [corpus.caption_ids[row] for row in rows]
    chosen = [ids[int(pick * len(ids))] if ids else 0 for ids, pick in zip(captions, picks, strict=True)]
    known = torch.tensor([bool(ids) for ids in captions])
    text_present = (modes != MODES.index("M2I")) & ~dropped & known
    latents = torch.from_numpy(np.asarray(corpus.latents[rows])).float()
    n_structures = corpus.packed_masks.shape[1]
    keep = torch.rand(size, n_structures, generator=generator) >= settings.channel_drop
    wants_mask = modes != MODES.index("T2I")
    if bool(wants_mask.any()):
        hint = corpus.hints(rows)
        keep = _keep_one(keep, hint.flatten(2).any(dim=2), generator)
        hint = hint * (keep & wants_mask[:, None])[:, :, None, None]
    else:
        hint = torch.zeros(size, n_structures, corpus.image_size, corpus.image_size)
    return TrainingBatch(latents, corpus.token_ids[chosen], text_present.float(), hint)


def _keep_one(keep: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Make sure that a row keeps at least one of its non-empty channels; (n, S) bool each."""
    lost = ~(keep & present).any(dim=1)
    weights = present.float() * torch.rand(present.shape, generator=generator)
    best = F.one_hot(weights.argmax(dim=1), present.shape[1]).bool()
    return keep | (best & lost[:, None])


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
    latents: Tensor,
    batch: ConditionBatch,
    generator: torch.Generator,
    settings: TrainSettings,
    control: nn.Module | None,
) -> Tensor:
    """Weighted mean squared error of the prediction at random times; a scalar."""
    scheduler = stack.scheduler
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = noise if stack.prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
        prediction = predict_noise(stack.unet, control, noisy, timesteps, batch)
    residual = prediction.float() - target
    alphas = scheduler.alphas_cumprod
    weights = loss_weights(alphas, timesteps, settings.min_snr_gamma, stack.prediction_type)
    coarse = coarse_error(residual, alphas[timesteps]) if settings.coarse_weight else torch.zeros(())
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
    for module, rate in chosen:
        if module is not None and rate > 0:
            module.requires_grad_(True).train()
            groups.append(([p for p in module.parameters() if p.requires_grad], rate))
    if not groups:
        raise InvalidInput("nothing to train: unet_rate, text_rate and control_rate are all 0")
    return groups


def train(
    stack: GeneratorStack,
    corpus: LatentCorpus,
    folder: Path,
    budget: Budget,
    settings: TrainSettings,
    seed: int = 0,
    on_checkpoint: Callable[[int], None] | None = None,
    stop_after: int | None = None,
) -> GeneratorStack:
    """Train (or resume) the stack in place and return it with averaged weights, frozen.

    InvalidInput where masks are asked for and the stack has no ControlNet.
    """
    with_masks = sum(settings.mode_mix[1:]) > 0
    if with_masks and stack.controlnet is None:
        raise InvalidInput(f"mode mix {settings.mode_mix} trains masks, but the stack has no ControlNet: add one first")
    choose_attention(stack)
    groups = _parameter_groups(stack, settings)
    generator = torch.Generator().manual_seed(seed)
    loop = TrainingLoop(folder, groups, generator, budget, settings.loop)
    control = stack.controlnet if with_masks else None

    def loss_fn(step: int, progress: float) -> tuple[Tensor, int]:
        del step, progress
        drawn = draw_batch(corpus, settings, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            states = stack.text_encoder(input_ids=drawn.token_ids).last_hidden_state
        batch = make_batch(states.float(), drawn.hint, drawn.text_present)
        return noise_loss(stack, drawn.latents, batch, generator, settings, control), len(drawn.latents)

    loop.run(loss_fn, on_checkpoint, stop_after)
    loop.ema.copy_to_model()
    stack.text_cache.clear()
    return stack.eval()
