"""Files of a published set as it was unpacked: its folder, its tables, its images.

Input: the PATH a user gave. Output: paths, and tables with only the columns that are needed. A file that is missing is
named in one line that says where to put it.
"""

from __future__ import annotations

import os
import sys
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.progress import bar
from radpref.data.datasets.registry import Found
from radpref.data.datasets.table_file import nearest

IMAGE_SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")
N_PROBES = 20


def set_folder(path: Path | None, name: str) -> Path:
    """The folder of the set called ``name``.

    Raises:
        InvalidInput: none was given, or it is a file.
        NotFound: there is none.
    """
    if path is None:
        raise InvalidInput(f"the {name} reader needs the folder of the set; give PATH or set data.path in study.toml")
    if not path.exists():
        raise NotFound(f"no folder at {path}; give the folder in which {name} was unpacked")
    if not path.is_dir():
        raise InvalidInput(f"{path} is a file; give the folder in which {name} was unpacked")
    return path


def folders_of(root: Path) -> list[Path]:
    """The folder itself and those directly in it, sorted: archives unpack with or without a folder of their own."""
    return [root, *sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir())]


def find_file(root: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` in the folder or directly below it; None where there is none."""
    wanted, folders = list(names), folders_of(root)
    return next((folder / name for name in wanted for folder in folders if (folder / name).is_file()), None)


def need_file(root: Path, names: Sequence[str], where: str) -> Path:
    """As :func:`find_file`.

    Raises:
        NotFound: none is there; ``where`` says where it comes from.
    """
    found = find_file(root, names)
    if found is None:
        raise NotFound(f"{root} has no {' or '.join(names)}; put it there ({where})")
    return found


def with_gzip(name: str) -> list[str]:
    """The names a table may have: plain or gzipped."""
    return [name, f"{name}.gz"]


def read_columns(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), repeated: Sequence[str] = ()
) -> pd.DataFrame:
    """The named columns of a CSV (or csv.gz), every cell as stripped text ("" where blank); header names are stripped.

    Optional columns that the file lacks are blank. ``repeated``: needed columns of few distinct values, as categories,
    which keep a column of 223,414 cells in as many bytes.

    Raises:
        InvalidInput: the file cannot be read, or lacks a column (the nearest one is named).
    """
    try:
        header = [str(name) for name in pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns]
        raw = {name.strip(): name for name in header}
        columns = [*columns, *repeated]
        missing = next((name for name in columns if name not in raw), None)
        if missing is not None:
            raise InvalidInput(f"{path} has no column '{missing}'; {nearest(missing, list(raw))}")
        wanted = [name for name in (*columns, *optional) if name in raw]
        types = {raw[name]: "category" if name in repeated else "str" for name in wanted}
        table = pd.read_csv(path, usecols=list(types), dtype=types, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' parse errors are ValueErrors
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{path} is not a readable table ({reason}); download it again") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    for name in optional:
        if name not in table:
            table[name] = ""
    return pd.DataFrame({name: _stripped(table[name]) for name in (*columns, *optional)})


def _stripped(column: pd.Series) -> pd.Series:
    """Cells without surrounding white space, missing ones blank; categories stay categories."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return column.fillna("").str.strip()
    names = [*(str(name).strip() for name in column.cat.categories), ""]
    distinct = list(dict.fromkeys(names))
    places = np.array([distinct.index(name) for name in names], np.int64)
    codes = places[column.cat.codes.to_numpy()]  # code -1 (missing) takes the last place, blank
    return pd.Series(pd.Categorical.from_codes(codes, pd.Index(distinct)))


@dataclass(frozen=True)
class ListedImages:
    """The images of a table that may give one several rows, sorted by name, and their files below ``root``.

    starts: rows of image i are ``rows[starts[i]:starts[i + 1]]``; files: image -> path relative to ``root``.
    """

    root: Path
    ids: tuple[str, ...]
    rows: list[tuple[str, ...]]
    starts: tuple[int, ...]
    files: dict[str, str]

    @classmethod
    def of(cls, root: Path, table: pd.DataFrame, image: str, columns: Sequence[str]) -> ListedImages:
        """Group ``columns`` of the table by its column ``image``, and look for the files."""
        table = table.sort_values(image, kind="stable", ignore_index=True)
        ids, starts = np.unique(table[image].to_numpy(str), return_index=True)
        rows = list(zip(*(map(str, table[name]) for name in columns), strict=True))
        return cls(root, tuple(map(str, ids)), rows, (*map(int, starts), len(table)), image_index(root, len(ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, i: int) -> list[tuple[str, ...]]:
        """The rows of image ``i``, in the table's order."""
        return self.rows[self.starts[i] : self.starts[i + 1]]

    def path(self, i: int, *others: str) -> Path:
        """The file of image ``i``, also looked for under ``others``; where there is none, the one to be missed."""
        names = (self.ids[i], *others)
        return self.root / next((self.files[name] for name in names if name in self.files), f"{self.ids[i]}.dcm")

    def need_files(self, paths: Iterable[Path], what: str) -> Found:
        """The line of the layout check on ``paths``, the images' files.

        Raises:
            NotFound: none is there; ``what`` says what to unpack.
        """
        n_files = sum(path.is_file() for path in paths)
        if not n_files:
            raise NotFound(f"none of the table's {len(self)} images is below {self.root}; unpack {what} there")
        return Found("image files", n_files, None, f"of {len(self)}; a missing one is quarantined")


@dataclass(frozen=True)
class ListedRecords:
    """What the records of all sets with a table of images share: one per image, named by it."""

    dataset: ClassVar[str]
    config: DataConfig
    listed: ListedImages

    def __len__(self) -> int:
        return len(self.listed)

    def record_id(self, i: int) -> str:
        """``<data set>/<image>``."""
        return f"{self.dataset}/{self.listed.ids[i]}"


def image_index(root: Path, n_expected: int) -> dict[str, str]:
    """Image name without suffix -> path relative to ``root``, for all images below it (files without suffix too).

    Shows a progress bar of ``n_expected`` images: a set of 12,047 lies in 36,000 folders.
    Names hold dots (1.2.276...), so only known suffixes are cut. The first in sorted order keeps a repeated name.
    """
    found: dict[str, str] = {}
    with bar("look for images", n_expected) as advance:
        for folder, inner, files in os.walk(root):
            inner.sort()
            before = len(found)
            for name in sorted(files):
                stem = stem_of(name)
                if stem is not None:
                    found.setdefault(stem, str((Path(folder) / name).relative_to(root)))
            advance(min(len(found), n_expected) - min(before, n_expected))
    return found


def stem_of(name: str) -> str | None:
    """The name without its image suffix; None for hidden files and for what is not an image."""
    low = name.lower()
    suffix = next((end for end in IMAGE_SUFFIXES if low.endswith(end)), None)
    if suffix is not None:
        return name[: -len(suffix)]
    other = (".csv", ".gz", ".zip", ".txt", ".json", ".md", ".pdf", ".xlsx", ".docx", ".html", ".tgz", ".tar", ".toml")
    return None if name.startswith(".") or low.endswith(other) else name


def first_file(candidates: Iterable[Path]) -> Path:
    """The first that exists, or else the first of all (whose reading then says that it is missing)."""
    listed = list(candidates)
    return next((path for path in listed if path.is_file()), listed[0])


def probe(paths: Sequence[Path], root: Path) -> None:
    """Refuse a set none of whose images is there, before every one of them is quarantined.

    Raises:
        NotFound: none of ``paths`` exists.
    """
    if paths and not any(path.is_file() for path in paths):
        raise NotFound(f"none of {len(paths)} images tried is below {root}, for example {paths[0]}; unpack them there")


def spread(n: int, most: int = N_PROBES) -> list[int]:
    """Up to ``most`` row numbers, evenly spread over ``n`` rows."""
    return sorted({int(i) for i in np.linspace(0, max(n - 1, 0), min(n, most))})


def interned(column: pd.Series) -> list[str]:
    """A column of text with few distinct values, equal cells being one object: 8 bytes a row."""
    return [sys.intern(str(cell)) for cell in column]


def split_place(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """(split, position in it) of record ``number`` where splits of these sizes come one after the other; all from 0."""
    ends = list(accumulate(sizes))
    split = bisect_right(ends, number)
    return split, number - (ends[split - 1] if split else 0)


def repeats(ids: pd.Series, rows: pd.Series) -> dict[int, int]:
    """Position -> number in ``rows`` (of the table, its header being row 1) of every identifier that stood before."""
    numbers = rows.to_numpy(np.int64)
    return {int(i): int(numbers[i]) for i in np.flatnonzero(ids.duplicated().to_numpy())}
