"""SIIM-ACR Pneumothorax Segmentation as unpacked: a CSV of run lengths and DICOM files.

Input: the folder that holds ``train-rle.csv`` or ``stage_2_train.csv``, and the files ``<ImageId>.dcm`` anywhere below
it (``dicom-images-train/<study>/<series>/`` or flat). Output: one record per image, its rows united.

The CSV names no patient, so the patient is the PatientID of each file, read when the image is read and kept as a hash
only; the split is a function of that hash, so nothing need be known of the other 12,046 files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import ListedImages, ListedRecords, need_file, read_columns, set_folder, with_gzip
from radpref.data.datasets.outlines import convention_of, decode_masks, is_empty
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph
from radpref.data.study.splits import hashed_split

DATASET = "siim"
STRUCTURE = "pneumothorax"
PUBLISHED = (12_954, 12_047, 2_669)
"""Rows, images, and images with pneumothorax of stage 2. The paper's 2,379 are stage 1's images with pneumothorax."""
TABLES = ("stage_2_train.csv", "train-rle.csv")


@dataclass(frozen=True)
class _Images(ListedRecords):
    dataset = DATASET

    def texts(self, i: int) -> list[str]:
        return [text for (text,) in self.listed.rows_of(i)]

    def load(self, i: int) -> LoadedRecord:
        config, texts, path = self.config, self.texts(i), self.listed.path(i)
        image = read_radiograph(path)
        patient = hashed_patient(path)
        labels: dict[str, float | None] = {STRUCTURE: None}
        if any(texts):  # a blank cell says nothing
            labels[STRUCTURE] = float(any(text and not is_empty(text) for text in texts))
        conventions = {STRUCTURE: convention_of(config, STRUCTURE, "relative") or "relative"}
        masks = decode_masks({STRUCTURE: texts}, conventions, config.rle_first)
        square, framed = frame(image, masks, config.image_size, scaled=masks)
        return Record(
            record_id=self.record_id(i),
            dataset=DATASET,
            patient_id=patient,
            split=hashed_split(DATASET, patient, config.seed, config.split_fractions),
            image=square,
            masks={name: mask for name, mask in framed.items() if name in config.structures},
            labels=labels,
            caption=finding_caption(labels),
            extra={"n_rows": str(len(texts))},
        )


def read_siim(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan one record per image of the table, all its rows united."""
    root = set_folder(path, "siim")
    kept_labels(config, [STRUCTURE])
    names = [name for table in TABLES for name in with_gzip(table)]
    file = need_file(root, names, "it comes with the competition's data")
    table = read_columns(file, ["ImageId", "EncodedPixels"])
    images = _Images(config, ListedImages.of(root, table, "ImageId", ["EncodedPixels"]))
    files = images.listed.need_files(map(images.listed.path, range(len(images))), "the .dcm files")
    return ImportPlan(images, (*_counts(images, file), files), (file,))


def _counts(images: _Images, file: Path) -> tuple[Found, ...]:
    n_rows, n_images, n_positive = PUBLISHED
    texts = [images.texts(i) for i in range(len(images))]
    positive = sum(any(text and not is_empty(text) for text in rows) for rows in texts)
    several = sum(len(rows) > 1 for rows in texts)
    masks = (
        "" if STRUCTURE in images.config.structures else f"masks are left out: name '{STRUCTURE}' in data.structures"
    )
    return (
        Found(f"rows of {file.name}", len(images.listed.rows), n_rows, "published: stage 2"),
        Found("images", len(images), n_images, f"{several} have several rows, which are united"),
        Found("images with pneumothorax", positive, n_positive, masks),
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
