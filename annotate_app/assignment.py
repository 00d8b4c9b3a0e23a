"""Assignment: where a rater stands, and which set comes next. Orders come from data/reader_study/presentations.py and
never change.

Input: a rater. Output: a :class:`Desk`: the stage, and the places of the rater's own order, named by random tokens.

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

from radpref.annotate_app import calibration as training
from radpref.annotate_app.calibration import Gate
from radpref.annotate_app.places import Place, attempts_of, places
from radpref.data.core.errors import NotFound
from radpref.data.reader_study.presentations import STARTED_ANEW, ensure_presentations
from radpref.data.study.study import Study

Stage = Literal["training", "gate", "rating", "waiting", "done", "closed"]


@dataclass(frozen=True)
class Desk:
    """Where a rater stands. ``sets``: the places that count now, those of the training attempt or all others.

    ``gate``: the gate in front of which the rater stands, or which is open now and was not passed before.
    """

    room: str
    stage: Stage
    sets: list[Place]
    gate: Gate | None = None
    opens_at: str | None = None
    next: Place | None = None

    @property
    def n_done(self) -> int:
        """How many of ``sets`` are done."""
        return sum(place.done for place in self.sets)


@dataclass(frozen=True)
class Shown:
    """A presentation with what the rater may be asked about it. Stays on the server."""

    presentation_id: int
    token: str
    set_id: str
    slots: str
    condition_id: str
    mode: str
    purpose: str
    text: str | None


def open_study(study: Study, rater_id: int) -> None:
    """Give the rater presentations of what there is by now."""
    settings = study.config.annotate
    ensure_presentations(study.db, rater_id, settings.seed, settings)


def scored_sets(study: Study, everything: list[Place]) -> list[Place]:
    """All but the training: of the main phase only, where the lock left the pilot's scores out."""
    anew = bool(study.db.value(f"SELECT {STARTED_ANEW}"))
    return [place for place in everything if place.purpose != "training" and (place.phase == "main" or not anew)]


def group_of(study: Study, everything: list[Place], token: str) -> list[Place]:
    """The places among which a set is counted: its training attempt, or everything but training."""
    for attempt in attempts_of(everything):
        if any(place.token == token for place in attempt):
            return attempt
    return scored_sets(study, everything)


def look(study: Study, rater_id: int) -> Desk:
    """Where the rater stands now."""
    everything = places(study, rater_id)
    room = room_key(everything)
    rest = scored_sets(study, everything)
    if study.db.value("SELECT stage FROM study_stage") == "frozen":
        return Desk(room, "closed", rest)
    attempts, gate = attempts_of(everything), None
    if attempts and not training.is_admitted(study.db, rater_id):
        current = attempts[-1]
        if any(not place.done for place in current):
            return Desk(room, "training", current, next=next_open(study, current))
        if study.config.annotate.gate > 0:
            gate = training.gate_of(study, current, len(attempts))
            if not gate.is_open:
                return Desk(room, "gate", current, gate)
    following = next_open(study, rest)
    if following is not None:
        return Desk(room, "rating", rest, gate, next=following)
    opening = openings(study, rest)
    if opening:
        when = min(opening.values()).replace(microsecond=0) + timedelta(seconds=1)  # not a moment too early
        return Desk(room, "waiting", rest, gate, opens_at=when.isoformat())
    return Desk(room, "done", rest, gate)


def openings(study: Study, group: list[Place]) -> dict[int, datetime]:
    """presentation_id -> when an unfinished repeat may be shown: ``repeat_gap_hours`` after its first showing ended.

    Repeats whose first showing is not done are left out: they are not to be had yet.
    """
    first = {place.presentation_id: place for place in group if place.done}
    found = {}
    for place in group:
        if place.repeat_of in first and not place.done and place.purpose != "training":
            sql = "SELECT created_at FROM score_events WHERE event_id = ?"
            finished = study.db.connection.execute(sql, (first[place.repeat_of].finish,)).fetchone()[0]
            gap = timedelta(hours=study.config.annotate.repeat_gap_hours)
            found[place.presentation_id] = datetime.fromisoformat(finished) + gap
    return found


def next_open(study: Study, group: list[Place], after: int = -1) -> Place | None:
    """The first set to score behind position ``after``, else the first of all (but not ``after`` itself).

    Repeats that come too soon are passed over.
    """
    now = datetime.now(UTC)
    ready: dict[int, datetime] | None = None
    later: Place | None = None
    for place in group:
        if place.done or place.position == after or (later is not None and place.position < after):
            continue
        if place.repeat_of is not None and place.purpose != "training":
            ready = openings(study, group) if ready is None else ready
            if ready.get(place.presentation_id, now) >= now:
                continue
        if place.position > after:
            return place
        later = place
    return later


def in_order_of_finishing(group: list[Place]) -> list[Place]:
    """The sets that were finished at least once, in the order in which that happened."""
    finished = [place for place in group if place.first_finish is not None]
    return sorted(finished, key=lambda place: place.first_finish or 0)


def find_shown(study: Study, rater_id: int, token: str) -> Shown:
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
    return Shown(*row)


def room_key(everything: list[Place]) -> str:
    """Opaque name under which this rater's browser keeps unsent events, for ever; says nothing about the rater."""
    if not everything:
        return "empty"
    first = min(everything, key=lambda place: place.presentation_id)
    return hashlib.sha256(f"room:{first.token}".encode()).hexdigest()[:16]
