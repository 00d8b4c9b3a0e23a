"""Samples of an arm that a run keeps on disk: so many of each condition, written and read back chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.core.files import save_array
from radpref.data.core.progress import bar
from radpref.data.study.conditions import StoredCondition
from radpref.generation.sampling import sets

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KeptSamples:
    """``n_each`` images of each condition, in the conditions' order, in files ``<first condition>.npy``.

    Chunks are fixed by the plan, not by what is missing, so that an interrupted sampling goes on with equal images.
    """

    folder: Path
    conditions: Sequence[StoredCondition]
    n_each: int
    batch_size: int

    @property
    def per_chunk(self) -> int:
        """Conditions of one file."""
        return max(1, self.batch_size // self.n_each)

    def __len__(self) -> int:
        return len(self.conditions) * self.n_each

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:06d}.npy"

    def complete(self) -> bool:
        """Whether every file is there."""
        return all(self._path(start).is_file() for start in range(0, len(self.conditions), self.per_chunk))

    def sample(self, study: Study, arm: str, purpose: str, seed: int, device: str = "cpu") -> None:
        """Sample what is missing; `purpose` and `seed` fix the noise, which is the same for every arm.

        Raises:
            NotFound: no such arm.
            StorageFull: the disk is full; the same call resumes.
        """
        from radpref.generation.stack.adapters import load_arm

        stack = None  # loaded for the first missing chunk only
        with bar(f"sampling {arm}", len(self.conditions)) as advance:
            for start in range(0, len(self.conditions), self.per_chunk):
                chunk = self.conditions[start : start + self.per_chunk]
                if not self._path(start).exists():
                    stack = stack or load_arm(study, arm, device)
                    jobs = [(i, k) for i in range(len(chunk)) for k in range(self.n_each)]
                    seeds = [sets.image_seed(purpose, seed, start + i, k) for i, k in jobs]
                    save_array(self._path(start), sets.sample_stored(study, stack, [chunk[i] for i, _ in jobs], seeds))
                advance(len(chunk))

    def read(self, row: int) -> Images:
        """One image, (H, W) uint8, as it was drawn; row // n_each is its condition."""
        file, inside = divmod(row, self.per_chunk * self.n_each)
        chunk = np.load(self._path(file * self.per_chunk), mmap_mode="r", allow_pickle=False)
        return np.array(chunk[inside], dtype=np.uint8)

    def read_all(self) -> Images:
        """Everything at once, (conditions, n_each, H, W) uint8."""
        files = (self._path(start) for start in range(0, len(self.conditions), self.per_chunk))
        images = np.concatenate([np.load(path, allow_pickle=False) for path in files])
        return images.reshape(len(self.conditions), self.n_each, *images.shape[-2:])
