"""Fresh conditions for the evaluation: from validation records of patients that no rated set was made from.

Input: the study's records and what its rated sets used. Output: stored conditions, modes allotted as in the sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import MODES, StoredCondition
from radpref.data.study.empty_splits import how_to_fill
from radpref.generation.measuring.measuring_network import MeasureNet
from radpref.generation.sampling.draws import allot_modes, condition_from_record, unrated_records

if TYPE_CHECKING:
    from radpref.data.study.study import Study


def fresh_conditions(study: Study, judge: MeasureNet, n: int, seed: int) -> list[StoredCondition]:
    """Draw `n` conditions that `judge` can measure; every record serves once per mode before any serves again.

    Modes are allotted as in study.toml's sets.mix; texts are drawn evenly over what they ask for.

    Raises:
        InvalidInput: no unused validation record gives a condition of a mode that is wanted.
    """
    records = unrated_records(study)
    rng = np.random.default_rng([seed, 909])
    drawn: list[StoredCondition] = []
    for mode, count in zip(MODES, allot_modes(n, study.config.sets.mix), strict=True):
        if not count:
            continue
        usable = []
        for record in records:
            if (mode == "M2I" or record["caption"]) and (mode == "T2I" or record["masks"]):
                condition = condition_from_record(record, mode)
                if measurable(condition, judge):
                    usable.append(condition)
        if not usable:
            raise InvalidInput(
                f"no validation record is left for {mode} conditions that no rated set used:"
                f" {how_to_fill(study, 'val')}"
            )
        drawn += balanced(usable, count, rng, _findings)
    return drawn


def measurable(condition: StoredCondition, judge: MeasureNet) -> bool:
    """The judge knows something of what the text asks for, and a structure of the mask, where there is one."""
    text = condition.text is None or any(name in judge.attributes for name in condition.asked)
    mask = not condition.masks or any(name in judge.structures for name in condition.masks)
    return text and mask


def _findings(condition: StoredCondition) -> str:
    return "+".join(sorted(name for name in condition.asked if "/" not in name))


def balanced(
    items: Sequence[StoredCondition], count: int, rng: np.random.Generator, key: Callable[[StoredCondition], str]
) -> list[StoredCondition]:
    """Draw in turn from the groups of equal key, each shuffled; a group that is used up starts again."""
    groups: dict[str, list[StoredCondition]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    queues = {name: [group[i] for i in rng.permutation(len(group))] for name, group in sorted(groups.items())}
    names = [list(queues)[i] for i in rng.permutation(len(queues))]
    drawn = []
    for index in range(count):
        turn, place = divmod(index, len(names))
        queue = queues[names[place]]
        drawn.append(queue[turn % len(queue)])
    return drawn
