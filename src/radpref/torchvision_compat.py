"""Repairs torchvision where its compiled operators do not load beside the installed torch.

A CUDA build of torchvision beside a CPU build of torch fails on import with ``operator torchvision::nms does not
exist``, which then breaks open_clip, segmentation-models-pytorch, torchmetrics and peft. ``install()`` puts a finder
in front of the import system that waits for the first import of torchvision and then, only in that combination,
declares the schemas of the missing operators. Until that import it costs nothing; where torchvision is healthy it
does nothing.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_LIBRARIES: list[Any] = []  # a torch.library.Library withdraws its schemas when it is collected


def is_mismatched(torchvision_version: str, torch_cuda: str | None) -> bool:
    """True where a CUDA build of torchvision (``0.28.0+cu130``) meets a torch without CUDA."""
    return "+cu" in torchvision_version and torch_cuda is None


def built_version(package: Path) -> str:
    """The full version torchvision was built as; its metadata drop the ``+cu`` part. Empty where unknown."""
    try:
        text = (package / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", text)
    return found.group(1) if found else ""


def declare_missing_operators() -> list[str]:
    """Declare those of `SCHEMAS` that torch does not know; returns their names."""
    import torch

    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in missing:
            library.define(SCHEMAS[name])
        _LIBRARIES.append(library)
    return missing


class _TorchvisionFinder(MetaPathFinder):
    """Sees the first import of torchvision, declares what is missing, and steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        uninstall()
        spec = importlib.util.find_spec("torchvision")
        if spec is None or spec.origin is None:
            return None
        import torch

        if is_mismatched(built_version(Path(spec.origin).parent), torch.version.cuda):
            declare_missing_operators()
        return spec


def install() -> None:
    """Arm the hook once; nothing happens where torchvision is already imported or already armed."""
    if "torchvision" in sys.modules or any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _TorchvisionFinder())


def uninstall() -> None:
    """Take the hook out again."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _TorchvisionFinder)]
