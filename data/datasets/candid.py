"""CANDID-PTX (Feng et al. 2021) as unpacked: a CSV of reports and pneumothorax masks, CSVs of tubes and rib fractures.

Input: the folder with ``Pneumothorax_reports.csv``, the CSVs whose names hold ``tube`` and ``rib``, and images named
by their SOPInstanceUID, with or without a suffix, anywhere below it. Output: one record per image with up to three
masks, three labels and the report. The patient is the part of ``filename`` before the first ``_``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import (
    ListedImages,
    ListedRecords,
    folders_of,
    need_file,
    read_columns,
    set_folder,
    spread,
    stem_of,
    with_gzip,
)
from radpref.data.datasets.outlines import check_convention, convention_of, decode_masks, is_empty
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import frame, read_radiograph
from radpref.data.imaging.rle import Convention
from radpref.data.study.splits import hashed_split

DATASET = "candid"
STRUCTURES = ("pneumothorax", "rib_fractures", "chest_tubes")
TABLE_WORDS = {"rib_fractures": "rib", "chest_tubes": "tube"}
"""Structure -> word in the name of its CSV: ``acute_rib_fracture.csv`` or ``Rib_fracture_mask_rle.csv``, and
``chest_tube.csv``."""
PUBLISHED_IMAGES = 19_237
N_SAMPLED = 50
"""Masks of each structure on which the run-length convention is tried."""


@dataclass(frozen=True)
class _Image:
    image: str
    path: Path
    filenames: tuple[str, ...]
    report: str | None
    texts: Mapping[str, tuple[str, ...]]  # structure -> texts, () where the image is not listed; absent: no file


@dataclass(frozen=True)
class _Images(ListedRecords):
    """Rows are EncodedPixels, filename, Report; others: structure that has a file -> image -> texts."""

    dataset = DATASET
    others: Mapping[str, Mapping[str, tuple[str, ...]]]
    conventions: Mapping[str, Convention]

    def image(self, i: int) -> _Image:
        image, rows = self.listed.ids[i], self.listed.rows_of(i)
        names = tuple(dict.fromkeys(name for _, name, _ in rows))
        path = self.listed.path(i, *(stem for name in names if (stem := stem_of(name))))
        report = next((text for _, _, text in rows if text), None)
        texts = {"pneumothorax": tuple(text for text, _, _ in rows)}
        texts |= {structure: listed.get(image, ()) for structure, listed in self.others.items()}
        return _Image(image, path, names, report, texts)

    def load(self, i: int) -> LoadedRecord:
        config, row = self.config, self.image(i)
        patients = sorted({_patient(name) for name in row.filenames})
        if len(patients) > 1:
            raise InvalidInput(f"image {row.image} belongs to patients {' and '.join(patients)}; keep the rows of one")
        if not patients[0]:
            raise InvalidInput(f"image {row.image} has no filename, so no patient; fill it in")
        labels = {name: _label(row, name) for name in kept_labels(config, STRUCTURES)}
        texts = {name: row.texts.get(name, ()) for name in self.conventions}
        masks = decode_masks(texts, self.conventions, config.rle_first)
        image, framed = frame(read_radiograph(row.path), masks, config.image_size, scaled=masks)
        return Record(
            record_id=self.record_id(i),
            dataset=DATASET,
            patient_id=patients[0],
            split=hashed_split(DATASET, patients[0], config.seed, config.split_fractions),
            image=image,
            masks=framed,
            labels=labels,
            caption=None if row.report else finding_caption(labels),
            report=row.report,
        )


def read_candid(config: DataConfig, path: Path | None) -> ImportPlan:
    """Plan one record per image of the reports table, its rows united."""
    root = set_folder(path, "candid")
    kept_labels(config, STRUCTURES)
    file = need_file(
        root, with_gzip("Pneumothorax_reports.csv"), "it comes with the images, under the data use agreement"
    )
    table = read_columns(file, ["SOPInstanceUID", "EncodedPixels", "filename"], ["Report"])
    tables = {structure: _table_of(root, word) for structure, word in TABLE_WORDS.items()}
    others = {structure: _texts_of(place) for structure, place in tables.items() if place is not None}
    conventions = _conventions(config, table, others)
    listed = ListedImages.of(root, table, "SOPInstanceUID", ["EncodedPixels", "filename", "Report"])
    records = _Images(config, listed, others, conventions)
    images = [records.image(i) for i in range(len(records))]
    files = listed.need_files((image.path for image in images), "the image folder")
    found = _counts(records, images, files, tables)
    inputs = (file, *(place for place in tables.values() if place is not None))
    return ImportPlan(records, found, inputs)


def _table_of(root: Path, word: str) -> Path | None:
    """The CSV in or directly below ``root`` whose name holds ``word`` and which has the columns of a mask table."""
    for folder in folders_of(root):
        for place in sorted(folder.glob("*.csv*")):
            if word in place.name.lower():
                header = {str(name).strip() for name in pd.read_csv(place, nrows=0, encoding="utf-8-sig").columns}
                if {"anon_SOPUID", "mask_rle"} <= header:
                    return place
    return None


def _texts_of(place: Path) -> dict[str, tuple[str, ...]]:
    table = read_columns(place, ["anon_SOPUID", "mask_rle"])
    return {str(image): tuple(rows) for image, rows in table.groupby("anon_SOPUID")["mask_rle"]}


def _conventions(
    config: DataConfig, table: pd.DataFrame, others: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> dict[str, Convention]:
    """Structure -> convention, for the structures of study.toml that have masks; checked on a sample of them."""
    found: dict[str, Convention] = {}
    for structure in STRUCTURES:
        if structure not in config.structures:
            continue
        texts = (
            [str(text) for text in table["EncodedPixels"]]
            if structure == "pneumothorax"
            else [text for rows in others.get(structure, {}).values() for text in rows]
        )
        drawn = [text for text in texts if text and not is_empty(text)]
        drawn = [drawn[i] for i in spread(len(drawn), N_SAMPLED)]
        chosen = convention_of(config, structure, None)
        if drawn:
            check_convention(drawn, chosen, config, structure)
        found[structure] = chosen or "relative"  # without a mask nothing is decoded
    return found


def _counts(
    records: _Images, images: list[_Image], files: Found, tables: Mapping[str, Path | None]
) -> tuple[Found, ...]:
    patients = [{_patient(name) for name in image.filenames} for image in images]
    shared = sum(len(names) > 1 for names in patients)
    lines = [
        Found(
            "images",
            len(images),
            PUBLISHED_IMAGES,
            f"{len(records.listed.rows)} rows; several rows of an image are united",
        ),
        Found(
            "patients", len(set[str]().union(*patients) - {""}), None, f"{shared} images name two and are quarantined"
        ),
        Found("reports", sum(image.report is not None for image in images), None, f"of {len(images)} images"),
        files,
    ]
    for structure in STRUCTURES:
        positive = sum(_label(image, structure) == 1 for image in images)
        notes = []
        if structure in tables and tables[structure] is None:
            notes.append(f"no CSV with '{TABLE_WORDS[structure]}' in its name: the label is unknown")
        if structure not in records.config.structures:
            notes.append("masks are left out: name it in data.structures")
        lines.append(Found(f"images with {structure}", positive, None, "; ".join(notes)))
    return tuple(lines)


def _patient(filename: str) -> str:
    return filename.partition("_")[0]


def _label(image: _Image, structure: str) -> float | None:
    """1 where a mask is given, 0 where "-1" is or a table lists other images only, None where nothing is known."""
    texts = image.texts.get(structure)
    if texts is None:
        return None
    if any(text and not is_empty(text) for text in texts):
        return 1.0
    return 0.0 if not texts or any(map(is_empty, texts)) else None
