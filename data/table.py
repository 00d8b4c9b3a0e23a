"""The ``table`` reader: a CSV or parquet file of image paths, patients, splits, texts, labels and masks.

Input: the file and the column map ``[data.columns]`` of study.toml. Output: planned records, square at
``image_size``: resized by area, padded with black, never distorted. docs/data.md shows the form of the map.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data.config import ColumnsConfig, DataConfig
from data.errors import InvalidInput, NotFound
from data.images import GrayImage, Mask, is_marked_synthetic, read_image
from data.labels import LabelRule, parse_rule
from data.readers import PlannedRecord, Record
from data.splits import assign_splits, canonical_split

Row = dict[str, str]


def plan_table(config: DataConfig, path: Path) -> list[PlannedRecord]:
    """One planned record per row; a row that cannot be used raises from its ``load()``.

    Raises:
        NotFound: the file is missing.
        InvalidInput: the file cannot be read, a column of the map is missing, or the map itself is wrong.
    """
    columns, table = config.columns, read_table_file(path)
    rules = [parse_rule(text) for text in columns.labels]
    _check_map(config, rules, list(table.columns), path)
    for column, value in columns.where.items():
        table = table[table[column] == value]
    if table.empty:
        raise InvalidInput(f"{path} has no row to read; check the table and data.columns.where")
    rows: list[Row] = [{str(key): str(cell) for key, cell in row.items()} for row in table.to_dict("records")]
    splits = _splits(rows, config)
    planned, seen = [], set[str]()
    for number, row in enumerate(rows, start=2):
        record_id = _record_id(row, columns, path)
        problem = _row_problem(row, columns, splits)
        if record_id in seen:
            record_id, problem = f"{record_id}#row{number}", f"row {number} repeats {record_id}; keep one of them"
        seen.add(record_id)
        planned.append(PlannedRecord(record_id, _loader(config, path, row, rules, splits, record_id, problem)))
    return planned


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


def _loader(
    config: DataConfig,
    path: Path,
    row: Row,
    rules: list[LabelRule],
    splits: dict[str, str],
    record_id: str,
    problem: str | None,
) -> Callable[[], Record]:
    columns = config.columns

    def load() -> Record:
        if problem is not None:
            raise InvalidInput(problem)
        patient = row[columns.patient or ""].strip()
        caption, report = _texts(row, columns)
        image, masks = load_images(path.parent, row, config)
        return Record(
            record_id=record_id,
            dataset=path.resolve().parent.name,
            patient_id=patient,
            split=splits[patient],
            image=image,
            masks=masks,
            labels={rule.name: rule.read(row, columns.uncertain) for rule in rules},
            caption=caption,
            report=report,
            extra={key: cell for key, cell in row.items() if cell and key not in _used(columns)},
        )

    return load


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
    """The image and masks of one row, padded to square and resized to ``image_size``.

    Raises:
        NotFound, InvalidInput: a file is missing, unreadable, synthetic, or a mask has another size than its image.
    """
    path = folder / row[config.columns.image or ""].strip()
    if is_marked_synthetic(path):
        raise InvalidInput(f"{path} carries the synthetic mark of radpref; it is no real radiograph, remove it")
    image = read_image(path)
    if min(image.shape) < 16:
        raise InvalidInput(f"{path} is {image.shape[1]}x{image.shape[0]} pixels; give at least 16x16")
    if image.min() == image.max():
        raise InvalidInput(f"{path} has one grey value only; replace or remove it")
    masks: dict[str, Mask] = {}
    for structure, column in config.columns.mask.items():
        if not row[column].strip():
            continue
        mask_path = folder / row[column].strip()
        mask = read_image(mask_path)
        if mask.shape != image.shape:
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            raise InvalidInput(f"mask {mask_path} is {sizes}; export both at one size")
        square = fit_mask(mask > 0, config.image_size)
        if square.any():
            masks[structure] = square
    return fit_image(image, config.image_size), masks


def fit_image(image: GrayImage, size: int) -> GrayImage:
    """An image (H, W) on a black (size, size) square, aspect kept: area mean down, bicubic up; dtype kept."""
    if image.shape == (size, size):
        return image
    top = np.iinfo(image.dtype).max
    scaled = np.round(_fit(image.astype(np.float32), size)).clip(0, top)
    return scaled.astype(np.uint8) if image.dtype == np.uint8 else scaled.astype(np.uint16)


def fit_mask(mask: Mask, size: int) -> Mask:
    """A mask (H, W) bool placed exactly as :func:`fit_image` places its image; a pixel is in from half coverage."""
    return mask if mask.shape == (size, size) else _fit(mask.astype(np.float32), size, smooth=False) >= 0.5


def _fit(values: np.ndarray, size: int, *, smooth: bool = True) -> np.ndarray:
    height, width = values.shape
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    method = Image.Resampling.BICUBIC if smooth and scale > 1 else Image.Resampling.BOX
    resized = np.asarray(Image.fromarray(values).resize((w, h), method))
    square = np.zeros((size, size), np.float32)
    top, left = (size - h) // 2, (size - w) // 2
    square[top : top + h, left : left + w] = resized
    return square
