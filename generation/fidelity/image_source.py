"""Images to be measured, read one batch at a time: samples of an arm (kept, resumable), a folder, a split's records.

A source knows how many images there are, a key that changes with any of them, what each belongs to (its prompt, its
patient), and for samples the conditions that were asked for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes, sha256_file, write_atomic
from radpref.data.core.progress import bar
from radpref.data.imaging.framing import fit_image
from radpref.data.imaging.images import read_image, to_uint8
from radpref.data.study.conditions import MODES, StoredCondition, allot, record_conditions
from radpref.data.study.empty_splits import how_to_fill, require_split
from radpref.data.study.runs import Run, once

if TYPE_CHECKING:
    from radpref.data.study.study import Study

IMAGES = npt.NDArray[np.uint8]
SAMPLES_PER_PROMPT = 4
BATCH = 64
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


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
    records: tuple[dict[str, Any], ...] | None = None
    """The records of real images."""
    drawn: int | None = None
    """Side at which samples were drawn, pixels, where that is not the study's; they are measured at the study's."""

    def batch(self, rows: Sequence[int] | npt.NDArray[Any]) -> IMAGES:
        """Some of the images, (B, H, W) uint8."""
        return np.stack([self.read(int(row)) for row in rows])

    def batches(self) -> Iterator[tuple[int, IMAGES]]:
        """(start, images) of one batch after the other."""
        for start in range(0, self.n, BATCH):
            yield start, self.batch(range(start, min(start + BATCH, self.n)))


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


def require_images(study: Study, split: str) -> None:
    """Refuse a split that has no two real images.

    Raises:
        NotFound: it is empty, or holds one.
    """
    require_split(study, split)
    if (n := int(study.db.value("SELECT count(*) FROM records WHERE split = ?", (split,)))) < 2:
        raise NotFound(f"{n} real image in split '{split}', two are needed: {how_to_fill(study, split)}")


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted by name.

    Raises:
        NotFound: no such folder, or fewer than two images in it.
    """
    if not folder.is_dir():
        raise NotFound(f"no folder {folder}: give one that holds PNG, JPEG or TIFF files")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(files) < 2:
        raise NotFound(f"{len(files)} images in {folder}: give a folder with PNG, JPEG or TIFF files")
    return files


def folder_source(folder: Path, size: int, n: int | None = None) -> ImageSource:
    """Images of any generator: the files of `folder`, at most `n`, spread evenly over their sorted names.

    Images in one subfolder count as images of one prompt. All are set on a black square of `size` pixels as real
    images are when they are imported.

    Raises:
        NotFound: no such folder, or fewer than two images in it.
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


def no_conditions(split: str) -> InvalidInput:
    """What is said where a split has nothing to sample from."""
    return InvalidInput(f"no record of split '{split}' has a caption or a mask to sample from: import some")


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


def arm_source(study: Study, arm: str, *, n: int, prompts: str, seed: int) -> ImageSource:
    """Sample `n` images (rounded to whole prompts of four) of an arm; kept in a run, so that nothing is sampled twice.

    They are kept as drawn. A generator of another image size than the study's is measured at the study's: its images
    are set to `data.image_size` exactly as real ones were when they were imported.

    Args:
        prompts: the split whose captions and masks are asked for: val, or train (the harder test for copies).

    Raises:
        NotFound: no such arm. InvalidInput: nothing to ask for.
    """
    from radpref.generation.sampling.sets import image_seed, sample_stored
    from radpref.generation.stack.adapters import arm_identity, load_arm

    n_prompts = max(2, round(n / SAMPLES_PER_PROMPT))
    conditions = own_conditions(study, prompts, n_prompts, seed)
    config = {
        "arm": arm,
        "model": arm_identity(study, arm),
        "conditions": sha256_bytes(json.dumps([c.condition_id for c in conditions]).encode()),
        "seed": seed,
        "generator": study.config.generator.model_dump(mode="json"),
    }
    per_chunk = max(1, study.config.generator.batch_size // SAMPLES_PER_PROMPT)
    starts = range(0, n_prompts, per_chunk)

    def work(run: Run) -> dict[str, Any]:
        stack = None
        with bar(f"sampling {arm}", n_prompts) as advance:
            for start in starts:
                chunk = conditions[start : start + per_chunk]
                path = run.folder / f"{start:06d}.npy"
                if not path.exists():
                    stack = stack or load_arm(study, arm)
                    asked = [condition for condition in chunk for _ in range(SAMPLES_PER_PROMPT)]
                    seeds = [
                        image_seed("fidelity", seed, start + i, k)
                        for i in range(len(chunk))
                        for k in range(SAMPLES_PER_PROMPT)
                    ]
                    save_array(path, sample_stored(study, stack, asked, seeds))
                advance(len(chunk))
        return {"n": n_prompts * SAMPLES_PER_PROMPT}

    def intact(run: Run) -> bool:
        return all((run.folder / f"{start:06d}.npy").is_file() for start in starts)

    run = once(study, "fidelity-samples", config, work, intact=intact)
    folder = run.folder
    per_file = per_chunk * SAMPLES_PER_PROMPT
    size = study.config.data.image_size
    drawn = int(np.load(folder / f"{0:06d}.npy", mmap_mode="r", allow_pickle=False).shape[-1])
    # The configuration as it was stored: features of these images are found by it, whatever keys came since.
    key = run.config if drawn == size else {**run.config, "measured_at": size}

    def read(row: int) -> IMAGES:
        file, inside = divmod(row, per_file)
        chunk = np.load(folder / f"{file * per_chunk:06d}.npy", mmap_mode="r", allow_pickle=False)
        return to_uint8(fit_image(np.array(chunk[inside], dtype=np.uint8), size))

    return ImageSource(
        arm,
        sha256_bytes(json.dumps(key, sort_keys=True).encode()),
        n_prompts * SAMPLES_PER_PROMPT,
        read,
        tuple(str(i // SAMPLES_PER_PROMPT) for i in range(n_prompts * SAMPLES_PER_PROMPT)),
        tuple(conditions[i // SAMPLES_PER_PROMPT] for i in range(n_prompts * SAMPLES_PER_PROMPT)),
        drawn=None if drawn == size else drawn,
    )


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())
