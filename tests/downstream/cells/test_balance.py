"""Cells draw from pools so that every label reaches the most frequent one of the cell's own real images."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.downstream.cells.balance import balanced_subset, class_shares, pool_classes
from tests.support.errors import refuses


def _labels(*counts: int, none: int = 0) -> np.ndarray:
    """One-hot rows: ``counts[k]`` of label k, then ``none`` without a label."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return np.vstack([np.eye(len(counts))[rows], np.zeros((none, len(counts)))])


REAL = _labels(10, 2, 5, none=20)


def test_classes_of_a_pool():
    assert pool_classes(_labels(1, 2, none=1)).tolist() == [0, 1, 1, 2]
    assert pool_classes(np.array([[np.nan, 1.0]])).tolist() == [1]


@pytest.mark.parametrize(("n", "shares"), [(0, [0, 0, 0, 0]), (16, [0, 8, 4, 4]), (40, [6, 14, 10, 10])])
def test_the_rarest_labels_are_lifted_first_and_normal_images_keep_their_part(n, shares):
    assert class_shares(REAL, _labels(100, 100, 100, none=100), n).tolist() == shares


def test_positive_only_pools_give_no_normal_images():
    assert class_shares(REAL, _labels(100, 100, 100), 13).tolist() == [0, 8, 5, 0]


def test_arms_get_equal_rows_and_multiples_are_nested():
    rng = np.random.default_rng(0)
    pool = rng.permutation(_labels(60, 60, 60, none=60))
    draws = [balanced_subset(REAL, {"a": pool, "b": pool}, n, "t", np.random.default_rng(3)) for n in (40, 100, 200)]
    for draw in draws:
        assert np.array_equal(draw["a"], draw["b"])
        assert len(set(draw["a"].tolist())) == len(draw["a"])
    assert [len(draw["a"]) for draw in draws] == [40, 100, 200]
    assert set(draws[0]["a"]) < set(draws[1]["a"]) < set(draws[2]["a"])
    together = (pool[draws[1]["a"]].sum(axis=0) + REAL.sum(axis=0)).tolist()
    assert max(together) - min(together) <= 1
    assert set(balanced_subset(REAL, {"a": pool}, 40, "t", np.random.default_rng(4))["a"]) != set(draws[0]["a"])


def test_arms_with_other_conditions_get_as_many_of_each_class():
    one, two = (np.random.default_rng(seed).permutation(_labels(30, 30, 30, none=30)) for seed in (1, 2))
    draw = balanced_subset(REAL, {"a": one, "b": two}, 50, "t", np.random.default_rng(3))
    assert one[draw["a"]].sum(axis=0).tolist() == two[draw["b"]].sum(axis=0).tolist()


def test_too_few_of_a_class_are_made_up_by_others_and_a_small_pool_is_refused():
    pool = _labels(50, 3, 50)
    draw = balanced_subset(REAL, {"a": pool}, 30, "t", np.random.default_rng(0))["a"]
    assert len(draw) == 30
    assert pool[draw, 1].sum() == 3
    with refuses(InvalidInput, "t", "a", 103, 200):
        balanced_subset(REAL, {"a": pool}, 200, "t", np.random.default_rng(0))


def test_masks_are_one_class():
    pool = np.ones((20, 1))
    draw = balanced_subset(np.array([[1.0], [0.0]]), {"a": pool}, 10, "t", np.random.default_rng(0))["a"]
    assert len(draw) == 10
