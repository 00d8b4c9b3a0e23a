"""Counts of what a study holds, and what to do next. Input: a study. Output: JSON-ready dictionaries."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from radpref.data.datasets.registry import READERS
from radpref.data.study.splits import SPLITS, split_manifest

if TYPE_CHECKING:
    from radpref.data.study.study import Study

_COUNTS = {
    "records": "SELECT split AS k, count(*) AS n FROM records GROUP BY 1",
    "images": "SELECT origin AS k, count(*) AS n FROM images GROUP BY 1",
    "sets": "SELECT purpose || ' ' || mode AS k, count(*) AS n FROM image_sets JOIN conditions USING (condition_id)"
    " GROUP BY 1",
    "raters": "SELECT kind || ' ' || role AS k, count(*) AS n FROM raters WHERE active = 1 GROUP BY 1",
    "scores": "SELECT rater_kind AS k, count(*) AS n FROM current_scores GROUP BY 1",
    "runs": "SELECT kind || ' ' || status AS k, count(*) AS n FROM runs GROUP BY 1",
    "models": "SELECT arm AS k, count(*) AS n FROM models GROUP BY 1",
}


def overview(study: Study) -> dict[str, Any]:
    """{name, study, records, images, sets, raters, scores, runs, models: {kind: count}, captions: count,
    reports: count, next: command}."""
    found: dict[str, Any] = {"name": study.config.name, "study": str(study.root)}
    for section, sql in _COUNTS.items():
        found[section] = {str(row["k"]): int(row["n"]) for row in study.db.rows(sql + " ORDER BY 1")}
    for text in ("captions", "reports"):
        found[text] = int(study.db.value(f"SELECT count(*) FROM records WHERE {text.removesuffix('s')} > ''"))
    found["next"] = next_command(found)
    return found


def next_command(found: dict[str, Any]) -> str:
    """The first step of the loop that has left no trace yet."""
    done = {key.removesuffix(" done") for key in found["runs"] if key.endswith(" done")}
    steps = (
        (bool(found["records"]), "data import"),
        (bool(found["captions"] or found["sets"] or not found["reports"]), "data caption"),
        (bool(found["sets"]), "generate sets"),
        (bool(found["scores"]), "annotate serve"),
        ("pairs" in done, "align pairs"),
        ("align" in done, "align train"),
        ("evaluate" in done, "align evaluate"),
        ("pool" in done, "generate pool"),
        ("grid" in done, "downstream run"),
    )
    step = next((command for is_done, command in steps if not is_done), "downstream report")
    return f"radpref {step} --study {shlex.quote(str(found['study']))}"


def data_overview(study: Study) -> dict[str, Any]:
    """{readers, reader, splits: per split n_records, n_patients, sha256, captions, positive labels, masks}."""
    manifest = split_manifest(study.db)
    for split in SPLITS:
        labels = study.db.rows(
            "SELECT label, sum(value) AS n FROM labels JOIN records USING (record_id) WHERE split = ?"
            " GROUP BY 1 ORDER BY 1",
            (split,),
        )
        masks = study.db.rows(
            "SELECT structure, count(*) AS n FROM record_masks JOIN records USING (record_id) WHERE split = ?"
            " GROUP BY 1 ORDER BY 1",
            (split,),
        )
        manifest[split]["captions"] = int(
            study.db.value("SELECT count(*) FROM records WHERE split = ? AND caption > ''", (split,))
        )
        manifest[split]["positive"] = {str(row["label"]): int(row["n"] or 0) for row in labels}
        manifest[split]["masks"] = {str(row["structure"]): int(row["n"]) for row in masks}
    return {"readers": list(READERS), "reader": study.config.data.reader, "splits": manifest}
