"""Did the images follow what was asked: Dice of the asked structures, and the asked side.

Images with their conditions and a measuring network -> figures with intervals over conditions, beside the same of real
images (what the network can see at all) and beside chance (the same answers, compared with other images' conditions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.progress import bar
from radpref.data.imaging.framing import fit_mask
from radpref.data.imaging.masks import dice
from radpref.data.study.conditions import StoredCondition, asked_attributes, mask_stack
from radpref.generation.fidelity.figures import ConditionFigures, StructureDice
from radpref.generation.fidelity.image_source import BATCH, ImageSource
from radpref.generation.fidelity.likeness import mean_interval
from radpref.generation.measuring.image_scores import sides_right
from radpref.generation.measuring.measuring_network import MeasureNet

if TYPE_CHECKING:
    from radpref.data.study.study import Study

MIRROR_DICE = 0.8
"""A structure whose mask overlaps its own mirror image less than this has a side that can be checked."""
MAX_IMAGES = 2000


def condition_figures(
    study: Study, source: ImageSource, net: MeasureNet, rng: np.random.Generator
) -> ConditionFigures | None:
    """Mask and side figures of a source whose conditions are known (at most `MAX_IMAGES` images); None otherwise."""
    conditions = _conditions(source)
    if conditions is None:
        return None
    names = [name for name in study.config.data.structures if name in net.structures]
    rows = _spread(source.n)
    found: dict[str, dict[str, list[float]]] = {}
    with bar(f"conditions of {source.name}", len(rows)) as advance:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            _measure(study, net, names, source.batch(part), part, [conditions[i] for i in part], source, found)
            advance(len(part))
    one = {name: mean_interval([float(np.mean(v)) for v in table.values()], rng) for name, table in found.items()}
    masks = {
        name: StructureDice(one[f"dice {name}"], one.get(f"chance {name}")) for name in names if f"dice {name}" in one
    }
    return ConditionFigures(masks, one.get("sides"), one.get("mirror"))


def _conditions(source: ImageSource) -> tuple[StoredCondition, ...] | None:
    """What was asked for; for real images their own caption and masks: what the network can see at all."""
    if source.conditions is not None or source.records is None:
        return source.conditions
    found = []
    for record in source.records:
        text, masks = record["caption"] or None, record["masks"]
        asked = asked_attributes(text, record["labels"]) if text else {}
        mode: Any = "TM2I" if text and masks else "T2I" if text else "M2I" if masks else None
        found.append(StoredCondition(mode or "T2I", text if mode else "", masks, asked))
    return tuple(found)


def _spread(n: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_IMAGES)).round().astype(np.int64))


def _measure(
    study: Study,
    net: MeasureNet,
    names: Sequence[str],
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    conditions: Sequence[StoredCondition],
    source: ImageSource,
    found: dict[str, dict[str, list[float]]],
) -> None:
    """Add the values of one batch to {figure: {group: values}}."""
    size = images.shape[1]
    groups = [source.groups[i] if source.groups else str(i) for i in rows]

    def add(figure: str, row: int, value: float) -> None:
        if not np.isnan(value):
            found.setdefault(figure, {}).setdefault(groups[row], []).append(value)

    probabilities = net.predict(images) if net.attributes else np.zeros((len(images), 0), np.float32)
    for row, condition in enumerate(conditions):
        add("sides", row, float(sides_right(probabilities[row : row + 1], net.attributes, condition.asked)[0]))
    asked = np.zeros((len(images), len(names), size, size), bool)
    for row, condition in enumerate(conditions):
        stack = mask_stack(study, {k: v for k, v in condition.masks.items() if k in names}, names)
        if stack is not None:
            asked[row] = [fit_mask(plane, size) for plane in stack]
    if not asked.any():
        return
    seen = net.segment(images)[:, [net.structures.index(name) for name in names]] >= 0.5
    values, mirrored = dice(seen, asked), dice(seen, asked[..., ::-1])
    one_sided = dice(asked, asked[..., ::-1]) < MIRROR_DICE
    for column, name in enumerate(names):
        with_mask = np.flatnonzero(asked[:, column].any((-2, -1)))
        # Half a batch away is the mask of another prompt: the same answers against what nobody asked of them.
        for row, other in zip(with_mask.tolist(), np.roll(with_mask, len(with_mask) // 2).tolist(), strict=True):
            add(f"dice {name}", row, float(values[row, column]))
            if groups[row] != groups[other]:
                add(f"chance {name}", row, float(dice(seen[row, column], asked[other, column])))
            if one_sided[row, column]:
                add("mirror", row, float(values[row, column] > mirrored[row, column]))
