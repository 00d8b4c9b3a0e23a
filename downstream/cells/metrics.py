"""Metrics as sums over patients, so that a bootstrap over patients is one matrix product.

Classification: F1 from counts (true positives, false positives, false negatives). Segmentation: Dice three ways.
Input: labels and probabilities. Output: plain numbers; NaN where a metric is undefined (no positive in the test set).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from radpref.data.core.statistics import auroc

Float = npt.NDArray[np.float64]
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A figure that is null in JSON where it is undefined (NaN) or infinite; read back as NaN."""

PRIMARY_METRIC = {"multilabel": "f1", "binary": "f1", "segmentation": "dice_positives"}
"""The metric on which primary comparisons are decided, fixed before any grid runs."""
METRIC_NAMES = {
    "f1": "F1, threshold chosen on validation",
    "f1_half": "F1 at threshold 0.5",
    "auroc": "AUROC",
    "dice_positives": "Dice, images with the structure only",
    "dice_empty_one": "Dice, empty prediction on empty mask counts 1",
    "dice_pooled": "Dice, all pixels pooled",
    "dice_positives_half": "Dice at 0.5, images with the structure only",
    "dice_empty_one_half": "Dice at 0.5, empty on empty counts 1",
    "dice_pooled_half": "Dice at 0.5, all pixels pooled",
}


@dataclass(frozen=True)
class Metrics:
    """Metrics of one cell on the test set, by name; NaN where undefined."""

    values: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class -> metric -> value; classification only."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Metrics:
        """The metrics of a row of table ``cells``: flat, and "per_class" nested."""
        classes = {name: null_to_nan(values) for name, values in stored.get("per_class", {}).items()}
        return cls(null_to_nan({name: value for name, value in stored.items() if name != "per_class"}), classes)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        per_class = {name: nan_to_null(values) for name, values in self.per_class.items()}
        return nan_to_null(self.values) | ({"per_class": per_class} if per_class else {})


def null_to_nan(stored: dict[str, float | None]) -> dict[str, float]:
    """Figures out of JSON."""
    return {name: math.nan if value is None else value for name, value in stored.items()}


def nan_to_null(values: dict[str, float]) -> dict[str, Any]:
    """Figures for JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def f1_counts(labels: Float, probabilities: Float, thresholds: Float) -> Float:
    """Per image and class (true positive, false positive, false negative): (N, L, 3). NaN labels count nowhere.

    labels: (N, L) of 1, 0 or NaN. probabilities: (N, L). thresholds: (L,); positive means at or above.
    """
    predicted = probabilities >= thresholds[None, :]
    positive, negative = labels == 1, labels == 0
    return np.stack([predicted & positive, predicted & negative, ~predicted & positive], axis=-1).astype(np.float64)


def f1_from_counts(counts: Float) -> Float:
    """F1 = 2 TP / (2 TP + FP + FN) over the last axis (TP, FP, FN); NaN where there is no positive (TP + FN = 0)."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return np.where(tp + fn > 0, ratio(np.stack([2 * tp, 2 * tp + fp + fn], axis=-1)), np.nan)


def mean_over_classes(scores: Float) -> Float:
    """Mean over the last axis, passing over undefined classes; NaN if all are undefined."""
    return ratio(np.stack([np.nansum(scores, axis=-1), (~np.isnan(scores)).sum(axis=-1)], axis=-1))


def best_f1_threshold(labels: Float, probabilities: Float) -> float:
    """Threshold with the highest F1 on validation data (N,), between two neighbouring probabilities.

    Ties go to the threshold nearest 0.5; 0.5 where validation holds no positive.
    """
    known = ~np.isnan(labels)
    truth, scores = labels[known] == 1, probabilities[known]
    if not truth.any():
        return 0.5
    values = np.unique(scores)
    candidates = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    order = np.argsort(-scores, kind="stable")
    cumulative = np.concatenate([[0], np.cumsum(truth[order])])
    n_predicted = len(scores) - np.searchsorted(scores[order][::-1], candidates, side="left")
    f1 = 2 * cumulative[n_predicted] / (n_predicted + truth.sum())
    tied = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(candidates[tied[np.argmin(np.abs(candidates[tied] - 0.5))]])


def dice_sums(areas: Float) -> dict[str, Float]:
    """The sums from which each Dice is a ratio. areas: (N, 3) of intersection, predicted and true pixels.

    Returns numerator and denominator per image, (N, 2), for each of the three definitions.
    """
    intersection, predicted, true = areas.T
    total = predicted + true
    each = np.where(total > 0, 2 * intersection / np.maximum(total, 1), 1.0)  # empty on empty = 1
    positive = (true > 0).astype(np.float64)
    return {
        "dice_positives": np.stack([each * positive, positive], axis=1),
        "dice_empty_one": np.stack([each, np.ones_like(each)], axis=1),
        "dice_pooled": np.stack([2 * intersection, total], axis=1),
    }


def ratio(sums: Float) -> Float:
    """Numerator / denominator over the last axis; NaN where the denominator is 0."""
    value: Float = np.full(sums.shape[:-1], np.nan)
    np.divide(sums[..., 0], sums[..., 1], out=value, where=sums[..., 1] > 0)
    return value


def dice_three_ways(areas: Float) -> dict[str, float]:
    """Dice over positives only, with empty-on-empty = 1, and over pooled pixels. areas as in `dice_sums`."""
    return {name: float(ratio(sums.sum(axis=0))) for name, sums in dice_sums(areas).items()}


def pixel_areas(masks: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> Float:
    """(N, H, W) truth and prediction -> (N, 3) of intersection, predicted and true pixels."""
    axes = (1, 2)
    return np.stack([(masks & predicted).sum(axes), predicted.sum(axes), masks.sum(axes)], axis=1).astype(np.float64)


def classification_metrics(labels: Float, probabilities: Float, thresholds: Float, names: tuple[str, ...]) -> Metrics:
    """All classification metrics of one cell on the test set; the means pass over undefined classes."""
    at_threshold = f1_from_counts(f1_counts(labels, probabilities, thresholds).sum(axis=0))
    at_half = f1_from_counts(f1_counts(labels, probabilities, np.full(len(names), 0.5)).sum(axis=0))
    areas = np.array([auroc(labels[:, i], probabilities[:, i]) for i in range(len(names))])
    scores = {"f1": at_threshold, "f1_half": at_half, "auroc": areas}
    per_class = {
        name: {
            **{metric: float(values[i]) for metric, values in scores.items()}, "threshold": float(thresholds[i]),
            "n_positive": int((labels[:, i] == 1).sum()), "n_known": int((~np.isnan(labels[:, i])).sum()),
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    return Metrics({metric: float(mean_over_classes(values)) for metric, values in scores.items()}, per_class)


def segmentation_metrics(areas: Float, areas_half: Float, threshold: float) -> Metrics:
    """All segmentation metrics of one cell on the test set, at the validation threshold and at 0.5."""
    half = {f"{name}_half": value for name, value in dice_three_ways(areas_half).items()}
    counts = {"n_positive": int((areas[:, 2] > 0).sum()), "n_images": len(areas)}
    return Metrics({**dice_three_ways(areas), **half, "threshold": threshold, **counts})
