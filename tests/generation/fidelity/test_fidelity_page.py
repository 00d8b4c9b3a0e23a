"""The fidelity page of a study: sampled arms, folders of images, copiers, what it writes and what it leaves out."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.imaging.images import is_marked_synthetic, to_uint8
from radpref.data.study.conditions import StoredCondition, record_conditions
from radpref.data.study.study import Study
from radpref.generation.fidelity import networks
from radpref.generation.fidelity.condition_figures import condition_figures
from radpref.generation.fidelity.image_source import ImageSource, own_conditions, record_source
from radpref.generation.fidelity.report import run_fidelity
from radpref.generation.fidelity.request import FidelityRequest
from radpref.generation.measuring.image_scores import sides_right
from radpref.generation.measuring.measuring_network import MeasureNet, save_measure
from tests.support.errors import refuses
from tests.support.grown import grow
from tests.support.measuring import tiny_measure
from tests.support.sampling import add_aligned_arm, open_copy, stop_after


@pytest.fixture
def sampled(tmp_path: Path, _tiny_template: Path) -> Iterator[Study]:
    opened = open_copy(_tiny_template, tmp_path / "sampled")
    save_measure(small_net(), opened.root / "networks")
    yield opened
    opened.db.close()


def small_net() -> MeasureNet:
    return tiny_measure("fidelity", "fidelity", structures=("lungs", "heart", "pneumothorax"))


@pytest.fixture
def measured(tiny_study: Study) -> Study:
    save_measure(small_net(), tiny_study.root / "networks")
    return tiny_study


def write_folder(folder: Path, images: list[np.ndarray], per_prompt: int = 0) -> Path:
    for i, image in enumerate(images):
        place = folder / f"prompt-{i // per_prompt}" if per_prompt else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:03d}.png")
    return folder


def real_images(study: Study, split: str) -> list[np.ndarray]:
    return [to_uint8(study.store.image(r["image_sha"])) for r in record_conditions(study, split)]


def test_samples_of_each_arm_are_measured_and_shown(sampled: Study) -> None:
    add_aligned_arm(sampled)
    report = run_fidelity(sampled, FidelityRequest(n=8))
    assert list(report.images) == ["baseline", "aligned"]
    found = report.images["baseline"]
    assert (found.n, found.n_prompts, report.real.n_real, report.real.n_train) == (8, 2, 12, 24)
    assert found.frechet.low <= found.frechet.value <= found.frechet.high
    assert found.frechet != report.images["aligned"].frechet
    assert found.memorisation.verdict in {"clean enough", "too few images to say", "suspicious"}
    page = report.page
    stored = json.loads((page.parent / "fidelity.json").read_text())
    assert {**stored, "page": str(page)} == report.as_json()
    assert str(sampled.root) not in json.dumps(stored)
    html = page.read_text()
    for word in ("fidelity network &#39;fidelity&#39;", "aligned", "12 real images of the val split", "Research use"):
        assert word in html
    assert "http" not in html.replace("http://www.w3.org", "")
    assert set(report.summary()) == {"page", "network", "images"}
    runs = sampled.db.value("SELECT count(*) FROM runs")
    grow(sampled)
    assert run_fidelity(sampled, FidelityRequest(n=8)) == replace(report, already_done=True)
    assert sampled.db.value("SELECT count(*) FROM runs") == runs  # samples and features neither


def test_a_generator_of_another_size_is_measured_at_the_size_of_the_study(sampled: Study, tmp_path: Path) -> None:
    """32 px drawn, 64 px real: the figures are those of a folder with the same images, fitted as imports are."""
    report = run_fidelity(sampled, FidelityRequest(n=8))
    found = report.images["baseline"]
    assert (found.drawn, found.measured) == (32, 64)
    assert "baseline draws 32 × 32 pixels, the real images are 64 × 64" in report.page.read_text()
    assert report.summary()["images"]["baseline"]["pixels"] == "drawn at 32, measured at 64"
    kept = [np.load(path) for path in sorted((sampled.root / "runs").glob("*fidelity-samples*/*.npy"))]
    assert {part.shape[1:] for part in kept} == {(32, 32)}  # as they were drawn
    folder = write_folder(tmp_path / "folder", list(np.concatenate(kept)), per_prompt=4)
    (same,) = run_fidelity(sampled, FidelityRequest(images=folder)).images.values()
    for figure in ("frechet", "kid"):
        assert getattr(same, figure).value == getattr(found, figure).value
    assert same.memorisation.distance == found.memorisation.distance


def test_real_patients_stand_on_a_page_of_their_own(sampled: Study) -> None:
    page = run_fidelity(sampled, FidelityRequest(n=8)).page
    pictures = page.parent / "pictures.html"
    assert "REAL PATIENTS" in pictures.read_text()
    assert page.read_text().count("data:image/png") == 2  # two prompts, samples only
    bare = run_fidelity(sampled, FidelityRequest(n=8, pictures=False)).page
    assert not (bare.parent / "pictures.html").exists()
    assert "data:image/png" not in bare.read_text()


def test_pictures_carry_the_synthetic_mark(sampled: Study, tmp_path: Path) -> None:
    import base64
    import re

    html = run_fidelity(sampled, FidelityRequest(n=8)).page.read_text()
    for k, payload in enumerate(re.findall(r"data:image/png;base64,([^\"]+)", html)):
        (tmp_path / f"{k}.png").write_bytes(base64.b64decode(payload))
        assert is_marked_synthetic(tmp_path / f"{k}.png")


def test_an_interrupted_sampling_goes_on_and_samples_nothing_twice(
    sampled: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.sampling.sets.sample_stored", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_fidelity(sampled, FidelityRequest(n=24))
    calls = stop_after(monkeypatch, "radpref.generation.sampling.sets.sample_stored", 100, AssertionError())
    report = run_fidelity(sampled, FidelityRequest(n=24))
    assert len(calls) == 2  # three chunks of two prompts, one was there
    run_fidelity(sampled, FidelityRequest(n=24, against="train"))  # another page of the same samples
    assert len(calls) == 2
    assert report.images["baseline"].n == 24


def test_a_folder_of_copies_is_suspicious_and_held_out_patients_are_not(measured: Study, tmp_path: Path) -> None:
    """A "generator" that returns training images with noise, and one that returns patients of the test split."""
    rng = np.random.default_rng(0)
    training = real_images(measured, "train")
    copies = [np.clip(i + rng.normal(0, 4, i.shape), 0, 255).astype(np.uint8) for i in training]
    copier = run_fidelity(measured, FidelityRequest(images=write_folder(tmp_path / "copier", copies)))
    honest = run_fidelity(
        measured, FidelityRequest(images=write_folder(tmp_path / "honest", real_images(measured, "test")))
    )
    memo = copier.images["images of copier"].memorisation
    assert (memo.verdict, memo.n_twins) == ("suspicious", 24)
    assert memo.spaces["pixels"].below_1.value == 1
    other = honest.images["images of honest"].memorisation
    assert other.verdict != "suspicious"
    assert other.n_twins == 0
    page = copier.page
    assert "Suspicious" in page.read_text()
    assert "data:image/png" not in page.read_text()  # samples that may show patients
    assert "which may show patients" in (page.parent / "pictures.html").read_text()
    assert "data:image/png" in honest.page.read_text()


def test_an_export_takes_no_picture(measured: Study, tmp_path: Path) -> None:
    from radpref.data.exchange.export import ExportOptions, export

    run_fidelity(measured, FidelityRequest(images=write_folder(tmp_path / "honest", real_images(measured, "test"))))
    export(measured, tmp_path / "study", "csv", actor="test")
    export(measured, tmp_path / "scores", "tables", ExportOptions(file_types=("csv",), n_boot=10), actor="test")
    taken = [path for name in ("study", "scores") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert taken
    assert not [path for path in taken if path.suffix in (".html", ".png", ".npy")]


def test_validation_images_that_are_training_images_do_not_hide_a_copier(measured: Study, tmp_path: Path) -> None:
    """Without leaving such twins out of the baseline, copies would look like what held-out patients do."""
    training, n = real_images(measured, "train"), 6
    shas = [r["record_id"] for r in record_conditions(measured, "val")][:n]
    with measured.db.write() as connection:
        for record_id, image in zip(shas, training, strict=False):
            sha = measured.store.put_image(connection, np.clip(image + 1.0, 0, 255).astype(np.uint8), "real")
            connection.execute("UPDATE records SET image_sha = ? WHERE record_id = ?", (sha, record_id))
    report = run_fidelity(measured, FidelityRequest(images=write_folder(tmp_path / "copier", training)))
    assert report.real.held_out.n_twins == n
    assert report.real.held_out.n == 12 - n
    assert report.images["images of copier"].memorisation.verdict == "suspicious"
    assert "6 validation images" in report.page.read_text()


def test_subfolders_are_prompts_and_files_of_any_size_are_measured(measured: Study, tmp_path: Path) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (40, 70), dtype=np.uint8) for i in range(12)]
    report = run_fidelity(measured, FidelityRequest(images=write_folder(tmp_path / "other", images, per_prompt=4)))
    found = report.images["images of other"]
    assert (found.n, found.n_prompts, found.diversity.n) == (12, 3, 3)
    assert found.conditions is None
    assert "not measurable" in report.page.read_text()
    assert run_fidelity(measured, FidelityRequest(images=tmp_path / "other", n=8)).images["images of other"].n == 8


def test_mistakes_are_one_line(measured: Study, tmp_path: Path) -> None:
    for options, named in (
        ({"n": 3}, ("--n", 3, 8)),
        ({"against": "nowhere"}, ("--against", "nowhere", "val", "train", "test")),
        ({"prompts": "test"}, ("--prompts", "test", "val", "train")),
        ({"network": "inception"}, ("--network", "inception", "torchxrayvision")),
        ({"arms": ("baseline",), "images": tmp_path}, ("--arm", "--images")),
    ):
        with refuses(InvalidInput, *named):
            run_fidelity(measured, FidelityRequest(**options))
    with refuses(NotFound, tmp_path / "nowhere"):
        run_fidelity(measured, FidelityRequest(images=tmp_path / "nowhere"))
    with refuses(NotFound, 0, measured.root / "networks"):
        run_fidelity(measured, FidelityRequest(images=measured.root / "networks"))
    with refuses(NotFound, "aligned", "align train"):
        run_fidelity(measured, FidelityRequest(arms=("aligned",), n=8))


def test_a_network_of_another_role_is_refused(tiny_study: Study) -> None:
    save_measure(tiny_measure("fidelity", "rater"), tiny_study.root / "networks")
    with refuses(InvalidInput, "fidelity", "rater"):
        run_fidelity(tiny_study, FidelityRequest(n=8))
    net = small_net()
    save_measure(net, tiny_study.root / "networks")
    with tiny_study.db.write() as connection:
        connection.execute("INSERT INTO networks VALUES (?, 'judge', 'x')", (net.sha256,))
    with refuses(Conflict, "fidelity", "judge"):
        run_fidelity(tiny_study, FidelityRequest(n=8))


def test_prompts_come_in_their_own_frequencies_and_from_the_asked_split(sampled: Study) -> None:
    validation = {r["record_id"] for r in record_conditions(sampled, "val")}
    drawn = own_conditions(sampled, "val", 12, seed=1)
    assert {c.text_record or c.mask_record for c in drawn} <= validation
    modes = [c.mode for c in drawn]
    assert (modes.count("T2I"), modes.count("M2I"), modes.count("TM2I")) == (6, 3, 3)  # mix 50/25/25
    texts = [c.text_record for c in own_conditions(sampled, "val", 40, seed=1) if c.mode == "T2I"]
    counts = [texts.count(name) for name in set(texts)]
    assert max(counts) - min(counts) <= 1  # every record once before any again
    with sampled.db.write() as connection:
        connection.execute("DELETE FROM record_masks")
    assert {c.mode for c in own_conditions(sampled, "val", 8, seed=1)} == {"T2I"}


# ---- conditions


class Seeing:
    """A network that sees exactly what its images hold: structure k where the grey value is 40 * (k + 1)."""

    name, attributes, structures = "seeing", ("effusion", "effusion/left", "effusion/right"), ("lungs", "heart")

    def predict(self, images: np.ndarray) -> np.ndarray:
        left, right = images[:, :, 32:].mean((1, 2)), images[:, :, :32].mean((1, 2))  # the patient's left: image right
        return np.stack([left + right, left, right], axis=1) / 255

    def segment(self, images: np.ndarray) -> np.ndarray:
        return np.stack([images == 40 * (k + 1) for k in range(2)], axis=1).astype(np.float32)


def test_masks_and_sides_on_images_whose_answer_is_known(tiny_study: Study) -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 5:25] = True
    with tiny_study.db.write() as connection:
        shas = [tiny_study.store.put_mask(connection, m) for m in (mask, mask[::-1])]
    asked = [StoredCondition("M2I", None, {"lungs": sha}) for sha in shas]
    asked += [StoredCondition("T2I", "Left effusion", {}, {"effusion": 1, "effusion/left": 1})] * 2
    right, mirrored = mask * np.uint8(40), mask[::-1, ::-1] * np.uint8(40)
    images = [right, mirrored, mirrored, right]
    source = ImageSource("made", "k", 4, lambda i: images[i], tuple("abcd"), tuple(asked))
    found = condition_figures(tiny_study, source, Seeing(), np.random.default_rng(0))
    assert found.masks["lungs"].asked.value == pytest.approx(0.5)  # one exact, one mirrored: 1 and 0
    assert set(found.masks) == {"lungs"}
    assert found.mirror.value == pytest.approx(0.5)
    assert (found.sides.value, found.sides.n) == (0.5, 2)


def test_real_images_are_their_own_ceiling(tiny_study: Study) -> None:
    found = condition_figures(tiny_study, record_source(tiny_study, "val"), small_net(), np.random.default_rng(0))
    assert found.masks["lungs"].asked.n == 12
    assert found.sides is None or found.sides.n <= 12


def test_a_side_is_judged_only_where_one_is_asked() -> None:
    names = ("effusion", "effusion/left", "effusion/right")
    table = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.7]])
    assert sides_right(table, names, {"effusion/left": 1}).tolist() == [1, 0]
    assert np.isnan(sides_right(table, names, {"effusion": 1})).all()
    assert np.isnan(sides_right(table, names, {"effusion/left": 1, "effusion/right": 1})).all()
    assert np.isnan(sides_right(table, names[:2], {"effusion/left": 1})).all()


# ---- torchxrayvision


@pytest.fixture
def xrv_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """A home whose torchxrayvision cache holds the given file."""
    models = pytest.importorskip("torchxrayvision").models
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def fill(content: bytes) -> Path:
        url = models.model_urls[networks.XRV_WEIGHTS]["weights_url"]
        path = tmp_path / "home" / ".torchxrayvision" / "models_data" / url.rsplit("/", 1)[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return fill


def test_torchxrayvision_is_never_fetched(measured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    net = small_net()
    assert networks.load_feature_network(measured, net).name == "fidelity network 'fidelity'"
    (tmp_path / ".torchxrayvision" / "models_data").mkdir(parents=True)
    assert networks.xrv_weights() is None
    with refuses(NotFound, "torchxrayvision"):
        networks.load_feature_network(measured, net, "torchxrayvision")


def test_torchxrayvision_measures_where_its_weights_are(
    measured: Study, xrv_home: Callable[[bytes], Path], tmp_path: Path
) -> None:
    import io

    import torch
    from torchxrayvision import models

    buffer = io.BytesIO()
    with torch.random.fork_rng(devices=[]):
        torch.save(models.DenseNet(num_classes=18), buffer)
    xrv_home(buffer.getvalue())
    network = networks.load_feature_network(measured, small_net())
    assert network.name.startswith("torchxrayvision")
    assert network.published
    images = np.stack(real_images(measured, "val")[:2])
    features = network.features(images)
    assert features.shape == (2, 1024)
    assert np.abs(features[0] - features[1]).max() > 0
    assert measured.db.value("SELECT role FROM networks WHERE name LIKE 'torchxrayvision%'") == "fidelity"


def test_torn_torchxrayvision_weights_are_one_line(measured: Study, xrv_home: Callable[[bytes], Path]) -> None:
    xrv_home(pickle.dumps({}))
    with refuses(InvalidInput, "--network", "fidelity"):
        networks.load_feature_network(measured, small_net())
    shutil.rmtree(Path("~/.torchxrayvision").expanduser())
