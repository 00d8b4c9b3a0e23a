"""What the trainers read: latents, conditions, preferences and scores of the sets of one pairs run, encoded once.

Input: rows of ``pairs`` with their sets' images. Output: :class:`PreferenceSets`, all tensors in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from radpref.alignment.preferences.pairs import Split, pair_indices, set_images
from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import bar
from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.scores import N_SLOTS
from radpref.data.study.conditions import StoredCondition, load_condition, mask_stack
from radpref.generation.stack.conditions import Condition, ConditionBatch, encode_conditions
from radpref.generation.stack.models import GeneratorStack

if TYPE_CHECKING:
    from radpref.data.study.study import Study

CRITERIA: tuple[str, ...] = ("text", "mask")
SPLITS: tuple[Split, ...] = ("train", "held_out")
ENCODE_BATCH = 32


@dataclass(frozen=True)
class PreferenceSets:
    """N sets of K images.

    latents: (N, K, C, h, w); conditions: one row per set; p, weights: criterion -> (N, P), weight 0 where a pair was
    not judged (there p is 0.5); scores: criterion -> (N, K), mean over raters, NaN where not scored.
    """

    modes: tuple[str, ...]
    latents: Tensor
    conditions: ConditionBatch
    p: dict[str, Tensor]
    weights: dict[str, Tensor]
    scores: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.modes)

    @property
    def has_masks(self) -> bool:
        """Some set's condition has a mask."""
        return any(mode != "T2I" for mode in self.modes)


@dataclass(frozen=True)
class StoredSets:
    """The same sets as the database holds them: set_ids, conditions, and the images' hashes, K for each set."""

    set_ids: tuple[str, ...]
    conditions: tuple[StoredCondition, ...]
    asked: tuple[Condition, ...]
    shas: tuple[str, ...]
    p: dict[str, Tensor]
    weights: dict[str, Tensor]
    scores: dict[str, Tensor]


def read_sets(study: Study, pairs_run: str, structures: Sequence[str]) -> dict[Split, StoredSets]:
    """Everything that a training reads of a pairs run but the images themselves; a split without sets is left out."""
    rows = study.db.rows(
        "SELECT DISTINCT p.split, p.set_id, s.condition_id FROM pairs p JOIN image_sets s USING (set_id)"
        " WHERE p.run_id = ? ORDER BY p.set_id",
        [pairs_run],
    )
    names = {str(row["condition_id"]) for row in rows}
    conditions = {name: load_condition(study, name) for name in names}
    asked = {name: Condition(one.text, mask_stack(study, one.masks, structures)) for name, one in conditions.items()}
    found: dict[Split, StoredSets] = {}
    for split in SPLITS:
        own = [row for row in rows if row["split"] == split]
        ids = tuple(str(row["set_id"]) for row in own)
        if own:
            found[split] = StoredSets(
                ids,
                tuple(conditions[row["condition_id"]] for row in own),
                tuple(asked[row["condition_id"]] for row in own),
                set_images(study, ids),
                *_preferences(study, pairs_run, ids),
                _scores(study, pairs_run, ids),
            )
    return found


def encode_sets(study: Study, stack: GeneratorStack, stored: Mapping[Split, StoredSets]) -> dict[Split, PreferenceSets]:
    """The sets of each split, encoded by `stack`'s VAE and text encoder; all on its device."""
    found: dict[Split, PreferenceSets] = {}
    for split, one in stored.items():
        latents = encode_stored(study, stack, one.shas, f"encoding {split.replace('_', '-')} sets")
        found[split] = PreferenceSets(
            tuple(condition.mode for condition in one.conditions),
            latents.view(len(one.set_ids), N_SLOTS, *latents.shape[1:]),
            encode_conditions(stack, one.asked),
            *({c: table[c].to(stack.device) for c in CRITERIA} for table in (one.p, one.weights, one.scores)),
        )
    return found


def encode_stored(study: Study, stack: GeneratorStack, shas: Sequence[str], title: str) -> Tensor:
    """Latents of stored images, (n, C, h, w) float32 on the stack's device.

    Raises:
        InvalidInput: an image has another size than the generator's.
    """
    parts = []
    with bar(title, len(shas)) as advance:
        for start in range(0, len(shas), ENCODE_BATCH):
            part = [study.store.image(sha) for sha in shas[start : start + ENCODE_BATCH]]
            wrong = [image.shape for image in part if image.shape != (stack.image_size, stack.image_size)]
            if wrong:
                raise InvalidInput(
                    f"an image is {wrong[0]}, the generator makes {stack.image_size} px: sample it again"
                )
            signal = torch.from_numpy(np.stack([to_uint8(image) for image in part])).float()[:, None] / 127.5 - 1
            parts.append(stack.encode_images(signal.to(stack.device)))
            advance(len(part))
    return torch.cat(parts).float()


def _preferences(study: Study, run_id: str, ids: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first, second = pair_indices(N_SLOTS)
    column = {pair: k for k, pair in enumerate(zip(first, second, strict=True))}
    place = {set_id: n for n, set_id in enumerate(ids)}
    p = {c: torch.full((len(ids), len(column)), 0.5) for c in CRITERIA}
    weights = {c: torch.zeros(len(ids), len(column)) for c in CRITERIA}
    for row in study.db.rows("SELECT * FROM pairs WHERE run_id = ?", [run_id]):
        if row["set_id"] in place:
            index = place[row["set_id"]], column[row["slot_i"], row["slot_j"]]
            p[row["criterion"]][index] = row["p"]
            weights[row["criterion"]][index] = 1.0
    return p, weights


def _scores(study: Study, run_id: str, ids: Sequence[str]) -> dict[str, Tensor]:
    """Mean score of every image by criterion, (N, K): over the events behind the pairs, each rater counted once."""
    place = {set_id: n for n, set_id in enumerate(ids)}
    found = {c: torch.full((len(ids), N_SLOTS), float("nan")) for c in CRITERIA}
    rows = study.db.rows(
        "SELECT set_id, criterion, slot, avg(value) AS score FROM ("
        " SELECT p.set_id, e.criterion, e.slot, e.rater_id, avg(e.value) AS value FROM"
        " (SELECT DISTINCT q.set_id, pe.event_id FROM pairs q JOIN pair_events pe USING (pair_id) WHERE q.run_id = ?) p"
        " JOIN score_events e USING (event_id) GROUP BY p.set_id, e.criterion, e.slot, e.rater_id)"
        " GROUP BY set_id, criterion, slot",
        [run_id],
    )
    for row in rows:
        if row["set_id"] in place:
            found[row["criterion"]][place[row["set_id"]], row["slot"]] = row["score"]
    return found
