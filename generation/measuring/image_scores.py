"""How far images show what was asked, as a measuring network sees them: texts by attributes, masks by Dice.

uint8 images (N, H, W) and a condition -> (N,) in [0, 1]. Simulated raters, the judge and the adherence report use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.masks import dice
from radpref.generation.measuring.measuring_network import MeasureNet

FLOAT = npt.NDArray[np.float32]
SIDES = {"left": "right", "right": "left"}


def text_fidelity(probabilities: FLOAT, attributes: Sequence[str], asked: Mapping[str, int]) -> FLOAT:
    """How far the images show what a text asks for: (N, A) P(attribute) and {attribute: 0|1} -> (N,) in [0, 1].

    Per finding the product over the finding and its side ("effusion" and "effusion/left": the right finding on the
    wrong side is a miss), then the mean over findings (one of two findings gives half).

    Raises:
        InvalidInput: `asked` is empty, holds another value than 0 or 1, or names nothing this network knows.
    """
    groups: dict[str, FLOAT] = {}
    for attribute, value in asked.items():
        if value not in (0, 1):
            raise InvalidInput(f"asked {attribute!r} is {value!r}: give 1 (present) or 0 (absent)")
        if attribute in attributes:
            p = probabilities[:, list(attributes).index(attribute)]
            finding = attribute.split("/")[0]
            groups[finding] = groups.get(finding, np.ones(len(p), np.float32)) * (p if value else 1 - p)
    if not groups:
        raise InvalidInput(f"asked {sorted(asked)} holds none of the attributes {', '.join(attributes)}: name one")
    mean: FLOAT = np.stack(list(groups.values())).mean(axis=0, dtype=np.float32)
    return mean


def score_text(net: MeasureNet, images: npt.NDArray[Any], asked: Mapping[str, int]) -> FLOAT:
    """`text_fidelity` of uint8 images (N, H, W) as `net` sees them: (N,) in [0, 1]."""
    return text_fidelity(net.predict(images), net.attributes, asked)


def structure_dice(
    net: MeasureNet, images: npt.NDArray[Any], mask: npt.NDArray[Any], structures: Sequence[str]
) -> dict[str, FLOAT]:
    """Dice of the segmented against the asked mask, per structure that is asked and that `net` knows.

    Args:
        images: uint8 (N, H, W).
        mask: bool (T, H, W), the same for all images, or (N, T, H, W).
        structures: names of the T channels. An empty channel is not a condition: its Dice is NaN.

    Returns:
        {structure: (N,) float32}; a structure `net` does not know is left out.
    """
    asked = np.asarray(mask).astype(bool)
    asked = np.broadcast_to(asked, (len(images), *asked.shape[-3:]))
    if asked.shape != (len(images), len(structures), *images.shape[1:]):
        raise InvalidInput(
            f"mask of shape {np.shape(mask)} does not fit {len(images)} images of {images.shape[1:]} "
            f"and structures {list(structures)}: give bool (T, H, W) or (N, T, H, W)"
        )
    seen = net.segment(images) >= 0.5
    result: dict[str, FLOAT] = {}
    for channel, name in enumerate(structures):
        if name in net.structures:
            values = dice(seen[:, net.structures.index(name)], asked[:, channel]).astype(np.float32)
            values[~asked[:, channel].any((-2, -1))] = np.nan
            result[name] = values
    return result


def score_mask(net: MeasureNet, images: npt.NDArray[Any], mask: npt.NDArray[Any], structures: Sequence[str]) -> FLOAT:
    """Mean Dice over the asked structures of uint8 images (N, H, W): (N,) in [0, 1].

    Raises:
        InvalidInput: wrong mask size, or no asked structure is both non-empty and known to `net`.
    """
    table = np.array(list(structure_dice(net, images, mask, structures).values()), np.float32).reshape(-1, len(images))
    if len(images) and not (table.size and np.isfinite(table).any(0).all()):
        raise InvalidInput(f"the mask asks for nothing {net.name} can segment: draw one of {', '.join(net.structures)}")
    return np.nanmean(table, axis=0, dtype=np.float32) if len(images) else np.zeros(0, np.float32)


def findings_right(
    present: npt.NDArray[np.bool_], attributes: Sequence[str], asked: Mapping[str, int]
) -> npt.NDArray[np.float64]:
    """(N, A) attribute is present -> (N,): 1 where every asked finding is present or absent as asked, else 0.

    Sides do not count. NaN where nothing is asked that is among `attributes`.
    """
    names = [name for name in asked if "/" not in name and name in attributes]
    if not names:
        return np.full(len(present), np.nan)
    right = [present[:, list(attributes).index(name)] == bool(asked[name]) for name in names]
    return np.asarray(np.all(right, axis=0), np.float64)


def sides_right(
    probabilities: npt.NDArray[Any], attributes: Sequence[str], asked: Mapping[str, int]
) -> npt.NDArray[np.float64]:
    """(N, A) P(attribute) -> (N,): 1 where every asked side of a finding is likelier than the other side, else 0.

    NaN unless `asked` names exactly one side of a finding, and both sides are among `attributes`.
    """
    columns = {name: i for i, name in enumerate(attributes)}
    right = []
    for name, value in asked.items():
        finding, _, side = name.partition("/")
        other = f"{finding}/{SIDES.get(side, '')}"
        if value == 1 and side in SIDES and other in columns and name in columns and other not in asked:
            right.append(probabilities[:, columns[name]] > probabilities[:, columns[other]])
    if not right:
        return np.full(len(probabilities), np.nan)
    return np.asarray(np.all(right, axis=0), np.float64)
