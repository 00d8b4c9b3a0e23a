"""Exports in other projects' formats: who scored, which sets, and the folder they are written into.

Input: a study, a folder, a format of `FORMATS`. Output: the folder, whole or not at all, with MANIFEST.json. People's
and programs' scores are never in one file: ``auto`` takes the kind there is, and refuses where there are both. Only
rating sets are exported (comparison sets are a test of arms), and arms only where they may be named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.errors import Conflict, InvalidInput, NotFound
from data.export import MANIFEST, manifest_head, whole_folder
from data.files import write_atomic
from data.images import SYNTHETIC_MARK, encode_png, read_image, to_uint8
from data.lifecycle import arms_visible, reveal_arms

if TYPE_CHECKING:
    from data.study import Study

RaterKind = Literal["human", "simulated"]
FORMATS = ("pick-a-pic", "study-jsonl", "datasets")
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


def export_exchange(
    study: Study,
    target: Path,
    name: str,
    *,
    actor: str,
    raters: str = "auto",
    ties: bool | None = None,
    criterion: str | None = None,
) -> dict[str, Any]:
    """Write ``target`` in the format ``name``; returns {target, format, raters, arms, simulated, ...counts, notes}.

    Args:
        raters: human, simulated or auto. ties: keep pairs that nobody prefers an image of; default: the format's own.
        criterion: text or mask; default both. For pick-a-pic.

    Raises:
        InvalidInput: an unknown format, kind of rater or criterion, or the folder holds something else.
        NotFound: nothing was scored, or pairs were not made.
        Conflict: people and programs scored, and ``raters`` is auto.
        StorageFull: the disk is full; an earlier export there stays whole.
    """
    if name not in FORMATS:
        raise InvalidInput(f"--format {name} is unknown; choose csv, {', '.join(FORMATS)}")
    if criterion not in (None, "text", "mask"):
        raise InvalidInput(f"--criterion {criterion} is unknown; choose text or mask")
    target, kind = Path(target).resolve(), f"radpref {name} export"
    with whole_folder(target, kind) as draft:
        arms = arms_visible(study.db)
        who = None if name == "datasets" else rater_kind(study, raters)
        result, described = _write(study, draft, name, who, arms=arms, ties=ties, criterion=criterion)
        if arms:
            reveal_arms(study.db, actor, f"{name} export to {target.name}")
        simulated = bool(described.pop("simulated"))
        head = manifest_head(study, draft, kind, arms=arms, simulated=simulated)
        write_atomic(draft / MANIFEST, json.dumps(head | {"raters": who} | described, indent=1, ensure_ascii=False))
    return {"target": str(target), "format": name, "raters": who, "arms": arms, "simulated": simulated, **result}


def _write(
    study: Study,
    draft: Path,
    name: str,
    who: RaterKind | None,
    *,
    arms: bool,
    ties: bool | None,
    criterion: str | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(counts for the caller, what the manifest says besides its head) of one format."""
    if name == "pick-a-pic":
        from data.pick_a_pic import write_pick_a_pic

        assert who is not None
        return write_pick_a_pic(study, draft, who, arms=arms, ties=ties is not False, criterion=criterion)
    if name == "study-jsonl":
        from data.study_jsonl import write_study_jsonl

        assert who is not None
        return write_study_jsonl(study, draft, who, ties=bool(ties))
    from data.record_datasets import write_datasets

    return write_datasets(study, draft, arms=arms)


def rater_kind(study: Study, wanted: str) -> RaterKind:
    """Whose scores of rating sets are exported.

    Raises:
        InvalidInput: an unknown kind. NotFound: none scored. Conflict: both did, and ``wanted`` is auto.
    """
    if wanted not in ("auto", "human", "simulated"):
        raise InvalidInput(f"--raters {wanted} is unknown; choose auto, human or simulated")
    rows = study.db.rows(
        "SELECT DISTINCT v.rater_kind AS kind FROM current_scores v"
        " JOIN counted_presentations p USING (presentation_id)"
        " WHERE p.purpose = 'rating' AND p.state = 'submitted'"
    )
    kinds = {str(row["kind"]) for row in rows}
    if not kinds or (wanted != "auto" and wanted not in kinds):
        what = "scores" if wanted == "auto" else f"{wanted} scores"
        raise NotFound(f"no submitted {what} of rating sets in {study.root}; score sets first")
    if wanted == "auto" and len(kinds) > 1:
        raise Conflict(
            "people and simulated raters scored, and never stand in one file: choose --raters human or simulated"
        )
    return "human" if (wanted if wanted != "auto" else kinds.pop()) == "human" else "simulated"


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
    return encode_png(np.any(planes, axis=0).astype(np.uint8) * np.uint8(255))
