"""Raters: who may score. People log in with a password; simulated raters never can.

Input: names and password hashes (made in annotate_app/accounts.py). Output: rows of ``raters``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from data.audit import audit
from data.db import StudyDatabase
from data.errors import Conflict, InvalidInput, NotFound
from data.records import now

Kind = Literal["human", "simulated"]
Role = Literal["rater", "admin"]
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Rater:
    """One row of ``raters`` without the password hash."""

    rater_id: int
    username: str
    kind: Kind
    role: Role
    order_seed: int
    active: bool
    detail: dict[str, Any]
    created_at: str


def order_seed(username: str) -> int:
    """Seed (31 bits) of a rater's order: a hash of the name, so that a study's orders can be reproduced."""
    return int.from_bytes(hashlib.sha256(username.casefold().encode()).digest()[:4], "big") >> 1


def add_rater(
    db: StudyDatabase,
    username: str,
    password_hash: str | None = None,
    kind: Kind = "human",
    role: Role = "rater",
    detail: dict[str, Any] | None = None,
) -> Rater:
    """Add a rater; ``password_hash`` is an argon2id hash (None: cannot log in).

    Raises:
        InvalidInput: a name, kind or role that is not usable, or a password for a simulated rater.
        Conflict: the name is taken (upper and lower case are the same).
    """
    _check(username, password_hash, kind, role)
    row = (username, kind, role, password_hash, order_seed(username), json.dumps(detail or {}), now())
    with db.write() as connection:
        if connection.execute("SELECT 1 FROM raters WHERE username = ?", (username,)).fetchone():
            raise Conflict(f"there already is a rater '{username}'; choose another name or use `rater reset`")
        connection.execute(
            "INSERT INTO raters(username, kind, role, password_hash, order_seed, detail, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    return get_rater(db, username)


def _check(username: str, password_hash: str | None, kind: str, role: str) -> None:
    if not isinstance(username, str) or not _USERNAME.fullmatch(username):
        raise InvalidInput(f"rater name {username!r} is not usable; take 1-64 letters, digits, '.', '_' or '-'")
    if kind not in ("human", "simulated"):
        raise InvalidInput(f"rater kind {kind!r} is unknown; choose human or simulated")
    if role not in ("rater", "admin"):
        raise InvalidInput(f"role {role!r} is unknown; choose rater or admin")
    if kind == "simulated" and (password_hash is not None or role != "rater"):
        raise InvalidInput(f"simulated rater '{username}' can have neither a password nor the admin role")


def get_rater(db: StudyDatabase, username: str) -> Rater:
    """The rater with this name.

    Raises:
        NotFound: there is none.
    """
    row = db.row("SELECT * FROM raters WHERE username = ?", (username,))
    if row is None:
        raise NotFound(f"no rater '{username}' in this study; see `radpref annotate rater list`")
    return _rater(row)


def rater_by_id(db: StudyDatabase, rater_id: int) -> Rater:
    """The rater with this number.

    Raises:
        NotFound: there is none.
    """
    row = db.row("SELECT * FROM raters WHERE rater_id = ?", (rater_id,))
    if row is None:
        raise NotFound(f"no rater number {rater_id} in this study; see `radpref annotate rater list`")
    return _rater(row)


def list_raters(db: StudyDatabase, kind: Kind | None = None) -> list[Rater]:
    """All raters in the order they were added, or those of one kind."""
    rows = db.rows("SELECT * FROM raters ORDER BY rater_id")
    return [_rater(row) for row in rows if kind is None or row["kind"] == kind]


def password_hash_of(db: StudyDatabase, username: str) -> tuple[int, str] | None:
    """(rater_id, hash) of an active person with a password; None for anybody else."""
    row = db.row(
        "SELECT rater_id, password_hash FROM raters"
        " WHERE username = ? AND active = 1 AND kind = 'human' AND password_hash IS NOT NULL",
        (username,),
    )
    return None if row is None else (int(row["rater_id"]), str(row["password_hash"]))


def set_password_hash(db: StudyDatabase, username: str, password_hash: str) -> Rater:
    """Give a person a new password; their logins end. Order and scores stay as they are.

    Raises:
        NotFound: no such rater.
        InvalidInput: the rater is simulated.
    """
    rater = get_rater(db, username)
    _check(rater.username, password_hash, rater.kind, rater.role)
    with db.write() as connection:
        connection.execute("UPDATE raters SET password_hash = ? WHERE rater_id = ?", (password_hash, rater.rater_id))
        connection.execute("DELETE FROM sessions WHERE rater_id = ?", (rater.rater_id,))
        audit(connection, rater.username, "password reset", {})
    return rater


def _rater(row: dict[str, Any]) -> Rater:
    return Rater(
        rater_id=int(row["rater_id"]),
        username=str(row["username"]),
        kind=row["kind"],
        role=row["role"],
        order_seed=int(row["order_seed"]),
        active=bool(row["active"]),
        detail=json.loads(row["detail"]),
        created_at=str(row["created_at"]),
    )
