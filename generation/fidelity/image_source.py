"""Images to be measured, read one batch at a time: samples of an arm (kept, resumable), a folder, a split's records.

A source knows how many images there are, a key that changes with any of them, what each belongs to (its prompt, its
patient), and for samples the conditions that were asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.files import sha256_bytes, sha256_file
from radpref.data.imaging.framing import fit_image
from radpref.data.imaging.images import read_image, to_uint8
from radpref.data.study.conditions import MODES, StoredCondition, StudyRecord, allot, record_conditions
from radpref.data.study.runs import Run, once
from radpref.generation.fidelity.request import (
    DEFAULT_N,
    SAMPLES_PER_PROMPT,
    FidelityRequest,
    image_files,
    no_conditions,
    require_images,
)
from radpref.generation.sampling.kept_samples import KeptSamples

if TYPE_CHECKING:
    from radpref.data.study.study import Study

IMAGES = npt.NDArray[np.uint8]
BATCH = 64


@dataclass(frozen=True)
class ImageSource:
    """n images of one size, read on demand."""

    name: str
    key: str
    n: int
    read: Callable[[int], IMAGES] = field(repr=False)
    """Index -> (H, W) uint8."""
    groups: tuple[str, ...] | None = None
    """What each image belongs to: images of one prompt, or of one patient, are not independent."""
    conditions: tuple[StoredCondition, ...] | None = None
    """What was asked for, image by image; None where nobody knows."""
    records: tuple[StudyRecord, ...] | None = None
    """The records of real images."""
    drawn: int | None = None
    """Side at which samples were drawn, pixels, where that is not the study's; they are measured at the study's."""

    def batch(self, rows: Sequence[int] | npt.NDArray[Any]) -> IMAGES:
        """Some of the images, (B, H, W) uint8."""
        return np.stack([self.read(int(row)) for row in rows])


def record_source(study: Study, split: str) -> ImageSource:
    """The real images of a split.

    Raises:
        NotFound: fewer than two.
    """
    require_images(study, split)
    records = record_conditions(study, split)
    shas = [str(record["image_sha"]) for record in records]
    patients = tuple(f"{record['dataset']}/{record['patient_id']}" for record in records)
    return ImageSource(
        f"split {split}",
        sha256_bytes("\n".join(shas).encode()),
        len(shas),
        lambda row: to_uint8(study.store.image(shas[row])),
        patients,
        None,
        tuple(records),
    )


def folder_source(folder: Path, size: int, n: int | None = None) -> ImageSource:
    """Images of any generator: the files of `folder`, at most `n`, spread evenly over their sorted names.

    Images in one subfolder count as images of one prompt. All are set on a black square of `size` pixels as real
    images are when they are imported.
    """
    files = image_files(folder)
    if n is not None and n < len(files):
        files = [files[i] for i in np.linspace(0, len(files) - 1, n).round().astype(int)]
    digest = sha256_bytes("\n".join(sha256_file(path) for path in files).encode())
    inside = {path.parent for path in files} != {folder}
    groups = tuple(path.relative_to(folder).parent.as_posix() for path in files) if inside else None
    return ImageSource(
        f"images of {folder.name}",
        digest,
        len(files),
        lambda row: to_uint8(fit_image(read_image(files[row]), size)),
        groups,
    )


# --- samples of an arm -----------------------------------------------------------------------------------------


def own_conditions(study: Study, split: str, n: int, seed: int) -> list[StoredCondition]:
    """`n` conditions of records of `split` in their own frequencies, each record once before any again.

    Balanced prompts would make a generator look unlike the real images for their prevalence alone. Modes as in
    sets.mix, without those that the split has no captions or masks for.

    Raises:
        InvalidInput: no record has a caption or a mask.
    """
    from radpref.generation.sampling.draws import condition_from_record

    records = record_conditions(study, split)
    usable = {
        mode: [r for r in records if (mode == "M2I" or r["caption"]) and (mode == "T2I" or r["masks"])]
        for mode in MODES
    }
    weights = [share if usable[mode] else 0 for mode, share in zip(MODES, study.config.sets.mix, strict=True)]
    if not sum(weights):
        weights = [int(bool(usable[mode])) for mode in MODES]
    if not sum(weights):
        raise no_conditions(split)
    rng = np.random.default_rng([seed, 707])
    drawn: list[StoredCondition] = []
    for mode, count in zip(MODES, allot(n, weights), strict=True):
        order = rng.permutation(len(usable[mode]))
        drawn += [condition_from_record(usable[mode][order[i % len(order)]], mode) for i in range(count)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def arm_source(study: Study, arm: str, request: FidelityRequest) -> ImageSource:
    """Samples of an arm (`request.n` rounded to whole prompts of four), kept in a run: nothing is sampled twice.

    They are kept as drawn. A generator of another image size than the study's is measured at the study's: its images
    are set to `data.image_size` exactly as real ones were when they were imported.
    """
    from radpref.generation.stack.adapters import arm_identity

    n_prompts = max(2, round((request.n or DEFAULT_N) / SAMPLES_PER_PROMPT))
    conditions = own_conditions(study, request.prompts, n_prompts, request.seed)
    config = {
        "arm": arm,
        "model": arm_identity(study, arm),
        "conditions": sha256_bytes(json.dumps([c.condition_id for c in conditions]).encode()),
        "seed": request.seed,
        "generator": study.config.generator.model_dump(mode="json"),
    }

    def samples_of(run: Run) -> KeptSamples:
        return KeptSamples(run.folder, conditions, SAMPLES_PER_PROMPT, study.config.generator.batch_size)

    def work(run: Run) -> dict[str, Any]:
        samples_of(run).sample(study, arm, "fidelity", request.seed)
        return {"n": len(samples_of(run))}

    run = once(study, "fidelity-samples", config, work, intact=lambda run: samples_of(run).complete())
    # The configuration as it was stored: features of these images are found by it, whatever keys came since.
    return _source_of(samples_of(run), arm, run.config, study.config.data.image_size)


def _source_of(samples: KeptSamples, arm: str, config: dict[str, Any], size: int) -> ImageSource:
    """The samples at the study's size; their key is what they were made with, and that size where it differs."""
    drawn = samples.read(0).shape[-1]
    key = config if drawn == size else {**config, "measured_at": size}
    prompts = [row // SAMPLES_PER_PROMPT for row in range(len(samples))]
    return ImageSource(
        arm,
        sha256_bytes(json.dumps(key, sort_keys=True).encode()),
        len(samples),
        lambda row: to_uint8(fit_image(samples.read(row), size)),
        tuple(map(str, prompts)),
        tuple(samples.conditions[prompt] for prompt in prompts),
        drawn=None if drawn == size else drawn,
    )
