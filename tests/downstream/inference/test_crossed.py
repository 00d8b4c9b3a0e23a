"""Crossed mixed model and bootstrap: closed form, an independent library, coverage on simulated studies, edges."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.comparison_coverage import coverage, study_differences
from radpref.downstream.inference.crossed import crossed_bootstrap, detectable, fit_crossed, planned
from radpref.downstream.inference.power import detectable_effect


def _design(n_raters, n_conditions):
    return tuple(index.ravel() for index in np.indices((n_raters, n_conditions)))


def _values(rng, n_raters, n_conditions, rater=0.4, condition=0.6, residual=0.8, mean=0.3):
    return (
        mean + rng.normal(0, rater, (n_raters, 1)) + rng.normal(0, condition, n_conditions)
        + rng.normal(0, residual, (n_raters, n_conditions))
    )  # fmt: skip


def test_a_balanced_study_gives_the_analysis_of_variance():
    n_raters, n_conditions = 5, 20
    y = _values(np.random.default_rng(3), n_raters, n_conditions)
    by_rater, by_condition, mean = y.mean(1), y.mean(0), y.mean()
    ms_rater = n_conditions * by_rater.var(ddof=1)
    ms_condition = n_raters * by_condition.var(ddof=1)
    df = (n_raters - 1) * (n_conditions - 1)
    ms_rest = ((y - by_rater[:, None] - by_condition + mean) ** 2).sum() / df
    assert ms_rater > ms_rest < ms_condition  # no variance stands at its limit, so REML is the closed form
    fit = fit_crossed(y.ravel(), *_design(n_raters, n_conditions))
    assert fit.estimate == pytest.approx(mean, abs=1e-9)
    assert fit.var_residual == pytest.approx(ms_rest, rel=1e-4)
    assert fit.var_rater == pytest.approx((ms_rater - ms_rest) / n_conditions, rel=1e-3)
    assert fit.var_condition == pytest.approx((ms_condition - ms_rest) / n_raters, rel=1e-3)
    total = ms_rater + ms_condition - ms_rest
    assert fit.se == pytest.approx(math.sqrt(total / (n_raters * n_conditions)), rel=1e-4)
    parts = ms_rater**2 / (n_raters - 1) + ms_condition**2 / (n_conditions - 1) + ms_rest**2 / df
    assert fit.df == pytest.approx(total**2 / parts, rel=1e-3)
    assert planned(fit, n_raters, n_conditions) == pytest.approx((fit.se, fit.df), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_unbalanced_studies_agree_with_statsmodels(seed):
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(seed)
    raters, conditions = _design(6, 30)
    kept = rng.random(180) < 0.6
    y, raters, conditions = _values(rng, 6, 30).ravel()[kept], raters[kept], conditions[kept]
    mine = fit_crossed(y, raters, conditions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.DataFrame({"y": y, "rater": raters, "condition": conditions, "all": 1})
        parts = {"rater": "0 + C(rater)", "condition": "0 + C(condition)"}
        theirs = MixedLM.from_formula("y ~ 1", groups="all", vc_formula=parts, data=table).fit(reml=True)
    assert mine.estimate == pytest.approx(theirs.fe_params.iloc[0], abs=2e-4)
    assert mine.se == pytest.approx(theirs.bse_fe.iloc[0], rel=0.01)
    names = theirs.model.exog_vc.names
    assert mine.var_rater == pytest.approx(theirs.vcomp[names.index("rater")], abs=2e-3)
    assert mine.var_condition == pytest.approx(theirs.vcomp[names.index("condition")], abs=2e-3)
    assert mine.var_residual == pytest.approx(theirs.scale, rel=0.01)


@given(shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_shift_and_scale_carry_over(shift, scale):
    y = _values(np.random.default_rng(5), 4, 12).ravel()
    one, other = (fit_crossed(values, *_design(4, 12)) for values in (y, shift + scale * y))
    assert other.estimate == pytest.approx(shift + scale * one.estimate, abs=1e-6 * (1 + abs(shift) + scale))
    assert other.se == pytest.approx(scale * one.se, rel=1e-4)
    assert other.df == pytest.approx(one.df, rel=1e-3)


def test_no_spread_is_no_fit():
    assert fit_crossed(np.full(12, 0.25), *_design(3, 4)) is None
    assert fit_crossed(np.array([1.0]), np.array([0]), np.array([0])) is None


def test_conditions_with_one_reader_each_leave_a_model_of_raters_alone():
    rng = np.random.default_rng(2)
    raters = np.repeat(np.arange(5), 8)
    y = rng.normal(0, 1.0, 5)[raters] + rng.normal(0, 0.5, 40)
    fit = fit_crossed(y, raters, np.arange(40))
    means = y.reshape(5, 8).mean(1)
    assert fit.var_condition == 0.0
    assert fit.estimate == pytest.approx(means.mean())
    assert fit.se == pytest.approx(means.std(ddof=1) / math.sqrt(5), rel=1e-3)  # the raters' means
    assert fit.df == pytest.approx(4, abs=0.3)


def test_raters_who_agree_wholly_leave_the_t_test_over_conditions():
    raters, conditions = _design(4, 20)
    y = np.random.default_rng(0).normal(0.3, 1, 20)
    fit = fit_crossed(y[conditions], raters, conditions)
    assert fit.se == pytest.approx(stats.sem(y), rel=1e-3)
    assert fit.df == pytest.approx(19, rel=1e-3)
    own = np.array([0.1, 0.5, 0.2, 0.9])  # and where only raters differ, four values are all there is
    fit = fit_crossed(own[raters], raters, conditions)
    assert (fit.se, fit.df) == pytest.approx((stats.sem(own), 3), rel=1e-3)


def test_one_rater_gives_the_t_test_over_conditions():
    y = np.random.default_rng(1).normal(0.2, 1, 15)
    fit = fit_crossed(y, np.zeros(15, int), np.arange(15))
    low, high = stats.t.interval(0.95, 14, y.mean(), stats.sem(y))
    assert fit.interval() == pytest.approx((low, high), rel=1e-6)
    assert fit.p() == pytest.approx(stats.ttest_1samp(y, 0).pvalue, rel=1e-6)


def test_detectable_difference_is_that_of_the_paired_test():
    assert detectable(1 / math.sqrt(12), 11, 0.05) == pytest.approx(detectable_effect(12, 0.025), rel=1e-4)
    assert detectable(0.2, 3, 0.05) > detectable(0.2, 30, 0.05) > 0.2 * 2.8
    fit = fit_crossed(_values(np.random.default_rng(0), 4, 24).ravel(), *_design(4, 24))
    gains = [detectable(*planned(fit, n, 24), 0.05) for n in (3, 4, 6, 10)]
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize(
    ("n_raters", "n_conditions", "slope", "gain"), [(3, 8, 0.3, 0.0), (4, 24, 0.3, 0.5), (6, 24, 0.0, 0.0)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(n_raters, n_conditions, slope, gain):
    found = coverage(300, n_raters, n_conditions, gain=gain, slope=slope, n_boot=0, whole=gain == 0.0)
    assert 0.90 <= found["t"] <= 0.995  # at gain 0 what is left out is the type-I error
    assert found["normal"] < found["t"]  # few raters: a normal quantile is too short


def test_coverage_holds_where_a_third_of_the_sets_is_unread():
    rng = np.random.default_rng(8)
    raters, conditions = _design(5, 18)
    held = 0
    for _ in range(250):
        y = study_differences(rng, 5, 18, gain=0.4, slope=0.3, whole=False).ravel()
        kept = rng.random(len(y)) < 0.67
        low, high = fit_crossed(y[kept], raters[kept], np.unique(conditions[kept], return_inverse=True)[1]).interval()
        held += low <= 0.4 <= high
    assert 0.90 <= held / 250 <= 0.99


def test_the_bootstrap_draws_raters_and_conditions_not_single_scores():
    rng = np.random.default_rng(4)
    raters, conditions = _design(8, 40)
    y = _values(rng, 8, 40, rater=1.0, condition=0.0, residual=0.05).ravel()
    low, high = crossed_bootstrap(y, raters, conditions, rng, 2000)
    spread = y.reshape(8, 40).mean(1).std() / math.sqrt(8)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)  # as wide as the raters differ, not as 320 scores
    assert low < y.mean() < high


def test_the_bootstrap_with_unread_sets_is_finite():
    raters, conditions = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])
    low, high = crossed_bootstrap(np.array([1.0, 2.0, 3.0, 4.0]), raters, conditions, np.random.default_rng(0), 200)
    assert 1.0 <= low <= high <= 4.0
