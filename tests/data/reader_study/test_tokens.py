"""The tokens by which a rater's browser names presentations: nobody computes one, of a retake neither.

Two copies of one study, bit by bit the same, go one step further with all seeded generators set alike. What is drawn
from seeds and numbers comes out the same; the tokens may not.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from radpref.data.config.reader_study import AnnotateConfig
from radpref.data.reader_study.lifecycle import lock
from radpref.data.reader_study.presentations import ensure_presentations, present_training_again
from radpref.data.reader_study.raters import add_rater
from radpref.data.study.study import Study
from tests.support.annotate import add_checks, add_sets, make_study

SETTINGS = AnnotateConfig(training_sets=3, repeats=0.5, attention=0.2, repeat_gap_sets=2)
ANN, PROGRAM = 1, 2
Step = Callable[[Study], object]


def show(study: Study) -> None:
    """All that a person and a simulated rater get: training, rating, attention checks, hidden repeats."""
    ensure_presentations(study.db, ANN, SETTINGS.seed, SETTINGS)
    ensure_presentations(study.db, PROGRAM, SETTINGS.seed)


def retake(study: Study) -> None:
    with study.db.write() as connection:
        present_training_again(connection, ANN, SETTINGS.seed)


def add_later_sets(study: Study) -> None:
    add_sets(study, ("T2I",) * 4, seed=1)
    show(study)


def begin_anew(study: Study) -> None:
    lock(study, "office")
    show(study)


STEPS: tuple[Step, ...] = (show, retake, retake, add_later_sets, begin_anew)


def start(root: Path) -> Path:
    study = make_study(root, ("T2I",) * 10)
    add_checks(study, "training", 3)
    add_checks(study, "attention", 4)
    add_rater(study.db, "ann")
    add_rater(study.db, "program", kind="simulated")
    study.db.close()
    return study.root


def after(root: Path, place: Path, step: Step) -> dict[tuple[object, ...], str]:
    """Everything else about each presentation -> its token, after one step of a copy of the study."""
    shutil.copytree(root, place)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (a token drawn from it has to come out the same)
    study = Study(place)
    step(study)
    rows = study.db.connection.execute(
        "SELECT presentation_id, rater_id, set_id, position, slots, phase, repeat_of, token FROM presentations"
    ).fetchall()
    study.db.close()
    shutil.rmtree(place)
    return {tuple(row[:-1]): str(row[-1]) for row in rows}


@pytest.mark.parametrize("number", range(len(STEPS)), ids=[step.__name__ for step in STEPS])
def test_equal_studies_going_the_same_step_share_no_new_token(tmp_path: Path, number: int) -> None:
    root = start(tmp_path)
    study = Study(root)
    for step in STEPS[:number]:
        step(study)
    known = {str(row["token"]) for row in study.db.rows("SELECT token FROM presentations")}
    study.db.close()
    one, two = (after(root, tmp_path / "copy", STEPS[number]) for _ in range(2))
    assert one.keys() == two.keys(), "the copies are not alike, so that this compares nothing"
    fresh = [set(found.values()) - known for found in (one, two)]
    assert len(fresh[0]) == len(fresh[1]) == len(one) - len(known) > 0, "a token repeats"
    assert not fresh[0] & fresh[1]


def test_every_character_of_a_token_is_random(tmp_path: Path) -> None:
    """144 bits: each position shows about 51 of 64 characters among 100 tokens (39 at least in 20,000 trials)."""
    study = Study(start(tmp_path))
    for step in (*STEPS, *[retake] * 15):
        step(study)
    tokens = [str(row["token"]) for row in study.db.rows("SELECT token FROM presentations")]
    study.db.close()
    assert len(tokens) >= 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{24}", token) for token in tokens)
    assert min(len(set(letters)) for letters in zip(*tokens[:100], strict=True)) >= 36
