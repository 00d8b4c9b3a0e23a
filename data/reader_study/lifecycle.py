"""The life of a reader study: draft -> pilot -> locked -> frozen, and who may learn which arm an image is from.

Input: a study. Output: rows of ``stages`` with a seal (data/reader_study/seals.py), and of the audit log. The database
refuses steps back, new sets after the lock, scores after the freeze, and pairs of anything but rating sets
(data/schema/).

=======  ===========================================================================================================
draft    nobody has scored; everything may change. The first event of a person makes it a pilot.
pilot    people score; sets may still be added. These scores leave the analysis at the lock, unless it keeps them.
locked   the sets and the [annotate] section are fixed; raters score anew what counts.
frozen   scores are closed; now arms may be revealed, and each time that is written down.
=======  ===========================================================================================================
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from radpref.data.core.errors import Conflict
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.seals import changed_keys, seal
from radpref.data.study.audit import audit
from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now

if TYPE_CHECKING:
    from radpref.data.reader_study.check_sets import Checks
    from radpref.data.study.study import Study

Stage = Literal["draft", "pilot", "locked", "frozen"]
REVEALED, UNBLINDED = "arms revealed", "unblinded before the freeze"


@dataclass(frozen=True)
class Unblinding:
    """Who named the arms before the freeze, when and why."""

    at: str
    actor: str
    reason: str


@dataclass(frozen=True)
class OpenWork:
    """What a person has still to score: sets given out, open ones among them, and those of which a score is there."""

    username: str
    n_sets: int
    n_open: int
    n_begun: int


@dataclass(frozen=True)
class Locked:
    """A lock; n_left_out: pilot scores that leave the analysis; checks: training sets and attention checks."""

    stage: Stage
    keep_scores: bool
    n_left_out: int
    checks: Checks


@dataclass(frozen=True)
class Frozen:
    """A freeze: sets that stay unscored, and people who had none yet."""

    stage: Stage
    n_open: int
    not_begun: list[str]


@dataclass(frozen=True)
class StageChange:
    """A row of ``stages``; kept_scores: of a lock, whether the pilot's scores stay in the analysis."""

    stage: Stage
    at: str
    actor: str
    kept_scores: bool | None


@dataclass(frozen=True)
class PilotScores:
    """Scores, and the people who gave them, that a lock takes out of the analysis unless it keeps them."""

    n_scores: int
    n_raters: int


@dataclass(frozen=True)
class StudyStatus:
    """Stage, how it came about, and what may be done next; holds no arm and nothing that tells one.

    changed: keys of [annotate] that were changed since the lock.
    """

    stage: Stage
    history: list[StageChange]
    arms_visible: bool
    unblinded: Unblinding | None
    may: list[str]
    n_open: int
    not_begun: list[str]
    pilot: PilotScores
    changed: list[str]


def stage(db: StudyDatabase) -> Stage:
    """The study's present stage."""
    found: Stage = db.value("SELECT stage FROM study_stage")
    return found


def operator() -> str:
    """Name under which the audit log keeps what was done on the command line."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        return "command line"


def has_human_scores(db: StudyDatabase) -> bool:
    """Whether a person has scored anything; without, there is nobody to blind."""
    sql = "SELECT 1 FROM score_events e JOIN raters r USING (rater_id) WHERE r.kind = 'human' LIMIT 1"
    return db.value(sql) is not None


def arms_visible(db: StudyDatabase) -> bool:
    """Whether arms may be named: after the freeze, after an audited unblinding, or if no person has scored."""
    unblinded = db.value("SELECT 1 FROM audit_events WHERE action = ? LIMIT 1", (UNBLINDED,))
    return stage(db) == "frozen" or unblinded is not None or not has_human_scores(db)


def reveal_arms(db: StudyDatabase, actor: str, purpose: str) -> None:
    """Write down that ``actor`` learns the arms for ``purpose``; nothing is written while no person has scored.

    Raises:
        Conflict: the study is not frozen and was not unblinded.
    """
    if not arms_visible(db):
        raise Conflict("arms stay hidden until the study is frozen; end scoring with `radpref study freeze`")
    if has_human_scores(db):
        with db.write() as connection:
            audit(connection, actor, REVEALED, {"purpose": purpose})


def unblind(db: StudyDatabase, actor: str, reason: str) -> None:
    """Emergency unblinding before the freeze: from now on arms are visible, and every report says so.

    Raises:
        Conflict: no reason was given, or the study is frozen anyway.
    """
    if stage(db) == "frozen":
        raise Conflict("the study is frozen: arms may be revealed without unblinding")
    if not reason.strip():
        raise Conflict("unblinding before the freeze needs a reason; give it with --reason")
    with db.write() as connection:
        audit(connection, actor, UNBLINDED, {"reason": reason.strip()[:500]})


def early_unblinding(db: StudyDatabase) -> Unblinding | None:
    """The first unblinding before the freeze, or None."""
    row = db.row("SELECT at, actor, detail FROM audit_events WHERE action = ? ORDER BY audit_id LIMIT 1", (UNBLINDED,))
    if row is None:
        return None
    return Unblinding(row["at"], row["actor"], json.loads(row["detail"]).get("reason", "no reason given"))


# --- steps -------------------------------------------------------------------------------------------------------

_PILOT = """
SELECT count(*) AS n_scores, count(DISTINCT v.rater_id) AS n_raters
FROM current_scores v JOIN presentations p USING (presentation_id) JOIN image_sets s USING (set_id)
WHERE v.rater_kind = 'human' AND p.phase = 'pilot' AND s.purpose <> 'training'
"""
_OPEN = """
SELECT r.username, count(p.presentation_id) AS n_sets, coalesce(sum(p.state = 'open'), 0) AS n_open,
       coalesce(sum(p.state = 'open' AND EXISTS (SELECT 1 FROM current_scores v
                                                 WHERE v.presentation_id = p.presentation_id)), 0) AS n_begun
FROM raters r LEFT JOIN (
  SELECT s.* FROM presentation_states s JOIN image_sets i USING (set_id)
  WHERE i.purpose <> 'training'
    AND (s.phase = 'main' OR NOT EXISTS (SELECT 1 FROM stages WHERE stage = 'locked'
                                         AND coalesce(detail ->> '$.keep_scores', 0) = 0))
) p USING (rater_id)
WHERE r.kind = 'human' AND r.role = 'rater' AND r.active = 1
GROUP BY r.rater_id ORDER BY r.rater_id
"""


def pilot_scores(db: StudyDatabase) -> PilotScores:
    """What people scored before a lock."""
    return PilotScores(**(db.row(_PILOT) or {"n_scores": 0, "n_raters": 0}))


def open_work(db: StudyDatabase) -> list[OpenWork]:
    """What active people have still to score, people who are done left out.

    Sets are given out when a person opens the reading room: ``n_sets`` 0 is somebody who has not done so, since the
    lock if there was one.
    """
    return [OpenWork(**row) for row in db.rows(_OPEN) if row["n_open"] or not row["n_sets"]]


def lock(study: Study, actor: str, *, keep_scores: bool = False) -> Locked:
    """Fix sets and [annotate]; training sets and attention checks are made first where there are none yet.

    A draft is locked without a pilot.

    Raises:
        Conflict: the study is locked or frozen, has no sets, or sampling them is not finished.
    """
    from radpref.data.reader_study.check_sets import ensure_checks

    if (present := stage(study.db)) in ("locked", "frozen"):
        raise Conflict(f"the study is {present} already; see `radpref study show`")
    _refuse_unfinished_sets(study.db)
    checks = ensure_checks(study)  # afterwards no set can be added
    n_scores = pilot_scores(study.db).n_scores
    with study.db.write() as connection:
        _refuse_unfinished_sets(study.db)
        if stage(study.db) == "draft":
            _step(connection, actor, "pilot", {"skipped": True})
        _step(
            connection,
            actor,
            "locked",
            {"keep_scores": int(keep_scores), **asdict(seal(connection, study.config.annotate))},
        )
    return Locked("locked", keep_scores, 0 if keep_scores else n_scores, checks)


def _step(connection: sqlite3.Connection, actor: str, name: str, detail: Mapping[str, object]) -> None:
    connection.execute(
        "INSERT INTO stages(at, actor, stage, detail) VALUES (?, ?, ?, ?)", (now(), actor, name, json.dumps(detail))
    )
    audit(connection, actor, name, detail)


def _refuse_unfinished_sets(db: StudyDatabase) -> None:
    running = db.value("SELECT run_id FROM runs WHERE kind = 'sets' AND status = 'running' LIMIT 1")
    if running is not None:
        raise Conflict(f"run {running} has not sampled all its sets; finish it with `radpref generate sets`, then lock")
    if db.value("SELECT 1 FROM image_sets WHERE purpose IN ('rating', 'comparison') LIMIT 1") is None:
        raise Conflict("there are no sets to score; sample some with `radpref generate sets`, then lock")


def freeze(study: Study, actor: str) -> Frozen:
    """Close scoring for ever.

    Raises:
        Conflict: the study is not locked.
    """
    present = stage(study.db)
    if present == "frozen":
        raise Conflict("the study is frozen already; see `radpref study show`")
    if present != "locked":
        raise Conflict(f"the study is a {present}: fix its sets with `radpref study lock`, score, then freeze")
    if changed := changed_keys(study):
        raise Conflict(changed_text(changed))
    left = open_work(study.db)
    n_open = sum(one.n_open for one in left)
    with study.db.write() as connection:
        _step(connection, actor, "frozen", {"n_open": n_open, **asdict(seal(connection, study.config.annotate))})
    return Frozen("frozen", n_open, [one.username for one in left if not one.n_sets])


def changed_text(changed: list[str]) -> str:
    """One line about keys of [annotate] that were changed after the lock
    (:func:`radpref.data.reader_study.seals.changed_keys`)."""
    return f"[annotate] of study.toml was changed after the lock: {'; '.join(changed)}. Put it back"


def require_locked_config(study: Study) -> None:
    """Refuse to go on with a study.toml whose [annotate] section is not the one that was locked.

    Raises:
        Conflict: names the keys.
    """
    if changed := changed_keys(study):
        raise Conflict(changed_text(changed))


_MAY: dict[Stage, tuple[str, ...]] = {
    "draft": ("change study.toml", "add sets: radpref generate sets", "score", "fix the design: radpref study lock"),
    "pilot": ("add sets: radpref generate sets", "score (a pilot)", "fix the design: radpref study lock"),
    "locked": ("score", "close scoring: radpref study freeze", "know the arms earlier: radpref study unblind"),
    "frozen": ("agreement, exports and reports by arm", "another round: a new study"),
}


def status(study: Study) -> StudyStatus:
    """The study's state as people may see it."""
    present, left = stage(study.db), open_work(study.db)
    history = [
        StageChange(
            row["stage"],
            row["at"],
            row["actor"],
            bool(json.loads(row["detail"]).get("keep_scores")) if row["stage"] == "locked" else None,
        )
        for row in study.db.rows("SELECT stage, at, actor, detail FROM stages ORDER BY stage_id")
    ]
    return StudyStatus(
        present,
        history,
        arms_visible(study.db),
        early_unblinding(study.db),
        list(_MAY[present]),
        n_open=sum(one.n_open for one in left),
        not_begun=[one.username for one in left if not one.n_sets],
        pilot=pilot_scores(study.db),
        changed=changed_keys(study),
    )
