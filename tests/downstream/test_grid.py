"""The grid: networks, pairing, resuming, equal counts, one-line errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from radpref.data.config.downstream import DownstreamConfig
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.runs import latest_run
from radpref.data.study.splits import split_manifest
from radpref.data.study.study import Study
from radpref.downstream import grid
from radpref.downstream.cells.cells import find_cell, load_predictions, predictions_path
from radpref.downstream.cells.networks import build_network
from radpref.downstream.cli import app
from radpref.downstream.inference.comparisons import parse_comparison, patient_score, patient_sums, planned_family
from radpref.downstream.inference.grid_result import GridResult
from tests.support.downstream import DOWNSTREAM_TOML, study_with_pools, with_downstream
from tests.support.errors import refuses


@pytest.mark.parametrize(
    ("kind", "shape"), [("multilabel", (2, 5)), ("binary", (2, 1)), ("segmentation", (2, 1, 32, 32))]
)
@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_networks_have_the_right_outputs_and_equal_seeds_give_equal_weights(name, kind, shape):
    state = torch.random.get_rng_state()
    one, two, other = (build_network(name, kind, shape[1], seed).eval() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.zeros(2, 1, 32, 32)
    with torch.no_grad():
        assert tuple(one(images).shape) == shape
    weights = [next(p for p in network.parameters() if p.ndim == 4) for network in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_network_lists_the_choices():
    with refuses(InvalidInput, "vit", "small", "resnet18", "resnet50"):
        build_network("vit", "binary", 1, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _tiny_template):
    """A study whose grid is finished, and the grid's result."""
    root = tmp_path_factory.mktemp("grid") / "study"
    shutil.copytree(_tiny_template, root)
    study = study_with_pools(Study(root))
    yield study, grid.run_grid(study)
    study.db.close()


def _rows(result):
    """Cells with null for what is undefined, so that equal rows are equal."""
    return [cell.to_json() for cell in result.cells]


def test_grid_trains_compares_and_resumes(finished, monkeypatch):
    study, result = finished
    trained = []
    original = grid.Job.run
    monkeypatch.setattr(grid.Job, "run", lambda job: (trained.append(job.spec), original(job))[1])
    assert len(result.cells) == 3 * 3 * 3  # tasks x (real, baseline, aligned) x seeds
    assert len(result.comparisons) == result.rules.family_size == 9
    for row in result.comparisons:
        assert row.verdict == "too small to conclude"  # 3 seeds
        assert row.n == 3
        assert 0 <= row.p <= row.p_holm <= row.p_bonferroni <= 1
        assert row.ci[0] <= row.difference <= row.ci[1]
    counts = {(cell.task, cell.seed): set() for cell in result.cells}
    for cell in result.cells:
        if cell.arm != "real":
            counts[cell.task, cell.seed].add(cell.n_synthetic)
            assert cell.n_synthetic == cell.n_real
    assert all(len(found) == 1 for found in counts.values())
    run = latest_run(study, "grid")
    json.dumps(run.result, allow_nan=False)
    assert run.result == result.to_json() == GridResult.from_json(run.run_id, run.result).to_json()
    manifest = split_manifest(study.db)
    assert result.splits == asdict(manifest)
    stored = json.loads((study.root / "runs" / result.run_id / "config.json").read_text())
    assert stored["provenance"]["inputs"]["splits"] == manifest.sha256

    again = grid.run_grid(study)
    assert not trained
    assert _rows(again) == _rows(result)

    lost = result.cells[4]
    predictions_path(study, lost.run_id, lost.cell_id).unlink()
    third = grid.run_grid(study, tasks=[lost.task])
    assert len(trained) == 1
    assert find_cell(study, lost.cell_id).metrics.values
    same = next(cell for cell in third.cells if cell.cell_id == lost.cell_id)
    assert replace(same, run_id=lost.run_id).to_json() == lost.to_json()


def test_every_cell_trains_on_train_chooses_on_validation_and_tests_on_test(finished):
    study, result = finished
    splits = {
        split: {f"{row['dataset']}/{row['patient_id']}" for row in study.db.rows(
            "SELECT dataset, patient_id FROM records WHERE split = ?", [split])}
        for split in ("train", "val", "test")
    }  # fmt: skip
    jobs = grid.plan_grid(study, study.config.downstream.tasks)
    assert len(jobs) == len(result.cells)
    for job in jobs:
        (real, rows), *synthetic = job.parts
        assert {real.patients[i] for i in rows} <= splits["train"]
        assert set(job.validation.patients) <= splits["val"]
        assert set(job.test.patients) <= splits["test"]
        assert all(name.startswith("synthetic/") for pool, _ in synthetic for name in pool.patients)
    for cell in result.cells[::4]:
        stored = load_predictions(study, find_cell(study, cell.cell_id))
        assert set(stored["patients"].tolist()) <= splits["test"]


def test_the_sums_of_the_bootstrap_give_the_reported_metric(finished):
    study, result = finished
    for row, metric in ((result.cells[0], "f1"), (result.cells[-1], "dice_positives")):
        cell = find_cell(study, row.cell_id)
        sums = patient_sums(load_predictions(study, cell), cell.spec.kind)
        value = float(patient_score(cell.spec.kind)(sums.sum(axis=0)[None])[0])
        assert value == pytest.approx(row.value(metric), nan_ok=True)


def test_an_interrupted_grid_keeps_its_cells_and_its_run(tiny_study, monkeypatch):
    study = study_with_pools(tiny_study)
    original, count = grid.Job.run, []

    def interrupted(job):
        count.append(job)
        if len(count) == 4:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(grid.Job, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.run_grid(study, tasks=["two"])
    run_id = study.db.value("SELECT run_id FROM runs WHERE kind = 'grid'")
    assert study.db.value("SELECT count(*) FROM cells") == 3
    result = grid.run_grid(study, tasks=["two"])
    assert result.run_id == run_id
    assert len(count) == 4 + 6
    assert len((study.root / "runs" / run_id / "metrics.jsonl").read_text().splitlines()) == 9


@pytest.mark.slow
def test_two_workers_give_the_same_cells(tiny_study):
    study = study_with_pools(tiny_study)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = grid.run_grid(study, tasks=["effusion"])
        with study.db.write() as connection:
            connection.execute("DELETE FROM cells")
        two = grid.run_grid(study, tasks=["effusion"], n_workers=2)
    finally:
        torch.set_num_threads(threads)
    assert [cell.cell_id for cell in one.cells] == [cell.cell_id for cell in two.cells]
    for left, right in zip(one.cells, two.cells, strict=True):
        for metric in ("f1", "auroc"):
            assert left.value(metric) == pytest.approx(right.value(metric), nan_ok=True)


def test_the_balanced_control_needs_no_pool(tiny_study):
    toml = DOWNSTREAM_TOML.replace('["baseline", "aligned"]', '["real_balanced"]').replace(
        "[[downstream", 'primary = ["real_balanced>real"]\n[[downstream', 1
    )
    study = with_downstream(tiny_study, toml)
    result = grid.run_grid(study, tasks=["two"])
    assert {cell.arm for cell in result.cells} == {"real", "real_balanced"}
    assert [row.multiple for row in result.comparisons] == [0]


@pytest.mark.parametrize("text", ["aligned", "a>b>c", "a>a", ">b"])
def test_a_bad_comparison_is_refused(text):
    with refuses(InvalidInput, "downstream.primary", repr(text)):
        parse_comparison(text)


def test_a_comparison_with_an_unknown_arm_lists_the_arms():
    with refuses(InvalidInput, "alligned", "baseline", "real"):
        planned_family(DownstreamConfig(primary=("alligned>real",), arms=("baseline",)), ["t"])


def test_missing_pool_unknown_task_and_one_seed_are_one_line(tiny_study):
    study = with_downstream(tiny_study)
    with refuses(NotFound, "generate pool", "two"):
        grid.run_grid(study)
    with refuses(InvalidInput, "three", "two", "effusion", "heart"):
        grid.run_grid(study, tasks=["three"])
    study = with_downstream(study, DOWNSTREAM_TOML.replace("[0, 1, 2]", "[0]"))
    with refuses(InvalidInput, "downstream.seeds", 0, 2):
        grid.run_grid(study)


def test_command_prints_json(tiny_study):
    study = study_with_pools(tiny_study)
    answer = CliRunner().invoke(app, ["run", "--study", str(study.root), "--task", "effusion", "--json"])
    assert answer.exit_code == 0, answer.output
    assert len(json.loads(answer.stdout)["comparisons"]) == 3
