"""Small trees laid out exactly as published sets are unpacked; images are noise, masks are blocks."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radpref.data.config.study_config import parse_config
from radpref.data.datasets.chexpert_columns import FINDINGS
from radpref.data.datasets.importing import ImportResult
from radpref.data.datasets.outlines import SIDE
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, get_reader
from radpref.data.imaging.rle import Convention, encode_rle
from radpref.data.study.study import Study

Row = dict[str, str]


def noise(seed: int, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """An image of its own for every seed, (H, W) uint8."""
    return np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)


def write_image(path: Path, seed: int, size: tuple[int, int] = (48, 48)) -> None:
    """A PNG or JPEG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, size)).save(path)


def write_dicom(path: Path, seed: int, patient: str | None = "P", size: tuple[int, int] = (48, 48)) -> None:
    """A DICOM file, MONOCHROME2, 8 bits; ``patient`` None leaves the PatientID out."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    if patient is not None:
        dataset.PatientID, dataset.PatientName = patient, "Doe^Jane"
    dataset.Rows, dataset.Columns = size
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, noise(seed, size).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_csv(path: Path, rows: Sequence[Row], header: Sequence[str] | None = None) -> None:
    """A CSV, gzipped where the name ends in .gz; ``header`` replaces the names of the columns as written."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header or list(rows[0]))
    writer.writerows(list(row.values()) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def edit_csv(path: Path, change: Callable[[list[Row]], list[Row] | None]) -> None:
    """Rewrite a CSV's rows; ``change`` edits them in place or returns others."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    write_csv(path, change(rows) or rows)


def block(top: int, left: int, height: int = 200, width: int = 150) -> np.ndarray:
    """A rectangle on the 1024 x 1024 grid of published run lengths."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def study_of(root: Path, data: str) -> Study:
    """A study with these lines in [data]."""
    return Study.create(root, f'name = "sets"\n[data]\nimage_size = 64\n{data}\n')


def counts(study: Study) -> dict[str, dict[str, int]]:
    """What the study holds: records per split, positive and known labels, masks per structure."""
    queries = {
        "splits": "SELECT split AS k, count(*) AS n FROM records GROUP BY 1",
        "positive": "SELECT label AS k, count(*) AS n FROM labels WHERE value = 1 GROUP BY 1",
        "negative": "SELECT label AS k, count(*) AS n FROM labels WHERE value = 0 GROUP BY 1",
        "masks": "SELECT structure AS k, count(*) AS n FROM record_masks GROUP BY 1",
        "captions": "SELECT caption AS k, count(*) AS n FROM records WHERE caption IS NOT NULL GROUP BY 1",
    }
    return {name: {row["k"]: row["n"] for row in study.db.rows(sql)} for name, sql in queries.items()}


# --- CheXpert: 12 train images of 6 patients (every third lateral), 3 valid images of 2 patients


def chexpert_tree(root: Path, name: str = "CheXpert-v1.0-small", *, nested: bool = True) -> Path:
    """The folder to import: ``train.csv`` and ``valid.csv`` with the prefix of the archive in ``Path``."""
    folder = root / name if nested else root
    for part, n in (("train", 12), ("valid", 3)):
        rows = []
        for i in range(n):
            side = "lateral" if part == "train" and i % 3 == 2 else "frontal"
            patient = 1 + i // 2 if part == "train" else 64541 + i // 2
            place = f"{part}/patient{patient:05d}/study1/view{1 + i % 2}_{side}.jpg"
            write_image(folder / place, (100 if part == "train" else 900) + i, (48, 40))
            cells = dict.fromkeys(FINDINGS, "") if part == "train" else dict.fromkeys(FINDINGS, "0.0")
            if i % 4 == 0:
                cells["Pleural Effusion"] = "1.0"
            if part == "train" and i % 4 == 1:
                cells |= {"Edema": "-1.0", "Consolidation": "-1.0", "Pneumonia": "-1.0"}
            if i % 4 == 3:
                cells["No Finding"] = "1.0"
            view = {"Frontal/Lateral": side.capitalize(), "AP/PA": "AP" if side == "frontal" else ""}
            rows.append({"Path": f"{name}/{place}", "Sex": "Female", "Age": "68", **view, **cells})
        write_csv(folder / f"{part}.csv", rows)
    return root


# --- CANDID-PTX: 8 images of 5 patients


CANDID_IDS = tuple(f"1.2.840.113654.{1000 + i}" for i in range(8))
CANDID_PATIENTS = ("P001", "P001", "P002", "P003", "P003", "P003", "P004", "P005")


def candid_tree(root: Path, convention: Convention = "relative", *, dicom: bool = True) -> Path:
    """Images 0-2 have a pneumothorax (0 in two rows), 3 and 4 rib fractures, 4 and 5 chest tubes; 7 has no report."""
    rows = []
    for i, (uid, patient) in enumerate(zip(CANDID_IDS, CANDID_PATIENTS, strict=True)):
        if dicom:
            write_dicom(root / "dataset" / uid, 200 + i, "anonymous")  # no suffix, as released
        else:
            write_image(root / "candid-ptx-images-512" / f"{uid}.jpg", 200 + i)
        texts = [encode_rle(block(100 + 10 * i, 100), convention)] if i < 3 else ["-1"]
        if i == 0:
            texts.append(encode_rle(block(600, 600), convention))
        report = "" if i == 7 else f"Case {i}. No acute finding, or one."
        name = f"{patient}_20150101_{i}.dcm"
        rows += [{"SOPInstanceUID": uid, "EncodedPixels": t, "Report": report, "filename": name} for t in texts]
    write_csv(root / "Pneumothorax_reports.csv", rows)
    for file, images, left in (("Rib_fracture_mask_rle.csv", (3, 4), 300), ("chest_tube.csv", (4, 5), 500)):
        masks = [(CANDID_IDS[i], encode_rle(block(300, left), convention)) for i in images]
        write_csv(root / file, [{"anon_SOPUID": uid, "annotation": "1", "mask_rle": text} for uid, text in masks])
    return root


# --- SIIM-ACR: 8 images, 3 with pneumothorax (the first in three rows)


SIIM_IDS = tuple(f"1.2.276.0.7230010.3.1.4.8323329.{i}.1517875{i:03d}.{870000 + i}" for i in range(8))


def siim_blocks(i: int) -> list[np.ndarray]:
    """The regions of image ``i``."""
    return {0: [block(0, 0), block(300, 400), block(800, 800)], 1: [block(50, 60)], 2: [block(500, 100)]}.get(i, [])


def siim_tree(root: Path, layout: str = "stage 1") -> Path:
    """``train-rle.csv`` and dicom-images-train/<study>/<series>/, or ``stage_2_train.csv`` and flat files."""
    rows = []
    for i, uid in enumerate(SIIM_IDS):
        place = f"dicom-images-train/1.2.{i}/1.3.{i}/{uid}.dcm" if layout == "stage 1" else f"stage_2_train/{uid}.dcm"
        write_dicom(root / place, 300 + i, f"patient-{i // 2}")
        texts = [encode_rle(mask, "relative") for mask in siim_blocks(i)] or ["-1"]
        rows += [{"ImageId": uid, " EncodedPixels": f" {text}"} for text in texts]
    rows.append(rows.pop(0))  # the rows of an image need not stand together
    write_csv(root / ("train-rle.csv" if layout == "stage 1" else "stage_2_train.csv"), rows)
    return root


# --- RSNA: 8 images, 3 with pneumonia (the first with two boxes), 3 normal, 2 neither


RSNA_IDS = tuple(f"{i:08d}-14fd-4e49-80ba-63a80b6bddd{i}" for i in range(8))
RSNA_BOXES = {0: [(4, 6, 10, 12), (30, 20, 10, 20)], 1: [(8, 8, 16, 16)], 2: [(0, 0, 20, 48)]}


def rsna_tree(root: Path) -> Path:
    """``stage_2_train_labels.csv``, the detailed classes, and DICOM files."""
    rows, classes = [], []
    for i, uid in enumerate(RSNA_IDS):
        write_dicom(root / "stage_2_train_images" / f"{uid}.dcm", 400 + i, uid)
        kind = "Lung Opacity" if i < 3 else "Normal" if i < 6 else "No Lung Opacity / Not Normal"
        for box in RSNA_BOXES.get(i, [("", "", "", "")]):
            cells = dict(zip(("x", "y", "width", "height"), (f"{v:.1f}" if v != "" else "" for v in box), strict=True))
            rows.append({"patientId": uid, **cells, "Target": str(int(i < 3))})
            classes.append({"patientId": uid, "class": kind})
    write_csv(root / "stage_2_train_labels.csv", rows)
    write_csv(root / "stage_2_detailed_class_info.csv", classes)
    return root


# --- MIMIC-CXR: 10 images of 5 patients (image 9 lateral), official split, reports


MIMIC_VIEWS = ("AP", "PA", "AP", "PA", "AP", "PA", "AP", "PA", "AP", "LATERAL")
MIMIC_PARTS = ("train", "train", "train", "validate", "test")


def mimic_tree(root: Path, *, end: str = ".csv.gz", dicom: bool = False, reports: str = "files") -> Path:
    """Two images per patient, each a study of its own; the study of image 8 has no labels, that of 2 no report."""
    metadata, split, findings = [], [], []
    for i, view in enumerate(MIMIC_VIEWS):
        subject, study, uid = f"1{i // 2}000032", f"5041426{i}", f"{i:08x}-aaaa-bbbb-cccc-dddd"
        folder = Path(f"p{subject[:2]}") / f"p{subject}" / f"s{study}"
        if dicom:
            write_dicom(root / "files" / folder / f"{uid}.dcm", 500 + i)
        else:
            write_image(root / "files" / folder / f"{uid}.jpg", 500 + i)
        keys = {"dicom_id": uid, "subject_id": subject, "study_id": study}
        metadata.append({**keys, "ViewPosition": view, "Rows": "48"})
        split.append({"dicom_id": uid, "study_id": study, "subject_id": subject, "split": MIMIC_PARTS[i // 2]})
        cells = dict.fromkeys(sorted(FINDINGS), "")
        cells |= {"Pneumonia": ("1.0", "0.0", "-1.0")[i % 3]}
        if i != 8:
            findings.append({"subject_id": subject, "study_id": study, **cells})
        if i != 2:
            text = root / reports / folder.with_suffix(".txt")
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"FINDINGS: case {i}.\nIMPRESSION: Pneumonia, or none.\n")
    for name, rows in (("metadata", metadata), ("split", split), ("chexpert", findings)):
        write_csv(root / f"mimic-cxr-2.0.0-{name}{end}", rows)
    return root


# --- importing them


def quarantine(result: ImportResult) -> dict[str, str]:
    """record_id -> reason."""
    with Path(result.quarantine or "").open(newline="") as file:
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


def found(reader: str, tree: Path | None, **data: Any) -> dict[str, Found]:
    """what -> the line of the layout check."""
    return {line.what: line for line in plan(reader, tree, **data).found}


def plan(reader: str, tree: Path | None, **data: Any) -> ImportPlan:
    """The plan of a reader, with these keys in [data]."""
    return get_reader(reader)(parse_config({"data": {"image_size": 64, **data}}).data, tree)


def load_all(plan: ImportPlan) -> list[LoadedRecord]:
    """Every record of a plan."""
    return [plan.records.load(i) for i in range(len(plan.records))]


def record_ids(plan: ImportPlan) -> list[str]:
    """Every identifier of a plan."""
    return [plan.records.record_id(i) for i in range(len(plan.records))]
