"""What the dashboard shows beyond the overview, as JSON values without any arm; the costly figures are cached."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from radpref.data.agreement.rater_quality import study_agreement, study_quality
from radpref.data.reader_study.lifecycle import arms_visible
from radpref.data.study.runs import now
from radpref.data.study.study import Study

N_BOOT = 200
HOLD_S = 5.0
COST_FACTOR = 20.0
"""Figures are computed at most once in HOLD_S, and at most for 1 / COST_FACTOR of the time while people score."""
N_REMARKS, N_AUDIT = 50, 40
MAX_DETAIL = 80
Figures = Mapping[str, object]
"""JSON values by key, as data.agreement makes them."""
Version = tuple[int | str | None, ...]


class CachedFigures:
    """The last answer of a costly function of a study; computed again when the record changed, but not all the time.

    A change by the study office (raters, stage) shows at once; new scores wait until the answer is old enough.
    """

    def __init__(
        self, study: Study, compute: Callable[[Study], Figures], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._study, self._compute, self._clock = study, compute, clock
        self._lock = threading.Lock()
        self._office: Version | None = None
        self._scores: Version | None = None
        self._until = 0.0
        self._answer: Figures | None = None

    def get(self) -> Figures:
        """The answer, with ``made_at``: when it was computed."""
        with self._lock:  # several open dashboards compute it once
            office, scores = (self._study.db.connection.execute(sql).fetchone() for sql in (_OFFICE, _SCORES))
            is_current = self._office == office and (self._scores == scores or self._clock() < self._until)
            if self._answer is None or not is_current:
                start = self._clock()
                self._answer = {**self._compute(self._study), "made_at": now()}
                end = self._clock()
                self._office, self._scores = office, scores
                self._until = end + max(HOLD_S, COST_FACTOR * (end - start))
            return self._answer


_SCORES = "SELECT (SELECT max(event_id) FROM score_events), (SELECT max(presentation_id) FROM presentations)"
_OFFICE = "SELECT count(*), sum(active), (SELECT stage FROM study_stage) FROM raters"


def quality(study: Study) -> Figures:
    """`radpref.data.agreement.rater_quality.study_quality` with the calibration gate; see there."""
    return {**asdict(study_quality(study, n_boot=N_BOOT)), "gate": study.config.annotate.gate}


def agreement(study: Study) -> Figures:
    """`radpref.data.agreement.rater_quality.study_agreement`: people and simulated raters, apart from each other."""
    return asdict(study_agreement(study, n_boot=N_BOOT))


def remarks(study: Study) -> list[dict[str, object]]:
    """The newest comments and reasons of skips: when, who, on what, the words. Training is left out."""
    return study.db.rows(
        "SELECT e.created_at AS at, r.username, r.kind AS rater_kind, e.kind, c.mode, c.text, e.comment"
        " FROM score_events e JOIN raters r USING (rater_id) JOIN presentations p USING (presentation_id)"
        " JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " WHERE e.kind IN ('comment', 'skip') AND e.comment <> '' AND s.purpose <> 'training'"
        " ORDER BY e.event_id DESC LIMIT ?",
        (N_REMARKS,),
    )


def audit_tail(study: Study) -> list[dict[str, str]]:
    """The newest audit lines, ``detail`` as short text. What names an arm waits for the freeze."""
    hidden = None if arms_visible(study.db) else _arms(study)
    rows = study.db.rows(
        "SELECT at, actor, action, detail FROM audit_events ORDER BY audit_id DESC LIMIT ?", (N_AUDIT,)
    )
    return [{**row, "detail": _short(json.loads(row["detail"]), hidden)} for row in rows]


def _arms(study: Study) -> re.Pattern[str] | None:
    rows = study.db.rows("SELECT arm FROM set_images UNION SELECT arm FROM models")
    names = [re.escape(str(row["arm"])) for row in rows]
    return re.compile(rf"\b({'|'.join(names)})\b", re.IGNORECASE) if names else None


def _short(detail: Mapping[str, object], hidden: re.Pattern[str] | None) -> str:
    parts = [
        f"{key}: {str(value)[:MAX_DETAIL]}"
        for key, value in detail.items()
        if not isinstance(value, dict | list) and not key.endswith("sha256")
    ]
    return "; ".join("(hidden until the freeze)" if hidden and hidden.search(part) else part for part in parts)
