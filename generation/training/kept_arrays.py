"""Arrays on disk that know what they were made from; memory-mapped, and made in batches that can be interrupted.

A folder keeps ``<array>.npy`` and ``<name>.json``, the description of images, weights and settings behind them. Another
description makes them anew, so that what belongs to another image set or autoencoder is never read by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from radpref.data.core.files import storage_errors, write_atomic
from radpref.data.core.progress import bar

NOTE_EVERY = 16
"""Batches between notes of how far the making is."""
Fill = Callable[[dict[str, np.ndarray], np.ndarray], None]


@dataclass(frozen=True)
class KeptArrays:
    """Arrays of `n_rows` rows in `folder`.

    name: of the description's file; content: the description; shapes: per array the type and the shape of one row.
    """

    folder: Path
    name: str
    content: dict[str, Any]
    n_rows: int
    shapes: dict[str, tuple[Any, tuple[int, ...]]]

    def load(self, array: str) -> np.ndarray:
        """One array, memory-mapped, read only."""
        found: np.ndarray = np.load(self.folder / f"{array}.npy", mmap_mode="r")
        return found

    def is_complete(self) -> bool:
        """Whether the arrays are there and come from this description."""
        there = all((self.folder / f"{array}.npy").exists() for array in self.shapes)
        return there and _read(self._key) == self.content

    def make(self, title: str, fill: Fill, batch_size: int, skip: Callable[[np.ndarray], None] | None = None) -> None:
        """Call `fill(arrays, rows)` batch by batch, unless the arrays are complete; goes on where it was interrupted.

        `skip(rows)` is called instead for batches that are done (to pass over their random draws). Rows that `fill`
        leaves alone are zero and take no space on most file systems.
        """
        if self.is_complete():
            return
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._key.unlink(missing_ok=True)
            arrays, done = self._open()
            with bar(title, self.n_rows) as advance:
                for number, start in enumerate(range(0, self.n_rows, batch_size)):
                    rows = np.arange(start, min(start + batch_size, self.n_rows))
                    if rows[-1] < done:
                        if skip is not None:
                            skip(rows)
                    else:
                        fill(arrays, rows)
                        if number % NOTE_EVERY == NOTE_EVERY - 1:
                            self._note(arrays, int(rows[-1]) + 1)
                    advance(len(rows))
            self._note(arrays, self.n_rows)
            arrays.clear()
            for array in self.shapes:
                self._part(array).replace(self.folder / f"{array}.npy")
            write_atomic(self._key, json.dumps(self.content, indent=2))
            self._progress.unlink()

    @property
    def _key(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _progress(self) -> Path:
        return self.folder / f"{self.name}.part.json"

    def _part(self, array: str) -> Path:
        return self.folder / f"{array}.part.npy"

    def _open(self) -> tuple[dict[str, np.ndarray], int]:
        """The unfinished arrays and the number of rows that are done."""
        noted = _read(self._progress)
        if noted is not None and noted["content"] == self.content and all(self._part(a).exists() for a in self.shapes):
            return {a: np.load(self._part(a), mmap_mode="r+") for a in self.shapes}, int(noted["done"])
        self._progress.unlink(missing_ok=True)
        return {
            array: open_memmap(self._part(array), mode="w+", dtype=kind, shape=(self.n_rows, *shape))
            for array, (kind, shape) in self.shapes.items()
        }, 0

    def _note(self, arrays: dict[str, np.ndarray], done: int) -> None:
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        write_atomic(self._progress, json.dumps({"content": self.content, "done": done}))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
