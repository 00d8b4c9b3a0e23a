"""A table of the report: the same rows once as HTML cells and once as CSV with full precision; numbers for reading."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table: ``shown`` are the HTML cells, ``rows`` the CSV content, the first ``text_columns`` columns hold text."""

    name: str
    caption: str
    header: tuple[str, ...]
    shown: list[list[str]]
    rows: Sequence[Mapping[str, object]]
    text_columns: int = 1
    notes: tuple[str, ...] = ()
    tones: tuple[str, ...] = ()
    """A tone per row for its last cell (verdicts), or empty."""

    def csv(self) -> str:
        """The rows as CSV, all keys in the order they first appear."""
        buffer = io.StringIO()
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(buffer, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number for reading; a dash where there is none. The minus is a minus."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


TONES = {"better": "good", "worse": "bad", "no difference shown": "even", "too small to conclude": "open"}
"""Verdict -> colour of its cell or sentence."""


def p_value(value: float | None) -> str:
    """A P value with two or three digits, or "< 0.001"."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(ends: Sequence[float | None] | None, digits: int = 3) -> str:
    """ "low to high"; a dash where an end is unknown."""
    texts = [number(end, digits) for end in ends or (None,)]
    return "–" if "–" in texts else " to ".join(texts)
