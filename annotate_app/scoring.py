"""What the scoring page asks for and sends: the state of a set, its pixels, and events. No web imports.

Input: a rater and plain JSON values. Output: plain JSON values that hold nothing but letters, scores and the condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from radpref.annotate_app import assignment, blinding
from radpref.annotate_app import calibration as training
from radpref.annotate_app.places import Place, places
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study.presentations import present_training_again
from radpref.data.reader_study.scores import CRITERIA, Asked, ScoreEvent, append_event
from radpref.data.study.conditions import NORMAL_PHRASES
from radpref.data.study.study import Study

EVENT_KEYS = {"uuid", "kind", "letter", "criterion", "value", "comment", "seen", "tab", "client"}
EVENT_LIMIT = 1_000_000
_STATES = {"submit": "submitted", "skip": "skipped", "unskip": "open"}


def next_set(study: Study, rater_id: int) -> dict[str, Any]:
    """Where the rater goes on: the stage, the next set, and the rater's own progress."""
    assignment.open_study(study, rater_id)
    desk = assignment.look(study, rater_id)
    if desk.gate is not None and desk.gate.is_open:
        training.admit(study.db, rater_id, desk.gate)
    finished = assignment.in_order_of_finishing(desk.sets)
    settings = study.config.annotate
    return {
        "room": desk.room,
        "stage": desk.stage,
        "total": len(desk.sets),
        "n_done": desk.n_done,
        "set": None if desk.next is None else set_state(study, rater_id, desk.next.token, desk.sets),
        "last": finished[-1].token if finished else None,
        "gate": None if desk.stage != "gate" or desk.gate is None else _gate(desk.gate),
        "opens_at": desk.opens_at,
        "break_minutes": settings.break_minutes,
        "tie_break": settings.tie_break,
    }


def _gate(gate: training.Gate) -> dict[str, Any]:
    return {
        "share": round(gate.share, 4),
        "pass": gate.required,
        "attempt": gate.attempt,
        "attempts": gate.attempts,
        "blocked": gate.blocked,
    }


def repeat_training(study: Study, rater_id: int) -> dict[str, Any]:
    """Begin the next attempt at the training; answers like :func:`next_set`.

    Raises:
        Conflict: the training is not to be repeated now, or no attempts are left.
    """
    with study.db.write() as connection:
        desk = assignment.look(study, rater_id)
        if desk.stage != "gate" or desk.gate is None:
            raise Conflict("the training is not to be done again now; reload the page")
        if desk.gate.blocked:
            raise Conflict(f"all {desk.gate.attempts} attempts at the training are used; ask the study office")
        present_training_again(connection, rater_id, study.config.annotate.seed)
    return next_set(study, rater_id)


def set_state(study: Study, rater_id: int, token: str, group: list[Place] | None = None) -> dict[str, Any]:
    """Everything the page shows of one set: condition, anchors, own answers, neighbours; the same keys for every set.

    Raises:
        NotFound: the set is not this rater's.
    """
    shown = assignment.find_shown(study, rater_id, token)
    if group is None:
        group = assignment.group_of(study, places(study, rater_id), token)
    place = next((one for one in group if one.token == token), None)
    finished = [one.token for one in assignment.in_order_of_finishing(group)]
    before = finished.index(token) if token in finished else len(finished)
    following = assignment.next_open(study, group, -1 if place is None else place.position)
    is_training = shown.purpose == "training"
    return {
        "token": shown.token,
        "number": before + 1,
        "total": len(group),
        "n_done": sum(one.done for one in group),
        "mode": shown.mode,
        "text": shown.text,
        "criteria": list(CRITERIA[shown.mode]),
        "anchors": _anchors(study, shown),
        "image": blinding.image_geometry(study, shown.set_id),
        "mask": _mask(study, shown),
        "next": following.token if following else None,
        "previous": finished[before - 1] if before else None,
        "training": is_training,
        "tie_break": study.config.annotate.tie_break,
        "feedback": training.feedback(study, shown.presentation_id) if is_training else None,
        **_answers(study, shown),
    }


def _anchors(study: Study, shown: assignment.Shown) -> dict[str, list[str]]:
    config = study.config.annotate
    is_normal = (shown.text or "").strip().rstrip(".").lower() in NORMAL_PHRASES
    text = config.normal_anchors if is_normal else config.text_anchors
    known = {"text": list(text), "mask": list(config.mask_anchors)}
    return {criterion: known[criterion] for criterion in CRITERIA[shown.mode]}


def _mask(study: Study, shown: assignment.Shown) -> dict[str, Any] | None:
    rows = blinding.mask_rows(study, shown.condition_id) if "mask" in CRITERIA[shown.mode] else []
    if not rows:
        return None
    names = [str(row["structure"]).replace("_", " ") for row in rows]
    return {"width": int(rows[0]["width"]), "height": int(rows[0]["height"]), "structures": names}


def _answers(study: Study, shown: assignment.Shown) -> dict[str, Any]:
    """Own current scores, ranks and flags by letter, comment, state, the log of own events and its length."""
    blank = dict.fromkeys(CRITERIA[shown.mode])
    scores: dict[str, dict[str, int | None]] = {letter: dict(blank) for letter in blinding.LETTERS}
    ranks: dict[str, dict[str, int | None]] = {letter: dict(blank) for letter in blinding.LETTERS}
    flags: dict[str, dict[str, bool]] = {letter: {} for letter in blinding.LETTERS}
    comment, state, log = "", "open", []
    events = study.db.rows(
        "SELECT kind, slot, criterion, value, comment FROM score_events WHERE presentation_id = ? ORDER BY event_id",
        (shown.presentation_id,),
    )
    for event in events:
        kind, slot = event["kind"], event.pop("slot")
        letter = None if slot is None else blinding.letter_of(shown.slots, slot)
        log.append({**event, "letter": letter})
        if kind in ("score", "rank") and letter:
            (scores if kind == "score" else ranks)[letter][event["criterion"]] = event["value"]
        elif kind == "flag" and letter:
            flags[letter][event["criterion"]] = bool(event["value"])
        elif kind == "comment" and letter is None:
            comment = event["comment"]
        state = _STATES.get(kind, state)
    return {
        "scores": scores, "ranks": ranks, "flags": flags, "comment": comment, "state": state, "log": log,
        "version": len(events),
    }  # fmt: skip


def image_bytes(study: Study, rater_id: int, token: str, letter: str) -> bytes:
    """Raw pixels of the image at ``letter``; see :func:`radpref.annotate_app.blinding.pixel_payload`."""
    shown = assignment.find_shown(study, rater_id, token)
    return blinding.pixel_payload(study, shown.set_id, blinding.slot_of(shown.slots, letter))


def mask_bytes(study: Study, rater_id: int, token: str) -> bytes:
    """Raw mask bits of a set; see :func:`radpref.annotate_app.blinding.mask_payload`."""
    return blinding.mask_payload(study, assignment.find_shown(study, rater_id, token).condition_id)


def save_event(study: Study, rater_id: int, token: str, payload: object) -> dict[str, Any]:
    """Store what the page sent; answers with the set's new version, and the progress after submit and skip.

    A submitted training set is answered with its feedback, and the share of good answers so far.

    Raises:
        InvalidInput: the payload is no event.
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
    shown = assignment.find_shown(study, rater_id, token)
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
    stored = append_event(study.db, event, Asked(shown.mode, shown.purpose), seen)
    answer: dict[str, Any] = {"version": stored.version}
    if event.kind in ("submit", "skip"):
        group = assignment.group_of(study, places(study, rater_id), token)
        answer["n_done"] = sum(place.done for place in group)
        if shown.purpose == "training" and event.kind == "submit":
            answer["feedback"] = training.feedback(study, shown.presentation_id)
            answer["share"] = round(training.share(study, group), 4)
    return answer


def _client(payload: Mapping[str, Any]) -> dict[str, Any]:
    tab, client = payload.get("tab"), payload.get("client", {})
    if not isinstance(tab, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", tab):
        raise InvalidInput("tab must name the window: 1-64 letters, digits and '-'")
    if not isinstance(client, Mapping) or len(client) > 12:
        raise InvalidInput("client must be a JSON object of at most 12 numbers")
    for key, value in client.items():
        if len(str(key)) > 40 or type(value) not in (int, float) or abs(value) > 1e15 or not math.isfinite(value):
            raise InvalidInput("client must be a JSON object of at most 12 numbers")
    return {**client, "tab": tab}
