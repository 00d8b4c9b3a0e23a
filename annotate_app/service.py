"""What the scoring page asks for and sends: the state of a set, its pixels, and events. No web imports.

Input: a rater and plain JSON values. Output: plain JSON values that hold nothing but letters, scores and the condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from annotate_app import assignment, blinding
from data.conditions_store import NORMAL_PHRASES
from data.errors import InvalidInput
from data.scores import CRITERIA, ScoreEvent, record_event
from data.study import Study

EVENT_KEYS = {"uuid", "kind", "letter", "criterion", "value", "comment", "seen", "tab", "client"}
EVENT_LIMIT = 1_000_000


def next_set(study: Study, rater_id: int) -> dict[str, Any]:
    """Where the rater goes on: the first set that is not done, with the rater's own progress."""
    assignment.open_study(study, rater_id)
    order = assignment.places(study, rater_id)
    found = assignment.next_open(order)
    last = order[-1] if order else None
    return {
        "room": assignment.room_key(order),
        "total": len(order),
        "n_done": sum(place.done for place in order),
        "set": None if found is None else set_state(study, rater_id, found.token, order),
        "last": last.token if last else None,
    }


def set_state(study: Study, rater_id: int, token: str, order: list[assignment.Place] | None = None) -> dict[str, Any]:
    """Everything the page shows of one set: condition, anchors, own scores, flags, comment, neighbours.

    Raises:
        NotFound: the set is not this rater's.
    """
    shown = assignment.find_shown(study, rater_id, token)
    places = assignment.places(study, rater_id) if order is None else order
    following = assignment.next_open(places, shown.position)
    before = assignment.previous(places, shown.position)
    return {
        "token": shown.token,
        "number": shown.position + 1,
        "total": len(places),
        "n_done": sum(place.done for place in places),
        "mode": shown.mode,
        "text": shown.text,
        "criteria": list(CRITERIA[shown.mode]),
        "anchors": _anchors(study, shown),
        "image": blinding.image_geometry(study, shown.set_id),
        "mask": _mask(study, shown),
        "next": following.token if following else None,
        "previous": before.token if before else None,
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
    """Own current scores and flags by letter, comment, state and the version (number of own events of this set)."""
    scores: dict[str, dict[str, int | None]] = {
        letter: dict.fromkeys(CRITERIA[shown.mode]) for letter in blinding.LETTERS
    }
    flags: dict[str, dict[str, bool]] = {letter: {} for letter in blinding.LETTERS}
    comment = ""
    events = study.db.rows(
        "SELECT kind, slot, criterion, value, comment FROM score_events WHERE presentation_id = ? ORDER BY event_id",
        (shown.presentation_id,),
    )
    for event in events:
        letter = None if event["slot"] is None else blinding.letter_of(shown.slots, event["slot"])
        if event["kind"] == "score" and letter:
            scores[letter][event["criterion"]] = event["value"]
        elif event["kind"] == "flag" and letter:
            flags[letter][event["criterion"]] = bool(event["value"])
        elif event["kind"] == "comment" and letter is None:
            comment = event["comment"]
    return {"scores": scores, "flags": flags, "comment": comment, "state": shown.state, "version": len(events)}


def image_bytes(study: Study, rater_id: int, token: str, letter: str) -> bytes:
    """Raw pixels of the image at ``letter``; see :func:`annotate_app.blinding.pixel_payload`."""
    shown = assignment.find_shown(study, rater_id, token)
    return blinding.pixel_payload(study, shown.set_id, blinding.slot_of(shown.slots, letter))


def mask_bytes(study: Study, rater_id: int, token: str) -> bytes:
    """Raw mask bits of a set; see :func:`annotate_app.blinding.mask_payload`."""
    return blinding.mask_payload(study, assignment.find_shown(study, rater_id, token).condition_id)


def save_event(study: Study, rater_id: int, token: str, payload: object) -> dict[str, Any]:
    """Store what the page sent; answers with the set's new version, and the progress after submit and skip.

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
    record_event(study.db, event, seen=seen)
    answer: dict[str, Any] = {"version": _version(study, shown.presentation_id)}
    if event.kind in ("submit", "skip"):
        answer["n_done"] = sum(place.done for place in assignment.places(study, rater_id))
    return answer


def _version(study: Study, presentation_id: int) -> int:
    return int(study.db.value("SELECT count(*) FROM score_events WHERE presentation_id = ?", (presentation_id,)))


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
