"""Training arrays of the generator: images, packed masks, captions.

Input: phantom specs (rendered here, in parallel, resumable by shard) or any records' arrays. Output: a `Corpus`, in
memory or as memory-mapped files in a folder, that VAE, UNet and ControlNet training all read in the same way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import track
from radpref.data.imaging.images import high_byte

log = logging.getLogger(__name__)

EMBEDDED_STRUCTURES: tuple[str, ...] = ("lungs", "heart", "lesion", "pneumothorax")
SHARD_SIZE = 256


@dataclass(frozen=True)
class Corpus:
    """Aligned arrays over N training images.

    images: uint8 (N, H, W); packed_masks: uint8 (N, S, H, W/8), bits of boolean masks, all black where a structure is
    absent or unknown; structures: S names; captions: per image its alternative texts (may be empty: no text);
    sources: SHA-256 of what images and masks were read from, empty where that is unknown.
    """

    images: np.ndarray
    packed_masks: np.ndarray
    structures: tuple[str, ...]
    captions: list[list[str]]
    sources: str = ""

    def fingerprint(self) -> str:
        """SHA-256 of images and masks: of what they were read from, or else of the arrays themselves."""
        if self.sources:
            return self.sources
        digest = hashlib.sha256(json.dumps([list(self.structures), list(self.images.shape)]).encode())
        for array in (self.images, self.packed_masks):
            for start in range(0, len(array), SHARD_SIZE):
                digest.update(np.ascontiguousarray(array[start : start + SHARD_SIZE]).data)
        return digest.hexdigest()

    def __post_init__(self) -> None:
        lengths = {"images": len(self.images), "masks": len(self.packed_masks), "captions": len(self.captions)}
        if len(set(lengths.values())) != 1:
            raise InvalidInput(f"a corpus needs arrays of one length, got {lengths}: give one entry per image")
        if self.images.ndim != 3 or self.images.shape[1] != self.images.shape[2]:
            raise InvalidInput(f"a corpus needs square images (N, H, H), got {self.images.shape}: resize them first")
        if self.packed_masks.shape[1] != len(self.structures):
            raise InvalidInput(
                f"{self.packed_masks.shape[1]} mask channels for structures {list(self.structures)}: give one each"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return int(self.images.shape[1])

    def masks(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Boolean masks (n, S, H, W) of some images."""
        packed = np.asarray(self.packed_masks[np.asarray(indices)])
        return np.unpackbits(packed, axis=-1, count=self.image_size).astype(bool)

    def save(self, folder: Path) -> None:
        """Write images.npy, masks.npy and corpus.jsonl; the latter last, as the sign of completeness."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", self.images)
        np.save(folder / "masks.npy", self.packed_masks)
        entries = [{"structures": list(self.structures)}, *({"captions": texts} for texts in self.captions)]
        write_atomic(folder / "corpus.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))


def load_corpus(folder: Path) -> Corpus:
    """Open a saved corpus; the arrays are memory-mapped."""
    if not (folder / "corpus.jsonl").exists():
        raise NotFound(f"no corpus in {folder}: build it first with `radpref generate train --embedded`")
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return Corpus(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "masks.npy", mmap_mode="r"),
        tuple(json.loads(lines[0])["structures"]),
        [json.loads(line)["captions"] for line in lines[1:]],
    )


def _render_shard(job: tuple[str, int, int, int, int]) -> str:
    """Worker: render one shard of phantoms into `<folder>/shards/<index>.npz` and their captions into `.json`."""
    from radpref.data.phantom.render import render
    from radpref.data.phantom.spec import HELD_OUT, draw_spec
    from radpref.data.phantom.text import paraphrases

    folder, index, count, size, seed = job
    target = Path(folder) / "shards" / f"{index:05d}.npz"
    if target.exists():
        return str(target)
    rng = np.random.default_rng([seed, index])
    images = np.zeros((count, size, size), dtype=np.uint8)
    masks = np.zeros((count, len(EMBEDDED_STRUCTURES), size, size), dtype=bool)
    captions: list[list[str]] = []
    for k in range(count):
        spec = draw_spec(rng, exclude=HELD_OUT)
        rendered = render(spec, size)
        images[k] = high_byte(rendered.image)
        for channel, name in enumerate(EMBEDDED_STRUCTURES):
            masks[k, channel] = rendered.masks[name]
        captions.append(caption_alternatives(rendered, paraphrases(spec.findings, unseen=False)))
    target.with_suffix(".json").write_text(json.dumps(captions), encoding="utf-8")
    temporary = target.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(temporary, images=images, masks=np.packbits(masks, axis=-1))
    temporary.replace(target)
    return str(target)


def caption_alternatives(rendered: Any, paraphrases: Sequence[str]) -> list[str]:
    """The canonical caption thrice, its paraphrases, and the report's impression: what training draws a text from.

    The whole report is longer than the text encoder reads.
    """
    impression = str(rendered.report).rsplit("IMPRESSION:", 1)[-1].strip()
    return [rendered.caption] * 3 + list(paraphrases) + [impression]


def build_phantom_corpus(folder: Path, n_images: int, size: int, seed: int, workers: int = 1) -> Corpus:
    """Render `n_images` phantoms without the held-out combinations; resumes by shard and returns the saved corpus."""
    if (folder / "corpus.jsonl").exists():
        return load_corpus(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    counts = [min(SHARD_SIZE, n_images - start) for start in range(0, n_images, SHARD_SIZE)]
    jobs = [(str(folder), index, count, size, seed) for index, count in enumerate(counts)]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            paths = list(track(pool.imap(_render_shard, jobs), "render phantoms", len(jobs)))
    else:
        paths = [_render_shard(job) for job in track(jobs, "render phantoms", len(jobs))]
    arrays = [np.load(path) for path in paths]
    captions = [own for path in paths for own in json.loads(Path(path).with_suffix(".json").read_text("utf-8"))]
    corpus = Corpus(
        np.concatenate([part["images"] for part in arrays]),
        np.concatenate([part["masks"] for part in arrays]),
        EMBEDDED_STRUCTURES,
        captions,
    )
    corpus.save(folder)
    for path in paths:
        Path(path).unlink()
        Path(path).with_suffix(".json").unlink()
    return load_corpus(folder)
