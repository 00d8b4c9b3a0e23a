"""The whole loop through every room with the shipped weights, at the smallest size that still is one."""

import pytest

import rounds
from data.study import Study
from data.verify import verify

TOML = """
name = "loop"

[data]
n_train = 48
n_val = 24
n_test = 24

[generator]
n_steps = 3
batch_size = 16

[sets]
n = 6
mix = [34, 33, 33]

[align]
n_steps = 2
sets_per_step = 2
warmup_steps = 1
held_out_fraction = 0.34

[downstream]
fractions = [0.5]
multiples = [1]
seeds = [0, 1, 2]
image_size = 32
n_steps = 2
batch_size = 8

[[downstream.tasks]]
name = "pneumonia"
kind = "binary"
labels = ["pneumonia"]

[[downstream.tasks]]
name = "lungs"
kind = "segmentation"
structure = "lungs"
"""


@pytest.mark.slow
def test_a_round_runs_whole_and_again_changes_nothing(tmp_path):
    study = Study.create(tmp_path / "loop", TOML)

    outcome = rounds.run_round(study, simulated=True)

    assert outcome["state"] == "done"
    found = verify(study)
    assert found["problems"] == []
    page = next(study.reports.rglob("index.html")).read_text(encoding="utf-8")
    assert "simulated" in page.lower()
    assert "not for diagnosis" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    kinds = {row["kind"] for row in study.db.rows("SELECT kind FROM runs WHERE status = 'done'")}
    assert {"import", "sets", "pairs", "align", "evaluate", "pool", "grid"} <= kinds
    assert study.db.value("SELECT count(*) FROM cells") == 2 * 3 * 3  # tasks x (real, baseline, aligned) x seeds

    counts = {table: study.db.value(f"SELECT count(*) FROM {table}") for table in ("image_sets", "score_events", "pairs", "pool_images", "cells", "models")}
    rounds.run_round(study, simulated=True)
    assert {table: study.db.value(f"SELECT count(*) FROM {table}") for table in counts} == counts


def test_a_round_stops_where_people_must_score(tmp_path, monkeypatch):
    study = Study.create(tmp_path / "loop", TOML)
    monkeypatch.setattr(rounds, "before_scoring", lambda _: [])

    outcome = rounds.run_round(study)

    assert outcome["state"] == "waiting for raters"
    assert outcome["raters"] == 0
