"""The ``medmnist`` reader: archives of MedMNIST and MedMNIST+ (Yang et al., Scientific Data 2023).

Input: an .npz file such as chestmnist_224.npz, with ``{train,val,test}_images`` (N, S, S) uint8 and ``..._labels``
(N, K). Output: a plan; the archive is read row by row. Splits are the published ones; there are no patient identifiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.chexpert_columns import finding_caption, kept_labels
from radpref.data.datasets.layout import split_place
from radpref.data.datasets.npz import Npz, Rows
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.imaging.framing import check_content, fit_image
from radpref.data.study.splits import SPLITS


@dataclass(frozen=True)
class Published:
    """What a set of the collection holds: images per split, and the names of its label columns or classes."""

    sizes: tuple[int, int, int]
    labels: tuple[str, ...]


PUBLISHED = {
    "chestmnist": Published(
        (78468, 11219, 22433),
        (
            "atelectasis", "cardiomegaly", "pleural_effusion", "infiltration", "mass", "nodule", "pneumonia",
            "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "hernia",
        ),
    ),
    "pneumoniamnist": Published((4708, 524, 624), ("normal", "pneumonia")),
}  # fmt: skip
"""The chest X-ray sets of the collection. "effusion" and "pleural" (NIH) have their full names here."""
NO_PATIENTS = "no patient identifiers are published: every image counts as its own patient"


@dataclass(frozen=True)
class _Split:
    name: str
    images: Rows
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Set:
    """Records of the splits, one after the other."""

    name: str
    config: DataConfig
    splits: tuple[_Split, ...]
    names: tuple[str, ...]
    kept: frozenset[str]

    def __len__(self) -> int:
        return sum(len(one.images) for one in self.splits)

    def _place(self, number: int) -> tuple[_Split, int]:
        k, i = split_place([len(one.images) for one in self.splits], number)
        return self.splits[k], i

    def record_id(self, number: int) -> str:
        split, i = self._place(number)
        return f"{self.name}-{split.name}-{i:06d}"

    def load(self, number: int) -> LoadedRecord:
        split, i = self._place(number)
        record_id = self.record_id(number)
        labels = _labels(self, split.labels[i])
        image = np.array(split.images[i])
        if image.dtype != np.uint8:
            raise InvalidInput(f"{record_id} is {image.dtype}; 8-bit images are expected")
        check_content(image, record_id)
        return Record(
            record_id=record_id,
            dataset=self.name,
            patient_id=record_id,
            split=split.name,
            image=fit_image(image, self.config.image_size),
            masks={},
            labels=labels,
            caption=finding_caption(labels),
        )


def read_medmnist(config: DataConfig, path: Path | None = None) -> ImportPlan:
    """Plan the images of one archive. Labels have the published names, or those of ``data.columns.labels`` in order."""
    if path is None:
        raise InvalidInput("the medmnist reader needs an .npz file; give PATH or set data.path in study.toml")
    archive = Npz(path)
    name = path.stem.partition("_")[0].lower()
    published = PUBLISHED.get(name)
    splits = tuple(_split(archive, split) for split in SPLITS)
    names = config.columns.labels or (published.labels if published else ())
    _check_names(path, splits, names)
    kept = frozenset(kept_labels(config, names))
    side = "x".join(str(n) for n in splits[0].images.shape[1:])
    expected = published.sizes if published else (None,) * len(SPLITS)
    found = [Found(f"images ({one.name})", len(one.images), n) for one, n in zip(splits, expected, strict=True)]
    found += [Found("image side, pixels", splits[0].images.shape[1], None, side), Found("patients", 0, 0, NO_PATIENTS)]
    return ImportPlan(_Set(name, config, splits, names, kept), tuple(found), (path,))


def _split(archive: Npz, name: str) -> _Split:
    images, labels = archive.rows(f"{name}_images"), archive.array(f"{name}_labels")
    if len(images.shape) != 3:
        kind = "in colour" if images.shape[-1] == 3 and len(images.shape) == 4 else f"of shape {list(images.shape)}"
        raise InvalidInput(f"{archive.path}: {name}_images is {kind}; give a set of gray images (N, H, W)")
    labels = labels.reshape(len(labels), -1)
    if len(labels) != len(images):
        raise InvalidInput(
            f"{archive.path} has {len(images)} {name} images and {len(labels)} labels; download it again"
        )
    if labels.dtype.kind not in "iub":
        raise InvalidInput(f"{archive.path}: {name}_labels is {labels.dtype}; whole numbers are expected")
    return _Split(name, images, labels.astype(np.int64))


def _check_names(path: Path, splits: tuple[_Split, ...], names: tuple[str, ...]) -> None:
    """One name per column, or where there is one column, one per class 0, 1, ..."""
    n_columns = splits[0].labels.shape[1]
    if any(one.labels.shape[1] != n_columns for one in splits):
        raise InvalidInput(f"{path}: the splits have different numbers of labels; download it again")
    highest = max((int(one.labels.max()) for one in splits if one.labels.size), default=0)
    n_names = n_columns if n_columns > 1 else highest + 1
    if not names:
        raise InvalidInput(
            f"{path} has {n_names} labels and no names for them; set data.columns.labels, in their order"
        )
    if (len(names) != n_names) if n_columns > 1 else (len(names) < n_names):
        raise InvalidInput(
            f"{path} has {n_names} labels, data.columns.labels names {len(names)}; give one name for each"
        )


def _labels(source: _Set, values: npt.NDArray[np.int64]) -> dict[str, float | None]:
    if len(values) == 1:
        values = (np.arange(len(source.names)) == values[0]).astype(np.int64)
    found: dict[str, float | None] = {}
    for name, value in zip(source.names, values, strict=True):
        if value not in (0, 1):
            raise InvalidInput(f"label '{name}' is {value}; use 1 or 0")
        if name in source.kept:
            found[name] = float(value)
    return found
