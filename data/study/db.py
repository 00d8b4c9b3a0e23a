"""study.db: one connection per thread, one way to write.

Every write goes through ``with db.write() as connection``, which opens ``BEGIN IMMEDIATE``: a deferred
transaction that reads and then writes fails with "database is locked" under concurrent writers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from radpref.data.core.errors import Conflict, NotFound, RadprefError, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.migrations import migrate

BUSY_TIMEOUT_MS = 15_000
WAL_SAFE_FROM = (3, 51, 3)
"""SQLite before this has the WAL-reset bug; there the rollback journal with synchronous=EXTRA is used."""


class StudyDatabase:
    """The study's database, usable from any thread."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open (and migrate) the file at ``path``.

        Raises:
            NotFound: the file is missing and ``create`` is false.
            InvalidInput: its folder cannot be written; SQLite keeps its journal there.
            RadprefError: the file is empty or not an SQLite database.
        """
        if not create and not path.is_file():
            raise NotFound(f"no database at {path}; make a study with `radpref study new`")
        if not create and not path.stat().st_size:
            raise RadprefError(f"{path} is empty: its content was lost; restore a backup with `radpref study restore`")
        self.path = path
        self._local = threading.local()
        self._writing = threading.Lock()
        try:
            migrate(self.tables)
        except sqlite3.DatabaseError as error:
            raise translate(error, path) from error

    @property
    def tables(self) -> Database:
        """This thread's sqlite-utils Database, for reads and exports."""
        database: Database | None = getattr(self._local, "database", None)
        if database is None:
            database = Database(_connect(self.path))
            self._local.database = database
        return database

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection (autocommit)."""
        return self.tables.conn

    def rows(self, sql: str, parameters: Any = ()) -> list[dict[str, Any]]:
        """All rows of a query as dictionaries."""
        return list(self.tables.query(sql, parameters))

    def row(self, sql: str, parameters: Any = ()) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        return next(iter(self.tables.query(sql, parameters)), None)

    def value(self, sql: str, parameters: Any = ()) -> Any:
        """The first column of the first row, or None."""
        found = self.connection.execute(sql, parameters).fetchone()
        return None if found is None else found[0]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One durable write transaction (BEGIN IMMEDIATE ... COMMIT); rolled back on any error.

        Inside :meth:`group` of the same thread it is a savepoint, durable when the group is left.

        Raises:
            StorageFull: the disk is full; nothing of this transaction is stored.
            Conflict: the database stayed locked, or a constraint or trigger refused the write.
        """
        connection = self.connection
        if getattr(self._local, "grouped", False):
            self._local.grouped = False  # a write inside this one is refused, as everywhere
            try:
                with self._step(connection, "SAVEPOINT one", "RELEASE one", "ROLLBACK TO one", "RELEASE one"):
                    yield connection
            finally:
                self._local.grouped = True
            return
        if connection.in_transaction:
            raise RadprefError("write() was entered twice in one thread; use the connection of the outer one")
        with self._turn(), self._step(connection, "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"):
            yield connection

    @contextmanager
    def group(self) -> Iterator[sqlite3.Connection]:
        """Several independent writes in one durable transaction: a :meth:`write` in here that fails takes back its own.

        Raises:
            StorageFull, Conflict: as :meth:`write`, for all of them: none is stored.
        """
        connection = self.connection
        if connection.in_transaction:
            raise RadprefError("group() was entered inside a write; enter it first")
        with self._turn(), self._step(connection, "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"):
            self._local.grouped = True
            try:
                yield connection
            finally:
                self._local.grouped = False

    @contextmanager
    def _step(self, connection: sqlite3.Connection, begin: str, end: str, *undo: str) -> Iterator[None]:
        try:
            connection.execute(begin)
            try:
                yield
                connection.execute(end)
            except BaseException:
                for statement in undo if connection.in_transaction else ():
                    connection.execute(statement)
                raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Writers of this process wait here for their turn; SQLite's own waiting sleeps up to 100 ms at a time."""
        taken = self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            yield  # not taken: SQLite waits once more, and says "locked" if the other one is still at it
        finally:
            if taken:
                self._writing.release()

    def close(self) -> None:
        """Close this thread's connection."""
        database: Database | None = getattr(self._local, "database", None)
        if database is not None:
            database.conn.close()
            self._local.database = None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")  # or REPLACE would delete past the append-only triggers
    if sqlite3.sqlite_version_info >= WAL_SAFE_FROM:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def translate(error: sqlite3.Error, path: Path) -> RadprefError:
    """What SQLite refused at ``path``, as one line for the user."""
    text = str(error)
    if "disk is full" in text or "disk I/O error" in text:
        return StorageFull(f"no space left for {path}; free space and run the same command again")
    if isinstance(error, sqlite3.IntegrityError):  # first: a trigger may speak of a locked study
        return Conflict(f"refused by the study record: {text}")
    if "locked" in text:
        return Conflict(f"{path} stayed locked for {BUSY_TIMEOUT_MS // 1000} s; stop the other writer and try again")
    if "readonly" in text or "unable to open" in text:
        return RadprefError(f"{path} cannot be written ({text}); open its folder for writing, or work on a copy of it")
    return RadprefError(f"{path} cannot be used: {text}; restore a backup with `radpref study restore`")
