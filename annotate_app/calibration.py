"""Training sets: the feedback afterwards, the share of good answers, and the calibration gate.

Input: training presentations with their score events, and ``set_expectations``. Output: feedback, shares, rows of
``admissions``. An answer is good if the score is in the expected range; a skipped set has no good answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from radpref.annotate_app.blinding import LETTERS, letter_of
from radpref.data.study.audit import audit
from radpref.data.study.runs import now

if TYPE_CHECKING:
    from radpref.annotate_app.presentations import Presentation
    from radpref.data.study.db import StudyDatabase
    from radpref.data.study.study import Study

_ANSWERS = """
SELECT p.slots, x.slot, x.criterion, x.low, x.high, x.reason, CASE WHEN p.state = 'submitted' THEN v.value END, p.state
FROM presentation_states p JOIN set_expectations x USING (set_id)
LEFT JOIN current_scores v ON v.presentation_id = p.presentation_id AND v.slot = x.slot AND v.criterion = x.criterion
WHERE p.presentation_id = ? ORDER BY x.slot, x.criterion
"""


@dataclass(frozen=True)
class Gate:
    """The calibration gate after an attempt at the training."""

    share: float
    required: float
    attempt: int
    attempts: int

    @property
    def is_open(self) -> bool:
        """Whether enough answers were good."""
        return self.share >= self.required

    @property
    def blocked(self) -> bool:
        """Whether this was the last attempt: the study office decides."""
        return not self.is_open and self.attempt >= self.attempts


class _Answer(NamedTuple):
    """One expected range of a training set and the rater's score, None until the set is submitted."""

    slots: str
    slot: int
    criterion: str
    low: int
    high: int
    reason: str
    score: int | None
    state: str

    @property
    def is_good(self) -> bool:
        return self.score is not None and self.low <= self.score <= self.high


@dataclass(frozen=True)
class AnswerFeedback:
    """What a rater is shown after a training set: the expected range of a score, whether theirs is in it, and why."""

    low: int
    high: int
    ok: bool
    why: str


Feedback = dict[str, dict[str, AnswerFeedback]]
"""By letter and criterion."""


def _answers(study: Study, presentation_id: int) -> list[_Answer]:
    return [_Answer._make(row) for row in study.db.connection.execute(_ANSWERS, (presentation_id,))]


def feedback(study: Study, presentation_id: int) -> Feedback | None:
    """The feedback on a training set; None before it is submitted."""
    answers = _answers(study, presentation_id)
    if not answers or answers[0].state != "submitted":
        return None
    found: Feedback = {letter: {} for letter in LETTERS}
    for one in answers:
        shown = AnswerFeedback(one.low, one.high, one.is_good, one.reason)
        found[letter_of(one.slots, one.slot)][one.criterion] = shown
    return found


def share(study: Study, attempt: Sequence[Presentation]) -> float:
    """Share of good answers in the sets of an attempt that are done; 0 before the first."""
    answers = [answer for one in attempt if one.done for answer in _answers(study, one.presentation_id)]
    return sum(answer.is_good for answer in answers) / len(answers) if answers else 0.0


def is_admitted(db: StudyDatabase, rater_id: int) -> bool:
    """Whether the rater passed the gate, or the study office let them in."""
    return db.value("SELECT 1 FROM admissions WHERE rater_id = ?", (rater_id,)) is not None


def admit(db: StudyDatabase, rater_id: int, gate: Gate) -> None:
    """Write down, once, that the gate let a rater through; from then on a change of study.toml changes nothing."""
    with db.write() as connection:
        added = connection.execute(
            "INSERT INTO admissions(rater_id, at, actor, share) VALUES (?, ?, 'gate', ?) ON CONFLICT DO NOTHING",
            (rater_id, now(), gate.share),
        )
        if added.rowcount:
            detail = {"rater_id": rater_id, "share": round(gate.share, 4), "attempt": gate.attempt}
            audit(connection, "gate", "rater admitted", detail)
