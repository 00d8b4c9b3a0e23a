"""Assignment: a rater's stage and worklist, and which set comes next.

Input: a rater. Output: a :class:`Worklist`: the stage, and the rater's presentations in their own order, which never
changes (data/reader_study/presentations.py), named by random tokens.

    training   sets with known answers come first (unless the study office let the rater in)
    gate       training is done, but too few answers were in the expected range
    rating     all other sets, among them hidden checks and repeats that nothing here tells apart
    waiting    only repeats are left that come too soon after the first showing
    done, closed (the study is frozen)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from radpref.annotate_app import calibration
from radpref.annotate_app.calibration import Gate
from radpref.annotate_app.presentations import Presentation, rater_presentations, training_attempts
from radpref.data.core.errors import NotFound
from radpref.data.reader_study.presentations import STARTED_ANEW
from radpref.data.study.study import Study

Stage = Literal["training", "gate", "rating", "waiting", "done", "closed"]


@dataclass(frozen=True)
class Worklist:
    """A rater's stage and the presentations that count now: those of the training attempt, or all others.

    ``gate``: the calibration gate that keeps the rater from going on, or that is open now and was not passed before.
    """

    outbox_key: str
    stage: Stage
    sets: list[Presentation]
    gate: Gate | None = None
    opens_at: str | None = None
    next: Presentation | None = None


@dataclass(frozen=True)
class PresentedSet:
    """A presentation with what the rater may be asked about it. Stays on the server."""

    presentation_id: int
    token: str
    set_id: str
    slots: str
    condition_id: str
    mode: str
    purpose: str
    text: str | None


def scored_sets(study: Study, presentations: list[Presentation]) -> list[Presentation]:
    """All but the training: of the main phase only, where the lock left the pilot's scores out."""
    started_again = bool(study.db.value(f"SELECT {STARTED_ANEW}"))
    return [
        presentation
        for presentation in presentations
        if presentation.purpose != "training" and (presentation.phase == "main" or not started_again)
    ]


def group_of(study: Study, presentations: list[Presentation], token: str) -> list[Presentation]:
    """The presentations among which a set is counted: its training attempt, or everything but training."""
    of_training = (one for one in training_attempts(presentations) if any(shown.token == token for shown in one))
    return next(of_training, None) or scored_sets(study, presentations)


def current_worklist(study: Study, rater_id: int) -> Worklist:
    """The rater's worklist as it is now."""
    presentations = rater_presentations(study, rater_id)
    key = outbox_key(presentations)
    rest = scored_sets(study, presentations)
    if study.db.value("SELECT stage FROM study_stage") == "frozen":
        return Worklist(key, "closed", rest)
    attempts, gate = training_attempts(presentations), None
    if attempts and not calibration.is_admitted(study.db, rater_id):
        current = attempts[-1]
        if any(not presentation.done for presentation in current):
            return Worklist(key, "training", current, next=next_open(study, current))
        settings = study.config.annotate
        if settings.gate > 0:
            gate = Gate(calibration.share(study, current), settings.gate, len(attempts), settings.gate_attempts)
            if not gate.is_open:
                return Worklist(key, "gate", current, gate)
    following = next_open(study, rest)
    if following is not None:
        return Worklist(key, "rating", rest, gate, next=following)
    opening = openings(study, rest)
    if opening:
        when = min(opening.values()).replace(microsecond=0) + timedelta(seconds=1)  # not a moment too early
        return Worklist(key, "waiting", rest, gate, opens_at=when.isoformat())
    return Worklist(key, "done", rest, gate)


def openings(study: Study, group: list[Presentation]) -> dict[int, datetime]:
    """presentation_id -> when an unfinished repeat may be shown: ``repeat_gap_hours`` after its first showing ended.

    Repeats whose first showing is not done are left out.
    """
    first = {presentation.presentation_id: presentation for presentation in group if presentation.done}
    found = {}
    for presentation in group:
        if presentation.repeat_of in first and not presentation.done and presentation.purpose != "training":
            sql = "SELECT created_at FROM score_events WHERE event_id = ?"
            finished = study.db.connection.execute(sql, (first[presentation.repeat_of].finish,)).fetchone()[0]
            gap = timedelta(hours=study.config.annotate.repeat_gap_hours)
            found[presentation.presentation_id] = datetime.fromisoformat(finished) + gap
    return found


def next_open(study: Study, group: list[Presentation], after: int = -1) -> Presentation | None:
    """The first set to score behind position ``after``, else the first of all (but not ``after`` itself).

    Repeats that come too soon are passed over.
    """
    now, ready = datetime.now(UTC), openings(study, group)

    def is_open(one: Presentation) -> bool:
        is_repeat = one.repeat_of is not None and one.purpose != "training"
        return not one.done and not (is_repeat and ready.get(one.presentation_id, now) >= now)

    found = [one for one in group if one.position != after and is_open(one)]
    return min(found, key=lambda one: (one.position < after, one.position), default=None)


def in_order_of_finishing(group: list[Presentation]) -> list[Presentation]:
    """The sets that were finished at least once, in the order in which that happened."""
    finished = [presentation for presentation in group if presentation.first_finish is not None]
    return sorted(finished, key=lambda presentation: presentation.first_finish or 0)


def find_presented_set(study: Study, rater_id: int, token: str) -> PresentedSet:
    """The presentation behind a token, if it is this rater's own.

    Raises:
        NotFound: no such token, or another rater's.
    """
    row = study.db.connection.execute(
        "SELECT p.presentation_id, p.token, p.set_id, p.slots, c.condition_id, c.mode, s.purpose, c.text"
        " FROM presentations p JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " WHERE p.token = ? AND p.rater_id = ?",
        (token, rater_id),
    ).fetchone()
    if row is None:
        raise NotFound("there is no such set for you; reload the page")
    return PresentedSet(*row)


def outbox_key(presentations: list[Presentation]) -> str:
    """Opaque name under which this rater's browser keeps unsent events, for ever; says nothing about the rater."""
    if not presentations:
        return "empty"
    first = min(presentations, key=lambda presentation: presentation.presentation_id)
    return hashlib.sha256(f"room:{first.token}".encode()).hexdigest()[:16]
