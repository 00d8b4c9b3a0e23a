"""The whole loop through every room, with random weights at the smallest size that still is a loop."""

import pytest

from radpref import rounds
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from radpref.generation.measuring.architectures import BLOCKS, NetworkShape, build_network
from radpref.generation.measuring.measuring_data import phantom_attributes
from radpref.generation.measuring.measuring_network import MeasureNet, save_measure
from radpref.generation.stack.models import save_stack, tiny_stack

STRUCTURES = ("lungs", "heart", "lesion", "pneumothorax")

TOML = """
name = "loop"

[data]
image_size = 32
n_train = 48
n_val = 24
n_test = 24

[generator]
model = "stack"
n_steps = 3
batch_size = 16

[sets]
n = 6
mix = [34, 33, 33]
comparison = 3

[align]
n_steps = 2
sets_per_step = 2
warmup_steps = 1
held_out_fraction = 0.34
evaluation_conditions = 3
evaluation_images = 2

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


def counts(study):
    tables = ("image_sets", "score_events", "pairs", "pool_images", "cells", "models")
    return {table: study.db.value(f"SELECT count(*) FROM {table}") for table in tables}


@pytest.fixture
def study(tmp_path):
    study = Study.create(tmp_path / "loop", TOML)
    save_stack(tiny_stack(size=32, structures=STRUCTURES), study.root / "stack")
    roles = {**{f"rater-{k}": "rater" for k in range(1, 5)}, "judge": "judge", "fidelity": "fidelity"}
    for seed, (name, role) in enumerate(roles.items()):
        shape = NetworkShape(next(iter(BLOCKS)), len(phantom_attributes()), len(STRUCTURES), 32, (8, 8, 8, 8), 1, 8)
        net = MeasureNet(name, role, shape, phantom_attributes(), STRUCTURES, build_network(shape, seed=seed))
        save_measure(net, study.root / "networks")
    return study


@pytest.mark.slow
def test_a_round_runs_whole_and_again_changes_nothing(study):
    outcome = rounds.run_round(study, simulated=True)

    assert outcome["state"] == "done"
    found = verify(study)
    assert found.problems == []
    page = next(study.reports.rglob("index.html")).read_text(encoding="utf-8")
    assert "simulated" in page.lower()
    assert "not for diagnosis" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    kinds = {row["kind"] for row in study.db.rows("SELECT kind FROM runs WHERE status = 'done'")}
    assert {"import", "sets", "pairs", "align", "evaluate", "pool", "grid"} <= kinds
    assert study.db.value("SELECT count(*) FROM cells") == 2 * 3 * 3  # tasks x (real, baseline, aligned) x seeds

    compared = "FROM score_events JOIN presentations USING (presentation_id) JOIN image_sets USING (set_id)"
    assert study.db.value(f"SELECT count(*) {compared} WHERE purpose = 'comparison' AND kind = 'submit'") == 3 * 4
    assert "What the readers saw" in page

    before = counts(study)
    rounds.run_round(study, simulated=True)
    assert counts(study) == before


def test_a_round_stops_where_people_must_score(study, monkeypatch):
    monkeypatch.setattr(rounds, "before_scoring", lambda _: [])

    outcome = rounds.run_round(study)

    assert outcome["state"] == "waiting for raters"
    assert outcome["raters"] == 0
