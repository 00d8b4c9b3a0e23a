"""Statistics against scipy, statsmodels, simulation and values worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from radpref.data.core.errors import InvalidInput
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
    compare,
    holm,
    independent_t,
    paired_t,
    verdict,
)
from tests.support.errors import refuses

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
    for b, equal in itertools.product((B, B[:4]), (True, False)):
        ours = independent_t(A, b, equal_var=equal)
        reference = stats.ttest_ind(A, b, equal_var=equal, alternative="greater")
        assert ours.t == pytest.approx(reference.statistic)
        assert ours.p == pytest.approx(reference.pvalue)
        assert ours.df == pytest.approx(reference.df)
        interval = stats.ttest_ind(A, b, equal_var=equal).confidence_interval()
        assert ours.ci == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("a", "b"), [(A, B), (B, A)], ids=["positive", "negative"])
def test_one_tailed_p_keeps_the_sign(a, b):
    """P of "a is better" is near 1 where a is worse; P of "worse" is its complement."""
    for ours, reference in (
        (paired_t(a, b), stats.ttest_rel(a, b, alternative="greater")),
        (independent_t(a, b, equal_var=True), stats.ttest_ind(a, b, alternative="greater")),
        (independent_t(a, b, equal_var=False), stats.ttest_ind(a, b, equal_var=False, alternative="greater")),
    ):
        assert ours.p == pytest.approx(reference.pvalue)
        assert (ours.p < 0.5) == (ours.difference > 0) == (ours.t > 0)
    row = compare(a, b, 0.05, 3)
    assert row.p_worse == pytest.approx(stats.ttest_rel(a, b, alternative="less").pvalue)
    assert row.difference == pytest.approx((a - b).mean())
    assert row.ci == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.95)))
    assert (row.d_z.value > 0) == (row.cohen_d.value > 0) == (row.difference > 0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_turning_the_arms_turns_everything(pairs):
    a, b = np.array(pairs).T
    one, other = paired_t(a, b), paired_t(b, a)
    assert one.p + other.p == pytest.approx(1.0)
    assert (one.difference, *one.ci) == pytest.approx((-other.difference, -other.ci[1], -other.ci[0]))


@pytest.mark.parametrize("family_size", [1, 9, 48])
def test_the_detectable_difference_is_that_of_the_whole_family(family_size):
    from statsmodels.stats.power import TTestPower

    row = compare(A, B, 0.05, family_size)
    d_z = row.detectable_difference / float((A - B).std(ddof=1))
    power = TTestPower().power(d_z, len(A), 0.05 / family_size, alternative="larger")
    assert float(power) == pytest.approx(0.8, abs=1e-3)
    one_less, enough = (
        float(TTestPower().power(row.d_z.value, n, 0.05 / family_size, alternative="larger"))
        for n in (row.seeds_needed - 1, row.seeds_needed)
    )
    assert one_less < 0.8 <= enough + 1e-6


def test_no_spread_is_no_crash():
    assert paired_t([0.5, 0.5], [0.4, 0.4]).p == 0.0
    assert paired_t([0.4, 0.4], [0.5, 0.5]).p == 1.0
    same = paired_t([0.4, 0.4, 0.4], [0.4, 0.4, 0.4])
    assert (same.t, same.p) == (0.0, 0.5)
    assert compare([0.5, 0.5, 0.5], [0.4, 0.4, 0.4], 0.05, 3).seeds_needed is None


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        ([0.1], [0.2], ("a", 1)),
        ([], [], ("a", 0)),
        ([0.1, 0.2], [0.1], ("b", 1)),
        ([0.1, 0.2, 0.3], [0.1, 0.2], (3, 2)),
        ([0.1, math.nan], [0.1, 0.2], ("a", "nan")),
        ([0.1, 0.2], [math.inf, 0.2], ("b", "inf")),
    ],
)
def test_too_few_or_undefined_values_are_refused_on_one_line(a, b, named):
    with refuses(InvalidInput, *named):
        compare(a, b, 0.05, 1)


def test_a_comparison_holds_the_figures_of_scipy_and_numpy():
    row = compare(list(A), list(B), 0.05, 3)
    paired = stats.ttest_rel(A, B, alternative="greater")
    pooled, welch = (stats.ttest_ind(A, B, equal_var=equal, alternative="greater") for equal in (True, False))
    ours = (row.n, row.mean_a, row.sd_a, row.mean_b, row.sd_b, row.difference, row.sd_difference)
    deltas = A - B
    theirs = (5, np.mean(A), np.std(A, ddof=1), np.mean(B), np.std(B, ddof=1), deltas.mean(), deltas.std(ddof=1))
    assert ours == pytest.approx(theirs)
    assert (row.t, row.df, row.p, row.p_worse) == pytest.approx((paired.statistic, 4, paired.pvalue, 1 - paired.pvalue))
    assert (row.p_independent, row.p_welch) == pytest.approx((pooled.pvalue, welch.pvalue))
    assert row.p_independent != row.p_welch
    assert row.ci == pytest.approx(tuple(stats.ttest_rel(A, B).confidence_interval(row.confidence)))
    assert row.confidence == 0.95
    assert [test.p for test in row.tests] == pytest.approx([paired.pvalue, pooled.pvalue, welch.pvalue])
    assert [test.n for test in row.tests] == [5, 5, 5]
    assert row.test == row.tests[0].name == "paired t, one-tailed"
    assert [test.name.split()[0] for test in row.tests] == ["paired", "independent", "Welch"]
    assert (row.cohen_d.name, row.d_z.name, row.flag) == ("Cohen's d", "d_z", "")


def test_an_effect_without_spread_has_no_interval():
    effect = compare([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], 0.05, 1).d_z
    assert (effect.name, effect.value) == ("d_z", math.inf)
    assert np.isnan(effect.ci).all()
    assert len(effect.ci) == 2


def test_a_spread_of_rounding_errors_alone_counts_as_none():
    a = np.array([0.1 + 0.2, 0.3, 0.3])  # 0.30000000000000004
    assert paired_t(a, [0.2, 0.2, 0.2]).t == math.inf
    assert paired_t([0.3 + 1e-9, 0.3, 0.3], [0.2, 0.2, 0.2]).t < math.inf


def test_arms_of_unequal_size_count_the_smaller():
    assert [independent_t(A, B[:3], equal_var=equal).n for equal in (True, False)] == [3, 3]
    assert independent_t([0.5, 0.5], [0.5, 0.5, 0.5], equal_var=False).df == 3  # no variance: the pooled degrees


def test_two_seeds_are_flagged_and_never_conclude():
    row = compare([0.9, 0.95], [0.1, 0.14], 0.05, 1)
    assert row.flag.startswith("n = 2")
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
    row = compare(A, B, 0.05, 1)
    d, d_z = row.cohen_d, row.d_z
    pooled = math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / 2)
    assert d.value == pytest.approx((A.mean() - B.mean()) / pooled)
    assert d.ci[0] < d.value < d.ci[1]
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


def test_the_power_table_agrees_with_statsmodels():
    from statsmodels.stats.power import TTestPower

    for row in power_table(7, 9, 0.05):
        single, family = (
            TTestPower().solve_power(None, row.n_seeds, level, 0.8, "larger") for level in (0.05, 0.05 / 9)
        )
        assert row.detectable_dz_single == pytest.approx(float(single), rel=1e-4)
        assert row.detectable_dz_family == pytest.approx(float(family), rel=1e-4)
        one = TTestPower().power(1.0, row.n_seeds, 0.05 / 9, alternative="larger")
        assert row.power_dz_1_family == pytest.approx(float(one), abs=1e-5)
    assert power_table(5, 1, 0.05) == power_table(5, 0, 0.05)
    assert {row.detectable_dz_single == row.detectable_dz_family for row in power_table(5, 1, 0.05)} == {True}
    assert [row.n_seeds for row in power_table(0, 1, 0.05)] == [2, 3, 5, 10, 20]


@pytest.mark.parametrize("alpha", [-0.1, 0.0, 1.0, 1.5])
def test_a_level_lies_between_0_and_1(alpha):
    with refuses(InvalidInput, alpha):
        power_paired(1.0, 5, alpha)


def test_seeds_needed_up_to_the_most_that_are_tried():
    n = seeds_needed(0.5, 0.05)
    assert seeds_needed(0.5, 0.05, max_seeds=n) == n
    assert seeds_needed(0.5, 0.05, max_seeds=n - 1) is None
    assert seeds_needed(-0.5, 0.05) is None


def test_the_published_design_has_about_five_percent_power():
    design = study_example()
    assert (design.n_per_arm, design.family_size, design.d) == (2, 48, 5.0)  # the study: two trials, 48 comparisons
    assert design.power == power_independent(5.0, 2, 0.05 / 48)
    assert study_example().power == pytest.approx(0.05, abs=0.01)
    assert power_paired(0.0, 5, 0.05) == 0.05
    assert [row.n_seeds for row in power_table(7, 9, 0.05)] == [2, 3, 5, 7, 10, 20]
    with refuses(InvalidInput, 1):
        power_paired(1.0, 1, 0.05)


@pytest.mark.parametrize(
    ("n", "p_better", "p_worse", "detectable", "expected"),
    [
        (5, 0.01, 0.99, 0.5, "better"),
        (5, 0.99, 0.01, 0.5, "worse"),
        (5, 0.4, 0.9, 0.01, "no difference shown"),
        (5, 0.4, 0.9, 0.2, "too small to conclude"),
        (4, 0.001, 0.99, 0.01, "too small to conclude"),
        (5, 0.05, 0.99, 0.2, "too small to conclude"),  # a P equal to the level does not pass it
        (5, 0.99, 0.05, 0.2, "too small to conclude"),
        (5, 0.4, 0.9, 0.02, "no difference shown"),  # exactly the relevant difference could be found
    ],
)
def test_verdicts(n, p_better, p_worse, detectable, expected):
    assert verdict(n, p_better, p_worse, detectable, 0.05) == expected
