"""Sharing a generator: only what it learned, and only where nothing looks like a copy of a training image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import radpref.generation.fidelity.report
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.statistics import Estimate
from radpref.data.study.runs import start_run
from radpref.data.study.study import Study
from radpref.generation.cli import app
from radpref.generation.fidelity.figures import Distances, KernelDistance, Memorisation, SourceFigures
from radpref.generation.fidelity.shipping import NETWORKS, copy_networks, keep_structures, ship
from radpref.generation.measuring.measuring_network import load_measure
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import save_stack, tiny_stack
from tests.support.errors import missing_names, refuses

FIGURE = Estimate(1.0, 0.5, 2.0)
DISTANCES = Distances(8, FIGURE, None, KernelDistance(1.0, 0.5, 2.0, 4))


def _measured(verdict: str) -> Callable[..., SimpleNamespace]:
    """Stands in for `run_fidelity`: one measured baseline."""
    copies = Memorisation(verdict, "3 of 8 images", 3, 0, FIGURE, 0.02, {}, {})
    figures = SourceFigures(
        **vars(DISTANCES), n_prompts=2, drawn=None, measured=32, real=DISTANCES, diversity=None, conditions=None,
        memorisation=copies,
    )  # fmt: skip
    return lambda study, request: SimpleNamespace(images=dict.fromkeys(request.arms, figures))


def _lively(structures: tuple[str, ...] = ("lungs", "heart")):
    """A tiny stack whose ControlNet is heard: its residuals are not the zeros it starts with."""
    stack = tiny_stack(structures=structures)
    for parameter in stack.controlnet.parameters():
        parameter.data.add_(0.02)
    return stack


def test_kept_structures_draw_what_they_drew() -> None:
    mask = np.zeros((2, 32, 32), dtype=bool)
    mask[1, 8:24, 4:12] = True
    before = sample(_lively(), [Condition(None, mask)], [3], n_steps=3)
    kept = keep_structures(_lively(), ["heart"])
    assert kept.structures == ("heart",)
    after = sample(kept, [Condition(None, mask[1:])], [3], n_steps=3)
    assert np.array_equal(before, after)
    other = sample(kept, [Condition(None, mask[1:, :, ::-1].copy())], [3], n_steps=3)
    assert not np.array_equal(after, other)  # the hint is heard at all


@pytest.mark.parametrize("structures", [["lungs", "spleen"], []])
def test_a_structure_the_generator_does_not_have_is_named(structures: list[str]) -> None:
    with refuses(InvalidInput, "lungs", "heart"):
        keep_structures(_lively(), structures)


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Study]:
    """A study whose generator is a folder, with a finished training run."""
    save_stack(_lively(), tmp_path / "own")
    opened = Study.create(tmp_path / "study", f'name = "own"\n[generator]\nmodel = "{tmp_path / "own"}"\n')
    with start_run(opened, "train", {"vae_steps": 7}) as run:
        run.result = {"n_images": 24, "model": str(run.model_folder)}
    yield opened
    opened.db.close()


def test_a_clean_generator_is_written_with_its_card(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(radpref.generation.fidelity.report, "run_fidelity", _measured("clean enough"))
    result = ship(trained, tmp_path / "shared", "small", ["lungs"], "Images: nobody's.")
    assert result["copies"] == "clean enough"
    stack = load_stack(tmp_path / "shared")
    assert (stack.model_id, stack.structures) == ("small", ("lungs",))
    card = (tmp_path / "shared" / "README.md").read_text()
    for words in ("Images: nobody's.", "not for diagnosis", "1 [0.5, 2]", '"vae_steps": 7', "3 of 8 images"):
        assert words in card
    written = [path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert not any(str(tmp_path).encode() in content for content in written)


@pytest.mark.parametrize("verdict", ["suspicious", "too few images to say"])
def test_a_generator_that_may_copy_is_not_written(trained, tmp_path: Path, monkeypatch, verdict: str) -> None:
    monkeypatch.setattr(radpref.generation.fidelity.report, "run_fidelity", _measured(verdict))
    with refuses(Conflict, verdict):
        ship(trained, tmp_path / "shared", "small", ["lungs"], "")
    assert not (tmp_path / "shared").exists()


def test_an_untrained_study_has_nothing_to_share(study, tmp_path: Path) -> None:
    with refuses(NotFound, "train"):
        ship(study, tmp_path / "shared", "small", ["lungs"], "")


def test_networks_of_a_shipped_model_are_the_studys_own(tmp_path: Path) -> None:
    with refuses(NotFound, "nothing"):
        copy_networks("nothing", tmp_path)
    copy_networks("cxr128", tmp_path)
    nets = [load_measure(path) for path in sorted((tmp_path / "networks").glob("*.json"))]
    assert [(net.name, net.role) for net in nets] == [
        ("fidelity", "fidelity"), ("judge", "judge"), *((f"rater-{k}", "rater") for k in range(1, 5))
    ]  # fmt: skip
    assert all({"normal", "pneumonia"} <= set(net.attributes) and net.structures == ("lungs",) for net in nets)
    mine = (tmp_path / "networks" / "judge.json").write_text("mine")
    copy_networks("cxr128", tmp_path)
    assert (tmp_path / "networks" / "judge.json").stat().st_size == mine


def test_all_measuring_networks_are_small() -> None:
    assert sum(path.stat().st_size for path in NETWORKS.rglob("*.safetensors")) <= 12e6


def test_a_folder_that_holds_something_is_left_alone(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "radpref.generation.fidelity.report.run_fidelity", lambda *_, **__: pytest.fail("measured first")
    )
    (tmp_path / "README.md").write_text("mine")
    for place in (tmp_path, tmp_path / "README.md"):
        with refuses(InvalidInput, place):
            ship(trained, place, "small", ["lungs"], "")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_shipped_model_is_not_passed_off_as_the_trained_one(trained, tmp_path: Path) -> None:
    text = (trained.root / "study.toml").read_text()
    (trained.root / "study.toml").write_text(re.sub(r"model = .*", 'model = "cxr128"', text))
    with refuses(InvalidInput, "cxr128", "trained"):
        ship(Study(trained.root), tmp_path / "shared", "small", ["lungs"], "")


def test_credits_that_are_no_text_are_one_line(trained, tmp_path: Path) -> None:
    (tmp_path / "credits.md").write_bytes(b"\xff\xfe\x00")
    words = ["share", str(tmp_path / "shared"), "--credits", str(tmp_path / "credits.md"), "--name", "small"]
    done = CliRunner().invoke(app, [*words, "--structures", "lungs", "--study", str(trained.root)])
    assert isinstance(done.exception, InvalidInput)
    assert missing_names(str(done.exception), tmp_path / "credits.md", "UTF-8") == []
