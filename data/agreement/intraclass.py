"""Intraclass correlation of crossed raters and items, also where not every rater scored every item.

Input: a matrix raters x items, (R, N) float, NaN where a rater gave no score. Output: ICC(2,1) and ICC(2,k) of the
model score = mean + item + rater + error, all three random, absolute agreement.

Complete: the two-way analysis of variance over items that every rater scored (Shrout & Fleiss 1979; McGraw & Wong
1996). Incomplete: variance components by fitting constants (Henderson 1953, Biometrics 9, 226-252, method III; Searle,
Casella & McCulloch 1992, ch. 5), error from what is left of both factors, items from their sum of squares adjusted for
raters. Raters: the mean square of their least-squares severities less what error adds to it (Andrews et al. 2008, J R
Stat Soc A 171, 673-697), because method III weights each pair of raters by the images they share, and who happens to
share many is no matter of agreement. All are unbiased whichever images a rater was given, also for these very raters,
and on complete data they are those of the analysis of variance. All are functions of sums over sets, so a bootstrap
over sets only weights sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radpref.data.agreement.coefficients import Float, Index, Measure, as_matrix, cluster_sums, ratio

COMPLETE = "complete"
INCOMPLETE = "incomplete"
MIN_PAIRS = 2 / 3
"""Complete items are taken alone where they hold at least this share of all pairs of scores of one item."""
_CHUNK = 4_000_000
"""Numbers in one batch of R x R matrices."""


@dataclass(frozen=True)
class Design:
    """From what an ICC is computed: ``basis`` "complete" or "incomplete", the items (N,) bool, and the raters (R,).

    ``k``: readers per item, harmonic mean; ICC(2,k) is for this k. ``reason``: why there is no ICC, None if there is.
    """

    basis: str
    items: npt.NDArray[np.bool_]
    raters: npt.NDArray[np.bool_]
    k: float
    reason: str | None

    @property
    def n_items(self) -> int:
        """How many items are used."""
        return int(self.items.sum())


def icc_design(matrix: Float, names: Sequence[str] | None = None) -> Design:
    """Which items and which estimator; ``names`` of the raters, for the reason.

    Complete items only, where they hold two thirds of all pairs of scores: a few missing scores then cost a few items
    and nothing else changes. Otherwise all items with two scores or more; a rater who shares none is left out.
    """
    given = ~np.isnan(matrix)
    m = given.sum(axis=0)
    complete, shared = (m == len(matrix)) & (m >= 2), m >= 2
    pairs = m * (m - 1)
    if complete.sum() >= 2 and pairs[complete].sum() >= MIN_PAIRS * pairs.sum():
        return Design(COMPLETE, complete, np.ones(len(matrix), dtype=bool), float(len(matrix)), None)
    present = np.asarray(given[:, shared].any(axis=1), dtype=bool)
    k = float(shared.sum() / (1 / m[shared]).sum()) if shared.any() else math.nan
    return Design(INCOMPLETE, shared, present, k, _reason(given[:, shared], present, names))


def _reason(given: npt.NDArray[np.bool_], present: npt.NDArray[np.bool_], names: Sequence[str] | None) -> str | None:
    """Why the scores (R, N) of shared items give no variance components; None if they do."""
    if len(given) < 2:
        return "one rater; agreement needs at least two"
    if given.shape[1] < 2:
        return "fewer than two images have scores of two raters"
    apart = _components(given, present)
    if len(apart) > 1:
        shown = [str(name) for name in (names if names is not None else range(1, len(given) + 1))]
        groups = " | ".join(", ".join(shown[rater] for rater in group) for group in apart)
        return f"raters fall into groups that share no image ({groups}): how severe they are cannot be compared"
    if int(given.sum()) - given.shape[1] - int(present.sum()) + 1 < 1:
        return "too few shared images to tell raters' severity from error"
    return None


def _components(given: npt.NDArray[np.bool_], present: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Groups of raters that hang together by shared items."""
    linked = (given.astype(np.int64) @ given.T.astype(np.int64)) > 0
    left, groups = {int(rater) for rater in np.flatnonzero(present)}, []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            edge = {int(r) for r in np.flatnonzero(linked[sorted(edge)].any(axis=0))} - group
        groups.append(sorted(group))
        left -= group
    return groups


def icc_measure(matrix: Float, clusters: Index | None = None) -> Measure:
    """Two-way random effects, absolute agreement, on the items of :func:`icc_design`."""
    design = icc_design(matrix)
    if design.reason is not None:
        n_clusters = cluster_sums(np.zeros((matrix.shape[1], 0)), clusters).shape[0]
        return Measure(np.zeros((n_clusters, 0)), _no_icc)
    if design.basis == COMPLETE:
        return _complete_measure(matrix, design, clusters)
    return _incomplete_measure(matrix[design.raters], design, clusters)


def _no_icc(sums: Float) -> dict[str, Float]:
    nothing = np.full(len(sums), np.nan)
    return {"icc_2_1": nothing, "icc_2_k": nothing}


# --- complete ----------------------------------------------------------------------------------------------------


def _complete_measure(matrix: Float, design: Design, clusters: Index | None) -> Measure:
    n_raters, complete = len(matrix), design.items
    x = np.where(complete, matrix, 0.0).T  # (N, R)
    totals = x.sum(axis=1)
    columns = [complete.astype(float), totals, totals**2, (x**2).sum(axis=1)]
    return Measure(cluster_sums(np.column_stack([*columns, x]), clusters), lambda sums: _complete_icc(sums, n_raters))


def _complete_icc(sums: Float, k: int) -> dict[str, Float]:
    """ICC(2,1) and ICC(2,k), Shrout & Fleiss 1979, from the two-way analysis of variance (n items, k raters)."""
    n, grand, totals2, squares = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]
    correction = ratio(grand**2, n * k)
    between_items = totals2 / k - correction
    between_raters = ratio((sums[:, 4:] ** 2).sum(axis=1), n) - correction
    residual = squares - correction - between_items - between_raters
    msr, msc = ratio(between_items, n - 1), between_raters / max(k - 1, 1)
    mse = ratio(residual, (n - 1) * max(k - 1, 1))
    single = ratio(msr - mse, msr + (k - 1) * mse + ratio(k * (msc - mse), n))
    average = ratio(msr - mse, msr + ratio(msc - mse, n))
    computable = (n >= 2) & (k >= 2)
    return {"icc_2_1": np.where(computable, single, np.nan), "icc_2_k": np.where(computable, average, np.nan)}


# --- incomplete --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrossedSums:
    """What the variance components of B samples need; every field is a plain sum over items.

    m: scores of an item. ``n_items``, ``reciprocal`` (1 / m), ``within`` (squares around the item's mean), ``between``
    (item's total squared / m): (B,). ``scores`` (how many), ``totals``, ``adjusted`` (scores minus the item's mean):
    (B, R). ``normal`` (B or 1, R, R): the raters' normal equations after the items are taken out.
    """

    n_items: Float
    reciprocal: Float
    within: Float
    between: Float
    scores: Float
    totals: Float
    adjusted: Float
    normal: Float


@dataclass(frozen=True)
class VarianceComponents:
    """Estimates (B,); not cut off at 0, or they were biased. ``k``: readers per item, harmonic mean."""

    item: Float
    rater: Float
    error: Float
    k: Float

    def icc(self) -> dict[str, Float]:
        """ICC(2,1) of one rater and ICC(2,k) of the mean of k."""
        noise = self.rater + self.error
        return {
            "icc_2_1": ratio(self.item, self.item + noise),
            "icc_2_k": ratio(self.item, self.item + ratio(noise, self.k)),
        }


def variance_components(sums: CrossedSums) -> VarianceComponents:
    """The estimates of the module's docstring, from sums; NaN where the degrees of freedom do not suffice."""
    n_scores, n_raters = sums.scores.sum(axis=1), (sums.scores > 0).sum(axis=1)
    explained, severities2, from_error, rank = _rater_effects(sums.normal, sums.adjusted)
    items_too = sums.between + explained - ratio(sums.totals**2, sums.scores, 0.0).sum(axis=1)  # adjusted for raters
    free = n_scores - sums.n_items - rank
    error = ratio(np.where(free > 0, sums.within - explained, np.nan), free)
    rank_items = sums.n_items + rank - n_raters
    return VarianceComponents(
        item=ratio(items_too - rank_items * error, n_scores - n_raters),
        rater=ratio(severities2 - from_error * error, rank),
        error=error,
        k=ratio(sums.n_items, sums.reciprocal),
    )


def _rater_effects(normal: Float, adjusted: Float) -> tuple[Float, Float, Float, Float]:
    """Least-squares severities after items: what they explain, their squares, what error adds to those, rank: (B,).

    Raters who share no item with the others in a sample cost a degree of freedom; that is why the rank is measured.
    """
    values, vectors = np.linalg.eigh(normal)
    kept = values > 1e-9 * np.maximum(values[:, -1:], 1e-9)
    along = np.einsum("brj,br->bj", np.broadcast_to(vectors, (len(adjusted), *vectors.shape[1:])), adjusted)
    inverse = np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)
    explained: Float = (along**2 * inverse).sum(axis=1)
    squares: Float = ((along * inverse) ** 2).sum(axis=1)
    from_error, rank = (np.broadcast_to(one.sum(axis=1), explained.shape) for one in (inverse, kept.astype(np.float64)))
    return explained, squares, from_error, rank


def _incomplete_measure(matrix: Float, design: Design, clusters: Index | None) -> Measure:
    """Columns: n, 1 / m, within, between, then per rater the scores, totals and adjusted, then half of ``normal``."""
    n_raters = len(matrix)
    used = ~np.isnan(matrix) & design.items
    # Around a round number near the mean: nothing depends on it, and sums of whole scores stay exact.
    x = np.where(used, matrix - np.rint(matrix[used].mean()), 0.0).T  # (N, R)
    d = used.T.astype(np.float64)
    m = np.maximum(d.sum(axis=1), 1.0)
    mean = x.sum(axis=1) / m
    residual = d * (x - mean[:, None])
    a, b = np.triu_indices(n_raters)
    normal = np.where(a == b, d[:, a], 0.0) - d[:, a] * d[:, b] / m[:, None]
    taken = design.items.astype(np.float64)
    scalars = [taken, taken / m, (residual**2).sum(axis=1), mean**2 * m]
    sums = cluster_sums(np.column_stack([*scalars, d, x, residual, normal]), clusters)

    def evaluate(weighted: Float) -> dict[str, Float]:
        step = max(1, _CHUNK // n_raters**2)
        batches = [weighted[at : at + step] for at in range(0, len(weighted), step)]
        parts = [variance_components(_crossed_sums(batch, n_raters)).icc() for batch in batches]
        empty = _no_icc(weighted[:0])
        return {name: np.concatenate([empty[name], *(part[name] for part in parts)]) for name in empty}

    return Measure(sums, evaluate)


def _crossed_sums(sums: Float, n_raters: int) -> CrossedSums:
    """Columns of :func:`_incomplete_measure` (B, P), by name."""
    r, (a, b) = n_raters, np.triu_indices(n_raters)
    scores, totals, adjusted = (sums[:, 4 + part * r : 4 + (part + 1) * r] for part in range(3))
    normal = np.zeros((len(sums), r, r))
    normal[:, a, b] = normal[:, b, a] = sums[:, 4 + 3 * r :]
    n, reciprocal, within, between = sums[:, :4].T
    return CrossedSums(n, reciprocal, within, between, scores, totals, adjusted, normal)


# --- one matrix --------------------------------------------------------------------------------------------------


def icc(matrix: npt.ArrayLike) -> dict[str, float]:
    """ICC(2,1) of one rater and ICC(2,k) of the mean of k: {icc_2_1, icc_2_k, n_items, n_raters}.

    On complete items or on all shared ones, see :func:`icc_design`. NaN where not computable.
    """
    values = as_matrix(matrix)
    measure, design = icc_measure(values), icc_design(values)
    found = measure.evaluate(measure.sums.sum(axis=0, keepdims=True))
    n_items = design.n_items
    return {**{name: float(value[0]) for name, value in found.items()}, "n_items": n_items, "n_raters": len(values)}
