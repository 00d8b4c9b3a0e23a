"""Presentations: which sets a rater sees, in which order, and which image has which letter.

Input: the study's finished sets and a rater. Output: rows of ``presentations``. What exists never changes; what is new
goes to the end. All is drawn from seeds (the study's, the rater's, the place where the block begins), only the tokens
are random.

Simulated raters get every rating and comparison set. People get, in one shuffled order, rating and comparison sets,
attention checks and hidden repeats, and before all that the training sets. After a lock that does not keep the pilot's
scores they get everything but the training anew (phase ``main``).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from radpref.data.core.errors import Conflict
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.raters import Rater, rater_by_id
from radpref.data.reader_study.scores import N_SLOTS

if TYPE_CHECKING:
    from radpref.data.config.reader_study import AnnotateConfig
    from radpref.data.study.db import StudyDatabase

Phase = Literal["pilot", "main"]
STARTED_ANEW = "(SELECT count(*) FROM stages WHERE stage = 'locked' AND coalesce(detail ->> '$.keep_scores', 0) = 0)"
"""SQL: 1 after a lock that left the pilot's scores out, 0 before it and after one that kept them."""
_SETS = """
SELECT s.set_id, s.purpose FROM image_sets s JOIN runs r USING (run_id)
WHERE r.status = 'done' ORDER BY s.run_id, s.ordinal
"""
_OWN = f"""
SELECT p.presentation_id, p.set_id, s.purpose FROM presentations p JOIN image_sets s USING (set_id)
WHERE p.rater_id = ? AND p.repeat_of IS NULL
  AND (p.phase = 'main' OR s.purpose = 'training' OR NOT {STARTED_ANEW})
"""
_RATERS_PER_SET = f"""
SELECT p.set_id, count(*) AS n FROM presentations p JOIN raters r USING (rater_id)
WHERE r.kind = 'human' AND p.repeat_of IS NULL AND p.rater_id <> ?
  AND (p.phase = 'main' OR NOT {STARTED_ANEW})
  AND (r.active = 1 OR EXISTS (SELECT 1 FROM score_events e WHERE e.presentation_id = p.presentation_id
                               AND e.kind = 'submit'))
GROUP BY p.set_id
"""
_BEGUN = f"""
SELECT 1 FROM presentations p JOIN score_events e USING (presentation_id)
WHERE p.rater_id = ? AND (p.phase = 'main' OR NOT {STARTED_ANEW}) LIMIT 1
"""


@dataclass(frozen=True)
class Planned:
    """A presentation to be made. ``repeats``: it shows a set again that comes earlier in the same plan."""

    set_id: str
    slots: str
    repeats: bool = False


def ensure_presentations(db: StudyDatabase, rater_id: int, seed: int, settings: AnnotateConfig | None = None) -> int:
    """Give a rater presentations of the sets there are by now; returns how many were added.

    Args:
        settings: study.toml's ``annotate`` section. Without it, plain rating sets only; simulated raters get
            comparison sets besides, whatever it says.

    Raises:
        NotFound: no such rater.
    """
    rater = rater_by_id(db, rater_id)
    if not _plan(db.connection, rater, seed, settings):
        return 0
    with db.write() as connection:  # planned again: another rater may have taken sets meanwhile
        plan = _plan(connection, rater, seed, settings)
        _insert(connection, rater_id, plan, _phase(connection, rater))
    return len(plan)


def present_training_again(connection: sqlite3.Connection, rater_id: int, seed: int) -> int:
    """Another attempt at the training sets, in a new order and with new letters; returns how many were added.

    Raises:
        Conflict: the rater has no training sets.
    """
    first = connection.execute(
        "SELECT p.presentation_id, p.set_id, p.slots FROM presentations p JOIN image_sets s USING (set_id)"
        " WHERE p.rater_id = ? AND s.purpose = 'training' AND p.repeat_of IS NULL ORDER BY p.position",
        (rater_id,),
    ).fetchall()
    if not first:
        raise Conflict("this study has no training sets; go on to the sets")
    start, rater_seed = connection.execute(
        "SELECT max(position) + 1, order_seed FROM presentations JOIN raters USING (rater_id) WHERE rater_id = ?",
        (rater_id,),
    ).fetchone()
    phase: Phase = "main" if _stage(connection) in ("locked", "frozen") else "pilot"
    rng = np.random.default_rng([seed, rater_seed, start])
    shuffled = [first[i] for i in rng.permutation(len(first))]
    letters = latin_rows(rng, len(first), avoid=[row[2] for row in shuffled])
    for (original, set_id, _), slots in zip(shuffled, letters, strict=True):
        add_presentation(connection, rater_id, set_id, slots, phase, original)
    return len(first)


def add_presentation(
    connection: sqlite3.Connection, rater_id: int, set_id: str, slots: str, phase: Phase, repeat_of: int | None = None
) -> int:
    """Add a presentation at the end of a rater's order; returns its number.

    Its token, the name in the rater's browser, is 144 bits of the system's randomness. Blinding rests on it: drawn from
    seeds or numbers, it would tell sets, order and repeats to anybody who knows these.
    """
    cursor = connection.execute(
        "INSERT INTO presentations(token, rater_id, set_id, position, slots, phase, repeat_of)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (secrets.token_urlsafe(18), rater_id, set_id, _start(connection, rater_id), slots, phase, repeat_of),
    )
    return int(cursor.lastrowid or 0)


def _stage(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT stage FROM study_stage").fetchone()[0])


def _phase(connection: sqlite3.Connection, rater: Rater) -> Phase:
    return "main" if rater.kind == "simulated" or _stage(connection) in ("locked", "frozen") else "pilot"


def _start(connection: sqlite3.Connection, rater_id: int) -> int:
    sql = "SELECT coalesce(max(position) + 1, 0) FROM presentations WHERE rater_id = ?"
    return int(connection.execute(sql, (rater_id,)).fetchone()[0])


def _insert(connection: sqlite3.Connection, rater_id: int, plan: Sequence[Planned], phase: Phase) -> None:
    originals: dict[str, int] = {}
    for planned in plan:
        original = originals[planned.set_id] if planned.repeats else None
        added = add_presentation(connection, rater_id, planned.set_id, planned.slots, phase, original)
        originals.setdefault(planned.set_id, added)


def _plan(connection: sqlite3.Connection, rater: Rater, seed: int, settings: AnnotateConfig | None) -> list[Planned]:
    """What the rater has to be given now, in order. Reads only."""
    human = rater.kind == "human"
    if human and _stage(connection) == "frozen":
        return []
    # Of a simulated rater every presentation counts, whatever the stage: all are of phase main.
    own = {str(row[1]): str(row[2]) for row in connection.execute(_OWN, (rater.rater_id,))}
    new: dict[str, list[str]] = {"rating": [], "comparison": [], "attention": [], "training": []}
    for set_id, purpose in connection.execute(_SETS):
        if set_id not in own:
            new[purpose].append(str(set_id))
    rng = np.random.default_rng([seed, rater.order_seed, _start(connection, rater.rater_id)])
    if not human or settings is None:
        return _with_letters(rng, [new["rating"]] if human else [new["rating"], new["comparison"]])
    n_old = {purpose: sum(one == purpose for one in own.values()) for purpose in new}
    for purpose in ("rating", "comparison"):
        new[purpose] = _covered(connection, rater, rng, settings, new[purpose], n_old[purpose], purpose)
    n_checks, n_repeats = (
        round(share * (n_old["rating"] + len(new["rating"]))) - round(share * n_old["rating"])
        for share in (settings.attention, settings.repeats)
    )
    checks = _drawn(rng, new["attention"], n_checks)
    main = _with_letters(rng, [new["rating"], new["comparison"], checks])
    plan = with_repeats(rng, main, set(new["rating"]), n_repeats, settings.repeat_gap_sets)
    # Training comes before everything, so it is for those who have neither had it nor begun.
    begun = connection.execute(_BEGUN, (rater.rater_id,)).fetchone() is not None
    wanted = [] if n_old["training"] or begun else new["training"][: settings.training_sets]
    return _with_letters(rng, [wanted]) + plan


def _drawn(rng: np.random.Generator, names: Sequence[str], n: int) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:n]]


def _covered(
    connection: sqlite3.Connection,
    rater: Rater,
    rng: np.random.Generator,
    settings: AnnotateConfig,
    candidates: list[str],
    n_old: int,
    purpose: str,
) -> list[str]:
    """The candidates that this person is to score: those with the fewest raters first, drawn among equals.

    A set has as many raters as active people have it, and retired people submitted it. With ``raters_per_set`` nobody
    takes more than an equal share among those who are active now, so that the last to begin still finds sets.
    """
    room = len(candidates)
    if purpose == "rating" and settings.sets_per_rater:
        room = settings.sets_per_rater - n_old
    elif not settings.raters_per_set:
        return candidates
    if settings.raters_per_set:
        room = min(room, _share(connection, purpose, settings.raters_per_set) - n_old)
    if room < 1:
        return []
    n_raters = {str(row[0]): int(row[1]) for row in connection.execute(_RATERS_PER_SET, (rater.rater_id,))}
    free = _drawn(rng, candidates, len(candidates))
    if settings.raters_per_set:
        free = [name for name in free if n_raters.get(name, 0) < settings.raters_per_set]
    free.sort(key=lambda name: n_raters.get(name, 0))  # stable: the draw decides among equals
    return free[:room]


def _share(connection: sqlite3.Connection, purpose: str, raters_per_set: int) -> int:
    """Sets of ``purpose`` for each of the people who are active now."""
    n_sets = connection.execute(
        "SELECT count(*) FROM image_sets JOIN runs USING (run_id) WHERE status = 'done' AND purpose = ?", (purpose,)
    ).fetchone()[0]
    n_people = connection.execute(
        "SELECT count(*) FROM raters WHERE kind = 'human' AND role = 'rater' AND active = 1"
    ).fetchone()[0]
    return int(-(-n_sets * raters_per_set // max(1, n_people)))


def _with_letters(rng: np.random.Generator, groups: Sequence[Sequence[str]]) -> list[Planned]:
    """All sets of ``groups`` in one random order; within each group every image has each letter equally often."""
    kinds = [kind for kind, names in enumerate(groups) for _ in names]
    names = [name for group in groups for name in group]
    order = rng.permutation(len(names))
    letters = [iter(latin_rows(rng, len(group))) for group in groups]
    return [Planned(names[i], next(letters[kinds[i]])) for i in order]


def latin_rows(rng: np.random.Generator, n: int, avoid: Sequence[str] | None = None) -> list[str]:
    """n permutations of the slots, in blocks of four that form Latin squares.

    With ``avoid`` (n permutations) no row equals the one of the same place.
    """
    rows: list[str] = []
    while len(rows) < n:
        base = rng.permutation(N_SLOTS)
        block = ["".join(map(str, np.roll(base, shift))) for shift in rng.permutation(N_SLOTS)]
        taken = avoid[len(rows) : len(rows) + N_SLOTS] if avoid is not None else ()
        if all(new != old for new, old in zip(block, taken, strict=False)):
            rows.extend(block)
    return rows[:n]


def with_repeats(
    rng: np.random.Generator, order: Sequence[Planned], repeatable: set[str], n_repeats: int, gap: int
) -> list[Planned]:
    """Insert second showings of ``n_repeats`` of the ``repeatable`` sets, at least ``gap`` sets after the first.

    Where the order is too short the gap is the largest at which ``n_repeats`` sets can still be repeated.
    """
    places = [i for i, planned in enumerate(order) if planned.set_id in repeatable]
    n_repeats = min(n_repeats, len(places))
    if n_repeats < 1:
        return list(order)
    last = len(order) - 1
    gap = min(gap, last - places[n_repeats - 1])  # so many sets follow the last of the first n_repeats
    early = [i for i in places if last - i >= gap]
    chosen = [early[i] for i in rng.permutation(len(early))[:n_repeats]]
    targets = [int(rng.integers(i + gap + 1, len(order) + 1)) for i in chosen]
    letters = latin_rows(rng, n_repeats, avoid=[order[i].slots for i in chosen])
    inserted: dict[int, list[Planned]] = {}
    for i, target, slots in zip(chosen, targets, letters, strict=True):
        inserted.setdefault(target, []).append(Planned(order[i].set_id, slots, repeats=True))
    found: list[Planned] = []
    for place in range(len(order) + 1):
        found += inserted.get(place, [])
        found += order[place : place + 1]
    return found
