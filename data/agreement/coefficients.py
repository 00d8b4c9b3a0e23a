"""Agreement coefficients: ordinal alpha, weighted kappa, pairwise preferences and Kendall's tau within sets.

Input: a matrix raters x items, (R, N) float, NaN where a rater gave no score. Output: coefficients. Every coefficient
is a function of sums over clusters of items (sets), so a bootstrap over whole sets only weights the sums of the sets.
The intraclass correlation is in data/agreement/intraclass.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Measure:
    """One agreement measure: per-cluster sums (C, P) and the coefficients of weighted sums (B, P) -> name -> (B,)."""

    sums: Float
    evaluate: Callable[[Float], dict[str, Float]]


def as_matrix(matrix: npt.ArrayLike) -> Float:
    """Ratings as floats.

    Raises:
        InvalidInput: not raters x items.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2:
        raise InvalidInput(f"ratings must be a matrix raters x items, got shape {values.shape}")
    return values


def cluster_sums(per_item: Float, clusters: Index | None) -> Float:
    """Sum rows of (N, P) by cluster number; without clusters each row is its own."""
    return per_item if clusters is None else _sum_rows(per_item, clusters, int(clusters.max(initial=-1)) + 1)


def _sum_rows(rows: Float, owner: Index, n: int) -> Float:
    """Sums (n, P) of the rows (M, P) of each owner (M,); rows are sorted first, because ``np.add.at`` is slow."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    sums = np.zeros((n, rows.shape[1]))
    if len(order) and rows.shape[1]:
        sums[present] = np.add.reduceat(rows[order], starts, axis=0)
    return sums


def ratio(numerator: Float, denominator: Float, otherwise: float = np.nan) -> Float:
    """numerator / denominator, ``otherwise`` where the denominator is (nearly) zero."""
    safe = np.abs(denominator) > 1e-12
    return np.where(safe, numerator / np.where(safe, denominator, 1.0), otherwise)


# --- Krippendorff's alpha ----------------------------------------------------------------------------------------


def _counts(matrix: Float) -> tuple[Float, Float]:
    """Levels (V,) in ascending order and how many raters gave each level to each item, (N, V)."""
    levels = np.unique(matrix[~np.isnan(matrix)])
    counts = np.stack([(matrix == level).sum(axis=0) for level in levels], axis=1) if len(levels) else np.zeros((0, 0))
    return levels, counts.astype(np.float64)


def alpha_measure(matrix: Float, clusters: Index | None = None) -> Measure:
    """Coincidence matrices of the items with two scores or more."""
    levels, counts = _counts(matrix)
    given = counts.sum(axis=1)
    usable = given >= 2
    pairs = counts[:, :, None] * counts[:, None, :] - np.einsum("nv,vw->nvw", counts, np.eye(len(levels)))
    per_item = pairs / np.where(usable, given - 1, 1.0)[:, None, None] * usable[:, None, None]
    flat = per_item.reshape(len(per_item), -1) if len(per_item) else np.zeros((matrix.shape[1], 1))
    return Measure(cluster_sums(flat, clusters), lambda sums: {"alpha_ordinal": _alpha(sums)})


def _alpha(sums: Float) -> Float:
    """1 - observed / expected disagreement with Krippendorff's ordinal metric, from coincidences (B, V*V)."""
    v = math.isqrt(sums.shape[1])
    o = sums.reshape(-1, v, v)
    marginal = o.sum(axis=2)  # (B, V)
    upto = np.cumsum(marginal, axis=1)
    low, high = np.minimum.outer(np.arange(v), np.arange(v)), np.maximum.outer(np.arange(v), np.arange(v))
    # Krippendorff 2011, ordinal: (sum_{g=c}^{k} n_g - (n_c + n_k) / 2)^2
    between = upto[:, high] - upto[:, low] + marginal[:, low]
    delta2 = (between - (marginal[:, low] + marginal[:, high]) / 2) ** 2
    observed = (o * delta2).sum(axis=(1, 2))
    expected = (marginal[:, :, None] * marginal[:, None, :] * delta2).sum(axis=(1, 2))
    return 1 - ratio(observed * (marginal.sum(axis=1) - 1), expected)


def ordinal_alpha(matrix: npt.ArrayLike) -> float:
    """Krippendorff's alpha with the ordinal metric; missing scores allowed. NaN where not computable."""
    measure = alpha_measure(as_matrix(matrix))
    return float(measure.evaluate(measure.sums.sum(axis=0, keepdims=True))["alpha_ordinal"][0])


# --- weighted kappa ----------------------------------------------------------------------------------------------


def kappa_measure(matrix: Float, clusters: Index | None = None) -> Measure:
    """Confusion matrices of every pair of raters, side by side."""
    levels = np.unique(matrix[~np.isnan(matrix)])
    v, n_items = len(levels), matrix.shape[1]
    owner = np.arange(n_items, dtype=np.intp) if clusters is None else clusters
    n = n_items if clusters is None else int(clusters.max(initial=-1)) + 1
    level, given = np.searchsorted(levels, np.nan_to_num(matrix)), ~np.isnan(matrix)
    tables = []
    for a, b in itertools.combinations(range(len(matrix)), 2):
        both = given[a] & given[b]
        cells = (owner[both] * v + level[a][both]) * v + level[b][both]
        tables.append(np.bincount(cells, minlength=n * v * v).reshape(n, v * v).astype(np.float64))
    joined = np.concatenate(tables, axis=1) if tables and v else np.zeros((n, 0))
    return Measure(joined, lambda sums: {"kappa_quadratic": _kappa(sums, levels)})


def _kappa(sums: Float, levels: Float) -> Float:
    """Mean over rater pairs of Cohen's kappa with quadratic weights (Cohen 1968); sums (B, pairs*V*V)."""
    v = len(levels)
    if v == 0 or sums.shape[1] == 0:
        return np.full(len(sums), np.nan)
    tables = sums.reshape(len(sums), sums.shape[1] // (v * v), v, v)
    weights = (levels[:, None] - levels[None, :]) ** 2
    n = tables.sum(axis=(2, 3))
    expected = np.einsum("bpv,bpw,vw->bp", tables.sum(axis=3), tables.sum(axis=2), weights)
    kappa = 1 - ratio((tables * weights).sum(axis=(2, 3)) * n, expected)
    valid = ~np.isnan(kappa)
    return ratio(np.where(valid, kappa, 0).sum(axis=1), valid.sum(axis=1).astype(np.float64))


def weighted_kappa(matrix: npt.ArrayLike) -> float:
    """Quadratic weighted kappa, mean over pairs of raters on the items both scored. NaN where not computable."""
    measure = kappa_measure(as_matrix(matrix))
    return float(measure.evaluate(measure.sums.sum(axis=0, keepdims=True))["kappa_quadratic"][0])


# --- pairwise preferences ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImagePairs:
    """Pairs of items of one group: the number of the group (P,), and each rater's sign (R, P).

    1 prefers the first item, 0 ties, -1 prefers the second, NaN: one was not scored. ``owner``: an item per group.
    """

    group: Index
    signs: Float
    owner: Index


def _image_pairs(matrix: Float, groups: Sequence[Any]) -> _ImagePairs:
    members: dict[Any, list[int]] = {}
    for item, group in enumerate(groups):
        members.setdefault(group, []).append(item)
    pairs = [(g, *pair) for g, items in enumerate(members.values()) for pair in itertools.combinations(items, 2)]
    group, i, j = (np.array([pair[column] for pair in pairs], dtype=np.intp) for column in range(3))
    owner = np.array([items[0] for items in members.values()], dtype=np.intp)
    return _ImagePairs(group, np.sign(matrix[:, i] - matrix[:, j]), owner)


def _sum_groups(pairs: _ImagePairs, values: Float) -> Float:
    """Sum (P,) over the pairs of each group: (groups,)."""
    return np.bincount(pairs.group, weights=values, minlength=len(pairs.owner)).astype(np.float64)


def _by_cluster(pairs: _ImagePairs, columns: list[Float], n_items: int, clusters: Index | None) -> Float:
    """Columns of one value per group -> sums per cluster; without clusters an item stands for its group."""
    per_group = np.column_stack(columns) if columns else np.zeros((len(pairs.owner), 0))
    owner = pairs.owner if clusters is None else clusters[pairs.owner]
    return _sum_rows(per_group, owner, n_items if clusters is None else int(clusters.max(initial=-1)) + 1)


def preference_measure(matrix: Float, groups: Sequence[Any], clusters: Index | None = None) -> Measure:
    """Counts per image pair of one group (set and criterion) and per pair of raters who both scored both images."""
    pairs = _image_pairs(matrix, groups)
    columns: list[Float] = []
    for a, b in itertools.combinations(pairs.signs, 2):
        both = ~np.isnan(a) & ~np.isnan(b)
        tie_a, tie_b = both & (a == 0), both & (b == 0)
        untied, same = both & ~tie_a & ~tie_b, a == b
        counts = (both, both & same, tie_a, tie_b, untied, untied & same)
        columns += [_sum_groups(pairs, count.astype(np.float64)) for count in counts]
    return Measure(_by_cluster(pairs, columns, matrix.shape[1], clusters), _preferences)


def _preferences(sums: Float) -> dict[str, Float]:
    """Agreement pooled over pairs of raters, from (B, rater pairs * 6) counts.

    preference_agreement counts a tie as a third answer; its chance level follows from how often each rater ties.
    preference_agreement_untied leaves out pairs of images that either rater ties (chance 0.5).
    """
    counts = sums.reshape(len(sums), sums.shape[1] // 6, 6)
    n, same, tie_a, tie_b, untied, untied_same = (counts[:, :, c] for c in range(6))
    p_a, p_b = np.nan_to_num(ratio(tie_a, n)), np.nan_to_num(ratio(tie_b, n))
    by_chance = (n * (p_a * p_b + (1 - p_a) * (1 - p_b) / 2)).sum(axis=1)
    total = n.sum(axis=1)
    return {
        "preference_agreement": ratio(same.sum(axis=1), total),
        "preference_chance": ratio(by_chance, total),
        "preference_agreement_untied": ratio(untied_same.sum(axis=1), untied.sum(axis=1)),
        "preference_tied_share": ratio(total - untied.sum(axis=1), total),
    }


def preference_agreement(matrix: npt.ArrayLike, groups: Sequence[Any]) -> dict[str, float]:
    """How often two raters order two images of one group alike; ``groups`` names the set of each item.

    Returns {preference_agreement, preference_chance, preference_agreement_untied, preference_tied_share}.
    """
    values = as_matrix(matrix)
    if len(groups) != values.shape[1]:
        raise InvalidInput(f"{len(groups)} groups for {values.shape[1]} items: give one each")
    found = _preferences(preference_measure(values, groups).sums.sum(axis=0, keepdims=True))
    return {name: float(value[0]) for name, value in found.items()}


# --- Kendall's tau within sets -----------------------------------------------------------------------------------


def tau_measure(matrix: Float, groups: Sequence[Any], clusters: Index | None = None) -> Measure:
    """Per pair of raters: the sum of tau-b over the groups in which it is defined, and how many those are."""
    pairs = _image_pairs(matrix, groups)
    columns: list[Float] = []
    for a, b in itertools.combinations(pairs.signs, 2):
        both = ~np.isnan(a) & ~np.isnan(b)
        a, b = np.where(both, a, 0.0), np.where(both, b, 0.0)
        untied = _sum_groups(pairs, a**2) * _sum_groups(pairs, b**2)
        tau = ratio(_sum_groups(pairs, a * b), np.sqrt(untied))
        columns += [np.nan_to_num(tau), (~np.isnan(tau)).astype(np.float64)]
    return Measure(_by_cluster(pairs, columns, matrix.shape[1], clusters), _tau)


def _tau(sums: Float) -> dict[str, Float]:
    """Mean over pairs of raters of their mean tau-b over groups; sums (B, rater pairs * 2)."""
    counts = sums.reshape(len(sums), sums.shape[1] // 2, 2)
    means = ratio(counts[:, :, 0], counts[:, :, 1])
    valid = ~np.isnan(means)
    mean = ratio(np.where(valid, means, 0).sum(axis=1), valid.sum(axis=1).astype(np.float64))
    return {"kendall_tau": mean}


def kendall_tau(matrix: npt.ArrayLike, groups: Sequence[Any]) -> float:
    """Kendall's tau-b of the items of one group, mean over groups, then over pairs of raters.

    A group in which one of the two raters ties everything has no tau and is left out. NaN where none has one.
    """
    values = as_matrix(matrix)
    if len(groups) != values.shape[1]:
        raise InvalidInput(f"{len(groups)} groups for {values.shape[1]} items: give one each")
    return float(_tau(tau_measure(values, groups).sums.sum(axis=0, keepdims=True))["kendall_tau"][0])
