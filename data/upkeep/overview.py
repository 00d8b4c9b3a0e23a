"""Counts of what a study holds, and what to do next. Input: a study. Output: counts by kind."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from radpref.data.datasets.registry import READERS
from radpref.data.study.splits import SPLITS, SplitSummary, split_manifest

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Counts = dict[str, int]
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


@dataclass(frozen=True)
class Overview:
    """What a study holds, by kind, and the command that comes next."""

    name: str
    study: str
    records: Counts
    images: Counts
    sets: Counts
    raters: Counts
    scores: Counts
    runs: Counts
    models: Counts
    captions: int
    reports: int
    next: str


@dataclass(frozen=True)
class SplitContents(SplitSummary):
    """A split's captions, positive labels and masks."""

    captions: int
    positive: Counts
    masks: Counts


@dataclass(frozen=True)
class DataSplits:
    """What each split holds, and the hash over all of it."""

    train: SplitContents
    val: SplitContents
    test: SplitContents
    sha256: str


@dataclass(frozen=True)
class DataOverview:
    """The readers there are, the study's, and what each split holds."""

    readers: list[str]
    reader: str
    splits: DataSplits


def overview(study: Study) -> Overview:
    """Count everything."""
    counts: dict[str, Any] = {section: _counted(study, sql + " ORDER BY 1") for section, sql in _COUNTS.items()}
    for text in ("captions", "reports"):
        counts[text] = int(study.db.value(f"SELECT count(*) FROM records WHERE {text.removesuffix('s')} > ''"))
    found = Overview(study.config.name, str(study.root), **counts, next="")
    return replace(found, next=next_command(found))


def _counted(study: Study, sql: str, *parameters: str) -> Counts:
    return {str(row["k"]): int(row["n"] or 0) for row in study.db.rows(sql, parameters)}


def next_command(found: Overview) -> str:
    """The first step of the loop that has left no trace yet."""
    done = {key.removesuffix(" done") for key in found.runs if key.endswith(" done")}
    steps = (
        (bool(found.records), "data import"),
        (bool(found.captions or found.sets or not found.reports), "data caption"),
        (bool(found.sets), "generate sets"),
        (bool(found.scores), "annotate serve"),
        ("pairs" in done, "align pairs"),
        ("align" in done, "align train"),
        ("evaluate" in done, "align evaluate"),
        ("pool" in done, "generate pool"),
        ("grid" in done, "downstream run"),
    )
    step = next((command for is_done, command in steps if not is_done), "downstream report")
    return f"radpref {step} --study {shlex.quote(found.study)}"


def data_overview(study: Study) -> DataOverview:
    """What is in each split; beside the splits stands the hash over all of them."""
    of_split = "JOIN records USING (record_id) WHERE split = ? GROUP BY 1 ORDER BY 1"
    manifest = split_manifest(study.db)
    splits = {}
    for split in SPLITS:
        splits[split] = SplitContents(
            **vars(getattr(manifest, split)),
            captions=int(study.db.value("SELECT count(*) FROM records WHERE split = ? AND caption > ''", (split,))),
            positive=_counted(study, f"SELECT label AS k, sum(value) AS n FROM labels {of_split}", split),
            masks=_counted(study, f"SELECT structure AS k, count(*) AS n FROM record_masks {of_split}", split),
        )
    return DataOverview(list(READERS), study.config.data.reader, DataSplits(**splits, sha256=manifest.sha256))
