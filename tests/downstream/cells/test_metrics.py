"""F1, AUROC, thresholds and Dice against scikit-learn and values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from radpref.downstream.cells import metrics


def _scores(n=200, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < 0.3).astype(np.float64)
    return labels, np.clip(0.3 * labels + rng.random((n, classes)) * 0.7, 0, 1)


def test_f1_and_auroc_agree_with_sklearn():
    labels, scores = _scores()
    thresholds = np.array([0.4, 0.5, 0.6])
    found = metrics.classification_metrics(labels, scores, thresholds, ("a", "b", "c"))
    expected = [f1_score(labels[:, i], scores[:, i] >= thresholds[i]) for i in range(3)]
    areas = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    assert found.values["f1"] == pytest.approx(np.mean(expected))
    assert found.per_class["b"]["f1"] == pytest.approx(expected[1])
    assert found.values["auroc"] == pytest.approx(np.mean(areas))


def test_unknown_labels_count_nowhere_and_empty_classes_are_undefined():
    labels = np.array([[1, 0], [np.nan, 0], [0, 0], [1, 0]], dtype=np.float64)
    scores = np.array([[0.9, 0.1], [0.9, 0.9], [0.8, 0.2], [0.1, 0.3]])
    found = metrics.classification_metrics(labels, scores, np.array([0.5, 0.5]), ("a", "b"))
    assert found.per_class["a"]["f1"] == pytest.approx(2 / 4)  # TP 1, FP 1, FN 1
    assert np.isnan(found.per_class["b"]["f1"])
    assert found.values["f1"] == found.per_class["a"]["f1"]


def test_threshold_is_the_best_over_all_cuts():
    labels, scores = _scores(60, 1, seed=3)
    chosen = metrics.best_f1_threshold(labels[:, 0], scores[:, 0])
    best = max(f1_score(labels[:, 0], scores[:, 0] >= cut) for cut in np.unique(scores))
    assert f1_score(labels[:, 0], scores[:, 0] >= chosen) == pytest.approx(best)
    assert metrics.best_f1_threshold(np.zeros(4), np.arange(4.0)) == 0.5
    assert metrics.best_f1_threshold(np.array([0.0, 1.0]), np.array([0.1, 0.9])) == pytest.approx(0.5)


def test_dice_three_ways_by_hand():
    masks = np.zeros((3, 2, 4), bool)
    predicted = np.zeros_like(masks)
    masks[0, 0, :2] = True
    predicted[0, 0, 1:4] = True  # intersection 1, areas 3 and 2: Dice 0.4
    predicted[2, 0, 0] = True  # a false positive on an empty mask; image 1 is empty on empty
    found = metrics.dice_three_ways(metrics.pixel_areas(masks, predicted))
    assert found["dice_positives"] == pytest.approx(0.4)
    assert found["dice_empty_one"] == pytest.approx((0.4 + 1 + 0) / 3)
    assert found["dice_pooled"] == pytest.approx(2 * 1 / (4 + 2))


def test_dice_of_positives_is_undefined_without_positives():
    found = metrics.dice_three_ways(np.zeros((2, 3)))
    assert np.isnan(found["dice_positives"])
    assert found["dice_empty_one"] == 1.0
    assert np.isnan(found["dice_pooled"])
