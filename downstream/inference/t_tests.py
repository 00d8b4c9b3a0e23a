"""Tests of "a is better than b" over paired seeds, their corrections, effect sizes and verdicts (paper, pipeline 7).

Pure functions on arrays with one value per seed. One-tailed P values as the study has them are beside two-sided
confidence intervals, so that "worse" can be seen. n < 2 is refused, n = 2 is flagged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from radpref.data.core.errors import InvalidInput
from radpref.downstream.cells.metrics import Number
from radpref.downstream.inference.power import CONFIDENCE, detectable_effect, noncentrality, seeds_needed

Verdict = Literal["better", "worse", "no difference shown", "too small to conclude"]
Values = Sequence[float] | npt.NDArray[np.float64]

MIN_SEEDS = 5
"""With fewer paired seeds every verdict is "too small to conclude", whatever the P value."""
RELEVANT_DIFFERENCE = 0.02
"""Smallest difference of F1 or Dice that matters here; "no difference shown" needs 80 % power for it."""


@dataclass(frozen=True)
class Test:
    """One test: its name, n per arm, estimate of a - b, t, degrees of freedom, one-tailed P and two-sided CI."""

    name: str
    n: int
    difference: float
    t: Number
    df: float
    p: float
    ci: tuple[float, float]


def _pair(a: Values, b: Values) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for name, values in (("a", left), ("b", right)):
        if values.ndim != 1 or len(values) < 2:
            raise InvalidInput(f"n = {values.size} for arm {name}: a test needs at least 2 seeds; add seeds")
        if not np.isfinite(values).all():
            raise InvalidInput(f"arm {name} has undefined values {values.tolist()}; check the test set's positives")
    return left, right


def _finish(name: str, n: int, difference: float, error: float, df: float) -> Test:
    """t, P(T >= t) and the interval. Without any spread (but rounding) t is infinite, or 0 for no difference at all."""
    error = 0.0 if error < 1e-12 * max(1.0, abs(difference)) else error
    without_spread = 0.0 if difference == 0 else math.copysign(math.inf, difference)
    t = difference / error if error > 0 else without_spread
    p = float(stats.t.sf(t, df)) if math.isfinite(t) else float(difference < 0)
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * error
    return Test(name, n, difference, t, df, p, (difference - half, difference + half))


def paired_t(a: Values, b: Values) -> Test:
    """One-tailed paired t-test of mean(a - b) > 0; a[i] and b[i] share seed i."""
    left, right = _pair(a, b)
    if len(left) != len(right):
        raise InvalidInput(f"paired arms have {len(left)} and {len(right)} seeds; run the same seeds in both")
    delta = left - right
    error = float(delta.std(ddof=1)) / math.sqrt(len(delta))
    return _finish("paired t, one-tailed", len(delta), float(delta.mean()), error, len(delta) - 1)


def independent_t(a: Values, b: Values, *, equal_var: bool) -> Test:
    """One-tailed t-test of independent arms: the study's own, with pooled variance, or Welch's for unequal ones."""
    left, right = _pair(a, b)
    n, m = len(left), len(right)
    name, df = "independent t, one-tailed", float(n + m - 2)
    u, v = float(left.var(ddof=1)) / n, float(right.var(ddof=1)) / m
    variance = (n * (n - 1) * u + m * (m - 1) * v) / df * (1 / n + 1 / m)
    if not equal_var:
        name, variance = "Welch t, one-tailed", u + v
        df = variance**2 / (u**2 / (n - 1) + v**2 / (m - 1)) if variance > 0 else df  # Welch-Satterthwaite
    return _finish(name, min(n, m), float(left.mean() - right.mean()), math.sqrt(variance), df)


def bonferroni(p_values: Values) -> npt.NDArray[np.float64]:
    """Bonferroni-adjusted P values: min(1, m p) with m = the family size."""
    p = np.asarray(p_values, dtype=np.float64)
    return np.minimum(1.0, p * len(p))


def holm(p_values: Values) -> npt.NDArray[np.float64]:
    """Holm's step-down adjusted P values (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


@dataclass(frozen=True)
class Effect:
    """A standardised effect with its two-sided CI from the noncentral t distribution."""

    name: str
    value: Number
    ci: tuple[Number, Number]


def _effect(name: str, test: Test, scale: float) -> Effect:
    """``scale`` times t; the interval by Steiger & Fouladi (1997)."""
    if not math.isfinite(test.t):
        return Effect(name, test.t, (math.nan, math.nan))
    tail = (1 - CONFIDENCE) / 2
    low, high = (noncentrality(test.t, test.df, probability) * scale for probability in (1 - tail, tail))
    return Effect(name, test.t * scale, (low, high))


def verdict(n: int, p_better: float, p_worse: float, detectable: float, alpha: float) -> Verdict:
    """The pre-stated verdict of one primary comparison of ``n`` seeds; fewer than `MIN_SEEDS` never conclude.

    p_better, p_worse: Holm-adjusted one-tailed P of a > b and a < b. detectable: difference found with 80 % power.
    """
    if n < MIN_SEEDS:
        return "too small to conclude"
    return conclude(p_better, p_worse, detectable, alpha, RELEVANT_DIFFERENCE)


def conclude(p_better: float, p_worse: float, detectable: float, alpha: float, relevant: float) -> Verdict:
    """The rule of `verdict` where there are enough data; "no difference shown" needs power for what is ``relevant``."""
    if p_better < alpha:
        return "better"
    if p_worse < alpha:
        return "worse"
    return "no difference shown" if detectable <= relevant else "too small to conclude"


@dataclass(frozen=True)
class Difference:
    """Everything about "a > b" over paired seeds, before adjustment over the family."""

    n: int
    flag: str  # a warning to print beside the row, or ""
    mean_a: float
    sd_a: float
    mean_b: float
    sd_b: float
    difference: float  # mean(a - b)
    ci: tuple[float, float]
    confidence: float
    sd_difference: float
    test: str
    t: Number
    df: float
    p: float  # one-tailed, a > b, as all P but p_worse
    p_worse: float
    p_independent: float
    p_welch: float
    tests: tuple[Test, ...]
    cohen_d: Effect
    d_z: Effect
    detectable_difference: float  # found with 80 % power at alpha / family size
    seeds_needed: int | None  # for the observed effect at that power and level; None: too many


def compare(a: Values, b: Values, alpha: float, family_size: int) -> Difference:
    """Test "a > b" three ways and say what could have been found.

    a, b: one value per seed, paired. alpha: level of the whole family of ``family_size`` comparisons.

    Raises:
        InvalidInput: fewer than 2 seeds, unequal numbers of seeds, or undefined values.
    """
    paired, (independent, welch) = paired_t(a, b), (independent_t(a, b, equal_var=equal) for equal in (True, False))
    left, right = _pair(a, b)
    spread = float((left - right).std(ddof=1))
    d_z = _effect("d_z", paired, math.sqrt(1 / paired.n))  # mean(a - b) / SD(a - b)
    level = alpha / max(family_size, 1)
    return Difference(
        n=paired.n,
        flag="n = 2: almost no power, the spread is a guess" if paired.n == 2 else "",
        mean_a=float(left.mean()), sd_a=float(left.std(ddof=1)),
        mean_b=float(right.mean()), sd_b=float(right.std(ddof=1)),
        difference=paired.difference, ci=paired.ci, confidence=CONFIDENCE, sd_difference=spread,
        test=paired.name, t=paired.t, df=paired.df, p=paired.p, p_worse=1.0 - paired.p,
        p_independent=independent.p, p_welch=welch.p, tests=(paired, independent, welch),
        cohen_d=_effect("Cohen's d", independent, math.sqrt(2 / paired.n)), d_z=d_z,
        detectable_difference=detectable_effect(paired.n, level) * spread,
        seeds_needed=seeds_needed(abs(d_z.value), level) if math.isfinite(d_z.value) and d_z.value else None,
    )  # fmt: skip
