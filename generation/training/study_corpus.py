"""A study's records as training arrays: images read one by one into memory-mapped files, masks, captions.

Input: records of one split. Output: a `Corpus` whose arrays are files, so that 200,000 images train on a small machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import sha256_bytes
from radpref.data.core.progress import track
from radpref.data.imaging.images import to_uint8
from radpref.data.study.conditions import StudyRecord, has_conditions, record_conditions
from radpref.data.study.empty_splits import require_split
from radpref.generation.training.corpus import Corpus
from radpref.generation.training.kept_arrays import KeptArrays

if TYPE_CHECKING:
    from radpref.data.study.study import Study
    from radpref.generation.stack.conditions import Condition
    from radpref.generation.training.compute import Compute

BATCH = 64
"""Images read between two looks at the progress."""


def training_records(study: Study, split: str = "train") -> list[StudyRecord]:
    """Records of ``split`` with at least a caption or a mask; errors as in :func:`require_material`."""
    require_material(study, split)
    return [record for record in record_conditions(study, split) if record["caption"] or record["masks"]]


def require_material(study: Study, split: str = "train") -> None:
    """Refuse, without reading them all, a split with no record to learn from.

    Raises:
        InvalidInput: no record of it has a caption or a mask.
        NotFound: it holds no record.
    """
    require_split(study, split)
    if not has_conditions(study, split):
        raise InvalidInput(
            f"no record of split '{split}' has a caption or a mask; write captions with `radpref data caption`,"
            " or import records that have some"
        )


def spread(records: list[StudyRecord], n: int) -> list[StudyRecord]:
    """At most ``n`` records, evenly over the list (which is sorted by data set and file)."""
    return [records[i] for i in np.linspace(0, len(records) - 1, min(n, len(records))).astype(int)]


def read_images(study: Study, records: list[StudyRecord]) -> np.ndarray:
    """Images of records, (N, H, W) uint8, in memory."""
    return np.stack([to_uint8(study.store.image(r["image_sha"])) for r in track(records, "read images", len(records))])


def records_corpus(
    study: Study,
    records: list[StudyRecord],
    structures: tuple[str, ...],
    folder: Path,
    compute: Compute | None = None,
) -> Corpus:
    """Records as training arrays, kept in `folder` and memory-mapped; masks of structures the generator knows.

    Of several processes the main one reads the images, the others wait.
    """
    from radpref.generation.training.compute import Compute

    compute = compute or Compute()
    size = study.config.data.image_size
    sources = sha256_bytes(
        json.dumps([list(structures), size, [[r["image_sha"], sorted(r["masks"].items())] for r in records]]).encode()
    )
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "images": (np.uint8, (size, size)),
        "masks": (np.uint8, (len(structures), size, -(-size // 8))),
    }

    def fill(arrays: dict[str, np.ndarray], rows: np.ndarray) -> None:
        for row in rows:
            record = records[row]
            image = to_uint8(study.store.image(record["image_sha"]))
            if image.shape != (size, size):
                raise InvalidInput(
                    f"image of record {record['record_id']} is {image.shape[1]} x {image.shape[0]}, data.image_size "
                    f"is {size}: import again into a new study"
                )
            arrays["images"][row] = image
            for channel, structure in enumerate(structures):
                if structure in record["masks"]:
                    plane = study.store.mask(record["masks"][structure])
                    arrays["masks"][row, channel] = np.packbits(plane, axis=-1)

    kept = KeptArrays(folder, "corpus", {"sources": sources}, len(records), shapes)
    if compute.is_main:
        kept.make("read images", fill, BATCH)
    compute.wait()
    return Corpus(
        kept.load("images"),
        kept.load("masks"),
        tuple(structures),
        [[r["caption"]] if r["caption"] else [] for r in records],
        sources,
    )


def record_condition(study: Study, record: StudyRecord, structures: tuple[str, ...]) -> Condition:
    """Caption and masks of a record as a condition; None each where it has none."""
    from radpref.generation.stack.conditions import Condition

    known = {name: study.store.mask(sha) for name, sha in record["masks"].items() if name in structures}
    if not known:
        return Condition(record["caption"] or None)
    black = np.zeros_like(next(iter(known.values())))
    return Condition(record["caption"] or None, np.stack([known.get(name, black) for name in structures]))
