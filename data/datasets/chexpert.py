"""CheXpert (Irvin et al. 2019) as unpacked: ``train.csv``, ``valid.csv`` and folders ``train/``, ``valid/``.

Input: the folder of CheXpert-v1.0 or CheXpert-v1.0-small. Output: frontal radiographs with 14 labels. The official
validation set (``valid``) is the study's test set: its patients never train and never validate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import track
from radpref.data.datasets.chexpert_columns import FindingRows, finding_caption, finding_columns
from radpref.data.datasets.layout import (
    first_file,
    folders_of,
    interned,
    need_file,
    probe,
    read_columns,
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
class _Frontals:
    """The frontal rows of both tables, each as no more than a record needs, and the folders where images may lie."""

    config: DataConfig
    folders: tuple[Path, ...]
    places: list[str]  # train/patient00001/study1/view1_frontal.jpg, or the Path where it is not understood
    parts: list[str]
    patients: list[str]
    extra: dict[str, list[str]]
    findings: FindingRows
    repeated: dict[int, int]
    test_patients: frozenset[str]

    def __len__(self) -> int:
        return len(self.places)

    def record_id(self, i: int) -> str:
        name = self.places[i].rsplit(".", 1)[0] if self.patients[i] else self.places[i]
        return f"{DATASET}/{name}" + (f"#row{self.repeated[i]}" if i in self.repeated else "")

    def problem(self, i: int) -> str | None:
        place, patient = self.places[i], self.patients[i]
        if i in self.repeated:
            return f"row {self.repeated[i]} repeats {place}; keep one of them"
        if not patient:
            return f"Path {place!r} is not train|valid/patientNNNNN/studyN/file; fix the table"
        if self.parts[i] == "train" and patient in self.test_patients:
            return f"{patient} is also in the official validation set, the test split; remove the row from train.csv"
        return self.findings.bad.get(i)

    def file(self, i: int) -> Path:
        return first_file(folder / self.places[i] for folder in self.folders)

    def load(self, i: int) -> LoadedRecord:
        if (problem := self.problem(i)) is not None:
            raise InvalidInput(problem)
        labels = self.findings.labels(i, self.config)
        image, _ = frame(read_radiograph(self.file(i)), {}, self.config.image_size)
        return Record(
            record_id=self.record_id(i),
            dataset=DATASET,
            patient_id=self.patients[i],
            split=_split(self.config, self.patients[i], self.parts[i]),
            image=image,
            masks={},
            labels=labels,
            caption=finding_caption(labels),
            extra={key: values[i] for key, values in self.extra.items() if values[i]},
        )


def read_chexpert(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan the frontal rows of both tables; ``valid`` becomes split test, ``train`` is split by patient."""
    root = set_folder(path, "chexpert")
    columns = finding_columns(config)
    files = {
        part: need_file(root, with_gzip(f"{part}.csv"), f"{part}.csv lies beside the folder {part}/ in the archive")
        for part in ("valid", "train")  # of two equal images the first stays: the test split's
    }
    tables = {part: _read_part(file, part, columns) for part, file in track(files.items(), "read tables", len(files))}
    found = [line for part, table in tables.items() for line in _counts(table, part)]
    both = pd.concat(tables.values(), ignore_index=True)
    test_patients = frozenset(both.loc[both["part"] == "valid", "patient"].unique())
    frontal = np.flatnonzero((both["Frontal/Lateral"] == "Frontal").to_numpy(bool))
    findings = FindingRows.of(both, columns).take(frontal)
    table = both.iloc[frontal].reset_index(drop=True)
    beside = files["train"].parent  # first: there a missing image is missed
    folders = (beside, *folders_of(root), *folders_of(beside))
    ids = table["place"].where(table["place"] != "", table["Path"])
    records = _Frontals(
        config=config,
        folders=tuple(dict.fromkeys(folders)),
        places=list(map(str, ids)),
        parts=interned(table["part"]),
        patients=interned(table["patient"]),
        extra={"sex": interned(table["Sex"]), "age": interned(table["Age"]), "view": interned(table["AP/PA"])},
        findings=findings,
        repeated=repeats(ids, table["row"]),
        test_patients=test_patients,
    )
    probe([records.file(i) for i in spread(len(records)) if not records.problem(i)], root)
    found += findings.found(config)
    return ImportPlan(records, tuple(found), tuple(files.values()))


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


def _split(config: DataConfig, patient: str, part: str) -> str:
    """valid is the test split; the patients of train are shared out over train and val alone."""
    if part == "valid":
        return "test"
    train, val, _ = config.split_fractions
    total = train + val
    return hashed_split(DATASET, patient, config.seed, (train / total, val / total, 0.0) if total else (1.0, 0.0, 0.0))
