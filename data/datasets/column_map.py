"""The column map ``[data.columns]`` against a table: which columns it needs, and what is wrong with it.

Input: the configuration and the table's column names. Output: label rules, or the first problem in one line.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from radpref.data.config.data import ColumnsConfig, DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.labels import LabelRule, parse_rule
from radpref.data.datasets.outlines import convention_of
from radpref.data.datasets.table_file import nearest


def check_map(config: DataConfig, present: Sequence[str], path: Path) -> list[LabelRule]:
    """The label rules of a map that fits the table at ``path`` with the columns ``present``.

    Raises:
        InvalidInput: a column is missing (the nearest is named), or the map contradicts itself or [data].
    """
    columns = config.columns
    for key in ("image", "patient"):
        if getattr(columns, key) is None:
            raise InvalidInput(f"data.columns.{key} is not set; name the column of {path.name} that holds it")
    rules = [parse_rule(text) for text in columns.labels]
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"data.columns.labels names {twice[0]!r} twice; keep one")
    _check_masks(config)
    for name in [*mapped_columns(columns, rules), *mask_columns(columns), *columns.where]:
        if name not in present:
            raise InvalidInput(f"{path} has no column '{name}'; {nearest(name, present)}")
    return rules


def _check_masks(config: DataConfig) -> None:
    columns = config.columns
    for key, structures in (("mask", columns.mask), ("rle", columns.rle)):
        for structure in sorted(set(structures) - set(config.structures)):
            raise InvalidInput(f"data.columns.{key}.{structure}: add {structure!r} to data.structures or fix the name")
    for structure in sorted(set(columns.mask) & set(columns.rle)):
        raise InvalidInput(f"{structure!r} is in data.columns.mask and in data.columns.rle; keep one")
    for structure in sorted(columns.rle):
        if convention_of(config, structure, None) is None:
            choice = 'data.rle = "relative" (gap, length) or "absolute" (start, length)'
            raise InvalidInput(f"data.columns.rle.{structure} needs a convention; set {choice} in study.toml")


def mapped_columns(columns: ColumnsConfig, rules: Sequence[LabelRule]) -> list[str]:
    """Every column of the map but those of masks: rows of one image must agree in them."""
    single = [columns.image, columns.patient, columns.record, columns.split, columns.report]
    named = [name for name in single if name is not None] + [rule.column for rule in rules]
    return [*named, *text_columns(columns)]


def mask_columns(columns: ColumnsConfig) -> list[str]:
    """The columns with paths or run lengths of masks."""
    return [*columns.mask.values(), *columns.rle.values()]


def text_columns(columns: ColumnsConfig) -> list[str]:
    """The columns from which the caption is made.

    Raises:
        InvalidInput: the template cannot be read.
    """
    if columns.text is None:
        return []
    if "{" not in columns.text:
        return [columns.text]
    try:
        return [name for _, name, _, _ in string.Formatter().parse(columns.text) if name is not None]
    except ValueError as error:
        raise InvalidInput(f"data.columns.text = {columns.text!r}: {error}; write {{column}} in braces") from error
