"""The paired bootstrap over crossed seeds and patients: widths worked by hand, coverage from both sides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.downstream.inference.bootstrap import bootstrap_difference, sums_by_patient

N_BOOT = 4000


def _mean(sums):
    return sums[..., 0] / sums[..., 1]


def _arm(values):
    """Sums of one arm from values (seeds, patients): the metric is their mean."""
    return [np.stack([row, np.ones_like(row)], axis=1) for row in values]


def _interval(a, b, n_boot=N_BOOT, seed=0):
    return bootstrap_difference(_arm(a), _arm(b), _mean, np.random.default_rng(seed), n_boot)


def _width(interval):
    return interval[1] - interval[0]


def _normal_width(spread):
    return 2 * 1.96 * spread


def test_what_patients_add_to_both_arms_alike_cancels():
    rng = np.random.default_rng(0)
    shared = np.tile(rng.normal(0, 1, 50), (6, 1))  # an unpaired draw would be about 0.8 wide
    low, high = _interval(shared - 0.1, shared)
    assert (low, high) == pytest.approx((-0.1, -0.1), abs=1e-12)


def test_what_a_seed_adds_to_both_arms_alike_cancels():
    shared = np.random.default_rng(0).normal(0, 1, (6, 1)) + np.zeros((6, 50))
    assert _interval(shared + 0.1, shared) == pytest.approx((0.1, 0.1), abs=1e-12)


def test_patients_are_redrawn():
    by_patient = np.random.default_rng(1).normal(0, 1, 80)
    interval = _interval(np.tile(by_patient, (5, 1)), np.zeros((5, 80)))  # seeds agree wholly
    assert _width(interval) == pytest.approx(_normal_width(by_patient.std() / math.sqrt(80)), rel=0.08)


def test_patients_are_drawn_once_for_all_seeds():
    """Drawn anew for each seed they would average out: the interval would be sqrt(5) times too short."""
    by_patient = np.random.default_rng(2).normal(0, 1, 80)
    one, five = (_interval(np.tile(by_patient, (n, 1)), np.zeros((n, 80))) for n in (1, 5))
    assert _width(five) == pytest.approx(_width(one), rel=0.08)


def test_seeds_are_redrawn():
    by_seed = np.random.default_rng(3).normal(0, 1, (20, 1))
    interval = _interval(by_seed + np.zeros((20, 30)), np.zeros((20, 30)))  # patients agree wholly
    assert _width(interval) == pytest.approx(_normal_width(by_seed.std() / math.sqrt(20)), rel=0.08)


@pytest.mark.parametrize("truth", [-0.1, 0.0, 0.1])
def test_intervals_hold_the_truth_as_often_as_they_say_and_not_more(truth):
    rng = np.random.default_rng([7, int(truth > 0), int(truth < 0)])
    n_seeds, n_patients, n_studies = 12, 60, 300
    below = above = 0
    for _ in range(n_studies):
        shared = rng.normal(0, 0.5, n_patients)  # of a patient, in both arms
        gain = truth + rng.normal(0, 0.2, n_patients) + rng.normal(0, 0.05, (n_seeds, 1))
        noise = rng.normal(0, 0.1, (2, n_seeds, n_patients))
        low, high = _interval(shared + gain + noise[0], shared + noise[1], 300, seed=1)
        below += high < truth
        above += low > truth
    # 95 % nominal; the percentile interval of 12 seeds is a little short. Both tails, so that a shift is seen too.
    assert 0.88 <= 1 - (below + above) / n_studies <= 0.985
    assert below <= 0.08 * n_studies
    assert above <= 0.08 * n_studies


def test_the_interval_turns_with_the_arms():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.2, 1, (2, 6, 40))
    low, high = _interval(a, b)
    assert _interval(b, a) == pytest.approx((-high, -low), abs=1e-12)


def test_draws_in_which_the_metric_is_undefined_are_left_out():
    values = np.array([[1.0, 3.0]])
    weights = np.array([[1.0, 0.0]])  # the second patient has nothing to count
    arm = [np.stack([values[0] * weights[0], weights[0]], axis=1)]
    none = [np.zeros((2, 2))]

    def score(sums):
        with np.errstate(invalid="ignore"):
            return _mean(sums)

    low, high = bootstrap_difference(arm, [0 * arm[0] + [[0, 1], [0, 0]]], score, np.random.default_rng(0), 50)
    assert (low, high) == (1.0, 1.0)
    assert np.isnan(bootstrap_difference(none, none, score, np.random.default_rng(0), 50)).all()


def test_bootstrap_is_seeded_and_refuses_unequal_arms():
    sums = _arm(np.arange(10.0).reshape(2, 5))
    other = [2 * part for part in sums]
    one, again, another = (
        bootstrap_difference(sums, other, lambda x: x[..., 0], np.random.default_rng(seed), 50) for seed in (4, 4, 5)
    )
    assert one == again != another
    with pytest.raises(InvalidInput):
        bootstrap_difference(sums, other[:1], _mean, np.random.default_rng(4))


def test_sums_are_added_by_patient():
    found = sums_by_patient(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), 2)
    assert found.tolist() == [[3.0, 4.0], [6.0, 8.0]]
