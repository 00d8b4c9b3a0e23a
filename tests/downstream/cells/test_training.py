"""Training and testing of a cell: what each split may decide, and that nothing is mirrored on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from radpref.downstream.cells import training
from radpref.downstream.cells.cells import CellSpec
from radpref.downstream.cells.loaders import augment, pixel_array
from radpref.downstream.cells.metrics import best_f1_threshold
from radpref.downstream.cells.tasks import TaskData
from radpref.downstream.cells.training import (
    balance_weights,
    best_dice_threshold,
    evaluate_network,
    predict,
    train_network,
)

SIDE = 16
CLASSIFY, SEGMENT = (
    CellSpec("t", kind, ("x",), "real", 1.0, 0, 0, "small", 60, 8, SIDE, 0, 0, "", "", "", 1)
    for kind in ("binary", "segmentation")
)


def _data(levels, labels=None, masks=None):
    """Flat images of the given grey levels (0 to 255)."""
    images = np.broadcast_to(np.asarray(levels, np.uint8)[:, None, None], (len(levels), SIDE, SIDE)).copy()
    names = tuple(f"p{i}" for i in range(len(levels)))
    labels = np.zeros((len(levels), 1)) if labels is None else np.asarray(labels, np.float64)[:, None]
    return TaskData(images, labels, masks, names, names)


class _GreyLevel(nn.Module):
    """The logit of an image is its mean input; of a pixel, its input."""

    def __init__(self, per_pixel=False):
        super().__init__()
        self.per_pixel = per_pixel

    def forward(self, images):
        return images if self.per_pixel else images.mean(dim=(2, 3))


# --- which split decides what --------------------------------------------------------------------------------------


def test_the_f1_threshold_comes_from_validation_alone():
    validation = _data([20, 60, 100, 140, 180, 220], [0, 0, 1, 1, 1, 1])  # best cut between 60 and 100
    test_levels, test_labels = [20, 60, 100, 140, 180, 220], [0, 0, 0, 0, 1, 1]  # its own best cut: 140 to 180
    outcome = evaluate_network(_GreyLevel(), validation, _data(test_levels, test_labels), CLASSIFY)
    on_validation = predict(_GreyLevel(), validation.images)[:, 0].astype(np.float64)
    expected = best_f1_threshold(validation.labels[:, 0], on_validation)
    assert outcome.arrays["thresholds"].tolist() == [expected]
    assert outcome.metrics.values["f1"] == pytest.approx(f1_score(test_labels, [0, 0, 1, 1, 1, 1]))
    assert outcome.metrics.values["f1"] < 1.0  # the test split's own threshold would reach 1
    turned = evaluate_network(_GreyLevel(), validation, _data(test_levels, 1 - np.array(test_labels)), CLASSIFY)
    assert turned.arrays["thresholds"].tolist() == [expected]
    assert np.array_equal(turned.arrays["probabilities"], outcome.arrays["probabilities"])


def test_the_pixel_threshold_comes_from_validation_alone():
    levels = np.linspace(10, 245, SIDE * SIDE).reshape(1, SIDE, SIDE).astype(np.uint8)
    low, high = (levels > cut for cut in (90, 170))

    def data(masks):
        return TaskData(levels, np.ones((1, 1)), masks.astype(np.uint8), ("p",), ("p",))

    found = evaluate_network(_GreyLevel(per_pixel=True), data(low), data(high), SEGMENT)
    threshold = best_dice_threshold(low, predict(_GreyLevel(per_pixel=True), levels))
    assert found.metrics.values["threshold"] == threshold
    assert threshold < best_dice_threshold(high, predict(_GreyLevel(per_pixel=True), levels))
    assert found.metrics.values["dice_positives"] < 0.9
    same = evaluate_network(_GreyLevel(per_pixel=True), data(low), data(low), SEGMENT)
    assert same.metrics.values["threshold"] == threshold
    assert same.metrics.values["dice_positives"] > 0.9


def test_pixel_threshold_comes_from_images_with_the_structure():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    probabilities = np.where(masks, 0.35, 0.12).astype(np.float32)
    assert 0.12 < best_dice_threshold(masks, probabilities) <= 0.35
    assert best_dice_threshold(masks[1:], probabilities[1:]) == 0.5


def test_balanced_weights_give_each_class_an_equal_share():
    labels = np.zeros((100, 2))
    labels[:10, 0] = 1
    labels[10:15, 1] = 1
    weights = balance_weights(labels)
    assert [weights[:10].sum(), weights[10:15].sum(), weights[15:].sum()] == pytest.approx([1 / 3] * 3)


# --- laterality ----------------------------------------------------------------------------------------------------


def _marked(n):
    """Images with one bright block at the upper left, and the same as masks."""
    images = np.full((n, SIDE, SIDE), 60, np.uint8)
    images[:, 3:6, 3:6] = 250
    return images, (images > 200).astype(np.uint8)


def _corners(images):
    """The quadrant of the brightest pixel of each image, as {(lower, right)}."""
    places = [divmod(int(np.argmax(image)), image.shape[1]) for image in images]
    return {(row >= SIDE // 2, column >= SIDE // 2) for row, column in places}


@pytest.mark.parametrize("with_masks", [False, True])
def test_augmentation_never_mirrors(with_masks):
    images, masks = _marked(8)
    rng = np.random.default_rng(0)
    for _ in range(100):  # a mirror in one batch of ten would be missed once in 40,000 times
        values, moved = augment(images, masks if with_masks else None, rng)
        assert _corners(values) == {(False, False)}
        assert (moved is None) != with_masks
        if moved is not None:
            assert _corners(moved) == {(False, False)}
            assert all(np.array_equal(v > v.mean(), m > 0.5) for v, m in zip(values, moved, strict=True))


class _Recorder(nn.Module):
    """Keeps every input; its logits depend on one weight, so that it can be trained."""

    def __init__(self, kind):
        super().__init__()
        self.weight, self.kind, self.seen = nn.Parameter(torch.zeros(1)), kind, []

    def forward(self, images):
        self.seen.append(images.detach().numpy().copy()[:, 0])
        return self.weight * (images if self.kind == "segmentation" else images.mean(dim=(2, 3)))


@pytest.mark.parametrize("spec", [CLASSIFY, SEGMENT])
def test_no_network_ever_sees_a_mirrored_image(monkeypatch, spec):
    recorder = _Recorder(spec.kind)
    monkeypatch.setattr(training, "build_network", lambda *args: recorder)
    images, masks = _marked(12)
    names = tuple(map(str, range(12)))
    data = TaskData(images, np.ones((12, 1)), masks if spec.kind == "segmentation" else None, names, names)
    train_network(data, spec)
    assert sum(map(len, recorder.seen)) == spec.n_steps * spec.batch_size == 480
    evaluate_network(recorder, data, data, spec)
    assert all(_corners(batch) == {(False, False)} for batch in recorder.seen)


def test_stored_images_keep_their_sides(tiny_study):
    image = np.zeros((64, 64), np.uint8)
    image[4:16, 4:16] = 255
    with tiny_study.db.write() as connection:
        sha = tiny_study.store.put_image(connection, image, "synthetic")
    assert _corners(pixel_array(tiny_study, "images", [sha], SIDE)) == {(False, False)}
