"""ICC of incomplete designs: against dense algebra, REML and simulation; what the planner promises; what has no ICC."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from radpref.data.agreement.intraclass import (
    VarianceComponents,
    _crossed_sums,
    _incomplete_measure,
    icc,
    icc_design,
    icc_measure,
    variance_components,
)
from radpref.data.agreement.precision import expected_precision, shared_out
from radpref.data.agreement.reliability import Coefficient, agreement, agreement_lines, agreement_report
from radpref.downstream.report.tables import agreement_tables
from tests.data.agreement.test_reliability import SHROUT_FLEISS, score_rows

Matrix = npt.NDArray[np.float64]
TRUE = (0.5, 0.1, 0.4)
"""Variances of items, raters and error: ICC(2,1) 0.5."""


def study(
    rng: np.random.Generator, n_raters: int, n_sets: int, overlap: int, *, between: float = 0.0, severity: Any = None
) -> Matrix:
    """Scores (raters, images) of sets of four, each set read by ``overlap`` raters drawn at random."""
    n = 4 * n_sets
    if severity is None:
        severity = rng.normal(0, np.sqrt(TRUE[1]), n_raters)
    sets = np.repeat(rng.normal(0, np.sqrt(TRUE[0] * between), n_sets), 4)
    items = sets + rng.normal(0, np.sqrt(TRUE[0] * (1 - between)), n)
    scores = items + np.asarray(severity)[:, None] + rng.normal(0, np.sqrt(TRUE[2]), (n_raters, n))
    for one in range(n_sets):
        scores[rng.permutation(n_raters)[overlap:], 4 * one : 4 * one + 4] = np.nan
    return np.asarray(scores, dtype=np.float64)


def holes(rng: np.random.Generator, n_raters: int, n_items: int, share: float) -> Matrix:
    """Scores with single ones missing at random: unbalanced in every way."""
    scores = rng.normal(0, 1, n_items) + rng.normal(0, 0.5, n_raters)[:, None] + rng.normal(0, 1, (n_raters, n_items))
    scores[rng.random(scores.shape) < share] = np.nan
    return np.asarray(scores, dtype=np.float64)


def components(matrix: Matrix) -> VarianceComponents:
    design = icc_design(matrix)
    measure = _incomplete_measure(matrix[design.raters], design, None)
    return variance_components(_crossed_sums(measure.sums.sum(axis=0, keepdims=True), int(design.raters.sum())))


def by_projection(matrix: Matrix) -> tuple[float, float, float]:
    """The same as the textbook states it: projections on dense dummy columns, expectations as traces."""
    shared = (~np.isnan(matrix)).sum(axis=0) >= 2
    raters, items = np.nonzero(~np.isnan(matrix) & shared)
    y, one = matrix[raters, items], np.eye(int((~np.isnan(matrix) & shared).sum()))
    z_item = (items[:, None] == np.unique(items)).astype(float)
    z_rater = (raters[:, None] == np.unique(raters)).astype(float)
    p_item, p_rater, p_both = (z @ np.linalg.pinv(z) for z in (z_item, z_rater, np.hstack([z_item, z_rater])))
    error = y @ (one - p_both) @ y / np.trace(one - p_both)
    q = p_both - p_rater
    item = (y @ q @ y - error * np.trace(q)) / np.trace(z_item.T @ q @ z_item)
    solve = np.linalg.pinv((one - p_item) @ z_rater)  # least squares, severities add up to 0
    severities = solve @ y
    rater = (severities @ severities - error * np.trace(solve @ solve.T)) / np.linalg.matrix_rank(solve)
    return float(item), float(rater), float(error)


# --- the estimator -----------------------------------------------------------------------------------------------


def test_complete_data_give_shrout_and_fleiss_either_way() -> None:
    assert icc_design(SHROUT_FLEISS).basis == "complete"
    found = {name: float(one[0]) for name, one in components(SHROUT_FLEISS).icc().items()}
    assert (round(found["icc_2_1"], 2), round(found["icc_2_k"], 2)) == (0.29, 0.62)
    exact = icc(SHROUT_FLEISS)
    assert found == pytest.approx({name: exact[name] for name in found}, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_complete_data_give_the_analysis_of_variance(seed: int) -> None:
    matrix = holes(np.random.default_rng(seed), 2 + seed, 30, 0.0)
    found, exact = components(matrix).icc(), icc(matrix)
    for name in ("icc_2_1", "icc_2_k"):
        assert found[name][0] == pytest.approx(exact[name], abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_dense_algebra_gives(seed: int) -> None:
    matrix = holes(np.random.default_rng(seed), 3 + seed % 3, 50, 0.6)
    assert icc_design(matrix).basis == "incomplete"
    found, expected = components(matrix), by_projection(matrix)
    assert [found.item[0], found.rater[0], found.error[0]] == pytest.approx(expected, abs=1e-9)
    assert icc(matrix)["icc_2_1"] == pytest.approx(expected[0] / sum(expected), abs=1e-9)
    m = (~np.isnan(matrix)).sum(axis=0)
    k = 1 / np.mean(1 / m[m >= 2])
    average = expected[0] / (expected[0] + (expected[1] + expected[2]) / k)
    assert icc(matrix)["icc_2_k"] == pytest.approx(average, abs=1e-9)
    assert icc(matrix)["n_items"] == (m >= 2).sum()


def test_it_is_close_to_reml() -> None:
    """statsmodels fits the same model by restricted maximum likelihood: another estimator, so close but not equal."""
    import statsmodels.formula.api as smf

    gaps = []
    for seed in range(6):
        matrix = study(np.random.default_rng(seed), 4 + seed % 2, 30, 2 + seed % 2)
        raters, items = np.nonzero(~np.isnan(matrix))
        long = pd.DataFrame({"y": matrix[raters, items], "r": raters, "i": items, "all": 1})
        crossed = {"item": "0 + C(i)", "rater": "0 + C(r)"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = smf.mixedlm("y ~ 1", long, groups="all", vc_formula=crossed).fit(reml=True)
        assert fit.converged
        assert components(matrix).error[0] == pytest.approx(fit.scale, rel=0.1)
        gaps.append(icc(matrix)["icc_2_1"] - fit.vcomp[0] / (fit.vcomp.sum() + fit.scale))
    assert np.abs(gaps).max() < 0.05
    assert np.abs(gaps).mean() < 0.015


@pytest.mark.parametrize(("n_raters", "n_sets", "overlap"), [(5, 8, 2), (4, 6, 3)])
def test_components_are_unbiased(n_raters: int, n_sets: int, overlap: int) -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(600):
        one = components(study(rng, n_raters, n_sets, overlap))
        found.append([one.item[0], one.rater[0], one.error[0]])
    errors = (np.mean(found, axis=0) - TRUE) / (np.std(found, axis=0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(errors).max() < 3.5, "in standard errors of the mean"


def test_components_are_unbiased_for_these_very_raters() -> None:
    """Sets are shared out so that the mild read with the severe: whom a rater meets must not change the estimate."""
    rng, severity = np.random.default_rng(7), np.linspace(-1, 1, 8)
    severity *= np.sqrt(TRUE[1] / severity.var(ddof=1))
    missing = np.ones((8, 160), dtype=bool)
    missing[np.repeat(shared_out(40, 2, 8), 4, axis=1), np.arange(160)] = False
    found = []
    for _ in range(400):
        scores = study(rng, 8, 40, 8, severity=severity)
        scores[missing] = np.nan
        one = components(scores)
        found.append([one.item[0], one.rater[0], one.error[0]])
    errors = (np.mean(found, axis=0) - TRUE) / (np.std(found, axis=0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(errors).max() < 3.5, "in standard errors of the mean"


def test_a_skipped_image_changes_little() -> None:
    matrix = holes(np.random.default_rng(3), 4, 200, 0.0)
    before = icc(matrix)["icc_2_1"]
    matrix[0, 0] = np.nan
    assert (icc_design(matrix).basis, icc_design(matrix).n_items) == ("complete", 199)
    assert icc(matrix)["icc_2_1"] == pytest.approx(before, abs=0.01)
    matrix[1, 20:] = np.nan  # one rater has only begun: 20 images must not stand for 200
    design = icc_design(matrix)
    assert (design.basis, design.n_items) == ("incomplete", 200)
    assert icc(matrix)["icc_2_1"] == pytest.approx(before, abs=0.07)


# --- the bootstrap -----------------------------------------------------------------------------------------------


def test_a_draw_of_sets_is_the_icc_of_those_sets() -> None:
    rng = np.random.default_rng(4)
    matrix = holes(rng, 4, 48, 0.6)
    measure = icc_measure(matrix, np.arange(48) // 4)
    draws = rng.multinomial(12, np.full(12, 1 / 12), size=40)
    found = measure.evaluate(draws @ measure.sums)
    for number, weights in enumerate(draws):
        columns = np.concatenate([np.tile(np.arange(4 * s, 4 * s + 4), w) for s, w in enumerate(weights)]).astype(int)
        item, rater, error = by_projection(matrix[:, columns])
        assert found["icc_2_1"][number] == pytest.approx(item / (item + rater + error), abs=1e-9)


def test_the_interval_covers_the_truth() -> None:
    """For these raters: their severities are fixed, and have the variance that the ICC is about."""
    rng, severity = np.random.default_rng(6), np.array([-1.3, -0.5, 0.0, 0.5, 1.3])
    severity *= np.sqrt(TRUE[1] / severity.var(ddof=1))
    covered = []
    for _ in range(300):
        matrix = study(rng, 5, 60, 2, between=0.3, severity=severity)
        measure = icc_measure(matrix, np.arange(240) // 4)
        draws = rng.multinomial(60, np.full(60, 1 / 60), size=300)
        low, high = np.percentile(measure.evaluate(draws @ measure.sums)["icc_2_1"], [2.5, 97.5])
        covered.append(low <= 0.5 <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_it_is_quick() -> None:
    points = np.clip(np.rint(2.5 + 1.3 * study(np.random.default_rng(0), 5, 200, 2)), 0, 5)
    sets = [item // 4 for item in range(800)]
    start = time.perf_counter()
    found = agreement(points, sets, sets, n_boot=200)
    assert time.perf_counter() - start < 2
    assert found["icc_2_1"].low < found["icc_2_1"].value < found["icc_2_1"].high


# --- what the planner promises -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_raters", "overlap"), [(5, 2), (4, 3)])
def test_the_half_width_of_an_overlap_design_is_that_of_the_dashboard(n_raters: int, overlap: int) -> None:
    rng, n_sets = np.random.default_rng(8), 60
    severity = np.linspace(-1, 1, n_raters)
    severity *= np.sqrt(TRUE[1] / severity.var(ddof=1))
    sets, widths = [item // 4 for item in range(4 * n_sets)], []
    readers = np.repeat(shared_out(n_sets, overlap, n_raters), 4, axis=1)
    for draw in range(8):
        full = study(rng, n_raters, n_sets, n_raters, between=0.3, severity=severity)
        given = np.zeros(full.shape, dtype=bool)
        given[readers, np.arange(4 * n_sets)] = True
        points = np.where(given, np.clip(np.rint(2.5 + 1.3 * full), 0, 5), np.nan)
        found = agreement(points, sets, sets, n_boot=300, seed=draw)["icc_2_1"]
        widths.append((found.high - found.low) / 2)
    expected = expected_precision(n_sets, overlap, 0.5, n_raters=n_raters)
    assert np.mean(widths) == pytest.approx(expected.icc_half_width, rel=0.2)


@pytest.mark.parametrize(("n_sets", "n_readers", "n_raters"), [(20, 2, 5), (21, 3, 4), (7, 2, 3), (60, 4, 4)])
def test_sets_are_shared_out_evenly(n_sets: int, n_readers: int, n_raters: int) -> None:
    readers = shared_out(n_sets, n_readers, n_raters)
    assert all(len(set(column)) == n_readers for column in readers.T), "nobody reads a set twice"
    counts = np.bincount(readers.ravel(), minlength=n_raters)
    assert counts.max() <= -(-n_sets * n_readers // n_raters)


def test_too_few_sets_to_link_all_raters_promise_no_icc() -> None:
    found = expected_precision(10, 2, 0.5, n_raters=50)
    assert found.icc_half_width is None
    assert found.preference_half_width > 0


# --- what the report says ----------------------------------------------------------------------------------------


def overlap_table(pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """A score table of four raters in which set i was scored by pair i only."""
    table = score_rows(4, n_sets=len(pairs), kind="human")
    readers = table["set_id"].map(lambda name: pairs[int(name[1:])])
    return table[[rater in two for rater, two in zip(table["rater_id"], readers, strict=True)]]


def test_the_report_of_an_overlap_design_has_an_icc_and_says_from_what() -> None:
    report = agreement_report(overlap_table([(1, 2), (2, 3), (3, 4), (4, 1)] * 3), n_boot=50)
    text = report.by_kind["human"].criteria["text"]
    assert (text.icc_basis, text.icc_n_items, text.icc_k, text.n_items_complete) == ("incomplete", 48, 2, 0)
    assert text.icc_not_computable is None
    single = text.measures["icc_2_1"]
    assert 0.5 < single.low < single.value < single.high <= 1
    (line,) = [line for line in agreement_lines(report) if "text     icc_2_1" in line]
    assert line.endswith("(48 images with two scores or more, 2 each; incomplete design)")
    assert "ICC from 48 images with two scores or more" in agreement_tables(report)[0].notes[0]
    complete = agreement_report(score_rows(), n_boot=10)
    assert complete.by_kind["simulated"].criteria["text"].icc_basis == "complete"
    assert "(24 images that every rater scored)" in "\n".join(agreement_lines(complete))


def test_raters_who_share_no_image_have_no_icc() -> None:
    report = agreement_report(overlap_table([(1, 2), (3, 4)] * 6), n_boot=50)
    text = report.by_kind["human"].criteria["text"]
    assert text.measures["icc_2_1"] == Coefficient(None, None, None)
    assert text.measures["alpha_ordinal"].value is not None
    assert "share no image (r1, r2 | r3, r4)" in text.icc_not_computable
    assert "r1, r2 | r3, r4" in "\n".join(agreement_lines(report))
    assert "ICC not computable" in agreement_tables(report)[0].notes[0]


def test_a_rater_without_shared_images_is_left_out() -> None:
    matrix = holes(np.random.default_rng(2), 3, 40, 0.0)
    both = icc(matrix[:2, :30])
    matrix[2, :30], matrix[:2, 30:] = np.nan, np.nan
    assert icc(matrix)["icc_2_1"] == pytest.approx(both["icc_2_1"], abs=1e-12)
    assert icc(matrix)["n_items"] == 30


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[1.0, 2, 3]], "one rater"),
        ([[1.0, np.nan, 3], [np.nan, 2, np.nan]], "fewer than two images"),
        ([[1.0, 2, np.nan], [1, np.nan, 2], [np.nan, 2, 3]], None),
        ([[1.0, 2, np.nan], [1, np.nan, 2], [np.nan, 3, np.nan]], "too few shared images"),
        ([[1.0, 2, np.nan, np.nan], [2.0, 2, np.nan, np.nan], [np.nan, np.nan, 1, 2], [np.nan, np.nan, 1, 3]], "fall"),
    ],
)
def test_degenerate_designs_say_why(matrix: list[list[float]], reason: str | None) -> None:
    found = icc_design(np.array(matrix))
    assert (found.reason is None) if reason is None else (found.reason is not None and reason in found.reason)
    assert np.isnan(icc(matrix)["icc_2_1"]) == (reason is not None)


def test_scores_that_do_not_vary_have_no_icc() -> None:
    table = overlap_table([(1, 2), (2, 3), (3, 4), (4, 1)] * 3).assign(value=3)
    text = agreement_report(table, n_boot=10).by_kind["human"].criteria["text"]
    assert text.measures["icc_2_1"].value is None
    assert text.icc_not_computable == "the scores do not vary"
