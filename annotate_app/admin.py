"""What the study office sees: progress per rater and the latest report. Never part of a rater's pages."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpref.data.agreement.score_tables import COUNTED, PLAUSIBLE_TIME
from radpref.data.core.errors import NotFound
from radpref.data.reader_study.scores import required_scores
from radpref.data.study.study import Study

_WORK = f"s.purpose <> 'training' AND {COUNTED}"
"""SQL: presentation ``p`` of set ``s`` counts as work, as the progress does: repeats and checks are sets here."""


@dataclass(frozen=True)
class RaterProgress:
    """One rater's line. Scores are the counted ones of rating and comparison sets; flags and comments are of all sets
    but training. ``s_per_set``: median active time of a submitted set, seconds.
    """

    username: str
    kind: str
    active: bool
    has_password: bool
    admitted: bool
    n_sets: int
    n_done: int
    n_skipped: int
    n_scores: int
    mean_score: float | None
    n_flags: int
    n_comments: int
    last_event: str | None
    s_per_set: float | None


@dataclass(frozen=True)
class Overview:
    """The study, its rating sets by mode, its people. ``report``: whether one was written."""

    study: str
    title: str
    n_sets: int
    modes: dict[str, int]
    raters: list[RaterProgress]
    admins: list[str]
    report: bool


def overview(study: Study) -> Overview:
    """Progress of the study as it is now."""
    modes = study.db.rows(
        "SELECT c.mode, count(*) AS n FROM image_sets s JOIN conditions c USING (condition_id)"
        " WHERE s.purpose = 'rating' GROUP BY c.mode ORDER BY c.mode"
    )
    raters = study.db.rows(
        "SELECT rater_id, username, kind, role, active, password_hash IS NOT NULL AS has_password,"
        " EXISTS (SELECT 1 FROM admissions a WHERE a.rater_id = r.rater_id) AS admitted"
        " FROM raters r ORDER BY kind, rater_id"
    )
    n_sets = sum(int(row["n"]) for row in modes)
    return Overview(
        study=study.config.name,
        title=study.config.title,
        n_sets=n_sets,
        modes={str(row["mode"]): int(row["n"]) for row in modes},
        raters=[_progress(study, row, n_sets) for row in raters if row["role"] == "rater"],
        admins=[str(row["username"]) for row in raters if row["role"] == "admin"],
        report=_report_folder(study) is not None,
    )


def _progress(study: Study, rater: Mapping[str, Any], n_sets: int) -> RaterProgress:
    rater_id = int(rater["rater_id"])
    states = study.db.rows(
        "SELECT p.state, c.mode, (SELECT count(*) FROM current_scores v"
        " WHERE v.presentation_id = p.presentation_id) AS n"
        " FROM presentation_states p JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        f" WHERE p.rater_id = ? AND {_WORK}",
        (rater_id,),
    )
    complete = [row for row in states if row["state"] != "skipped" and row["n"] >= len(required_scores(row["mode"]))]
    n_scores, mean_score = study.db.connection.execute(
        "SELECT count(*), avg(v.value) FROM counted_presentations p JOIN current_scores v"
        " USING (presentation_id) WHERE p.rater_id = ? AND p.purpose IN ('rating', 'comparison')"
        " AND p.state <> 'skipped'",
        (rater_id,),
    ).fetchone()
    n_flags, n_comments, last_event = study.db.connection.execute(
        f"SELECT sum(e.kind = 'flag' AND e.value = 1 AND {_WORK}), sum(e.kind = 'comment' AND {_WORK}),"
        " max(e.created_at) FROM score_events e JOIN presentations p USING (presentation_id)"
        " JOIN image_sets s USING (set_id) WHERE e.rater_id = ?",
        (rater_id,),
    ).fetchone()
    return RaterProgress(
        username=str(rater["username"]),
        kind=str(rater["kind"]),
        active=bool(rater["active"]),
        has_password=bool(rater["has_password"]),
        admitted=bool(rater["admitted"]),
        n_sets=len(states) or n_sets,
        n_done=sum(row["state"] == "submitted" for row in complete),
        n_skipped=sum(row["state"] == "skipped" for row in states),
        n_scores=n_scores,
        mean_score=None if mean_score is None else round(mean_score, 2),
        n_flags=n_flags or 0,
        n_comments=n_comments or 0,
        last_event=last_event,
        s_per_set=None if rater["kind"] == "simulated" else seconds_per_set(study, rater_id),
    )


def seconds_per_set(study: Study, rater_id: int) -> float | None:
    """Median active time of the submitted sets but training, seconds, as the page measured it; None without any."""
    rows = study.db.rows(
        "SELECT max(e.client ->> '$.active_ms') AS ms FROM score_events e JOIN presentations p USING (presentation_id)"
        f" JOIN image_sets s USING (set_id) WHERE e.rater_id = ? AND e.kind = 'submit' AND {_WORK}"
        f" AND {PLAUSIBLE_TIME} GROUP BY e.presentation_id",
        (rater_id,),
    )
    times = [float(row["ms"]) / 1000 for row in rows]
    return round(statistics.median(times), 1) if times else None


def _report_folder(study: Study) -> Path | None:
    pages = study.reports.glob("*/index.html")
    newest = max(pages, key=lambda page: (page.stat().st_mtime, page.parent.name), default=None)
    return newest and newest.parent


def latest_report(study: Study) -> Path:
    """Folder of the newest report.

    Raises:
        NotFound: none was written yet.
    """
    folder = _report_folder(study)
    if folder is None:
        raise NotFound("there is no report yet; write one with `radpref downstream report`")
    return folder


def report_table(study: Study, name: str) -> Path:
    """A CSV beside the newest report.

    Raises:
        NotFound: no such table.
    """
    path = latest_report(study) / name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.csv", name) or path.is_symlink() or not path.is_file():
        raise NotFound("there is no such table beside the report")
    return path
