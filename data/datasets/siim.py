"""SIIM-ACR Pneumothorax Segmentation as unpacked: a CSV of run lengths and DICOM files.

Input: the folder that holds ``train-rle.csv`` or ``stage_2_train.csv``, and the files ``<ImageId>.dcm`` anywhere below
it (``dicom-images-train/<study>/<series>/`` or flat). Output: one record per image, its rows united.

The CSV names no patient, so the patient is the PatientID of each file, read when the image is read and kept as a hash
only; the split is a function of that hash, so nothing need be known of the other 12,046 files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import image_index, need_file, read_columns, set_folder, with_gzip
from radpref.data.datasets.outlines import convention_of, decode_masks, is_empty
from radpref.data.datasets.registry import Found, ImportPlan, Planned, PlannedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph
from radpref.data.study.splits import hashed_split

DATASET = "siim"
STRUCTURE = "pneumothorax"
PUBLISHED = (12_954, 12_047, 2_669)
"""Rows, images, and images with pneumothorax of stage 2. The paper's 2,379 are stage 1's images with pneumothorax."""
TABLES = ("stage_2_train.csv", "train-rle.csv")


@dataclass(frozen=True)
class _Source:
    config: DataConfig
    root: Path
    files: dict[str, str]
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    starts: tuple[int, ...]  # rows of image i: starts[i] up to starts[i + 1]


def read_siim(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan one record per image of the table, all its rows united.

    Raises:
        InvalidInput, NotFound: no folder, the table or a column is missing, or none of the images is there.
    """
    root = set_folder(path, "siim")
    kept_labels(config, [STRUCTURE])
    names = [name for table in TABLES for name in with_gzip(table)]
    file = need_file(root, names, "it comes with the competition's data")
    table = read_columns(file, ["ImageId", "EncodedPixels"]).sort_values("ImageId", kind="stable", ignore_index=True)
    ids, starts = np.unique(table["ImageId"].to_numpy(str), return_index=True)
    files = image_index(root, len(ids))
    texts = tuple(table["EncodedPixels"])
    source = _Source(config, root, files, tuple(map(str, ids)), texts, (*map(int, starts), len(table)))
    n_files = sum(image in files for image in source.ids)
    if not n_files:
        raise NotFound(f"none of the {len(ids)} images of {file.name} is below {root}; unpack the .dcm files there")
    return ImportPlan(Planned(len(ids), partial(_planned, source)), _counts(source, file, n_files), (file,))


def _counts(source: _Source, file: Path, n_files: int) -> tuple[Found, ...]:
    n_rows, n_images, n_positive = PUBLISHED
    positive = sum(any(text and not is_empty(text) for text in _texts(source, i)) for i in range(len(source.ids)))
    several = sum(after - before > 1 for before, after in zip(source.starts, source.starts[1:], strict=False))
    masks = (
        "" if STRUCTURE in source.config.structures else f"masks are left out: name '{STRUCTURE}' in data.structures"
    )
    return (
        Found(f"rows of {file.name}", len(source.texts), n_rows, "published: stage 2"),
        Found("images", len(source.ids), n_images, f"{several} have several rows, which are united"),
        Found("images with pneumothorax", positive, n_positive, masks),
        Found("image files", n_files, None, f"of {len(source.ids)}; a missing one is quarantined"),
    )


def _texts(source: _Source, i: int) -> tuple[str, ...]:
    return source.texts[source.starts[i] : source.starts[i + 1]]


def _planned(source: _Source, i: int) -> PlannedRecord:
    image = source.ids[i]
    place = source.root / source.files.get(image, f"{image}.dcm")
    return PlannedRecord(f"{DATASET}/{image}", partial(_load, source.config, image, place, _texts(source, i)))


def _load(config: DataConfig, image_id: str, place: Path, texts: tuple[str, ...]) -> Record:
    image = read_radiograph(place)
    patient = hashed_patient(place)
    labels: dict[str, float | None] = {STRUCTURE: None}
    if any(texts):  # a blank cell says nothing
        labels[STRUCTURE] = float(any(text and not is_empty(text) for text in texts))
    conventions = {STRUCTURE: convention_of(config, STRUCTURE, "relative") or "relative"}
    masks = decode_masks({STRUCTURE: texts}, conventions, config.rle_first)
    image, framed = frame(image, masks, config.image_size, scaled=True)
    return Record(
        record_id=f"{DATASET}/{image_id}",
        dataset=DATASET,
        patient_id=patient,
        split=hashed_split(DATASET, patient, config.seed, config.split_fractions),
        image=image,
        masks={name: mask for name, mask in framed.items() if name in config.structures},
        labels=labels,
        caption=finding_caption(labels),
        extra={"n_rows": str(len(texts))},
    )


def hashed_patient(path: Path) -> str:
    """The PatientID of a DICOM file as 16 hexadecimal digits of its SHA-256; the identifier itself is never kept.

    Raises:
        InvalidInput: the header is unreadable or names no patient.
    """
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        patient = str(header.get("PatientID") or "").strip()
    except Exception as error:  # pydicom raises what it likes
        raise InvalidInput(
            f"{path}: its header is not readable ({' '.join(str(error).split())}); replace it"
        ) from error
    if not patient:
        raise InvalidInput(f"{path} names no patient (PatientID), so no split is safe for it; use the published file")
    return hashlib.sha256(f"{DATASET}/{patient}".encode()).hexdigest()[:16]
