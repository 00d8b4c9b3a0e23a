"""The ``table`` reader: a CSV or parquet file of image paths, patients, splits, texts, labels and masks.

Input: the file and the column map ``[data.columns]`` of study.toml. Output: planned records, square at
``image_size``: resized by area, padded with black, never distorted. docs/data.md shows the form of the map.
"""

from __future__ import annotations

import difflib
import re
import string
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from data.config import ColumnsConfig, DataConfig
from data.errors import InvalidInput, NotFound
from data.framing import frame, read_mask, read_radiograph
from data.images import GrayImage, Mask
from data.labels import LabelRule, parse_rule
from data.readers import Found, ImportPlan, Planned, PlannedRecord, Record
from data.splits import assign_splits, canonical_split

Row = dict[str, str]


def read_table(config: DataConfig, path: Path | None = None) -> ImportPlan:
    """One planned record per row of the file at ``path``; a row that cannot be used raises from its ``load()``.

    Raises:
        NotFound: the file is missing.
        InvalidInput: the file cannot be read, a column of the map is missing, or the map itself is wrong.
    """
    if path is None:
        raise InvalidInput("the table reader needs a file; give PATH or set data.path in study.toml")
    columns, table = config.columns, read_table_file(path)
    rules = [parse_rule(text) for text in columns.labels]
    _check_map(config, rules, list(table.columns), path)
    for column, value in columns.where.items():
        table = table[table[column] == value]
    if table.empty:
        raise InvalidInput(f"{path} has no row to read; check the table and data.columns.where")
    rows: list[Row] = [{str(key): str(cell) for key, cell in row.items()} for row in table.to_dict("records")]
    splits = _splits(rows, config)
    ids = [_record_id(row, columns, path) for row in rows]
    plan = _Table(config, path, rules, splits)
    found = (Found(f"rows of {path.name}", len(rows)), Found("patients", len(splits)))
    return ImportPlan(Planned(len(rows), partial(_planned, plan, rows, _number_repeats(ids))), found, (path,))


@dataclass(frozen=True)
class _Table:
    config: DataConfig
    path: Path
    rules: list[LabelRule]
    splits: dict[str, str]


def _number_repeats(ids: list[str]) -> list[str]:
    """Identifiers made unique: a repeated one gets ``#row<number>``, which its record explains when it is loaded."""
    seen: set[str] = set()
    for i, record_id in enumerate(ids):
        if record_id in seen:
            ids[i] = f"{record_id}#row{i + 2}"
        seen.add(record_id)
    return ids


def _planned(table: _Table, rows: list[Row], ids: list[str], i: int) -> PlannedRecord:
    return PlannedRecord(ids[i], partial(_load, table, rows[i], ids[i]))


def read_table_file(path: Path) -> pd.DataFrame:
    """A CSV or parquet file with every cell as text ("" where blank) and stripped column names."""
    if not path.is_file():
        raise NotFound(f"no table at {path}; give the CSV or parquet file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
            table = table.astype(object).where(table.notna(), "").astype(str)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parse errors and UnicodeDecodeError are ValueErrors
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{path} is not a readable table ({reason}); mend or export it") from error
    table.columns = [str(name).strip() for name in table.columns]
    return table


def _check_map(config: DataConfig, rules: list[LabelRule], present: list[str], path: Path) -> None:
    columns = config.columns
    for key in ("image", "patient"):
        if getattr(columns, key) is None:
            raise InvalidInput(f"data.columns.{key} is not set; name the column of {path.name} that holds it")
    unknown = sorted(set(columns.mask) - set(config.structures))
    if unknown:
        raise InvalidInput(f"data.columns.mask.{unknown[0]}: add {unknown[0]!r} to data.structures or mend the name")
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"data.columns.labels names {twice[0]!r} twice; keep one")
    single = [columns.image, columns.patient, columns.record, columns.split, columns.report]
    wanted = [name for name in single if name is not None] + [rule.column for rule in rules]
    for name in [*wanted, *_text_columns(columns), *columns.mask.values(), *columns.where]:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(present)}"
            raise InvalidInput(f"{path} has no column '{name}'; {hint}")


def _text_columns(columns: ColumnsConfig) -> list[str]:
    if columns.text is None:
        return []
    if "{" not in columns.text:
        return [columns.text]
    try:
        return [name for _, name, _, _ in string.Formatter().parse(columns.text) if name is not None]
    except ValueError as error:
        raise InvalidInput(f"data.columns.text = {columns.text!r}: {error}; write {{column}} in braces") from error


def _record_id(row: Row, columns: ColumnsConfig, path: Path) -> str:
    return f"{path.resolve().parent.name}/{row[columns.record or columns.image or '']}"


def _splits(rows: list[Row], config: DataConfig) -> dict[str, str]:
    """Patient -> split. A patient whose rows disagree keeps the most protected one (test, then val)."""
    columns = config.columns
    patients = [row[columns.patient or ""].strip() for row in rows]
    if columns.split is None:
        return assign_splits((name for name in patients if name), config.seed)
    rank = {"train": 0, "val": 1, "test": 2}
    found: dict[str, str] = {}
    for patient, row in zip(patients, rows, strict=True):
        try:
            split = canonical_split(row[columns.split])
        except InvalidInput:
            continue
        if rank[split] >= rank[found.get(patient, "train")]:
            found[patient] = split
    return found


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


def _load(table: _Table, row: Row, record_id: str) -> Record:
    columns, folder = table.config.columns, table.path.resolve().parent
    problem = _row_problem(row, columns, table.splits)
    own_id = _record_id(row, columns, table.path)
    if record_id != own_id:
        problem = f"row {record_id.removeprefix(own_id + '#row')} repeats {own_id}; keep one of them"
    if problem is not None:
        raise InvalidInput(problem)
    patient = row[columns.patient or ""].strip()
    caption, report = _texts(row, columns)
    image, masks = load_images(table.path.parent, row, table.config)
    return Record(
        record_id=record_id,
        dataset=folder.name,
        patient_id=patient,
        split=table.splits[patient],
        image=image,
        masks=masks,
        labels={rule.name: rule.read(row, columns.uncertain) for rule in table.rules},
        caption=caption,
        report=report,
        extra={key: cell for key, cell in row.items() if cell and key not in _used(columns)},
    )


def _used(columns: ColumnsConfig) -> set[str | None]:
    """Columns that are not repeated in ``extra``: paths, identifiers and free texts."""
    texts = {columns.text, columns.report} if columns.text and "{" not in columns.text else {columns.report}
    return {columns.image, columns.patient, columns.split, *texts, *columns.mask.values()}


def _texts(row: Row, columns: ColumnsConfig) -> tuple[str | None, str | None]:
    """(caption, report): the caption is the cleaned text, the report the text as it stands."""
    text = None
    if columns.text is not None:
        template = columns.text if "{" in columns.text else None
        text = template.format_map(row) if template else row[columns.text]
    report = row[columns.report] if columns.report else text
    caption = clean_caption(text if text is not None else report or "")
    return caption or None, report or None


def clean_caption(text: str) -> str:
    """One line for the text encoder: white space folded, sentences joined by commas, no closing full stop.

    "Pediatric AP chest radiograph. Bacterial pneumonia." -> "Pediatric AP chest radiograph, bacterial pneumonia"
    """
    sentences = [part.strip() for part in re.split(r"[.;]\s+", " ".join(text.split())) if part.strip(" .;,")]
    joined = [part if k == 0 or part[:2].isupper() else part[0].lower() + part[1:] for k, part in enumerate(sentences)]
    return ", ".join(joined).strip(" .;,")


def load_images(folder: Path, row: Row, config: DataConfig) -> tuple[GrayImage, dict[str, Mask]]:
    """The image and masks of one row, on the study's square.

    Raises:
        NotFound, InvalidInput: a file is missing, unreadable, synthetic, or a mask has another size than its image.
    """
    image = read_radiograph(folder / row[config.columns.image or ""].strip())
    masks = {
        structure: read_mask(folder / row[column].strip())
        for structure, column in config.columns.mask.items()
        if row[column].strip()
    }
    return frame(image, masks, config.image_size)
