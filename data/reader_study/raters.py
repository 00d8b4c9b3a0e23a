"""Raters: who may score. People log in with a password; simulated raters never can.

Input: names and password hashes (made in annotate_app/accounts.py). Output: rows of ``raters``, ``admissions`` and of
the audit log. Nothing here touches an order or a score, of the rater concerned or of another one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.lifecycle import operator
from radpref.data.reader_study.scores import RaterKind
from radpref.data.study.audit import audit
from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now

Role = Literal["rater", "admin"]
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Rater:
    """One row of ``raters`` without the password hash."""

    rater_id: int
    username: str
    kind: RaterKind
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
    kind: RaterKind = "human",
    role: Role = "rater",
    detail: dict[str, Any] | None = None,
    actor: str | None = None,
) -> Rater:
    """Add a rater; ``password_hash`` is an argon2id hash (None: cannot log in). Adding a person is audited.

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
        if kind == "human":
            audit(connection, actor or operator(), "rater added", {"rater": username, "role": role})
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
    return _rater_by(db, "username", username)


def rater_by_id(db: StudyDatabase, rater_id: int) -> Rater:
    """The rater with this number.

    Raises:
        NotFound: there is none.
    """
    return _rater_by(db, "rater_id", rater_id)


def _rater_by(db: StudyDatabase, column: str, value: str | int) -> Rater:
    row = db.row(f"SELECT * FROM raters WHERE {column} = ?", (value,))
    if row is None:
        raise NotFound(f"no rater {value!r} in this study; see `radpref annotate rater list`")
    return _rater(row)


def list_raters(db: StudyDatabase, kind: RaterKind | None = None) -> list[Rater]:
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


def set_password_hash(db: StudyDatabase, username: str, password_hash: str, actor: str | None = None) -> Rater:
    """Give a person a new password; their logins and invitations end. Order and scores stay as they are.

    Raises:
        NotFound: no such rater.
        InvalidInput: the rater is simulated.
    """
    rater = get_person(db, username)
    with db.write() as connection:
        connection.execute("UPDATE raters SET password_hash = ? WHERE rater_id = ?", (password_hash, rater.rater_id))
        end_access(connection, rater.rater_id)
        audit(connection, actor or operator(), "password reset", {"rater": rater.username})
    return rater


def get_person(db: StudyDatabase, username: str) -> Rater:
    """Like :func:`get_rater`, for what only people have: a password, a login, a training.

    Raises:
        NotFound: there is none.
        InvalidInput: the rater is simulated.
    """
    rater = get_rater(db, username)
    if rater.kind != "human":
        raise InvalidInput(f"'{rater.username}' is a simulated rater and has no account; name a person")
    return rater


def end_access(connection: sqlite3.Connection, rater_id: int) -> None:
    """End the logins and the unused invitations of a person, inside an open write transaction."""
    connection.execute("DELETE FROM sessions WHERE rater_id = ?", (rater_id,))
    connection.execute(
        "UPDATE invites SET expires_at = ? WHERE rater_id = ? AND used_at IS NULL AND expires_at > ?",
        (now(), rater_id, now()),
    )


def retire(db: StudyDatabase, username: str, actor: str | None = None) -> Rater:
    """End a person's part: no login, no new score. What was scored stays, and so does everybody's order.

    Raises:
        NotFound: no such rater.
        InvalidInput: the rater is simulated.
        Conflict: retired already, or ``actor`` is this person.
    """
    rater = get_person(db, username)
    if not rater.active:
        raise Conflict(f"'{rater.username}' is retired already; `rater reinstate` undoes it")
    if rater.username.casefold() == (actor or "").casefold():
        raise Conflict("you cannot retire yourself; ask another admin")
    return _set_active(db, rater, False, actor)


def reinstate(db: StudyDatabase, username: str, actor: str | None = None) -> Rater:
    """Let a retired person go on where they stopped, with the old password.

    Raises:
        NotFound: no such rater.
        InvalidInput: the rater is simulated.
        Conflict: not retired.
    """
    rater = get_person(db, username)
    if rater.active:
        raise Conflict(f"'{rater.username}' is not retired")
    return _set_active(db, rater, True, actor)


def _set_active(db: StudyDatabase, rater: Rater, active: bool, actor: str | None) -> Rater:
    with db.write() as connection:
        connection.execute("UPDATE raters SET active = ? WHERE rater_id = ?", (int(active), rater.rater_id))
        end_access(connection, rater.rater_id)
        action = "rater reinstated" if active else "rater retired"
        audit(connection, actor or operator(), action, {"rater": rater.username})
    return get_rater(db, rater.username)


def admit(db: StudyDatabase, username: str, actor: str | None = None) -> Rater:
    """Let a rater go on to scoring whatever the training's result was.

    Raises:
        NotFound: no such rater.
        InvalidInput: the rater is simulated, or an admin.
        Conflict: admitted already.
    """
    rater = get_person(db, username)
    if rater.role != "rater":
        raise InvalidInput(f"'{rater.username}' is an admin and does not score; name a rater")
    actor = actor or operator()
    with db.write() as connection:
        if connection.execute("SELECT 1 FROM admissions WHERE rater_id = ?", (rater.rater_id,)).fetchone():
            raise Conflict(f"'{rater.username}' is admitted already")
        connection.execute(
            "INSERT INTO admissions(rater_id, at, actor, share) VALUES (?, ?, ?, NULL)", (rater.rater_id, now(), actor)
        )
        audit(connection, actor, "rater admitted", {"rater": rater.username})
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
