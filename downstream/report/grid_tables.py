"""Tables of the downstream grid: cells, comparisons with their verdicts, power, the published figures beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from radpref.downstream.cells.cells import CellRow
from radpref.downstream.cells.metrics import METRIC_NAMES, PRIMARY_METRIC
from radpref.downstream.inference.comparisons import UntestedComparison
from radpref.downstream.inference.grid_result import GridResult
from radpref.downstream.inference.power import PowerRow
from radpref.downstream.report.published import PUBLISHED
from radpref.downstream.report.table import TONES, Table, interval, number, p_value

SHOWN_METRICS = {
    "multilabel": ("f1", "f1_half", "auroc"),
    "binary": ("f1", "f1_half", "auroc"),
    "segmentation": ("dice_positives", "dice_empty_one", "dice_pooled"),
}
KIND_TITLES = {
    "multilabel": "Multi-label classification",
    "binary": "Binary classification",
    "segmentation": "Segmentation",
}


def cell_tables(cells: Sequence[CellRow]) -> list[Table]:
    """One table per task kind: mean and SD over seeds of each metric, per arm and place of the grid."""
    kinds = [kind for kind in SHOWN_METRICS if any(cell.kind == kind for cell in cells)]
    return [_cell_table(kind, [cell for cell in cells if cell.kind == kind]) for kind in kinds]


def _cell_table(kind: str, cells: Sequence[CellRow]) -> Table:
    places: dict[tuple[str, float, int, str], list[CellRow]] = {}
    for cell in cells:
        places.setdefault((cell.task, cell.fraction, cell.multiple, cell.arm), []).append(cell)
    shown, rows = [], []
    for (task, fraction, multiple, arm), members in places.items():
        row: dict[str, object] = {"task": task, "fraction": fraction, "multiple": multiple, "arm": arm}
        row["n_seeds"] = len(members)
        n_real = round(float(np.mean([cell.n_real for cell in members])))
        counts = [number(n_real), number(max(cell.n_synthetic for cell in members)), str(len(members))]
        texts = []
        for metric in SHOWN_METRICS[kind]:
            mean, spread = _mean_and_sd([cell.value(metric) for cell in members])
            texts.append(f"{number(mean)} ± {number(spread)}")
            row |= {f"{metric}_mean": mean, f"{metric}_sd": spread}
        shown.append([task, arm.replace("_", " "), _place(fraction, multiple), *counts, *texts])
        rows.append(row)
    names = (METRIC_NAMES[metric] for metric in SHOWN_METRICS[kind])
    header = ("Task", "Arm", "Real + synthetic", "n real", "n synthetic", "seeds", *names)
    primary = METRIC_NAMES[PRIMARY_METRIC[kind]]
    caption = f"{KIND_TITLES[kind]}: mean ± SD over seeds on the real test set (primary: {primary})"
    return Table(f"cells-{kind}", caption, header, shown, rows, text_columns=3)


def _mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Over the defined values; None where there are too few."""
    known = np.array([value for value in values if math.isfinite(value)])
    return (float(known.mean()) if len(known) else None, float(known.std(ddof=1)) if len(known) > 1 else None)


def _place(fraction: float, multiple: int) -> str:
    return f"{fraction:.0%}" + (f" + {multiple}x" if multiple else "")


def comparison_tables(result: GridResult) -> list[Table]:
    """The primary comparisons: the verdicts with their intervals, then every figure behind them."""
    rules = result.rules
    shown, detail = [], []
    for row in result.comparisons:
        lead = [row.task, f"{row.a} > {row.b}", _place(row.fraction, row.multiple)]
        if isinstance(row, UntestedComparison):
            shown.append([*lead, str(row.n), *["–"] * 4, row.verdict])
            continue
        shown.append([
            *lead, str(row.n), number(row.difference, signed=True), interval(row.ci), interval(row.ci_bootstrap),
            p_value(row.p_holm), row.verdict,
        ])  # fmt: skip
        ps = (row.p, row.p_bonferroni, row.p_holm, row.p_holm_worse, row.p_independent)
        detail.append([
            *lead, *map(p_value, ps), f"{number(row.d_z.value, 2)} ({interval(row.d_z.ci, 1)})",
            number(row.detectable_difference, 2), number(row.seeds_needed) if row.seeds_needed else "> 10,000",
        ])  # fmt: skip
    header = (
        "Task", "Comparison", "Real + synthetic", "n", "Difference", "95 % CI, seeds", "95 % CI, seeds and patients",
        "P (Holm)", "Verdict",
    )  # fmt: skip
    detail_header = (
        "Task", "Comparison", "Real + synthetic", "P, paired", "P, Bonferroni", "P, Holm", "P of worse, Holm",
        "P, independent", "Cohen's dz (95 % CI)", "Detectable", "Seeds needed",
    )  # fmt: skip
    notes = (
        f"P values are one-tailed (first arm better). Family: {rules.family_size} comparisons, fixed in study.toml "
        "before the grid ran; Bonferroni and Holm adjust over all of them. Intervals are two-sided and not adjusted.",
        f"Verdict: fewer than {rules.min_seeds} paired seeds never conclude; better or worse needs a Holm-adjusted "
        f"P < {rules.alpha:g}; no difference shown needs 80 % power for a difference of "
        f"{rules.relevant_difference:g}; anything else is too small to conclude.",
    )
    detail_notes = (
        "Paired: t-test by seed. Independent: pooled t-test without pairing, as the study has it; not used here.",
        "Detectable: smallest difference found with 80 % power at the Bonferroni level. Seeds needed: paired seeds to "
        "find the observed effect at that power and level.",
    )
    flat = [_flat(row) for row in result.to_json()["comparisons"]]
    tones = tuple(TONES[row.verdict] for row in result.comparisons)
    return [
        Table("comparisons", "Primary comparisons", header, shown, flat, 3, notes, tones),
        Table("comparisons-detail", "Behind the verdicts", detail_header, detail, flat, 3, detail_notes),
    ]


def _flat(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored comparison for the CSV: of each effect its value, of the tests behind it nothing."""
    effects = {name: stored.get(name, {}).get("value") for name in ("d_z", "cohen_d")}
    return {name: value for name, value in stored.items() if name != "tests"} | effects


def power_rows(rows: Sequence[PowerRow], family_size: int) -> Table:
    """What a number of seeds can find."""
    shown = [
        [
            str(row.n_seeds), number(row.detectable_dz_single, 2), number(row.detectable_dz_family, 2),
            f"{100 * row.power_dz_1_family:.0f} %",
        ]
        for row in rows
    ]  # fmt: skip
    found = f"dz found, one of {family_size}"
    header = ("Paired seeds", "dz found, single test", found, f"Power for dz = 1, one of {family_size}")
    caption = "What a paired one-tailed test finds with 80 % power"
    return Table("power", caption, header, shown, [asdict(row) for row in rows])


def published_table(cells: Sequence[CellRow]) -> Table:
    """The study's figures; beside them this grid's best synthetic arm in the task of the same kind."""
    ours = _best_by_kind(cells)
    shown, rows = [], []
    for item in PUBLISHED:
        shown.append([
            item.dataset, item.fraction, item.metric, number(item.real_only, 4), number(item.augmented, 4),
            number(item.difference, 4, signed=True), item.at, ours.get(item.kind, "–"),
        ])  # fmt: skip
        rows.append({**asdict(item), "difference": round(item.difference, 4)})
    header = (
        "Data set", "Real data", "Metric", "Real only", "Augmented", "Difference", "At", "Here: real → best arm",
    )  # fmt: skip
    return Table("published", "Figures of the study that defines the method", header, shown, rows, 3)


def _best_by_kind(cells: Sequence[CellRow]) -> dict[str, str]:
    found = {}
    for kind, metric in PRIMARY_METRIC.items():
        places: dict[tuple[str, int, float], list[float]] = {}
        for cell in cells:
            if cell.kind == kind and math.isfinite(cell.value(metric)):
                places.setdefault((cell.arm, cell.multiple, cell.fraction), []).append(cell.value(metric))
        means = {place: float(np.mean(values)) for place, values in places.items()}
        synthetic = [place for place in means if place[1]]
        if any(arm == "real" for arm, *_ in means) and synthetic:
            arm, multiple, fraction = best = max(synthetic, key=means.__getitem__)
            real = number(means.get(("real", 0, fraction)))
            found[kind] = f"{real} → {number(means[best])} ({arm}, {_place(fraction, multiple)})"
    return found
