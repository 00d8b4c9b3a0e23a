"""A study's own generator and measuring networks: training split only, resume, skipping what is done."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import radpref.generation.measuring.network_training
import radpref.generation.measuring.shipped_networks
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.importing import import_records
from radpref.data.study.conditions import asked_attributes, record_conditions
from radpref.data.study.runs import finished_run
from radpref.data.study.study import Study
from radpref.generation.measuring.measuring_network import load_measure
from radpref.generation.measuring.shipped_networks import Plan
from radpref.generation.measuring.study_networks import run_networks, study_measure_data
from radpref.generation.sampling.sets import run_sets
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import save_stack, tiny_stack
from radpref.generation.stack.places import find_model
from radpref.generation.training import study_training
from radpref.generation.training.study_corpus import read_images, training_records
from radpref.generation.training.study_training import run_train
from tests.support import ROOT
from tests.support.errors import refuses
from tests.support.grown import grow
from tests.support.sampling import STRUCTURES, stop_after
from tests.support.training import study_corpus

TRAIN_TOML = """
[generator]
model = "trained"
n_steps = 2

[train]
start = "start"
vae_steps = 2
unet_steps = 3
control_steps = 3
batch_size = 4
sheet_every = 0
"""
EXAMPLE = ROOT / "docs" / "examples" / "real-cxr.toml"
SMALL_PLANS = {
    plan.name: plan
    for plan in (
        Plan("judge", "judge", 10, "attentive", 1.0, input_size=32, widths=(4, 4, 8, 8)),
        Plan("rater-1", "rater", 1, "residual", 1.0, input_size=32, widths=(4, 4, 8, 8)),
        Plan("rater-2", "rater", 2, "plain", 1.0, input_size=32, widths=(4, 4, 8, 8)),
        Plan("proxy", "proxy", 30, "open_clip", 1.0),
    )
}


def _trainable(study: Study, toml: str = TRAIN_TOML, size: int = 64) -> Study:
    with (study.root / "study.toml").open("a", encoding="utf-8") as file:
        file.write(toml)
    save_stack(tiny_stack(0, size=size, structures=STRUCTURES), study.root / "start")
    return Study(study.root)


@pytest.fixture
def trainable(tiny_study):
    opened = _trainable(tiny_study)
    yield opened
    opened.db.close()


def _weights(folder: Path) -> torch.Tensor:
    stack = load_stack(folder)
    return torch.cat([p.flatten() for module in stack.modules().values() for p in module.parameters()])


# ---- what is read


def test_the_corpus_is_the_training_split_with_its_captions_and_masks(tiny_study, tmp_path):
    corpus = study_corpus(tiny_study, ("heart", "lungs"), tmp_path)
    records = record_conditions(tiny_study, "train")
    assert len(corpus) == 24
    assert np.array_equal(corpus.images, read_images(tiny_study, records))
    assert corpus.captions == [[record["caption"]] for record in records]
    planes = corpus.masks(range(24))
    for index, record in enumerate(records):
        for channel, name in enumerate(corpus.structures):
            assert np.array_equal(planes[index, channel], tiny_study.store.mask(record["masks"][name]))


def test_records_without_caption_and_mask_are_left_out_and_an_empty_study_says_so(tiny_study, study):
    with tiny_study.db.write() as connection:
        connection.execute("UPDATE records SET caption = NULL WHERE split = 'train'")
        connection.execute("DELETE FROM record_masks WHERE record_id LIKE '%train-00000%'")
    assert len(training_records(tiny_study)) == 14
    with tiny_study.db.write() as connection:
        connection.execute("DELETE FROM record_masks")
    with refuses(InvalidInput, "train", "data caption"):
        training_records(tiny_study)
    with refuses(NotFound, "train", "data import"):
        training_records(study)


def test_validation_data_of_the_networks_have_the_columns_of_the_training_data(tiny_study):
    train = study_measure_data(tiny_study)
    with tiny_study.db.write() as connection:
        connection.execute("DELETE FROM labels WHERE label = 'edema' AND record_id LIKE '%-val-%'")
    validation = study_measure_data(tiny_study, "val", train)
    assert (validation.attributes, validation.structures) == (train.attributes, train.structures)
    assert train.structures == STRUCTURES
    assert np.isnan(validation.labels[:, validation.attributes.index("edema")]).all()
    assert not set(train.patients) & set(validation.patients)
    assert not train.has_mask[:, STRUCTURES.index("pneumothorax")].all()  # no mask is unknown, not empty


# ---- the generator


def test_a_generator_is_trained_registered_sampled_from_and_not_trained_again(trainable, monkeypatch):
    with refuses(NotFound, "trained", "generate train"):
        run_sets(trainable, n=1)
    result = run_train(trainable)
    folder = trainable.root / "models" / result["run_id"]
    assert result["n_images"] == 24
    assert result["n_latents"] == 24 * trainable.config.train.variants
    assert result["masks"] is True
    assert find_model(trainable, "trained")["model_id"] == result["run_id"]
    assert "Research use, not for diagnosis" in (folder / "README.md").read_text()
    before, after = _weights(trainable.root / "start"), _weights(folder)
    assert before.shape == after.shape
    assert not torch.equal(before, after)
    sets = run_sets(trainable, n=2, mix=(50, 50, 0))
    assert sets["n_sets"] == 2
    monkeypatch.setattr(study_training, "_train_stages", lambda *args: pytest.fail("trained again"))
    assert run_train(trainable)["already_done"] is True
    grow(trainable)
    assert run_train(trainable)["run_id"] == result["run_id"]
    assert trainable.db.value("SELECT count(*) FROM models") == 1


def test_only_training_images_are_trained_on(trainable, monkeypatch):
    splits = {r["image_sha"]: r["split"] for r in trainable.db.rows("SELECT image_sha, split FROM records")}
    read: list[str] = []
    real = trainable.store.image
    monkeypatch.setattr(trainable.store, "image", lambda sha: (read.append(splits[sha]), real(sha))[1])
    corpora: list[object] = []
    monkeypatch.setattr(
        study_training, "_train_stages", lambda study, stack, corpus, *rest: corpora.append(corpus) or {}
    )
    run_train(trainable)
    assert Counter(read) == {"train": 24}
    assert len(corpora) == 1


@pytest.mark.parametrize("stage", [0, 1])
def test_an_interrupted_training_resumes_to_the_same_weights(trainable, tmp_path, monkeypatch, stage):
    import shutil

    shutil.copytree(trainable.root, tmp_path / "whole")
    whole = Study(tmp_path / "whole")
    expected = run_train(whole)
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.training.study_training.train", stage, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_train(trainable)
    assert trainable.db.value("SELECT count(*) FROM models") == 0
    result = run_train(trainable)
    assert trainable.db.value("SELECT count(*) FROM runs WHERE kind = 'train'") == 1
    assert torch.equal(_weights(Path(result["model"])), _weights(Path(expected["model"])))
    whole.db.close()


def test_a_generator_of_another_size_is_refused(tiny_study):
    opened = _trainable(tiny_study, size=32)
    with refuses(InvalidInput, "data.image_size", 64, 32):
        run_train(opened)
    opened.db.close()


def test_training_without_validation_records_or_masks_works(tmp_path):
    toml = (
        '[data]\nimage_size = 64\nn_train = 4\nn_val = 0\nn_test = 0\nstructures = ["lungs"]\n'
        + TRAIN_TOML
        + 'control = "none"\n'
    )
    opened = Study.create(tmp_path / "study", toml)
    import_records(opened)
    save_stack(tiny_stack(0, size=64, structures=("heart",)), opened.root / "start")
    result = run_train(opened)
    assert result["masks"] is False
    assert np.isfinite(result["autoencoder_after"]["psnr_db"])
    opened.db.close()


# ---- the measuring networks


def test_networks_see_training_patients_only_and_raters_and_judge_share_none(tiny_study, monkeypatch):
    seen: dict[str, set[str]] = {}
    real = radpref.generation.measuring.network_training.train_measure

    def spy(name, role, train, validation, **kwargs):
        seen[name] = {*train.patients, *validation.patients}
        assert kwargs["test"].draw == "records of split val"
        return real(name, role, train, validation, **kwargs)

    monkeypatch.setattr(radpref.generation.measuring.shipped_networks, "PLANS", SMALL_PLANS)
    monkeypatch.setattr(radpref.generation.measuring.network_training, "train_measure", spy)
    result = run_networks(tiny_study, n_steps=2)
    training = {record["patient_id"] for record in record_conditions(tiny_study, "train")}
    assert set(result) == set(seen) == {"judge", "rater-1", "rater-2"}  # the proxy is another kind of model
    assert seen["rater-1"] | seen["judge"] == training
    assert seen["rater-1"] == seen["rater-2"]
    assert not seen["rater-1"] & seen["judge"]
    assert result["judge"]["n"] == 12  # figures on the validation split
    assert set(result["judge"]["dice"]) == set(STRUCTURES)
    for name, role in (("judge", "judge"), ("rater-1", "rater")):
        assert load_measure(tiny_study.root / "networks" / f"{name}.json").role == role
    run = finished_run(tiny_study, "networks")
    assert run is not None
    assert run.result == result
    monkeypatch.setattr(
        radpref.generation.measuring.network_training, "train_measure", lambda *a, **k: pytest.fail("trained again")
    )
    assert run_networks(tiny_study, n_steps=2) == result


def test_an_interrupted_training_of_networks_goes_on_with_the_next(tiny_study, monkeypatch):
    monkeypatch.setattr(radpref.generation.measuring.shipped_networks, "PLANS", SMALL_PLANS)
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.measuring.network_training.train_measure", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_networks(tiny_study, n_steps=2)
    first = load_measure(tiny_study.root / "networks" / "judge.json").sha256
    calls = stop_after(monkeypatch, "radpref.generation.measuring.network_training.train_measure", 99, AssertionError())
    run_networks(tiny_study, n_steps=2)
    assert len(calls) == 2
    assert load_measure(tiny_study.root / "networks" / "judge.json").sha256 == first
    assert tiny_study.db.value("SELECT count(*) FROM runs WHERE kind = 'networks'") == 1


# ---- the example for real radiographs


def _real_like_table(folder: Path) -> Path:
    """A table with the columns of the real one and random images: children have lung masks, adults none."""
    header = ["file", "lung_mask", "patient_id", "label", "population", "view", "text", "split"]
    rows = []
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(16):
        population, label = ("pediatric", "adult")[i % 2], ("normal", "pneumonia")[i // 2 % 2]
        split = ("train", "train", "val", "test")[i // 4]
        Image.fromarray(rng.integers(0, 256, (128, 128)).astype(np.uint8)).save(folder / f"images/{i}.png")
        mask = f"images/{i}-mask.png" if population == "pediatric" else ""
        if mask:
            Image.fromarray(np.pad(np.full((60, 60), 255, np.uint8), 34)).save(folder / mask)
        words = f"{population.title()} AP chest radiograph. No acute finding."
        rows.append([f"images/{i}.png", mask, f"p{i}", label, population, ("AP", "PA")[i // 8], words, split])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "metadata.csv"


def test_the_example_for_real_radiographs_reads_labels_captions_masks_and_adults(tmp_path):
    opened = Study.create(tmp_path / "study", EXAMPLE.read_text(encoding="utf-8"))
    found = import_records(opened, "table", _real_like_table(tmp_path / "table"))
    assert (found.n_imported, found.n_quarantined) == (16, 0)
    records = [r for split in ("train", "val", "test") for r in record_conditions(opened, split)]
    for record in records:
        words = record["caption"].split()
        assert len(words) <= 5
        assert "," not in record["caption"]
        positives = {name for name, value in record["labels"].items() if value == 1}
        assert asked_attributes(record["caption"], record["labels"]) == dict.fromkeys(positives, 1)
        assert len(positives) == 2
        assert (set(record["masks"]) == {"lungs"}) == ("pediatric" in positives)
    assert {r["caption"] for r in records} == {
        f"{label} {population} {view} chest radiograph"
        for label in ("normal", "pneumonia")
        for population in ("adult", "pediatric")
        for view in ("AP", "PA")
    }
    (task,) = opened.config.downstream.tasks
    assert len(record_conditions(opened, "train", task.where)) == 4
    assert opened.config.align.raters == "simulated"  # people score a part of the sets only
    opened.db.close()
