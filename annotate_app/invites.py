"""Invitations: a link by which a person sets a password. Hashed, used once, expiring; a new one voids older ones.

Browsers never send what follows ``#`` of ``<base>/invite#TOKEN`` in a request line, so the token is in no log.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from radpref.annotate_app.accounts import check_new_password, hash_password, token_hash
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.lifecycle import operator
from radpref.data.reader_study.raters import Rater, Role, add_rater, admit, end_access, get_person, reinstate, retire
from radpref.data.study.audit import audit
from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now

DAYS, MAX_DAYS = 7.0, 90.0
GONE = "this link was used, has expired, or was replaced by a newer one; ask the study office for another"


@dataclass(frozen=True)
class Invitation:
    """A valid invitation: whose it is and until when."""

    invite_id: int
    rater_id: int
    username: str
    expires_at: str


@dataclass(frozen=True)
class InviteLink:
    """A link just made: for whom, and until when (UTC, ISO 8601)."""

    name: str
    link: str
    days: float
    expires_at: str


def invite(db: StudyDatabase, name: str, *, role: str | None = None, days: float = DAYS, actor: str = "") -> str:
    """Invite a person, who is added if new; returns the token for the link, which nobody can show again.

    Raises:
        InvalidInput: name, role or days are not usable, or the rater is simulated.
        Conflict: the person has a password already, is retired, or has another role.
    """
    actor = actor or operator()
    if role is not None and role not in get_args(Role):
        raise InvalidInput(f"role '{role}' is unknown; choose rater or admin")
    _check_days(days)
    rater = _person_or_new(db, name, role, actor)
    if db.value("SELECT password_hash FROM raters WHERE rater_id = ?", (rater.rater_id,)) is not None:
        raise Conflict(f"'{rater.username}' has a password already; `rater reset` makes a link for a new one")
    return _store(db, rater, days, actor, "rater invited")


def reset(db: StudyDatabase, name: str, *, days: float = DAYS, actor: str = "") -> str:
    """Take a person's password away, end the logins, and return the token of a link for a new one.

    Raises:
        NotFound: no such rater.
        InvalidInput: days are not usable, or the rater is simulated.
        Conflict: the rater is retired.
    """
    _check_days(days)
    return _store(db, get_person(db, name), days, actor or operator(), "password reset")


def _check_days(days: float) -> None:
    if not 0 < days <= MAX_DAYS:
        raise InvalidInput(f"{days:g} days are not usable; give more than 0 and at most {MAX_DAYS:g}")


def _person_or_new(db: StudyDatabase, name: str, role: str | None, actor: str) -> Rater:
    try:
        rater = get_person(db, name)
    except NotFound:
        return add_rater(db, name, None, "human", "admin" if role == "admin" else "rater", actor=actor)
    if role is not None and role != rater.role:
        raise Conflict(f"'{rater.username}' is here as {rater.role}; choose another name or leave the role out")
    return rater


def _store(db: StudyDatabase, rater: Rater, days: float, actor: str, action: str) -> str:
    if not rater.active:
        raise Conflict(f"'{rater.username}' is retired; `rater reinstate` comes first")
    token, at = secrets.token_urlsafe(32), datetime.now(UTC)
    expires = (at + timedelta(days=days)).isoformat(timespec="microseconds")
    with db.write() as connection:
        end_access(connection, rater.rater_id)
        connection.execute("UPDATE raters SET password_hash = NULL WHERE rater_id = ?", (rater.rater_id,))
        connection.execute(
            "INSERT INTO invites(token_hash, rater_id, created_at, created_by, expires_at) VALUES (?, ?, ?, ?, ?)",
            (token_hash(token), rater.rater_id, at.isoformat(timespec="microseconds"), actor, expires),
        )
        audit(connection, actor, action, {"rater": rater.username, "role": rater.role, "link until": expires})
    return token


def link(base_url: str, token: str) -> str:
    """The link to hand over; without ``base_url`` it is relative to the reading room's root.

    Raises:
        InvalidInput: the address is not http or https, or holds a blank, '?' or '#'.
    """
    if base_url and not re.fullmatch(r"https?://[^\s#?]+", base_url):
        raise InvalidInput(f"--base-url {base_url}: give the address people open, such as https://reading.example.org")
    return f"{base_url.rstrip('/')}/invite#{token}" if base_url else f"invite#{token}"


def make_link(
    db: StudyDatabase, name: str, *, role: str | None = None, days: float, base_url: str, new_password: bool = False
) -> InviteLink:
    """Invite a person and give the link, or, with ``new_password``, :func:`reset` theirs. Raises what these raise."""
    link(base_url, "")  # a bad address is refused before anything is made
    token = reset(db, name, days=days) if new_password else invite(db, name, role=role, days=days)
    found = find(db, token)
    return InviteLink(found.username, link(base_url, token), days, found.expires_at)


def find(db: StudyDatabase, token: object) -> Invitation:
    """The invitation behind a token.

    Raises:
        NotFound: unknown, used, expired or replaced (one text for all), or of a retired rater.
    """
    row = None
    if isinstance(token, str) and 20 <= len(token) <= 100:
        row = db.row(
            "SELECT i.invite_id, i.rater_id, r.username, i.expires_at FROM invites i JOIN raters r USING (rater_id)"
            " WHERE i.token_hash = ? AND i.used_at IS NULL AND i.expires_at > ? AND r.active = 1",
            (token_hash(token), now()),
        )
    if row is None:
        raise NotFound(GONE)
    return Invitation(**row)


def accept(db: StudyDatabase, token: object, password: object) -> int:
    """Set the person's password and use the invitation up; returns the rater_id. Slow: keep it off the event loop.

    Raises:
        NotFound: the invitation is not valid, or was used a moment ago in another window.
        InvalidInput: the password is not usable; the invitation stays valid.
    """
    found = find(db, token)
    if not isinstance(password, str):
        raise InvalidInput("the password must be text")
    check_new_password(found.username, password)
    hashed = hash_password(password)
    with db.write() as connection:
        used = connection.execute(
            "UPDATE invites SET used_at = :now WHERE invite_id = :id AND used_at IS NULL AND expires_at > :now",
            {"now": now(), "id": found.invite_id},
        )
        if used.rowcount != 1:
            raise NotFound(GONE)
        connection.execute("UPDATE raters SET password_hash = ? WHERE rater_id = ?", (hashed, found.rater_id))
        end_access(connection, found.rater_id)
        audit(connection, found.username, "invitation accepted", {})
    return found.rater_id


def office_action(db: StudyDatabase, payload: object, actor: str) -> dict[str, str]:
    """Do what the dashboard asks for, {action: invite|reset|retire|reinstate|admit, name, role?}.

    Returns {action, name}, after invite and reset with ``link``: ``invite#TOKEN``, relative.

    Raises:
        InvalidInput: an unknown action, or name or role are not usable; else what the function of that name raises.
    """
    fields = payload if isinstance(payload, dict) else {}
    action, name, role = fields.get("action"), fields.get("name"), fields.get("role")
    if not isinstance(name, str) or not name.strip() or not (role is None or isinstance(role, str)):
        raise InvalidInput("give the rater's name as text")
    name = name.strip()
    if action == "invite":
        return {"action": action, "name": name, "link": link("", invite(db, name, role=role, actor=actor))}
    if action == "reset":
        return {"action": action, "name": name, "link": link("", reset(db, name, actor=actor))}
    steps = {"retire": retire, "reinstate": reinstate, "admit": admit}
    if not isinstance(action, str) or action not in steps:
        raise InvalidInput("the action is unknown; choose invite, reset, retire, reinstate or admit")
    return {"action": action, "name": steps[action](db, name, actor).username}
