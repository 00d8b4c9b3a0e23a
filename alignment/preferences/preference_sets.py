"""What the trainers read: latents, conditions, preferences and scores of the sets of one pairs run, encoded once.

Input: rows of ``pairs`` with their sets' images. Output: :class:`PreferenceSets`, all tensors in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from radpref.alignment.preferences.pairs import pair_indices
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.progress import bar
from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.scores import N_SLOTS
from radpref.data.study.conditions import load_condition, mask_stack
from radpref.generation.stack.conditions import Condition, ConditionBatch, encode_conditions
from radpref.generation.stack.models import GeneratorStack

if TYPE_CHECKING:
    from radpref.data.study.study import Study

CRITERIA: tuple[str, ...] = ("text", "mask")
ENCODE_BATCH = 32


@dataclass(frozen=True)
class PreferenceSets:
    """N sets of K images.

    latents: (N, K, C, h, w); conditions: one row per set; p, weights: criterion -> (N, P), weight 0 where a pair was
    not judged (there p is 0.5); scores: criterion -> (N, K), mean over raters, NaN where not scored.
    """

    set_ids: tuple[str, ...]
    modes: tuple[str, ...]
    latents: Tensor
    conditions: ConditionBatch
    p: dict[str, Tensor]
    weights: dict[str, Tensor]
    scores: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.set_ids)

    @property
    def has_masks(self) -> bool:
        """Some set's condition has a mask."""
        return any(mode != "T2I" for mode in self.modes)


def load_preference_sets(
    study: Study, stack: GeneratorStack, pairs_run: str, split: Literal["train", "held_out"]
) -> PreferenceSets | None:
    """The sets of one split of a pairs run, encoded by `stack`'s VAE and text encoder; None if the split is empty.

    Raises:
        InvalidInput: an image has another size than the generator's.
    """
    sets = study.db.rows(
        "SELECT DISTINCT p.set_id, s.condition_id, c.mode FROM pairs p JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE p.run_id = ? AND p.split = ? ORDER BY p.set_id",
        [pairs_run, split],
    )
    if not sets:
        return None
    ids = [str(row["set_id"]) for row in sets]
    conditions = []
    for row in sets:
        stored = load_condition(study, row["condition_id"])
        conditions.append(Condition(stored.text, mask_stack(study, stored.masks, stack.structures)))
    latents = _latents(study, stack, ids, f"encoding {split.replace('_', '-')} sets")
    p, weights = _preferences(study, pairs_run, ids)
    scores = _scores(study, pairs_run, ids)
    device = stack.device
    return PreferenceSets(
        tuple(ids),
        tuple(str(row["mode"]) for row in sets),
        latents,
        encode_conditions(stack, conditions),
        *({c: table[c].to(device) for c in CRITERIA} for table in (p, weights, scores)),
    )


def _latents(study: Study, stack: GeneratorStack, set_ids: Sequence[str], title: str) -> Tensor:
    """(N, K, C, h, w) float32 on the stack's device, each image encoded once."""
    shas: list[str] = []
    for set_id in set_ids:
        rows = study.db.rows("SELECT image_sha FROM set_images WHERE set_id = ? ORDER BY slot", [set_id])
        if len(rows) != N_SLOTS:
            raise NotFound(f"set {set_id} has {len(rows)} images of {N_SLOTS}: run `radpref generate sets` again")
        shas += [str(row["image_sha"]) for row in rows]
    stacked = encode_stored(study, stack, shas, title)
    return stacked.view(len(set_ids), N_SLOTS, *stacked.shape[1:])


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
