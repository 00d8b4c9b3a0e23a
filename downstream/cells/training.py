"""Training and testing of one cell: equal optimizer steps, equal augmentation, equal initial weights in every arm.

Input: training, validation and test data of one cell. Output: metrics and what the bootstrap needs, per test image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from radpref.downstream.cells import metrics
from radpref.downstream.cells.cells import CellSpec, Outcome
from radpref.downstream.cells.loaders import Bytes, augment, batch_indices, normalise
from radpref.downstream.cells.networks import LEARNING_RATE, build_network
from radpref.downstream.cells.tasks import TaskData

WEIGHT_DECAY = 1e-2
EVALUATION_BATCH = 128
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
"""Candidate pixel thresholds of a segmentation, tried on validation."""


def balance_weights(labels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Draw weights (N,) under which every label, and "none of them", is drawn about equally often."""
    positive = np.nan_to_num(labels) == 1
    groups = np.concatenate([positive, ~positive.any(axis=1, keepdims=True)], axis=1).astype(np.float64)
    share = groups / np.maximum(groups.sum(axis=0, keepdims=True), 1)
    weights = share.sum(axis=1) / groups.sum(axis=1)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def train_network(train: TaskData, spec: CellSpec) -> nn.Module:
    """Train one network for exactly ``spec.n_steps`` steps (AdamW, one-cycle cosine)."""
    network = build_network(spec.network, spec.kind, len(spec.labels), spec.seed).train()
    rng = np.random.default_rng([spec.seed, 71])
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE[spec.network], weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, spec.n_steps))
    weights = balance_weights(train.labels) if spec.arm == "real_balanced" else None
    for index in batch_indices(len(train), spec.batch_size, spec.n_steps, rng, weights):
        images, masks = augment(train.images[index], None if train.masks is None else train.masks[index], rng)
        logits = network(_tensor(images))
        if masks is None:
            loss = _label_loss(logits, torch.from_numpy(train.labels[index].astype(np.float32)))
        else:
            loss = _mask_loss(logits, torch.from_numpy(masks)[:, None])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def _rate(step: int, n_steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then cosine to zero."""
    warmup = max(1, n_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, n_steps - warmup))))


def _tensor(images: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(images)[:, None].contiguous(memory_format=torch.channels_last)


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over the known labels; logits, labels (B, L), NaN = unknown."""
    known = ~torch.isnan(labels)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(labels), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def _mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice over the batch; logits, masks (B, 1, S, S)."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    probability = torch.sigmoid(logits)
    dice = (2 * (probability * masks).sum() + 1) / (probability.sum() + masks.sum() + 1)
    return entropy + 1 - dice


@torch.no_grad()
def predict(network: nn.Module, images: Bytes) -> npt.NDArray[np.float32]:
    """Probabilities: (N, L) or, for a segmentation, (N, S, S)."""
    parts = []
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = _tensor(normalise(np.asarray(images[start : start + EVALUATION_BATCH])))
        parts.append(torch.sigmoid(network(batch)).float().numpy())
    joined = np.concatenate(parts)
    return np.asarray(joined[:, 0] if joined.ndim == 4 else joined, dtype=np.float32)


def evaluate_network(network: nn.Module, validation: TaskData, test: TaskData, spec: CellSpec) -> Outcome:
    """Thresholds from validation, metrics on test. Arrays: patients, then labels + probabilities or pixel areas."""
    on_validation = predict(network, validation.images)
    on_test = predict(network, test.images)
    patients = np.array(test.patients, dtype=np.str_)
    if spec.kind == "segmentation":
        threshold = best_dice_threshold(_masks(validation), on_validation)
        areas = metrics.pixel_areas(_masks(test), on_test >= threshold)
        half = metrics.pixel_areas(_masks(test), on_test >= 0.5)
        found = metrics.segmentation_metrics(areas, half, threshold)
        return Outcome(found, {"patients": patients, "areas": areas, "areas_half": half})
    chosen = [
        metrics.best_f1_threshold(validation.labels[:, i], on_validation[:, i].astype(np.float64))
        for i in range(len(spec.labels))
    ]
    thresholds, scores = np.array(chosen), on_test.astype(np.float64)
    found = metrics.classification_metrics(test.labels, scores, thresholds, spec.labels)
    arrays = {"patients": patients, "labels": test.labels, "probabilities": on_test, "thresholds": thresholds}
    return Outcome(found, arrays)


def _masks(data: TaskData) -> npt.NDArray[np.bool_]:
    return np.asarray(data.masks, dtype=np.bool_)


def best_dice_threshold(masks: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]) -> float:
    """Pixel threshold with the highest mean Dice over validation images that hold the structure; 0.5 if none does."""
    holds = masks.any(axis=(1, 2))
    if not holds.any():
        return 0.5
    found = [
        metrics.dice_three_ways(metrics.pixel_areas(masks[holds], probabilities[holds] >= value))["dice_positives"]
        for value in THRESHOLDS
    ]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    return float(round(THRESHOLDS[best[np.argmin(np.abs(THRESHOLDS[best] - 0.5))]], 2))
