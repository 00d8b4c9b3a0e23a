"""Tables that the quality figures are computed from, read from a study in a few queries.

Input: a study's database. Output: :class:`QualityTables` of presentations, scores, expected answers and raters. After
a lock, presentations of the pilot are left out everywhere (unless the lock kept them), as in the analysis; training is
in no analysis and stays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from radpref.data.reader_study.scores import required_scores
from radpref.data.study.db import StudyDatabase

RATED = ("rating", "comparison")
"""Purposes whose first showings are judged for leniency, position, drift and the like."""
COUNTED = (
    "(p.phase = 'main' OR NOT EXISTS (SELECT 1 FROM stages WHERE stage = 'locked'"
    " AND coalesce(detail ->> '$.keep_scores', 0) = 0))"
)
"""SQL: presentation ``p`` is part of the study as it now stands, repeats included."""
PLAUSIBLE_TIME = "e.client ->> '$.active_ms' BETWEEN 0 AND 86400000"
"""SQL: the time that the page reported with event ``e`` can be one: the browser's clock may say anything."""
_SHOWN = f"""
SELECT p.presentation_id, p.rater_id, r.username, r.kind AS rater_kind, p.set_id, i.purpose, c.mode, p.slots,
       p.repeat_of, p.state
FROM presentation_states p JOIN raters r USING (rater_id) JOIN image_sets i USING (set_id)
JOIN conditions c USING (condition_id)
WHERE r.role = 'rater' AND (i.purpose = 'training' OR {COUNTED}) ORDER BY p.rater_id, p.position
"""
_SUBMITTED = f"""
SELECT presentation_id, min(event_id) AS finish, min(created_at) AS finished_at, max(created_at) AS last_at,
       max(CASE WHEN {PLAUSIBLE_TIME} THEN client ->> '$.active_ms' END) / 1000.0 AS active_s
FROM score_events e WHERE kind = 'submit' GROUP BY presentation_id
"""
_FLAGS = """
SELECT presentation_id, sum(criterion = 'artifact' AND value = 1) AS artifact,
       sum(criterion = 'unrealistic' AND value = 1) AS unrealistic
FROM score_events e WHERE kind = 'flag'
  AND event_id = (SELECT max(l.event_id) FROM score_events l WHERE l.presentation_id = e.presentation_id
                  AND l.kind = 'flag' AND l.slot = e.slot AND l.criterion = e.criterion)
GROUP BY presentation_id
"""
_SHOWN_COLUMNS = {
    "presentation_id": "int64",
    "rater_id": "int64",
    "username": "str",
    "rater_kind": "str",
    "set_id": "str",
    "purpose": "str",
    "mode": "str",
    "slots": "str",
    "repeat_of": "float64",
    "state": "str",
}
_SCORE_COLUMNS = {"presentation_id": "int64", "slot": "int64", "criterion": "str", "value": "int64"}


@dataclass(frozen=True)
class RaterRow:
    """A rater of the report."""

    username: str
    kind: str
    active: bool


@dataclass(frozen=True)
class QualityTables:
    """What :func:`radpref.data.agreement.rater_quality.quality_report` reads.

    ``shown``: one row per presentation: presentation_id, rater_id, username, rater_kind, set_id, purpose, mode, slots,
    repeat_of (NaN: first showing), state, n_scores, n_required, done (submitted with every score), finish (order of
    first submitting), finished_at, last_at, active_s, artifact, unrealistic.
    ``scores``: one row per current score: presentation_id, slot, criterion, value, and its presentation's columns,
    with place: 0-3 for A-D, where the rater saw the image.
    ``expected``: set_id, slot, criterion, low, high.
    """

    shown: pd.DataFrame
    scores: pd.DataFrame
    expected: pd.DataFrame
    raters: list[RaterRow]


def make_tables(
    shown: pd.DataFrame, scores: pd.DataFrame, expected: pd.DataFrame, raters: list[RaterRow]
) -> QualityTables:
    """Join the two tables and work out which presentations are done and where each image stood."""
    n_scores = scores.groupby("presentation_id").size().rename("n_scores")
    shown = shown.join(n_scores, on="presentation_id")
    shown["n_scores"] = shown["n_scores"].fillna(0).astype("int64")
    shown["n_required"] = [len(required_scores(mode)) for mode in shown["mode"]]
    shown["done"] = (shown["state"] == "submitted") & (shown["n_scores"] >= shown["n_required"])
    joined = scores.merge(shown, on="presentation_id")
    joined["place"] = [slots.index(str(slot)) for slots, slot in zip(joined["slots"], joined["slot"], strict=True)]
    return QualityTables(shown, joined, expected, raters)


def read_tables(db: StudyDatabase) -> QualityTables:
    """Everything at once, from the record as it is now."""
    shown = _frame(db, _SHOWN, _SHOWN_COLUMNS)
    submitted = _frame(
        db,
        _SUBMITTED,
        {
            "presentation_id": "int64",
            "finish": "int64",
            "finished_at": "str",
            "last_at": "str",
            "active_s": "float64",
        },
    )
    flags = _frame(db, _FLAGS, {"presentation_id": "int64", "artifact": "int64", "unrealistic": "int64"})
    shown = shown.merge(submitted, on="presentation_id", how="left").merge(flags, on="presentation_id", how="left")
    shown[["artifact", "unrealistic"]] = shown[["artifact", "unrealistic"]].fillna(0).astype("int64")
    scores = _frame(db, "SELECT presentation_id, slot, criterion, value FROM current_scores", _SCORE_COLUMNS)
    expected = _frame(
        db,
        "SELECT set_id, slot, criterion, low, high FROM set_expectations",
        {"set_id": "str", "slot": "int64", "criterion": "str", "low": "int64", "high": "int64"},
    )
    raters = db.rows("SELECT username, kind, active FROM raters WHERE role = 'rater' ORDER BY kind, rater_id")
    return make_tables(shown, scores, expected, [RaterRow(r["username"], r["kind"], bool(r["active"])) for r in raters])


def _frame(db: StudyDatabase, sql: str, columns: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(db.rows(sql), columns=list(columns)).astype(columns)


def repeat_table(tables: QualityTables) -> pd.DataFrame:
    """Hidden repeats next to their first showing, where both are done: one row per image and criterion.

    Columns rater_kind, username, set_id, criterion, slot, first, again, hours (between the two submits).
    """
    rated = tables.scores[tables.scores["done"] & tables.scores["purpose"].isin(RATED)]
    again = rated[rated["repeat_of"].notna()]
    columns = ["presentation_id", "slot", "criterion", "value", "finished_at"]
    both = again.merge(
        rated[columns],
        left_on=["repeat_of", "slot", "criterion"],
        right_on=["presentation_id", "slot", "criterion"],
        suffixes=("", "_first"),
    )
    gap = _seconds(both["finished_at"]) - _seconds(both["finished_at_first"])
    both["hours"] = gap / 3600
    both = both.rename(columns={"value": "again", "value_first": "first"})
    return both[["rater_kind", "username", "set_id", "criterion", "slot", "first", "again", "hours"]]


def _seconds(times: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    parsed = pd.to_datetime(times, format="ISO8601", utc=True)
    return np.array([time.timestamp() for time in parsed], dtype=np.float64)


def asked_findings(db: StudyDatabase) -> dict[str, list[str]]:
    """condition_id -> names of the findings its text asks to be there (``conditions.asked`` with the value 1)."""
    rows = db.rows("SELECT condition_id, asked FROM conditions WHERE text IS NOT NULL")
    return {
        str(row["condition_id"]): sorted(str(name) for name, value in json.loads(row["asked"]).items() if value == 1)
        for row in rows
    }
