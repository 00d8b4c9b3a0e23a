"""Conditions as the study stores them: the text, the masks by structure, what the text asks for, and its sources.

Input: rows of ``records``, ``labels`` and ``record_masks``. Output: rows of ``conditions`` and ``condition_masks``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import numpy as np

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes
from radpref.data.core.sqlite import sqlite3
from radpref.data.text.findings import NORMAL_LABELS, names_finding, names_side, of_label

if TYPE_CHECKING:
    from radpref.data.imaging.images import Mask
    from radpref.data.study.study import Study

Mode = Literal["T2I", "M2I", "TM2I"]
MODES: tuple[Mode, ...] = ("T2I", "M2I", "TM2I")
NORMAL_PHRASES = ("normal", "no finding", "no acute finding", "clear lungs", "unremarkable")


class StudyRecord(TypedDict):
    """A row of ``records`` with its labels (1, 0, None: unsure) and the hashes of its masks by structure."""

    record_id: str
    dataset: str
    patient_id: str
    split: str
    image_sha: str
    caption: str | None
    report: str | None
    extra: dict[str, Any]
    labels: dict[str, float | None]
    masks: dict[str, str]


@dataclass(frozen=True)
class StoredCondition:
    """One condition. ``masks`` maps structure -> SHA-256; ``asked`` maps attribute -> 1 or 0."""

    mode: Mode
    text: str | None
    masks: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    text_record: str | None = None
    mask_record: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        has_text, has_mask = self.text is not None, bool(self.masks)
        wanted = {"T2I": (True, False), "M2I": (False, True), "TM2I": (True, True)}[self.mode]
        if (has_text, has_mask) != wanted:
            raise InvalidInput(
                f"a {self.mode} condition got text={self.text!r}, masks={sorted(self.masks)}; give what its mode needs"
            )

    @property
    def condition_id(self) -> str:
        """Hash of everything that defines the condition."""
        content = [
            self.mode,
            self.text,
            sorted(self.masks.items()),
            sorted(self.asked.items()),
            self.text_record,
            self.mask_record,
            sorted(self.extra.items()),
        ]
        return sha256_bytes(json.dumps(content).encode())[:24]


def asked_attributes(text: str, labels: Mapping[str, float | None]) -> dict[str, int]:
    """Which positive labels of a record its text really asks for: {attribute: 1}.

    A label counts if its words are in the text (plurals and synonyms too: data/text/findings.py);
    ``<finding>/<side>`` if the finding counts and the side is named, or both sides are; ``normal`` and ``no_finding``
    if the text has a phrase for it. Labels the text does not mention are not asked.
    """
    low = re.sub(r"[^a-z0-9 ]+", " ", text.lower())
    words = set(low.split())

    def named(label: str) -> bool:
        if label in NORMAL_LABELS:
            return any(phrase in low for phrase in NORMAL_PHRASES)
        parts = label.split("_")
        if all(part in words for part in parts):
            return True
        return names_finding(label, text) if of_label(label) else parts[-1] in words

    asked: dict[str, int] = {}
    for label, value in labels.items():
        if value != 1:
            continue
        finding, _, side = label.partition("/")
        if named(finding) and (not side or names_side(side, text)):
            asked[label] = 1
    return asked


def save_conditions(connection: sqlite3.Connection, conditions: Iterable[StoredCondition]) -> None:
    """Insert conditions (and their masks) inside an open write transaction; known ones are left alone."""
    for condition in conditions:
        connection.execute(
            "INSERT INTO conditions(condition_id, mode, text, asked, text_record, mask_record, extra)"
            " VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
            (
                condition.condition_id, condition.mode, condition.text, json.dumps(dict(condition.asked)),
                condition.text_record, condition.mask_record, json.dumps(dict(condition.extra)),
            ),
        )  # fmt: skip
        connection.executemany(
            "INSERT INTO condition_masks VALUES (?,?,?) ON CONFLICT DO NOTHING",
            [(condition.condition_id, structure, sha) for structure, sha in condition.masks.items()],
        )


def load_condition(study: Study, condition_id: str) -> StoredCondition:
    """Read a condition back.

    Raises:
        NotFound: no such condition.
    """
    row = study.db.row("SELECT * FROM conditions WHERE condition_id = ?", [condition_id])
    if row is None:
        raise NotFound(f"no condition {condition_id} in {study.root}")
    masks = {
        str(m["structure"]): str(m["mask_sha"])
        for m in study.db.rows("SELECT structure, mask_sha FROM condition_masks WHERE condition_id = ?", [condition_id])
    }
    return StoredCondition(
        row["mode"],
        row["text"],
        masks,
        json.loads(row["asked"]),
        row["text_record"],
        row["mask_record"],
        json.loads(row["extra"]),
    )


def mask_stack(study: Study, masks: Mapping[str, str], structures: Sequence[str] | None = None) -> Mask | None:
    """Masks as one array (S, H, W) bool, one plane per structure; None if there are none.

    ``structures`` gives the planes' order; without it ``study.config.data.structures`` does.

    Structures that are not among ``masks`` are all False: no condition on them.

    Raises:
        InvalidInput: two masks differ in size, or name a structure that is not known.
    """
    if not masks:
        return None
    structures = structures or study.config.data.structures
    unknown = set(masks) - set(structures)
    if unknown:
        raise InvalidInput(
            f"structure '{min(unknown)}' is not among {list(structures)}; "
            "name it in data.structures, and use a generator that knows it"
        )
    loaded = {name: study.store.mask(sha) for name, sha in masks.items()}
    shapes = {mask.shape for mask in loaded.values()}
    if len(shapes) != 1:
        raise InvalidInput(f"masks of one condition differ in size: {sorted(shapes)}; import them at one size")
    blank = np.zeros(shapes.pop(), dtype=np.bool_)
    return np.stack([loaded.get(name, blank) for name in structures])


def has_conditions(study: Study, split: str) -> bool:
    """Whether any record of ``split`` has a caption or a mask with a pixel, asked without reading them all."""
    return has_captions(study, split) or has_masks(study, split)


def has_captions(study: Study, split: str) -> bool:
    """Whether any record of ``split`` has a caption."""
    return bool(study.db.value("SELECT 1 FROM records WHERE split = ? AND caption > '' LIMIT 1", (split,)))


def has_masks(study: Study, split: str) -> bool:
    """Whether any record of ``split`` has a mask with a pixel."""
    return bool(
        study.db.value(
            "SELECT 1 FROM records r JOIN record_masks x USING (record_id) JOIN masks m ON m.sha256 = x.mask_sha"
            " WHERE r.split = ? AND m.n_pixels > 0 LIMIT 1",
            (split,),
        )
    )


def record_conditions(study: Study, split: str, where: Mapping[str, str] | None = None) -> list[StudyRecord]:
    """Records of ``split`` as material for conditions.

    Sorted by record_id, so that a seeded draw from them is reproducible. ``where`` keeps records whose extra columns
    match.
    """
    labels: dict[str, dict[str, float | None]] = {}
    for row in study.db.rows(
        "SELECT record_id, label, value FROM labels JOIN records USING (record_id) WHERE split = ?", [split]
    ):
        labels.setdefault(row["record_id"], {})[row["label"]] = row["value"]
    masks: dict[str, dict[str, str]] = {}
    for row in study.db.rows(
        "SELECT record_id, structure, mask_sha FROM record_masks JOIN records USING (record_id)"
        " JOIN masks ON masks.sha256 = mask_sha WHERE split = ? AND n_pixels > 0",
        [split],
    ):
        masks.setdefault(row["record_id"], {})[row["structure"]] = row["mask_sha"]
    found: list[StudyRecord] = []
    for row in study.db.rows("SELECT * FROM records WHERE split = ? ORDER BY record_id", [split]):
        extra = json.loads(row["extra"])
        if all(str(extra.get(column)) == value for column, value in (where or {}).items()):
            name = row["record_id"]
            own = {"extra": extra, "labels": labels.get(name, {}), "masks": masks.get(name, {})}
            found.append(cast(StudyRecord, {**row, **own}))
    return found


def allot(n: int, shares: Sequence[float]) -> list[int]:
    """n in whole numbers by ``shares`` (largest remainders); nothing where all shares are 0."""
    total = sum(shares)
    if not total:
        return [0 for _ in shares]
    exact = [n * share / total for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: n - sum(counts)]:
        counts[index] += 1
    return counts
