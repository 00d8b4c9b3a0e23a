"""Statistics against scipy, statsmodels, simulation and values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from radpref.data.core.errors import InvalidInput
from radpref.downstream.inference.bootstrap import bootstrap_difference, sums_by_patient
from radpref.downstream.inference.power import (  # fmt: skip
    detectable_effect,
    noncentral_t_cdf,
    power_independent,
    power_paired,
    power_table,
    seeds_needed,
    study_example,
)
from radpref.downstream.inference.t_tests import (  # fmt: skip
    bonferroni,
    cohen_d,
    cohen_dz,
    compare,
    holm,
    paired_t,
    student_t,
    verdict,
    welch_t,
)

A = np.array([0.31, 0.35, 0.29, 0.40, 0.33])
B = np.array([0.30, 0.31, 0.30, 0.36, 0.30])


def test_paired_t_agrees_with_scipy_and_a_hand_worked_value():
    ours = paired_t(A, B)
    reference = stats.ttest_rel(A, B, alternative="greater")
    assert ours.t == pytest.approx(reference.statistic)
    assert ours.p == pytest.approx(reference.pvalue)
    two_sided = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert ours.ci == pytest.approx((two_sided.low, two_sided.high))
    # by hand: differences 1, 2, 3 -> mean 2, SD 1, t = 2 sqrt 3
    assert paired_t([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).t == pytest.approx(2 * math.sqrt(3))


def test_independent_tests_agree_with_scipy():
    for ours, equal in ((student_t(A, B), True), (welch_t(A, B[:4]), False)):
        b = B if equal else B[:4]
        reference = stats.ttest_ind(A, b, equal_var=equal, alternative="greater")
        assert ours.t == pytest.approx(reference.statistic)
        assert ours.p == pytest.approx(reference.pvalue)
        assert ours.df == pytest.approx(reference.df)
        interval = stats.ttest_ind(A, b, equal_var=equal).confidence_interval()
        assert ours.ci == pytest.approx((interval.low, interval.high))


def test_no_spread_is_no_crash():
    assert paired_t([0.5, 0.5], [0.4, 0.4]).p == 0.0
    assert paired_t([0.4, 0.4], [0.5, 0.5]).p == 1.0
    same = paired_t([0.4, 0.4, 0.4], [0.4, 0.4, 0.4])
    assert (same.t, same.p) == (0.0, 0.5)
    assert compare([0.5, 0.5, 0.5], [0.4, 0.4, 0.4], 0.05, 3).seeds_needed is None


@pytest.mark.parametrize(("a", "b"), [([0.1], [0.2]), ([], []), ([0.1, 0.2], [0.1]), ([0.1, math.nan], [0.1, 0.2])])
def test_too_few_or_undefined_values_are_refused_on_one_line(a, b):
    with pytest.raises(InvalidInput) as caught:
        compare(a, b, 0.05, 1)
    assert "\n" not in str(caught.value)


def test_two_seeds_are_flagged_and_never_conclude():
    row = compare([0.9, 0.95], [0.1, 0.14], 0.05, 1)
    assert "n = 2" in row.flag
    assert verdict(2, 1e-9, 1.0, 0.0, 0.05) == "too small to conclude"


def test_corrections_agree_with_statsmodels_and_hand_worked_values():
    from statsmodels.stats.multitest import multipletests

    p = [0.01, 0.04, 0.03, 0.005, 0.6]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert bonferroni(p) == pytest.approx(multipletests(p, method="bonferroni")[1])
    assert holm([0.01, 0.02, 0.04]) == pytest.approx([0.03, 0.04, 0.04])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_order(p):
    raw, adjusted, crude = np.array(p), holm(p), bonferroni(p)
    assert (adjusted >= raw - 1e-15).all()
    assert (adjusted <= crude + 1e-15).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_effect_sizes_and_their_intervals():
    d = cohen_d(A, B)
    pooled = math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / 2)
    assert d.value == pytest.approx((A.mean() - B.mean()) / pooled)
    assert d.ci[0] < d.value < d.ci[1]
    d_z = cohen_dz(A, B)
    assert d_z.value == pytest.approx((A - B).mean() / (A - B).std(ddof=1))
    # at the bounds, the observed t is the 2.5 % and 97.5 % point of the noncentral t
    t = paired_t(A, B).t
    for bound, probability in zip(d_z.ci, (0.975, 0.025), strict=True):
        assert stats.nct.cdf(t, len(A) - 1, bound * math.sqrt(len(A))) == pytest.approx(probability, abs=1e-6)


def test_power_agrees_with_statsmodels():
    from statsmodels.stats.power import TTestIndPower, TTestPower

    paired = TTestPower().power(0.7, 12, 0.05, alternative="larger")
    assert power_paired(0.7, 12, 0.05) == pytest.approx(float(paired), abs=1e-6)
    independent = TTestIndPower().power(0.7, 12, 0.05, alternative="larger")
    assert power_independent(0.7, 12, 0.05) == pytest.approx(float(independent), abs=1e-6)


def test_noncentral_t_where_scipy_gives_no_number():
    rng = np.random.default_rng(0)
    for t, df, nc in ((22.6, 1, 30.0), (3.0, 4, 1.0)):
        drawn = (rng.standard_normal(400_000) + nc) / np.sqrt(rng.chisquare(df, 400_000) / df)
        assert noncentral_t_cdf(t, df, nc) == pytest.approx((drawn <= t).mean(), abs=3e-3)
    assert math.isfinite(noncentral_t_cdf(22.6, 1, -150.0))


def test_detectable_effect_and_seeds_needed_invert_the_power():
    for n, alpha in ((3, 0.05), (5, 0.05 / 9), (20, 0.01)):
        assert power_paired(detectable_effect(n, alpha), n, alpha) == pytest.approx(0.8, abs=1e-4)
    n = seeds_needed(0.5, 0.05)
    assert n == 27  # G*Power: one-tailed paired t, d_z = 0.5, alpha 0.05, power 0.8
    assert power_paired(0.5, n, 0.05) >= 0.8 > power_paired(0.5, n - 1, 0.05)
    assert seeds_needed(0.0, 0.05) is None
    assert seeds_needed(1e-4, 0.05) is None


def test_the_published_design_has_about_five_percent_power():
    assert study_example().power == pytest.approx(0.05, abs=0.01)
    assert power_paired(0.0, 5, 0.05) == 0.05
    assert [row.n_seeds for row in power_table(7, 9, 0.05)] == [2, 3, 5, 7, 10, 20]
    with pytest.raises(InvalidInput):
        power_paired(1.0, 1, 0.05)


@pytest.mark.parametrize(
    ("n", "p_better", "p_worse", "detectable", "expected"),
    [
        (5, 0.01, 0.99, 0.5, "better"),
        (5, 0.99, 0.01, 0.5, "worse"),
        (5, 0.4, 0.9, 0.01, "no difference shown"),
        (5, 0.4, 0.9, 0.2, "too small to conclude"),
        (4, 0.001, 0.99, 0.01, "too small to conclude"),
    ],
)
def test_verdicts(n, p_better, p_worse, detectable, expected):
    assert verdict(n, p_better, p_worse, detectable, 0.05) == expected


def _mean(sums):
    return sums[..., 0] / sums[..., 1]


def test_bootstrap_covers_the_patient_and_the_seed_spread():
    rng = np.random.default_rng(0)
    truth, n_patients, covered = 0.1, 60, 0
    for _ in range(60):
        patient = rng.normal(0, 0.5, n_patients)
        a, b = [], []
        for _ in range(8):
            shift = truth + rng.normal(0, 0.05)
            for arm, mean in ((a, shift), (b, 0.0)):
                values = mean + patient + rng.normal(0, 0.3, n_patients)
                arm.append(np.stack([values, np.ones(n_patients)], axis=1))
        low, high = bootstrap_difference(a, b, _mean, np.random.default_rng(1), 300)
        covered += low <= truth <= high
    assert covered >= 50  # nominal 57; percentile intervals on 8 seeds are a little short


def test_bootstrap_is_seeded_and_refuses_unequal_arms():
    sums = [np.stack([np.arange(5.0), np.ones(5)], axis=1)] * 2
    other = [2 * part for part in sums]
    one = bootstrap_difference(sums, other, _mean, np.random.default_rng(4), 50)
    assert one == bootstrap_difference(sums, other, _mean, np.random.default_rng(4), 50)
    with pytest.raises(InvalidInput):
        bootstrap_difference(sums, other[:1], _mean, np.random.default_rng(4))


def test_sums_are_added_by_patient():
    found = sums_by_patient(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), 2)
    assert found.tolist() == [[3.0, 4.0], [6.0, 8.0]]
