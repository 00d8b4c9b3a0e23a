"""Loading a BiomedCLIP-like model without a network: folder layouts, text tower, tokens, and what is incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.measuring.open_clip_models import BIOMEDCLIP, bert_config
from radpref.generation.measuring.proxy_scorer import ProxyScorer
from tests.support.errors import refuses
from tests.support.proxy import BERT, PREPROCESS, biomedclip_folder

WEIGHTS = "open_clip_pytorch_model.bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return biomedclip_folder(tmp_path_factory.mktemp("hub") / "biomedclip")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 40, 56), dtype=np.uint8)


def test_a_downloaded_folder_scores_without_a_network(folder: Path) -> None:
    """The hub's folder holds no configuration of the BERT: it is read off the weights."""
    scorer = ProxyScorer.load(f"local-dir:{folder}")
    texts = ["pleural effusion", "pneumonia", "normal"]
    table = scorer.similarity(images(), texts)
    assert table.shape == (5, 3)
    assert len(np.unique(table.round(5))) == 15
    assert np.abs(table).max() <= 1 + 1e-5
    np.testing.assert_allclose(np.linalg.norm(scorer.image_embeddings(images()), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(scorer.text_embeddings(texts), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scorer.paired_similarity(images(3), texts), np.diag(table), atol=1e-5)
    assert (scorer.image_size, scorer.mean) == (32, tuple(PREPROCESS["mean"]))


def test_similarity_is_the_cosine_without_temperature(folder: Path) -> None:
    scorer = ProxyScorer.load(folder)
    scorer.model.logit_scale.data.fill_(5.0)
    with torch.no_grad():
        image, text = scorer.preprocess(images(1)), scorer.tokenizer(["edema"])
        direct = torch.nn.functional.cosine_similarity(scorer.model.encode_image(image), scorer.model.encode_text(text))
    assert scorer.similarity(images(1), ["edema"])[0, 0] == pytest.approx(float(direct), abs=1e-5)


def test_texts_have_256_tokens_and_are_not_cut_at_77(folder: Path) -> None:
    scorer = ProxyScorer.load(folder)
    assert scorer.tokenizer(["normal"]).shape == (1, 256)
    long = " ".join(["chest"] * 120)
    near, far = scorer.text_embeddings([long + " edema", long + " pneumonia"])
    assert np.abs(near - far).max() > 1e-6


def test_nothing_of_a_wide_image_is_cropped(folder: Path) -> None:
    scorer = ProxyScorer.load(folder)
    wide = np.zeros((1, 32, 96), np.uint8)
    wide[0, :, :3] = wide[0, :, -3:] = 255
    row = scorer.preprocess(wide)[0, 0, 16]
    assert row[0] == row[-1] == row.max()


def test_the_configuration_read_off_the_weights_is_the_true_one(folder: Path, tmp_path: Path) -> None:
    assert bert_config(folder / WEIGHTS) == BERT
    safe = biomedclip_folder(tmp_path / "safe", "open_clip_model.safetensors")
    assert bert_config(safe / "open_clip_model.safetensors") == BERT
    one, other = (ProxyScorer.load(place).similarity(images(), ["edema"]) for place in (folder, safe))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_config_json_of_the_tower_is_used_where_it_is(copy: Path, folder: Path) -> None:
    (copy / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    expected = ProxyScorer.load(folder).similarity(images(), ["edema"])
    np.testing.assert_allclose(ProxyScorer.load(copy).similarity(images(), ["edema"]), expected, atol=1e-6)


def test_the_identity_is_that_of_the_weights(copy: Path, folder: Path) -> None:
    from radpref.data.core.files import sha256_file

    assert ProxyScorer.load(folder).sha256 == ProxyScorer.load(copy).sha256 == sha256_file(folder / WEIGHTS)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("open_clip_config.json", ("open_clip_config.json",)),
        (WEIGHTS, (WEIGHTS,)),
        (("tokenizer.json", "tokenizer_config.json", "vocab.txt"), ()),
    ],
)
def test_an_incomplete_folder_is_one_line(copy: Path, gone: str | tuple[str, ...], named: tuple[str, ...]) -> None:
    for name in [gone] if isinstance(gone, str) else gone:
        (copy / name).unlink(missing_ok=True)
    with refuses((NotFound, InvalidInput), copy, *named):
        ProxyScorer.load(copy)


def test_weights_of_another_shape_or_torn_are_one_line(copy: Path) -> None:
    card = json.loads((copy / "open_clip_config.json").read_text())
    card["model_cfg"]["embed_dim"] = 48
    (copy / "open_clip_config.json").write_text(json.dumps(card))
    with refuses(InvalidInput, copy):
        ProxyScorer.load(copy)
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:1000])
    with refuses(InvalidInput, copy / WEIGHTS):
        ProxyScorer.load(copy)


def test_a_tower_that_is_no_bert_asks_for_its_configuration(copy: Path) -> None:
    state = torch.load(copy / WEIGHTS, weights_only=True)
    torch.save({k: v for k, v in state.items() if "word_embeddings" not in k}, copy / WEIGHTS)
    with refuses(InvalidInput, copy, "config.json"):
        ProxyScorer.load(copy)


def test_the_hub_out_of_reach_is_one_line() -> None:
    with refuses(InvalidInput, BIOMEDCLIP):
        ProxyScorer.load(BIOMEDCLIP)
