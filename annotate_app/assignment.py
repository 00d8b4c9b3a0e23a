"""Assignment: where a rater stands, and which set comes next. Orders come from data/presentations.py and never change.

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
from typing import Any, Literal

from annotate_app import training
from annotate_app.training import Gate
from data.errors import NotFound
from data.presentations import STARTED_ANEW, ensure_presentations
from data.scores import required_scores
from data.study import Study

Stage = Literal["training", "gate", "rating", "waiting", "done", "closed"]
# One pass over the rater's events: states, when each set was finished, and how many of its scores stand.
_PLACES = """
WITH own AS MATERIALIZED (SELECT * FROM presentations WHERE rater_id = :rater),
marks AS (
  SELECT own.presentation_id,
         max(e.event_id) FILTER (WHERE e.kind = 'submit') AS submitted,
         max(e.event_id) FILTER (WHERE e.kind = 'skip') AS skipped,
         max(e.event_id) FILTER (WHERE e.kind = 'unskip') AS unskipped,
         min(e.event_id) FILTER (WHERE e.kind <> 'unskip') AS first_finish
  FROM own JOIN score_events e USING (presentation_id)
  WHERE e.kind IN ('submit', 'skip', 'unskip') GROUP BY own.presentation_id),
given AS (
  SELECT presentation_id, sum(value IS NOT NULL) AS n FROM
    (SELECT own.presentation_id, e.value, max(e.event_id) FROM own JOIN score_events e USING (presentation_id)
     WHERE e.kind = 'score' GROUP BY own.presentation_id, e.slot, e.criterion)
  GROUP BY presentation_id)
SELECT own.presentation_id, own.token, own.position, own.set_id, own.repeat_of, own.phase, s.purpose, c.mode,
       coalesce(marks.submitted, 0) AS submitted, coalesce(marks.skipped, 0) AS skipped,
       coalesce(marks.unskipped, 0) AS unskipped, marks.first_finish, coalesce(given.n, 0) AS n_scores,
       f.created_at AS finished_at
FROM own JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)
LEFT JOIN marks USING (presentation_id) LEFT JOIN given USING (presentation_id)
LEFT JOIN score_events f ON f.event_id = max(coalesce(marks.submitted, 0), coalesce(marks.skipped, 0))
ORDER BY own.position
"""


@dataclass(frozen=True)
class Place:
    """One presentation in a rater's order. ``done``: skipped, or submitted with every score given.

    ``first_finish``: number of the event that finished it first; it orders what the rater has behind them, and stays
    when the set is opened again.
    """

    presentation_id: int
    token: str
    position: int
    set_id: str
    purpose: str
    repeat_of: int | None
    phase: str
    done: bool
    first_finish: int | None
    finished_at: str | None


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


def places(study: Study, rater_id: int) -> list[Place]:
    """All presentations of the rater, of every phase and purpose, in order."""
    return [_place(row) for row in study.db.rows(_PLACES, {"rater": rater_id})]


def _place(row: dict[str, Any]) -> Place:
    last = max(row["submitted"], row["skipped"], row["unskipped"])
    complete = row["n_scores"] >= len(required_scores(row["mode"]))
    done = last > 0 and (last == row["skipped"] or (last == row["submitted"] and complete))
    names = ("presentation_id", "token", "position", "set_id", "purpose", "repeat_of", "phase", "first_finish")
    return Place(**{name: row[name] for name in names}, done=done, finished_at=row["finished_at"])


def attempts_of(everything: list[Place]) -> list[list[Place]]:
    """The rater's training attempts, oldest first; each holds every training set once."""
    attempts: list[list[Place]] = []
    seen: dict[str, int] = {}
    for place in everything:
        if place.purpose == "training":
            number = seen[place.set_id] = seen.get(place.set_id, -1) + 1
            if number == len(attempts):
                attempts.append([])
            attempts[number].append(place)
    return attempts


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
    opening = [when for place in rest if not place.done and (when := opens(study, place, rest)) is not None]
    if opening:
        return Desk(room, "waiting", rest, gate, opens_at=min(opening).isoformat(timespec="seconds"))
    return Desk(room, "done", rest, gate)


def opens(study: Study, place: Place, group: list[Place]) -> datetime | None:
    """When a repeat may be shown: ``repeat_gap_hours`` after its first showing was finished.

    None: the first showing is not done, so the repeat is not to be had yet. Of other sets: the beginning of time.
    """
    if place.repeat_of is None or place.purpose == "training":
        return datetime.min.replace(tzinfo=UTC)
    first = next((one for one in group if one.presentation_id == place.repeat_of), None)
    if first is None or not first.done or first.finished_at is None:
        return None
    return datetime.fromisoformat(first.finished_at) + timedelta(hours=study.config.annotate.repeat_gap_hours)


def next_open(study: Study, group: list[Place], after: int = -1) -> Place | None:
    """The first set to score behind position ``after``, else the first of all (but not ``after`` itself).

    Repeats that come too soon are passed over.
    """
    now = datetime.now(UTC)

    def may_come(place: Place) -> bool:
        if place.done or place.position == after:
            return False
        when = opens(study, place, group)
        return when is not None and when <= now

    behind = next((place for place in group if place.position > after and may_come(place)), None)
    return behind or next((place for place in group if place.position < after and may_come(place)), None)


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
