"""The wheel as a user gets it: one name in site-packages, and the demo runs from it in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow
WITHOUT_SOURCES = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built once."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of this one (a path, not a second download)."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    # Path files inside a folder named by a path file are not read, so this environment's editable radpref stays out.
    (Path(answer.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--ignore-installed", str(wheel)], check=True, capture_output=True)
    return folder


def test_the_wheel_holds_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix("-0.1.0.dist-info") for name in names} == {"radpref"}
    rooms = {name.split("/")[1] for name in names if name.count("/") > 1 and name.startswith("radpref/")}
    assert rooms == {"alignment", "annotate_app", "data", "downstream", "generation"}
    assert "radpref/py.typed" in names
    for needed in (
        "radpref/generation/weights/embedded/unet/diffusion_pytorch_model.safetensors",
        "radpref/data/study/templates/demo.toml",
        "radpref/annotate_app/static/viewer.js",
        "radpref/downstream/report/templates/report.html.j2",
    ):
        assert needed in names


def test_the_name_is_imported_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # as in many notebooks
    (tmp_path / "data" / "__init__.py").write_text("mine = True\n")
    code = (
        "import json, importlib.util, data, radpref, radpref.data.study.study, radpref.alignment.training.losses\n"
        "names = ('generation', 'alignment', 'downstream', 'annotate_app', 'rounds', 'torchvision_compat')\n"
        "found = [name for name in names if importlib.util.find_spec(name)]\n"
        "print(json.dumps([data.mine, radpref.data.__file__, found]))"
    )
    done = subprocess.run(
        [installed / "bin" / "python", "-c", code],
        cwd=tmp_path, env=WITHOUT_SOURCES, capture_output=True, text=True, check=True,
    )  # fmt: skip
    mine, place, others = json.loads(done.stdout)
    assert mine is True
    assert others == []
    assert Path(place).is_relative_to(installed)


@pytest.mark.timeout(1800)
def test_the_demo_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "bin" / "radpref", "demo", "--no-serve", "--json"],
        cwd=tmp_path, env=WITHOUT_SOURCES, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = Path(json.loads(done.stdout.splitlines()[-1])["report"])
    assert report.is_relative_to(tmp_path)
    assert "SIMULATED" in report.read_text(encoding="utf-8").upper()
    assert {path.name for path in tmp_path.iterdir()} == {"studies"}
