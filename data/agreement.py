"""Agreement between raters: ICC, ordinal alpha, weighted kappa and pairwise preferences, with bootstrap intervals.

Input: a matrix raters x items, (R, N) float, NaN where a rater gave no score; or the table of
`data.scores.score_table`. Output: coefficients, and a JSON-ready report. Every coefficient is a function of sums
over items, so a bootstrap over whole sets only weights the sums of the sets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

Float = npt.NDArray[np.float64]
OVERALL = "overall"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """One agreement measure: per-cluster sums (C, P) and the coefficients of weighted sums (B, P) -> name -> (B,)."""

    sums: Float
    evaluate: Callable[[Float], dict[str, Float]]


def _matrix(matrix: npt.ArrayLike) -> Float:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2:
        raise InvalidInput(f"ratings must be a matrix raters x items, got shape {values.shape}")
    return values


def _cluster(per_item: Float, clusters: npt.NDArray[np.intp] | None) -> Float:
    """Sum rows of (N, P) by cluster number; without clusters each row is its own."""
    if clusters is None:
        return per_item
    sums = np.zeros((int(clusters.max(initial=-1)) + 1, per_item.shape[1]))
    np.add.at(sums, clusters, per_item)
    return sums


def _ratio(numerator: Float, denominator: Float) -> Float:
    """numerator / denominator, NaN where the denominator is (nearly) zero."""
    safe = np.abs(denominator) > 1e-12
    return np.where(safe, numerator / np.where(safe, denominator, 1.0), np.nan)


# --- intraclass correlation --------------------------------------------------------------------------------------


def _icc_measure(matrix: Float, clusters: npt.NDArray[np.intp] | None = None) -> Measure:
    """Two-way random effects, absolute agreement, over items that every rater scored (complete cases)."""
    n_raters = len(matrix)
    complete = ~np.isnan(matrix).any(axis=0)
    x = np.where(complete, matrix, 0.0).T  # (N, R)
    totals = x.sum(axis=1)
    columns = [complete.astype(float), totals, totals**2, (x**2).sum(axis=1)]
    return Measure(_cluster(np.column_stack([*columns, x]), clusters), lambda sums: _icc(sums, n_raters))


def _icc(sums: Float, k: int) -> dict[str, Float]:
    """ICC(2,1) and ICC(2,k), Shrout & Fleiss 1979, from the two-way analysis of variance (n items, k raters)."""
    n, grand, totals2, squares = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]
    correction = _ratio(grand**2, n * k)
    between_items = totals2 / k - correction
    between_raters = _ratio((sums[:, 4:] ** 2).sum(axis=1), n) - correction
    residual = squares - correction - between_items - between_raters
    msr, msc = _ratio(between_items, n - 1), between_raters / max(k - 1, 1)
    mse = _ratio(residual, (n - 1) * max(k - 1, 1))
    single = _ratio(msr - mse, msr + (k - 1) * mse + _ratio(k * (msc - mse), n))
    average = _ratio(msr - mse, msr + _ratio(msc - mse, n))
    computable = (n >= 2) & (k >= 2)
    return {"icc_2_1": np.where(computable, single, np.nan), "icc_2_k": np.where(computable, average, np.nan)}


def icc(matrix: npt.ArrayLike) -> dict[str, float]:
    """ICC(2,1) of one rater and ICC(2,k) of the mean of all, on complete cases: {icc_2_1, icc_2_k, n_items, n_raters}.

    Source: Shrout & Fleiss 1979; McGraw & Wong 1996, two-way random, absolute agreement. NaN where not computable.
    """
    values = _matrix(matrix)
    measure = _icc_measure(values)
    found = measure.evaluate(measure.sums.sum(axis=0, keepdims=True))
    n_items = int((~np.isnan(values).any(axis=0)).sum())
    return {**{name: float(value[0]) for name, value in found.items()}, "n_items": n_items, "n_raters": len(values)}


# --- Krippendorff's alpha ----------------------------------------------------------------------------------------


def _counts(matrix: Float) -> tuple[Float, Float]:
    """Levels (V,) in ascending order and how many raters gave each level to each item, (N, V)."""
    levels = np.unique(matrix[~np.isnan(matrix)])
    counts = np.stack([(matrix == level).sum(axis=0) for level in levels], axis=1) if len(levels) else np.zeros((0, 0))
    return levels, counts.astype(np.float64)


def _alpha_measure(matrix: Float, clusters: npt.NDArray[np.intp] | None = None) -> Measure:
    """Coincidence matrices of the items with two scores or more."""
    levels, counts = _counts(matrix)
    given = counts.sum(axis=1)
    usable = given >= 2
    pairs = counts[:, :, None] * counts[:, None, :] - np.einsum("nv,vw->nvw", counts, np.eye(len(levels)))
    per_item = pairs / np.where(usable, given - 1, 1.0)[:, None, None] * usable[:, None, None]
    flat = per_item.reshape(len(per_item), -1) if len(per_item) else np.zeros((matrix.shape[1], 1))
    return Measure(_cluster(flat, clusters), lambda sums: {"alpha_ordinal": _alpha(sums)})


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
    return 1 - _ratio(observed * (marginal.sum(axis=1) - 1), expected)


def ordinal_alpha(matrix: npt.ArrayLike) -> float:
    """Krippendorff's alpha with the ordinal metric; missing scores allowed. NaN where not computable."""
    measure = _alpha_measure(_matrix(matrix))
    return float(measure.evaluate(measure.sums.sum(axis=0, keepdims=True))["alpha_ordinal"][0])


# --- weighted kappa ----------------------------------------------------------------------------------------------


def _kappa_measure(matrix: Float, clusters: npt.NDArray[np.intp] | None = None) -> Measure:
    """Confusion matrices of every pair of raters, side by side."""
    levels = np.unique(matrix[~np.isnan(matrix)])
    hot = (matrix[:, :, None] == levels).astype(np.float64)  # (R, N, V)
    pairs = itertools.combinations(range(len(matrix)), 2)
    tables = [np.einsum("nv,nw->nvw", hot[a], hot[b]).reshape(matrix.shape[1], len(levels) ** 2) for a, b in pairs]
    joined = np.concatenate(tables, axis=1) if tables and len(levels) else np.zeros((matrix.shape[1], 0))
    return Measure(_cluster(joined, clusters), lambda sums: {"kappa_quadratic": _kappa(sums, levels)})


def _kappa(sums: Float, levels: Float) -> Float:
    """Mean over rater pairs of Cohen's kappa with quadratic weights (Cohen 1968); sums (B, pairs*V*V)."""
    v = len(levels)
    if v == 0 or sums.shape[1] == 0:
        return np.full(len(sums), np.nan)
    tables = sums.reshape(len(sums), sums.shape[1] // (v * v), v, v)
    weights = (levels[:, None] - levels[None, :]) ** 2
    n = tables.sum(axis=(2, 3))
    expected = np.einsum("bpv,bpw,vw->bp", tables.sum(axis=3), tables.sum(axis=2), weights)
    kappa = 1 - _ratio((tables * weights).sum(axis=(2, 3)) * n, expected)
    valid = ~np.isnan(kappa)
    return _ratio(np.where(valid, kappa, 0).sum(axis=1), valid.sum(axis=1).astype(np.float64))


def weighted_kappa(matrix: npt.ArrayLike) -> float:
    """Quadratic weighted kappa, mean over pairs of raters on the items both scored. NaN where not computable."""
    measure = _kappa_measure(_matrix(matrix))
    return float(measure.evaluate(measure.sums.sum(axis=0, keepdims=True))["kappa_quadratic"][0])


# --- pairwise preferences ----------------------------------------------------------------------------------------


def _preference_measure(matrix: Float, groups: Sequence[Any], clusters: npt.NDArray[np.intp] | None = None) -> Measure:
    """Counts per image pair of one group (set and criterion) and per pair of raters who both scored both images."""
    n_raters = len(matrix)
    rater_pairs = list(itertools.combinations(range(n_raters), 2))
    members: dict[Any, list[int]] = {}
    for item, group in enumerate(groups):
        members.setdefault(group, []).append(item)
    pairs = [pair for items in members.values() for pair in itertools.combinations(items, 2)]
    i, j = (np.array([pair[side] for pair in pairs], dtype=np.intp) for side in (0, 1))
    signs = np.sign(matrix[:, i] - matrix[:, j])  # (R, pairs): 1 prefers i, 0 tie, -1 prefers j, NaN not scored
    columns = []
    for a, b in rater_pairs:
        both = ~np.isnan(signs[a]) & ~np.isnan(signs[b])
        tie_a, tie_b = both & (signs[a] == 0), both & (signs[b] == 0)
        untied = both & ~tie_a & ~tie_b
        same = signs[a] == signs[b]
        columns += [both, both & same, tie_a, tie_b, untied, untied & same]
    per_pair = np.column_stack(columns).astype(np.float64) if columns else np.zeros((len(pairs), 0))
    owner = i if clusters is None else clusters[i]
    sums = np.zeros((matrix.shape[1] if clusters is None else int(clusters.max(initial=-1)) + 1, per_pair.shape[1]))
    np.add.at(sums, owner, per_pair)
    return Measure(sums, _preferences)


def _preferences(sums: Float) -> dict[str, Float]:
    """Agreement pooled over pairs of raters, from (B, rater pairs * 6) counts.

    preference_agreement counts a tie as a third answer; its chance level follows from how often each rater ties.
    preference_agreement_untied leaves out pairs of images that either rater ties (chance 0.5).
    """
    counts = sums.reshape(len(sums), sums.shape[1] // 6, 6)
    n, same, tie_a, tie_b, untied, untied_same = (counts[:, :, c] for c in range(6))
    p_a, p_b = np.nan_to_num(_ratio(tie_a, n)), np.nan_to_num(_ratio(tie_b, n))
    by_chance = (n * (p_a * p_b + (1 - p_a) * (1 - p_b) / 2)).sum(axis=1)
    total = n.sum(axis=1)
    return {
        "preference_agreement": _ratio(same.sum(axis=1), total),
        "preference_chance": _ratio(by_chance, total),
        "preference_agreement_untied": _ratio(untied_same.sum(axis=1), untied.sum(axis=1)),
        "preference_tied_share": _ratio(total - untied.sum(axis=1), total),
    }


def preference_agreement(matrix: npt.ArrayLike, groups: Sequence[Any]) -> dict[str, float]:
    """How often two raters order two images of one group alike; ``groups`` names the set of each item.

    Returns {preference_agreement, preference_chance, preference_agreement_untied, preference_tied_share}.
    """
    values = _matrix(matrix)
    if len(groups) != values.shape[1]:
        raise InvalidInput(f"{len(groups)} groups for {values.shape[1]} items: give one each")
    found = _preferences(_preference_measure(values, groups).sums.sum(axis=0, keepdims=True))
    return {name: float(value[0]) for name, value in found.items()}


# --- together ----------------------------------------------------------------------------------------------------


def agreement(
    matrix: npt.ArrayLike, groups: Sequence[Any], sets: Sequence[Any], *, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All measures of a matrix (R, N), each {"value", "low", "high"}: a 95 % percentile bootstrap over ``sets``.

    ``groups`` says which items are compared with each other, ``sets`` which are drawn together. None: not computable.
    """
    values = _matrix(matrix)
    names = {name: number for number, name in enumerate(dict.fromkeys(sets))}
    clusters = np.array([names[name] for name in sets], dtype=np.intp)
    measures = [
        _icc_measure(values, clusters),
        _alpha_measure(values, clusters),
        _kappa_measure(values, clusters),
        _preference_measure(values, groups, clusters),
    ]
    n_sets = len(names)
    rng = np.random.default_rng([seed, 31])
    draws = rng.multinomial(n_sets, np.full(n_sets, 1 / n_sets), size=n_boot) if n_sets > 1 else np.zeros((0, n_sets))
    found: dict[str, Any] = {}
    for measure in measures:
        point = measure.evaluate(measure.sums.sum(axis=0, keepdims=True))
        boots = measure.evaluate(draws @ measure.sums)
        found |= {name: _interval(float(point[name][0]), boots[name]) for name in point}
    return found


def _interval(value: float, boots: Float) -> dict[str, float | None]:
    finite = boots[np.isfinite(boots)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(finite, [tail, 100 - tail]) if len(finite) > 1 else (math.nan, math.nan)
    return {name: _plain(number) for name, number in (("value", value), ("low", low), ("high", high))}


def _plain(number: float) -> float | None:
    return round(float(number), 6) if math.isfinite(number) else None


def agreement_report(table: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Agreement of a score table (`data.scores.score_table`), JSON-ready; people and simulated raters apart.

    {"kinds": [...], "n_boot", "seed", "by_kind": {kind: {"raters", "n_raters", "n_sets", "n_scores",
    "criteria": {"text" | "mask" | "overall": {...}}}}}. A criterion with fewer than two raters holds only
    {"not_computable": reason, ...}.
    """
    kinds = sorted(str(kind) for kind in table["rater_kind"].unique())
    report: dict[str, Any] = {"kinds": kinds, "n_boot": n_boot, "seed": seed, "confidence": CONFIDENCE, "by_kind": {}}
    for kind in kinds:
        part = table[table["rater_kind"] == kind]
        criteria = sorted(str(name) for name in part["criterion"].unique())
        report["by_kind"][kind] = {
            "raters": sorted(str(name) for name in part["username"].unique()),
            **_sizes(part),
            "criteria": {
                name: _criterion(part if name == OVERALL else part[part["criterion"] == name], n_boot, seed)
                for name in [*criteria, OVERALL]
            },
        }
    return report


def _sizes(part: pd.DataFrame) -> dict[str, int]:
    return {
        "n_raters": int(part["rater_id"].nunique()),
        "n_sets": int(part["set_id"].nunique()),
        "n_scores": len(part),
    }


def _criterion(part: pd.DataFrame, n_boot: int, seed: int) -> dict[str, Any]:
    sizes = _sizes(part)
    if sizes["n_raters"] < 2:
        return {**sizes, "not_computable": "one rater; agreement needs at least two"}
    wide = part.pivot(index="rater_id", columns=["set_id", "criterion", "slot"], values="value").sort_index(axis=1)
    matrix = wide.to_numpy(dtype=np.float64)
    items = [(str(column[0]), str(column[1])) for column in wide.columns.to_list()]
    shared = (~np.isnan(matrix)).sum(axis=0) >= 2
    if not shared.any():
        return {**sizes, "not_computable": "no image has scores of two raters; let raters score the same sets"}
    complete = int((~np.isnan(matrix)).all(axis=0).sum())
    n_items = {"n_items": matrix.shape[1], "n_items_shared": int(shared.sum()), "n_items_complete": complete}
    measures = agreement(matrix, items, [set_id for set_id, _ in items], n_boot=n_boot, seed=seed)
    return {**sizes, **n_items, "measures": measures}
