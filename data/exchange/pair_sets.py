"""Sets of four, put together from the lines of a pair file.

Input: checked lines (data/exchange/pair_file.py). Output: :class:`ImportedSet` items; what keeps one from being used
is in its ``problems``. Lines belong together that name the same ``set``, or, in the authors' files, whose pairs
share images.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radpref.data.exchange.pair_file import N_IMAGES, PairLine
from radpref.data.reader_study.scores import CRITERIA
from radpref.data.study.splits import connected_components


@dataclass(frozen=True)
class ImportedSet:
    """One set of four put together from pairs: paths by slot, scores by rater, then (slot, criterion)."""

    name: str
    mode: str
    text: str | None
    images: tuple[str, ...]
    conditioning: tuple[str, ...]
    masks: Mapping[str, str]
    scores: Mapping[str, Mapping[tuple[int, str], int]]
    problems: tuple[str, ...] = field(default=())


def group_sets(lines: Sequence[PairLine], rater: str = "imported") -> list[ImportedSet]:
    """Sets in the order of their first lines; what keeps one from being used is in ``problems``."""
    groups: dict[str, list[PairLine]] = {}
    names = _names(lines)
    for line in lines:
        groups.setdefault(names[line.number], []).append(line)
    return [_put_together(name, group, rater) for name, group in groups.items()]


def _names(lines: Sequence[PairLine]) -> dict[int, str]:
    """Line number -> name of its set: its key ``set``, else the first line that shares images with it, also through
    other lines."""
    keys: dict[int, list[Hashable]] = {
        line.number: [("image", image) for image in line.images] if line.set_name is None else [("set", line.set_name)]
        for line in lines
    }
    given = {line.number: line.set_name for line in lines}
    return {number: given[group[0]] or f"line {group[0]}" for group in connected_components(keys) for number in group}


def _put_together(name: str, lines: Sequence[PairLine], rater: str) -> ImportedSet:
    images = tuple(sorted({image for line in lines for image in line.images}, key=_natural))
    slots = {image: slot for slot, image in enumerate(images)}
    problems = []
    if len(images) != N_IMAGES:
        problems.append(f"{len(images)} images are connected by pairs; a set has {N_IMAGES}")
    if len({(line.mode, line.text) for line in lines}) > 1:
        problems.append("lines of one set differ in text or in what is N/A")
    scores: dict[str, dict[tuple[int, str], int]] = {}
    for line in lines:
        given = scores.setdefault(line.rater or rater, {})
        for criterion, values in line.scores.items():
            for image, value in zip(line.images, values, strict=True):
                if given.setdefault((slots[image], criterion), value) != value:
                    problems.append(
                        f"{image} has the {criterion} scores {given[slots[image], criterion]} and {value}"
                        " by one rater; where several scored, each line needs the key 'rater'"
                    )
    wanted = len(CRITERIA[lines[0].mode]) * len(images)
    incomplete = [who for who, given in scores.items() if len(given) != wanted]
    if incomplete:
        problems.append(f"scores of {incomplete[0]} are incomplete")
    conditioning = tuple(dict.fromkeys(line.conditioning for line in lines if line.conditioning is not None))
    first = lines[0]
    return ImportedSet(name, first.mode, first.text, images, conditioning, first.masks, scores, tuple(problems))


def _natural(path: str) -> list[Any]:
    """Sort key: ``x_2`` before ``x_10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def structure_of(one: ImportedSet, structures: Sequence[str], given: str | None) -> str | None:
    """What the mask of a set shows: as given, as its file is called (``..._heart_mask_1.jpg``), or the only one."""
    if given is not None:
        return given
    stem = Path(one.conditioning[0]).stem.lower()
    aliases = {"ptx": "pneumothorax"}
    words = {aliases.get(word, word) for word in re.split(r"[^a-z]+", stem)}
    named = [name for name in structures if words & {name.lower(), name.lower().rstrip("s")}]
    return named[0] if len(named) == 1 else structures[0] if len(structures) == 1 else None
