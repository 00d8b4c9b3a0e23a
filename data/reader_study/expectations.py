"""What a good reader answers when a real radiograph stands under a known text or mask.

Input: two records as :func:`radpref.data.study.conditions.record_conditions` gives them: the one that the condition is
from, and the one that is shown. Output: a range of scores with its reason, or None where the record does not tell.

    text   its own text, or the same words: 4-5.   every finding absent by the labels: 0-1.   the other side: 0-2.
           "normal" over a radiograph that is not: 0-2.   findings that look alike: no expectation
    mask   its own: 4-5.   another patient's, by the mean Dice d of the structures (both drawn by people):
           d < 0.1: 0-1.   d < 0.3: 0-2.   up to 0.85: one point around the anchor.   above: no expectation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from radpref.data.imaging.images import Mask
from radpref.data.imaging.masks import dice
from radpref.data.study.conditions import StudyRecord, asked_attributes

Record = StudyRecord
LOOK_ALIKE = frozenset({"atelectasis", "consolidation", "edema", "infiltration", "lung_opacity", "pneumonia"})
"""Opacities that one radiograph does not tell apart with certainty: one of them is no proof that another is absent."""
DICE_ANCHORS = ((0.0, 0.3, 0.5, 0.7, 0.85, 0.95), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
"""Dice -> points, along the anchors: wrong region, under half overlap, roughly right, minor boundary error, matches."""
DICE_TOO_NEAR = 0.85


@dataclass(frozen=True)
class Expectation:
    """Lowest and highest score of a good answer, and why, in words for the reader."""

    low: int
    high: int
    reason: str

    @property
    def is_match(self) -> bool:
        """Whether condition and radiograph belong together."""
        return self.low >= 4


def asked_of(record: Record) -> dict[str, int]:
    """What the record's caption asks for; empty where that cannot be said, or contradicts itself."""
    asked = asked_attributes(record["caption"] or "", record["labels"])
    findings = {name for name in asked if "/" not in name}
    return {} if "normal" in findings and len(findings) > 1 else asked


def expect_text(source: Record, shown: Record) -> Expectation | None:
    """Expected text score of ``shown`` under the caption of ``source``."""
    if source["record_id"] == shown["record_id"]:
        return Expectation(4, 5, "The text was written for this radiograph.")
    asked = asked_of(source)
    findings = [name for name in asked if "/" not in name]
    labels = shown["labels"]
    if not findings:
        return None
    if all(labels.get(name) == 1 for name in asked):
        same = _words(source["caption"]) == _words(shown["caption"])
        return Expectation(4, 5, "The text of this radiograph has the same words.") if same else None
    if findings == ["normal"]:
        return _not_normal(labels)
    if all(labels.get(name) == 0 for name in findings):
        present = {name for name, value in labels.items() if value == 1}
        if LOOK_ALIKE.intersection(findings) and LOOK_ALIKE & present:
            return None
        absent = ", ".join(f"no {_plain(name)}" for name in findings)
        return Expectation(0, 1, f"The labels of this radiograph say: {absent}.")
    return _other_side(findings, asked, labels)


def _words(caption: str | None) -> list[str]:
    return (caption or "").casefold().replace(".", " ").split()


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _not_normal(labels: Mapping[str, float | None]) -> Expectation | None:
    if labels.get("normal") != 0:
        return None
    present = [_plain(name) for name, value in labels.items() if value == 1 and "/" not in name]
    return Expectation(0, 2, f"The labels of this radiograph say: {', '.join(['not normal', *present])}.")


def _other_side(
    findings: list[str], asked: Mapping[str, int], labels: Mapping[str, float | None]
) -> Expectation | None:
    if len(findings) != 1 or labels.get(findings[0]) != 1:
        return None
    name = findings[0]
    wanted = [side for side in ("left", "right") if f"{name}/{side}" in asked]
    if len(wanted) != 1:
        return None
    other = "right" if wanted[0] == "left" else "left"
    if labels.get(f"{name}/{wanted[0]}") != 0 or labels.get(f"{name}/{other}") != 1:
        return None
    return Expectation(
        0, 2, f"The labels of this radiograph say: {_plain(name)} on the {other}, not on the {wanted[0]}."
    )


def expect_mask(source: Record, shown: Record, load: Callable[[str], Mask]) -> tuple[Expectation, float] | None:
    """Expected mask score of ``shown`` under the masks of ``source``, and the Dice it follows from.

    ``load`` reads a mask by its hash. A structure that is not drawn on ``shown`` is not there.
    """
    if source["record_id"] == shown["record_id"]:
        return Expectation(4, 5, "The mask was drawn on this radiograph."), 1.0
    if not shown["masks"]:
        return None
    overlaps = []
    for structure, sha in source["masks"].items():
        wanted = load(sha)
        own = load(shown["masks"][structure]) if structure in shown["masks"] else np.zeros_like(wanted)
        if own.shape != wanted.shape:
            return None
        overlaps.append(float(dice(wanted, own)))
    mean = float(np.mean(overlaps))
    found = range_of_dice(mean)
    if found is None:
        return None
    reason = f"The mask is another patient's; it overlaps this radiograph's own by {mean:.0%} (Dice)."
    return Expectation(*found, reason), mean


def range_of_dice(value: float) -> tuple[int, int] | None:
    """Lowest and highest expected score at a mean Dice; None where the masks are too much alike to tell."""
    if value > DICE_TOO_NEAR:
        return None
    if value < 0.1:
        return 0, 1
    if value < 0.3:
        return 0, 2
    anchor = round(float(np.interp(value, *DICE_ANCHORS)))
    return anchor - 1, anchor + 1
