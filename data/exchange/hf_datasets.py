"""Hugging Face `datasets` of a study: its records by split, and its scored sets by kind of rater.

Input: a study. Output: ``records/`` (splits train, val, test) and ``sets/`` (splits human, simulated), each a
DatasetDict for ``datasets.load_from_disk``, images and masks inside. Scores, events and pairs as plain tables are
`radpref annotate export`'s. Real records hold patients' images and reports: keep the folder as safe as the study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import NotFound
from radpref.data.exchange.export_folder import Written, save_datasets
from radpref.data.exchange.rated_sets import rating_sets
from radpref.data.study.splits import SPLITS

if TYPE_CHECKING:
    from radpref.data.study.study import Study

RECORD_COLUMNS = {
    "record_id": "the study's identifier",
    "dataset": "where the record is from",
    "patient_id": "patients never cross splits",
    "image": "the radiograph, 8 or 16 bit",
    "caption": "what the generator is prompted with",
    "report": "the report as it came",
    "labels": "label -> 1, 0 or missing (unknown)",
    "mask_<structure>": "mask of the image's size; missing: none",
    "extra": "the table's other columns, JSON",
}
SET_COLUMNS = {
    "set_id": "the set of four",
    "mode": "T2I, M2I or TM2I",
    "text": "the prompt; missing on M2I",
    "asked": "what the prompt asks for, JSON",
    "image_0 ... image_3": "the synthetic images by slot",
    "mask_<structure>": "the mask that was asked for",
    "arms": "generator of each image; hidden until arms may be named",
    "scores": "counted scores of submitted sets: rater, slot, criterion, value 0-5",
    "simulated": "true: programs scored, not people",
}
_SCORES = """
SELECT v.set_id, v.username AS rater, v.slot, v.criterion, v.value FROM current_scores v
JOIN counted_presentations p USING (presentation_id)
WHERE p.purpose = 'rating' AND p.state = 'submitted' AND v.rater_kind = ?
ORDER BY v.set_id, v.username, v.criterion, v.slot
"""


def write_datasets(study: Study, draft: Path, *, arms: bool) -> Written:
    """Write both.

    Raises:
        NotFound: the study has neither records nor scored sets.
    """
    parts = {
        "records": {split: found for split in SPLITS if (found := _records(study, split)) is not None},
        "sets": {
            kind: found for kind in ("human", "simulated") if (found := _sets(study, kind, arms=arms)) is not None
        },
    }
    if not any(parts.values()):
        raise NotFound(f"{study.root} has neither records nor scored sets; import some with `radpref data import`")
    for name, splits in parts.items():
        if splits:
            save_datasets(splits, draft / name)
    rows = {name: {split: part.num_rows for split, part in splits.items()} for name, splits in parts.items()}
    real = study.db.value("SELECT 1 FROM records WHERE dataset <> 'phantom' LIMIT 1") is not None
    notes = ["records hold patients' images and reports: keep this folder as safe as the study"] if real else []
    described = {"columns": {"records": RECORD_COLUMNS, "sets": SET_COLUMNS}, "rows": rows}
    return Written(rows, described, "simulated" in parts["sets"], notes)


def _records(study: Study, split: str) -> Any:
    """One split. Images are paths in it until they are saved, so that memory stays flat."""
    import datasets

    rows = study.db.rows("SELECT * FROM records WHERE split = ? ORDER BY record_id", (split,))
    if not rows:
        return None
    names = [str(row["label"]) for row in study.db.rows("SELECT DISTINCT label FROM labels ORDER BY 1")]
    labels: dict[str, dict[str, float | None]] = {}
    for row in study.db.rows("SELECT record_id, label, value FROM labels"):
        labels.setdefault(row["record_id"], {})[row["label"]] = row["value"]
    masks: dict[str, dict[str, str]] = {}
    for row in study.db.rows("SELECT record_id, structure, mask_sha FROM record_masks"):
        masks.setdefault(row["record_id"], {})[row["structure"]] = row["mask_sha"]
    structures = sorted({name for found in masks.values() for name in found})
    text = datasets.Value("string")
    features: dict[str, Any] = dict.fromkeys(("record_id", "dataset", "patient_id"), text)
    features |= {"image": datasets.Image(), "caption": text, "report": text, "extra": text}
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in features if name != "image"}
    columns["image"] = [str(study.store.path(str(row["image_sha"]))) for row in rows]
    if names:
        features["labels"] = {name: datasets.Value("float32") for name in names}
        columns["labels"] = [{name: labels.get(row["record_id"], {}).get(name) for name in names} for row in rows]
    for structure in structures:
        features[f"mask_{structure}"] = datasets.Image()
        columns[f"mask_{structure}"] = [_mask(study, masks.get(row["record_id"], {}), structure) for row in rows]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _mask(study: Study, masks: Mapping[str, str], structure: str) -> str | None:
    return str(study.store.path(masks[structure], "masks")) if structure in masks else None


def _sets(study: Study, kind: str, *, arms: bool) -> Any:
    import datasets

    scores: dict[str, list[dict[str, Any]]] = {}
    for row in study.db.rows(_SCORES, (kind,)):
        scores.setdefault(row.pop("set_id"), []).append(row)
    found = [one for one in rating_sets(study, arms=arms) if one.set_id in scores]
    if not found:
        return None
    structures = sorted({name for one in found for name in one.masks})
    text, whole = datasets.Value("string"), datasets.Value("int64")
    n_images = max(len(one.images) for one in found)
    features: dict[str, Any] = dict.fromkeys(("set_id", "mode", "text", "asked"), text)
    columns: dict[str, Sequence[Any]] = {
        "set_id": [one.set_id for one in found],
        "mode": [one.mode for one in found],
        "text": [one.text for one in found],
        "asked": [json.dumps(dict(one.asked)) for one in found],
    }
    for slot in range(n_images):
        features[f"image_{slot}"] = datasets.Image()
        columns[f"image_{slot}"] = [
            str(study.store.path(one.images[slot])) if slot < len(one.images) else None for one in found
        ]
    for structure in structures:
        features[f"mask_{structure}"] = datasets.Image()
        columns[f"mask_{structure}"] = [_mask(study, one.masks, structure) for one in found]
    features |= {
        "arms": datasets.List(text),
        "scores": datasets.List({"rater": text, "slot": whole, "criterion": text, "value": whole}),
        "simulated": datasets.Value("bool"),
    }
    columns["arms"] = [list(one.arms) for one in found]
    columns["scores"] = [scores[one.set_id] for one in found]
    columns["simulated"] = [kind == "simulated"] * len(found)
    return datasets.Dataset.from_dict(dict(columns), features=datasets.Features(features))
