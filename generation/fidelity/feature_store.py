"""Features and thumbnails of many images, computed batch by batch and kept in a run, read back batch by batch.

An image source and a network -> blocks of (features (b, D) float32, thumbnails (b, 32, 32) uint8). An interrupted pass
goes on where it stopped; the same images and network are never computed twice; memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from radpref.data.core.files import save_array
from radpref.data.core.progress import bar
from radpref.data.study.runs import Run, once
from radpref.generation.fidelity.image_source import BATCH, IMAGES, ImageSource
from radpref.generation.fidelity.memorisation import THUMBNAIL
from radpref.generation.fidelity.networks import FeatureNetwork
from radpref.generation.measuring.measuring_network import resize_square

if TYPE_CHECKING:
    from radpref.data.study.study import Study


@dataclass(frozen=True)
class FeatureTable:
    """What was computed of `n` images, on disk in blocks of `BATCH`."""

    folder: Path
    n: int

    def blocks(self, what: str) -> Iterator[npt.NDArray[np.float32] | IMAGES]:
        """`what` is "features" or "thumbnails"; one block after the other."""
        for start in range(0, self.n, BATCH):
            yield np.load(self.folder / f"{what}-{start:07d}.npy", allow_pickle=False)

    def features(self) -> npt.NDArray[np.float32]:
        """All features at once, (n, D)."""
        return np.concatenate(list(self.blocks("features"))).astype(np.float32)

    def some_features(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The features of some images, (len(rows), D), without reading all at once."""
        found: dict[int, npt.NDArray[np.float32]] = {}
        for number in np.unique(rows // BATCH):
            block = np.load(self.folder / f"features-{number * BATCH:07d}.npy", allow_pickle=False)
            found |= {int(row): block[row - number * BATCH] for row in rows[rows // BATCH == number]}
        return np.stack([found[int(row)] for row in rows]).astype(np.float32)

    def thumbnails(self) -> IMAGES:
        """All thumbnails at once, (n, 32, 32) uint8: a kilobyte each."""
        return np.concatenate(list(self.blocks("thumbnails"))).astype(np.uint8)


def thumbnails(images: IMAGES) -> IMAGES:
    """uint8 (N, H, W) -> (N, 32, 32) uint8: padded to a square, averaged down."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None]
    small = resize_square(x, THUMBNAIL)[:, 0]
    return np.asarray(small.round().clamp(0, 255).to(torch.uint8).numpy())


def feature_table(study: Study, source: ImageSource, network: FeatureNetwork) -> FeatureTable:
    """Compute what is not there yet, under a progress bar."""
    config = {"images": source.key, "network": network.sha256, "thumbnail": THUMBNAIL, "batch": BATCH}
    parts = [f"thumbnails-{start:07d}.npy" for start in range(0, source.n, BATCH)]
    inputs = {"images": source.key, "network": network.sha256}

    def work(run: Run) -> dict[str, Any]:
        with bar(f"features of {source.name}", source.n) as advance:
            for start in range(0, source.n, BATCH):
                rows = range(start, min(start + BATCH, source.n))
                last = run.folder / f"thumbnails-{start:07d}.npy"
                if not last.exists():
                    images = source.batch(rows)
                    save_array(run.folder / f"features-{start:07d}.npy", network.features(images))
                    save_array(last, thumbnails(images))
                advance(len(rows))
        return {"n": source.n}

    def intact(run: Run) -> bool:
        return all((run.folder / part).is_file() for part in parts)

    return FeatureTable(once(study, "features", config, work, inputs, intact=intact).folder, source.n)
