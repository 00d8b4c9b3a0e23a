"""The one SQLite of this process: pysqlite3, which brings its own, newer one, else Python's.

Everything that touches study.db imports ``sqlite3`` from here. Two copies of SQLite must never have the same file open
in one process: when one of them closes it, the locks of the other are gone (SQLite, "How To Corrupt", 2.2.1).
sqlite-utils makes the same choice by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3

__all__ = ["sqlite3"]
