"""Statistics that several rooms report: a figure with its interval, and thin calls of libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its 95 % interval; None where it could not be measured."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MeanEstimate(Estimate):
    """A mean over n groups (conditions, prompts), the units that its interval resamples."""

    n: int


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of the proportion k / n, both ends in [0, 1]; n > 0 (Wilson 1927, by scipy)."""
    from scipy.stats import binomtest  # here, so that the command line answers --help without scipy

    interval = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def auroc(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    """Area under the ROC curve, ties counting 1/2; labels (N,) of 1, 0 or NaN (left out), scores (N,).

    NaN where one of the two classes is missing.
    """
    from sklearn.metrics import roc_auc_score

    truth = np.asarray(labels, np.float64)
    known = ~np.isnan(truth)
    if len(np.unique(truth[known])) < 2:
        return float("nan")  # scikit-learn warns or raises here, depending on its version
    return float(roc_auc_score(truth[known], np.asarray(scores)[known]))
