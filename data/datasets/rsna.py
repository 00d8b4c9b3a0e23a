"""RSNA Pneumonia Detection Challenge as unpacked: a CSV of boxes and one DICOM file per patient identifier.

Input: the folder with ``stage_2_train_labels.csv`` and ``stage_2_train_images/<patientId>.dcm`` (or flat, or converted
to PNG or JPEG). Output: one record per patient identifier, its boxes together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import (
    ListedImages,
    ListedRecords,
    find_file,
    need_file,
    read_columns,
    set_folder,
    with_gzip,
)
from radpref.data.datasets.outlines import box_mask
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph
from radpref.data.imaging.images import Mask
from radpref.data.study.splits import hashed_split

DATASET = "rsna"
STRUCTURE = "lesion"
LABELS = ("pneumonia", "normal")
PUBLISHED = (30_227, 26_684, 6_012)
"""Rows, patient identifiers, and those with Target 1."""
BOX = ("x", "y", "width", "height")
PATIENTS = "a patient identifier is one image; the set does not say which of them are one person"


@dataclass(frozen=True)
class _Images(ListedRecords):
    """Rows are x, y, width, height, Target as text; classes: patient identifier -> class."""

    dataset = DATASET
    classes: Mapping[str, str]

    def load(self, i: int) -> LoadedRecord:
        config, patient, rows = self.config, self.listed.ids[i], self.listed.rows_of(i)
        kind, target, boxes = self.classes.get(patient, ""), _target(patient, rows), _boxes(patient, rows)
        labels: dict[str, float | None] = {"pneumonia": target, "normal": None}
        if kind:
            labels["normal"] = float(kind == "Normal")
        elif target == 1:
            labels["normal"] = 0.0
        image = read_radiograph(self.listed.path(i))
        masks: dict[str, Mask] = {}
        if STRUCTURE in config.structures and boxes:
            masks[STRUCTURE] = box_mask(boxes, (image.shape[0], image.shape[1]))
        square, framed = frame(image, masks, config.image_size)
        extra = {"class": kind} if kind else {}
        return Record(
            record_id=self.record_id(i),
            dataset=DATASET,
            patient_id=patient,
            split=hashed_split(DATASET, patient, config.seed, config.split_fractions),
            image=square,
            masks=framed,
            labels={name: labels[name] for name in kept_labels(config, LABELS)},
            caption=finding_caption(labels),
            extra=extra | ({"boxes": json.dumps(boxes)} if boxes else {}),
        )


def read_rsna(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan one record per patient identifier."""
    root = set_folder(path, "rsna")
    kept_labels(config, LABELS)
    file = need_file(root, with_gzip("stage_2_train_labels.csv"), "it comes with the competition's data")
    table = read_columns(file, ["patientId", *BOX, "Target"])
    detailed = find_file(root, with_gzip("stage_2_detailed_class_info.csv"))
    listed = ListedImages.of(root, table, "patientId", [*BOX, "Target"])
    images = _Images(config, listed, {} if detailed is None else _classes(detailed))
    files = listed.need_files(map(listed.path, range(len(listed))), "stage_2_train_images")
    inputs = (file,) if detailed is None else (file, detailed)
    return ImportPlan(images, (*_counts(images, file), files), inputs)


def _classes(file: Path) -> dict[str, str]:
    """Patient identifier -> "Normal", "No Lung Opacity / Not Normal" or "Lung Opacity"."""
    table = read_columns(file, ["patientId", "class"])
    return dict(zip(table["patientId"].astype(str), table["class"].astype(str), strict=True))


def _counts(images: _Images, file: Path) -> tuple[Found, ...]:
    n_rows, n_images, n_positive = PUBLISHED
    positive = sum(any(row[-1] == "1" for row in images.listed.rows_of(i)) for i in range(len(images)))
    normal = sum(name == "Normal" for name in images.classes.values())
    lacks = "" if images.classes else "put stage_2_detailed_class_info.csv there: Target 0 alone is not normal"
    boxes = (
        "" if STRUCTURE in images.config.structures else f"boxes become masks where '{STRUCTURE}' is in data.structures"
    )
    return (
        Found(f"rows of {file.name}", len(images.listed.rows), n_rows, boxes),
        Found("patient identifiers", len(images), n_images, PATIENTS),
        Found("with pneumonia", positive, n_positive),
        Found("normal", normal, None, lacks),
    )


def _target(patient: str, rows: Sequence[tuple[str, ...]]) -> float:
    targets = sorted({values[-1] for values in rows})
    wrong = next((value for value in targets if value not in ("0", "1")), None)
    if wrong is not None:
        raise InvalidInput(f"Target of {patient} is {wrong!r}; use 1 or 0")
    if len(targets) > 1:
        raise InvalidInput(f"Target of {patient} is 0 in one row and 1 in another; keep one")
    return float(targets[0])


def _boxes(patient: str, rows: Sequence[tuple[str, ...]]) -> list[tuple[float, float, float, float]]:
    """Boxes (x, y, width, height), pixels of the file's own size; rows without a box are passed over."""
    boxes = []
    for values in rows:
        cells = values[:-1]
        if not any(cells):
            continue
        try:
            x, y, width, height = (float(cell) for cell in cells)
        except ValueError as error:
            raise InvalidInput(f"box {','.join(cells)!r} of {patient} is not four numbers; fix the row") from error
        boxes.append((x, y, width, height))
    return boxes
