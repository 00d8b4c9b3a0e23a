"""What the dashboard shows beyond the overview: quality of the raters, agreement, remarks and the end of the audit log.

Input: a Study. Output: plain JSON values without any arm. The costly figures are kept between refreshes.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

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


class Kept:
    """The last answer of a costly function of a study; computed anew when the record moved on, but not all the time.

    A change by the study office (raters, stage) shows at once; new scores wait until the answer is old enough.
    """

    def __init__(
        self, study: Study, compute: Callable[[Study], dict[str, Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._study, self._compute, self._clock = study, compute, clock
        self._lock = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._until = 0.0
        self._answer: dict[str, Any] | None = None

    def get(self) -> dict[str, Any]:
        """The answer, with ``made_at``: when it was computed."""
        with self._lock:  # several open dashboards compute it once
            office, scores = _office_version(self._study), _score_version(self._study)
            held = self._key[:1] == (office,) and (self._key[1:] == (scores,) or self._clock() < self._until)
            if self._answer is None or not held:
                start = self._clock()
                self._answer = {**self._compute(self._study), "made_at": now()}
                end = self._clock()
                self._key, self._until = (office, scores), end + max(HOLD_S, COST_FACTOR * (end - start))
            return self._answer


def _score_version(study: Study) -> tuple[Any, ...]:
    row = study.db.row(
        "SELECT (SELECT max(event_id) FROM score_events) AS events,"
        " (SELECT max(presentation_id) FROM presentations) AS shown"
    )
    return tuple((row or {}).values())


def _office_version(study: Study) -> tuple[Any, ...]:
    row = study.db.row(
        "SELECT count(*) AS n, sum(active) AS active, (SELECT stage FROM study_stage) AS stage FROM raters"
    )
    return tuple((row or {}).values())


def quality(study: Study) -> dict[str, Any]:
    """`radpref.data.agreement.rater_quality.study_quality` with the calibration gate; see there."""
    return {**study_quality(study, n_boot=N_BOOT), "gate": study.config.annotate.gate}


def agreement(study: Study) -> dict[str, Any]:
    """`radpref.data.agreement.rater_quality.study_agreement`: people and simulated raters, apart from each other."""
    return study_agreement(study, n_boot=N_BOOT)


def remarks(study: Study) -> list[dict[str, Any]]:
    """The newest comments and skips: who, when, on what, the words. Training is left out."""
    return study.db.rows(
        "SELECT e.created_at AS at, r.username, r.kind AS rater_kind, e.kind, c.mode, c.text, e.comment"
        " FROM score_events e JOIN raters r USING (rater_id) JOIN presentations p USING (presentation_id)"
        " JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " WHERE e.kind IN ('comment', 'skip') AND e.comment <> '' AND s.purpose <> 'training'"
        " ORDER BY e.event_id DESC LIMIT ?",
        (N_REMARKS,),
    )


def audit_tail(study: Study) -> list[dict[str, Any]]:
    """The newest audit lines, short: at, actor, action, detail as text. What names an arm waits for the freeze."""
    hidden = None if arms_visible(study.db) else _arms(study)
    rows = study.db.rows(
        "SELECT at, actor, action, detail FROM audit_events ORDER BY audit_id DESC LIMIT ?", (N_AUDIT,)
    )
    return [{**row, "detail": _short(json.loads(row["detail"]), hidden)} for row in rows]


def _arms(study: Study) -> re.Pattern[str] | None:
    rows = study.db.rows("SELECT arm FROM set_images UNION SELECT arm FROM models")
    names = [re.escape(str(row["arm"])) for row in rows]
    return re.compile(rf"\b({'|'.join(names)})\b", re.IGNORECASE) if names else None


def _short(detail: dict[str, Any], hidden: re.Pattern[str] | None) -> str:
    parts = [
        f"{key}: {str(value)[:MAX_DETAIL]}"
        for key, value in detail.items()
        if not isinstance(value, dict | list) and not key.endswith("sha256")
    ]
    return "; ".join("(hidden until the freeze)" if hidden and hidden.search(part) else part for part in parts)
