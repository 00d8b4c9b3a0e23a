"""A rater's presentations in the rater's own order, and whether each is done."""

from __future__ import annotations

from typing import NamedTuple

from radpref.data.reader_study.scores import required_scores
from radpref.data.study.study import Study

# Each is one walk along an index, so that a long study stays as quick as a short one.
_OWN = """
SELECT p.presentation_id, p.token, p.position, p.set_id, s.purpose, p.repeat_of, p.phase
FROM presentations p JOIN image_sets s USING (set_id) WHERE p.rater_id = ? ORDER BY p.position
"""


_ENDS = """
SELECT p.presentation_id, e.kind, e.event_id FROM presentations p JOIN score_events e USING (presentation_id)
WHERE p.rater_id = ? AND e.kind IN ('skip', 'submit', 'unskip') ORDER BY p.position, e.event_id
"""


# A submit is refused while scores are missing, so only a set that was scored after its submit can lack one.
_LATE = """
SELECT p.presentation_id, c.mode, (SELECT count(*) FROM current_scores v
                                   WHERE v.presentation_id = p.presentation_id) AS n
FROM presentations p JOIN image_sets USING (set_id) JOIN conditions c USING (condition_id)
WHERE p.rater_id = ? AND (SELECT max(event_id) FROM score_events e WHERE e.presentation_id = p.presentation_id
                          AND e.kind = 'score') >
  (SELECT max(event_id) FROM score_events e WHERE e.presentation_id = p.presentation_id AND e.kind = 'submit')
"""


class Presentation(NamedTuple):
    """One showing of a set to a rater. ``done``: skipped, or submitted with every score given.

    ``first_finish``: number of the event that finished it first; it orders what the rater has finished, and stays
    when the set is opened again. ``finish``: the event that finished it last.
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
    finish: int | None


def rater_presentations(study: Study, rater_id: int) -> list[Presentation]:
    """All presentations of the rater, of every phase and purpose, in order."""
    execute = study.db.connection.execute
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    state: dict[int, str] = {}
    for presentation_id, kind, event_id in execute(_ENDS, (rater_id,)):
        state[presentation_id] = kind
        if kind != "unskip":
            first.setdefault(presentation_id, event_id)
            last[presentation_id] = event_id
    done = {presentation_id for presentation_id, kind in state.items() if kind != "unskip"}
    for presentation_id, mode, n_scores in execute(_LATE, (rater_id,)):
        if state[presentation_id] == "submit" and n_scores < len(required_scores(mode)):
            done.discard(presentation_id)
    return [
        Presentation._make((*row, row[0] in done, first.get(row[0]), last.get(row[0])))
        for row in execute(_OWN, (rater_id,))
    ]


def training_attempts(presentations: list[Presentation]) -> list[list[Presentation]]:
    """The rater's training attempts, oldest first; each holds every training set once."""
    attempts: list[list[Presentation]] = []
    seen: dict[str, int] = {}
    for presentation in presentations:
        if presentation.purpose == "training":
            number = seen[presentation.set_id] = seen.get(presentation.set_id, -1) + 1
            if number == len(attempts):
                attempts.append([])
            attempts[number].append(presentation)
    return attempts
