"""How one rater scores: leniency, position effect, drift, attention, straight-lining, pace. Pure functions.

Input: rows of the tables in data/agreement/score_tables.py. Output: one dataclass each, with the n behind it; a
measure with too little behind it is a :class:`TooSmall`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class TooSmall:
    """A figure that is not given, because ``n`` is too small."""

    n: int
    too_small: str

    @classmethod
    def of(cls, n: int, needed: int, what: str) -> TooSmall:
        """``n`` of ``what``, where ``needed`` are."""
        return cls(n, f"n too small: {n} {what}, needs {needed}")


@dataclass(frozen=True)
class Share:
    """A share k of n with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    k: int
    n: int

    @classmethod
    def of(cls, k: int, n: int) -> Share:
        """The share of ``k`` in ``n``."""
        low, high = wilson(k, n)
        return cls(round(k / n, 4), round(low, 4), round(high, 4), k, n)


@dataclass(frozen=True)
class InRange(Share):
    """Answers within the expected range, on ``n_sets`` sets."""

    n_sets: int


@dataclass(frozen=True)
class StraightLining(Share):
    """Sets with four equal scores; ``others``: the other raters' share on the same sets, None where it is too few."""

    others: float | None
    n_others: int


@dataclass(frozen=True)
class ScoreCounts:
    """How often 0, 1, ... 5 was given, and the mean."""

    counts: list[int]
    mean: float
    n: int


@dataclass(frozen=True)
class Leniency:
    """Mean of own score minus the others' mean, score points, with its 95 % interval."""

    n_sets: int
    n_scores: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Place:
    """Mean residual at one place of the page, A to D, with its 95 % interval."""

    place: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PositionEffect:
    """Mean residuals at A, B, C, D against ``basis``; F-test of place: p and f, None where the rest has no variance."""

    n_sets: int
    basis: str
    places: list[Place]
    p: float | None
    f: float | None


@dataclass(frozen=True)
class Drift:
    """Slope of the residual per 100 sets with its 95 % interval; line and rolling mean (over ``window`` sets): points
    [set number, residual]."""

    n_sets: int
    basis: str
    value: float
    low: float
    high: float
    line: list[list[float]]
    rolling: list[list[float]]
    window: int


@dataclass(frozen=True)
class Pace:
    """Active seconds per set (median and quartiles), seconds left at that pace, and the share done too fast."""

    n: int
    median_s: float
    low_s: float
    high_s: float
    left_s: int
    too_fast: Share


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


def distribution(rows: pd.DataFrame) -> dict[str, ScoreCounts]:
    """Criterion -> the scores given."""
    return {
        str(criterion): ScoreCounts(
            np.bincount(part.to_numpy(), minlength=LEVELS).tolist(), round(float(part.mean()), 3), len(part)
        )
        for criterion, part in rows.groupby("criterion")["value"]
    }


def leniency(rows: pd.DataFrame, *, n_boot: int, seed: int) -> Leniency | TooSmall:
    """Mean of (own score - mean of the others) over shared images, score points; CI: bootstrap over sets."""
    shared = rows[rows["others"].notna()]
    per_set = (
        (shared["value"] - shared["others"]).groupby(shared["set_id"]).agg(["sum", "size"]).to_numpy(dtype=np.float64)
    )
    n_sets = len(per_set)
    if n_sets < MIN_SETS:
        return TooSmall.of(n_sets, MIN_SETS, "sets shared with another rater")
    boots = _draws(n_sets, n_boot, seed) @ per_set
    low, high = _percentiles(boots[:, 0] / boots[:, 1])
    value = per_set[:, 0].sum() / per_set[:, 1].sum()
    return Leniency(n_sets, len(shared), round(float(value), 4), round(float(low), 4), round(float(high), 4))


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


def position_effect(rows: pd.DataFrame, *, n_boot: int, seed: int) -> PositionEffect | TooSmall:
    """Mean residual at A, B, C, D after each set's own mean is taken off; on TM2I the criteria are averaged first.

    CIs: bootstrap over sets. p: F-test of place in the two-way layout sets x places without interaction.
    """
    used, basis = residuals(rows)
    wide = used.pivot_table(index="set_id", columns="place", values="residual", aggfunc="mean")
    wide = wide.reindex(columns=range(N_SLOTS)).dropna()
    n_sets = len(wide)
    if n_sets < MIN_SETS:
        return TooSmall.of(n_sets, MIN_SETS, "complete sets")
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
        Place("ABCD"[k], round(float(means[k]), 4), round(float(a), 4), round(float(b), 4))
        for k, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    return PositionEffect(n_sets, basis, places, p, f if math.isfinite(f) else None)


def drift(rows: pd.DataFrame) -> Drift | TooSmall:
    """Slope of the residual score (see :func:`residuals`) per 100 sets in the order of finishing, one value per set.

    With its 95 % CI (least squares, t), the fitted line and the rolling mean for the plot.
    """
    used, basis = residuals(rows)
    residual = used.groupby("finish")["residual"].mean().sort_index().to_numpy(dtype=np.float64)
    n = len(residual)
    if n < MIN_SETS:
        return TooSmall.of(n, MIN_SETS, "sets")
    x = np.arange(1, n + 1, dtype=np.float64)
    fit = stats.linregress(x, residual)
    stderr = float(fit.stderr) if math.isfinite(fit.stderr) else 0.0  # nan: the residuals are all alike
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 2)) * stderr
    slope = float(fit.slope)
    return Drift(
        n,
        basis,
        value=round(100 * slope, 4),
        low=round(100 * (slope - half), 4),
        high=round(100 * (slope + half), 4),
        line=[[1, _at(fit, 1)], [n, _at(fit, n)]],
        rolling=_rolling(residual),
        window=min(WINDOW, n),
    )


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


def in_range(rows: pd.DataFrame, expected: pd.DataFrame) -> InRange | TooSmall:
    """Share of answers within the expected range."""
    both = rows.merge(expected, on=ITEM)
    n = len(both)
    if n < N_SLOTS:
        return TooSmall.of(n, N_SLOTS, "answers")
    right = int(((both["value"] >= both["low"]) & (both["value"] <= both["high"])).sum())
    return InRange(**asdict(Share.of(right, n)), n_sets=int(both["set_id"].nunique()))


def equal_sets(rows: pd.DataFrame) -> pd.Series[bool]:
    """(rater_id, set_id) -> whether the four images got the same score, on every criterion."""
    spread = rows.groupby(["rater_id", "set_id", "criterion"])["value"].nunique() == 1
    return spread.groupby(level=["rater_id", "set_id"]).all()


def straight_lining(equal: pd.Series[bool], rater_id: int) -> StraightLining | TooSmall:
    """Share of one rater's sets with four equal scores, beside the others' share on the same sets."""
    raters = equal.index.get_level_values("rater_id")
    own, others = equal[raters == rater_id], equal[raters != rater_id]
    n = len(own)
    if n < MIN_SETS:
        return TooSmall.of(n, MIN_SETS, "sets")
    same = others[others.index.get_level_values("set_id").isin(own.index.get_level_values("set_id"))]
    expected = None if len(same) < MIN_SETS else round(float(same.mean()), 4)
    return StraightLining(**asdict(Share.of(int(own.sum()), n)), others=expected, n_others=len(same))


def pace(shown: pd.DataFrame, too_fast_s: float, n_left: int) -> Pace | TooSmall:
    """Active seconds per set (median and quartiles), the time left at that pace, and the share of sets done too fast.

    Too fast: less than ``too_fast_s`` seconds per score. Sets without a measured time count nowhere.
    """
    timed = shown[shown["done"] & shown["active_s"].notna()]
    seconds = timed["active_s"].to_numpy(dtype=np.float64)
    if len(seconds) == 0:
        return TooSmall.of(0, 1, "timed sets")
    quarter, median, three_quarters = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    fast = int((seconds / timed["n_required"].to_numpy(dtype=np.float64) < too_fast_s).sum())
    return Pace(
        len(seconds),
        median_s=round(median, 1),
        low_s=round(quarter, 1),
        high_s=round(three_quarters, 1),
        left_s=round(median * n_left),
        too_fast=Share.of(fast, len(seconds)),
    )
