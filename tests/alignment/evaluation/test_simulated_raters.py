"""Simulated raters: calibration, temper, determinism, resume, marks, roles of their networks."""

import numpy as np
import pytest

from radpref.alignment.evaluation import simulated_raters as raters
from radpref.data.config.reader_study import SimulatedRater
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.raters import add_rater, list_raters
from radpref.data.reader_study.scores import score_table
from radpref.data.study.study import Study
from radpref.generation.measuring.measuring_network import save_measure
from radpref.generation.measuring.network_files import network_path
from radpref.generation.measuring.roles import load_network, register_network
from tests.support import alignment as support
from tests.support.errors import refuses
from tests.support.grown import grow

CALM = SimulatedRater(name="calm", network="n", severity=0, noise=0, inattention=0)


def test_text_scale_spreads_a_confident_network():
    points = raters.text_quality([0.0, 0.0180, 0.1192, 0.5, 0.8808, 0.9820, 1.0])
    assert points == pytest.approx([0, 0, 1.25, 2.5, 3.75, 5, 5], abs=1e-2)


class OneColumn:
    """A network that believes what it is told: P of the attributes, whatever the image."""

    name, attributes = "fake", ("effusion", "effusion/left")

    def __init__(self, p, thresholds=None):
        self.p, self.thresholds = p, thresholds or {}

    def predict(self, images):
        return np.tile(np.array(self.p, np.float32), (len(images), 1))

    def column(self, name):
        return self.attributes.index(name)


def test_text_belief_is_a_geometric_mean_around_the_thresholds():
    images = np.zeros((2, 8, 8), np.uint8)
    both = {"effusion": 1, "effusion/left": 1}
    assert raters.text_belief(OneColumn((0.9, 0.4)), images, both) == pytest.approx([0.6, 0.6])
    assert raters.text_belief(OneColumn((0.9, 0.4)), images, {"effusion": 0}) == pytest.approx([0.1, 0.1])
    rare = OneColumn((0.2, 0.2), {"effusion": 0.2, "effusion/left": 0.2})
    assert raters.text_belief(rare, images, both) == pytest.approx([0.5, 0.5])
    wrong_side = raters.text_quality(raters.text_belief(OneColumn((0.98, 0.02)), images, both))
    assert 1 < wrong_side[0] < 2
    with refuses(InvalidInput, "edema"):
        raters.text_belief(OneColumn((0.5, 0.5)), images, {"edema": 1})


def test_mask_scale_follows_the_anchors():
    assert raters.mask_quality([0, 0.5, 0.7, 0.95, 1]) == pytest.approx([0, 2, 3, 5, 5])
    assert (np.diff(raters.mask_quality(np.linspace(0, 1, 50))) >= 0).all()


def test_a_calm_rater_rounds_half_up_and_clips():
    rng = np.random.default_rng(0)
    given = [raters.rater_score(q, CALM, rng) for q in (-1, 0.49, 0.5, 2.5, 3.2, 7)]
    assert given == [0, 0, 1, 3, 3, 5]
    assert all(type(value) is int for value in given)


def test_severity_noise_and_inattention():
    def mean(n=4000, **temper):
        rater = CALM.model_copy(update=temper)
        rng = np.random.default_rng(1)
        values = np.array([raters.rater_score(3.0, rater, rng) for _ in range(n)])
        return values.mean(), values.std(), np.bincount(values, minlength=6) / n

    assert mean()[:2] == (3.0, 0.0)
    assert mean(severity=1.0)[0] == 2.0
    assert mean(noise=0.8)[1] == pytest.approx(0.85, abs=0.08)
    assert mean(inattention=1.0)[2] == pytest.approx([1 / 6] * 6, abs=0.03)
    assert mean(inattention=0.3)[2][0] == pytest.approx(0.05, abs=0.015)


def test_scores_are_simulated_complete_and_repeatable(tmp_path):
    tables = []
    for name in ("one", "two"):
        study = support.make_study(tmp_path / name)
        support.add_records(study, 4)
        support.add_sets(study, ("T2I", "M2I", "TM2I", "T2I"))
        result = raters.run_simulate(study)
        assert result["n_sets"] == {"sim-a": 4, "sim-b": 4}
        table = score_table(study.db, "simulated")
        assert len(table) == 2 * (4 + 4 + 8 + 4)
        assert set(table["rater_kind"]) == {"simulated"}
        tables.append(table.sort_values(["username", "set_id", "slot", "criterion"]).value.to_numpy())
        assert {r.kind for r in list_raters(study.db)} == {"simulated"}
        assert all(r.detail["simulated"] and r.detail["network_sha256"] for r in list_raters(study.db))
        assert {r["state"] for r in support.rows(study, "presentation_states")} == {"submitted"}
        assert {(r["role"], r["name"]) for r in support.rows(study, "networks")} == {
            ("rater", "rater-a"),
            ("rater", "rater-b"),
        }
    assert (tables[0] == tables[1]).all()


def test_resume_scores_only_what_is_left(tmp_path):
    study = support.make_study(tmp_path / "whole")
    support.add_records(study, 3)
    support.add_sets(study, ("T2I", "M2I", "T2I"))
    raters.run_simulate(study)
    whole = score_table(study.db)

    parts = support.make_study(tmp_path / "parts")
    support.add_records(parts, 3)
    support.add_sets(parts, ("T2I", "M2I", "T2I"))
    assert raters.run_simulate(parts, n_sets=1)["n_submitted"] == 2
    n_events = len(support.rows(parts, "score_events"))
    assert raters.run_simulate(parts)["n_sets"] == {"sim-a": 2, "sim-b": 2}
    assert len(support.rows(parts, "score_events")) > n_events
    assert raters.run_simulate(parts)["n_submitted"] == 0
    keys = ["username", "set_id", "slot", "criterion", "value"]
    assert sorted(whole[keys].values.tolist()) == sorted(score_table(parts.db)[keys].values.tolist())


def test_an_interrupted_chunk_is_taken_up(tmp_path, monkeypatch):
    study = support.make_study(tmp_path)
    support.add_records(study, 3)
    support.add_sets(study, ("T2I", "T2I", "T2I"))
    calls = {"n": 0}
    real = raters.record_events

    def fails_once(db, events):
        calls["n"] += 1
        if calls["n"] == 2:
            raise KeyboardInterrupt
        return real(db, events)

    monkeypatch.setattr(raters, "record_events", fails_once)
    monkeypatch.setattr(raters, "CHUNK", 1)
    with pytest.raises(KeyboardInterrupt):
        raters.run_simulate(study)
    assert len(score_table(study.db)) == 4
    grow(study)
    raters.run_simulate(study)
    assert len(score_table(study.db)) == 2 * 3 * 4
    assert len(support.rows(study, "runs")) == 2  # the sets, and one simulation taken up again


def test_nothing_to_score(tmp_path):
    with refuses(NotFound, "generate sets"):
        raters.run_simulate(support.make_study(tmp_path))


def test_comparison_sets_alone_are_scored(tmp_path):
    alone = support.make_study(tmp_path)
    support.add_records(alone, 1)
    support.add_sets(alone, ("T2I",), purpose="comparison")
    assert raters.run_simulate(alone)["n_sets"] == {"sim-a": 1, "sim-b": 1}


def test_one_network_in_two_roles_is_refused(tmp_path):
    study = support.make_study(tmp_path)
    net = load_network(study, "rater-a", "rater")
    with refuses(InvalidInput, "judge"):
        load_network(study, "judge", "rater")
    with refuses(Conflict, "rater-a", "other"):
        register_network(study, net.sha256, "judge", "other")
    disguised = support.tiny_network("judge", "judge", 0)  # the rater's weights under the judge's name
    save_measure(disguised, study.root / "networks")
    with pytest.raises(Conflict):
        load_network(study, "judge", "judge")


def test_two_raters_need_two_networks(tmp_path):
    toml = support.TOML.replace('network = "rater-b"', 'network = "rater-a"')
    study = support.make_study(tmp_path, toml)
    support.add_records(study, 1)
    support.add_sets(study, ("T2I",))
    with refuses(Conflict, "rater-a", "sim-a"):
        raters.run_simulate(study)


def test_a_person_is_never_simulated(tmp_path):
    study = support.make_study(tmp_path)
    support.add_records(study, 1)
    support.add_sets(study, ("T2I",))
    add_rater(study.db, "SIM-A")
    with refuses(Conflict, "sim-a", "study.toml"):
        raters.run_simulate(study)


def test_network_by_path_and_by_shipped_name(tmp_path):
    study = support.make_study(tmp_path)
    assert network_path(study, "networks/rater-a.json") == study.root / "networks/rater-a.json"
    assert network_path(study, "rater-a") == study.root / "networks/rater-a"
    assert network_path(study, "elsewhere") == "elsewhere"
    with pytest.raises(NotFound):
        load_network(study, "elsewhere", "judge")


def test_masks_of_another_size_are_fitted(tmp_path):
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[0, 1:3, 1:3] = True
    fitted = raters.fit_mask(mask, np.zeros((1, 8, 8), np.uint8))
    assert fitted.shape == (1, 8, 8)
    assert fitted[0, 2:6, 2:6].all()
    assert fitted.sum() == 16


def test_unknown_text_is_named(tmp_path):
    study = support.make_study(tmp_path, support.TOML)
    assert isinstance(study, Study)
    support.add_records(study, 1)
    support.add_sets(study, ("T2I",))
    with study.db.write() as connection:
        connection.execute("UPDATE conditions SET asked = '{}'")
    with refuses(InvalidInput, "Normal"):
        raters.run_simulate(study)
