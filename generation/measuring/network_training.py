"""Training of the measuring networks: images with attributes and masks -> `MeasureNet`, checked on held-out patients.

`radpref.generation.measuring.shipped_networks` trains those that are shipped, `study_networks` those of a study.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.data.core.errors import InvalidInput
from radpref.data.core.statistics import auroc
from radpref.data.imaging.masks import dice
from radpref.generation.measuring.architectures import NetworkShape, build_network
from radpref.generation.measuring.measuring_data import MeasureData, best_threshold, f1
from radpref.generation.measuring.measuring_network import ROLES, MeasureNet, Role, resize_square, standardise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasureSettings:
    """How long and how hard one measuring network is trained."""

    n_steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3  # AdamW, peak, after a warm-up of 5 %
    weight_decay: float = 0.02
    bfloat16: bool = True  # autocast; weights stay float32


# --- augmentation ----------------------------------------------------------------------------------------------


def augment(x: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Small shifts, scales and turns (image and masks alike); gamma, contrast, blur and noise (image). Never a flip.

    Args:
        x: (B, 1, S, S) float32 in [0, 1]; masks: (B, T, S, S) float32 in [0, 1].

    Generated images are a little softer or noisier than training images: a network must not read that as a finding.
    """
    x, masks = _move(x, masks, generator)
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    x = x.clamp(0, 1) ** torch.exp(uniform(-0.35, 0.35))
    x = (x - 0.5) * uniform(0.75, 1.25) + 0.5 + uniform(-0.1, 0.1)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    softer = F.avg_pool2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = uniform(-0.8, 1.6).clamp(0, 1.5)  # a third stays sharp
    x = torch.where(amount <= 1, x + amount * (soft - x), soft + (amount - 1) * (softer - soft))
    x = x + uniform(-0.02, 0.05).clamp(min=0) * torch.randn(x.shape, generator=generator)
    return x, masks


def _move(x: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Affine warp: shift <= 5 %, scale <= 8 %, turn <= 4 degrees; borders repeat in the image, are empty in masks."""
    n = len(x)
    draw = 2 * torch.rand(n, 5, generator=generator) - 1
    angle, sx, sy = draw[:, 0] * 0.07, 1 + 0.08 * draw[:, 1], 1 + 0.08 * draw[:, 2]
    theta = torch.stack(
        [
            torch.stack([sx * torch.cos(angle), -torch.sin(angle), 0.1 * draw[:, 3]], 1),
            torch.stack([torch.sin(angle), sy * torch.cos(angle), 0.1 * draw[:, 4]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, *x.shape[-2:]], align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if masks.shape[1]:
        masks = F.grid_sample(masks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved, masks


# --- loss ------------------------------------------------------------------------------------------------------


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over known labels: logits (B, A), labels (B, A) in {0, 1, NaN} -> scalar."""
    known = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(labels), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def structure_loss(logits: Tensor, masks: Tensor, has_mask: Tensor) -> Tensor:
    """BCE + soft Dice over known masks: logits and masks (B, T, h, w), has_mask (B, T) -> scalar.

    Dice counts where the structure is there; an empty known mask is taught by BCE alone.
    """
    weight = has_mask.float()
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((-2, -1))
    p = torch.sigmoid(logits)
    overlap = 1 - (2 * (p * masks).sum((-2, -1)) + 1) / ((p + masks).sum((-2, -1)) + 1)
    there = weight * (masks.sum((-2, -1)) > 0)
    return (bce * weight).sum() / weight.sum().clamp(min=1) + (overlap * there).sum() / there.sum().clamp(min=1)


# --- training --------------------------------------------------------------------------------------------------


def resized(data: MeasureData, size: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 1, S, S) and masks uint8 (N, T, S, S) in 0..255, once, before training."""
    images, masks = [], []
    for start in range(0, len(data), 256):
        part = slice(start, start + 256)
        x = torch.from_numpy(np.ascontiguousarray(data.images[part])).float()[:, None]
        m = torch.from_numpy(np.ascontiguousarray(data.masks[part])).float() * 255
        images.append(resize_square(x, size).round().clamp(0, 255).byte())
        masks.append(resize_square(m, size).round().byte() if m.shape[1] else m.new_zeros(len(m), 0, size, size).byte())
    return torch.cat(images), torch.cat(masks)


def train_measure(
    name: str,
    role: Role,
    train: MeasureData,
    validation: MeasureData,
    *,
    shape: NetworkShape,
    seed: int,
    settings: MeasureSettings,
    test: MeasureData | None = None,
) -> MeasureNet:
    """Train one measuring network; thresholds come from `validation`, figures from it and from `test`.

    The same data, seed and number of steps give the same network.

    Raises:
        InvalidInput: an unknown role, no images, a patient in both parts, or a shape that does not fit the data.
    """
    _check(role, train, validation, shape)
    if test is not None:
        _check(role, train, test, shape)
    module = build_network(shape, seed)
    module.train()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = _fit(module, train, shape.input_size, seed, settings)
    net = MeasureNet(name, role, shape, train.attributes, train.structures, module.eval())
    p = net.predict(validation.images)
    for column, attribute in enumerate(net.attributes):
        known = np.isfinite(validation.labels[:, column])
        net.thresholds[attribute] = round(best_threshold(validation.labels[known, column], p[known, column]), 4)
    net.info = {
        "seed": seed,
        "n_steps": settings.n_steps,
        "train_seconds": round(seconds),
        "batch_size": settings.batch_size,
        "train": {"draw": train.draw, "n": len(train), "sha256": train.sha256},
        "validation": {"draw": validation.draw, "n": len(validation), "sha256": validation.sha256},
        "validation_figures": asdict(measure_figures(net, validation)),
    }
    if test is not None:
        net.info["test"] = {"draw": test.draw, "n": len(test), "sha256": test.sha256}
        net.info["test_figures"] = asdict(measure_figures(net, test))
    return net


def _check(role: str, train: MeasureData, validation: MeasureData, shape: NetworkShape) -> None:
    if role not in ROLES:
        raise InvalidInput(f"unknown role {role!r}: choose one of {', '.join(ROLES)}")
    if not len(train) or not len(validation):
        raise InvalidInput(f"{len(train)} training and {len(validation)} validation images: give at least one of each")
    shared = set(train.patients) & set(validation.patients)
    if shared:
        raise InvalidInput(
            f"{len(shared)} patients are in training and in held-out data, e.g. {min(shared)}: split by patient"
        )
    if (shape.n_attributes, shape.n_structures) != (len(train.attributes), len(train.structures)):
        raise InvalidInput(
            f"the shape has {shape.n_attributes} attributes and {shape.n_structures} structures, "
            f"the data {len(train.attributes)} and {len(train.structures)}: make them equal"
        )


def run_steps(
    module: torch.nn.Module, settings: MeasureSettings, weight_decay: float, loss_of: Callable[[int], Tensor]
) -> float:
    """`settings.n_steps` AdamW steps on `loss_of(step)`, warm-up then cosine; returns the seconds they took."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=weight_decay, fused=True)
    shown = start = time.monotonic()
    for step in range(settings.n_steps):
        fraction = step / settings.n_steps
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(fraction / 0.05 + 0.02, 0.5 + 0.5 * np.cos(np.pi * fraction))
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            log.info("step %d, %.0f %%, loss %.4f", step + 1, 100 * fraction, float(loss.detach()))
    return time.monotonic() - start


def _fit(module: torch.nn.Module, data: MeasureData, size: int, seed: int, settings: MeasureSettings) -> float:
    """Train on shuffled batches; returns the seconds it took."""
    images, masks = resized(data, size)
    labels, has_mask = torch.from_numpy(data.labels), torch.from_numpy(data.has_mask)
    generator = torch.Generator().manual_seed(seed)
    n, batch = len(images), min(settings.batch_size, len(images))
    order = torch.randperm(n, generator=generator)

    def loss_of(step: int) -> Tensor:
        nonlocal order
        at = step * batch % (n - n % batch)
        if at == 0:  # at step 0 too: the first order is never used, but the shipped networks drew it
            order = torch.randperm(n, generator=generator)
        rows = order[at : at + batch]
        x, m = augment(images[rows].float() / 255, masks[rows].float() / 255, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            logits, maps, _ = module(standardise(x).to(memory_format=torch.channels_last))
        loss = attribute_loss(logits.float(), labels[rows])
        if maps is not None and m.shape[1]:
            target = F.interpolate(m, size=maps.shape[-2:], mode="area")
            loss = loss + structure_loss(maps.float(), target, has_mask[rows])
        return loss

    return run_steps(module, settings, settings.weight_decay, loss_of)


# --- figures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttributeFigures:
    """One attribute, over images whose label is known: area under the ROC curve, F1, positives."""

    auroc: float | None
    f1: float | None
    n_positive: int


@dataclass(frozen=True)
class SideAccuracy:
    """Share of the n images that show a finding on one side where that side is called."""

    accuracy: float | None
    n: int


@dataclass(frozen=True)
class StructureFigures:
    """Mean Dice of a structure over the n images that show it."""

    dice: float | None
    n: int


@dataclass(frozen=True)
class MeasureFigures:
    """How well a network does on n images with its own thresholds; None where it is not defined.

    Field names are the keys in a network's card.
    """

    n: int
    attributes: dict[str, AttributeFigures]
    side_accuracy: dict[str, SideAccuracy]
    structures: dict[str, StructureFigures]


def measure_figures(net: MeasureNet, data: MeasureData) -> MeasureFigures:
    """How well `net` does on `data`."""
    p = net.predict(data.images)
    attributes = {}
    for name in net.attributes:
        truth = data.labels[:, data.attributes.index(name)] if name in data.attributes else np.full(len(data), np.nan)
        known = np.isfinite(truth)
        score = p[known, net.column(name)]
        called = score >= net.thresholds.get(name, 0.5)
        attributes[name] = AttributeFigures(
            _rounded(auroc(truth[known], score)), _rounded(f1(truth[known], called)), int((truth[known] == 1).sum())
        )
    return MeasureFigures(len(data), attributes, _side_accuracy(net, data, p), _structure_figures(net, data))


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _side_accuracy(net: MeasureNet, data: MeasureData, p: npt.NDArray[np.float32]) -> dict[str, SideAccuracy]:
    found = {}
    for name in [a for a in net.attributes if f"{a}/left" in net.attributes and f"{a}/right" in net.attributes]:
        left, right = (data.labels[:, data.attributes.index(f"{name}/{side}")] for side in ("left", "right"))
        one_sided = (left + right) == 1
        right_calls = p[:, net.column(f"{name}/left")] >= p[:, net.column(f"{name}/right")]
        correct = right_calls[one_sided] == (left[one_sided] == 1)
        found[name] = SideAccuracy(_rounded(correct.mean()) if correct.size else None, int(correct.size))
    return found


def _structure_figures(net: MeasureNet, data: MeasureData) -> dict[str, StructureFigures]:
    if not net.structures:
        return {}
    found = {}
    seen = np.concatenate([net.segment(data.images[i : i + 128]) >= 0.5 for i in range(0, len(data), 128)])
    for channel, name in enumerate(net.structures):
        at = data.structures.index(name)
        there = data.has_mask[:, at] & data.masks[:, at].any((-2, -1))
        values = dice(seen[there, channel], data.masks[there, at])
        found[name] = StructureFigures(_rounded(values.mean()) if values.size else None, int(there.sum()))
    return found
