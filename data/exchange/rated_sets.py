"""Rating sets as other formats need them: who scored, the images, arms and masks of each set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from radpref.data.core.errors import NotFound
from radpref.data.imaging.images import SYNTHETIC_MARK, encode_mask, encode_png, read_image, to_uint8

if TYPE_CHECKING:
    from radpref.data.study.study import Study

HIDDEN_ARM = "hidden"
"""In place of an arm's name until it may be named."""


_SETS = """
SELECT s.set_id, s.run_id, s.ordinal, c.condition_id, c.mode, c.text, c.asked FROM image_sets s
JOIN conditions c USING (condition_id) JOIN runs r USING (run_id)
WHERE s.purpose = 'rating' AND r.status = 'done' ORDER BY r.started_at, s.run_id, s.ordinal
"""


@dataclass(frozen=True)
class ExportedSet:
    """A rating set: images by slot (SHA-256), arms by slot, masks by structure (SHA-256)."""

    set_id: str
    mode: str
    text: str | None
    asked: Mapping[str, int]
    images: tuple[str, ...]
    arms: tuple[str, ...]
    masks: Mapping[str, str] = field(default_factory=dict)


def rating_sets(study: Study, *, arms: bool) -> list[ExportedSet]:
    """All finished rating sets in the order they were made."""
    images: dict[str, list[tuple[int, str, str]]] = {}
    for row in study.db.rows("SELECT set_id, slot, image_sha, arm FROM set_images ORDER BY set_id, slot"):
        images.setdefault(row["set_id"], []).append((row["slot"], row["image_sha"], row["arm"]))
    masks: dict[str, dict[str, str]] = {}
    for row in study.db.rows("SELECT condition_id, structure, mask_sha FROM condition_masks ORDER BY structure"):
        masks.setdefault(row["condition_id"], {})[row["structure"]] = row["mask_sha"]
    found = []
    for row in study.db.rows(_SETS):
        shown = images.get(row["set_id"], [])
        names = tuple(arm if arms else HIDDEN_ARM for _, _, arm in shown)
        shas = tuple(sha for _, sha, _ in shown)
        asked = json.loads(row["asked"])
        found.append(
            ExportedSet(row["set_id"], row["mode"], row["text"], asked, shas, names, masks.get(row["condition_id"], {}))
        )
    return found


def image_bytes(study: Study, sha256: str) -> bytes:
    """PNG bytes of a synthetic image as any program opens it: the stored file; of a 16-bit image an 8-bit one."""
    path = study.store.path(sha256)
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        raise NotFound(f"image {path} is missing; restore a backup, see `radpref study verify`")
    image = read_image(path)
    if image.dtype == np.uint8:
        return content
    return encode_png(to_uint8(image), text={"Synthetic": SYNTHETIC_MARK})


def union_mask_png(study: Study, masks: Mapping[str, str]) -> bytes:
    """All structures' masks together, white on black, as PNG bytes."""
    planes = [study.store.mask(sha) for sha in masks.values()]
    return encode_mask(np.any(planes, axis=0))
