"""The stack: saving and loading, parts that are missing, latents, LoRA, tokenizer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.stack.adapters import attach_lora
from radpref.generation.stack.autoencoder import adapt_signal, fold_of, restore_signal, to_signal
from radpref.generation.stack.conditions import Condition, encode_conditions, predict_noise
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack, save_stack, tiny_stack
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.places import SHIPPED
from radpref.generation.stack.tokenizer import MAX_TOKENS, build_tokenizer, tokenize
from tests.support.errors import refuses


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack") / "tiny"
    save_stack(tiny_stack(0), folder)
    return folder


def _prediction(stack: GeneratorStack) -> torch.Tensor:
    mask = np.zeros((2, 32, 32), dtype=bool)
    mask[:, 4:20, 4:20] = True
    batch = encode_conditions(stack, [Condition("severe left pleural effusion", mask)])
    noisy = torch.randn(1, *stack.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return predict_noise(stack.unet, stack.controlnet, noisy, torch.tensor([300]), batch)


def test_a_saved_stack_comes_back_equal(saved: Path) -> None:
    loaded, fresh = load_stack(saved), tiny_stack(0)
    assert loaded.structures == ("lungs", "heart")
    assert (loaded.image_size, loaded.unconditional, loaded.model_id) == (32, "zero", "tiny")
    torch.testing.assert_close(_prediction(loaded), _prediction(fresh))
    assert not any(p.requires_grad for module in loaded.modules().values() for p in module.parameters())


def test_half_precision_on_disk_is_float32_in_memory_and_leaves_the_stack_alone(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    save_stack(stack, tmp_path / "half", half=True)
    assert stack.unet.dtype == torch.float32
    loaded = load_stack(tmp_path / "half")
    assert loaded.unet.dtype == torch.float32
    files = [sum(f.stat().st_size for f in (tmp_path / "half" / "unet").glob("*.safetensors"))]
    assert files[0] < 2.3 * sum(p.numel() for p in stack.unet.parameters())
    torch.testing.assert_close(_prediction(loaded), _prediction(stack), atol=2e-2, rtol=2e-2)


def test_a_stack_without_controlnet_is_whole(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    stack.controlnet = None
    save_stack(stack, tmp_path / "text_only")
    assert load_stack(tmp_path / "text_only").controlnet is None


@pytest.mark.parametrize("part", ["vae", "unet", "controlnet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(saved: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / part)
    with refuses(InvalidInput, repr(part)):
        load_stack(folder)


def test_unreadable_weights_are_named_on_one_line(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    next((folder / "unet").glob("*.safetensors")).write_bytes(b"not weights")
    with refuses(InvalidInput, repr("unet")):
        load_stack(folder)


def test_a_stack_that_predicts_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with refuses(InvalidInput, "prediction_type", "sample"):
        load_stack(folder)


def test_bad_manifests_are_explained(saved: Path, tmp_path: Path) -> None:
    with refuses(NotFound, "nowhere"):
        load_stack(tmp_path / "nowhere")
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    manifest = json.loads((folder / "radpref.json").read_text())
    (folder / "radpref.json").write_text(json.dumps(manifest | {"unconditional": "none"}))
    with refuses(InvalidInput, "none", "zero", "empty_prompt"):
        load_stack(folder)
    (folder / "radpref.json").write_text(json.dumps({"structures": []}))
    with refuses(InvalidInput, "image_size", "radpref.json"):
        load_stack(folder)
    (folder / "radpref.json").write_text("{")
    with refuses(InvalidInput, "radpref.json"):
        load_stack(folder)
    (folder / "radpref.json").unlink()
    brought = load_stack(folder, options=ModelOptions(structures=("lungs", "heart")))
    assert brought.unconditional == "empty_prompt"  # without a manifest it is a brought model
    (folder / "empty").mkdir()
    with refuses(InvalidInput, "radpref.json", "unet/"):
        load_stack(folder / "empty")


def test_seeds_make_stacks() -> None:
    torch.testing.assert_close(_prediction(tiny_stack(0)), _prediction(tiny_stack(0)))
    assert (_prediction(tiny_stack(0)) - _prediction(tiny_stack(1))).abs().max() > 1e-4


def test_making_a_stack_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    tiny_stack(5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_latents_have_the_announced_shape() -> None:
    stack = tiny_stack(0)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    latents = stack.encode_images(to_signal(images))
    assert latents.shape == (3, *stack.latent_shape)
    decoded = stack.decode_latents(latents)
    assert decoded.shape == (3, 1, 32, 32)
    assert decoded.abs().max() <= 1


def test_brought_autoencoders_of_one_and_three_channels_fit_the_same_interface() -> None:
    from diffusers import AutoencoderKL

    signal = torch.rand(2, 1, 16, 16)
    for channels, fold in ((1, 1), (3, 1), (4, 2)):
        vae = AutoencoderKL(
            in_channels=channels, out_channels=channels, block_out_channels=(8,), norm_num_groups=8, latent_channels=4
        )
        assert fold_of(vae) == fold
        adapted = adapt_signal(vae, signal)
        assert adapted.shape == (2, channels, 16 // fold, 16 // fold)
        torch.testing.assert_close(restore_signal(vae, adapted), signal)


def test_a_fresh_controlnet_feels_its_hint_but_changes_nothing_yet() -> None:
    stack = tiny_stack(0)
    assert stack.controlnet is not None
    hint = torch.zeros(2, 2, 32, 32)
    hint[1, 0, 8:24, 8:24] = 1
    with torch.no_grad():
        black, lit = stack.controlnet.controlnet_cond_embedding(hint)
        noisy = torch.randn(2, *stack.latent_shape, generator=torch.Generator().manual_seed(0))
        states = torch.zeros(2, 32, 32)
        down, mid = stack.controlnet(noisy, torch.tensor([5, 5]), states, controlnet_cond=hint, return_dict=False)
    assert (black - lit).std() > 0.05
    assert max(float(r.abs().max()) for r in [*down, mid]) == 0


def test_a_fresh_lora_changes_nothing_and_covers_all_kinds_of_layers() -> None:
    stack = tiny_stack(0)
    before = _prediction(stack)
    parameters = attach_lora(stack.unet, 2, seed=0)
    torch.testing.assert_close(_prediction(stack), before)
    names = [name for name, _ in stack.unet.named_parameters() if "lora_" in name]
    for kind in ("to_q", "to_out", "conv1", "time_emb_proj", "proj_in", "net.2"):
        assert any(kind in name for name in names), kind
    assert len(parameters) == len(names)


def test_tokenizer_is_deterministic_padded_and_survives_the_disk(tmp_path: Path) -> None:
    texts = ["Severe left pleural effusion", "Normal", "5-year-old child with bacterial pneumonia"]
    first, second = build_tokenizer(texts), build_tokenizer(texts)
    assert first.get_vocab() == second.get_vocab()
    ids = tokenize(first, [*texts, "zebra é " * 40])
    assert ids.shape == (4, MAX_TOKENS)
    assert ids.max() < len(first)
    first.save_pretrained(tmp_path)
    again = type(first).from_pretrained(tmp_path)
    assert torch.equal(tokenize(again, texts), ids[:3])
    assert len(set(ids[0].tolist())) == 6  # start, four whole words, end


@pytest.mark.parametrize(
    ("name", "structures"),
    [("embedded", ("lungs", "heart", "lesion", "pneumothorax")), ("cxr128", ("lungs",))],
)
def test_a_shipped_stack_loads_and_is_small(name: str, structures: tuple[str, ...]) -> None:
    stack = load_stack(name)
    assert stack.model_id == name
    assert stack.image_size == 128
    assert stack.structures == structures
    assert stack.latent_shape == (8, 16, 16)
    assert sum(f.stat().st_size for f in SHIPPED[name].rglob("*.safetensors")) <= 30e6


def test_moving_a_stack_warns_of_nothing(tmp_path: Path) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # diffusers' logger does not propagate
    logging.getLogger("diffusers").addHandler(handler)
    try:
        save_stack(tiny_stack(0), tmp_path / "quiet", half=True)
        stack = load_stack(tmp_path / "quiet")
        stack.to("cpu")
        assert said == []
        stack.unet.to(device="cpu", dtype=torch.float32)  # what would be said
        assert len(said) == 1
    finally:
        logging.getLogger("diffusers").removeHandler(handler)


def test_saving_and_loading_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_stack(tiny_stack(0), tmp_path / "quiet", half=True)
    load_stack(tmp_path / "quiet")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
