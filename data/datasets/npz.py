"""Arrays in an .npz archive, row by row: an archive of several GiB is never held in memory.

Input: a zip of .npy members, as `numpy.savez` (stored) or `numpy.savez_compressed` (deflated) write it. Output: rows.
A stored member is mapped into memory; a deflated one is a stream that is read forward.
"""

from __future__ import annotations

import struct
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput, NotFound

AHEAD = 256
"""Rows of a stream that are kept when a later row was asked for first (threads come out of order), at most."""
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error)


class Npz:
    """An open archive."""

    def __init__(self, path: Path) -> None:
        """Open the archive at ``path``.

        Raises:
            NotFound: no such file.
            InvalidInput: a folder, or no archive (a download that was cut off has no table of contents).
        """
        if path.is_dir():
            near = sorted(file.name for file in path.glob("*.npz"))
            hint = f"give one of its files: {', '.join(near[:5])}" if near else "give the .npz file"
            raise InvalidInput(f"{path} is a folder; {hint}")
        if not path.is_file():
            raise NotFound(f"no archive at {path}; give the .npz file")
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except BROKEN as error:
            raise InvalidInput(f"{path} is not a readable .npz archive ({error}); download it again") from error
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist()]

    def array(self, name: str) -> npt.NDArray[Any]:
        """A whole (small) array.

        Raises:
            InvalidInput: there is none of that name, it is damaged, or holds Python objects.
        """
        try:
            with self._zip.open(self._member(name)) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except BROKEN as error:
            raise self._damaged(name, error) from error

    def rows(self, name: str) -> Rows:
        """The array ``name`` (N, ...), to be read row by row, also by several threads.

        Raises:
            InvalidInput: there is none of that name, it is damaged, holds Python objects or is in Fortran order.
        """
        info = self._member(name)
        try:
            with self._zip.open(info) as file:
                shape, dtype = _read_header(file)
                start = file.tell()
            if info.compress_type == zipfile.ZIP_STORED:
                offset = _data_offset(self.path, info) + start
                return np.memmap(self.path, dtype, "r", offset, shape)
        except BROKEN as error:
            raise self._damaged(name, error) from error
        return DeflatedRows(self._zip, info, shape, dtype, f"{self.path}: array '{name}'")

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self.names:
            raise InvalidInput(f"{self.path} has no array '{name}'; it has: {', '.join(self.names)}")
        return self._zip.infolist()[self.names.index(name)]

    def _damaged(self, name: str, error: Exception) -> InvalidInput:
        reason = " ".join(str(error).split()) or type(error).__name__
        return InvalidInput(f"{self.path}: array '{name}' cannot be read ({reason}); download it again")


class DeflatedRows:
    """A deflated member, read forward under a lock; rows that were passed over wait for the thread that wants them."""

    def __init__(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
    ) -> None:
        self._archive, self._info, self.shape, self._dtype, self._name = archive, info, shape, dtype, name
        self._n_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._next = 0
        self._passed: dict[int, bytes] = {}
        self._broken: tuple[int, str] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> npt.NDArray[Any]:
        """Row ``i``. Forward is cheap; a step back starts the member again.

        Raises:
            InvalidInput: the member is damaged at or before this row.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        with self._lock:
            content = self._passed.pop(i, None)
            if content is None:
                content = self._read(i)
        return np.frombuffer(content, self._dtype).reshape(self.shape[1:]).copy()

    def _read(self, i: int) -> bytes:
        if self._broken is not None and i >= self._broken[0]:
            raise InvalidInput(f"{self._name} is damaged from row {self._broken[0]} on ({self._broken[1]})")
        try:
            if self._file is None or i < self._next:
                self._passed.clear()
                self._file, self._next = self._archive.open(self._info), 0
                _read_header(self._file)
            while True:
                content = self._file.read(self._n_bytes)
                if len(content) < self._n_bytes:
                    raise EOFError("cut off")
                self._next += 1
                if self._next > i:
                    return content
                self._passed[self._next - 1] = content
                self._passed.pop(self._next - 1 - AHEAD, None)
        except BROKEN as error:
            self._file, self._broken = None, (self._next, " ".join(str(error).split()))
            raise InvalidInput(f"{self._name} is damaged from row {self._next} on ({self._broken[1]})") from error


Rows = npt.NDArray[Any] | DeflatedRows
"""An array (N, ...) of which only rows are read: ``rows[i]``."""


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, dtype) of an .npy stream, which is then at the first row."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order")
    return tuple(int(n) for n in shape), dtype


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header (the table of contents may give another extra field)."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return int(info.header_offset + 30 + name_length + extra_length)
