"""MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al. 2019) as PhysioNet lays them out.

Input: the folder with ``mimic-cxr-2.0.0-{chexpert,metadata,split}.csv[.gz]`` and
``files/p10/p10000032/s50414267/<id>.jpg`` (or ``.dcm``); reports ``s50414267.txt`` beside the study's folder, in it,
or below ``reports/`` or ``mimic-cxr-reports/``. Output: frontal views (AP, PA) with 14 labels, the official split and
the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import track
from radpref.data.datasets.chexpert_columns import FindingRows, finding_caption, finding_columns
from radpref.data.datasets.layout import (
    first_file,
    interned,
    need_file,
    probe,
    read_columns,
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
IMAGE_ENDINGS = (".jpg", ".dcm", ".png", ".jpeg")
REPORT_FOLDERS = ("", "reports", "mimic-cxr-reports")


@dataclass(frozen=True)
class _Frontals:
    """One entry per frontal image: the tables joined, split by image, labels by study."""

    config: DataConfig
    root: Path
    dicoms: list[str]
    subjects: list[str]
    studies: list[str]
    views: list[str]
    parts: list[str]
    labels: npt.NDArray[np.int32]  # row of findings, -1 where the study has none
    findings: FindingRows
    repeated: dict[int, int]
    two_patients: frozenset[str]

    def __len__(self) -> int:
        return len(self.dicoms)

    def record_id(self, i: int) -> str:
        return f"{DATASET}/{self.dicoms[i]}" + (f"#row{self.repeated[i]}" if i in self.repeated else "")

    def problem(self, i: int) -> str | None:
        dicom, part = self.dicoms[i], self.parts[i]
        if i in self.repeated:
            return f"row {self.repeated[i]} repeats {dicom}; keep one of them"
        if dicom in self.two_patients:
            return f"image {dicom} belongs to two patients in the tables; keep one"
        if part not in SPLITS:
            return f"split of {dicom} is {part!r}; the split table should say train, validate or test"
        return self.findings.bad.get(int(self.labels[i]))

    def _study_folders(self, i: int, base: Path) -> list[Path]:
        """Where one study may be: below ``files/`` as PhysioNet lays them out, or directly below PATH."""
        subject = self.subjects[i]
        folder = Path(f"p{subject[:2]}", f"p{subject}", f"s{self.studies[i]}")
        return [base / "files" / folder, base / folder]

    def file(self, i: int) -> Path:
        folders = self._study_folders(i, self.root)
        return first_file(folder / f"{self.dicoms[i]}{end}" for folder in folders for end in IMAGE_ENDINGS)

    def report_file(self, i: int) -> Path | None:
        """``s<study>.txt`` beside the study's folder (as in mimic-cxr-reports.zip), or in it."""
        folders = [folder for base in REPORT_FOLDERS for folder in self._study_folders(i, self.root / base)]
        files = (file for one in folders for file in (one.with_suffix(".txt"), one / f"{one.name}.txt"))
        return next((file for file in files if file.is_file()), None)

    def load(self, i: int) -> LoadedRecord:
        if (problem := self.problem(i)) is not None:
            raise InvalidInput(problem)
        # A study without labels says nothing about any of them, whatever data.blank makes of blank cells.
        row = int(self.labels[i])
        labels = self.findings.labels(row, self.config) if row >= 0 else dict.fromkeys(self.findings.names)
        image, _ = frame(read_radiograph(self.file(i)), {}, self.config.image_size)
        file = self.report_file(i)
        report = None if file is None else file.read_text(encoding="utf-8", errors="replace").strip() or None
        return Record(
            record_id=self.record_id(i),
            dataset=DATASET,
            patient_id=self.subjects[i],
            split=SPLITS[self.parts[i]],
            image=image,
            masks={},
            labels=labels,
            caption=None if report else finding_caption(labels),
            report=report,
            extra={"study": self.studies[i], "view": self.views[i]},
        )


def read_mimic(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan the frontal images of the metadata table under their official split."""
    root = set_folder(path, "mimic")
    columns = finding_columns(config)
    files = {name: _table(root, name) for name in TABLES}
    needed = {
        "metadata": ["dicom_id", "subject_id", "study_id", "ViewPosition"],
        "split": ["dicom_id", "subject_id", "split"],
        "chexpert": ["study_id"],
    }
    metadata, split, findings = (
        read_columns(files[name], needed[name], repeated=list(columns) if name == "chexpert" else ())
        for name in track(needed, "read tables", len(needed))
    )
    metadata["row"] = np.arange(len(metadata)) + 2
    owners = pd.concat([metadata[["dicom_id", "subject_id"]], split[["dicom_id", "subject_id"]]]).drop_duplicates()
    two_patients = frozenset(owners.loc[owners["dicom_id"].duplicated(), "dicom_id"])
    frontal = metadata[metadata["ViewPosition"].isin(FRONTAL)].reset_index(drop=True)
    found = _counts(metadata, frontal, findings)
    parts = split.drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    rows = pd.Series(np.arange(len(findings)), index=findings["study_id"])
    rows = rows[~rows.index.duplicated()]
    records = _Frontals(
        config=config,
        root=root,
        dicoms=list(map(str, frontal["dicom_id"])),
        subjects=interned(frontal["subject_id"]),
        studies=list(map(str, frontal["study_id"])),
        views=interned(frontal["ViewPosition"]),
        parts=interned(frontal["dicom_id"].map(parts).fillna("")),
        labels=frontal["study_id"].map(rows).fillna(-1).to_numpy(np.int32),
        findings=FindingRows.of(findings, columns),
        repeated=repeats(frontal["dicom_id"], frontal["row"]),
        two_patients=two_patients,
    )
    tried = spread(len(records))
    probe([records.file(i) for i in tried], root)
    n_reports = sum(records.report_file(i) is not None for i in tried)
    found += [
        Found("reports", n_reports, None, f"of {len(tried)} images tried: s<study>.txt beside the study's folder"),
        *records.findings.found(config),
    ]
    return ImportPlan(records, tuple(found), tuple(files.values()))


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
