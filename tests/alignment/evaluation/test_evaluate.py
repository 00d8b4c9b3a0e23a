"""Evaluation: known figures from hand-made answers, fresh sources, resume, result and sheets; the commands."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from radpref.alignment.cli import app
from radpref.alignment.evaluation import evaluate, judging
from radpref.alignment.evaluation.fresh_conditions import fresh_conditions
from radpref.alignment.preferences.pairs import run_pairs
from radpref.alignment.training import preference_arms as arms
from radpref.alignment.training import watch
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.statistics import MeanEstimate
from radpref.data.imaging.images import read_image
from radpref.data.study.conditions import StoredCondition
from radpref.data.study.runs import latest_run
from radpref.data.study.study import Study
from radpref.generation.measuring.roles import load_network
from radpref.generation.sampling import sets
from radpref.generation.sampling.draws import unrated_records
from tests.support import alignment as support
from tests.support.errors import refuses


class FakeJudge:
    """Says what an image's first pixels say: pixel k of row 0 is the probability of attribute k, in percent."""

    name, attributes, structures = "fake", support.ATTRIBUTES, ("lungs",)

    def predict(self, images, *, batch_size=64):
        return images[:, 0, : len(self.attributes)].astype(np.float32) / 100

    def present(self, images):
        return self.predict(images) >= 0.5

    def segment(self, images, *, batch_size=64):
        return (images[:, None] > 200).astype(np.float32)

    def column(self, name):
        return self.attributes.index(name)


def _images(*rows, box=None):
    pages = np.zeros((len(rows), 8, 8), np.uint8)
    for page, row in zip(pages, rows, strict=True):
        page[0, : len(row)] = row
        if box is not None:
            page[box] = 255
    return pages


LEFT = StoredCondition("T2I", "Left pleural effusion", {}, {"pleural_effusion": 1, "pleural_effusion/left": 1})


def test_text_hit_and_side_of_one_condition():
    found = judging.judge_condition(
        FakeJudge(), _images((0, 80, 90, 10), (0, 80, 10, 90), (0, 20, 90, 10)), LEFT, None, ("lungs",)
    )
    assert found.text == pytest.approx([0.72, 0.08, 0.18])
    assert found.hit.tolist() == [1, 1, 0]
    assert found.side.tolist() == [1, 0, 1]
    assert np.isnan(found.dice).all()
    assert found.score == pytest.approx(found.text)


def test_mask_and_both():
    box = (slice(4, 8), slice(0, 4))
    mask = np.zeros((2, 8, 8), bool)
    mask[0, 4:8, 0:8] = True
    condition = StoredCondition("TM2I", "x", {"lungs": "sha"}, LEFT.asked)
    found = judging.judge_condition(FakeJudge(), _images((0, 80, 90, 10), box=box), condition, mask, ("lungs", "heart"))
    assert found.dice == pytest.approx([2 * 16 / (16 + 32)])
    assert found.score == pytest.approx([(0.72 + 2 / 3) / 2])
    only_mask = StoredCondition("M2I", None, {"lungs": "sha"}, {})
    found = judging.judge_condition(FakeJudge(), _images((0,), box=box), only_mask, mask, ("lungs", "heart"))
    assert found.score == pytest.approx([2 / 3])
    assert np.isnan(found.hit).all()


def test_no_side_asked_gives_no_side_figure():
    plain = StoredCondition("T2I", "Normal", {}, {"normal": 1})
    found = judging.judge_condition(FakeJudge(), _images((60,), (40,)), plain, None, ())
    assert found.hit.tolist() == [1, 0]
    assert np.isnan(found.side).all()


def test_wins_with_the_tie_rule():
    points = judging.win_points(np.array([[0.5, 0.52, 0.53, np.nan]]), np.array([[0.6, 0.5, 0.5, 0.5]]))
    assert points[0, :3].tolist() == [0, 0.5, 1]
    assert np.isnan(points[0, 3])


def test_bootstrap_resamples_conditions():
    values = np.repeat(np.array([0.0, 1.0] * 50)[:, None], 4, axis=1)  # equal inside a condition
    found = judging.bootstrap_mean(values, 0)
    assert found.value == 0.5
    assert found.n == 100
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)  # as of 100, not of 400
    assert judging.bootstrap_mean(values, 0) == found
    assert judging.bootstrap_mean(np.full((3, 2), np.nan), 0) == MeanEstimate(None, None, None, 0)
    single = judging.bootstrap_mean(np.array([[0.2, 0.4], [np.nan, np.nan]]), 0)
    assert single.value == pytest.approx(0.3)
    assert (single.low, single.n) == (None, 1)


def test_reward_hacking_gap_is_raters_gain_less_judges():
    def table(score):
        nothing = np.full((4, 2), np.nan)
        return judging.Judged(np.full((4, 2), score), nothing, nothing, nothing, nothing)

    found = judging.comparison(table(0.6), table(0.5), (np.full((4, 2), 0.9), np.full((4, 2), 0.5)), 0)
    assert found.judge_gain.value == pytest.approx(0.1)
    assert found.rater_gain.value == pytest.approx(0.4)
    assert found.reward_hacking_gap.value == pytest.approx(0.3)
    assert (found.n_win, found.n_tie, found.n_loss) == (8, 0, 0)
    assert judging.comparison(table(0.6), table(0.5), None, 0).rater_gain is None


def test_drift_and_diversity_of_known_features():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(6, 4, 8))
    same = watch.drift_and_diversity(base, base)
    assert same == {"drift": 0.0, "paired_shift": 0.0, "diversity": pytest.approx(1.0)}
    moved = watch.drift_and_diversity(base + 1.0, base)
    assert moved["diversity"] == pytest.approx(1.0)
    assert moved["drift"] == pytest.approx(np.sqrt(8) / watch.within_distance(base))
    shrunk = watch.drift_and_diversity(base * 0.5, base)
    assert shrunk["diversity"] == pytest.approx(0.5)


def test_pixel_features_are_block_means():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8).repeat(4, 1).repeat(4, 2)  # 32 px
    found = watch.pixel_features(image).reshape(16, 16)
    assert found[0, 0] == 0
    assert found[15, 15] == pytest.approx(63 / 255)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    study = support.rated_study(tmp_path_factory.mktemp("trained"), ("T2I", "M2I", "TM2I", "T2I"))
    run_pairs(study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "N_PROMPTS", 1)
        arms.run_align(study, n_steps=1)
    return study


def test_fresh_conditions_share_no_patient_with_rated_sets(trained):
    unused = {record["record_id"] for record in unrated_records(trained)}
    assert unused == {f"val-{i}" for i in range(4, 12)}
    drawn = fresh_conditions(trained, load_network(trained, "judge", "judge"), 12, 0)
    assert [sum(c.mode == mode for c in drawn) for mode in ("T2I", "M2I", "TM2I")] == [6, 3, 3]
    assert {c.text_record or c.mask_record for c in drawn} <= unused
    texts = [c.text for c in drawn if c.mode == "T2I"]
    assert sorted(texts) == sorted(list(support.TEXTS) * 3)  # evenly over what is asked
    assert len({c.text_record for c in drawn if c.mode == "T2I"}) == 6  # no record twice before all were used
    assert drawn == fresh_conditions(trained, load_network(trained, "judge", "judge"), 12, 0)


def test_no_unused_record_is_a_clear_error(tmp_path):
    study = support.make_study(tmp_path)
    support.add_records(study, 2)
    support.add_sets(study, ("T2I", "T2I"))
    with refuses(InvalidInput, "data.n_val", "T2I"):
        fresh_conditions(study, load_network(study, "judge", "judge"), 4, 0)


def test_evaluation_from_end_to_end(trained, monkeypatch):
    result = evaluate.run_evaluate(trained, n_conditions=4, n_images=2, seed=1)
    assert list(result["arms"]) == ["baseline", "aligned"]
    base, aligned = result["arms"]["baseline"], result["arms"]["aligned"]
    assert (base["drift"], base["diversity"]) == (0.0, pytest.approx(1.0))
    assert 0 <= aligned["score"]["value"] <= 1
    compared = result["comparisons"]["aligned"]
    assert compared["n_win"] + compared["n_tie"] + compared["n_loss"] == 8
    gap = compared["rater_gain"]["value"] - compared["judge_gain"]["value"]
    assert compared["reward_hacking_gap"]["value"] == pytest.approx(gap)
    run = latest_run(trained, "evaluate")
    assert json.loads((run.folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert len(result["sheets"]) == 4
    for path in result["sheets"]:
        assert read_image(run.folder / path).ndim == 2
    assert {row["role"] for row in support.rows(trained, "networks")} == {"rater", "judge", "fidelity"}
    monkeypatch.setattr(sets, "sample_stored", None)  # nothing is sampled again
    assert evaluate.run_evaluate(trained, n_conditions=4, n_images=2, seed=1)["already_done"]


def test_a_finished_evaluation_is_shown_again_when_every_patient_is_rated(trained, tmp_path):
    first = evaluate.run_evaluate(trained, n_conditions=4, n_images=2, seed=1)
    shutil.copytree(trained.root, tmp_path / "study")
    study = Study(tmp_path / "study")
    support.add_sets(study, ("T2I",) * 12, seed=8)
    assert unrated_records(study) == []
    again = evaluate.run_evaluate(study, n_conditions=4, n_images=2, seed=1)
    assert (again["run_id"], again["already_done"]) == (first["run_id"], True)
    with refuses(InvalidInput, "T2I", "data.n_val"):
        evaluate.run_evaluate(study, n_conditions=4, n_images=2, seed=5)
    study.db.close()


def test_interrupted_sampling_goes_on_with_equal_images(trained, monkeypatch):
    calls = {"n": 0}
    real = sets.sample_stored

    def counted(*args):
        calls["n"] += 1
        if calls["n"] == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sets, "sample_stored", counted)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run_evaluate(trained, n_conditions=3, n_images=2, seed=2)
    done = evaluate.run_evaluate(trained, n_conditions=3, n_images=2, seed=2)
    again = evaluate.run_evaluate(trained, n_conditions=3, n_images=2, seed=3)
    assert done["run_id"] != again["run_id"]
    assert len(trained.db.rows("SELECT 1 FROM runs WHERE kind = 'evaluate' AND config LIKE '%\"seed\": 2}'")) == 1


def test_nothing_to_evaluate_and_bad_numbers(tmp_path):
    study = support.make_study(tmp_path)
    with refuses(NotFound, "align train"):
        evaluate.run_evaluate(study)
    with refuses(InvalidInput, 1, 2):
        evaluate.run_evaluate(study, n_conditions=1)


def test_commands_print_lines_or_json(trained):
    runner = CliRunner()
    root = str(trained.root)
    said = runner.invoke(app, ["pairs", "--study", root])
    assert said.exit_code == 0
    assert "simulated raters" in said.output
    said = runner.invoke(app, ["train", "--study", root, "--steps", "1", "--json"])
    assert json.loads(said.output)["aligned"]["already_done"]
    said = runner.invoke(app, ["evaluate", "--study", root, "--conditions", "4", "--images", "2", "--seed", "1"])
    assert said.exit_code == 0, said.output
    assert "aligned against baseline: wins" in said.output
    assert runner.invoke(app, ["pairs", "--study", root, "--raters", "robots"]).exit_code == 2
