"""The audit log: who did what to the study, each row chained to the one before by its hash.

Input: an actor, an action and its detail. Output: rows of ``audit_events``. A row that is changed or taken out breaks
the chain from there on; `radpref study verify` says where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from radpref.data.core.sqlite import sqlite3

_START = "0" * 64
_COLUMNS = "audit_id, at, actor, action, detail"


def chain_hash(previous: str, row: tuple[Any, ...]) -> str:
    """SHA-256 over the hash of the row before and (audit_id, at, actor, action, detail) of this one."""
    return hashlib.sha256(f"{previous}\n{json.dumps(list(row), ensure_ascii=True)}".encode()).hexdigest()


def audit(connection: sqlite3.Connection, actor: str, action: str, detail: Mapping[str, object]) -> None:
    """Append one line to the audit log inside an open write transaction."""
    last = connection.execute("SELECT audit_id, hash FROM audit_events ORDER BY audit_id DESC LIMIT 1").fetchone()
    number, previous = (int(last[0]) + 1, str(last[1])) if last else (1, _START)
    row = (number, datetime.now(UTC).isoformat(timespec="microseconds"), actor, action, json.dumps(detail))
    connection.execute(
        f"INSERT INTO audit_events({_COLUMNS}, hash) VALUES (?, ?, ?, ?, ?, ?)", (*row, chain_hash(previous, row))
    )


def broken_link(connection: sqlite3.Connection) -> int | None:
    """audit_id of the first row that does not follow from the one before it; None if the chain is whole."""
    previous = _START
    for *row, stored in connection.execute(f"SELECT {_COLUMNS}, hash FROM audit_events ORDER BY audit_id"):
        if chain_hash(previous, tuple(row)) != stored:
            return int(row[0])
        previous = str(stored)
    return None


def rehash(connection: sqlite3.Connection) -> None:
    """Chain the rows that were written before there was a chain (migration 2)."""
    previous = _START
    for row in connection.execute(f"SELECT {_COLUMNS} FROM audit_events ORDER BY audit_id").fetchall():
        previous = chain_hash(previous, tuple(row))
        connection.execute("UPDATE audit_events SET hash = ? WHERE audit_id = ?", (previous, row[0]))
