"""The torchvision hook: declares what is missing only in the mismatched pair, and only when torchvision is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from radpref import torchvision_compat
from radpref.torchvision_compat import _TorchvisionFinder, built_version, install, is_mismatched, uninstall
from tests.support import ROOT


@pytest.mark.parametrize(
    ("version", "cuda", "expected"),
    [
        ("0.28.0+cu130", None, True),
        ("0.28.0+cu130", "13.0", False),
        ("0.28.0+cpu", None, False),
        ("0.28.0", None, False),
        ("", None, False),
    ],
)
def test_only_a_cuda_build_beside_cpu_torch_is_repaired(version: str, cuda: str | None, expected: bool) -> None:
    assert is_mismatched(version, cuda) is expected


def test_version_is_read_from_the_package_and_empty_where_unknown(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("__version__ = '0.28.0+cu130'\n")
    assert built_version(tmp_path) == "0.28.0+cu130"
    assert built_version(tmp_path / "missing") == ""
    (tmp_path / "version.py").write_text("nothing here\n")
    assert built_version(tmp_path) == ""


def test_install_twice_arms_one_hook_and_uninstall_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    install()
    install()
    assert sum(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path) == 1
    uninstall()
    assert not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path)


def test_hook_ignores_other_modules() -> None:
    assert _TorchvisionFinder().find_spec("json") is None


def test_existing_operators_are_left_alone() -> None:
    first = torchvision_compat.declare_missing_operators()
    assert set(first) <= {"nms", "qnms"}
    assert torchvision_compat.declare_missing_operators() == []


def test_installing_imports_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys; from radpref import torchvision_compat; torchvision_compat.install(); "
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_torchvision_and_peft_import_in_a_fresh_process() -> None:
    code = "import radpref.generation, torchvision, peft; from torchvision.ops import nms"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)
