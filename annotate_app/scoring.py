"""What the scoring page asks for and sends: the state of a set, its pixels, and events.

The dataclasses' fields are the keys of the JSON answers (docs/protocol.md); they hold nothing but letters, scores and
the condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from radpref.annotate_app import assignment, blinding, calibration
from radpref.annotate_app.assignment import PresentedSet, Stage
from radpref.annotate_app.presentations import Presentation, rater_presentations
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study.presentations import ensure_presentations, present_training_again
from radpref.data.reader_study.scores import CRITERIA, Asked, ScoreEvent, append_event
from radpref.data.study.conditions import NORMAL_PHRASES
from radpref.data.study.study import Study

EVENT_KEYS = {"uuid", "kind", "letter", "criterion", "value", "comment", "seen", "tab", "client"}
EVENT_LIMIT = 1_000_000
_STATES = {"submit": "submitted", "skip": "skipped", "unskip": "open"}
ByCriterion = dict[str, int | None]


@dataclass(frozen=True)
class MaskInfo:
    """Size in pixels of the masks that a set asks for, and the names of their structures, bit by bit."""

    width: int
    height: int
    structures: list[str]


@dataclass(frozen=True)
class LoggedEvent:
    """One of the rater's own events, as the page replays them."""

    kind: str
    criterion: str | None
    value: int | None
    comment: str | None
    letter: str | None


@dataclass(frozen=True)
class Answers:
    """The rater's own answers to a set, by letter where they concern one image. ``version``: number of events."""

    scores: dict[str, ByCriterion]
    ranks: dict[str, ByCriterion]
    flags: dict[str, dict[str, bool]]
    comment: str
    state: str
    log: list[LoggedEvent]
    version: int


@dataclass(frozen=True)
class SetState(Answers):
    """Everything the page shows of one set, the answers among it. ``next`` and ``previous`` are tokens."""

    token: str
    number: int
    total: int
    n_done: int
    mode: str
    text: str | None
    criteria: list[str]
    anchors: dict[str, list[str]]
    image: blinding.Geometry
    mask: MaskInfo | None
    next: str | None
    previous: str | None
    training: bool
    tie_break: bool
    feedback: calibration.Feedback | None


@dataclass(frozen=True)
class NextSet:
    """Where the rater goes on. ``last``: token of the set finished last; ``gate``: only while it is closed."""

    room: str
    stage: Stage
    total: int
    n_done: int
    set: SetState | None
    last: str | None
    gate: calibration.Gate | None
    opens_at: str | None
    break_minutes: float
    tie_break: bool


@dataclass(frozen=True)
class SavedEvent:
    """The set's new version; the progress after submit and skip; feedback and share of a submitted training set."""

    version: int
    n_done: int | None = None
    feedback: calibration.Feedback | None = None
    share: float | None = None


def next_set(study: Study, rater_id: int) -> NextSet:
    """Where the rater goes on: the stage, the next set, and the rater's own progress."""
    settings = study.config.annotate
    ensure_presentations(study.db, rater_id, settings.seed, settings)  # of what there is by now
    worklist = assignment.current_worklist(study, rater_id)
    if worklist.gate is not None and worklist.gate.is_open:
        calibration.admit(study.db, rater_id, worklist.gate)
    finished = assignment.in_order_of_finishing(worklist.sets)
    return NextSet(
        room=worklist.outbox_key,
        stage=worklist.stage,
        total=len(worklist.sets),
        n_done=sum(one.done for one in worklist.sets),
        set=None if worklist.next is None else set_state(study, rater_id, worklist.next.token, worklist.sets),
        last=finished[-1].token if finished else None,
        gate=worklist.gate if worklist.stage == "gate" else None,
        opens_at=worklist.opens_at,
        break_minutes=settings.break_minutes,
        tie_break=settings.tie_break,
    )


def repeat_training(study: Study, rater_id: int) -> NextSet:
    """Begin the next attempt at the training; answers like :func:`next_set`.

    Raises:
        Conflict: the training is not to be repeated now, or no attempts are left.
    """
    with study.db.write() as connection:
        worklist = assignment.current_worklist(study, rater_id)
        if worklist.stage != "gate" or worklist.gate is None:
            raise Conflict("the training is not to be done again now; reload the page")
        if worklist.gate.blocked:
            raise Conflict(f"all {worklist.gate.attempts} attempts at the training are used; ask the study office")
        present_training_again(connection, rater_id, study.config.annotate.seed)
    return next_set(study, rater_id)


def set_state(study: Study, rater_id: int, token: str, group: list[Presentation] | None = None) -> SetState:
    """The state of one set; ``group``: the presentations among which it is counted, if the caller has them.

    Raises:
        NotFound: the set is not this rater's.
    """
    shown = assignment.find_presented_set(study, rater_id, token)
    if group is None:
        group = assignment.group_of(study, rater_presentations(study, rater_id), token)
    position = next((one.position for one in group if one.token == token), -1)
    finished = [one.token for one in assignment.in_order_of_finishing(group)]
    before = finished.index(token) if token in finished else len(finished)
    following = assignment.next_open(study, group, position)
    is_training = shown.purpose == "training"
    return SetState(
        token=shown.token,
        number=before + 1,
        total=len(group),
        n_done=sum(one.done for one in group),
        mode=shown.mode,
        text=shown.text,
        criteria=list(CRITERIA[shown.mode]),
        anchors=_anchors(study, shown),
        image=blinding.image_geometry(study, shown.set_id),
        mask=_mask_info(study, shown),
        next=following.token if following else None,
        previous=finished[before - 1] if before else None,
        training=is_training,
        tie_break=study.config.annotate.tie_break,
        feedback=calibration.feedback(study, shown.presentation_id) if is_training else None,
        **vars(_answers(study, shown)),
    )


def _anchors(study: Study, shown: PresentedSet) -> dict[str, list[str]]:
    config = study.config.annotate
    is_normal = (shown.text or "").strip().rstrip(".").lower() in NORMAL_PHRASES
    text = config.normal_anchors if is_normal else config.text_anchors
    known = {"text": list(text), "mask": list(config.mask_anchors)}
    return {criterion: known[criterion] for criterion in CRITERIA[shown.mode]}


def _mask_info(study: Study, shown: PresentedSet) -> MaskInfo | None:
    rows = blinding.mask_rows(study, shown.condition_id) if "mask" in CRITERIA[shown.mode] else []
    if not rows:
        return None
    return MaskInfo(rows[0].width, rows[0].height, [row.structure.replace("_", " ") for row in rows])


def _answers(study: Study, shown: PresentedSet) -> Answers:
    scores: dict[str, ByCriterion] = {letter: dict.fromkeys(CRITERIA[shown.mode]) for letter in blinding.LETTERS}
    ranks: dict[str, ByCriterion] = {letter: dict.fromkeys(CRITERIA[shown.mode]) for letter in blinding.LETTERS}
    flags: dict[str, dict[str, bool]] = {letter: {} for letter in blinding.LETTERS}
    comment, state, log = "", "open", []
    events = study.db.connection.execute(
        "SELECT kind, slot, criterion, value, comment FROM score_events WHERE presentation_id = ? ORDER BY event_id",
        (shown.presentation_id,),
    )
    for kind, slot, criterion, value, words in events:
        letter = None if slot is None else blinding.letter_of(shown.slots, slot)
        log.append(LoggedEvent(kind, criterion, value, words, letter))
        if kind in ("score", "rank") and letter:
            (scores if kind == "score" else ranks)[letter][criterion] = value
        elif kind == "flag" and letter:
            flags[letter][criterion] = bool(value)
        elif kind == "comment" and letter is None:
            comment = words
        state = _STATES.get(kind, state)
    return Answers(scores, ranks, flags, comment, state, log, version=len(log))


def image_bytes(study: Study, rater_id: int, token: str, letter: str) -> bytes:
    """Raw pixels of the image at ``letter``; see :func:`radpref.annotate_app.blinding.pixel_payload`."""
    shown = assignment.find_presented_set(study, rater_id, token)
    return blinding.pixel_payload(study, shown.set_id, blinding.slot_of(shown.slots, letter))


def mask_bytes(study: Study, rater_id: int, token: str) -> bytes:
    """Raw mask bits of a set; see :func:`radpref.annotate_app.blinding.mask_payload`."""
    return blinding.mask_payload(study, assignment.find_presented_set(study, rater_id, token).condition_id)


def save_event(study: Study, rater_id: int, token: str, payload: object) -> SavedEvent:
    """Store what the page sent.

    Raises:
        InvalidInput: the payload is not an event.
        NotFound: the set is not this rater's.
        Conflict: a stale window, a uuid used twice for different things, or a submit that lacks scores.
    """
    if not isinstance(payload, Mapping):
        raise InvalidInput("the body must be a JSON object with uuid, kind and seen")
    unknown = sorted(str(key)[:40] for key in set(payload) - EVENT_KEYS)
    if unknown:
        raise InvalidInput(f"unknown field '{unknown[0]}'; valid here: {', '.join(sorted(EVENT_KEYS))}")
    seen = payload.get("seen")
    if type(seen) is not int or not 0 <= seen <= EVENT_LIMIT:
        raise InvalidInput("seen must be the version of the set that the page knows, a whole number from 0")
    shown = assignment.find_presented_set(study, rater_id, token)
    letter = payload.get("letter")
    event = ScoreEvent(
        uuid=payload.get("uuid", ""),
        presentation_id=shown.presentation_id,
        rater_id=rater_id,
        kind=payload.get("kind", ""),
        slot=None if letter is None else blinding.slot_of(shown.slots, letter),
        criterion=payload.get("criterion"),
        value=payload.get("value"),
        comment=payload.get("comment"),
        client=_client(payload),
    )
    version = append_event(study.db, event, Asked(shown.mode, shown.purpose), seen).version
    if event.kind not in ("submit", "skip"):
        return SavedEvent(version)
    group = assignment.group_of(study, rater_presentations(study, rater_id), token)
    n_done = sum(one.done for one in group)
    if shown.purpose != "training" or event.kind != "submit":
        return SavedEvent(version, n_done)
    share = round(calibration.share(study, group), 4)
    return SavedEvent(version, n_done, calibration.feedback(study, shown.presentation_id), share)


def _client(payload: Mapping[str, object]) -> dict[str, object]:
    tab, client = payload.get("tab"), payload.get("client", {})
    if not isinstance(tab, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", tab):
        raise InvalidInput("tab must name the window: 1-64 letters, digits and '-'")
    if not isinstance(client, Mapping) or len(client) > 12:
        raise InvalidInput("client must be a JSON object of at most 12 numbers")
    for key, value in client.items():
        if len(str(key)) > 40 or type(value) not in (int, float) or abs(value) > 1e15 or not math.isfinite(value):
            raise InvalidInput("client must be a JSON object of at most 12 numbers")
    return {**client, "tab": tab}
