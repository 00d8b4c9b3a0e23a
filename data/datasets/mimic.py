"""MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al. 2019) as PhysioNet lays them out.

Input: the folder with ``mimic-cxr-2.0.0-{chexpert,metadata,split}.csv[.gz]`` and
``files/p10/p10000032/s50414267/<id>.jpg`` (or ``.dcm``); reports ``s50414267.txt`` beside the study's folder, in it,
or below ``reports/`` or ``mimic-cxr-reports/``. Output: frontal views (AP, PA) with 14 labels, the official split and
the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import FindingRows, finding_caption, finding_columns
from radpref.data.datasets.layout import (
    Compact,
    first_file,
    need_file,
    probe,
    read_columns,
    read_tables,
    repeats,
    set_folder,
    spread,
)
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph

DATASET = "mimic"
FRONTAL = ("AP", "PA")
SPLITS = {"train": "train", "validate": "val", "test": "test"}
PUBLISHED = (377_110, 65_379, 227_827)
"""Images, patients, and reports behind the labels."""
TABLES = ("chexpert", "metadata", "split")
REPORT_FOLDERS = ("", "reports", "mimic-cxr-reports")


@dataclass(frozen=True)
class _Source:
    config: DataConfig
    root: Path
    dicoms: list[str]  # one entry per frontal image
    subjects: Compact
    studies: list[str]
    views: Compact
    parts: Compact
    labels: npt.NDArray[np.int32]  # row of findings, -1 where the study has none
    findings: FindingRows
    repeated: dict[int, int]
    two_patients: frozenset[str]

    def __len__(self) -> int:
        return len(self.dicoms)

    def record_id(self, i: int) -> str:
        return f"{DATASET}/{_row(self, i).record}"

    def load(self, i: int) -> LoadedRecord:
        row, config = _row(self, i), self.config
        if row.problem is not None:
            raise InvalidInput(row.problem)
        # A study without labels says nothing about any of them, whatever data.blank makes of blank cells.
        place = int(self.labels[i])
        labels = self.findings.labels(place, config) if place >= 0 else dict.fromkeys(self.findings.names)
        image, _ = frame(read_radiograph(first_file(_places(self.root, row))), {}, config.image_size)
        file = _report_file(self.root, row)
        report = None if file is None else file.read_text(encoding="utf-8", errors="replace").strip() or None
        return Record(
            record_id=f"{DATASET}/{row.dicom}",
            dataset=DATASET,
            patient_id=row.subject,
            split=row.split,
            image=image,
            masks={},
            labels=labels,
            caption=None if report else finding_caption(labels),
            report=report,
            extra={"study": row.study, "view": row.view},
        )


@dataclass(frozen=True)
class _Image:
    record: str
    dicom: str
    subject: str
    study: str
    view: str
    split: str
    problem: str | None


def read_mimic(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan the frontal images of the metadata table under their official split.

    Raises:
        InvalidInput, NotFound: no folder, a table or a column is missing, or none of the images is there.
    """
    root = set_folder(path, "mimic")
    columns = finding_columns(config)
    files = {name: _table(root, name) for name in TABLES}
    needed = {
        "metadata": ["dicom_id", "subject_id", "study_id", "ViewPosition"],
        "split": ["dicom_id", "subject_id", "split"],
        "chexpert": ["study_id"],
    }
    repeated = {"chexpert": list(columns)}
    tables = read_tables(files, lambda name, file: read_columns(file, needed[name], repeated=repeated.get(name, [])))
    metadata, split, findings = (tables[name] for name in needed)
    metadata["row"] = np.arange(len(metadata)) + 2
    owners = pd.concat([metadata[["dicom_id", "subject_id"]], split[["dicom_id", "subject_id"]]]).drop_duplicates()
    two_patients = frozenset(owners.loc[owners["dicom_id"].duplicated(), "dicom_id"])
    frontal = metadata[metadata["ViewPosition"].isin(FRONTAL)].reset_index(drop=True)
    found = _counts(metadata, frontal, findings)
    source = _source(config, root, columns, frontal, split, findings, two_patients)
    rows = [_row(source, i) for i in spread(len(source))]
    probe([first_file(_places(root, row)) for row in rows], root)
    n_reports = sum(_report_file(root, row) is not None for row in rows)
    found += [
        Found("reports", n_reports, None, f"of {len(rows)} images tried: s<study>.txt beside the study's folder"),
        *source.findings.found(config),
    ]
    return ImportPlan(source, tuple(found), tuple(files.values()))


def _table(root: Path, name: str) -> Path:
    versions = [f"mimic-cxr-{version}-{name}.csv{end}" for version in ("2.0.0", "2.1.0") for end in ("", ".gz")]
    where = f"mimic-cxr-2.0.0-{name}.csv.gz of MIMIC-CXR-JPG, also for the DICOM files of MIMIC-CXR"
    return need_file(root, versions, where)


def _counts(metadata: pd.DataFrame, frontal: pd.DataFrame, findings: pd.DataFrame) -> list[Found]:
    n_images, n_patients, n_reports = PUBLISHED
    other = len(metadata) - len(frontal)
    return [
        Found("images", len(metadata), n_images),
        Found("patients", int(metadata["subject_id"].nunique()), n_patients),
        Found("labelled studies", int(findings["study_id"].nunique()), n_reports),
        Found("frontal images", len(frontal), None, f"{other} of other or unnamed views are left out"),
    ]


def _source(
    config: DataConfig,
    root: Path,
    columns: dict[str, str],
    frontal: pd.DataFrame,
    split: pd.DataFrame,
    findings: pd.DataFrame,
    two_patients: frozenset[str],
) -> _Source:
    """The tables joined: split by image, labels by study; only what a record needs."""
    parts = split.drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    rows = pd.Series(np.arange(len(findings)), index=findings["study_id"])
    rows = rows[~rows.index.duplicated()]
    return _Source(
        config,
        root,
        list(map(str, frontal["dicom_id"])),
        Compact.of(frontal["subject_id"]),
        list(map(str, frontal["study_id"])),
        Compact.of(frontal["ViewPosition"]),
        Compact.of(frontal["dicom_id"].map(parts).fillna("")),
        frontal["study_id"].map(rows).fillna(-1).to_numpy(np.int32),
        FindingRows.of(findings, columns),
        repeats(frontal["dicom_id"], frontal["row"]),
        two_patients,
    )


def _row(source: _Source, i: int) -> _Image:
    dicom, part, place = source.dicoms[i], source.parts[i], int(source.labels[i])
    record, problem = dicom, None
    if dicom in source.two_patients:
        problem = f"image {dicom} belongs to two patients in the tables; keep one"
    elif part not in SPLITS:
        problem = f"split of {dicom} is {part!r}; the split table should say train, validate or test"
    else:
        problem = source.findings.bad.get(place)
    if i in source.repeated:
        record = f"{dicom}#row{source.repeated[i]}"
        problem = f"row {source.repeated[i]} repeats {dicom}; keep one of them"
    split = SPLITS.get(part, "train")
    return _Image(record, dicom, source.subjects[i], source.studies[i], source.views[i], split, problem)


def _study_folders(root: Path, row: _Image) -> Iterator[Path]:
    """Folders of one study: below ``files/`` as PhysioNet lays them out, or directly below PATH."""
    patient = Path(f"p{row.subject[:2]}") / f"p{row.subject}" / f"s{row.study}"
    yield root / "files" / patient
    yield root / patient


def _places(root: Path, row: _Image) -> list[Path]:
    endings = (".jpg", ".dcm", ".png", ".jpeg")
    return [folder / f"{row.dicom}{end}" for folder in _study_folders(root, row) for end in endings]


def _report_file(root: Path, row: _Image) -> Path | None:
    """``s<study>.txt`` beside the study's folder (as in mimic-cxr-reports.zip), or in it."""
    for base in REPORT_FOLDERS:
        for folder in _study_folders(root / base, row):
            for place in (folder.with_suffix(".txt"), folder / f"s{row.study}.txt"):
                if place.is_file():
                    return place
    return None
