"""Data-set readers: where records come from. The registry is :data:`READERS`.

Input: the study's data configuration and an optional path. Output: an :class:`ImportPlan`: what the reader found
beside what the published set holds, and a :class:`PlannedRecord` per record, made on demand, whose ``load()`` reads or
renders it; so an import can skip what it already has and hold a set of any size as rows of text only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast, overload

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import NotFound
from radpref.data.imaging.images import GrayImage, Mask


@dataclass(frozen=True)
class Record:
    """One radiograph as it enters the study record.

    image: (S, S) uint8 or uint16; masks: structure -> (S, S) bool, none empty; labels: 1.0, 0.0 or None (unknown).
    """

    record_id: str
    dataset: str
    patient_id: str
    split: str
    image: GrayImage
    masks: dict[str, Mask]
    labels: dict[str, float | None]
    caption: str | None = None
    report: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRecord:
    """A record that can be loaded; ``load`` raises `RadprefError` for a record that must be quarantined.

    ``load`` runs in another thread, or in another process that made the same plan.
    """

    record_id: str
    load: Callable[[], Record]


@dataclass(frozen=True)
class Found:
    """One line of the layout check: how many of ``what`` are there, beside what the published set holds (or None)."""

    what: str
    found: int
    expected: int | None = None
    note: str = ""


class Planned(Sequence[PlannedRecord]):
    """``n`` planned records that exist only while one is looked at: ``make(i)`` builds the i-th from its row."""

    def __init__(self, n: int, make: Callable[[int], PlannedRecord]) -> None:
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> PlannedRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlannedRecord]: ...

    def __getitem__(self, index: int | slice) -> PlannedRecord | list[PlannedRecord]:
        """The record at ``index``, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._n))]
        if not -self._n <= index < self._n:
            raise IndexError(index)
        return self._make(index % self._n)

    def __iter__(self) -> Iterator[PlannedRecord]:
        return map(self._make, range(self._n))


@dataclass(frozen=True)
class ImportPlan:
    """What a reader would import.

    planned: sized and iterable again, best a :class:`Planned`; found: the layout check; inputs: the small files (CSV
    tables and the like) whose hashes go into the run. The same configuration and files give the same plan in the same
    order: large imports make it again in every worker process.
    """

    planned: Sequence[PlannedRecord]
    found: tuple[Found, ...] = ()
    inputs: tuple[Path, ...] = ()


class Reader(Protocol):
    """A reader: (configuration, path or None) -> plan. A path it needs and lacks raises `InvalidInput`."""

    def __call__(self, config: DataConfig, path: Path | None) -> ImportPlan:
        """Check the layout at ``path`` and plan; reads tables, but no image."""
        ...


READERS: dict[str, str] = {
    "phantom": "radpref.data.datasets.digital_phantom:read_phantom",
    "table": "radpref.data.datasets.table:read_table",
    "chexpert": "radpref.data.datasets.chexpert:read_chexpert",
    "candid": "radpref.data.datasets.candid:read_candid",
    "siim": "radpref.data.datasets.siim:read_siim",
    "rsna": "radpref.data.datasets.rsna:read_rsna",
    "mimic": "radpref.data.datasets.mimic:read_mimic",
    "medmnist": "radpref.data.datasets.medmnist:read_medmnist",
}
"""Name -> ``module:function``, imported when it is asked for. `radpref.data.config.data.ReaderName` lists the
same names."""


def find_reader(name: str) -> str:
    """Where the reader called ``name`` stands, ``module:function``.

    Raises:
        NotFound: there is none; the choices are listed.
    """
    if name not in READERS:
        raise NotFound(f"no reader called {name!r}; choose one of {', '.join(READERS)}")
    return READERS[name]


def get_reader(name: str) -> Reader:
    """The reader called ``name``.

    Raises:
        NotFound: there is none; the choices are listed.
    """
    return load_reader(find_reader(name))


def load_reader(address: str) -> Reader:
    """The reader at ``module:function``."""
    module, function = address.split(":")
    return cast(Reader, getattr(importlib.import_module(module), function))
