"""Runs the SQL of a schema step inside the transaction that is open."""

from __future__ import annotations

from radpref.data.core.sqlite import sqlite3


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute the statements of ``script`` inside the transaction that is open (executescript would commit it)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
