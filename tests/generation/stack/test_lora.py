"""LoRAs of a brought generator: four file formats, fused equals loaded, adapters of ours on top, clear refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.stack import adapters
from radpref.generation.stack.conditions import Condition, encode_conditions, encode_text, predict_noise
from radpref.generation.stack.identity import identity
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.lora import fuse_loras, load_lora
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from radpref.generation.stack.options import ModelOptions
from tests.support.brought import make_parts, save_brought

TWO = ModelOptions(structures=("lungs", "heart"))
TEXT = "Severe left pleural effusion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brought(tmp_path_factory.mktemp("lora") / "sd1")


@pytest.fixture
def stack(folder: Path) -> GeneratorStack:
    return load_stack(folder, options=TWO)


def _predict(stack: GeneratorStack) -> Tensor:
    batch = encode_conditions(stack, [Condition(TEXT)])
    noisy = torch.randn(1, *stack.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return predict_noise(stack.unet, None, noisy, torch.tensor([300]), batch)


def _random_lora(module: Any, targets: list[str], alpha: int, seed: int) -> dict[str, Tensor]:
    """A rank-2 LoRA of some layers, in peft's names."""
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    adapted = copy.deepcopy(module)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=alpha, target_modules=targets), adapted)
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(adapted, adapter_name="default")
    return {key: torch.randn(value.shape, generator=generator) * 0.3 for key, value in state.items()}


def _parts(alpha: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    networks = make_parts()
    unet = _random_lora(networks["unet"], ["to_q", "to_v", "to_out.0"], alpha, 1)
    return unet, _random_lora(networks["text_encoder"], ["q_proj", "out_proj"], alpha, 2)


def _expected(folder: Path, unet: dict[str, Tensor], text: dict[str, Tensor], scale: float) -> GeneratorStack:
    """W + scale * B A by hand."""
    stack = load_stack(folder, options=TWO)
    for module, table in ((stack.unet, unet), (stack.text_encoder, text)):
        weights = module.state_dict()
        for key in table:
            if key.endswith(".lora_A.weight"):
                name = key.removesuffix(".lora_A.weight")
                weights[f"{name}.weight"] += scale * table[f"{name}.lora_B.weight"] @ table[key]
        module.load_state_dict(weights)
    return stack


def _kohya(table: dict[str, Tensor], start: str, alpha: float) -> dict[str, Tensor]:
    found = {}
    for key, value in table.items():
        name, kind = key.split(".lora_")
        own = f"{start}_{name.replace('.', '_')}"
        found[f"{own}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = value
        found[f"{own}.alpha"] = torch.tensor(alpha)
    return found


def _write(form: str, where: Path, unet: dict[str, Tensor], text: dict[str, Tensor]) -> Path:
    """Write the LoRA in one of the formats; alpha is twice the rank in those that say it."""
    where.mkdir()
    if form == "diffusers":
        named = {f"unet.{k}": v for k, v in unet.items()} | {f"text_encoder.{k}": v for k, v in text.items()}
        save_file(named, where / "pytorch_lora_weights.safetensors", {"format": "pt"})
        return where
    if form == "kohya":
        wrapped = {f"text_model.{key}": value for key, value in text.items()}
        save_file(_kohya(unet, "lora_unet", 4.0) | _kohya(wrapped, "lora_te", 4.0), where / "style.safetensors")
        return where / "style.safetensors"
    if form == "peft":
        save_file({f"base_model.model.{k}": v for k, v in unet.items()}, where / "adapter_model.safetensors")
        (where / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "peft_type": "LORA"}))
        return where
    save_file(unet, where / "pytorch_lora_weights.safetensors", {"format": "pt"})
    return where


@pytest.mark.parametrize(
    ("form", "scale", "with_text"),
    [("diffusers", 1.0, True), ("kohya", 2.0, True), ("peft", 2.0, False), ("bare", 1.0, False)],
)
def test_every_format_adds_what_it_means(
    folder: Path, tmp_path: Path, form: str, scale: float, with_text: bool
) -> None:
    unet, text = _parts()
    path = _write(form, tmp_path / form, unet, text)
    before = _predict(load_stack(folder, options=TWO))
    stack = load_stack(folder, options=ModelOptions(structures=TWO.structures, lora=(path,)))
    expected = _expected(folder, unet, text if with_text else {}, scale)
    torch.testing.assert_close(encode_text(stack, [TEXT]), encode_text(expected, [TEXT]))
    torch.testing.assert_close(_predict(stack), _predict(expected))
    assert (_predict(stack) - before).abs().max() > 1e-3
    assert not any("lora" in name for module in stack.modules().values() for name, _ in module.named_parameters())


def test_fused_equals_loaded_and_equals_diffusers_own_pipeline(
    stack: GeneratorStack, folder: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    path = _write("diffusers", tmp_path / "lora", *_parts())
    layered = load_stack(folder, options=TWO)
    load_lora(layered, path)
    assert "brought" in layered.unet.peft_config
    fuse_loras(stack, [path])
    torch.testing.assert_close(_predict(stack), _predict(layered))
    bare = load_stack(folder, options=TWO)
    pipeline = StableDiffusionPipeline(
        bare.vae,
        bare.text_encoder,
        bare.tokenizer,
        bare.unet,
        bare.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(str(path), weight_name="pytorch_lora_weights.safetensors", local_files_only=True)
    torch.testing.assert_close(_predict(bare), _predict(stack))


def test_several_loras_add_up_in_any_order(stack: GeneratorStack, folder: Path, tmp_path: Path) -> None:
    unet, text = _parts()
    first, second = _write("diffusers", tmp_path / "a", unet, text), _write("kohya", tmp_path / "b", unet, text)
    fuse_loras(stack, [first, second])
    other = load_stack(folder, options=TWO)
    fuse_loras(other, [second, first])
    torch.testing.assert_close(_predict(stack), _predict(other))
    torch.testing.assert_close(_predict(stack), _predict(_expected(folder, unet, text, 3.0)))


def test_adapters_of_ours_sit_on_top_and_the_reference_keeps_the_lora(
    stack: GeneratorStack, folder: Path, tmp_path: Path
) -> None:
    path = _write("diffusers", tmp_path / "lora", *_parts())
    fuse_loras(stack, [path])
    reference = _predict(stack)
    with torch.no_grad():
        for parameter in adapters.attach_lora(stack.unet, 2, seed=3).values():
            parameter.add_(0.1)
    changed = _predict(stack)
    assert not torch.allclose(changed, reference)
    with adapters.adapters_off(stack.unet):
        torch.testing.assert_close(_predict(stack), reference)
    adapters.save_adapters(stack, tmp_path / "arm", with_controlnet=False, card="# test\n")
    again = load_stack(folder, options=ModelOptions(structures=TWO.structures, lora=(path,)))
    adapters.load_adapters(again, tmp_path / "arm")
    torch.testing.assert_close(_predict(again), changed, atol=1e-4, rtol=1e-4)
    third = load_stack(folder, options=ModelOptions(structures=TWO.structures, lora=(tmp_path / "arm/unet_lora",)))
    plain = load_stack(folder, options=TWO)
    adapters.load_adapters(plain, tmp_path / "arm")
    torch.testing.assert_close(_predict(third), _predict(plain))


def test_a_lora_counts_in_the_identity(folder: Path, tmp_path: Path) -> None:
    path = _write("peft", tmp_path / "lora", *_parts())
    with_lora = ModelOptions(structures=TWO.structures, lora=(path,))
    before = identity(folder, with_lora)
    assert before != identity(folder, TWO)
    (path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "peft_type": "LORA"}))
    assert identity(folder, with_lora) != before


def test_loras_of_other_models_and_broken_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    def refused(path: Path, kind: type[Exception] = InvalidInput) -> str:
        with pytest.raises(kind) as caught:
            load_stack(folder, options=ModelOptions(structures=TWO.structures, lora=(path,)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    unet, _ = _parts()
    wide = _random_lora(make_parts(block_out_channels=(32, 32))["unet"], ["to_q"], 2, 1)
    assert "does not fit" in refused(_write("diffusers", tmp_path / "wide", wide, {}))
    deeper = {key.replace("up_blocks.1", "up_blocks.3"): value for key, value in unet.items()}
    assert "does not fit" in refused(_write("diffusers", tmp_path / "deep", deeper, {}))
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "holds no LoRA" in refused(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert "cannot be read" in refused(tmp_path / "broken.safetensors")
    (tmp_path / "lora.bin").write_bytes(b"pickle")
    assert "pickled" in refused(tmp_path / "lora.bin")
    assert "no LoRA at" in refused(tmp_path / "nowhere", NotFound)
    assert "name the one" in refused(_two(tmp_path / "two"))
    infinite = {key: value * float("inf") for key, value in unet.items()}
    assert "not finite" in refused(_write("diffusers", tmp_path / "inf", infinite, {}))


def _two(where: Path) -> Path:
    where.mkdir()
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, where / f"{name}.safetensors")
    return where


def test_our_own_stacks_take_loras_too() -> None:
    stack = tiny_stack(0)
    before = {key: value.clone() for key, value in stack.unet.state_dict().items()}
    with pytest.raises(NotFound):
        fuse_loras(stack, [Path("nowhere")])
    assert all(torch.equal(value, before[key]) for key, value in stack.unet.state_dict().items())


def test_the_file_of_the_training_script_has_the_names_assumed_here(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    unet, text = _parts()
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=unet, text_encoder_lora_layers=text)
    written = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert set(written) == {f"unet.{key}" for key in unet} | {f"text_encoder.{key}" for key in text}
