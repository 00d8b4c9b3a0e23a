"""The proxy: training on captions, open_clip's folder layout, similarity, preprocessing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.measuring.measuring_data import MeasureData
from radpref.generation.measuring.network_training import MeasureSettings
from radpref.generation.measuring.proxy_scorer import ProxyScorer
from radpref.generation.measuring.proxy_training import CaptionedData, contrastive_loss, retrieval_figures, train_proxy
from tests.support.errors import refuses

TEXTS = {0: ("Severe left pleural effusion", "Large left effusion"), 1: ("Normal", "Normal chest")}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 32},
    "text_cfg": {"context_length": 32, "hf_tokenizer_name": "proxy", "width": 32, "heads": 2, "layers": 1},
}


def pairs(n: int, first: int) -> CaptionedData:
    rng = np.random.default_rng(first)
    images = rng.integers(0, 60, (n, 32, 32), dtype=np.uint8)
    kinds = [i % 2 for i in range(n)]
    for i, kind in enumerate(kinds):
        images[i, 16:, 16:] = 200 if kind == 0 else 20
    empty = np.zeros((n, 0), np.float32)
    patients = tuple(f"p{first + i}" for i in range(n))
    data = MeasureData(images, empty, (), np.zeros((n, 0, 32, 32), bool), empty.astype(bool), (), patients)
    return CaptionedData(data, tuple(TEXTS[k] for k in kinds), tuple(TEXTS[k][0] for k in kinds))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proxy") / "proxy"
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 2000}}
    settings = MeasureSettings(n_steps=40, batch_size=16, learning_rate=2e-3)
    train_proxy(pairs(32, 0), pairs(16, 500), out, seed=1, settings=settings, config=config)
    return out


def test_trained_proxy_prefers_the_right_text(folder: Path) -> None:
    held_out, scorer = pairs(12, 900), ProxyScorer.load(folder)
    table = scorer.similarity(held_out.data.images, ["Severe left pleural effusion", "Normal"])
    assert table.shape == (12, 2)
    assert table.dtype == np.float32
    assert np.abs(table).max() <= 1 + 1e-5
    assert (table.argmax(1) == np.arange(12) % 2).mean() > 0.9
    own = scorer.paired_similarity(held_out.data.images, [captions[0] for captions in held_out.captions])
    np.testing.assert_allclose(own, table[np.arange(12), np.arange(12) % 2], atol=1e-5)
    assert retrieval_figures(scorer, held_out)["top1"] > 0.9


def test_embeddings_have_unit_length_and_do_not_depend_on_order(folder: Path) -> None:
    scorer, images = ProxyScorer.load(folder), pairs(6, 3).data.images
    rows = scorer.image_embeddings(images)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    texts = ["Normal", "Severe left pleural effusion", "Normal"]
    encoded = scorer.text_embeddings(texts)
    np.testing.assert_array_equal(encoded[0], encoded[2])
    scorer.batch_size = 2
    np.testing.assert_allclose(scorer.image_embeddings(images), rows, atol=1e-5)


def test_resize_pads_and_keeps_the_borders(folder: Path) -> None:
    scorer = ProxyScorer.load(folder)
    wide = np.zeros((1, 32, 64), np.uint8)
    wide[0, :, :4] = wide[0, :, -4:] = 255  # both edges must survive, rows above and below are padding
    x = scorer.preprocess(wide)
    assert x.shape == (1, 3, 32, 32)
    row = x[0, 0, 16]
    assert row[0] == row.max()
    assert row[-1] == row.max()
    assert torch.equal(x[0, 0, 0], x[0, 0, -1])
    assert x[0, 0, 0].max() == x.min()


def test_empty_input_and_wrong_input(folder: Path) -> None:
    scorer, images = ProxyScorer.load(folder), pairs(2, 0).data.images
    assert scorer.similarity(images[:0], ["Normal"]).shape == (0, 1)
    assert scorer.paired_similarity(images[:0], []).shape == (0,)
    with refuses(InvalidInput, 2, 1):
        scorer.paired_similarity(images, ["Normal"])
    with refuses(InvalidInput, "uint8", "float64"):
        scorer.similarity(images.astype(float), ["Normal"])


def test_record_beside_the_weights(folder: Path) -> None:
    info = json.loads((folder / "proxy.json").read_text())
    assert info["role"] == "proxy"
    assert info["sha256"] == ProxyScorer.load(folder).sha256
    assert json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]["resize_mode"] == "longest"


def test_unknown_sources_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with refuses(NotFound, "open_clip_config.json"):
        ProxyScorer.load(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    for source in (tmp_path, "no-such-model"):
        with pytest.raises((InvalidInput, NotFound)) as error:
            ProxyScorer.load(source)
        assert "\n" not in str(error.value)


def test_loss_with_duplicates_is_least_when_duplicates_agree() -> None:
    eye, keys, scale = torch.eye(3), torch.tensor([0, 0, 1]), torch.tensor(20.0)
    shared = eye.clone()
    shared[1] = shared[0]
    assert contrastive_loss(shared, shared, scale, keys) < contrastive_loss(eye, eye, scale, keys)
    plain = torch.nn.functional.cross_entropy(scale * eye, torch.arange(3))
    torch.testing.assert_close(contrastive_loss(eye, eye, scale, torch.arange(3)), plain)


def test_captions_are_checked() -> None:
    good = pairs(2, 0)
    with refuses(InvalidInput, 0):
        CaptionedData(good.data, ((), ("Normal",)), good.keys)
    with refuses(InvalidInput, 2, 1):
        CaptionedData(good.data, good.captions, good.keys[:1])
