"""The writing thread: one commit for all that wait, each told only then, and only about itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from radpref.annotate_app.writer import Writer
from radpref.data.core.errors import Conflict, InvalidInput, RadprefError, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.study import Study
from tests.support.errors import refuses


def insert(study: Study, name: str, then: Exception | None = None) -> Callable[[], str]:
    def work() -> str:
        with study.db.write() as connection:
            connection.execute("INSERT INTO networks VALUES (?, 'rater', ?)", (name, name))
            if then is not None:
                raise then
        return name

    return work


def names(study: Study) -> set[str]:
    other = sqlite3.connect(study.db.path)  # sees what is committed, and nothing else
    found = {row[0] for row in other.execute("SELECT name FROM networks")}
    other.close()
    return found


def run(study: Study, *works: Callable[[], Any]) -> list[Any]:
    """Results or errors of works that wait at the same time."""

    async def all_at_once() -> list[Any]:
        writer = Writer(study.db)
        gate = threading.Event()
        first = asyncio.ensure_future(writer.run(gate.wait))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(writer.run(work)) for work in works]
        await asyncio.sleep(0.05)
        gate.set()
        await first
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.to_thread(writer.close)
        return found

    return asyncio.run(all_at_once())


def test_a_bad_one_takes_nobody_with_it(study: Study) -> None:
    found = run(
        study,
        insert(study, "a"),
        insert(study, "b", InvalidInput("no")),
        insert(study, "a"),
        insert(study, "c"),
        insert(study, "d", AttributeError("unforeseen")),
    )
    assert (found[0], found[3]) == ("a", "c")
    assert [type(found[n]) for n in (1, 2, 4)] == [InvalidInput, Conflict, AttributeError]
    assert names(study) == {"a", "c"}


def test_what_waits_is_one_commit_and_nobody_is_told_before(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    group = type(study.db).group
    commits: list[int] = []

    def counted(self: Any) -> Any:
        commits.append(1)
        return group(self)

    def look() -> str:
        seen.append(names(study))  # the first one's work is done by now, but not committed
        return "looked"

    monkeypatch.setattr(type(study.db), "group", counted)
    assert run(study, insert(study, "a"), insert(study, "b"), look) == ["a", "b", "looked"]
    assert len(commits) == 2, "one for the gate, one for all that waited"
    assert seen == [set()]
    assert names(study) == {"a", "b"}


def test_a_failed_commit_fails_them_all(study: Study) -> None:
    def lose() -> None:
        study.db.connection.execute("ROLLBACK")  # as SQLite does by itself when the disk is full
        raise StorageFull("no space left")

    found = run(study, insert(study, "a"), lose, insert(study, "b"))
    assert [type(error) for error in found] == [StorageFull, StorageFull, StorageFull]
    assert names(study) == set()
    assert run(study, insert(study, "a")) == ["a"], "the next one goes on"


def test_a_write_inside_a_write_is_still_refused(study: Study) -> None:
    def twice() -> None:
        with study.db.write(), study.db.write():
            pass

    assert type(run(study, twice)[0]) is RadprefError
    with refuses(RadprefError, "group()"), study.db.write(), study.db.group():
        pass


def test_writers_of_one_process_take_turns(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SQLite's busy waiting: with no patience at all, no writer is refused."""
    monkeypatch.setattr("radpref.data.study.db.BUSY_TIMEOUT_MS", 20_000)
    errors: list[Exception] = []
    opened = threading.Barrier(8)  # opening a connection reads, and a commit waits for readers

    def many(number: int) -> None:
        study.db.connection.execute("PRAGMA busy_timeout = 0")
        opened.wait()
        try:
            for count in range(10):
                insert(study, f"{number}-{count}")()
        except Exception as error:
            errors.append(error)
        finally:
            study.db.close()

    threads = [threading.Thread(target=many, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(names(study)) == 80
