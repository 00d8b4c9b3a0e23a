"""Labels: 1, 0 or unknown (None), from table cells.

A label name is a lower_snake string; a sided finding also has the attributes ``<finding>/left`` and
``<finding>/right``. Input: rules such as ``normal=label:normal``. Output: values per record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from radpref.data.core.errors import InvalidInput

Uncertain = Literal["blank", "0", "1"]
UNCERTAIN_PRESETS: dict[str, dict[str, str]] = {
    "blank": {"others": "blank"},
    "zeros": {"others": "0"},
    "ones": {"others": "1"},
    "mgca": {"atelectasis": "1", "cardiomegaly": "0", "consolidation": "0", "edema": "1", "pleural_effusion": "1"},
}
"""What -1 becomes, label by label; ``others``: every label not named (default: unknown). ``mgca`` is the policy of
Wang et al., Multi-Granularity Cross-modal Alignment, NeurIPS 2022, for the five CheXpert labels they test."""
_NAME = re.compile(r"[a-z][a-z0-9_]*(/(left|right))?")


@dataclass(frozen=True)
class LabelRule:
    """How one label is read from a table row: the cell itself, or whether the cell is (or lists) ``value``."""

    name: str
    column: str
    value: str | None = None

    def read(self, row: Mapping[str, str], uncertain: Uncertain = "blank") -> float | None:
        """The label of one row: 1.0, 0.0, or None where the cell is blank.

        Raises:
            InvalidInput: a 0/1 cell holds something else.
        """
        cell = row[self.column].strip()
        if not cell:
            return None
        if self.value is None:
            return _parse_cell(cell, self.column, uncertain)
        wanted = self.value.casefold()
        return float(wanted in [cell.casefold(), *(part.strip().casefold() for part in cell.split("|"))])


def parse_rule(text: str) -> LabelRule:
    """Read ``name``, ``name=column`` or ``name=column:value``.

    Raises:
        InvalidInput: another form, or a name that is not lower_snake.
    """
    name, equals, rest = (part.strip() for part in text.partition("="))
    column, colon, value = (part.strip() for part in (rest if equals else name).partition(":"))
    if not _NAME.fullmatch(name) or not column or bool(colon) != bool(value):
        raise InvalidInput(f"label {text!r} is not understood; write name, name=column or name=column:value")
    return LabelRule(name, column, value or None)


def _parse_cell(cell: str, column: str, uncertain: Uncertain) -> float | None:
    try:
        number = float({"true": "1", "false": "0"}.get(cell.casefold(), cell))
    except ValueError:
        number = float("nan")
    if number in (0.0, 1.0):
        return number
    if number == -1.0:
        return None if uncertain == "blank" else float(uncertain)
    raise InvalidInput(f"label column '{column}' holds {cell!r}; use 1, 0, -1 (uncertain) or blank")


def uncertain_value(policy: str | Mapping[str, str], label: str) -> float | None:
    """What an uncertain (-1) ``label`` becomes under a preset or a table of study.toml: 1.0, 0.0 or None (unknown)."""
    table = UNCERTAIN_PRESETS[policy] if isinstance(policy, str) else policy
    choice = table.get(label, table.get("others", "blank"))
    return None if choice == "blank" else float(choice)
