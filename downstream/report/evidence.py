"""Everything the report shows, gathered from the study record: scores, agreement, alignment, evaluation, grid, runs.

Input: a Study. Output: :class:`Evidence`. A part that is missing is None or empty and is said to be missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.agreement.reliability import AgreementReport, agreement_report
from radpref.data.core.errors import NotFound
from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.lifecycle import early_unblinding
from radpref.data.reader_study.scores import score_table
from radpref.data.study.pools import PROXY_FILTERED, pool_rows
from radpref.data.study.runs import Run, finished_run
from radpref.downstream.inference.grid_result import GridResult
from radpref.downstream.inference.reader_comparison import ReaderComparison, reader_comparison

if TYPE_CHECKING:
    import pandas as pd

    from radpref.data.study.study import Study

N_BOOT = 500
MAX_PAIRS_ON_SHEET = 8
_COUNTED_SCORES = """
SELECT count(*) FROM current_scores v JOIN counted_presentations p USING (presentation_id)
WHERE v.rater_kind = ? AND p.purpose = ? AND p.state <> 'skipped'
"""


@dataclass(frozen=True)
class PoolPair:
    """The same condition and seed in several arms: what it asks for and the image of each arm."""

    task: str
    text: str
    images: dict[str, npt.NDArray[np.uint8]]  # by arm


@dataclass(frozen=True)
class Evidence:
    """All parts of the report."""

    counts: dict[str, int]
    scores: pd.DataFrame
    agreement: AgreementReport | None
    align: Run | None
    alignment_steps: list[dict[str, Any]]
    """Lines of the alignment run's metrics.jsonl, one per step."""
    finetune: Run | None
    pairs: dict[str, Any] | None
    evaluation: Run | None
    grid: GridResult | None
    pool_pairs: list[PoolPair]
    runs: list[dict[str, Any]]
    models: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    comparison: ReaderComparison | None = None
    """What `radpref.downstream.inference.reader_comparison` read; None without comparison sets."""
    early: dict[str, Any] | None = None
    """The first unblinding before the freeze (at, actor, detail); every report says it."""

    @property
    def n_alignment_runs(self) -> int:
        """Finished alignment runs of the study."""
        return sum(run["kind"] == "align" and run["status"] == "done" for run in self.runs)

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
    counts, runs, pool_pairs = _counts(study), _runs(study), _pool_pairs(study)
    scores = score_table(db, None)
    latest = {kind: finished_run(study, kind) for kind in ("align", "finetune", "pairs", "evaluate", "grid")}
    align, pairs, grid = (latest[kind] for kind in ("align", "pairs", "grid"))
    return Evidence(
        counts=counts,
        scores=scores,
        agreement=agreement_report(scores, n_boot=N_BOOT, seed=0) if len(scores) else None,
        align=align,
        alignment_steps=[line for line in align.metrics() if "step" in line] if align else [],
        early=early_unblinding(db),
        finetune=latest["finetune"],
        pairs=pairs.result if pairs else None,
        evaluation=latest["evaluate"],
        grid=GridResult.from_json(grid.run_id, grid.result) if grid else None,
        pool_pairs=pool_pairs,
        runs=runs,
        models=db.rows("SELECT arm, model_id, run_id, path, sha256, created_at FROM models ORDER BY created_at"),
        networks=db.rows("SELECT role, name, sha256 FROM networks ORDER BY role, name"),
        comparison=reader_comparison(study),
    )


def _counts(study: Study) -> dict[str, int]:
    count = study.db.value
    found = {
        f"{split} records": int(count("SELECT count(*) FROM records WHERE split = ?", [split]))
        for split in ("train", "val", "test")
    }
    found |= {
        f"{split} patients": int(
            count("SELECT count(*) FROM (SELECT DISTINCT dataset, patient_id FROM records WHERE split = ?)", [split])
        )
        for split in ("train", "val", "test")
    }
    for kind in ("human", "simulated"):
        found[f"{kind} raters"] = int(count("SELECT count(*) FROM raters WHERE kind = ? AND role = 'rater'", [kind]))
        for purpose in ("rating", "comparison"):
            found[f"{kind} {purpose} scores"] = int(count(_COUNTED_SCORES, [kind, purpose]))
    found["simulated scores"] = int(count("SELECT count(*) FROM current_scores WHERE rater_kind = 'simulated'"))
    for purpose in ("rating", "comparison", "attention", "training"):
        found[f"{purpose} sets"] = int(count("SELECT count(*) FROM image_sets WHERE purpose = ?", [purpose]))
    for mode in ("T2I", "M2I", "TM2I"):
        sql = (
            "SELECT count(*) FROM image_sets JOIN conditions USING (condition_id) WHERE purpose = 'rating' AND mode = ?"
        )
        found[f"{mode} sets"] = int(count(sql, [mode]))
    return found


def _runs(study: Study) -> list[dict[str, Any]]:
    rows = study.db.rows(
        "SELECT run_id, kind, status, started_at, finished_at, config, provenance FROM runs ORDER BY started_at"
    )
    for row in rows:
        row["config"], row["provenance"] = json.loads(row["config"]), json.loads(row["provenance"])
    return rows


def _pool_pairs(study: Study) -> list[PoolPair]:
    """Pool images of equal condition and seed in every arm that has a pool, a few per task.

    Not of the proxy's choice: its images share a condition and seed with others only where the proxy liked them.
    """
    found: list[PoolPair] = []
    tasks = study.config.downstream.tasks
    per_task = max(1, MAX_PAIRS_ON_SHEET // max(1, len(tasks)))
    for task in tasks:
        rows: dict[str, dict[tuple[str, int], str]] = {}
        for arm in study.config.downstream.arms:
            if arm == PROXY_FILTERED:
                continue
            try:
                pool = pool_rows(study, task.name, arm)
            except NotFound:
                continue
            rows[arm] = {(row["condition_id"], row["seed"]): row["image_sha"] for row in pool}
        if len(rows) < 2:
            continue
        shared = [key for key in next(iter(rows.values())) if all(key in images for images in rows.values())]
        for key in shared[:per_task]:
            text = study.db.value("SELECT text FROM conditions WHERE condition_id = ?", [key[0]])
            label = text or f"mask of {task.structure}"
            pictures = {arm: to_uint8(study.store.image(images[key])) for arm, images in rows.items()}
            found.append(PoolPair(task.name, str(label), pictures))
    return found


def evaluation_sheets(run: Run | None) -> list[Path]:
    """Contact sheets that the evaluation left (``sheets/*.png``), in order of their names."""
    return sorted((run.folder / "sheets").glob("*.png")) if run else []


def watch_sheet(run: Run | None) -> Path | None:
    """The newest contact sheet of the watch of an alignment run."""
    sheets = sorted((run.folder / "watch").glob("*.png")) if run else []
    return sheets[-1] if sheets else None
