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


def test_every_figure_of_a_class_by_hand():
    """Scores 0.9, 0.5, 0.4, 0.2 of labels 1, 0, 1, 0: at 0.3 TP 2, FP 1; at 0.5 (met exactly) TP 1, FP 1, FN 1."""
    labels = np.array([[1, 1], [0, 0], [1, np.nan], [0, 0]], dtype=np.float64)
    scores = np.array([[0.9, 0.2], [0.5, 0.1], [0.4, 0.9], [0.2, 0.3]])
    found = metrics.classification_metrics(labels, scores, np.array([0.3, 0.2]), ("a", "b"))
    assert found.per_class["a"] == {
        "f1": pytest.approx(4 / 5), "f1_half": pytest.approx(2 / 4), "auroc": pytest.approx(3 / 4),
        "threshold": 0.3, "n_positive": 2, "n_known": 4,
    }  # fmt: skip
    assert found.per_class["b"] == {  # one positive; at 0.2 TP 1 (met exactly), FP 1; at 0.5 FN 1
        "f1": pytest.approx(2 / 3), "f1_half": 0.0, "auroc": pytest.approx(1 / 2),
        "threshold": 0.2, "n_positive": 1, "n_known": 3,
    }  # fmt: skip
    assert found.values == {
        "f1": pytest.approx((4 / 5 + 2 / 3) / 2), "f1_half": pytest.approx(1 / 4), "auroc": pytest.approx(5 / 8)
    }  # fmt: skip


def test_the_mean_is_taken_per_row_and_passes_over_undefined_classes():
    scores = np.array([[0.5, np.nan, 0.7], [np.nan, np.nan, np.nan], [0.2, 0.4, 0.9]])
    np.testing.assert_allclose(metrics.mean_over_classes(scores), [0.6, np.nan, 0.5])


@pytest.mark.parametrize(
    ("labels", "scores", "threshold"),
    [
        # the two highest are all positives: any cut between 0.7 and 0.9 is best, and 0.8 lies between the neighbours
        ([0, 0, 1, 1], [0.1, 0.7, 0.9, 0.95], 0.8),
        # every image is positive: the lowest score takes all
        ([1, 1], [0.3, 0.9], 0.3),
        # cuts at 0.35 (TP 2, FP 2) and at 0.85 (TP 1, FN 1) both give F1 2/3; 0.35 is nearer to 0.5
        ([0, 1, 0, 0, 1], [0.3, 0.4, 0.6, 0.8, 0.9], 0.35),
        # ... and here it is the higher cut: 0.1 (TP 2, FP 2) and 0.55 (TP 1, FN 1)
        ([1, 0, 0, 1], [0.1, 0.3, 0.4, 0.7], 0.55),
        # an unknown label has no say
        ([0, np.nan, 1], [0.2, 0.5, 0.6], 0.4),
    ],
)
def test_thresholds_by_hand(labels, scores, threshold):
    found = metrics.best_f1_threshold(np.array(labels, dtype=np.float64), np.array(scores))
    assert found == pytest.approx(threshold)


def test_one_positive_is_enough_for_a_figure():
    assert metrics.f1_from_counts(np.array([1.0, 1.0, 0.0])) == pytest.approx(2 / 3)
    assert np.isnan(metrics.f1_from_counts(np.array([0.0, 3.0, 0.0])))
    one = metrics.dice_three_ways(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]))  # one pixel found; one false positive
    assert (one["dice_positives"], one["dice_empty_one"], one["dice_pooled"]) == (1.0, 0.5, pytest.approx(2 / 3))


def test_every_figure_of_a_segmentation_by_hand():
    areas, half = np.array([[2.0, 4.0, 2.0], [0.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    found = metrics.segmentation_metrics(areas, half, 0.35)
    assert found.values == {
        "dice_positives": pytest.approx(2 / 3), "dice_empty_one": pytest.approx(5 / 6),
        "dice_pooled": pytest.approx(2 / 3),
        "dice_positives_half": pytest.approx(2 / 3), "dice_empty_one_half": pytest.approx(1 / 3),
        "dice_pooled_half": pytest.approx(1 / 2), "threshold": 0.35, "n_positive": 1, "n_images": 2,
    }  # fmt: skip
    assert found.per_class == {}


def test_figures_go_to_json_and_back_with_null_for_undefined():
    cell = metrics.Metrics({"f1": 0.5, "auroc": np.nan}, {"a": {"f1": np.nan, "n_positive": 0}})
    stored = {"f1": 0.5, "auroc": None, "per_class": {"a": {"f1": None, "n_positive": 0}}}
    assert cell.to_json() == stored
    assert metrics.Metrics({"dice_pooled": 1.0}).to_json() == {"dice_pooled": 1.0}
    back = metrics.Metrics.from_json(stored)
    np.testing.assert_equal((back.values, back.per_class), (cell.values, cell.per_class))
    assert metrics.Metrics.from_json({"dice_pooled": 1.0}).per_class == {}


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
