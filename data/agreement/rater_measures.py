"""How one rater scores: leniency, position effect, drift, attention, straight-lining, pace. Pure functions.

Input: rows of the tables in data/agreement/score_tables.py. Output: plain dictionaries, each with the n behind it. A
measure with too little behind it is {"n_...": n, "too_small": reason} and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from radpref.data.agreement.reliability import CONFIDENCE, MIN_SETS
from radpref.data.core.statistics import wilson
from radpref.data.reader_study.scores import N_SLOTS

Float = npt.NDArray[np.float64]
ITEM = ["set_id", "slot", "criterion"]
LEVELS = 6
MIN_SHARED = 0.8
"""From this share of sets with another rater's scores on, position and drift are measured against the others."""
OTHERS, OWN = "other raters' mean on the same images", "own mean"
WINDOW, MAX_POINTS = 15, 60
"""Sets in the rolling mean of the drift plot, and how many points of it are sent."""


def too_small(n: int, needed: int, what: str) -> str:
    """The words for a figure that is not given."""
    return f"n too small: {n} {what}, needs {needed}"


def share(k: int, n: int) -> dict[str, Any]:
    """A share with its Wilson interval, and k and n."""
    low, high = wilson(k, n)
    return {"value": round(k / n, 4), "low": round(low, 4), "high": round(high, 4), "k": k, "n": n}


def _draws(n: int, n_boot: int, seed: int) -> Float:
    rng = np.random.default_rng([seed, 47])
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def _percentiles(boots: Float) -> tuple[Float, Float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.percentile(boots, tail, axis=0), np.percentile(boots, 100 - tail, axis=0)


def with_others(scores: pd.DataFrame) -> pd.DataFrame:
    """Add ``others``: the mean score of the other raters on the same image and criterion, NaN where nobody else did.

    ``scores`` holds raters of one kind only, each item at most once per rater.
    """
    grouped = scores.groupby(ITEM)["value"]
    total = grouped.transform("sum").to_numpy(dtype=np.float64)
    n = grouped.transform("size").to_numpy(dtype=np.float64)
    value = scores["value"].to_numpy(dtype=np.float64)
    others = np.where(n > 1, (total - value) / np.where(n > 1, n - 1, 1.0), np.nan)
    return scores.assign(others=others)


def distribution(rows: pd.DataFrame) -> dict[str, Any]:
    """{criterion: {"counts": [how often 0, 1, ... 5], "mean": m, "n": n}}."""
    return {
        str(criterion): {
            "counts": np.bincount(part.to_numpy(), minlength=LEVELS).tolist(),
            "mean": round(float(part.mean()), 3),
            "n": len(part),
        }
        for criterion, part in rows.groupby("criterion")["value"]
    }


def leniency(rows: pd.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """Mean of (own score - mean of the others) over shared images, score points; CI: bootstrap over sets."""
    shared = rows[rows["others"].notna()]
    per_set = (
        (shared["value"] - shared["others"]).groupby(shared["set_id"]).agg(["sum", "size"]).to_numpy(dtype=np.float64)
    )
    n_sets = len(per_set)
    sizes = {"n_sets": n_sets, "n_scores": len(shared)}
    if n_sets < MIN_SETS:
        return {**sizes, "too_small": too_small(n_sets, MIN_SETS, "sets shared with another rater")}
    boots = _draws(n_sets, n_boot, seed) @ per_set
    low, high = _percentiles(boots[:, 0] / boots[:, 1])
    value = per_set[:, 0].sum() / per_set[:, 1].sum()
    return {**sizes, "value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def residuals(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """One rater's rows with ``residual``, and what it is measured against.

    Against the other raters' mean if they scored nearly all the same sets (then only those rows are kept): this takes
    the images' own quality out. Else against the rater's own mean on the criterion.
    """
    shared = rows[rows["others"].notna()]
    if shared["set_id"].nunique() >= max(MIN_SETS, MIN_SHARED * rows["set_id"].nunique()):
        return shared.assign(residual=shared["value"] - shared["others"]), OTHERS
    own = rows.groupby("criterion")["value"].transform("mean")
    return rows.assign(residual=rows["value"] - own), OWN


def position_effect(rows: pd.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """Mean residual at A, B, C, D after each set's own mean is taken off; on TM2I the criteria are averaged first.

    CIs: bootstrap over sets. p: F-test of place in the two-way layout sets x places without interaction.
    """
    used, basis = residuals(rows)
    wide = used.pivot_table(index="set_id", columns="place", values="residual", aggfunc="mean")
    wide = wide.reindex(columns=range(N_SLOTS)).dropna()
    n_sets = len(wide)
    if n_sets < MIN_SETS:
        return {"n_sets": n_sets, "basis": basis, "too_small": too_small(n_sets, MIN_SETS, "complete sets")}
    centred = wide.to_numpy(dtype=np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    means = centred.mean(axis=0)
    low, high = _percentiles(_draws(n_sets, n_boot, seed) @ centred / n_sets)
    between = n_sets * float((means**2).sum())
    rest = float((centred**2).sum()) - between
    freedom = (N_SLOTS - 1, (N_SLOTS - 1) * (n_sets - 1))
    f = math.nan if rest < 1e-9 else (between / freedom[0]) / (rest / freedom[1])
    p = float(stats.f.sf(f, *freedom)) if math.isfinite(f) else None
    places = [
        {"place": "ABCD"[k], "value": round(float(means[k]), 4), "low": round(float(a), 4), "high": round(float(b), 4)}
        for k, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    return {"n_sets": n_sets, "basis": basis, "places": places, "p": p, "f": f if math.isfinite(f) else None}


def drift(rows: pd.DataFrame) -> dict[str, Any]:
    """Slope of the residual score (see :func:`residuals`) per 100 sets in the order of finishing, one value per set.

    With its 95 % CI (least squares, t), the fitted line and the rolling mean for the plot.
    """
    used, basis = residuals(rows)
    residual = used.groupby("finish")["residual"].mean().sort_index().to_numpy(dtype=np.float64)
    n = len(residual)
    if n < MIN_SETS:
        return {"n_sets": n, "basis": basis, "too_small": too_small(n, MIN_SETS, "sets")}
    x = np.arange(1, n + 1, dtype=np.float64)
    fit = stats.linregress(x, residual)
    stderr = float(fit.stderr) if math.isfinite(fit.stderr) else 0.0  # nan: the residuals are all alike
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 2)) * stderr
    slope = float(fit.slope)
    return {
        "n_sets": n,
        "basis": basis,
        "value": round(100 * slope, 4),
        "low": round(100 * (slope - half), 4),
        "high": round(100 * (slope + half), 4),
        "line": [[1, _at(fit, 1)], [n, _at(fit, n)]],
        "rolling": _rolling(residual),
        "window": min(WINDOW, n),
    }


def _at(fit: Any, x: int) -> float:
    return round(float(fit.intercept) + float(fit.slope) * x, 4)


def _rolling(residual: Float) -> list[list[float]]:
    """[set number at the middle of the window, mean residual], at most MAX_POINTS of them."""
    window = min(WINDOW, len(residual))
    sums = np.cumsum(np.concatenate([[0.0], residual]))
    means = (sums[window:] - sums[:-window]) / window
    middle = np.arange(len(means)) + (window + 1) / 2
    kept = np.unique(np.linspace(0, len(means) - 1, min(MAX_POINTS, len(means))).round().astype(int))
    return [[float(middle[k]), round(float(means[k]), 4)] for k in kept]


def in_range(rows: pd.DataFrame, expected: pd.DataFrame) -> dict[str, Any]:
    """Share of answers within the expected range, with its Wilson interval; ``n_sets`` behind them."""
    both = rows.merge(expected, on=ITEM)
    n = len(both)
    sizes = {"n_sets": int(both["set_id"].nunique()), "n": n}
    if n < N_SLOTS:
        return {**sizes, "too_small": too_small(n, N_SLOTS, "answers")}
    right = int(((both["value"] >= both["low"]) & (both["value"] <= both["high"])).sum())
    return {**sizes, **share(right, n)}


def equal_sets(rows: pd.DataFrame) -> pd.Series[bool]:
    """(rater_id, set_id) -> whether the four images got the same score, on every criterion."""
    spread = rows.groupby(["rater_id", "set_id", "criterion"])["value"].nunique() == 1
    return spread.groupby(level=["rater_id", "set_id"]).all()


def straight_lining(equal: pd.Series[bool], rater_id: int) -> dict[str, Any]:
    """Share of one rater's sets with four equal scores, beside the others' share on the same sets."""
    raters = equal.index.get_level_values("rater_id")
    own, others = equal[raters == rater_id], equal[raters != rater_id]
    n = len(own)
    if n < MIN_SETS:
        return {"n": n, "too_small": too_small(n, MIN_SETS, "sets")}
    same = others[others.index.get_level_values("set_id").isin(own.index.get_level_values("set_id"))]
    expected = None if len(same) < MIN_SETS else round(float(same.mean()), 4)
    return {**share(int(own.sum()), n), "others": expected, "n_others": len(same)}


def pace(shown: pd.DataFrame, too_fast_s: float, n_left: int) -> dict[str, Any]:
    """Active seconds per set (median and quartiles), the time left at that pace, and the share of sets done too fast.

    Too fast: less than ``too_fast_s`` seconds per score. Sets without a measured time count nowhere.
    """
    timed = shown[shown["done"] & shown["active_s"].notna()]
    seconds = timed["active_s"].to_numpy(dtype=np.float64)
    if len(seconds) == 0:
        return {"n": 0, "too_small": too_small(0, 1, "timed sets")}
    quarter, median, three_quarters = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    fast = int((seconds / timed["n_required"].to_numpy(dtype=np.float64) < too_fast_s).sum())
    return {
        "n": len(seconds),
        "median_s": round(median, 1),
        "low_s": round(quarter, 1),
        "high_s": round(three_quarters, 1),
        "left_s": round(median * n_left),
        "too_fast": share(fast, len(seconds)),
    }
