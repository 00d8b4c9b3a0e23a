"""The life of a reader study: draft -> pilot -> locked -> frozen, and who may learn which arm an image is from.

Input: a study's database. Output: rows of ``stages`` and of the audit log. The database refuses steps back, new sets
after the lock, scores after the freeze, and pairs of anything but rating sets (triggers in data/migrations.py).

=======  ===========================================================================================================
draft    nobody has scored; everything may change. The first event of a person makes it a pilot.
pilot    people score; sets may still be added. These scores leave the analysis at the lock, unless it keeps them.
locked   the sets and the [annotate] section are fixed; raters score anew what counts.
frozen   scores are closed; now arms may be revealed, and each time that is written down.
=======  ===========================================================================================================
"""

from __future__ import annotations

import getpass
from typing import Any, Literal

from data.audit import audit
from data.db import StudyDatabase
from data.errors import Conflict

Stage = Literal["draft", "pilot", "locked", "frozen"]
REVEALED, UNBLINDED = "arms revealed", "unblinded before the freeze"


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
        Conflict: no reason was given.
    """
    if not reason.strip():
        raise Conflict("unblinding before the freeze needs a reason; give it with --reason")
    with db.write() as connection:
        audit(connection, actor, UNBLINDED, {"reason": reason.strip()[:500]})


def early_unblinding(db: StudyDatabase) -> dict[str, Any] | None:
    """at, actor and detail of the first unblinding before the freeze, or None."""
    return db.row("SELECT at, actor, detail FROM audit_events WHERE action = ? ORDER BY audit_id LIMIT 1", (UNBLINDED,))
