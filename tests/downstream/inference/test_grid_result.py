"""A stored grid result is read back as it was written, also one of an older study."""

from __future__ import annotations

import json
import math

import numpy as np

from radpref.data.config.downstream import DownstreamConfig
from radpref.downstream.cells.cells import Cell, CellSpec
from radpref.downstream.cells.metrics import Metrics
from radpref.downstream.inference.comparisons import PairedComparison, UntestedComparison, planned_family
from radpref.downstream.inference.grid_result import GridResult, grid_result

SETTINGS = DownstreamConfig(
    arms=("a", "b"), fractions=(0.1,), multiples=(2,), seeds=(0, 1, 2), primary=("a>real", "b>real")
)


def _result():
    """Three seeds of two arms; the third arm has no cell, one class no positive, and one effect no spread."""
    cells = []
    for seed in SETTINGS.seeds:
        for arm, value in (("real", 0.4), ("a", 0.5)):
            spec = CellSpec(
                "t", "binary", ("x",), arm, 0.1, 2 * (arm == "a"), seed, "small", 1, 2, 16, 3, 4, "", "", "", 1
            )
            metrics = Metrics({"f1": value, "auroc": math.nan}, {"x": {"f1": value, "auroc": math.nan, "n_known": 2}})
            cells.append(Cell(spec.cell_id, "run", spec, metrics))
    arrays = {
        "patients": np.array(["p", "q"]), "labels": np.array([[1.0], [0.0]]),
        "probabilities": np.array([[0.9], [0.1]]), "thresholds": np.array([0.5]),
    }  # fmt: skip
    family = planned_family(SETTINGS, ["t"])
    return grid_result(SETTINGS, cells, family, lambda cell: arrays)


def test_undefined_and_infinite_figures_are_null_and_come_back_undefined():
    found = _result()
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    tested, untested = found.comparisons
    assert tested.t == tested.d_z.value == math.inf
    assert stored["comparisons"][0]["t"] is stored["cells"][0]["auroc"] is stored["per_class"][0]["auroc"] is None
    again = GridResult.from_json("grid-1", stored)
    assert again.run_id == "grid-1"
    assert again.to_json() == stored | {"run_id": "grid-1"}
    assert [type(row) for row in again.comparisons] == [PairedComparison, UntestedComparison]
    assert math.isnan(again.comparisons[0].t)
    assert again.comparisons[1] == untested
    assert again.cells[0].value("f1") == 0.4
    assert math.isnan(again.cells[0].value("auroc"))
    assert again.rules == found.rules


def test_the_keys_that_reports_and_tables_of_older_studies_have():
    stored = _result().to_json()
    assert {"cells", "per_class", "comparisons", "power", "study_power", "rules"} <= set(stored)
    assert {"cell_id", "run_id", "task", "kind", "arm", "fraction", "multiple", "seed", "f1"} <= set(stored["cells"][0])
    assert {
        "comparison", "a", "b", "task", "fraction", "multiple", "seeds", "n", "metric", "metric_name", "flag",
        "mean_a", "sd_a", "mean_b", "sd_b", "difference", "ci", "confidence", "sd_difference", "test", "t", "df", "p",
        "p_worse", "p_independent", "p_welch", "tests", "cohen_d", "d_z", "detectable_difference", "seeds_needed",
        "ci_bootstrap", "values_a", "values_b", "n_test_patients", "family_size", "p_bonferroni", "p_holm",
        "p_holm_worse", "verdict",
    } == set(stored["comparisons"][0])  # fmt: skip
    assert set(stored["comparisons"][1]) >= {"comparison", "seeds", "n", "reason", "family_size", "verdict"}
    assert not {"p", "difference"} & set(stored["comparisons"][1])


def test_a_result_of_before_and_one_of_later_are_read():
    stored = _result().to_json()
    older = {key: value for key, value in stored.items() if key not in ("splits", "run_id")}
    assert GridResult.from_json("r", older).splits == {}
    later = older | {"novelty": 1, "comparisons": [row | {"novelty": 1} for row in older["comparisons"]]}
    assert GridResult.from_json("r", later).to_json() == GridResult.from_json("r", older).to_json()
