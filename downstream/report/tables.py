"""Tables of the report: the same rows once as HTML cells and once as CSV with full precision.

Pure functions of the evidence's parts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.agreement.reliability import icc_basis_text
from radpref.downstream.cells.metrics import METRIC_NAMES, PRIMARY_METRIC
from radpref.downstream.report.published import PUBLISHED

if TYPE_CHECKING:
    import pandas as pd

MEASURE_NAMES = {
    "icc_2_1": "ICC(2,1), one rater",
    "icc_2_k": "ICC(2,k), mean of all raters",
    "alpha_ordinal": "Krippendorff's alpha, ordinal",
    "kappa_quadratic": "Cohen's kappa, quadratic weights",
    "preference_agreement": "Preferences, same answer (tie is an answer)",
    "preference_chance": "Preferences, expected by chance",
    "preference_agreement_untied": "Preferences, same answer where neither ties (chance 0.5)",
    "preference_tied_share": "Preferences with a tie",
    "kendall_tau": "Kendall's tau-b within sets",
}
SHOWN_METRICS = {
    "multilabel": ("f1", "f1_half", "auroc"),
    "binary": ("f1", "f1_half", "auroc"),
    "segmentation": ("dice_positives", "dice_empty_one", "dice_pooled"),
}


@dataclass(frozen=True)
class Table:
    """A table: ``shown`` are the HTML cells, ``rows`` the CSV content, ``text_columns`` how many stand at the left."""

    name: str
    caption: str
    header: tuple[str, ...]
    shown: list[list[str]]
    rows: list[dict[str, Any]]
    text_columns: int = 1
    notes: tuple[str, ...] = field(default=())
    tones: tuple[str, ...] = field(default=())
    """A tone per row for its last cell (verdicts), or empty."""

    def csv(self) -> str:
        """The rows as CSV, all keys in the order they first appear."""
        buffer = io.StringIO()
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(buffer, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def number(value: Any, digits: int = 3, *, signed: bool = False) -> str:
    """A number for reading; a dash where there is none. The minus is a minus."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def p_value(value: float | None) -> str:
    """A P value with two or three digits, or "< 0.001"."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """ "low to high"."""
    return f"{number(low, digits)} to {number(high, digits)}" if low is not None and high is not None else "–"


def agreement_tables(report: dict[str, Any]) -> list[Table]:
    """One table per kind of rater: measures as rows, criteria as columns with intervals."""
    found = []
    for kind, part in report["by_kind"].items():
        criteria = part["criteria"]
        names = [name for name in criteria if "measures" in criteria[name]]
        if len(criteria) == 2:  # one criterion only: "overall" would say the same again
            names = [name for name in names if name != "overall"]
        shown, rows = [], []
        for key in dict.fromkeys(key for name in names for key in criteria[name]["measures"]):
            cells = [criteria[name]["measures"].get(key, {}) for name in names]
            label = MEASURE_NAMES.get(key, key)
            texts = [f"{number(c.get('value'))} ({interval(c.get('low'), c.get('high'))})" for c in cells]
            shown.append([label, *texts])
            rows += [
                {"rater_kind": kind, "measure": key, "criterion": n, **c} for n, c in zip(names, cells, strict=True)
            ]
        notes = tuple(
            f"{name}: not computable ({criteria[name]['not_computable']})"
            for name in criteria
            if "not_computable" in criteria[name]
        ) + tuple(f"{name}: {_icc_note(name, criteria[name])}" for name in names)
        who = "Simulated raters" if kind == "simulated" else "Human raters"
        caption = f"{who}: {part['n_raters']} raters, {part['n_sets']} sets, {part['n_scores']:,} scores"
        header = ("Measure", *(f"{name} (95 % CI)" for name in names))
        found.append(Table(f"agreement-{kind}", caption, header, shown, rows, notes=notes))
    return found


def _icc_note(criterion: str, found: Mapping[str, Any]) -> str:
    """From which images the ICC is, or why there is none."""
    if found["icc_not_computable"]:
        return f"ICC not computable ({found['icc_not_computable']})"
    return f"ICC from {icc_basis_text(criterion, found)}"


def score_counts(scores: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
    """criterion -> rater (marked where simulated) -> number of scores 0 to 5."""
    counts: dict[str, dict[str, list[int]]] = {}
    for (criterion, username, kind), part in scores.groupby(["criterion", "username", "rater_kind"]):
        name = f"{username} (simulated)" if kind == "simulated" else str(username)
        values = np.bincount(part["value"].to_numpy(dtype=np.int64), minlength=6)
        counts.setdefault(str(criterion), {})[name] = [int(v) for v in values]
    return counts


def score_table_of(counts: dict[str, dict[str, list[int]]]) -> Table:
    """The score counts as a table."""
    rows: list[dict[str, Any]] = [
        {"criterion": criterion, "rater": rater, **{f"score_{i}": n for i, n in enumerate(values)}, "n": sum(values)}
        for criterion, raters in counts.items()
        for rater, values in raters.items()
    ]
    shown = []
    for row in rows:
        values = [row[f"score_{i}"] for i in range(6)]
        mean = sum(i * n for i, n in enumerate(values)) / max(row["n"], 1)
        shown.append([row["rater"], row["criterion"], *map(number, values), number(row["n"]), number(mean, 2)])
    header = ("Rater", "Criterion", *map(str, range(6)), "n", "mean")
    return Table("scores", "Scores given, 0 (low) to 5 (high)", header, shown, rows, text_columns=2)


def cell_table(cells: Sequence[dict[str, Any]]) -> list[Table]:
    """One table per task kind: mean and SD over seeds of each metric, per arm and place of the grid."""
    found = []
    for kind, keys in SHOWN_METRICS.items():
        own = [cell for cell in cells if cell["kind"] == kind]
        if not own:
            continue
        shown, rows = [], []
        for place in dict.fromkeys((c["task"], c["fraction"], c["multiple"], c["arm"]) for c in own):
            members = [c for c in own if (c["task"], c["fraction"], c["multiple"], c["arm"]) == place]
            task, fraction, multiple, arm = place
            n_real = [c["n_real"] for c in members]
            counts = [number(round(float(np.mean(n_real)))), number(max(c["n_synthetic"] for c in members))]
            texts, row = (
                [],
                {"task": task, "fraction": fraction, "multiple": multiple, "arm": arm, "n_seeds": len(members)},
            )
            for key in keys:
                values = np.array([np.nan if c.get(key) is None else c[key] for c in members], np.float64)
                known = values[np.isfinite(values)]
                mean = float(known.mean()) if len(known) else None
                spread = float(known.std(ddof=1)) if len(known) > 1 else None
                texts.append(f"{number(mean)} ± {number(spread)}")
                row |= {f"{key}_mean": mean, f"{key}_sd": spread}
            place_text = f"{fraction:.0%}" + (f" + {multiple}x" if multiple else "")
            shown.append([task, arm.replace("_", " "), place_text, *counts, str(len(members)), *texts])
            rows.append(row)
        header = ("Task", "Arm", "Real + synthetic", "n real", "n synthetic", "seeds", *(METRIC_NAMES[k] for k in keys))
        title = {
            "multilabel": "Multi-label classification",
            "binary": "Binary classification",
            "segmentation": "Segmentation",
        }[kind]
        caption = f"{title}: mean ± SD over seeds on the real test set (primary: {METRIC_NAMES[PRIMARY_METRIC[kind]]})"
        found.append(Table(f"cells-{kind}", caption, header, shown, rows, text_columns=3))
    return found


TONES = {"better": "good", "worse": "bad", "no difference shown": "even", "too small to conclude": "open"}


def comparison_tables(rows: Sequence[dict[str, Any]], rules: dict[str, Any]) -> list[Table]:
    """The primary comparisons: the verdicts with their intervals, then every figure behind them."""
    shown, detail = [], []
    for row in rows:
        place = f"{row['fraction']:.0%}" + (f" + {row['multiple']}x" if row["multiple"] else "")
        lead = [row["task"], f"{row['a']} > {row['b']}", place]
        if row.get("difference") is None:
            shown.append([*lead, str(row["n"]), *["–"] * 4, row["verdict"]])
            continue
        shown.append([
            *lead, str(row["n"]), number(row["difference"], signed=True), interval(*row["ci"]),
            interval(*row["ci_bootstrap"]), p_value(row["p_holm"]), row["verdict"],
        ])  # fmt: skip
        effect, needed = row["d_z"], row["seeds_needed"]
        detail.append([
            *lead, *(p_value(row[key]) for key in ("p", "p_bonferroni", "p_holm", "p_holm_worse", "p_independent")),
            f"{number(effect['value'], 2)} ({interval(effect['ci'][0], effect['ci'][1], 1)})",
            number(row["detectable_difference"], 2), number(needed) if needed else "> 10,000",
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
        f"P values are one-tailed (first arm better). Family: {rules['family_size']} comparisons, fixed in study.toml "
        "before the grid ran; Bonferroni and Holm adjust over all of them. Intervals are two-sided and not adjusted.",
        f"Verdict: fewer than {rules['min_seeds']} paired seeds never conclude; better or worse needs a Holm-adjusted "
        f"P < {rules['alpha']:g}; no difference shown needs 80 % power for a difference of "
        f"{rules['relevant_difference']:g}; anything else is too small to conclude.",
    )
    detail_notes = (
        "Paired: t-test by seed. Independent: pooled t-test without pairing, as the study has it; not used here.",
        "Detectable: smallest difference found with 80 % power at the Bonferroni level. Seeds needed: paired seeds to "
        "find the observed effect at that power and level.",
    )
    flat = [{key: value for key, value in row.items() if not isinstance(value, dict)} for row in rows]
    for target, row in zip(flat, rows, strict=True):
        target |= {"d_z": row.get("d_z", {}).get("value"), "cohen_d": row.get("cohen_d", {}).get("value")}
        target.pop("tests", None)
    tones = tuple(TONES[row["verdict"]] for row in rows)
    return [
        Table("comparisons", "Primary comparisons", header, shown, flat, 3, notes, tones),
        Table("comparisons-detail", "Behind the verdicts", detail_header, detail, flat, 3, detail_notes),
    ]


def power_rows(rows: Sequence[dict[str, Any]], family_size: int) -> Table:
    """What a number of seeds can find."""
    shown = [
        [
            str(row["n_seeds"]), number(row["detectable_dz_single"], 2), number(row["detectable_dz_family"], 2),
            f"{100 * row['power_dz_1_family']:.0f} %",
        ]
        for row in rows
    ]  # fmt: skip
    header = (
        "Paired seeds",
        "dz found, single test",
        f"dz found, one of {family_size}",
        f"Power for dz = 1, one of {family_size}",
    )
    return Table("power", "What a paired one-tailed test finds with 80 % power", header, shown, [dict(r) for r in rows])


def published_table(cells: Sequence[dict[str, Any]]) -> Table:
    """The study's figures; beside them this grid's best synthetic arm in the task of the same kind."""
    ours = _best_by_kind(cells)
    shown, rows = [], []
    for item in PUBLISHED:
        own = ours.get(item.kind)
        shown.append([
            item.dataset, item.fraction, item.metric, number(item.real_only, 4), number(item.augmented, 4),
            number(item.difference, 4, signed=True), item.at, own or "–",
        ])  # fmt: skip
        rows.append({**item.__dict__, "difference": round(item.difference, 4)})
    header = (
        "Data set",
        "Real data",
        "Metric",
        "Real only",
        "Augmented",
        "Difference",
        "At",
        "Here: real → best arm",
    )
    return Table("published", "Figures of the study that defines the method", header, shown, rows, 3)


def _best_by_kind(cells: Sequence[dict[str, Any]]) -> dict[str, str]:
    found = {}
    for kind, metric in PRIMARY_METRIC.items():
        own = [c for c in cells if c["kind"] == kind and c.get(metric) is not None]
        real = [c[metric] for c in own if c["arm"] == "real"]
        arms: dict[tuple[str, int, float], list[float]] = {}
        for cell in own:
            if cell["multiple"]:
                arms.setdefault((cell["arm"], cell["multiple"], cell["fraction"]), []).append(cell[metric])
        if real and arms:
            (arm, multiple, fraction), values = max(arms.items(), key=lambda item: float(np.mean(item[1])))
            at = [c[metric] for c in own if c["arm"] == "real" and c["fraction"] == fraction]
            found[kind] = (
                f"{number(float(np.mean(at)))} → {number(float(np.mean(values)))} ({arm}, {fraction:.0%} + {multiple}x)"
            )
    return found


RESULT_NAMES = {
    "hit rate": "asked finding found",
    "side accuracy": "asked side right",
    "mask dice": "Dice of the asked mask",
    "text fidelity": "text fidelity, 0 to 1",
    "score": "judge's score",
    "judge gain": "gain in the judge's score",
    "rater gain": "gain in the raters' networks' score",
    "reward hacking gap": "gap between the two (reward hacking)",
    "n win": "images better than baseline's",
    "n tie": "ties",
    "n loss": "images worse than baseline's",
    "drift": "drift of mean features (0 = baseline)",
    "paired shift": "shift of images of equal seed",
    "diversity": "diversity (1 = baseline)",
    "n sets train": "rating sets trained on",
    "n sets held out": "rating sets held out",
    "n images": "images",
    "train s": "training time, s",
    "n parameters": "trained parameters",
    "n steps": "steps",
}
HIDDEN = ("run_id", "sha256", "pairs_run", "features", "raters", "arm", "sheets", "sheet", "train_controlnet")


def measures_table(name: str, caption: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """Nested results side by side: a column per entry of ``columns``, a row per measure that any of them holds.

    A measure is a number, or a mapping with "value", "low" and "high" (95 % CI). Texts and identifiers are left out.
    """
    flat = {
        column: dict(_flatten({k: v for k, v in content.items() if k not in HIDDEN}, ()))
        for column, content in columns.items()
    }
    rows: list[dict[str, Any]] = []
    shown: list[list[str]] = []
    for measure in dict.fromkeys(key for content in flat.values() for key in content):
        cells = [content.get(measure, {}) for content in flat.values()]
        head, _, rest = measure.partition(" / ")
        label = RESULT_NAMES.get(head, head) + (f", {rest}" if rest else "")
        shown.append([label, *(_measure_text(cell) for cell in cells)])
        rows += [{"measure": measure, "column": column, **cell} for column, cell in zip(flat, cells, strict=True)]
    return Table(name, caption, ("Measure", *columns), shown, rows)


def _measure_text(cell: Mapping[str, Any]) -> str:
    text = number(cell.get("value"))
    return f"{text} ({interval(cell['low'], cell['high'])})" if cell.get("low") is not None else text


def _flatten(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    label = " / ".join(part.replace("_", " ") for part in path)
    if isinstance(value, Mapping):
        if "value" in value:
            if isinstance(value["value"], (int, float)):
                yield label, {key: value.get(key) for key in ("value", "low", "high", "n")}
            return
        for key, item in value.items():
            yield from _flatten(item, (*path, str(key)))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield label, {"value": value, "low": None, "high": None}


def run_table(runs: Sequence[dict[str, Any]]) -> Table:
    """Every run: kind, id, when, how long, source revision."""
    rows = []
    for run in runs:
        record = run["provenance"]
        rows.append({
            "kind": run["kind"], "run_id": run["run_id"], "status": run["status"], "started_at": run["started_at"],
            "seconds": _seconds(run), "git": record.get("git") or "",
        })  # fmt: skip
    shown = [
        [
            row["kind"],
            row["run_id"],
            row["started_at"][:16].replace("T", " "),
            row["status"],
            number(row["seconds"], 0),
            row["git"][:10],
        ]
        for row in rows
    ]
    return Table(
        "runs", "Runs of this study", ("Kind", "Run", "Started (UTC)", "Status", "Seconds", "Source"), shown, rows, 4
    )


def _seconds(run: dict[str, Any]) -> float | None:
    from datetime import datetime

    if not run["finished_at"]:
        return None
    return (datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])).total_seconds()
