"""Mask transforms keep the stack together and never empty a structure."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.masks import TRANSFORMS, dice, transform_mask


def _stack(size=64):
    stack = np.zeros((3, size, size), bool)
    stack[0, 10:40, 8:30] = True
    stack[1, 30, 31] = True  # one pixel
    return stack


@pytest.mark.parametrize("kind", sorted(TRANSFORMS))
def test_a_structure_never_vanishes_and_an_absent_one_never_appears(kind):
    stack = _stack()
    before = stack.copy()
    for seed in range(30):
        moved = transform_mask(stack, kind, np.random.default_rng(seed))
        assert moved.shape == stack.shape
        assert moved.dtype == np.bool_
        assert moved.any(axis=(1, 2)).tolist() == [True, True, False]
    assert np.array_equal(stack, before)


def test_each_transform_does_what_its_name_says():
    stack, rng = _stack(), np.random.default_rng(1)
    grown, shrunk = transform_mask(stack, "dilate", rng), transform_mask(stack, "erode", rng)
    assert (grown & stack).sum() == stack.sum() < grown.sum()
    assert (shrunk & stack).sum() == shrunk.sum() < stack.sum()
    assert np.array_equal(transform_mask(transform_mask(stack, "flip", rng), "flip", rng), stack)
    assert transform_mask(stack, "flip", rng)[0, 10, 63 - 8]
    moved = transform_mask(stack, "translate", np.random.default_rng(2))
    assert moved[0].sum() == stack[0].sum()
    assert not np.array_equal(moved, stack)


def test_same_seed_same_mask():
    one, two = (transform_mask(_stack(), "translate", np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("stack", "kind"),
    [
        (np.zeros((1, 8, 8), bool), "dilate"),
        (np.ones((8, 8), bool), "dilate"),
        (np.ones((1, 8, 8), np.uint8), "dilate"),
        (np.ones((1, 8, 8), bool), "rotate"),
    ],
)
def test_bad_input_is_one_line(stack, kind):
    with pytest.raises(InvalidInput) as caught:
        transform_mask(stack, kind, np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_dice_of_known_masks():
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    assert dice(a, b).tolist() == [0.5, 1.0]
    assert dice(a[0], a[0]) == 1.0
    assert dice(a[0], ~a[0]) == 0.0
