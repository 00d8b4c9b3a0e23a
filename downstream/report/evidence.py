"""Everything the report shows, gathered from the study record: scores, agreement, alignment, evaluation, grid, runs.

Input: a Study. Output: :class:`Evidence`. A part that is missing is None or empty and is said to be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.agreement.reliability import AgreementReport, agreement_report
from radpref.data.core.errors import NotFound
from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.lifecycle import Unblinding, early_unblinding
from radpref.data.reader_study.scores import score_table
from radpref.data.study.conditions import MODES
from radpref.data.study.pools import PROXY_FILTERED, pool_rows
from radpref.data.study.runs import Run, finished_run
from radpref.data.study.splits import SPLITS
from radpref.downstream.inference.grid_result import GridResult
from radpref.downstream.inference.reader_comparison import ReaderComparison, reader_comparison

if TYPE_CHECKING:
    import pandas as pd

    from radpref.data.study.db import StudyDatabase
    from radpref.data.study.study import Study

N_BOOT = 500
MAX_PAIRS_ON_SHEET = 8
_COUNTED_SCORES = (
    "current_scores v JOIN counted_presentations p USING (presentation_id) "
    "WHERE v.rater_kind = ? AND p.purpose = ? AND p.state <> 'skipped'"
)


@dataclass(frozen=True)
class PoolPair:
    """The same condition and seed in several arms: what it asks for and the image of each arm."""

    task: str
    text: str
    images: dict[str, npt.NDArray[np.uint8]]  # by arm


@dataclass(frozen=True)
class RunRecord:
    """A run of the study; seconds: None while it is not finished."""

    kind: str
    run_id: str
    status: str
    started_at: str
    seconds: float | None
    provenance: dict[str, Any]


@dataclass(frozen=True)
class ContentHash:
    """What something that a result rests on is, its name and its SHA-256."""

    what: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Evidence:
    """All parts of the report."""

    counts: dict[str, int]
    scores: pd.DataFrame
    agreement: AgreementReport | None
    align: Run | None
    alignment_steps: Sequence[Mapping[str, float | None]]
    """Lines of the alignment run's metrics.jsonl, one per step."""
    finetune: Run | None
    pairs: Run | None
    evaluation: Run | None
    grid: GridResult | None
    pool_pairs: list[PoolPair]
    runs: list[RunRecord]
    hashes: list[ContentHash]
    comparison: ReaderComparison | None = None
    """What `radpref.downstream.inference.reader_comparison` read; None without comparison sets."""
    early: Unblinding | None = None
    """The first unblinding before the freeze (at, actor, detail); every report says it."""

    @property
    def n_alignment_runs(self) -> int:
        """Finished alignment runs of the study."""
        return sum(run.kind == "align" and run.status == "done" for run in self.runs)

    @property
    def simulated(self) -> list[str]:
        """Which parts rest on simulated raters, in words; empty where people scored."""
        n, align = self.counts["simulated scores"], self.align
        found = [f"{n:,} of the scores come from simulated raters, not from people"] if n else []
        if align is not None and align.config.get("raters", align.result.get("raters")) == "simulated":
            found.append("the generator was aligned to simulated preferences")
        return found


def gather(study: Study) -> Evidence:
    """Read all parts; never fails for a part that is not there yet."""
    db = study.db
    counts, runs = _counts(db), _runs(db)
    hashes, pool_pairs = _hashes(db, runs), _pool_pairs(study)
    scores = score_table(db, None)
    latest = {kind: finished_run(study, kind) for kind in ("align", "finetune", "pairs", "evaluate", "grid")}
    align, grid = latest["align"], latest["grid"]
    return Evidence(
        counts=counts,
        scores=scores,
        agreement=agreement_report(scores, n_boot=N_BOOT, seed=0) if len(scores) else None,
        align=align,
        alignment_steps=[line for line in align.metrics() if "step" in line] if align else [],
        early=early_unblinding(db),
        finetune=latest["finetune"],
        pairs=latest["pairs"],
        evaluation=latest["evaluate"],
        grid=GridResult.from_json(grid.run_id, grid.result) if grid else None,
        pool_pairs=pool_pairs,
        runs=runs,
        hashes=hashes,
        comparison=reader_comparison(study),
    )


def _counts(db: StudyDatabase) -> dict[str, int]:
    """How much of everything there is, by the names that the page uses."""

    def count(what: str, *parameters: str) -> int:
        return int(db.value(f"SELECT count(*) FROM {what}", parameters))

    found = {"simulated scores": count("current_scores WHERE rater_kind = 'simulated'")}
    for split in SPLITS:
        found[f"{split} records"] = count("records WHERE split = ?", split)
        found[f"{split} patients"] = count("(SELECT DISTINCT dataset, patient_id FROM records WHERE split = ?)", split)
    for kind in ("human", "simulated"):
        found[f"{kind} raters"] = count("raters WHERE kind = ? AND role = 'rater'", kind)
        for purpose in ("rating", "comparison"):
            found[f"{kind} {purpose} scores"] = count(_COUNTED_SCORES, kind, purpose)
    for purpose in ("rating", "comparison", "attention", "training"):
        found[f"{purpose} sets"] = count("image_sets WHERE purpose = ?", purpose)
    rated = "image_sets JOIN conditions USING (condition_id) WHERE purpose = 'rating' AND mode = ?"
    return found | {f"{mode} sets": count(rated, mode) for mode in MODES}


def _runs(db: StudyDatabase) -> list[RunRecord]:
    found = []
    for row in db.rows("SELECT * FROM runs ORDER BY started_at"):
        start, end = (row[name] and datetime.fromisoformat(row[name]) for name in ("started_at", "finished_at"))
        seconds, provenance = (end - start).total_seconds() if end else None, json.loads(row["provenance"])
        found.append(RunRecord(row["kind"], row["run_id"], row["status"], row["started_at"], seconds, provenance))
    return found


def _hashes(db: StudyDatabase, runs: Sequence[RunRecord]) -> list[ContentHash]:
    """Of models, measuring networks and the inputs of runs."""
    sql = (
        "SELECT 'model, arm ' || arm AS what, model_id AS name, sha256, created_at AS place FROM models UNION ALL "
        "SELECT 'measuring network, ' || role, name, sha256, '~' || role || name FROM networks ORDER BY place"
    )
    found = [ContentHash(row["what"], row["name"], row["sha256"]) for row in db.rows(sql)]
    inputs = ((run.kind, run.provenance.get("inputs", {})) for run in runs)
    return found + [ContentHash(f"input of {kind}", *item) for kind, own in inputs for item in own.items()]


def _pool_pairs(study: Study) -> list[PoolPair]:
    """Pool images of equal condition and seed in every arm that has a pool, a few per task.

    Not of the proxy's choice: its images share a condition and seed with others only where the proxy liked them.
    """
    found: list[PoolPair] = []
    tasks = study.config.downstream.tasks
    per_task = max(1, MAX_PAIRS_ON_SHEET // max(1, len(tasks)))
    for task in tasks:
        rows: dict[str, dict[tuple[str, int], str]] = {}
        for arm in (arm for arm in study.config.downstream.arms if arm != PROXY_FILTERED):
            with suppress(NotFound):
                pool = pool_rows(study, task.name, arm)
                rows[arm] = {(row["condition_id"], row["seed"]): row["image_sha"] for row in pool}
        first = next(iter(rows.values())) if len(rows) > 1 else {}
        shared = [key for key in first if all(key in images for images in rows.values())]
        for key in shared[:per_task]:
            text = study.db.value("SELECT text FROM conditions WHERE condition_id = ?", [key[0]])
            label = text or f"mask of {task.structure}"
            pictures = {arm: to_uint8(study.store.image(images[key])) for arm, images in rows.items()}
            found.append(PoolPair(task.name, str(label), pictures))
    return found
