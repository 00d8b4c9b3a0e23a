"""Fidelity figures on cases whose answer is known."""

import json

import numpy as np
import pytest

from data.conditions_store import StoredCondition, save_conditions
from data.errors import Conflict, InvalidInput, NotFound
from data.records import start_run
from data.study import Study
from generation import fidelity
from generation.fidelity_report import run_fidelity
from generation.measure import save_measure, tiny_measure


def normal(n: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


def test_frechet_of_equal_sets_is_zero_and_symmetric() -> None:
    a, b = normal(300), normal(200, 0.5, seed=1)
    assert fidelity.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert fidelity.frechet_distance(a, b) == pytest.approx(fidelity.frechet_distance(b, a))


def test_frechet_of_gaussians_is_the_analytic_value() -> None:
    a, b = normal(40_000), normal(40_000, 0.7, 2.0, seed=1)
    assert fidelity.frechet_distance(a, b) == pytest.approx(4 * (0.7**2 + (2 - 1) ** 2), rel=0.02)
    assert fidelity.frechet_distance(a[:100], a[:100] + 3) == pytest.approx(4 * 9)  # a pure shift is exact


def test_frechet_agrees_with_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 1
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    assert fidelity.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_interval_holds_the_value_and_narrows_with_n() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (
        fidelity.frechet_with_interval(normal(n), normal(n, 1.0, seed=1), rng, n_resamples=40) for n in (40, 1000)
    )
    assert wide["low"] <= wide["value"] <= wide["high"]
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]


def test_kid_is_unbiased_around_zero_and_sees_a_shift() -> None:
    same = [fidelity.mmd2(normal(60, seed=s), normal(60, seed=1000 + s)) for s in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    found = fidelity.kid(normal(200), normal(200, 1.0, seed=9), np.random.default_rng(0), n_subsets=30)
    assert 0 < found["low"] <= found["value"] <= found["high"]


def test_mmd_against_the_double_sum() -> None:
    a, b = normal(4, seed=1), normal(3, 0.5, seed=2)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 4 + 1) ** 3

    xx = np.mean([k(a[i], a[j]) for i in range(4) for j in range(4) if i != j])
    yy = np.mean([k(b[i], b[j]) for i in range(3) for j in range(3) if i != j])
    assert fidelity.mmd2(a, b) == pytest.approx(xx + yy - 2 * np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize(("a", "b"), [(normal(5), normal(5, dim=3)), (normal(1), normal(5)), (normal(5)[0], normal(5))])
def test_features_that_do_not_compare_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        fidelity.frechet_distance(a, b)


@pytest.mark.parametrize("size", [32, 64, 128, 200])
def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise(size: int) -> None:
    rng = np.random.default_rng(0)
    image = np.add.outer(np.arange(size), np.arange(size)).astype(np.uint8)
    little, much = (np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8) for sigma in (5, 60))
    assert fidelity.ms_ssim(image, image) == pytest.approx(1, abs=1e-4)
    assert fidelity.ms_ssim(image, image) > fidelity.ms_ssim(image, little) > fidelity.ms_ssim(image, much)


def test_diversity_of_copies_is_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40), dtype=np.uint8)
    copies = np.repeat(images[:1], 3, axis=0)
    assert fidelity.diversity([copies, copies])["ms_ssim"] == pytest.approx(1, abs=1e-4)
    assert fidelity.diversity([images, copies])["ms_ssim"] < 0.8
    with pytest.raises(InvalidInput):
        fidelity.diversity([images[:1]])
    with pytest.raises(InvalidInput):
        fidelity.ms_ssim(images[0], images[0, :20, :20])


def test_copies_are_found() -> None:
    training, held_out = normal(200, seed=1), normal(100, seed=2)
    fresh = fidelity.nearest_training(normal(100, seed=3), training, held_out)
    copied = fidelity.nearest_training(training[:50] + 1e-6, training, held_out)
    assert fresh["suspect_share"] < 0.1
    assert copied["suspect_share"] == 1
    assert copied["nearest"] == list(range(50))


def test_report_is_json_and_refuses_another_role() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32), dtype=np.uint8)
    net = tiny_measure("fidelity", "fidelity")
    report = fidelity.fidelity_report(net, images[:12], images[12:], rng, training=images[:12], groups=[images[:3]])
    assert report["nearest_training"]["median"] == pytest.approx(0, abs=1e-5)
    assert {"frechet", "kid", "diversity", "real_vs_real"} <= set(json.loads(json.dumps(report)))
    with pytest.raises(InvalidInput, match="role"):
        fidelity.fidelity_report(tiny_measure(), images, images, rng)


def test_study_report_measures_each_arm_and_is_the_same_twice(tiny_study: Study) -> None:
    add_pool(tiny_study, "baseline", seed=0)
    save_measure(tiny_measure("fidelity", "fidelity"), tiny_study.root / "networks")
    report = run_fidelity(tiny_study)
    assert list(report["arms"]) == ["baseline"]
    figures = report["arms"]["baseline"]
    assert (figures["n_synthetic"], figures["n_real"]) == (12, 24)
    assert figures["diversity"]["n_groups"] == 3
    assert json.loads((tiny_study.reports / "fidelity.json").read_text()) == report == run_fidelity(tiny_study)
    assert tiny_study.db.value("SELECT role FROM networks") == "fidelity"


def test_study_report_says_what_is_missing(tiny_study: Study) -> None:
    with pytest.raises(NotFound, match="generate pool"):
        run_fidelity(tiny_study)
    add_pool(tiny_study, "baseline", seed=0)
    with pytest.raises(NotFound, match="aligned"):
        run_fidelity(tiny_study, arms=["baseline", "aligned"])
    save_measure(tiny_measure("fidelity", "rater"), tiny_study.root / "networks")
    with pytest.raises(InvalidInput, match="as rater"):
        run_fidelity(tiny_study)


def test_network_of_another_role_in_the_study_is_refused(tiny_study: Study) -> None:
    add_pool(tiny_study, "baseline", seed=0)
    net = tiny_measure("fidelity", "fidelity")
    save_measure(net, tiny_study.root / "networks")
    with tiny_study.db.write() as connection:
        connection.execute("INSERT INTO networks VALUES (?, 'judge', 'x')", (net.sha256,))
    with pytest.raises(Conflict, match="judge"):
        run_fidelity(tiny_study)


def add_pool(study: Study, arm: str, seed: int) -> None:
    """A finished pool of twelve noise images of three texts for the study's first task."""
    task = study.config.downstream.tasks[0].name
    rng = np.random.default_rng(seed)
    texts = [StoredCondition("T2I", text, {}, {}) for text in ("Normal", "Edema", "Mild edema")]
    with start_run(study, "pool", {"task": {"name": task}, "arm": arm}) as run, study.db.write() as connection:
        save_conditions(connection, texts)
        for i in range(12):
            sha = study.store.put_image(connection, rng.integers(0, 256, (64, 64), dtype=np.uint8), "synthetic")
            row = (run.run_id, task, arm, i, sha, texts[i % 3].condition_id, i, "{}")
            connection.execute("INSERT INTO pool_images VALUES (?,?,?,?,?,?,?,?)", row)
