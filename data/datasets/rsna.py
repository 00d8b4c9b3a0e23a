"""RSNA Pneumonia Detection Challenge as unpacked: a CSV of boxes and one DICOM file per patient identifier.

Input: the folder with ``stage_2_train_labels.csv`` and ``stage_2_train_images/<patientId>.dcm`` (or flat, or converted
to PNG or JPEG). Output: one record per patient identifier, its boxes together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import find_file, image_index, need_file, read_columns, set_folder, with_gzip
from radpref.data.datasets.outlines import box_mask
from radpref.data.datasets.registry import Found, ImportPlan, Planned, PlannedRecord, Record
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
class _Source:
    config: DataConfig
    root: Path
    files: dict[str, str]
    rows: list[tuple[str, ...]]  # x, y, width, height, Target as they stand, sorted by image
    classes: Mapping[str, str]
    ids: tuple[str, ...]
    starts: tuple[int, ...]  # rows of image i: starts[i] up to starts[i + 1]


def read_rsna(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan one record per patient identifier.

    Raises:
        InvalidInput, NotFound: no folder, the table or a column is missing, or none of the images is there.
    """
    root = set_folder(path, "rsna")
    kept_labels(config, LABELS)
    file = need_file(root, with_gzip("stage_2_train_labels.csv"), "it comes with the competition's data")
    table = read_columns(file, ["patientId", *BOX, "Target"]).sort_values("patientId", kind="stable", ignore_index=True)
    detailed = find_file(root, with_gzip("stage_2_detailed_class_info.csv"))
    classes = {} if detailed is None else _classes(detailed)
    ids, starts = np.unique(table["patientId"].to_numpy(str), return_index=True)
    files = image_index(root, len(ids))
    rows = list(zip(*(map(str, table[name]) for name in (*BOX, "Target")), strict=True))
    source = _Source(config, root, files, rows, classes, tuple(map(str, ids)), (*map(int, starts), len(table)))
    n_files = sum(image in files for image in source.ids)
    if not n_files:
        raise NotFound(
            f"none of the {len(ids)} images of {file.name} is below {root}; unpack stage_2_train_images there"
        )
    found = _counts(source, file, n_files)
    inputs = (file,) if detailed is None else (file, detailed)
    return ImportPlan(Planned(len(ids), partial(_planned, source)), found, inputs)


def _classes(file: Path) -> dict[str, str]:
    """Patient identifier -> "Normal", "No Lung Opacity / Not Normal" or "Lung Opacity"."""
    table = read_columns(file, ["patientId", "class"])
    return dict(zip(table["patientId"].astype(str), table["class"].astype(str), strict=True))


def _counts(source: _Source, file: Path, n_files: int) -> tuple[Found, ...]:
    n_rows, n_images, n_positive = PUBLISHED
    positive = sum(any(row[-1] == "1" for row in _rows(source, i)) for i in range(len(source.ids)))
    normal = sum(name == "Normal" for name in source.classes.values())
    lacks = "" if source.classes else "put stage_2_detailed_class_info.csv there: Target 0 alone is not normal"
    boxes = (
        "" if STRUCTURE in source.config.structures else f"boxes become masks where '{STRUCTURE}' is in data.structures"
    )
    return (
        Found(f"rows of {file.name}", len(source.rows), n_rows, boxes),
        Found("patient identifiers", len(source.ids), n_images, PATIENTS),
        Found("with pneumonia", positive, n_positive),
        Found("normal", normal, None, lacks),
        Found("image files", n_files, None, f"of {len(source.ids)}; a missing one is quarantined"),
    )


@dataclass(frozen=True)
class _Image:
    patient: str
    place: Path
    rows: tuple[tuple[str, ...], ...]  # x, y, width, height, Target as they stand
    kind: str


def _rows(source: _Source, i: int) -> list[tuple[str, ...]]:
    return source.rows[source.starts[i] : source.starts[i + 1]]


def _planned(source: _Source, i: int) -> PlannedRecord:
    patient = source.ids[i]
    place = source.root / source.files.get(patient, f"{patient}.dcm")
    image = _Image(patient, place, tuple(_rows(source, i)), source.classes.get(patient, ""))
    return PlannedRecord(f"{DATASET}/{patient}", partial(_load, source.config, image))


def _load(config: DataConfig, row: _Image) -> Record:
    target, boxes = _target(row), _boxes(row)
    labels: dict[str, float | None] = {"pneumonia": target, "normal": None}
    if row.kind:
        labels["normal"] = float(row.kind == "Normal")
    elif target == 1:
        labels["normal"] = 0.0
    image = read_radiograph(row.place)
    masks: dict[str, Mask] = {}
    if STRUCTURE in config.structures and boxes:
        masks[STRUCTURE] = box_mask(boxes, (image.shape[0], image.shape[1]))
    square, framed = frame(image, masks, config.image_size)
    extra = {"class": row.kind} if row.kind else {}
    return Record(
        record_id=f"{DATASET}/{row.patient}",
        dataset=DATASET,
        patient_id=row.patient,
        split=hashed_split(DATASET, row.patient, config.seed, config.split_fractions),
        image=square,
        masks=framed,
        labels={name: labels[name] for name in kept_labels(config, LABELS)},
        caption=finding_caption(labels),
        extra=extra | ({"boxes": json.dumps(boxes)} if boxes else {}),
    )


def _target(row: _Image) -> float:
    targets = sorted({values[-1] for values in row.rows})
    wrong = next((value for value in targets if value not in ("0", "1")), None)
    if wrong is not None:
        raise InvalidInput(f"Target of {row.patient} is {wrong!r}; use 1 or 0")
    if len(targets) > 1:
        raise InvalidInput(f"Target of {row.patient} is 0 in one row and 1 in another; keep one")
    return float(targets[0])


def _boxes(row: _Image) -> list[tuple[float, float, float, float]]:
    """Boxes (x, y, width, height), pixels of the file's own size; rows without a box are passed over."""
    boxes = []
    for values in row.rows:
        cells = values[:-1]
        if not any(cells):
            continue
        try:
            x, y, width, height = (float(cell) for cell in cells)
        except ValueError as error:
            raise InvalidInput(f"box {','.join(cells)!r} of {row.patient} is not four numbers; mend the row") from error
        boxes.append((x, y, width, height))
    return boxes
