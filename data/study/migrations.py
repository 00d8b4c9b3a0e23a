"""Brings study.db to the newest schema: the numbered steps of `data/schema/`, each applied once in its own transaction.

Input: an open sqlite-utils Database. Output: the newest schema. See docs/schema.md for the drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlite_utils import Database

from radpref.data.core.errors import Conflict
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.schema import m001_initial, m002_reader_study, m003_large_imports, m004_captions
from radpref.data.study.schema.script import run_script

MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    partial(run_script, script=m001_initial.INITIAL + m001_initial.SCORE_EVENTS),
    m002_reader_study.apply,
    partial(run_script, script=m003_large_imports.LARGE_IMPORTS),
    partial(run_script, script=m004_captions.CAPTIONS),
)


def migrate(database: Database) -> int:
    """Bring ``database`` to the newest schema; returns its version.

    Raises:
        Conflict: the file was written by a newer radpref.
    """
    connection = database.conn
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise Conflict(f"study.db has schema {version}, this radpref knows {len(MIGRATIONS)}; update radpref")
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        _apply(connection, number, step)
    return len(MIGRATIONS)


def _apply(connection: sqlite3.Connection, number: int, step: Callable[[sqlite3.Connection], None]) -> None:
    """One migration, all or nothing. Foreign keys rest meanwhile (tables are rebuilt) and are checked at its end."""
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) < number:
                step(connection)
                broken = connection.execute("PRAGMA foreign_key_check").fetchone()
                if broken is not None:
                    raise Conflict(f"study.db: a row of '{broken[0]}' names something missing; restore a backup")
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
