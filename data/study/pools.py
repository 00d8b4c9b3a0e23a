"""The synthetic training images of a task and arm: the real records they go by, and how the grid reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import NotFound

if TYPE_CHECKING:
    from radpref.data.config.downstream import TaskConfig
    from radpref.data.study.study import Study

NORMAL = "normal"
"""Name of the class without any of a task's labels."""
PLAIN_ARMS = ("real", "real_balanced")
"""Arms without synthetic images: one cell per task, fraction and seed, shared by every multiple; they have no pool."""
PROXY_CANDIDATES, PROXY_FILTERED, PROXY_FINETUNED = "proxy-candidates", "proxy-filtered", "proxy-finetuned"
"""Pools of the proxy: what it chooses from, what it chose, and samples of the generator trained on that."""
_MATERIAL = """
SELECT record_id, dataset, patient_id, image_sha, caption, extra,
  (SELECT json_group_object(label, value) FROM labels l WHERE l.record_id = r.record_id) AS labels,
  (SELECT json_group_object(structure, json_array(mask_sha, n_pixels)) FROM record_masks m
   JOIN masks ON masks.sha256 = m.mask_sha WHERE m.record_id = r.record_id) AS masks
FROM records r WHERE """


def material(
    study: Study, split: str, where: Mapping[str, str] | None = None, records: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Records of a split by record_id: record_id, patient, image_sha, caption, labels, masks, known_masks.

    ``masks`` maps structure -> SHA-256 of masks with pixels; ``known_masks`` also names empty ones (structure -> number
    of pixels). ``where`` keeps records whose extra columns match; ``records`` only those (at most some hundreds).
    """
    condition, parameters = "split = ?", [split]
    if records is not None:
        condition += f" AND record_id IN ({','.join('?' * len(records))})"
        parameters += records
    for row in study.db.tables.query(_MATERIAL + condition + " ORDER BY record_id", parameters):
        extra = json.loads(row["extra"])
        if any(str(extra.get(column)) != value for column, value in (where or {}).items()):
            continue
        masks: dict[str, tuple[str, int]] = json.loads(row["masks"])
        yield {
            **{name: row[name] for name in ("record_id", "image_sha", "caption")},
            "patient": f"{row['dataset']}/{row['patient_id']}",
            "labels": json.loads(row["labels"]),
            "masks": {name: sha for name, (sha, n_pixels) in masks.items() if n_pixels},
            "known_masks": {name: n_pixels for name, (_, n_pixels) in masks.items()},
        }


def is_usable(task: TaskConfig, record: Mapping[str, Any]) -> bool:
    """Whether the task can use a real record: a label of it is known, or the mask is.

    A mask is known if it is there (also empty), or absent where the label of that name is 0 or other masks were drawn.
    """
    labels = record["labels"]
    if task.kind != "segmentation":
        return any(labels.get(label) is not None for label in task.labels)
    if task.structure in record["known_masks"]:
        return True
    return bool(labels[task.structure] == 0) if task.structure in labels else bool(record["known_masks"])


def lift_lowest(have: Sequence[int], n: int) -> npt.NDArray[np.int16]:
    """Which of the counts ``have`` each of ``n`` additions goes to: always the lowest, the first of equals.

    So the rarest classes reach the most frequent one, and all grow alike from there. A longer order begins with a
    shorter one.
    """
    start = np.asarray(have, np.int64)
    # The j-th addition to a count lifts it from level (have + j): additions by level are additions to the lowest.
    most = np.minimum(n, np.maximum(0, start.max(initial=0) - start) + n // max(len(start), 1) + 1)
    levels = np.concatenate([low + np.arange(k) for low, k in zip(start, most, strict=True)])
    owners = np.repeat(np.arange(len(start), dtype=np.int16), most)
    return owners[np.lexsort((owners, levels))][:n]


def pool_run(study: Study, task: str, arm: str) -> str:
    """Run id of the newest finished pool of ``task`` and ``arm``.

    Raises:
        NotFound: there is none.
    """
    run_id = study.db.value(
        "SELECT run_id FROM runs WHERE kind = 'pool' AND status = 'done'"
        " AND json_extract(config, '$.task.name') = ? AND json_extract(config, '$.arm') = ?"
        " ORDER BY started_at DESC, run_id DESC LIMIT 1",
        [task, arm],
    )
    if run_id is None:
        raise NotFound(f"no finished pool for task '{task}', arm '{arm}'; run `radpref generate pool`")
    return str(run_id)


def pool_rows(study: Study, task: str, arm: str) -> list[dict[str, Any]]:
    """Images of the newest finished pool in order: ordinal, image_sha, condition_id, seed, labels (dict)."""
    rows = study.db.rows(
        "SELECT ordinal, image_sha, condition_id, seed, labels FROM pool_images WHERE run_id = ? ORDER BY ordinal",
        [pool_run(study, task, arm)],
    )
    return [{**row, "labels": json.loads(row["labels"])} for row in rows]


def class_counts(study: Study, run_id: str) -> dict[str, int]:
    """Images of a pool by what they are labelled: each label, "normal" where all labels are 0, "mask" for masks."""
    counts: dict[str, int] = {}
    for row in study.db.rows("SELECT labels, count(*) AS n FROM pool_images WHERE run_id = ? GROUP BY 1", [run_id]):
        labels = json.loads(row["labels"])
        named = [label for label, value in labels.items() if value == 1]
        name = "+".join(named) or (NORMAL if labels else "mask")
        counts[name] = counts.get(name, 0) + int(row["n"])
    return dict(sorted(counts.items()))
