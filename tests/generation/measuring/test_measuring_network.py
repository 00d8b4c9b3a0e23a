"""Measuring networks: prediction, storage, training, figures, scores."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.measuring import image_scores, measuring_data, shipped_networks
from radpref.generation.measuring.architectures import BLOCKS, NetworkShape, build_network
from radpref.generation.measuring.image_scores import score_mask, score_text
from radpref.generation.measuring.measuring_data import MeasureData, best_threshold, f1, label_rows
from radpref.generation.measuring.measuring_network import load_measure, save_measure
from radpref.generation.measuring.network_training import (
    MeasureSettings,
    attribute_loss,
    augment,
    measure_figures,
    structure_loss,
    train_measure,
)
from tests.support.errors import refuses
from tests.support.measuring import tiny_measure

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 40, 40), dtype=np.uint8)


def blobs(n: int, seed: int, first: int) -> MeasureData:
    """A bright square left or right, or none: attributes bright, bright/left, bright/right; structure square."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 90, (n, 32, 32), dtype=np.uint8)
    masks = np.zeros((n, 1, 32, 32), bool)
    rows = []
    for i in range(n):
        kind = i % 3  # 0 none, 1 at image right (the patient's left), 2 at image left
        if kind:
            x, y = (20 if kind == 1 else 4) + int(rng.integers(3)), int(rng.integers(4, 20))
            images[i, y : y + 8, x : x + 8] = 220
            masks[i, 0, y : y + 8, x : x + 8] = True
        rows.append({"bright": int(kind > 0), "bright/left": int(kind == 1), "bright/right": int(kind == 2)})
    names = ("bright", "bright/left", "bright/right")
    patients = tuple(f"p{first + i}" for i in range(n))
    return MeasureData(
        images, label_rows(rows, names), names, masks, np.ones((n, 1), bool), ("square",), patients, "blobs"
    )


SHAPE = NetworkShape("residual", 3, 1, 32, (8, 8, 16, 16), n_features=16)


@pytest.mark.parametrize("architecture", BLOCKS)
def test_every_architecture_gives_the_promised_shapes(architecture: str) -> None:
    module = build_network(NetworkShape(architecture, 5, 2, 32, (8, 8, 12, 12), n_features=7), seed=0)
    logits, maps, embedding = module(torch.randn(3, 1, 32, 32))
    assert maps is not None
    assert (logits.shape, maps.shape, embedding.shape) == ((3, 5), (3, 2, 16, 16), (3, 7))


def test_weights_depend_on_seed_only_and_global_state_stays() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (build_network(SHAPE, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)


@pytest.mark.parametrize("fields", [{"architecture": "vit"}, {"input_size": 50}, {"widths": (1, 2)}])
def test_bad_shape_is_refused(fields: dict) -> None:
    with pytest.raises(InvalidInput):
        replace(SHAPE, **fields)


@pytest.mark.parametrize("size", [(40, 40), (31, 57), (200, 90)])
def test_predict_segment_features_at_any_size(size: tuple[int, int]) -> None:
    net = tiny_measure()
    images = RNG.integers(0, 256, (3, *size), dtype=np.uint8)
    p, maps, features = net.predict(images), net.segment(images), net.features(images)
    assert p.shape == (3, 4)
    assert maps.shape == (3, 2, *size)
    assert features.shape == (3, 8)
    for array in (p, maps, features):
        assert array.dtype == np.float32
    assert (p >= 0).all()
    assert (p <= 1).all()
    assert (maps >= 0).all()
    assert (maps <= 1).all()


def test_answers_do_not_depend_on_batching_and_empty_input_is_allowed() -> None:
    net = tiny_measure()
    np.testing.assert_allclose(net.predict(IMAGES, batch_size=2), net.predict(IMAGES), atol=1e-5)
    assert net.predict(IMAGES[:0]).shape == (0, 4)
    assert net.segment(IMAGES[:0]).shape == (0, 2, 40, 40)


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), IMAGES[0]])
def test_other_than_uint8_stacks_are_refused(images: np.ndarray) -> None:
    with refuses(InvalidInput, "uint8"):
        tiny_measure().predict(images)


def test_saved_network_measures_the_same_and_keeps_its_identity(tmp_path: Path) -> None:
    net = tiny_measure("judge-x", "judge", 3)
    net.thresholds = {"normal": 0.25}
    before = net.sha256
    path = save_measure(net, tmp_path)
    for source in (path, tmp_path / "judge-x"):
        again = load_measure(source)
        np.testing.assert_array_equal(again.predict(IMAGES), net.predict(IMAGES))
        assert again.sha256 == net.sha256 == before
        assert (again.role, again.thresholds, again.attributes) == ("judge", {"normal": 0.25}, net.attributes)
    assert tiny_measure(seed=4).sha256 != before


def test_missing_broken_or_swapped_files_are_one_clear_line(tmp_path: Path) -> None:
    with refuses(NotFound, "rater-99"):
        load_measure("rater-99")
    path = save_measure(tiny_measure(), tmp_path)
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "sha256": "0" * 64}))
    with refuses(InvalidInput, "tiny.safetensors", "0" * 12):
        load_measure(path)
    path.write_text(json.dumps({**card, "shape": {**card["shape"], "n_attributes": 9}}))
    with refuses(InvalidInput, "tiny.json"):
        load_measure(path)
    path.write_text("not json")
    with refuses(InvalidInput, "tiny.json"):
        load_measure(path)
    path.with_suffix(".safetensors").unlink()
    with refuses(NotFound, "tiny.json", "tiny.safetensors"):
        load_measure(path)


def test_text_fidelity_by_hand() -> None:
    names = ("effusion", "effusion/left", "edema")
    p = np.array([[0.9, 0.5, 0.2]], np.float32)
    assert image_scores.text_fidelity(p, names, {"effusion": 1, "effusion/left": 1})[0] == pytest.approx(0.45)
    assert image_scores.text_fidelity(p, names, {"effusion": 1, "edema": 0})[0] == pytest.approx((0.9 + 0.8) / 2)
    assert image_scores.text_fidelity(p, names, {"effusion": 1, "unknown": 1})[0] == pytest.approx(0.9)
    for asked in ({}, {"unknown": 1}, {"effusion": 2}):
        with pytest.raises(InvalidInput):
            image_scores.text_fidelity(p, names, asked)


def test_scores_of_texts_and_masks_are_bounded() -> None:
    net, mask = tiny_measure(), np.zeros((2, 40, 40), bool)
    mask[0, 5:20, 5:20] = True
    text = score_text(net, IMAGES, {"normal": 1})
    agreed = score_mask(net, IMAGES, mask, ("lungs", "heart"))
    assert text.shape == agreed.shape == (5,)
    assert ((agreed >= 0) & (agreed <= 1)).all()
    assert ((text >= 0) & (text <= 1)).all()


def test_mask_score_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_measure()
    seen = np.zeros((1, 2, 8, 8), np.float32)
    seen[0, 0, :4] = 0.9
    seen[0, 1, :, :2] = 0.9
    monkeypatch.setattr(type(net), "segment", lambda self, images: seen)
    asked = np.zeros((3, 8, 8), bool)
    asked[0, 2:6] = True  # heart: shares 4 of 16 + 32 pixels -> columns 0:2 of rows 2:6 = 8
    asked[1, :4] = True  # lungs: exact
    images = np.zeros((1, 8, 8), np.uint8)
    parts = image_scores.structure_dice(net, images, asked, ("heart", "lungs", "tube"))
    assert parts["heart"][0] == pytest.approx(2 * 8 / (16 + 32))
    assert parts["lungs"][0] == 1
    assert "tube" not in parts
    assert score_mask(net, images, asked, ("heart", "lungs", "tube"))[0] == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize(("mask", "names"), [
    (np.zeros((2, 40, 40), bool), ("lungs", "heart")),
    (np.ones((1, 40, 40), bool), ("tube",)),
    (np.ones((2, 20, 20), bool), ("lungs", "heart")),
    (np.ones((2, 40, 40), bool), ("lungs",)),
])  # fmt: skip
def test_mask_that_cannot_be_scored_is_refused(mask: np.ndarray, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        score_mask(tiny_measure(), IMAGES, mask, names)


def test_losses_ignore_what_is_unknown() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    unknown = attribute_loss(logits, torch.tensor([[1.0, float("nan")]]))
    assert unknown.item() == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-5)
    assert attribute_loss(logits, torch.full((1, 2), float("nan"))).item() == 0
    maps, masks = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    wrong = maps.clone()
    wrong[:, 1] = -9
    known = torch.tensor([[True, False]])
    assert torch.equal(structure_loss(maps, masks, known), structure_loss(wrong, masks, known))
    assert structure_loss(maps, masks, ~known | known) < structure_loss(wrong, masks, ~known | known)


def test_augmentation_keeps_sides_and_is_seeded() -> None:
    x = torch.zeros(16, 1, 32, 32)
    x[..., 2:30, 20:28] = 1  # a bar at image right stays there: no flips
    a, m = augment(x, x.clone(), torch.Generator().manual_seed(1))
    b, _ = augment(x, x.clone(), torch.Generator().manual_seed(1))
    assert torch.equal(a, b)
    assert (a[..., 16:].mean((1, 2, 3)) > a[..., :16].mean((1, 2, 3))).all()
    assert (m[..., 16:].sum((1, 2, 3)) > 10 * m[..., :16].sum((1, 2, 3))).all()


def test_training_learns_finding_side_and_place_and_is_reproducible() -> None:
    train, validation = blobs(90, 0, 0), blobs(45, 1, 1000)
    settings = MeasureSettings(n_steps=120, batch_size=16, learning_rate=4e-3)
    nets = [
        train_measure("n", "rater", train, validation, shape=SHAPE, seed=3, settings=s, test=blobs(30, 2, 2000))
        for s in (settings, replace(settings, n_steps=5), replace(settings, n_steps=5))
    ]
    figures = nets[0].info["test_figures"]
    assert figures["attributes"]["bright"]["auroc"] > 0.95
    assert figures["side_accuracy"]["bright"]["accuracy"] > 0.9
    assert figures["structures"]["square"]["dice"] > 0.6
    assert nets[0].info["n_steps"] == 120
    assert nets[0].info["train"]["sha256"] == train.sha256
    assert nets[1].sha256 == nets[2].sha256 != nets[0].sha256


def test_training_refuses_shared_patients_roles_and_unfit_shapes() -> None:
    train, validation, settings = blobs(6, 0, 0), blobs(6, 1, 100), MeasureSettings(n_steps=1)
    for change in (
        {"validation": blobs(6, 1, 3)},
        {"role": "umpire"},
        {"shape": replace(SHAPE, n_attributes=4)},
        {"validation": validation.take([])},
    ):
        given = {"role": "rater", "train": train, "validation": validation, "shape": SHAPE, **change}
        with pytest.raises(InvalidInput):
            train_measure("n", seed=0, settings=settings, **given)


def test_data_split_by_patient_and_checked() -> None:
    data = replace(blobs(30, 0, 0), patients=tuple(f"p{i // 3}" for i in range(30)))
    train, validation = data.split(0.3, np.random.default_rng(0))
    assert len(train) == 21
    assert len(validation) == 9
    assert not set(train.patients) & set(validation.patients)
    with refuses(InvalidInput, 1, 2):
        replace(data, patients=("p",) * 30).split(0.5, np.random.default_rng(0))
    with refuses(InvalidInput, "labels", (30, 1), (30, 3)):
        replace(data, labels=data.labels[:, :1])


def test_figures_against_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    labels, scores = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    assert f1(labels, scores > 0.6) == pytest.approx(f1_score(labels, scores > 0.6))
    threshold = best_threshold(labels, scores)
    best = max(f1_score(labels, scores >= t) for t in np.arange(-0.05, 1, 0.1))
    assert f1_score(labels, scores >= threshold) == pytest.approx(best)
    assert best_threshold(np.zeros(3), np.arange(3)) == 0.5


def test_figures_are_plain_json_even_where_undefined() -> None:
    figures = measure_figures(tiny_measure(attributes=("bright", "other"), structures=("square",)), blobs(4, 0, 0))
    assert json.loads(json.dumps(asdict(figures), allow_nan=False))["attributes"]["other"]["auroc"] is None


def test_phantom_data_of_disjoint_patients_is_kept_and_reread(tmp_path: Path) -> None:
    one = measuring_data.phantom_data(4, 1, 0, 32, tmp_path)
    again = measuring_data.phantom_data(4, 1, 0, 32, tmp_path)
    other = measuring_data.phantom_data(4, 2, 0, 32)
    assert one.sha256 == again.sha256 != other.sha256
    assert not set(one.patients) & set(other.patients)
    assert one.labels.shape == (4, len(one.attributes))
    assert set(np.unique(one.labels)) <= {0, 1}


def test_asked_names_finding_and_side() -> None:
    from radpref.data.phantom.spec import Finding

    asked = measuring_data.phantom_asked([Finding("pleural_effusion", "left", "severe")])
    assert asked == {"pleural_effusion": 1, "pleural_effusion/left": 1}
    assert measuring_data.phantom_asked([]) == {"normal": 1}


def test_plan_keeps_roles_apart() -> None:
    plans = list(shipped_networks.PLANS.values())
    draws = (
        [p.seed for p in plans]
        + [p.seed + 40 for p in plans]
        + [shipped_networks.TEST_DRAW, measuring_data.CONDITIONS_DRAW]
    )
    assert len(set(draws)) == len(draws)
    assert len({p.architecture for p in plans}) == len(plans)


def test_plan_trains_writes_a_card_and_skips_what_is_there(tmp_path: Path) -> None:
    plan = replace(shipped_networks.PLANS["rater-1"], input_size=32, widths=(4, 4, 4, 4))
    shipped_networks.train_one(plan, tmp_path / "out", tmp_path / "work", scale=0.001)
    card = shipped_networks.model_card(tmp_path / "out")
    assert "rater-1" in card
    assert "no use on patients" in card
    stamp = (tmp_path / "out" / "rater-1.safetensors").stat().st_mtime_ns
    shipped_networks.train_one(plan, tmp_path / "out", tmp_path / "work", scale=0.001)
    assert (tmp_path / "out" / "rater-1.safetensors").stat().st_mtime_ns == stamp
