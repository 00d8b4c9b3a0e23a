"""Statistics against published values and against the definition."""

import numpy as np
import pytest

from radpref.data.core.statistics import auroc, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_newcombe_1998_table_1(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(5)
    labels, scores = (rng.random(60) < 0.3).astype(float), np.round(rng.random(60), 1)
    difference = scores[labels == 1][:, None] - scores[labels == 0]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert auroc(labels, scores) == pytest.approx(expected)
    assert auroc(1 - labels, scores) == pytest.approx(1 - expected)
    unknown = np.r_[labels, np.nan, np.nan]
    assert auroc(unknown, np.r_[scores, 5, -5]) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[1, 1, np.nan], [0, 0, 0], [np.nan] * 3])
def test_auroc_of_one_class_is_undefined(labels):
    assert np.isnan(auroc(np.array(labels), np.arange(3)))
