"""The primary comparisons of a grid: pairs of arms, tests over seeds, adjustment over the family, verdicts.

Input: finished cells with their predictions. Output: JSON-ready rows, one per comparison, task, fraction and multiple.
The family is every primary comparison of study.toml at every task, fraction and multiple, fixed before the grid runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.study.pools import PLAIN_ARMS
from radpref.downstream.cells import metrics
from radpref.downstream.cells.cells import Cell
from radpref.downstream.cells.metrics import PRIMARY_METRIC
from radpref.downstream.inference.bootstrap import bootstrap_difference, sums_by_patient
from radpref.downstream.inference.t_tests import bonferroni, compare, holm, verdict

Predictions = dict[str, npt.NDArray[Any]]
Loader = Callable[[Cell], Predictions]


def parse_comparison(text: str) -> tuple[str, str]:
    """ "a>b" -> (a, b).

    Raises:
        InvalidInput: another form, or an arm against itself.
    """
    parts = [part.strip() for part in text.split(">")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise InvalidInput(f"downstream.primary has '{text}'; write two different arms as \"aligned>baseline\"")
    return parts[0], parts[1]


def planned_family(
    primary: Sequence[str],
    arms: Sequence[str],
    tasks: Sequence[str],
    fractions: Sequence[float],
    multiples: Sequence[int],
) -> list[dict[str, Any]]:
    """Every primary comparison that the grid can answer, in a fixed order: the family.

    Raises:
        InvalidInput: a comparison names an arm that the grid does not train.
    """
    known = {"real", *arms}
    family = []
    for text in primary:
        a, b = parse_comparison(text)
        missing = {a, b} - known
        if missing:
            choices = ", ".join(sorted(known))
            raise InvalidInput(f"downstream.primary has '{text}' but no arm '{min(missing)}'; arms are {choices}")
        plain = a in PLAIN_ARMS and b in PLAIN_ARMS
        for task in tasks:
            for fraction in fractions:
                for multiple in (0,) if plain else multiples:
                    place = {"task": task, "fraction": fraction, "multiple": multiple}
                    family.append({"comparison": f"{a}>{b}", "a": a, "b": b, **place})
    return family


def pick(cells: Sequence[Cell], arm: str, task: str, fraction: float, multiple: int) -> dict[int, Cell]:
    """The cells of one arm at one place of the grid, by seed."""
    wanted = 0 if arm in PLAIN_ARMS else multiple
    return {
        cell.spec.seed: cell
        for cell in cells
        if (cell.spec.arm, cell.spec.task, cell.spec.fraction, cell.spec.multiple) == (arm, task, fraction, wanted)
    }


def compare_family(
    cells: Sequence[Cell],
    family: Sequence[dict[str, Any]],
    alpha: float,
    load: Loader,
    rng: np.random.Generator,
    n_boot: int = 1000,
) -> list[dict[str, Any]]:
    """Test every member of the family, adjust (Bonferroni and Holm, size = the planned family), give verdicts.

    A member that cannot be tested keeps its place in the family with P = 1 and a ``reason``.
    """
    rows = [_member(cells, member, alpha, len(family), load, rng, n_boot) for member in family]
    better = [row.get("p", 1.0) for row in rows]
    worse = [row.get("p_worse", 1.0) for row in rows]
    adjusted = (bonferroni(better), holm(better), holm(worse)) if rows else ((), (), ())
    for row, p_bonferroni, p_holm, p_holm_worse in zip(rows, *adjusted, strict=True):
        row["family_size"] = len(rows)
        if "p" not in row:
            row["verdict"] = "too small to conclude"
            continue
        row |= {"p_bonferroni": float(p_bonferroni), "p_holm": float(p_holm), "p_holm_worse": float(p_holm_worse)}
        row["verdict"] = verdict(row["n"], float(p_holm), float(p_holm_worse), row["detectable_difference"], alpha)
    return rows


def _member(
    cells: Sequence[Cell],
    member: dict[str, Any],
    alpha: float,
    size: int,
    load: Loader,
    rng: np.random.Generator,
    n_boot: int,
) -> dict[str, Any]:
    a = pick(cells, member["a"], member["task"], member["fraction"], member["multiple"])
    b = pick(cells, member["b"], member["task"], member["fraction"], member["multiple"])
    seeds = sorted(set(a) & set(b))
    row: dict[str, Any] = {**member, "seeds": seeds, "n": len(seeds)}
    if not seeds:
        return row | {"reason": "no finished cells"}
    kind = a[seeds[0]].spec.kind
    metric = PRIMARY_METRIC[kind]
    row |= {"metric": metric, "metric_name": metrics.METRIC_NAMES[metric]}
    left, right = ([_value(side[seed], metric) for seed in seeds] for side in (a, b))
    try:
        row |= compare(left, right, alpha, size)
    except InvalidInput as error:
        return row | {"reason": str(error)}
    sums = [[patient_sums(load(side[seed]), kind) for seed in seeds] for side in (a, b)]
    low, high = bootstrap_difference(sums[0], sums[1], patient_score(kind), rng, n_boot)
    row |= {"ci_bootstrap": [low, high], "values_a": left, "values_b": right}
    row["n_test_patients"] = len(sums[0][0])
    return _finite(row)


def _value(cell: Cell, metric: str) -> float:
    value = cell.metrics.get(metric)
    return float("nan") if value is None else float(value)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Infinite and undefined numbers as None, for JSON."""

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {key: clean(value) for key, value in row.items()}


def patient_sums(predictions: Predictions, kind: str) -> npt.NDArray[np.float64]:
    """Per patient, the sums from which the primary metric is computed: (P, L, 3) counts or (P, 2) Dice sums."""
    names, index = np.unique(predictions["patients"], return_inverse=True)
    if kind == "segmentation":
        sums = metrics.dice_sums(predictions["areas"])["dice_positives"]
    else:
        probabilities = predictions["probabilities"].astype(np.float64)
        sums = metrics.f1_counts(predictions["labels"], probabilities, predictions["thresholds"])
    return sums_by_patient(sums, index.astype(np.int64).reshape(-1), len(names))


def patient_score(kind: str) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """The primary metric from summed sums: (B, L, 3) -> (B,) mean F1, or (B, 2) -> (B,) Dice."""
    if kind == "segmentation":
        return metrics.ratio
    return lambda counts: metrics.mean_over_classes(metrics.f1_from_counts(counts))
