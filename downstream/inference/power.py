"""Power of t-tests by the noncentral t distribution: what a number of seeds can show, and how many an effect needs.

Pure functions. d is Cohen's d (independent) or d_z (paired); alpha is the level of the single test, already divided by
the number of comparisons where Bonferroni is used. One-tailed, as the study tests.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from radpref.data.core.errors import InvalidInput

MAX_SEEDS = 10_000
CONFIDENCE = 0.95
"""Of every interval of the report."""


def _check(n: int, alpha: float) -> None:
    if n < 2:
        raise InvalidInput(f"n = {n}: a t-test needs at least 2 seeds per arm; add seeds in study.toml")
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha = {alpha}: give a level between 0 and 1")


def power_paired(d_z: float, n: int, alpha: float) -> float:
    """Power of a one-tailed paired t-test with ``n`` pairs and effect ``d_z``: P(T'_{n-1}(d_z sqrt n) > t_crit)."""
    _check(n, alpha)
    return _upper_tail(n - 1, d_z * math.sqrt(n), alpha)


def power_independent(d: float, n_per_arm: int, alpha: float) -> float:
    """Power of a one-tailed two-sample t-test with ``n_per_arm`` in each arm: noncentrality d sqrt(n / 2)."""
    _check(n_per_arm, alpha)
    return _upper_tail(2 * n_per_arm - 2, d * math.sqrt(n_per_arm / 2), alpha)


def _upper_tail(df: int, noncentrality: float, alpha: float) -> float:
    if noncentrality == 0:
        return alpha
    return 1.0 - noncentral_t_cdf(float(stats.t.isf(alpha, df)), df, noncentrality)


def noncentral_t_cdf(t: float, df: float, noncentrality: float) -> float:
    """P(T' <= t) by scipy, or where that gives no number (far tails, few degrees of freedom) by quadrature.

    The quadrature averages Phi(t s - noncentrality) over 20,000 quantiles of s = sqrt(chi2_df / df).
    """
    value = float(stats.nct.cdf(t, df, noncentrality))
    if math.isfinite(value):
        return value
    u = (np.arange(20_000) + 0.5) / 20_000
    return float(special.ndtr(t * np.sqrt(stats.chi2.ppf(u, df) / df) - noncentrality).mean())


def noncentrality(t: float, df: float, probability: float) -> float:
    """The noncentrality at which P(T' <= t) equals ``probability``, above 0.01 and below 0.99."""
    width = 10.0 + 2 * abs(t)
    low, high = t - width, t + width
    return float(optimize.brentq(lambda nc: noncentral_t_cdf(t, df, nc) - probability, low, high, xtol=1e-8))


def detectable_effect(n: int, alpha: float, power: float = 0.8) -> float:
    """The smallest d_z that a one-tailed paired test with ``n`` pairs finds with probability ``power``."""
    _check(n, alpha)
    return noncentrality(float(stats.t.isf(alpha, n - 1)), n - 1, 1 - power) / math.sqrt(n)


def seeds_needed(d_z: float, alpha: float, power: float = 0.8, max_seeds: int = MAX_SEEDS) -> int | None:
    """Pairs that a one-tailed paired test needs to find ``d_z``; None if more than ``max_seeds`` (or d_z <= 0)."""
    if not d_z > 0 or power_paired(d_z, max_seeds, alpha) < power:
        return None
    return 2 + bisect_left(range(2, max_seeds + 1), power, key=lambda n: power_paired(d_z, n, alpha))


@dataclass(frozen=True)
class PowerRow:
    """What ``n_seeds`` find: d_z found with 80 % power in a single test and within the family, power for d_z = 1."""

    n_seeds: int
    detectable_dz_single: float
    detectable_dz_family: float
    power_dz_1_family: float


def power_table(n_seeds: int, family_size: int, alpha: float) -> tuple[PowerRow, ...]:
    """For several numbers of seeds: the effect found with 80 % power, alone and within the family (Bonferroni)."""
    level = alpha / max(family_size, 1)
    return tuple(
        PowerRow(n, detectable_effect(n, alpha), detectable_effect(n, level), power_paired(1.0, n, level))
        for n in sorted({2, 3, 5, 10, 20, n_seeds} - {0, 1})
    )


@dataclass(frozen=True)
class DesignPower:
    """A design of two independent arms and the power that it has for an effect of ``d`` standard deviations."""

    n_per_arm: int
    family_size: int
    d: float
    power: float


def study_example() -> DesignPower:
    """The published design: two trials per arm, 48 comparisons under Bonferroni, an effect of 5 SD. About 5 %."""
    return DesignPower(2, 48, 5.0, power_independent(5.0, 2, 0.05 / 48))
