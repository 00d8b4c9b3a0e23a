"""Workers of an import: load records, write their files, and give back only what the database must know.

Input: positions in a reader's plan. Output: `WrittenRecord` or :class:`Refused` in the same order; no pixels, so that
memory does not grow with the set. Small imports run in threads. Large ones run in processes, because DICOM decoders
hold the interpreter's lock and may crash as a whole (docs/adr/0009).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import Conflict, InvalidInput, NotFound, RadprefError, StorageFull
from radpref.data.datasets.registry import ImportPlan, Reader, Record, Records, WrittenRecord
from radpref.data.imaging.images import ImageStore

N_THREADS = 4
"""Files are synced to disk while other records are rendered or read."""
PROCESSES_FROM = 2000
"""Records from which processes are worth the seconds that they take to start."""


@dataclass(frozen=True)
class Refused:
    """A record for the quarantine, with the reason on one line."""

    record_id: str
    reason: str


Outcome = WrittenRecord | Refused


@dataclass(frozen=True)
class Source:
    """How a worker makes the plan again: the reader, its configuration and path; study folder."""

    reader: Reader
    config: DataConfig
    path: Path | None
    root: Path

    def plan(self) -> ImportPlan:
        """The plan of the reader."""
        return self.reader(self.config, self.path)


def load_and_write(root: Path, records: Records, position: int) -> Outcome:
    """Load the record at ``position`` and write its files into the study at ``root``, ahead of the transaction.

    Whatever is wrong with one record is a :class:`Refused`: also what a decoder raises that nobody foresaw.

    Raises:
        StorageFull, InvalidInput: the study's folder is full or cannot be written; that is not the record's fault.
    """
    try:
        record = records.load(position)
    except (InvalidInput, NotFound, Conflict) as error:
        return Refused(records.record_id(position), str(error))
    except StorageFull:
        raise
    except Exception as error:  # one file of 200,000 must not end the import
        reason = " ".join(str(error).split())[:200]
        return Refused(records.record_id(position), f"{type(error).__name__}: {reason or 'no reason given'}")
    store = ImageStore(root)
    image = store.write_image(record.image, "real")
    masks = {name: store.write_mask(mask) for name, mask in record.masks.items()}
    return replace(cast(Record[Any, Any], record), image=image, masks=masks)


Load = Callable[[Sequence[int]], Iterator[Outcome]]


@contextmanager
def open_workers(source: Source, plan: ImportPlan, n_pending: int, workers: int | None) -> Iterator[Load]:
    """Workers for an import of ``n_pending`` records; yields ``load(positions)``, which gives outcomes in order.

    ``workers``: how many threads or processes; None: one process per core for large imports, else 4 threads.
    """
    n = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if n > 1 and n_pending >= PROCESSES_FROM:
        with closing(_Processes(source, plan, n)) as pool:
            yield pool.load
        return
    threads = ThreadPoolExecutor(workers or N_THREADS)
    try:
        yield lambda positions: threads.map(partial(load_and_write, source.root, plan.records), positions)
    finally:
        threads.shutdown(cancel_futures=True)


class _Processes:
    """A pool of processes that outlives one of them: a record that kills its process is refused, the rest go on."""

    def __init__(self, source: Source, plan: ImportPlan, n: int) -> None:
        self._source, self._plan, self._n = source, plan, n
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Spawned, not forked: a fork beside threads may inherit a lock that nobody will release.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._n, mp_context=context, initializer=_begin, initargs=(self._source,))
        try:
            pool.submit(_is_ready).result()
        except BrokenProcessPool as error:
            message = "worker processes cannot be started here; run the same command with --workers 1"
            raise RadprefError(message) from error
        return pool

    def load(self, positions: Sequence[int]) -> Iterator[Outcome]:
        """Outcomes of the records at ``positions``, in order."""
        waiting = [(i, self._submit(i)) for i in positions]
        for k, (i, future) in enumerate(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                self._restart()
                yield from self._one_by_one([i for i, _ in waiting[k:]])
                return

    def _one_by_one(self, positions: Sequence[int]) -> Iterator[Outcome]:
        """After a crash: which record it was shows only when each is alone."""
        for i in positions:
            try:
                yield self._submit(i).result()
            except BrokenProcessPool:
                self._restart()
                yield Refused(self._plan.records.record_id(i), "the decoder crashed on this file; replace or remove it")

    def _submit(self, position: int) -> Future[Outcome]:
        return self._pool.submit(_load_in_process, position, self._plan.records.record_id(position))

    def _restart(self) -> None:
        self.close()
        self._pool = self._start()

    def close(self) -> None:
        """End the processes after what they have in hand."""
        self._pool.shutdown(cancel_futures=True)


_mine: tuple[Path, ImportPlan] | RadprefError | None = None
"""In a worker process: the study's folder and the plan, made once, or why it could not be made."""


def _begin(source: Source) -> None:
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    os.environ["RADPREF_QUIET"] = "1"  # the parent has shown the bars of planning
    try:
        _mine = (source.root, source.plan())
    except RadprefError as error:
        _mine = error


def _plan() -> tuple[Path, ImportPlan]:
    if isinstance(_mine, tuple):
        return _mine
    raise _mine or RadprefError("a worker process was not begun")


def _is_ready() -> None:
    _plan()


def _load_in_process(position: int, record_id: str) -> Outcome:
    root, plan = _plan()
    if position >= len(plan.records) or plan.records.record_id(position) != record_id:
        raise Conflict(f"the source changed while it was imported (at {record_id}); run the same command again")
    return load_and_write(root, plan.records, position)
