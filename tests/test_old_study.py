"""A study that an older radpref made is taken up as it is: nothing is trained or sampled again.

``fixtures/study-of-2026-11.tar.xz`` was made by revision 1ab5f78, before the packages moved, with
``radpref round run --simulated``; its reports, cache and checkpoints are left out. Its study.toml (first format):

    name = "old"
    title = "A study made by an older radpref"
    [data]        image_size = 32, n_train = 24, n_val = 14, n_test = 8, seed = 5
    [generator]   n_steps = 2, batch_size = 16
    [sets]        n = 5, mix = [100, 0, 0]
    [annotate]    training_sets = 1, repeats = 0.0, attention = 0.0
    [align]       n_steps = 2, sets_per_step = 2, warmup_steps = 1, lora_rank = 1, held_out_fraction = 0.4,
                  evaluation_conditions = 2, evaluation_images = 2, finetune_min_score = 0.0
    [downstream]  fractions = [1.0], multiples = [1], seeds = [0, 1], image_size = 16, n_steps = 2, batch_size = 4,
                  primary = ["aligned>baseline"]
    [[downstream.tasks]]  name = "effusion", kind = "binary", labels = ["pleural_effusion"]
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpref.cli import app
from radpref.data.study.runs import finished_run, once, start_run
from radpref.data.study.study import Study
from radpref.generation.sampling.sets import run_sets
from radpref.rounds import after_scoring
from tests.support.grown import KEY, grow

ARCHIVE = Path(__file__).parent / "fixtures" / "study-of-2026-11.tar.xz"
REPEATED = ("grid", "report")
"""Kinds of run that are made anew each time: their figures from the cells, and the page, cost seconds."""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Study]:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    opened = Study(tmp_path / "oldstudy")
    yield opened
    opened.db.close()


def _runs(study: Study) -> list[dict[str, Any]]:
    return [row for row in study.db.rows("SELECT * FROM runs ORDER BY run_id") if row["kind"] not in REPEATED]


def _made(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Everything that was scored, paired, sampled or trained."""
    tables = ("images", "current_scores", "score_events", "pairs", "image_sets", "pool_images", "models", "cells")
    return {table: study.db.rows(f"SELECT * FROM {table}") for table in tables}


def test_it_opens_is_shown_and_verified(old: Study) -> None:
    for command, key in (("show", "name"), ("verify", "problems")):
        done = CliRunner().invoke(app, ["study", command, "--study", str(old.root), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[key] == {"name": "old", "problems": []}[key]


@pytest.mark.parametrize("change", [lambda study: None, grow], ids=["as it is", "one more key in every section"])
def test_nothing_is_done_again(old: Study, change: Callable[[Study], None]) -> None:
    change(old)
    runs, made = _runs(old), _made(old)
    assert run_sets(old)["already_done"]
    outcome = {title: step() for title, step in after_scoring(old, simulated=True)}
    assert _runs(old) == runs
    assert _made(old) == made
    done = [title for title, result in outcome.items() if result.get("already_done")]
    assert len(done) == 4  # pairs, both arms, the evaluation
    assert [pool["sampled"] for pool in outcome["Sample augmentation pools"]["pools"].values()] == [0, 0]
    assert Path(outcome["Write the report"]["report"]).exists()


def test_unfinished_runs_are_taken_up_again(old: Study) -> None:
    grow(old)
    runs = old.db.rows("SELECT run_id FROM runs ORDER BY 1")
    # Arms last: trained here anew, they have other weights, and what is sampled from those is another run.
    for kinds in (("sets", "pairs", "evaluate", "pool", "grid"), ("align", "finetune")):
        with old.db.write() as connection:
            for kind in kinds:
                connection.execute("UPDATE runs SET status = 'running', result = NULL WHERE kind = ?", (kind,))
        run_sets(old)
        for _, step in after_scoring(old, simulated=True)[: -1 if "grid" in kinds else 3]:
            step()
    assert old.db.rows("SELECT run_id FROM runs ORDER BY 1") == runs
    assert old.db.value("SELECT count(*) FROM runs WHERE status <> 'done'") == 0


SECTIONS = {"import": "data", "sets": "generator", "simulate": "simulate", "align": "align", "finetune": "generator"}
SECTIONS |= {"evaluate": "generator", "pool": "generator", "grid": "downstream"}


@pytest.mark.parametrize("kind", SECTIONS)
def test_another_value_of_the_new_key_is_another_run(old: Study, kind: str) -> None:
    first = finished_run(old, kind)
    assert first is not None
    grow(old)
    section = getattr(old.config, SECTIONS[kind]).model_dump(mode="json")
    whole = kind == "simulate"
    asked = {**first.config, **(section if whole else {SECTIONS[kind]: section})}
    assert once(old, kind, asked, lambda run: pytest.fail("done again")).run_id == first.run_id
    other = {**asked, KEY: "other"} if whole else {**asked, SECTIONS[kind]: {**section, KEY: "other"}}
    assert finished_run(old, kind, other) is None
    with start_run(old, kind, other) as run:
        assert run.run_id != first.run_id
    assert finished_run(old, kind, other).run_id == run.run_id  # type: ignore[union-attr]
