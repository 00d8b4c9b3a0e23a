"""Scores: the append-only log of what the raters did.

Input: score events from people (annotate_app) or simulated raters (alignment). Output: rows of ``score_events``, and
the table of current scores. Nothing is ever changed: undo is an event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now

if TYPE_CHECKING:
    import pandas as pd

RaterKind = Literal["human", "simulated"]
EventKind = Literal["score", "rank", "flag", "comment", "skip", "unskip", "submit"]
KINDS = ("score", "rank", "flag", "comment", "skip", "unskip", "submit")
CRITERIA = {"T2I": ("text",), "M2I": ("mask",), "TM2I": ("text", "mask")}
FLAGS = ("artifact", "unrealistic")
N_SLOTS = 4
MAX_COMMENT = 2000
MAX_CLIENT = 4000
TABLE_COLUMNS = {
    "event_id": "int64",
    "rater_id": "int64",
    "username": "str",
    "rater_kind": "str",
    "set_id": "str",
    "mode": "str",
    "condition_id": "str",
    "slot": "int64",
    "criterion": "str",
    "value": "int64",
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class StaleWrite(Conflict):
    """Another window has written to this set since the writer last looked."""


@dataclass(frozen=True)
class ScoreEvent:
    """One thing a rater did. ``slot`` is the image's slot in its set (0-3), not its place on the rater's screen.

    kind ``score``: slot, criterion text/mask, value 0-5 or None (taken back). ``rank``: the same with value 1-4 or
    None, the place (1 is best) among images scored alike. ``flag``: slot, criterion artifact/unrealistic, value 0/1.
    ``comment``: comment, slot or None. ``skip``: comment is the reason. ``unskip`` and ``submit``: nothing else.
    ``client``: timings and the like, JSON.
    """

    uuid: str
    presentation_id: int
    rater_id: int
    kind: EventKind
    slot: int | None = None
    criterion: str | None = None
    value: int | None = None
    comment: str | None = None
    client: Mapping[str, Any] = field(default_factory=dict)


def required_scores(mode: str) -> list[tuple[int, str]]:
    """(slot, criterion) of every score a set of ``mode`` asks for: 4 for T2I and M2I, 8 for TM2I.

    Raises:
        InvalidInput: no such mode.
    """
    if mode not in CRITERIA:
        raise InvalidInput(f"mode {mode!r} is unknown; choose one of {', '.join(CRITERIA)}")
    return [(slot, criterion) for slot in range(N_SLOTS) for criterion in CRITERIA[mode]]


def validate_event(event: ScoreEvent) -> None:
    """Check types and ranges without a database; an int is an int (True, 3.0 and "3" are refused).

    Raises:
        InvalidInput: names the field and the value.
    """
    if not isinstance(event.uuid, str) or not _UUID.fullmatch(event.uuid):
        raise InvalidInput(f"uuid {_show(event.uuid)} is no lower-case UUID; make one with uuid4")
    if event.kind not in KINDS:
        raise InvalidInput(f"kind {_show(event.kind)} is unknown; choose one of {', '.join(KINDS)}")
    if event.slot is not None and (type(event.slot) is not int or not 0 <= event.slot < N_SLOTS):
        raise InvalidInput(f"slot {_show(event.slot)} is no image of a set; give a whole number 0-3")
    _validate_value(event)
    _validate_texts(event)


_RANGES = {"score": (("text", "mask"), 0, 5), "rank": (("text", "mask"), 1, N_SLOTS), "flag": (FLAGS, 0, 1)}
"""Kind -> its criteria, lowest and highest value."""


def _validate_value(event: ScoreEvent) -> None:
    if event.kind not in _RANGES:
        if event.criterion is not None or event.value is not None:
            raise InvalidInput(f"a '{event.kind}' event has neither criterion nor value; leave both out")
        if event.slot is not None and event.kind != "comment":
            raise InvalidInput(f"a '{event.kind}' event concerns the whole set; leave slot out")
        return
    allowed, low, high = _RANGES[event.kind]
    if event.slot is None:
        raise InvalidInput(f"a '{event.kind}' event needs a slot 0-3")
    if event.criterion not in allowed:
        raise InvalidInput(f"criterion {_show(event.criterion)} is unknown; choose one of {', '.join(allowed)}")
    if event.value is None and event.kind != "flag":
        return
    if type(event.value) is not int or not low <= event.value <= high:
        raise InvalidInput(f"{event.kind} {_show(event.value)} is not usable; give a whole number {low}-{high}")


def _validate_texts(event: ScoreEvent) -> None:
    if event.comment is not None:
        if event.kind not in ("comment", "skip"):
            raise InvalidInput(f"a '{event.kind}' event takes no comment; send a 'comment' event")
        if not isinstance(event.comment, str) or len(event.comment) > MAX_COMMENT or "\x00" in event.comment:
            raise InvalidInput(f"a comment is text of at most {MAX_COMMENT} characters")
        try:
            event.comment.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("the comment holds half a character (a lone surrogate); type it again") from error
    elif event.kind in ("comment", "skip"):
        raise InvalidInput(f"a '{event.kind}' event needs a comment (for skip: the reason)")
    try:
        encoded = json.dumps(dict(event.client), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput("client must be a JSON object of finite numbers and texts") from error
    if len(encoded) > MAX_CLIENT:
        raise InvalidInput(f"client is {len(encoded)} characters long; at most {MAX_CLIENT}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True)
class Asked:
    """What the server knows of a presentation when an event for it arrives."""

    mode: str
    purpose: str = "rating"


@dataclass(frozen=True)
class Stored:
    """Where an event ended: its number, and how many events its presentation has by now."""

    event_id: int
    version: int


def record_event(db: StudyDatabase, event: ScoreEvent, *, seen: int | None = None) -> int:
    """Store one event durably; returns its event_id. The same event again (same uuid) returns the same id.

    Args:
        seen: how many events of this presentation the writer knows. If another client (``client["tab"]``) has written
            since, the event is refused as stale. None: not checked.

    Raises:
        InvalidInput: a field is not usable, or the criterion is not asked by the set's mode.
        NotFound: no such presentation of this rater.
        Conflict: the uuid was used for something else, the write is stale, a submit lacks scores, the study is
            frozen, or a training set was answered before.
    """
    validate_event(event)
    with db.write() as connection:
        return _store(connection, event, _asked(connection, event), seen).event_id


def record_events(db: StudyDatabase, events: Sequence[ScoreEvent]) -> list[int]:
    """Store many events in one transaction, all or none; see :func:`record_event`."""
    for event in events:
        validate_event(event)
    with db.write() as connection:
        return [_store(connection, event, _asked(connection, event), None).event_id for event in events]


def append_event(db: StudyDatabase, event: ScoreEvent, asked: Asked, seen: int) -> Stored:
    """Like :func:`record_event`, for a caller that has just looked the rater's presentation up (``asked``).

    The way of every click: inside the write it costs one indexed query and the insert.
    """
    validate_event(event)
    with db.write() as connection:
        return _store(connection, event, asked, seen)


def _store(connection: sqlite3.Connection, event: ScoreEvent, asked: Asked, seen: int | None) -> Stored:
    present = connection.execute(
        "SELECT event_id, uuid, kind, client ->> '$.tab' FROM score_events WHERE presentation_id = ? ORDER BY event_id",
        (event.presentation_id,),
    ).fetchall()
    if any(row[1] == event.uuid for row in present):
        return Stored(_known(connection, event), len(present))
    if event.kind in ("score", "rank") and event.criterion not in CRITERIA[asked.mode]:
        raise InvalidInput(
            f"a {asked.mode} set asks for {' and '.join(CRITERIA[asked.mode])}, not for '{event.criterion}'"
        )
    if seen is not None and any(row[3] != event.client.get("tab") for row in present[max(seen, 0) :]):
        raise StaleWrite("this set was changed in another window; reload to see what is stored")
    if asked.purpose == "training" and any(row[2] == "submit" for row in present):
        raise Conflict("this training set was answered, and the answer shown; go on to the next set")
    if event.kind == "submit":
        _refuse_incomplete(connection, event, asked.mode)
    cursor = connection.execute(
        "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, slot, criterion, value, comment, client,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uuid) DO NOTHING",
        (event.uuid, *_content(event), json.dumps(dict(event.client)), now()),
    )
    if cursor.rowcount == 0:  # the uuid stands in another presentation
        return Stored(_known(connection, event), len(present))
    return Stored(int(cursor.lastrowid or 0), len(present) + 1)


def _content(event: ScoreEvent) -> tuple[Any, ...]:
    return (
        event.presentation_id, event.rater_id, event.kind, event.slot, event.criterion, event.value, event.comment,
    )  # fmt: skip


def _known(connection: sqlite3.Connection, event: ScoreEvent) -> int:
    """event_id under which this very event is stored already."""
    known = connection.execute(
        "SELECT event_id, presentation_id, rater_id, kind, slot, criterion, value, comment FROM score_events"
        " WHERE uuid = ?",
        (event.uuid,),
    ).fetchone()
    if known is None or tuple(known[1:]) != _content(event):
        raise Conflict(f"uuid {event.uuid} was used for another event; make a new one")
    return int(known[0])


def _asked(connection: sqlite3.Connection, event: ScoreEvent) -> Asked:
    row = connection.execute(
        "SELECT c.mode, s.purpose FROM presentations p JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE p.presentation_id = ? AND p.rater_id = ?",
        (event.presentation_id, event.rater_id),
    ).fetchone()
    if row is None:
        raise NotFound("this set is not shown to this rater; reload the page")
    return Asked(*row)


def _refuse_incomplete(connection: sqlite3.Connection, event: ScoreEvent, mode: str) -> None:
    count = connection.execute(
        "SELECT count(*) FROM current_scores WHERE presentation_id = ?", (event.presentation_id,)
    ).fetchone()[0]
    required = len(required_scores(mode))
    if count < required:
        raise Conflict(f"{required - count} of {required} scores are missing; give them or skip the set")


def scoring_kind(db: StudyDatabase, wanted: str) -> RaterKind:
    """Whose submitted scores of rating sets are used: the kind ``wanted``, or for "auto" the only kind that scored.

    Raises:
        InvalidInput: ``wanted`` is not auto, human or simulated.
        NotFound: there are no submitted scores (of that kind).
        Conflict: "auto", and both kinds scored.
    """
    if wanted not in ("auto", "human", "simulated"):
        raise InvalidInput(f"--raters {wanted} is unknown; choose auto, human or simulated")
    kinds: set[RaterKind] = {
        row["kind"]
        for row in db.rows(
            "SELECT DISTINCT v.rater_kind AS kind FROM current_scores v JOIN counted_presentations p"
            " USING (presentation_id) WHERE p.purpose = 'rating' AND p.state = 'submitted'"
        )
    }
    asked = kinds if wanted == "auto" else {kind for kind in kinds if kind == wanted}
    if not asked:
        what = "scores" if wanted == "auto" else f"{wanted} scores"
        raise NotFound(
            f"no submitted {what} yet: score sets with `radpref annotate serve` or `radpref annotate simulate`"
        )
    if len(asked) > 1:
        raise Conflict("human and simulated scores never mix: choose --raters human or --raters simulated")
    return asked.pop()


def score_table(db: StudyDatabase, kind: RaterKind | None = None) -> pd.DataFrame:
    """Current scores of rating sets, one row per rater, image and criterion; columns as in ``TABLE_COLUMNS``.

    Repeats are left out, and after the lock the pilot's scores (view ``counted_presentations``).

    Scores of sets that the rater skipped are left out; scores of sets not yet submitted are there.
    """
    import pandas as pd

    rows = db.rows(
        "SELECT v.event_id, v.rater_id, v.username, v.rater_kind, v.set_id, c.mode, s.condition_id, v.slot,"
        " v.criterion, v.value FROM current_scores v JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id)"
        " JOIN counted_presentations p USING (presentation_id)"
        " WHERE p.purpose = 'rating' AND p.state <> 'skipped' AND (:kind IS NULL OR v.rater_kind = :kind)"
        " ORDER BY v.event_id",
        {"kind": kind},
    )
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)
