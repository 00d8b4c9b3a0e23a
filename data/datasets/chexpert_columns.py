"""Findings of CheXpert-style tables: 14 columns of 1, 0, -1 (uncertain) or blank, as compact codes and as labels.

Input: a table's columns and the policies of study.toml. Output: codes (N, L) int8, labels of a record, a caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.labels import uncertain_value
from radpref.data.datasets.registry import Found
from radpref.data.text.caption_rules import NORMAL
from radpref.data.text.rule_captions import caption_of_labels

FINDINGS: dict[str, str] = {
    "No Finding": "normal",
    "Enlarged Cardiomediastinum": "enlarged_cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung_opacity",
    "Lung Lesion": "lung_lesion",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural_effusion",
    "Pleural Other": "pleural_other",
    "Fracture": "fracture",
    "Support Devices": "support_devices",
}
"""Column -> label. "No Finding" is ``normal``, the label that prompts and tasks ask for."""

BLANK, BAD = -2, -3


def kept_labels(config: DataConfig, names: Iterable[str]) -> list[str]:
    """The labels of a set that ``data.labels`` keeps, in the set's order.

    Raises:
        InvalidInput: study.toml names a label the set has not.
    """
    offered = list(names)
    unknown = sorted(set(config.labels) - set(offered))
    if unknown:
        raise InvalidInput(f"data.labels has {unknown[0]!r}; this set has {', '.join(offered)}")
    return [name for name in offered if not config.labels or name in config.labels]


def finding_columns(config: DataConfig) -> dict[str, str]:
    """Column -> label of the findings that are kept."""
    kept = kept_labels(config, FINDINGS.values())
    return {column: label for column, label in FINDINGS.items() if label in kept}


@dataclass(frozen=True)
class FindingRows:
    """The findings of a table's rows: codes (N, L) for the labels ``names``; bad: row -> what is wrong in it."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.int8]
    bad: Mapping[int, str]

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Mapping[str, str]) -> FindingRows:
        """The codes 1, 0, -1, `BLANK`, or `BAD` where a cell holds anything else; columns: column -> label."""
        names = list(columns)
        codes = np.full((len(table), len(names)), BLANK, np.int8)
        for k, column in enumerate(names):
            cells = table[column].astype("category").cat
            written = pd.Series(cells.categories.astype(str))
            numbers = pd.to_numeric(written, errors="coerce")
            known = np.select([written == "", numbers.isin((1, 0, -1))], [BLANK, numbers], BAD)
            codes[:, k] = known.astype(np.int8)[cells.codes]
        bad = {
            int(i): f"label column '{names[k]}' holds {str(table[names[k]].iat[int(i)])!r}; "
            "use 1, 0, -1 (uncertain) or blank"
            for i, k in zip(*np.nonzero(codes == BAD), strict=True)
        }
        return cls(tuple(columns.values()), codes, bad)

    def take(self, rows: npt.NDArray[np.int64]) -> FindingRows:
        """Some rows, in that order."""
        bad = {k: self.bad[i] for k, i in enumerate(rows.tolist()) if i in self.bad}
        return FindingRows(self.names, self.codes[rows], bad)

    def labels(self, i: int, config: DataConfig) -> dict[str, float | None]:
        """Labels of row ``i``: 1.0, 0.0 or None, under ``data.uncertain`` and ``data.blank``."""
        blank = None if config.blank == "unknown" else float(config.blank)
        labels: dict[str, float | None] = {}
        for name, code in zip(self.names, self.codes[i].tolist(), strict=True):
            if code == -1:
                labels[name] = uncertain_value(config.uncertain, name)
            else:
                labels[name] = blank if code == BLANK else float(code)
        return labels

    def found(self, config: DataConfig) -> list[Found]:
        """Per label how many rows are positive, how many uncertain or blank, and what study.toml makes of those."""
        found = []
        for name, codes in zip(self.names, self.codes.T, strict=True):
            value = uncertain_value(config.uncertain, name)
            became = "unknown" if value is None else f"{value:.0f}"
            uncertain, blank = int((codes == -1).sum()), int((codes == BLANK).sum())
            note = f"{uncertain} uncertain -> {became}, {blank} blank -> {config.blank}"
            found.append(Found(f"positive: {name}", int((codes == 1).sum()), None, note))
        return found


def finding_caption(labels: Mapping[str, float | None]) -> str | None:
    """A caption for labels without a report: the main positive finding ("Pneumonia", "Pleural effusion") or "Normal".

    Devices alone do not contradict "Normal", as in CheXpert's "No Finding". None where no label is positive: where one
    disease is absent, others may be there.
    """
    positive = {name for name, value in labels.items() if value == 1}
    if "normal" in positive and positive <= {"normal", "support_devices"}:
        return NORMAL
    return caption_of_labels(labels) if positive - {"normal"} else None
