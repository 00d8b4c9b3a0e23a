"""Seals: what a lock and a freeze write down of the study, so that a later change is found.

Input: a study. Output: the detail of a row of ``stages``: number and hash of the score events so far, hash of the sets
with their images and arms, and the [annotate] section. `radpref study verify` compares them with what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from radpref.data.config.reader_study import AnnotateConfig
from radpref.data.core.sqlite import sqlite3

if TYPE_CHECKING:
    from radpref.data.study.study import Study

FREE = ("session_hours", "idle_minutes")
"""Keys of [annotate] that may change after the lock: how long a login lasts is no part of the design."""
_EVENTS = """
SELECT event_id, uuid, presentation_id, rater_id, kind, slot, criterion, value, comment, client, created_at
FROM score_events WHERE event_id <= ? ORDER BY event_id
"""
_SETS = """
SELECT s.set_id, s.run_id, s.ordinal, s.purpose, s.condition_id, c.mode, c.text, i.slot, i.image_sha, i.seed, i.arm
FROM image_sets s JOIN conditions c USING (condition_id) LEFT JOIN set_images i USING (set_id)
ORDER BY s.set_id, i.slot
"""


@dataclass(frozen=True)
class Seal:
    """The score events so far (number, last event_id, hash), a hash of the sets, and the [annotate] section."""

    n_events: int
    last_event: int
    events_sha256: str
    sets_sha256: str
    annotate: dict[str, object]
    annotate_sha256: str


def annotate_section(config: AnnotateConfig) -> dict[str, object]:
    """The part of [annotate] that the lock fixes, as plain JSON values."""
    found: dict[str, object] = config.model_dump(mode="json", exclude=set(FREE))
    return found


def section_hash(section: Mapping[str, object]) -> str:
    """SHA-256 of a section, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()


def seal(connection: sqlite3.Connection, config: AnnotateConfig) -> Seal:
    """What a lock or a freeze stores."""
    last = int(connection.execute("SELECT coalesce(max(event_id), 0) FROM score_events").fetchone()[0])
    n_events, events = _rows_hash(connection, _EVENTS, (last,))
    section = annotate_section(config)
    return Seal(n_events, last, events, _rows_hash(connection, _SETS)[1], section, section_hash(section))


def _rows_hash(connection: sqlite3.Connection, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    for row in connection.execute(sql, parameters):
        digest.update(json.dumps(list(row)).encode() + b"\n")
        count += 1
    return count, digest.hexdigest()


def changed_keys(study: Study) -> list[str]:
    """Keys of [annotate] that no longer are as at the lock, each ``key = now (was then)``; empty before a lock.

    A key that this radpref has and the one that locked had not must stand at its default.
    """
    stored = study.db.value("SELECT detail FROM stages WHERE stage = 'locked'")
    if stored is None:
        return []
    present = annotate_section(study.config.annotate)
    then = AnnotateConfig.completed(json.loads(stored).get("annotate", present))
    return [f"{key} = {present[key]} (was {then[key]})" for key in present if present[key] != then[key]]


def broken_seals(study: Study) -> list[str]:
    """One line for every seal that no longer fits what is in the study."""
    found: list[str] = []
    rows = study.db.rows("SELECT stage, detail FROM stages WHERE stage <> 'pilot' ORDER BY stage_id")
    for row in rows:
        if "events_sha256" not in json.loads(row["detail"]):
            found.append(f"stage {row['stage']}: has no seal; it was not set by `radpref study`")
            continue
        found += [f"stage {row['stage']}: {line}" for line in _broken(study, row["stage"], row["detail"])]
    found += [f"[annotate] of study.toml was changed after the lock: {line}" for line in changed_keys(study)]
    return found


def _broken(study: Study, stage: str, detail: str) -> list[str]:
    connection, found, written = study.db.connection, list[str](), json.loads(detail)
    stored = Seal(**{name.name: written[name.name] for name in fields(Seal)})
    n_events, events = _rows_hash(connection, _EVENTS, (stored.last_event,))
    total = int(study.db.value("SELECT count(*) FROM score_events"))
    if n_events != stored.n_events:
        found.append(f"{stored.n_events} score events were sealed, {n_events} of them are there")
    elif events != stored.events_sha256:
        found.append(f"a score event up to number {stored.last_event} was changed")
    if stage == "frozen" and total != n_events:
        found.append(f"{total - n_events} score events were added after the freeze")
    if _rows_hash(connection, _SETS)[1] != stored.sets_sha256:
        found.append("a set, its images or its condition was changed")
    if section_hash(stored.annotate) != stored.annotate_sha256:
        found.append("the stored [annotate] section was changed")
    audited = study.db.value("SELECT detail FROM audit_events WHERE action = ? ORDER BY audit_id LIMIT 1", (stage,))
    if audited is None or json.loads(audited) != written:
        found.append("differs from what the audit log says")
    return found
