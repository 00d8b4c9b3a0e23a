"""Assignment: which set a rater sees next, and how far they are. Orders are made in data/scores.py and never change.

Input: a rater. Output: places in the rater's own order, named by random tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from data.errors import NotFound
from data.scores import ensure_presentations, required_scores
from data.study import Study


@dataclass(frozen=True)
class Place:
    """One set in a rater's order. ``done``: skipped, or submitted with every score given."""

    token: str
    position: int
    done: bool


@dataclass(frozen=True)
class Shown:
    """A presentation with what the rater may be asked about it. Stays on the server."""

    presentation_id: int
    token: str
    set_id: str
    position: int
    slots: str
    state: str
    condition_id: str
    mode: str
    text: str | None
    asked: str


def open_study(study: Study, rater_id: int) -> None:
    """Give the rater presentations of every rating set there is by now."""
    ensure_presentations(study.db, rater_id, study.config.annotate.seed)


def places(study: Study, rater_id: int) -> list[Place]:
    """The rater's whole order."""
    rows = study.db.rows(
        "SELECT p.token, p.position, p.state, c.mode, (SELECT count(*) FROM current_scores v"
        " WHERE v.presentation_id = p.presentation_id) AS n_scores FROM presentation_states p"
        " JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " WHERE p.rater_id = ? ORDER BY p.position",
        (rater_id,),
    )
    return [Place(str(row["token"]), int(row["position"]), _done(row)) for row in rows]


def _done(row: dict[str, Any]) -> bool:
    complete = int(row["n_scores"]) >= len(required_scores(str(row["mode"])))
    return row["state"] == "skipped" or (row["state"] == "submitted" and complete)


def next_open(order: list[Place], after: int = -1) -> Place | None:
    """The first set that is not done behind position ``after``, else the first of all (but not ``after`` itself)."""
    rest = [place for place in order if not place.done and place.position != after]
    return next((place for place in rest if place.position > after), rest[0] if rest else None)


def previous(order: list[Place], position: int) -> Place | None:
    """The set before ``position``, done or not."""
    return next((place for place in reversed(order) if place.position < position), None)


def find_shown(study: Study, rater_id: int, token: str) -> Shown:
    """The presentation behind a token, if it is this rater's own.

    Raises:
        NotFound: no such token, or another rater's.
    """
    row = study.db.row(
        "SELECT p.presentation_id, p.token, p.set_id, p.position, p.slots, p.state, c.condition_id, c.mode,"
        " c.text, c.asked"
        " FROM presentation_states p JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " WHERE p.token = ? AND p.rater_id = ?",
        (token, rater_id),
    )
    if row is None:
        raise NotFound("there is no such set for you; reload the page")
    return Shown(**row)


def room_key(order: list[Place]) -> str:
    """Opaque name under which this rater's browser keeps unsent events; says nothing about the rater."""
    return hashlib.sha256(f"room:{order[0].token}".encode()).hexdigest()[:16] if order else "empty"
