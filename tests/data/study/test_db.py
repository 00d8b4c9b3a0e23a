import threading

import pytest

from radpref.data.core.errors import Conflict, NotFound, RadprefError, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.audit import audit
from radpref.data.study.db import StudyDatabase
from radpref.data.study.migrations import MIGRATIONS
from tests.support.errors import refuses


@pytest.fixture
def db(tmp_path):
    opened = StudyDatabase(tmp_path / "study.db", create=True)
    yield opened
    opened.close()


def add_audit(connection, action):
    audit(connection, "a", action, {})


def test_eight_threads_read_then_write_lose_nothing(db):
    failures = []

    def work():
        try:
            for _ in range(15):
                with db.write() as connection:
                    n = connection.execute("SELECT count(*) FROM audit_events").fetchone()[0]
                    add_audit(connection, str(n))
        except Exception as error:
            failures.append(error)
        finally:
            db.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [row["action"] for row in db.rows("SELECT action FROM audit_events ORDER BY audit_id")] == [
        str(i) for i in range(120)
    ]


def test_error_rolls_back(db):
    with pytest.raises(ValueError, match="stop"), db.write() as connection:  # noqa: PT012
        add_audit(connection, "x")
        raise ValueError("stop")
    assert db.value("SELECT count(*) FROM audit_events") == 0


def test_nested_write_is_refused_and_rolls_back(db):
    with refuses(RadprefError, "write()"), db.write() as connection:
        add_audit(connection, "x")
        with db.write():
            pass
    assert db.value("SELECT count(*) FROM audit_events") == 0
    with db.write() as connection:
        add_audit(connection, "y")
    assert db.value("SELECT count(*) FROM audit_events") == 1


def test_append_only_tables_and_constraints(db):
    with db.write() as connection:
        add_audit(connection, "x")
    for sql in ("UPDATE audit_events SET action = 'y'", "DELETE FROM audit_events"):
        with refuses(Conflict, "append-only"), db.write() as connection:
            connection.execute(sql)
    with refuses(Conflict, "FOREIGN KEY"), db.write() as connection:
        connection.execute("INSERT INTO labels VALUES ('nobody', 'x', 1)")


def test_missing_foreign_damaged_and_newer_files(tmp_path):
    with refuses(NotFound, "study new", "none.db"):
        StudyDatabase(tmp_path / "none.db")
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    with refuses(RadprefError, "bad.db", "study restore"):
        StudyDatabase(tmp_path / "bad.db")
    newer = sqlite3.connect(tmp_path / "new.db")
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    with refuses(Conflict, "study.db", len(MIGRATIONS) + 1, len(MIGRATIONS)):
        StudyDatabase(tmp_path / "new.db")


def test_full_disk_is_storage_full_and_keeps_what_was_committed(db):
    with db.write() as connection:
        add_audit(connection, "kept")
    pages = db.value("PRAGMA page_count")
    db.connection.execute(f"PRAGMA max_page_count = {pages}")
    with refuses(StorageFull, db.path), db.write() as connection:
        for _ in range(200):
            add_audit(connection, "x" * 1000)
    assert [row["action"] for row in db.rows("SELECT action FROM audit_events")] == ["kept"]
    assert db.value("PRAGMA integrity_check") == "ok"


def test_locked_is_conflict(db, monkeypatch):
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    db.connection.execute("PRAGMA busy_timeout = 10")
    with refuses(Conflict, db.path), db.write():
        pass
    other.execute("ROLLBACK")
    other.close()


def test_migrating_twice_changes_nothing(db):
    before = db.rows("SELECT name, sql FROM sqlite_master")
    again = StudyDatabase(db.path)
    assert again.rows("SELECT name, sql FROM sqlite_master") == before
    again.close()
