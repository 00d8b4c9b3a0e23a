"""Which conditions sets are made of: modes allotted exactly, captions evenly; for a comparison unrated patients only.

Input: validation records (their captions and masks). Output: stored conditions in the order of their sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import (
    MODES,
    Mode,
    StoredCondition,
    StudyRecord,
    allot,
    asked_attributes,
    record_conditions,
)
from radpref.data.study.empty_splits import how_to_fill, require_split

if TYPE_CHECKING:
    from radpref.data.study.study import Study

_RATED = """
SELECT DISTINCT r.dataset, r.patient_id FROM image_sets s JOIN conditions c USING (condition_id)
JOIN records r ON r.record_id IN (c.text_record, c.mask_record)
WHERE s.purpose IN ('rating', 'training')
"""


def allot_modes(n: int, mix: Sequence[int]) -> list[int]:
    """Exact numbers of T2I, M2I and TM2I sets: largest remainders of ``mix`` (percent) over ``n`` sets.

    Raises:
        InvalidInput: the mix does not sum to 100.
    """
    if len(mix) != len(MODES) or sum(mix) != 100 or min(mix) < 0:
        raise InvalidInput(f"mix {'/'.join(map(str, mix))} must be three percentages that sum to 100, e.g. 75/15/10")
    return allot(n, mix)


def condition_from_record(record: StudyRecord, mode: Mode) -> StoredCondition:
    """The condition of ``mode`` that a record gives: its caption, its masks, and what they ask for."""
    text = str(record["caption"]) if mode != "M2I" else None
    masks = record["masks"] if mode != "T2I" else {}
    return StoredCondition(
        mode,
        text,
        masks,
        asked_attributes(text, record["labels"]) if text else {},
        text_record=record["record_id"] if text else None,
        mask_record=record["record_id"] if masks else None,
    )


_HAS_TEXT = "r.caption > ''"
_HAS_MASK = (
    "EXISTS (SELECT 1 FROM record_masks x JOIN masks m ON m.sha256 = x.mask_sha"
    " WHERE x.record_id = r.record_id AND m.n_pixels > 0)"
)
_NEEDS: dict[Mode, tuple[str, str]] = {
    "T2I": ("captions", _HAS_TEXT),
    "M2I": ("masks", _HAS_MASK),
    "TM2I": ("captions and masks", f"{_HAS_TEXT} AND {_HAS_MASK}"),
}
"""What a record needs for each mode, in words and as a condition on table ``records r``."""


def require_conditions(study: Study, counts: Sequence[int], split: str = "val") -> None:
    """Refuse, without reading all records, modes (``counts`` of `MODES`) that a split has nothing for.

    Raises:
        NotFound: the split holds no record.
        InvalidInput: it has no captions or no masks for a mode that is wanted.
    """
    require_split(study, split)
    for mode, count in zip(MODES, counts, strict=True):
        need, has = _NEEDS[mode]
        if count and not study.db.value(f"SELECT 1 FROM records r WHERE split = ? AND {has} LIMIT 1", (split,)):
            way = "import some" if mode == "M2I" else "import some, write captions with `radpref data caption`"
            raise InvalidInput(
                f"no record of split '{split}' has {need} for {mode} sets; {way}, or set sets.mix without {mode}"
            )


def draw_conditions(study: Study, n: int, mix: Sequence[int], seed: int, split: str = "val") -> list[StoredCondition]:
    """Draw ``n`` conditions with modes allotted exactly, in shuffled order, from the records of ``split``.

    Conditions are drawn evenly over what the captions ask for; among those that ask for the same, every record is used
    once per mode before any is used again. Errors as in :func:`require_conditions`.
    """
    require_conditions(study, allot_modes(n, mix), split)
    records = record_conditions(study, split)
    rng = np.random.default_rng([seed, 101])
    drawn: list[StoredCondition] = []
    for mode, count in zip(MODES, allot_modes(n, mix), strict=True):
        usable = [r for r in records if (mode == "M2I" or r["caption"]) and (mode == "T2I" or r["masks"])]
        drawn += [condition_from_record(record, mode) for record in _balanced_draw(usable, count, rng)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _balanced_draw(records: list[StudyRecord], count: int, rng: np.random.Generator) -> list[StudyRecord]:
    """Draw records in turn from groups of equal captions' asked findings, each group shuffled and cycled."""
    queues = _by_findings(records, rng)
    names = [list(queues)[i] for i in rng.permutation(len(queues))] if queues else []
    drawn: list[StudyRecord] = []
    while len(drawn) < count:
        turn = len(drawn) // max(len(names), 1)
        for name in names[: count - len(drawn)]:
            members = queues[name]
            drawn.append(members[turn % len(members)])
    return drawn


def _by_findings(records: list[StudyRecord], rng: np.random.Generator) -> dict[str, list[StudyRecord]]:
    """Records grouped by the findings their captions ask for, each group shuffled."""
    groups: dict[str, list[StudyRecord]] = {}
    for record in records:
        asked = asked_attributes(record["caption"] or "", record["labels"])
        groups.setdefault("+".join(sorted(a for a in asked if "/" not in a)), []).append(record)
    return {name: [members[i] for i in rng.permutation(len(members))] for name, members in sorted(groups.items())}


def unrated_records(study: Study) -> list[StudyRecord]:
    """Validation records of patients that no rating set was made from, sorted by record_id."""
    rated = {(row["dataset"], row["patient_id"]) for row in study.db.rows(_RATED)}
    return [r for r in record_conditions(study, "val") if (r["dataset"], r["patient_id"]) not in rated]


def require_unrated(study: Study) -> None:
    """Refuse, without reading them all, a study whose validation patients are all in rating sets.

    Raises:
        NotFound: the validation split holds no record.
        InvalidInput: no patient of it is left.
    """
    require_split(study, "val")
    patients = {
        (row["dataset"], row["patient_id"])
        for row in study.db.rows("SELECT DISTINCT dataset, patient_id FROM records WHERE split = 'val'")
    }
    if not patients - {(row["dataset"], row["patient_id"]) for row in study.db.rows(_RATED)}:
        raise InvalidInput(
            f"all {len(patients)} validation patients are in rating sets, none is left: {how_to_fill(study, 'val')}"
        )


def draw_unrated(study: Study, n: int, mix: Sequence[int], seed: int, *, at_most: bool) -> list[StoredCondition]:
    """Draw conditions for a comparison: each from another patient, and none from a patient that a rating set used.

    Modes are allotted exactly, what the captions ask for evenly. With ``at_most`` there are fewer where the patients
    do not suffice.

    Raises:
        InvalidInput: too few patients are left; says how many sets they give.
    """
    rng = np.random.default_rng([seed, 404])
    patients: dict[tuple[str, str], list[StudyRecord]] = {}
    for record in unrated_records(study):
        patients.setdefault((record["dataset"], record["patient_id"]), []).append(record)
    kinds: dict[str, list[StudyRecord]] = {"both": [], "text": [], "mask": []}
    for records in patients.values():
        record = max(records, key=lambda r: bool(r["caption"]) + bool(r["masks"]))
        kind = "both" if record["caption"] and record["masks"] else "text" if record["caption"] else "mask"
        if record["caption"] or record["masks"]:
            kinds[kind].append(record)
    possible = next((m for m in range(n, 0, -1) if _suffice(allot_modes(m, mix), kinds)), 0)
    if possible < n and not (at_most and possible):
        left = sum(map(len, kinds.values()))
        raise InvalidInput(
            f"{n} comparison sets need as many validation patients that no rating set used; {left} are left, which give"
            f" {possible}: " + (f"ask for --n {possible}, or " if possible else "") + how_to_fill(study, "val")
        )
    n_text, n_mask, n_both = allot_modes(possible, mix)
    drawn = [condition_from_record(record, "TM2I") for record in _take(kinds["both"], n_both, rng)]
    rest: tuple[tuple[Mode, str, int], ...] = (("M2I", "mask", n_mask), ("T2I", "text", n_text))
    for mode, kind, count in rest:
        taken = _take(kinds[kind], min(count, len(kinds[kind])), rng)
        taken += _take(kinds["both"], count - len(taken), rng)
        drawn += [condition_from_record(record, mode) for record in taken]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _suffice(counts: Sequence[int], kinds: dict[str, list[StudyRecord]]) -> bool:
    """Whether patients with text, with masks and with both give so many sets of each mode, each patient once."""
    n_text, n_mask, n_both = counts
    shared = n_both + max(0, n_text - len(kinds["text"])) + max(0, n_mask - len(kinds["mask"]))
    return shared <= len(kinds["both"])


def _take(records: list[StudyRecord], count: int, rng: np.random.Generator) -> list[StudyRecord]:
    """Take ``count`` records out of the list, in turn from the groups of what their captions ask for."""
    queues = list(_by_findings(records, rng).values())
    queues = [queues[i] for i in rng.permutation(len(queues))]
    taken: list[StudyRecord] = []
    while len(taken) < count:
        for queue in queues:
            if queue and len(taken) < count:
                taken.append(queue.pop())
    names = {record["record_id"] for record in taken}
    records[:] = [record for record in records if record["record_id"] not in names]
    return taken
