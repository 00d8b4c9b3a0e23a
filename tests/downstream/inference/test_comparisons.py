"""From cells to verdicts on simulated grids: no effect, a positive and a negative one, all the way to the words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.power import TTestPower

from radpref.data.config.downstream import DownstreamConfig
from radpref.downstream.cells.cells import Cell, CellSpec
from radpref.downstream.cells.metrics import classification_metrics
from radpref.downstream.inference.comparisons import (
    PairedComparison,
    UntestedComparison,
    compare_family,
    patient_score,
    patient_sums,
    planned_family,
)

N_PATIENTS, SEEDS = 300, range(6)
SETTINGS = dict.fromkeys(
    ("n_steps", "batch_size", "image_size", "n_real", "n_synthetic", "multiple", "fraction"), 1
) | dict.fromkeys(("network", "train_data", "validation_data", "test_data"), "")


def _family(*primary):
    grid = DownstreamConfig(primary=primary, arms=("a", "b"), fractions=(1,), multiples=(1,))
    return planned_family(grid, ["task"])


FAMILY = _family("a>b", "b>real", "a>real")


def _grid(rng, gains):
    """Cells and predictions of a grid. gains: arm -> what it adds to the chance of finding a positive.

    All arms and seeds are tested on the same patients, some harder than others; seeds differ too, in all arms alike.
    """
    labels = (rng.random((N_PATIENTS, 1)) < 0.4).astype(np.float64)
    patients = np.array([f"p{i}" for i in range(N_PATIENTS)])
    hardness = rng.normal(0, 0.15, (N_PATIENTS, 1))
    cells, stored = [], {}
    for seed in SEEDS:
        luck = hardness + rng.normal(0, 0.03) + rng.normal(0, 0.1, (N_PATIENTS, 1))
        for arm, gain in gains.items():
            chance = np.where(labels == 1, 0.6 + gain, 0.3) + luck + rng.normal(0, 0.01)
            probabilities = np.clip(chance + rng.normal(0, 0.02, labels.shape), 0, 1)
            arrays = {
                "patients": patients, "labels": labels, "probabilities": probabilities, "thresholds": np.array([0.5]),
            }  # fmt: skip
            metrics = classification_metrics(labels, probabilities, np.array([0.5]), ("x",))
            spec = CellSpec(
                task="task", kind="binary", labels=("x",), arm=arm, seed=seed,
                recipe_version=1, **SETTINGS | {"multiple": int(arm != "real")},
            )  # fmt: skip
            cells.append(Cell(spec.cell_id, "run", spec, metrics))
            stored[spec.cell_id] = arrays
    return cells, stored


def _compare(gains, seed=0, n_boot=200):
    cells, stored = _grid(np.random.default_rng(seed), gains)
    rng = np.random.default_rng(1)
    return compare_family(cells, FAMILY, 0.05, lambda cell: stored[cell.cell_id], rng, n_boot)


WORSE = {"real": 0.0, "b": 0.0, "a": -0.1}
BETTER = {"real": 0.0, "b": 0.0, "a": 0.1}


@pytest.mark.parametrize("seed", range(5))
def test_an_arm_a_tenth_below_is_worse_and_never_better(seed):
    below, same, below_real = _compare(WORSE, seed)
    for row in (below, below_real):
        assert row.verdict == "worse"
        assert -0.25 < row.difference < -0.04
        assert row.ci[1] < 0 > row.ci_bootstrap[1]
        assert row.p > 0.5 > 0.05 > row.p_holm_worse
        assert row.d_z.value < 0 > row.d_z.ci[1]
    assert same.verdict not in ("better", "worse")


@pytest.mark.parametrize("seed", range(5))
def test_an_arm_a_tenth_above_is_better_and_mirrors_the_arm_below(seed):
    above, _, _ = _compare(BETTER, seed)
    assert above.verdict == "better"
    assert above.ci[0] > 0 < above.ci_bootstrap[0]
    assert above.p_holm < 0.05 < 0.5 < above.p_worse
    cells, stored = _grid(np.random.default_rng(seed), BETTER)
    turned = _family("b>a", "real>b", "real>a")
    below = compare_family(cells, turned, 0.05, lambda cell: stored[cell.cell_id], np.random.default_rng(1), 200)[0]
    assert below.verdict == "worse"
    assert below.difference == pytest.approx(-above.difference)
    assert (below.p, below.p_worse) == pytest.approx((above.p_worse, above.p))
    assert below.p_holm_worse == pytest.approx(above.p_holm)
    assert below.detectable_difference == pytest.approx(above.detectable_difference)
    assert below.seeds_needed == above.seeds_needed


def test_without_an_effect_both_verdicts_are_rare_and_p_is_uniform():
    rows = [_compare(dict.fromkeys(("real", "b", "a"), 0.0), seed, n_boot=20)[0] for seed in range(200)]
    verdicts = [row.verdict for row in rows]
    # Holm over three: at most 5 % of studies with any wrong word; 200 studies allow 2 times that by chance
    assert verdicts.count("better") <= 10
    assert verdicts.count("worse") <= 10
    assert stats.kstest([row.p for row in rows], "uniform").pvalue > 1e-3
    assert stats.kstest([row.p_worse for row in rows], "uniform").pvalue > 1e-3


def test_the_figures_are_those_of_independent_libraries():
    cells, stored = _grid(np.random.default_rng(3), WORSE)
    row = compare_family(cells, FAMILY, 0.05, lambda cell: stored[cell.cell_id], np.random.default_rng(1), 20)[0]
    scores = {}
    for cell in cells:
        arrays = stored[cell.cell_id]
        scores.setdefault(cell.spec.arm, []).append(f1_score(arrays["labels"], arrays["probabilities"] >= 0.5))
    assert row.values_a == pytest.approx(scores["a"])
    assert row.values_b == pytest.approx(scores["b"])
    assert row.p == pytest.approx(stats.ttest_rel(scores["a"], scores["b"], alternative="greater").pvalue)
    assert row.p_worse == pytest.approx(stats.ttest_rel(scores["a"], scores["b"], alternative="less").pvalue)
    assert row.p_independent == pytest.approx(stats.ttest_ind(scores["a"], scores["b"], alternative="greater").pvalue)
    d_z = row.detectable_difference / np.std(np.subtract(scores["a"], scores["b"]), ddof=1)
    power = TTestPower().power(d_z, len(SEEDS), 0.05 / len(FAMILY), alternative="larger")
    assert float(power) == pytest.approx(0.8, abs=1e-3)
    assert (row.family_size, row.n_test_patients, row.n) == (3, N_PATIENTS, 6)


def test_sums_over_patients_give_the_metric_of_the_cell():
    cells, stored = _grid(np.random.default_rng(0), BETTER)
    for cell in cells:
        sums = patient_sums(stored[cell.cell_id], "binary")
        assert patient_score("binary")(sums.sum(axis=0)[None])[0] == pytest.approx(cell.metrics.values["f1"])


def test_a_comparison_without_cells_keeps_its_place_in_the_family():
    cells, stored = _grid(np.random.default_rng(0), {"real": 0.0, "a": 0.1})
    rows = compare_family(cells, FAMILY, 0.05, lambda cell: stored[cell.cell_id], np.random.default_rng(1), 20)
    assert [type(row) for row in rows] == [UntestedComparison, UntestedComparison, PairedComparison]
    assert {row.family_size for row in rows} == {3}
    assert rows[2].p_bonferroni == pytest.approx(min(1, 3 * rows[2].p))
    assert rows[0].verdict == "too small to conclude"


def test_undefined_values_are_a_reason_not_a_verdict():
    cells, stored = _grid(np.random.default_rng(0), BETTER)
    nan = replace(cells[-1].metrics, values=cells[-1].metrics.values | {"f1": float("nan")})
    cells[-1] = replace(cells[-1], metrics=nan)
    rows = compare_family(cells, FAMILY, 0.05, lambda cell: stored[cell.cell_id], np.random.default_rng(1), 20)
    assert isinstance(rows[0], UntestedComparison)
    assert "nan" in rows[0].reason
