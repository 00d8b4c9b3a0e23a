"""Data-set readers: where records come from. The registry is :data:`READERS`.

Input: the study's data configuration and an optional path. Output: an :class:`ImportPlan`: what the reader found
beside what the published set holds, and the :class:`Records` themselves: each is named at once and read or rendered on
demand, so an import can skip what it already has and hold a set of any size as rows of text only.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import NotFound
from radpref.data.imaging.images import GrayImage, ImageFile, Mask, MaskFile

Image = TypeVar("Image")
Outline = TypeVar("Outline")


@dataclass(frozen=True)
class Record(Generic[Image, Outline]):
    """One radiograph as it enters the study record: a :data:`LoadedRecord`, then a :data:`WrittenRecord`.

    labels: 1.0, 0.0 or None (unknown); masks: structure -> mask, none empty.
    """

    record_id: str
    dataset: str
    patient_id: str
    split: str
    image: Image
    masks: dict[str, Outline]
    labels: dict[str, float | None]
    caption: str | None = None
    report: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


LoadedRecord = Record[GrayImage, Mask]
"""With pixels: image (S, S) uint8 or uint16, masks (S, S) bool."""
WrittenRecord = Record[ImageFile, MaskFile]
"""Its files are in the study's folder; what goes into the database."""


@dataclass(frozen=True)
class Found:
    """One line of the layout check: how many of ``what`` are there, beside what the published set holds (or None)."""

    what: str
    found: int
    expected: int | None = None
    note: str = ""


class Records(Protocol):
    """What a reader would import, numbered from 0; equal configuration and files give equal records in equal order.

    Used from several threads; large imports make it again in every worker process.
    """

    def __len__(self) -> int: ...

    def record_id(self, i: int) -> str:
        """The identifier of record ``i``, from the tables alone: no image is opened."""
        ...

    def load(self, i: int) -> LoadedRecord:
        """Read or render record ``i``; raises `RadprefError` where it must be quarantined."""
        ...


@dataclass(frozen=True)
class ImportPlan:
    """What a reader would import.

    found: the layout check; inputs: the small files (CSV tables and the like) whose hashes go into the run.
    """

    records: Records
    found: tuple[Found, ...] = ()
    inputs: tuple[Path, ...] = ()


class Reader(Protocol):
    """A reader: (configuration, path or None) -> plan."""

    def __call__(self, config: DataConfig, path: Path | None) -> ImportPlan:
        """Check the layout at ``path`` and plan; reads tables, but no image.

        Raises:
            InvalidInput, NotFound: no path where one is needed; a file, a table or a column is missing or cannot be
                used; none of the images is there; or [data] asks for what the set does not have.
        """
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


def get_reader(name: str) -> Reader:
    """The reader called ``name``.

    Raises:
        NotFound: there is none; the choices are listed.
    """
    if name not in READERS:
        raise NotFound(f"no reader called {name!r}; choose one of {', '.join(READERS)}")
    module, function = READERS[name].split(":")
    return cast(Reader, getattr(importlib.import_module(module), function))
