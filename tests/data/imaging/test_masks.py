"""Mask transforms keep the stack together and never empty a structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.masks import (
    GROUPS,
    TRANSFORMS,
    compose_transforms,
    dice,
    dilate,
    erode,
    transform_mask,
    translate,
)
from tests.support.errors import refuses
from tests.support.masks import replay_transforms


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
        moved, _ = transform_mask(stack, kind, np.random.default_rng(seed))
        assert moved.shape == stack.shape
        assert moved.dtype == np.bool_
        assert moved.any(axis=(1, 2)).tolist() == [True, True, False]
    assert np.array_equal(stack, before)


def test_each_transform_does_what_its_name_says():
    stack, rng = _stack(), np.random.default_rng(1)
    grown, shrunk = (transform_mask(stack, kind, rng)[0] for kind in ("dilate", "erode"))
    assert (grown & stack).sum() == stack.sum() < grown.sum()
    assert (shrunk & stack).sum() == shrunk.sum() < stack.sum()
    mirrored, _ = transform_mask(stack, "flip", rng)
    assert np.array_equal(transform_mask(mirrored, "flip", rng)[0], stack)
    assert mirrored[0, 10, 63 - 8]
    moved, _ = transform_mask(stack, "translate", np.random.default_rng(2))
    assert moved[0].sum() == stack[0].sum()
    assert not np.array_equal(moved, stack)


def test_same_seed_same_mask():
    one, two = (transform_mask(_stack(), "translate", np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]


def _point(size=9):
    stack = np.zeros((1, size, size), bool)
    stack[0, size // 2, size // 2] = True
    return stack


DISK_2 = ["..#..", ".###.", "#####", ".###.", "..#.."]


def test_growing_a_point_gives_a_disk_and_shrinking_a_disk_the_point():
    grown = dilate(_point(), 2)
    assert ["".join(".#"[int(pixel)] for pixel in row) for row in grown[0, 2:7, 2:7]] == DISK_2
    assert grown.sum() == 13
    assert np.array_equal(erode(grown, 2), _point())
    assert dilate(_point(), 3).sum() == 29  # Gauss's circle problem: 1, 5, 13, 29 points within radius 0 to 3
    assert np.array_equal(erode(_point(), 1), _point())  # what would vanish is kept


def test_the_frame_of_the_image_does_not_shrink_a_structure():
    stack = np.zeros((1, 6, 6), bool)
    stack[0, :, :3] = True
    shrunk = erode(stack, 1)
    assert shrunk[0].any(axis=0).tolist() == [True, True, False, False, False, False]
    assert shrunk[0].any(axis=1).all()


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-2, 0), (0, 3), (0, -3), (1, -1), (-1, 1), (0, 0)])
def test_a_translation_is_a_roll_without_what_comes_back(down, right):
    stack = np.random.default_rng(0).random((2, 7, 9)) < 0.5
    rolled = np.roll(stack, (down, right), axis=(1, 2))
    rows, columns = np.arange(7)[:, None] - down, np.arange(9)[None] - right
    inside = (rows >= 0) & (rows < 7) & (columns >= 0) & (columns < 9)
    assert np.array_equal(translate(stack, down, right), rolled & inside)


@pytest.mark.parametrize(
    ("shape", "radii", "downs", "rights"),
    [
        ((1, 10, 10), {1}, range(-1, 2), range(-1, 2)),  # never less than one pixel
        ((1, 50, 200), {1, 2, 3, 4}, range(-4, 5), range(-16, 17)),  # 2 % of the width; 8 % of each side
    ],
)
def test_how_far_a_transform_may_go(shape, radii, downs, rights):
    rng, stack = np.random.default_rng(0), np.zeros(shape, bool)
    drawn = [TRANSFORMS["dilate"].draw(stack, rng)[0] for _ in range(300)]
    assert set(drawn) == radii == {TRANSFORMS["erode"].draw(stack, rng)[0] for _ in range(300)}
    moves = np.array([TRANSFORMS["translate"].draw(stack, rng) for _ in range(1000)])
    assert set(moves[:, 0]) == set(downs)
    assert set(moves[:, 1]) == set(rights)


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_a_composition_takes_one_of_each_group_at_most_and_can_be_made_again(most):
    lengths, kinds = set(), set()
    for seed in range(60):
        moved, steps = compose_transforms(_stack(), np.random.default_rng(seed), most)
        groups = [next(i for i, group in enumerate(GROUPS) if kind in group) for kind, *_ in steps]
        assert len(set(groups)) == len(groups)
        assert np.array_equal(replay_transforms(_stack(), steps), moved)
        lengths.add(len(steps))
        kinds |= {kind for kind, *_ in steps}
    assert lengths == set(range(1, min(most, 3) + 1))
    assert kinds == set(TRANSFORMS)
    assert {len(compose_transforms(_stack(), np.random.default_rng(seed))[1]) for seed in range(60)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("stack", "kind", "named"),
    [
        (np.zeros((1, 8, 8), bool), "dilate", ()),
        (np.ones((8, 8), bool), "dilate", ((8, 8), "bool")),
        (np.ones((1, 8, 8), np.uint8), "dilate", ((1, 8, 8), "uint8")),
        (np.ones((1, 8, 8), bool), "rotate", ("rotate", "dilate, erode, flip, translate")),
    ],
)
def test_bad_input_is_one_line(stack, kind, named):
    with refuses(InvalidInput, *named):
        transform_mask(stack, kind, np.random.default_rng(0))


def test_a_structure_that_every_draw_moves_out_is_refused(monkeypatch):
    monkeypatch.setitem(TRANSFORMS, "translate", replace(TRANSFORMS["translate"], draw=lambda stack, rng: [9, 9]))
    with refuses(InvalidInput, "translate", 20):
        transform_mask(_point(), "translate", np.random.default_rng(0))


def test_dice_of_known_masks():
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    assert dice(a, b).tolist() == [0.5, 1.0]
    b[1, 0, 0] = True  # the first stays as it is; one empty against one pixel
    assert dice(a, b).tolist() == [0.5, 0.0]
    a[1, 0, 0] = True
    assert dice(a, b).tolist() == [0.5, 1.0]
    assert dice(a[0], a[0]) == 1.0
    assert dice(a[0], ~a[0]) == 0.0
