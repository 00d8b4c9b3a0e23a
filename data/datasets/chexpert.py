"""CheXpert (Irvin et al. 2019) as unpacked: ``train.csv``, ``valid.csv`` and folders ``train/``, ``valid/``.

Input: the folder of CheXpert-v1.0 or CheXpert-v1.0-small. Output: frontal radiographs with 14 labels. The official
validation set (``valid``) is the study's test set: its patients never train and never validate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from data.config import DataConfig
from data.datasets.findings import (
    BAD,
    Codes,
    finding_caption,
    finding_codes,
    finding_columns,
    finding_labels,
    policies_found,
)
from data.datasets.layout import (
    first_file,
    folders_of,
    need_file,
    number_repeats,
    probe,
    read_columns,
    set_folder,
    spread,
    with_gzip,
)
from data.errors import InvalidInput
from data.framing import frame, read_radiograph
from data.readers import Found, ImportPlan, Planned, PlannedRecord, Record
from data.splits import hashed_split

DATASET = "chexpert"
PUBLISHED = {"train": (223_414, 64_540, 191_027), "valid": (234, 200, 202)}
"""Rows, patients and frontal rows of the two tables."""
_PLACE = r"(?P<place>(?P<part>train|valid)/(?P<patient>patient\d+)/study\d+/[^/]+)$"


@dataclass(frozen=True)
class _Row:
    """What one record is made of, small enough to be sent to a worker."""

    record_id: str
    place: str
    patient: str
    split: str
    codes: tuple[int, ...]
    extra: tuple[tuple[str, str], ...]
    problem: str | None


@dataclass(frozen=True)
class _Source:
    """The set as read: frontal rows, and where images may lie."""

    config: DataConfig
    folders: tuple[Path, ...]
    columns: dict[str, str]
    table: pd.DataFrame
    codes: Codes
    bad: dict[tuple[int, str], str]
    test_patients: frozenset[str]


def read_chexpert(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan the frontal rows of both tables; ``valid`` becomes split test, ``train`` is split by patient.

    Raises:
        InvalidInput, NotFound: no folder, a table or a column is missing, or none of the images is there.
    """
    root = set_folder(path, "chexpert")
    columns = finding_columns(config)
    files = {
        part: need_file(root, with_gzip(f"{part}.csv"), f"{part}.csv lies beside the folder {part}/ in the archive")
        for part in ("train", "valid")
    }
    tables = {part: _read_part(file, part, columns) for part, file in files.items()}
    found = [line for part, table in tables.items() for line in _counts(table, part)]
    both = pd.concat(tables.values(), ignore_index=True)
    test_patients = frozenset(both.loc[both["part"] == "valid", "patient"].unique())
    table = both[both["Frontal/Lateral"] != "Lateral"].reset_index(drop=True)
    codes = finding_codes(table, list(columns))
    bad = {(int(i), column): str(table[column].iat[i]) for k, column in enumerate(columns) for i in _where(codes, k)}
    table = _lean(table)
    folders = (*folders_of(root), *folders_of(files["train"].parent))
    source = _Source(config, tuple(dict.fromkeys(folders)), columns, table, codes, bad, test_patients)
    rows = [_row(source, i) for i in spread(len(table))]
    probe([first_file(_places(source.folders, row.place)) for row in rows if not row.problem], root)
    found += policies_found(codes, list(columns.values()), config)
    return ImportPlan(Planned(len(table), partial(_planned, source)), tuple(found), tuple(files.values()))


def _read_part(file: Path, part: str, columns: dict[str, str]) -> pd.DataFrame:
    table = read_columns(file, ["Path", "Frontal/Lateral", *columns], ["Sex", "Age", "AP/PA"])
    places = table["Path"].str.extract(_PLACE)
    table = table.assign(place=places["place"].fillna(""), patient=places["patient"].fillna(""))
    # A row is a test row by its table or by its path, whichever says so.
    table["part"] = places["part"].where((places["part"] == "valid") | (part == "train"), "valid").fillna(part)
    table["source"] = part
    return table


def _counts(table: pd.DataFrame, part: str) -> list[Found]:
    n_frontal = int((table["Frontal/Lateral"] == "Frontal").sum())
    values = (len(table), int(table["patient"].nunique()), n_frontal)
    lateral = f"{len(table) - n_frontal} lateral rows are left out"
    notes = ("", "", lateral + ("; they are the test split" if part == "valid" else ""))
    names = (f"rows of {part}.csv", f"patients of {part}.csv", f"frontal rows of {part}.csv")
    return [Found(*line) for line in zip(names, values, PUBLISHED[part], notes, strict=True)]


def _where(codes: Codes, column: int) -> list[int]:
    return [int(i) for i in (codes[:, column] == BAD).nonzero()[0]]


def _lean(table: pd.DataFrame) -> pd.DataFrame:
    """Only what a record needs, repeated texts as categories."""
    ids = table["place"].where(table["place"] != "", table["Path"])
    lean = pd.DataFrame({"record": number_repeats(ids), "place": table["place"], "patient": table["patient"]})
    for name in ("part", "Sex", "Age", "AP/PA"):
        lean[name] = table[name].astype("category")
    return lean


def _row(source: _Source, i: int) -> _Row:
    row = source.table.iloc[i]
    place, patient, codes = str(row["place"]), str(row["patient"]), tuple(int(c) for c in source.codes[i])
    record, problem = str(row["record"]), None
    if not place:
        problem = f"Path {record!r} is not train|valid/patientNNNNN/studyN/file; mend the table"
    elif record != place:
        problem = f"row {record.rpartition('#row')[2]} repeats {place}; keep one of them"
    elif row["part"] == "train" and patient in source.test_patients:
        problem = f"{patient} is also in the official validation set, the test split; remove the row from train.csv"
    elif BAD in codes:
        column = list(source.columns)[codes.index(BAD)]
        problem = f"label column '{column}' holds {source.bad[i, column]!r}; use 1, 0, -1 (uncertain) or blank"
    extra = {"sex": row["Sex"], "age": row["Age"], "view": row["AP/PA"]}
    return _Row(
        f"{DATASET}/{record.rsplit('.', 1)[0] if record == place else record}",
        place,
        patient,
        _split(source.config, patient, str(row["part"])),
        codes,
        tuple((key, str(value)) for key, value in extra.items() if value),
        problem,
    )


def _split(config: DataConfig, patient: str, part: str) -> str:
    """valid is the test split; the patients of train are shared out over train and val alone."""
    if part == "valid":
        return "test"
    train, val, _ = config.split_fractions
    total = train + val
    return hashed_split(DATASET, patient, config.seed, (train / total, val / total, 0.0) if total else (1.0, 0.0, 0.0))


def _places(folders: Sequence[Path], place: str) -> list[Path]:
    return [folder / place for folder in folders]


def _planned(source: _Source, i: int) -> PlannedRecord:
    row = _row(source, i)
    load = partial(_load, source.config, source.folders, tuple(source.columns.values()), row)
    return PlannedRecord(row.record_id, load)


def _load(config: DataConfig, folders: tuple[Path, ...], names: tuple[str, ...], row: _Row) -> Record:
    if row.problem is not None:
        raise InvalidInput(row.problem)
    labels = finding_labels(row.codes, names, config)
    image, masks = frame(read_radiograph(first_file(_places(folders, row.place))), {}, config.image_size)
    return Record(
        record_id=row.record_id,
        dataset=DATASET,
        patient_id=row.patient,
        split=row.split,
        image=image,
        masks=masks,
        labels=labels,
        caption=finding_caption(labels),
        extra=dict(row.extra),
    )
