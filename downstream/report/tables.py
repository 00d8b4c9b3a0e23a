"""Tables of scores, agreement, runs and nested results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from radpref.data.agreement.reliability import Agreement, Coefficient, NotComputable, icc_basis_text
from radpref.downstream.report.evidence import RunRecord
from radpref.downstream.report.table import Table, interval, number

if TYPE_CHECKING:
    from radpref.data.agreement.reliability import AgreementReport

NOTHING = Coefficient(None, None, None)
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


def agreement_tables(report: AgreementReport) -> list[Table]:
    """One table per kind of rater: measures as rows, criteria as columns with intervals."""
    tables = []
    for kind, part in report.by_kind.items():
        computed = {name: found for name, found in part.criteria.items() if isinstance(found, Agreement)}
        notes = [
            f"{name}: not computable ({found.not_computable})"
            for name, found in part.criteria.items()
            if isinstance(found, NotComputable)
        ]
        if len(part.criteria) == 2:  # one criterion only: "overall" would say the same again
            computed.pop("overall", None)
        shown, rows = [], []
        for key in dict.fromkeys(key for found in computed.values() for key in found.measures):
            cells = {name: found.measures.get(key, NOTHING) for name, found in computed.items()}
            texts = [f"{number(one.value)} ({interval((one.low, one.high))})" for one in cells.values()]
            shown.append([MEASURE_NAMES.get(key, key), *texts])
            rows += [{"rater_kind": kind, "measure": key, "criterion": n, **asdict(one)} for n, one in cells.items()]
        notes += [f"{name}: {_icc_note(name, found)}" for name, found in computed.items()]
        who = "Simulated raters" if kind == "simulated" else "Human raters"
        caption = f"{who}: {part.n_raters} raters, {part.n_sets} sets, {part.n_scores:,} scores"
        header = ("Measure", *(f"{name} (95 % CI)" for name in computed))
        tables.append(Table(f"agreement-{kind}", caption, header, shown, rows, notes=tuple(notes)))
    return tables


def _icc_note(criterion: str, found: Agreement) -> str:
    """From which images the ICC is, or why there is none."""
    if found.icc_not_computable:
        return f"ICC not computable ({found.icc_not_computable})"
    return f"ICC from {icc_basis_text(criterion, found)}"


def score_counts(scores: pd.DataFrame) -> pd.DataFrame:
    """How often each score 0 to 5 (columns) was given: a row per criterion and rater (marked where simulated)."""
    raters = scores["username"] + np.where(scores["rater_kind"] == "simulated", " (simulated)", "")
    counts = pd.crosstab([scores["criterion"], raters.rename("rater")], scores["value"])
    return counts.reindex(columns=range(6), fill_value=0)


def score_table_of(counts: pd.DataFrame) -> Table:
    """The score counts as a table."""
    rows, shown = [], []
    for (criterion, rater), values in zip(counts.index, counts.to_numpy().tolist(), strict=True):
        n, given = sum(values), {f"score_{i}": count for i, count in enumerate(values)}
        rows.append({"criterion": criterion, "rater": rater, **given, "n": n})
        mean = sum(i * count for i, count in enumerate(values)) / n
        shown.append([rater, criterion, *map(number, values), number(n), number(mean, 2)])
    header = ("Rater", "Criterion", *map(str, range(6)), "n", "mean")
    return Table("scores", "Scores given, 0 (low) to 5 (high)", header, shown, rows, text_columns=2)


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
    return f"{text} ({interval((cell['low'], cell['high']))})" if cell.get("low") is not None else text


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


def run_table(runs: Sequence[RunRecord]) -> Table:
    """Every run: kind, id, when, how long, source revision."""
    rows, shown = [], []
    for run in runs:
        git = run.provenance.get("git") or ""
        rows.append({**{name: value for name, value in vars(run).items() if name != "provenance"}, "git": git})
        started = run.started_at[:16].replace("T", " ")
        shown.append([run.kind, run.run_id, started, run.status, number(run.seconds, 0), git[:10]])
    header = ("Kind", "Run", "Started (UTC)", "Status", "Seconds", "Source")
    return Table("runs", "Runs of this study", header, shown, rows, 4)
