"""Fixtures of all tests: an empty study, and a tiny one with phantom records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("RADPREF_QUIET", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if n_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # the workers share the cores among them
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))

from radpref.data.datasets.importing import ImportResult, import_records
from radpref.data.study.study import Study

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.browser import Room

TINY_TOML = """
name = "tiny"

[data]
image_size = 64
n_train = 24
n_val = 12
n_test = 12
seed = 3
"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A fresh, empty study."""
    opened = Study.create(tmp_path / "study", 'name = "fresh"\n[data]\nimage_size = 64\n')
    yield opened
    opened.db.close()


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "study"
    opened = Study.create(root, TINY_TOML)
    import_records(opened)
    opened.db.close()
    return root


@pytest.fixture
def tiny_study(tmp_path: Path, _tiny_template: Path) -> Iterator[Study]:
    """A study with 24/12/12 phantom records of 64 px (a copy of its own for every test)."""
    shutil.copytree(_tiny_template, tmp_path / "tiny")
    opened = Study(tmp_path / "tiny")
    yield opened
    opened.db.close()


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Callable[..., tuple[Study, ImportResult]]]:
    """Imports a tree of a published set into a study with these lines in [data], and verifies it."""
    from radpref.data.upkeep.verify import verify
    from tests.support.datasets import study_of

    opened: list[Study] = []

    def run(reader: str, tree: Path, data: str = "", expect_quarantined: int = 0) -> tuple[Study, ImportResult]:
        study = study_of(tmp_path / f"study{len(opened)}", data)
        opened.append(study)
        result = import_records(study, reader, tree)
        assert result.n_quarantined == expect_quarantined
        assert verify(study).problems == []
        return study, result

    yield run
    for study in opened:
        study.db.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium, one for the tests of a file."""
    from tests.support.browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture
def make_room(tmp_path: Path, browser: Browser) -> Iterator[Callable[..., Room]]:
    """Makes a served study; takes what make_study takes. Errors on a page's console fail the test at its end."""
    from tests.support.annotate import add_people, make_study
    from tests.support.browser import Room

    opened: list[Room] = []

    def make(**options: Any) -> Room:
        study = make_study(tmp_path, **options)
        add_people(study)
        opened.append(Room(study, browser))
        return opened[-1]

    yield make
    for room in opened:
        room.close()


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    """A served study of one rating set per mode, with people in it."""
    return make_room()
