"""Accounts: argon2id password hashes, server-side sessions stored hashed, and the back-off against guessing."""

from __future__ import annotations

import functools
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from radpref.data.core.errors import InvalidInput
from radpref.data.reader_study.raters import Role, add_rater, password_hash_of, set_password_hash
from radpref.data.study.audit import audit
from radpref.data.study.db import StudyDatabase

MIN_PASSWORD, MAX_PASSWORD = 8, 256
SEEN_EVERY = timedelta(minutes=1)
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_hasher = PasswordHasher()  # argon2id, 64 MiB, 3 passes, 4 lanes


@dataclass(frozen=True)
class Identity:
    """Who is behind a request."""

    rater_id: int
    username: str
    role: Literal["rater", "admin"]


def hash_password(password: str) -> str:
    """argon2id hash of a password, ready for :func:`radpref.data.reader_study.raters.add_rater`.

    Raises:
        InvalidInput: shorter than 8 or longer than 256 characters.
    """
    _check_length(password)
    return _hasher.hash(password)


def _check_length(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(
            f"the password has {len(password)} characters; take {MIN_PASSWORD} to {MAX_PASSWORD} (a few words are good)"
        )


def check_new_password(username: str, password: str) -> None:
    """Refuse a password that a person chose badly.

    Raises:
        InvalidInput: length, the person's own name, or fewer than five different characters.
    """
    _check_length(password)
    if len(username) > 2 and username.casefold() in password.casefold():
        raise InvalidInput("the password holds your name; take a few other words")
    if len(set(password)) < 5:
        raise InvalidInput("the password has fewer than five different characters; take a few words")
    try:
        password.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the password holds half a character (a lone surrogate); type it again") from error


def generate_password() -> str:
    """A password of four groups of four unambiguous characters (80 bits)."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))


def add_account(db: StudyDatabase, name: str, role: str, password: str | None = None) -> str:
    """Add a person; returns the password (made here unless given). Raises what :func:`add_rater` raises."""
    if role not in get_args(Role):
        raise InvalidInput(f"role '{role}' is unknown; choose rater or admin")
    chosen = password if password is not None else generate_password()
    add_rater(db, name, hash_password(chosen), "human", "admin" if role == "admin" else "rater")
    return chosen


def reset_account(db: StudyDatabase, name: str, password: str | None = None) -> str:
    """Give a person a new password (made here unless given), returned; raises what :func:`set_password_hash` raises."""
    chosen = password if password is not None else generate_password()
    set_password_hash(db, name, hash_password(chosen))
    return chosen


@functools.cache
def _dummy_hash() -> str:
    """A hash of nothing anybody can type: an unknown name costs as much time as a wrong password."""
    return _hasher.hash(secrets.token_hex(32))


def check_password(db: StudyDatabase, username: str, password: str) -> int | None:
    """rater_id if name and password belong together, else None. argon2 is slow: keep it off the event loop."""
    found = password_hash_of(db, username)
    try:
        _hasher.verify(found[1] if found else _dummy_hash(), password[:MAX_PASSWORD])
    except (Argon2Error, InvalidHashError, UnicodeEncodeError):
        return None
    return found[0] if found else None


def token_hash(token: str) -> str:
    """What the database keeps of a session token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class Sessions:
    """Server-side logins. The cookie holds a random token, the database its hash.

    Every request asks the database, so a login that another process ends (a reset, a retired rater) has ended.
    """

    def __init__(self, db: StudyDatabase, *, life_hours: float, idle_minutes: float) -> None:
        self.db, self.life, self.idle = db, timedelta(hours=life_hours), timedelta(minutes=idle_minutes)

    def open(self, rater_id: int, *, old_token: str | None = None) -> str:
        """Start a login under a new id (an older one of the same browser ends); returns the token for the cookie."""
        token, at = secrets.token_urlsafe(32), datetime.now(UTC)
        with self.db.write() as connection:
            if old_token:
                connection.execute("DELETE FROM sessions WHERE token_hash = ?", (token_hash(old_token),))
            connection.execute("DELETE FROM sessions WHERE expires_at < ?", (_text(at),))
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
                (token_hash(token), rater_id, _text(at), _text(at), _text(at + self.life)),
            )
            name = connection.execute("SELECT username FROM raters WHERE rater_id = ?", (rater_id,)).fetchone()[0]
            audit(connection, str(name), "login", {})
        return token

    def find(self, token: str | None) -> Identity | None:
        """Who is logged in with this token; None if nobody, expired or idle too long. Reads, so off the event loop."""
        if not token or len(token) > 200:
            return None
        key, at = token_hash(token), datetime.now(UTC)
        row = self.db.row(
            "SELECT s.last_seen_at, r.rater_id, r.username, r.role FROM sessions s JOIN raters r USING (rater_id)"
            " WHERE s.token_hash = ? AND r.active = 1 AND s.expires_at > ? AND s.last_seen_at >= ?",
            (key, _text(at), _text(at - self.idle)),
        )
        if row is None:
            return None
        unseen = at - datetime.fromisoformat(row["last_seen_at"])
        if unseen > min(SEEN_EVERY, self.idle / 4):
            with self.db.write() as connection:
                connection.execute("UPDATE sessions SET last_seen_at = ? WHERE token_hash = ?", (_text(at), key))
        return Identity(int(row["rater_id"]), str(row["username"]), row["role"])

    def close(self, token: str | None) -> None:
        """End a login."""
        if token:
            with self.db.write() as connection:
                connection.execute("DELETE FROM sessions WHERE token_hash = ?", (token_hash(token),))


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


class Backoff:
    """Waiting times after wrong passwords, per account and per address: doubled with every failure after a few.

    An attempt counts as a failure from its start until it proves right, so that parallel guesses gain nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}

    def begin(self, username: str, address: str) -> float:
        """Seconds to wait before the next try is looked at; 0.0 means go (and is counted until :meth:`success`)."""
        keys = self._keys(username, address)
        with self._lock:
            clock = self._clock()
            wait = max(self._wait(key, free, longest, clock) for key, free, longest in keys)
            if wait <= 0:
                if len(self._failures) > 10_000:
                    self._failures = {k: v for k, v in self._failures.items() if clock - v[1] < 900}
                for key, _, _ in keys:
                    self._failures[key] = (self._failures.get(key, (0, 0.0))[0] + 1, clock)
            return max(wait, 0.0)

    def success(self, username: str, address: str) -> None:
        """The password was right: forget the account's failures, and take this try off the address."""
        (account, _, _), (place, _, _) = self._keys(username, address)
        with self._lock:
            self._failures.pop(account, None)
            count, at = self._failures.get(place, (1, 0.0))
            self._failures[place] = (count - 1, at)

    def _wait(self, key: str, free: int, longest: float, clock: float) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        if clock - last > 900:
            self._failures.pop(key, None)
            return 0.0
        return last + min(2.0 ** min(count - free, 20), longest) - clock if count >= free else 0.0

    @staticmethod
    def _keys(username: str, address: str) -> tuple[tuple[str, int, float], tuple[str, int, float]]:
        return (f"account:{username.casefold()[:64]}", 5, 60.0), (f"address:{address}", 20, 900.0)
