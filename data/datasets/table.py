"""The ``table`` reader: a table of image paths, patients, splits, texts, labels and masks (files or run lengths).

Input: the file and the column map ``[data.columns]`` of study.toml. Output: planned records, square at
``image_size``: resized by area, padded with black, never distorted. docs/data.md shows the form of the map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pandas as pd

from radpref.data.config.data import ColumnsConfig, DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.column_map import check_map, mapped_columns, mask_columns
from radpref.data.datasets.labels import LabelRule
from radpref.data.datasets.outlines import convention_of, decode_masks
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.datasets.table_file import read_table_file
from radpref.data.imaging.dicom import dicom_facts, is_dicom
from radpref.data.imaging.framing import frame, read_mask, read_radiograph
from radpref.data.imaging.images import GrayImage, Mask
from radpref.data.study.splits import assign_splits, canonical_split
from radpref.data.text.caption_rules import broken_rules

Row = dict[str, str]
N_PROBES = 200
"""Records of which the layout check looks whether the image file is there."""


@dataclass(frozen=True)
class _Table:
    """A table as a plan needs it: rows are made into dictionaries one by one.

    firsts: (N,) position of the row of each record; united: record -> further rows of its image; problems: record ->
    why it cannot be used.
    """

    config: DataConfig
    path: Path
    rules: list[LabelRule]
    cells: pd.DataFrame
    splits: dict[str, str]
    ids: list[str]
    firsts: list[int]
    united: dict[int, list[int]]
    problems: dict[int, str]

    def __len__(self) -> int:
        return len(self.ids)

    def record_id(self, i: int) -> str:
        return self.ids[i]

    def _row(self, position: int) -> Row:
        return {str(key): str(cell) for key, cell in self.cells.iloc[position].items()}

    def load(self, i: int) -> LoadedRecord:
        columns, row = self.config.columns, self._row(self.firsts[i])
        problem = _row_problem(row, columns, self.splits) or self.problems.get(i)
        if problem is not None:
            raise InvalidInput(problem)
        patient = row[columns.patient or ""].strip()
        caption, report = _texts(row, columns)
        labels = {rule.name: rule.read(row, columns.uncertain) for rule in self.rules}
        rows = [row, *(self._row(k) for k in self.united.get(i, ()))]
        image, masks = _load_images(self.path.parent, rows, self.config)
        path = self.path.parent / row[columns.image or ""].strip()
        facts = dicom_facts(path) if is_dicom(path) else {}
        return Record(
            record_id=self.ids[i],
            dataset=self.path.resolve().parent.name,
            patient_id=patient,
            split=self.splits[patient],
            image=image,
            masks=masks,
            labels=labels,
            caption=caption,
            report=report,
            extra=facts | {key: cell for key, cell in row.items() if cell and key not in _used(columns)},
        )


def read_table(config: DataConfig, path: Path | None = None) -> ImportPlan:
    """One planned record per image of the file at ``path``; one that cannot be used raises from its ``load()``.

    Several rows of one image are united where the map names masks and they agree in everything else; any other
    repetition is refused.
    """
    if path is None:
        raise InvalidInput("the table reader needs a file; give PATH or set data.path in study.toml")
    cells = read_table_file(path)
    rules = check_map(config, list(cells.columns), path)
    for column, value in config.columns.where.items():
        cells = cells[cells[column] == value]
    if cells.empty:
        raise InvalidInput(f"{path} has no row to read; check the table and data.columns.where")
    table = _group(config, path, rules, cells)
    found = [Found(f"rows of {path.name}", len(cells)), Found("images", len(table.ids))]
    found += [Found("patients", len(table.splits)), _probe(table)]
    return ImportPlan(table, tuple(found), (path,))


def _group(config: DataConfig, path: Path, rules: list[LabelRule], cells: pd.DataFrame) -> _Table:
    columns, folder = config.columns, path.resolve().parent.name
    names = cells[columns.record or columns.image].tolist()
    numbers = [int(number) + 2 for number in cells.index]  # lines of the file, also after `where`
    has_masks = bool(mask_columns(columns))
    agreeing = [cells[name].to_numpy(object) for name in mapped_columns(columns, rules)]
    table = _Table(config, path, rules, cells, _splits(cells, config), [], [], {}, {})
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        record_id, known = f"{folder}/{name}", seen.get(name)
        if known is not None and has_masks and all(cell[row] == cell[table.firsts[known]] for cell in agreeing):
            table.united.setdefault(known, []).append(row)
            continue
        if known is not None:
            record_id, how = f"{record_id}#row{numbers[row]}", " in another way" if has_masks else ""
            table.problems[len(table.ids)] = f"row {numbers[row]} repeats {folder}/{name}{how}; keep one of them"
        else:
            seen[name] = len(table.ids)
        table.ids.append(record_id)
        table.firsts.append(row)
    return table


def _splits(cells: pd.DataFrame, config: DataConfig) -> dict[str, str]:
    """Patient -> split. A patient whose rows disagree keeps the most protected one (test, then val)."""
    patients = [str(cell).strip() for cell in cells[config.columns.patient]]
    if config.columns.split is None:
        return assign_splits((name for name in patients if name), config.seed, config.split_fractions)
    rank = {"train": 0, "val": 1, "test": 2}
    found: dict[str, str] = {}
    for patient, cell in zip(patients, cells[config.columns.split], strict=True):
        try:
            split = canonical_split(str(cell))
        except InvalidInput:
            continue
        if rank[split] >= rank[found.get(patient, "train")]:
            found[patient] = split
    return found


def _probe(table: _Table) -> Found:
    column, n = table.config.columns.image, min(N_PROBES, len(table.ids))
    paths = table.cells[column].iloc[table.firsts[:n]]
    there = sum((table.path.parent / str(cell).strip()).is_file() for cell in paths)
    return Found(f"image files of the first {n}", there, n)


def _row_problem(row: Row, columns: ColumnsConfig, splits: dict[str, str]) -> str | None:
    patient = row[columns.patient or ""].strip()
    if not patient:
        return f"no patient in column '{columns.patient}'; fill it in"
    if not row[columns.image or ""].strip():
        return f"no image in column '{columns.image}'; fill it in"
    if columns.split is not None:
        try:
            split = canonical_split(row[columns.split])
        except InvalidInput as error:
            return str(error)
        if split != splits[patient]:
            return f"patient {patient} is in {split} and in {splits[patient]}; keep a patient in one split"
    return None


def _used(columns: ColumnsConfig) -> set[str | None]:
    """Columns that are not repeated in ``extra``: paths, identifiers, free texts and masks."""
    texts = {columns.text, columns.report} if columns.text and "{" not in columns.text else {columns.report}
    return {columns.image, columns.patient, columns.split, *texts, *mask_columns(columns)}


def _texts(row: Row, columns: ColumnsConfig) -> tuple[str | None, str | None]:
    """(caption, report): the caption is the cleaned text, the report the text unchanged.

    Without a text column a report is the caption only if it is as short as one.
    """
    text = None
    if columns.text is not None:
        template = columns.text if "{" in columns.text else None
        text = template.format_map(row) if template else row[columns.text]
    report = row[columns.report] if columns.report else text
    caption = clean_caption(text if text is not None else report or "")
    if text is None and broken_rules(caption):
        caption = ""  # too long for a caption: `radpref data caption` writes one
    return caption or None, report or None


def clean_caption(text: str) -> str:
    """One line for the text encoder: white space folded, sentences joined by commas, no closing full stop.

    "Pediatric AP chest radiograph. Bacterial pneumonia." -> "Pediatric AP chest radiograph, bacterial pneumonia"
    """
    sentences = [part.strip() for part in re.split(r"[.;]\s+", " ".join(text.split())) if part.strip(" .;,")]
    joined = [part if k == 0 or part[:2].isupper() else part[0].lower() + part[1:] for k, part in enumerate(sentences)]
    return ", ".join(joined).strip(" .;,")


def _load_images(folder: Path, rows: Sequence[Row], config: DataConfig) -> tuple[GrayImage, dict[str, Mask]]:
    """The image of some rows and the union of their masks, on the study's square."""
    columns = config.columns
    image = read_radiograph(folder / rows[0][columns.image or ""].strip())
    masks: dict[str, Mask] = {}
    for structure, column in columns.mask.items():
        drawn = [read_mask(folder / name) for name in _filled(rows, column)]
        if drawn:
            masks[structure] = reduce(_unite, drawn)
    texts = {structure: _filled(rows, column) for structure, column in columns.rle.items()}
    named = {structure: convention_of(config, structure, None) for structure in texts}
    conventions = {structure: convention for structure, convention in named.items() if convention is not None}
    height, width = columns.rle_size or image.shape
    decoded = decode_masks(texts, conventions, config.rle_first, (height, width))
    return frame(image, masks | decoded, config.image_size, scaled=decoded)


def _filled(rows: Sequence[Row], column: str) -> list[str]:
    """The different cells of a column that hold something, in order."""
    return list(dict.fromkeys(cell for row in rows if (cell := row[column].strip())))


def _unite(one: Mask, other: Mask) -> Mask:
    if one.shape != other.shape:
        sizes = f"{one.shape[1]}x{one.shape[0]} and {other.shape[1]}x{other.shape[0]}"
        raise InvalidInput(f"masks of one image are {sizes}; export all at one size")
    return one | other
