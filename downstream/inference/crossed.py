"""Mean of values that raters gave to conditions, both drawn from many: mixed model with crossed random effects.

Input: one value per rater and condition (more, or none, are allowed), here differences between two arms. Output: the
mean for other raters and other conditions, with its interval, and a bootstrap that assumes no distribution.

    y = mean + rater + condition + residual,      three variances by REML, interval by t with Satterthwaite's df

This is the model of multi-reader studies (Dorfman, Berbaum & Metz 1992; Hillis 2007) written on differences: what a
rater or a condition adds to both arms alike has cancelled. The information matrix keeps all three variances also where
one is estimated as 0, so a lucky 0 with few raters buys no degrees of freedom.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, stats

from radpref.downstream.inference.bootstrap import percentile_interval
from radpref.downstream.inference.power import CONFIDENCE, noncentrality

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
MIN_RESIDUAL = 1e-4
"""Smallest residual variance, as a share of all variance: raters who agree completely leave none."""


@dataclass(frozen=True)
class Crossed:
    """Estimate, standard error and df of the mean; variances between raters, conditions, and of the rest."""

    estimate: float
    se: float
    df: float
    var_rater: float
    var_condition: float
    var_residual: float

    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % t interval."""
        half = float(stats.t.isf((1 - CONFIDENCE) / 2, self.df)) * self.se
        return self.estimate - half, self.estimate + half

    def p(self) -> float:
        """Two-sided P of the mean being 0."""
        return float(2 * stats.t.sf(abs(self.estimate) / self.se, self.df))


class _Sums:
    """Cross products of the design: all that the likelihood needs, of size raters + conditions."""

    def __init__(self, y: Float, raters: Index, conditions: Index) -> None:
        self.n = len(y)
        blocks = [raters, conditions]
        # A factor with one level, or with a level for every row, cannot be told from the mean or the residual.
        self.used = [1 < len(np.unique(block)) < self.n for block in blocks]
        kept = [block for block, used in zip(blocks, self.used, strict=True) if used]
        sizes = [int(block.max()) + 1 for block in kept]
        ends = np.cumsum([0, *sizes])
        self.slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        self.gram: Float = np.zeros((int(ends[-1]), int(ends[-1])))
        columns = [block + end for block, end in zip(kept, ends, strict=False)]
        for one, other in itertools.product(columns, columns):
            np.add.at(self.gram, (one, other), 1.0)
        joined = np.concatenate(columns) if columns else np.zeros(0, dtype=np.intp)
        self.zx: Float = np.bincount(joined, minlength=len(self.gram)).astype(np.float64)
        weights = np.tile(y, len(columns))
        self.zy: Float = np.asarray(np.bincount(joined, weights, minlength=len(self.gram)), dtype=np.float64)
        self.y_sum, self.y_square = float(y.sum()), float(y @ y)


@dataclass(frozen=True)
class _Fit:
    """Everything at given variance ratios; in units of the residual variance ``scale``."""

    xx: float
    mean: float
    scale: float
    deviance: float
    zvx: Float
    zpz: Float
    zpy: Float


def _evaluate(sums: _Sums, ratios: Float, scale: float | None = None) -> _Fit:
    """The restricted likelihood at variance ``ratios``, the residual variance being the best one, or ``scale``."""
    root = np.zeros(len(sums.zx))
    for part, ratio in zip(sums.slices, ratios, strict=True):
        root[part] = math.sqrt(ratio)
    factor = linalg.cholesky(np.eye(len(root)) + root[:, None] * sums.gram * root, lower=True)
    right = np.column_stack([root * sums.zx, root * sums.zy, root[:, None] * sums.gram])
    half = linalg.solve_triangular(factor, right, lower=True)
    x, y, g = half[:, 0], half[:, 1], half[:, 2:]
    xx, xy, yy = sums.n - x @ x, sums.y_sum - x @ y, sums.y_square - y @ y
    mean = xy / xx
    squares = max(float(yy - xy * mean), 1e-300)
    best = squares / (sums.n - 1) if scale is None else scale
    zvx, zvy = sums.zx - g.T @ x, sums.zy - g.T @ y
    zpz = sums.gram - g.T @ g - np.outer(zvx, zvx) / xx
    deviance = (sums.n - 1) * math.log(best) + squares / best + 2 * float(np.log(np.diag(factor)).sum()) + math.log(xx)
    return _Fit(float(xx), float(mean), best, deviance, zvx, zpz, zvy - zvx * mean)


def _optimise(sums: _Sums, scale: float | None) -> Float:
    """Variance ratios of the largest restricted likelihood, 0 included."""
    unit = 1.0 if scale is None else scale  # ratios are large where the residual is small

    def objective(variances: Float) -> tuple[float, Float]:
        fit = _evaluate(sums, variances / unit, scale)
        slope = [np.trace(fit.zpz[part, part]) - fit.zpy[part] @ fit.zpy[part] / fit.scale for part in sums.slices]
        return fit.deviance, np.array(slope, dtype=np.float64) / unit

    start = np.full(len(sums.slices), 0.5)
    if not len(start):
        return start
    bounds = [(0.0, 1 / MIN_RESIDUAL)] * len(start)
    return np.asarray(optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x / unit)


def fit_crossed(y: Float, raters: Index, conditions: Index) -> Crossed | None:
    """REML fit; None where nothing varies, so that there is no standard error.

    raters, conditions: number of the rater and of the condition of each value, counted from 0.
    """
    y = np.asarray(y, dtype=np.float64)
    centre = float(y.mean())
    if len(y) < 2 or float(np.ptp(y)) < 1e-12 * max(1.0, abs(centre)):
        return None
    sums = _Sums((y - centre) / (spread := float(y.std())), raters, conditions)
    ratios = _optimise(sums, None)
    fit = _evaluate(sums, ratios)
    if fit.scale < MIN_RESIDUAL:
        ratios = _optimise(sums, MIN_RESIDUAL)
        fit = _evaluate(sums, ratios, MIN_RESIDUAL)
    variance = fit.scale / fit.xx
    found = iter(ratios * fit.scale * spread**2)
    var_rater, var_condition = (float(next(found)) if used else 0.0 for used in sums.used)
    return Crossed(
        centre + fit.mean * spread, math.sqrt(variance) * spread, _satterthwaite(sums, fit, ratios),
        var_rater, var_condition, fit.scale * spread**2,
    )  # fmt: skip


def _satterthwaite(sums: _Sums, fit: _Fit, ratios: Float) -> float:
    """2 Var² / Var(Var), by the delta method on the expected information of all variances (Giesbrecht & Burns 1985)."""
    k = len(sums.slices)
    squares = np.array([[float((fit.zpz[a, b] ** 2).sum()) for b in sums.slices] for a in sums.slices]).reshape(k, k)
    traces = np.array([float(np.trace(fit.zpz[a, a])) for a in sums.slices])
    with_residual = traces - squares @ ratios
    residual = sums.n - 1 - float(ratios @ traces) - float(ratios @ with_residual)
    information = np.block([
        [squares, with_residual[:, None]],
        [with_residual[None, :], np.array([[residual]])],
    ]) / (2 * fit.scale**2)  # fmt: skip
    norms = np.array([float(fit.zvx[a] @ fit.zvx[a]) for a in sums.slices])
    gradient = np.append(norms, fit.xx - float(ratios @ norms)) / fit.xx**2
    spread = float(gradient @ np.linalg.pinv(information, hermitian=True) @ gradient)
    return float(np.clip(2 * (fit.scale / fit.xx) ** 2 / spread, 1.0, sums.n - 1.0))


def crossed_bootstrap(
    y: Float, raters: Index, conditions: Index, rng: np.random.Generator, n_boot: int
) -> tuple[float, float]:
    """95 % percentile interval of the plain mean: raters and conditions are drawn anew, independently (Owen 2007)."""
    shape = (int(raters.max()) + 1, int(conditions.max()) + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (raters, conditions), y)
    np.add.at(count, (raters, conditions), 1.0)
    by_rater, by_condition = (rng.multinomial(k, np.full(k, 1 / k), size=n_boot).astype(np.float64) for k in shape)
    n = (by_rater @ count * by_condition).sum(axis=1)
    drawn = (by_rater @ total * by_condition).sum(axis=1)[n > 0] / n[n > 0]
    return percentile_interval(drawn)


def planned(fit: Crossed, n_raters: int, n_conditions: int) -> tuple[float, float]:
    """(standard error, df) if each of ``n_raters`` scores all ``n_conditions``, with the variances of ``fit``."""
    n = n_raters * n_conditions
    rater = n_conditions * fit.var_rater + fit.var_residual
    condition = n_raters * fit.var_condition + fit.var_residual
    variance = (rater + condition - fit.var_residual) / n
    terms = (
        rater**2 / (n_raters - 1) + condition**2 / (n_conditions - 1)
        + fit.var_residual**2 / ((n_raters - 1) * (n_conditions - 1))
    )  # fmt: skip
    return math.sqrt(variance), (variance * n) ** 2 / terms


def detectable(se: float, df: float, alpha: float, power: float = 0.8) -> float:
    """The smallest mean that a two-sided t-test at ``alpha`` finds with probability ``power``."""
    return se * noncentrality(float(stats.t.isf(alpha / 2, df)), df, 1 - power)
