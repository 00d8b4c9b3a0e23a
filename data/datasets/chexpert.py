"""CheXpert (Irvin et al. 2019) as unpacked: ``train.csv``, ``valid.csv`` and folders ``train/``, ``valid/``.

Input: the folder of CheXpert-v1.0 or CheXpert-v1.0-small. Output: frontal radiographs with 14 labels. The official
validation set (``valid``) is the study's test set: its patients never train and never validate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import FindingRows, finding_caption, finding_columns
from radpref.data.datasets.layout import (
    Compact,
    first_file,
    folders_of,
    need_file,
    probe,
    read_columns,
    read_tables,
    repeats,
    set_folder,
    spread,
    with_gzip,
)
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph
from radpref.data.study.splits import hashed_split

DATASET = "chexpert"
PUBLISHED = {"train": (223_414, 64_540, 191_027), "valid": (234, 200, 202)}
"""Rows, patients and frontal rows of the two tables."""
_PLACE = r"(?P<place>(?P<part>train|valid)/(?P<patient>patient\d+)/study\d+/[^/]+)$"


@dataclass(frozen=True)
class _Row:
    """What one record is made of."""

    record_id: str
    place: str
    patient: str
    split: str
    extra: tuple[tuple[str, str], ...]
    problem: str | None


@dataclass(frozen=True)
class _Source:
    """The set as read: one entry per frontal row, and where images may lie."""

    config: DataConfig
    folders: tuple[Path, ...]
    places: list[str]  # train/patient00001/study1/view1_frontal.jpg, or the Path where it is not understood
    parts: Compact
    patients: Compact
    extra: dict[str, Compact]
    findings: FindingRows
    repeated: dict[int, int]
    test_patients: frozenset[str]

    def __len__(self) -> int:
        return len(self.places)

    def record_id(self, i: int) -> str:
        return _row(self, i).record_id

    def load(self, i: int) -> LoadedRecord:
        row = _row(self, i)
        if row.problem is not None:
            raise InvalidInput(row.problem)
        labels = self.findings.labels(i, self.config)
        image, _ = frame(read_radiograph(first_file(_places(self.folders, row.place))), {}, self.config.image_size)
        return Record(
            record_id=row.record_id,
            dataset=DATASET,
            patient_id=row.patient,
            split=row.split,
            image=image,
            masks={},
            labels=labels,
            caption=finding_caption(labels),
            extra=dict(row.extra),
        )


def read_chexpert(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan the frontal rows of both tables; ``valid`` becomes split test, ``train`` is split by patient.

    Raises:
        InvalidInput, NotFound: no folder, a table or a column is missing, or none of the images is there.
    """
    root = set_folder(path, "chexpert")
    columns = finding_columns(config)
    files = {
        part: need_file(root, with_gzip(f"{part}.csv"), f"{part}.csv lies beside the folder {part}/ in the archive")
        for part in ("valid", "train")  # of two equal images the first stays: the test split's
    }
    tables = read_tables(files, lambda part, file: _read_part(file, part, columns))
    found = [line for part, table in tables.items() for line in _counts(table, part)]
    both = pd.concat(tables.values(), ignore_index=True)
    test_patients = frozenset(both.loc[both["part"] == "valid", "patient"].unique())
    frontal = np.flatnonzero((both["Frontal/Lateral"] == "Frontal").to_numpy(bool))
    findings = FindingRows.of(both, columns).take(frontal)
    table = both.iloc[frontal].reset_index(drop=True)
    beside = files["train"].parent  # first: there a missing image is missed
    folders = (beside, *folders_of(root), *folders_of(beside))
    source = _source(config, tuple(dict.fromkeys(folders)), findings, table, test_patients)
    rows = [_row(source, i) for i in spread(len(source))]
    probe([first_file(_places(source.folders, row.place)) for row in rows if not row.problem], root)
    found += findings.found(config)
    return ImportPlan(source, tuple(found), tuple(files.values()))


def _read_part(file: Path, part: str, columns: dict[str, str]) -> pd.DataFrame:
    table = read_columns(file, ["Path", "Frontal/Lateral"], ["Sex", "Age", "AP/PA"], list(columns))
    places = table["Path"].str.extract(_PLACE)
    table = table.assign(place=places["place"].fillna(""), patient=places["patient"].fillna(""))
    # A row is a test row by its table or by its path, whichever says so.
    table["part"] = places["part"].where((places["part"] == "valid") | (part == "train"), "valid").fillna(part)
    table["row"] = np.arange(len(table)) + 2
    return table


def _counts(table: pd.DataFrame, part: str) -> list[Found]:
    n_frontal = int((table["Frontal/Lateral"] == "Frontal").sum())
    values = (len(table), int(table["patient"].nunique()), n_frontal)
    lateral = f"{len(table) - n_frontal} others are left out"
    notes = ("", "", lateral + ("; they are the test split" if part == "valid" else ""))
    names = (f"rows of {part}.csv", f"patients of {part}.csv", f"frontal rows of {part}.csv")
    return [Found(*line) for line in zip(names, values, PUBLISHED[part], notes, strict=True)]


def _source(
    config: DataConfig,
    folders: tuple[Path, ...],
    findings: FindingRows,
    table: pd.DataFrame,
    test_patients: frozenset[str],
) -> _Source:
    """Only what a record needs, so that 223,414 rows stay small."""
    ids = table["place"].where(table["place"] != "", table["Path"])
    return _Source(
        config,
        folders,
        list(map(str, ids)),
        Compact.of(table["part"]),
        Compact.of(table["patient"]),
        {"sex": Compact.of(table["Sex"]), "age": Compact.of(table["Age"]), "view": Compact.of(table["AP/PA"])},
        findings,
        repeats(ids, table["row"]),
        test_patients,
    )


def _row(source: _Source, i: int) -> _Row:
    place, patient, part = source.places[i], source.patients[i], source.parts[i]
    record_id, problem = f"{DATASET}/{place.rsplit('.', 1)[0]}", None
    if not patient:
        record_id = f"{DATASET}/{place}"
        problem = f"Path {place!r} is not train|valid/patientNNNNN/studyN/file; mend the table"
    elif part == "train" and patient in source.test_patients:
        problem = f"{patient} is also in the official validation set, the test split; remove the row from train.csv"
    else:
        problem = source.findings.bad.get(i)
    if i in source.repeated:
        record_id = f"{record_id}#row{source.repeated[i]}"
        problem = f"row {source.repeated[i]} repeats {place}; keep one of them"
    extra = tuple((key, values[i]) for key, values in source.extra.items() if values[i])
    return _Row(record_id, place, patient, _split(source.config, patient, part), extra, problem)


def _split(config: DataConfig, patient: str, part: str) -> str:
    """valid is the test split; the patients of train are shared out over train and val alone."""
    if part == "valid":
        return "test"
    train, val, _ = config.split_fractions
    total = train + val
    return hashed_split(DATASET, patient, config.seed, (train / total, val / total, 0.0) if total else (1.0, 0.0, 0.0))


def _places(folders: Sequence[Path], place: str) -> list[Path]:
    return [folder / place for folder in folders]
