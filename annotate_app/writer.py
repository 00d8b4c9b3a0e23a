"""The one thread that stores what raters send: events that wait together are committed together.

Input: functions that write through ``db.write()``. Output: their results, each handed back only after the COMMIT that
made it durable. A commit flushes the disk three times however many events it holds, so a burst costs little more than
a single event, and events never wait for each other's locks.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from radpref.data.study.db import StudyDatabase

MAX_BATCH = 64
"""Events in one commit at most: it bounds how long the first of them waits."""


@dataclass(slots=True)
class _Task:
    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None


class Writer:
    """A queue and its thread. Started with the first task; :meth:`close` ends it."""

    def __init__(self, db: StudyDatabase) -> None:
        self._db = db
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` on the writing thread; returns what it returned once that is durable.

        Raises:
            Exception: whatever ``work`` raised (nothing of it is stored), or what made the commit fail (nothing of the
                whole batch is stored).
        """
        task = _Task(work)
        task.future.set_running_or_notify_cancel()  # it is stored even if the rater's connection goes away
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
            self._thread.start()
        self._tasks.put(task)
        return await asyncio.wrap_future(task.future)

    def close(self) -> None:
        """Store what waits, then end the thread."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        try:
            ends = False
            while not ends:
                found = [self._tasks.get()]
                while len(found) < MAX_BATCH and not self._tasks.empty():  # nobody is made to wait for company
                    found.append(self._tasks.get())
                ends = None in found
                batch = [task for task in found if task is not None]
                if batch:
                    self._commit(batch)
                for task in batch:
                    if task.error is None:
                        task.future.set_result(task.result)
                    else:
                        task.future.set_exception(task.error)
        finally:
            self._db.close()

    def _commit(self, batch: list[_Task]) -> None:
        try:
            with self._db.group() as connection:
                for task in batch:
                    try:
                        task.result = task.work()
                    except Exception as error:
                        task.error = error  # db.write() took back what this one had written
                        if not connection.in_transaction:
                            raise  # SQLite gave up the whole transaction: nothing of the batch is stored
        except Exception as error:  # of any kind: it is reported to the raters and the thread goes on
            for task in batch:
                task.error = task.error or error
