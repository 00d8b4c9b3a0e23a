"""One process at a time works on a run: a second one would sample, store and log the same things beside it.

Input: a folder and the name of the work. Output: a lock that is let go when its holder ends, however it ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from radpref.data.core.errors import Conflict
from radpref.data.core.files import storage_errors

if sys.platform != "win32":
    import fcntl


@contextmanager
def only_one(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold the lock ``.<name>.lock`` of ``folder`` for the length of the block.

    Raises:
        Conflict: another process holds it; ``what`` names the work (two different commands may share a step).
    """
    if sys.platform == "win32":  # no such locks: there nobody is kept out
        yield
        return
    path = folder / f".{name}.lock"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path, what)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(PermissionError):  # another one's file in a folder where only its owner may remove it
                path.unlink(missing_ok=True)  # while it is held: who took up this file meanwhile sees that it is gone
            os.close(handle)


def _locked(path: Path, what: str) -> int | None:
    """A descriptor that holds the lock; None where the file system knows no locks."""
    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            who = f" ({holder})" if holder else ""
            raise Conflict(
                f"another process{who} is at work on {what}; when it has ended, or you have stopped it, run the command"
                " again: it goes on from there"
            ) from None
        except OSError:
            os.close(handle)
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                with suppress(OSError):  # who holds it is a help for others, no more
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"{os.getpid()}".encode(), 0)
                return handle
        os.close(handle)  # the one who held it has just taken the file away


def _opened(path: Path) -> int:
    """The lock file, made if need be with what the umask leaves: the people of a shared study lock each other's files.

    One that this user may only read is locked all the same.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError as error:
        try:
            return os.open(path, os.O_RDONLY)
        except OSError:
            raise error from None
