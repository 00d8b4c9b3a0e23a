"""Files are written beside their final place and renamed, so that a reader never sees half a file."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from radpref.data.core.errors import InvalidInput, RadprefError, StorageFull

if TYPE_CHECKING:
    import numpy.typing as npt

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT}


def system_error(error: OSError) -> RadprefError | None:
    """What the system refused, as one line; None where it names no file (a closed pipe, a fault of the program)."""
    if error.errno in _FULL:
        place = "on the disk" if error.filename is None else f"for {error.filename}"
        return StorageFull(f"no space left {place}; free space and run the same command again")
    if error.filename is None or error.errno is None:
        return None
    return InvalidInput(
        f"{error.filename}: {error.strerror}; fix that, or name another place, and run the command again"
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" and "not allowed to write" on ``path`` into one-line errors.

    Raises:
        StorageFull: the disk or quota is full.
        InvalidInput: the folder cannot be written, or another file that the block uses is refused or gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"no space left while writing {path}; free space and run the same command again"
            raise StorageFull(message) from error
        if not _concerns(error, path) and (found := system_error(error)) is not None:
            raise found from error
        if isinstance(error, PermissionError):
            raise InvalidInput(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
        if error.errno in _NO_PLACE:
            raise InvalidInput(f"cannot write {path}: {error.strerror}; choose another folder") from error
        raise


def _concerns(error: OSError, path: Path) -> bool:
    """Whether it is about ``path``: the file, what lies in it, a folder above it, or a draft beside it."""
    if error.filename is None:
        return True
    named, own = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    drafts = (one for one in named.parents if one.parent == own.parent and one.name.startswith(f".{own.name}."))
    return named == own or own in named.parents or named in own.parents or named.parent == own.parent or any(drafts)


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write ``content`` to ``path`` so that it is there whole or not at all (durable: fsync, then rename).

    content: or a function that writes into the open file, for what should not be held in memory twice.

    Raises:
        StorageFull: the disk is full; an older file at ``path`` is left as it was.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of ``content`` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of the file at ``path``, read in blocks of 1 MiB; ``advance`` gets the bytes of each."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def sha256_tree(folder: Path, without: tuple[str, ...] = ()) -> str:
    """One hash over names and contents of every file below ``folder``, in sorted order, but ``without``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in without):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(sha256_file(path).encode())
    return digest.hexdigest()


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file as `write_atomic` does; never a pickle."""
    import numpy as np  # here: the command line imports this module before it needs arrays

    write_atomic(path, lambda file: np.save(file, array, allow_pickle=False))
