"""Tensors on disk, whole or not at all: the checkpoints of trainings and the weights they keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from radpref.data.core.files import storage_errors


def stored(value: Tensor) -> Tensor:
    """The tensor on the CPU in the plain memory layout; no copy is made on the device, nor of what is so already."""
    return value.detach().cpu().contiguous()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors to ``<path>.part`` and rename: an interruption leaves the older file as it was.

    Raises:
        StorageFull: the disk is full; the older file stays.
    """
    draft = path.with_name(path.name + ".part")
    with storage_errors(path):
        save_file(dict(tensors), draft, metadata=dict(metadata))
        draft.replace(path)
