"""Brought diffusers directories: what loads, what it becomes, and one line for everything that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.conditions import (
    Condition,
    choose_colours,
    controlnet_hint,
    encode_conditions,
    encode_text,
    hint_colours,
    predict_noise,
)
from radpref.generation.stack.identity import identity
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack, save_stack
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.parts import quiet_libraries
from radpref.generation.stack.tokenizer import clip_tokenizer, tokenize
from tests.support.brought import SIZE, make_controlnet, make_parts, save_brought
from tests.support.errors import refuses

TWO = ModelOptions(structures=("lungs", "heart"))
MASK = np.zeros((2, SIZE, SIZE), dtype=bool)
MASK[0, 4:24, 4:24], MASK[1, 12:28, 12:28] = True, True


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("brought")
    return {
        "sd1": save_brought(root / "sd1"),
        "sd2": save_brought(root / "sd2", "sd2"),
        "channels": save_brought(root / "channels", "sd1", hint=2),
        "rgb": save_brought(root / "rgb", "sd2", hint=3),
    }


@pytest.fixture
def copy_of(folders: dict[str, Path], tmp_path: Path) -> Any:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folders[name], tmp_path / "copy"))

    return copied


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def _predict(stack: GeneratorStack, *conditions: Condition) -> Tensor:
    batch = encode_conditions(stack, conditions or [Condition("Severe left pleural effusion")])
    noisy = torch.randn(len(batch), *stack.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return predict_noise(stack.unet, stack.controlnet, noisy, torch.full((len(batch),), 300), batch)


def _refused(path: Path, options: ModelOptions = TWO, kind: type[Exception] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        load_stack(path, options=options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what loads


@pytest.mark.parametrize(
    ("name", "prediction_type", "pad"), [("sd1", "epsilon", "<|endoftext|>"), ("sd2", "v_prediction", "!")]
)
def test_a_directory_says_everything_itself(
    folders: dict[str, Path], name: str, prediction_type: str, pad: str
) -> None:
    stack = load_stack(folders[name], options=TWO)
    assert (stack.prediction_type, stack.tokenizer.pad_token) == (prediction_type, pad)
    assert (stack.image_size, stack.latent_shape) == (SIZE, (4, 8, 8))
    assert (stack.unconditional, stack.model_id, stack.structures) == ("empty_prompt", name, ("lungs", "heart"))
    assert stack.controlnet is None
    original = make_parts(name)
    for part in ("unet", "vae", "text_encoder"):
        for key, value in original[part].state_dict().items():
            torch.testing.assert_close(stack.modules()[part].state_dict()[key], value, msg=f"{part} {key}")
    torch.testing.assert_close(stack.scheduler.alphas_cumprod, original["scheduler"].alphas_cumprod)
    assert not any(p.requires_grad for module in stack.modules().values() for p in module.parameters())


def test_texts_are_encoded_as_the_parts_alone_encode_them(folders: dict[str, Path]) -> None:
    stack, parts = load_stack(folders["sd2"], options=TWO), make_parts("sd2")
    ids = tokenize(stack.tokenizer, ["Normal"])
    assert ids.shape == (1, 16)
    assert ids[0, -1] == stack.tokenizer.convert_tokens_to_ids("!")
    expected = parts["text_encoder"].eval()(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(encode_text(stack, ["Normal"])[0], expected)


def test_the_three_channels_of_an_autoencoder_are_one_grey(folders: dict[str, Path]) -> None:
    stack = load_stack(folders["sd1"], options=TWO)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    colour = stack.vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(stack.decode_latents(latents), colour.mean(dim=1, keepdim=True).clamp(-1, 1))
    signal = torch.rand(2, 1, SIZE, SIZE) * 2 - 1
    expected = stack.vae.encode(signal.expand(-1, 3, -1, -1)).latent_dist.mean * 0.18215
    torch.testing.assert_close(stack.encode_images(signal), expected)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_sixteen_bits_are_more_than_256_levels_in_bf16_too(folders: dict[str, Path], precision: str) -> None:
    stack = load_stack(folders["sd1"], options=TWO)
    image = sample(
        stack, [Condition("Normal")], [0], n_steps=1, guidance_scale=1.0, dtype=np.uint16, precision=precision
    )
    assert image.dtype == np.uint16
    assert len(np.unique(image)) > 500


@pytest.mark.parametrize("named", [None, "fp16"])
def test_fp16_variants_and_shards_are_read_as_float32(tmp_path: Path, named: str | None) -> None:
    parts, folder = make_parts(), tmp_path / "half"
    save_brought(folder, parts=parts)
    with quiet_libraries():
        for name in ("unet", "vae", "text_encoder"):
            shutil.rmtree(folder / name)
            shards = {"max_shard_size": "60KB"} if name == "unet" else {}
            parts[name].half().save_pretrained(folder / name, variant="fp16", **shards)
    assert len(list((folder / "unet").glob("*.fp16-0000*.safetensors"))) > 1
    stack = load_stack(folder, options=ModelOptions(structures=TWO.structures, variant=named))
    assert stack.unet.dtype == stack.vae.dtype == stack.text_encoder.dtype == torch.float32
    weight = parts["unet"].state_dict()["conv_in.weight"]
    torch.testing.assert_close(stack.unet.state_dict()["conv_in.weight"], weight.float())


def test_plain_weights_come_before_a_variant_unless_it_is_wanted(copy_of: Any) -> None:
    folder = copy_of("sd1")
    other = make_parts(seed=9)["unet"]
    with quiet_libraries():
        other.save_pretrained(folder / "unet", variant="other")
    plain = load_stack(folder, options=TWO).unet.state_dict()["conv_in.weight"]
    torch.testing.assert_close(plain, make_parts()["unet"].state_dict()["conv_in.weight"])
    wanted = ModelOptions(structures=TWO.structures, variant="other")
    loaded = load_stack(folder, options=wanted).unet.state_dict()["conv_in.weight"]
    torch.testing.assert_close(loaded, other.state_dict()["conv_in.weight"])
    assert identity(folder, wanted) != identity(folder, TWO)


def test_study_toml_overrules_size_and_prediction(folders: dict[str, Path]) -> None:
    options = ModelOptions(image_size=48, prediction_type="v_prediction", unconditional="zero")
    stack = load_stack(folders["sd1"], options=options)
    assert (stack.image_size, stack.latent_shape) == (48, (4, 12, 12))
    assert (stack.prediction_type, stack.unconditional) == ("v_prediction", "zero")
    assert sample(stack, [Condition("Normal")], [0], n_steps=1).shape == (1, 48, 48)


def test_a_brought_model_saved_here_comes_back_with_its_colours(folders: dict[str, Path], tmp_path: Path) -> None:
    stack = load_stack(folders["rgb"], options=TWO)
    save_stack(stack, tmp_path / "saved")
    again = load_stack(tmp_path / "saved")
    assert (again.unconditional, again.prediction_type) == ("empty_prompt", "v_prediction")
    assert again.controlnet is not None
    assert hint_colours(again.controlnet) == [[0, 0, 255], [255, 0, 0]]
    both = Condition("Normal", MASK)
    torch.testing.assert_close(_predict(again, both), _predict(stack, both))


def test_loading_prints_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load_stack(folders["rgb"], options=TWO)
    assert capfd.readouterr() == ("", "")


def test_clip_s_own_tokenizer_is_built_offline() -> None:
    first, second = clip_tokenizer(), clip_tokenizer("!")
    assert len(first) == len(second) == 49408
    ids = tokenize(first, ["No acute cardiopulmonary process."])[0]
    assert ids[:11].tolist() == [49406, 871, 19734, 6211, 39858, 749, 856, 4078, 269, 49407, 49407]
    assert tokenize(second, [""])[0].tolist() == [49406, 49407] + [0] * 75


# ---- ControlNets


def test_one_channel_per_structure_is_read_as_it_is(folders: dict[str, Path]) -> None:
    stack = load_stack(folders["channels"], options=TWO)
    assert stack.controlnet is not None
    hint = torch.rand(1, 2, 8, 8)
    assert controlnet_hint(stack.controlnet, hint) is hint
    assert not torch.allclose(_predict(stack, Condition("Normal", MASK)), _predict(stack, Condition("Normal")))


def test_an_rgb_controlnet_gets_the_colour_map(folders: dict[str, Path]) -> None:
    stack = load_stack(folders["rgb"], options=TWO)
    assert stack.controlnet is not None
    painted = controlnet_hint(stack.controlnet, torch.from_numpy(MASK)[None].float())
    assert painted.shape == (1, 3, SIZE, SIZE)
    assert painted[0, :, 0, 0].tolist() == [0, 0, 0]  # nothing is black
    assert painted[0, :, 6, 6].tolist() == [0, 0, 1]  # lungs are blue
    assert painted[0, :, 20, 20].tolist() == [1, 0, 0]  # the heart, named later, covers them
    batch = encode_conditions(stack, [Condition("Normal", MASK)])
    noisy = torch.randn(1, *stack.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        down, mid = stack.controlnet(noisy, 300, batch.text_states, controlnet_cond=painted, return_dict=False)
        expected = stack.unet(
            noisy, 300, batch.text_states, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
    torch.testing.assert_close(_predict(stack, Condition("Normal", MASK)), expected)


def test_three_structures_are_channels_unless_rgb_is_said(folders: dict[str, Path]) -> None:
    three = ("lungs", "heart", "lesion")
    stack = load_stack(folders["rgb"], options=ModelOptions(structures=three))
    assert stack.controlnet is not None
    assert hint_colours(stack.controlnet) is None
    palette = {"lesion": "#804000"}
    stack = load_stack(folders["rgb"], options=ModelOptions(structures=three, hint="rgb", palette=palette))
    assert stack.controlnet is not None
    assert hint_colours(stack.controlnet) == [[0, 0, 255], [255, 0, 0], [128, 64, 0]]


def test_colours_need_a_palette_for_unknown_structures() -> None:
    assert choose_colours(["nodule"], {}) == [[255, 255, 255]]
    assert choose_colours(["lungs", "nodule"], {"nodule": "#010203"}) == [[0, 0, 255], [1, 2, 3]]
    with refuses(InvalidInput, "generator.palette.nodule", "nodule"):
        choose_colours(["lungs", "nodule"], {})
    with refuses(InvalidInput, "generator.palette.heart", "#000000"):
        choose_colours(["lungs", "heart"], {"heart": "#000000"})
    with refuses(InvalidInput, "generator.palette.hart", "data.structures"):
        choose_colours(["lungs"], {"hart": "#ff0000"})


def test_a_controlnet_elsewhere_is_named_and_takes_precedence(folders: dict[str, Path], tmp_path: Path) -> None:
    with quiet_libraries():
        make_controlnet(make_parts()["unet"], 2, seed=8).save_pretrained(tmp_path / "own" / "controlnet")
    for place in ("own", "own/controlnet"):
        named = ModelOptions(structures=TWO.structures, controlnet=tmp_path / place)
        stack = load_stack(folders["channels"], options=named)
        assert stack.controlnet is not None
        expected = load_file(tmp_path / "own/controlnet/diffusion_pytorch_model.safetensors")["conv_in.weight"]
        torch.testing.assert_close(stack.controlnet.state_dict()["conv_in.weight"], expected)
    assert identity(folders["channels"], named) != identity(folders["channels"], TWO)


def test_controlnets_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    four = ModelOptions(structures=("lungs", "heart", "lesion", "pneumothorax"))
    assert "2 channels" in _refused(folders["channels"], four)
    assert "hint is 'rgb'" in _refused(folders["channels"], ModelOptions(structures=TWO.structures, hint="rgb"))
    assert "set it to 'rgb'" in _refused(folders["rgb"], ModelOptions(structures=TWO.structures, hint="channels"))
    wide = make_parts(block_out_channels=(32, 32))["unet"]
    with quiet_libraries():
        make_controlnet(wide, 2).save_pretrained(tmp_path / "wide")
        make_parts()["unet"].save_pretrained(tmp_path / "unet")

    def named(name: str) -> ModelOptions:
        return ModelOptions(structures=TWO.structures, controlnet=tmp_path / name)

    assert "block_out_channels" in _refused(folders["sd1"], named("wide"))
    assert "UNet2DConditionModel, not a ControlNetModel" in _refused(folders["sd1"], named("unet"))
    assert "no ControlNet at" in _refused(folders["sd1"], named("nowhere"), NotFound)


def test_masks_without_a_controlnet_say_how_to_add_one(folders: dict[str, Path]) -> None:
    stack = load_stack(folders["sd1"], options=TWO)
    with refuses(InvalidInput, "sd1", "generator.controlnet"):
        sample(stack, [Condition(None, MASK)], [0], n_steps=1)


# ---- what does not load


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy_of: Any, part: str) -> None:
    folder = copy_of("sd1")
    shutil.rmtree(folder / part)
    assert f"lacks its part {part!r}" in _refused(folder)
    with refuses(InvalidInput, part):
        identity(folder, TWO)


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_or_broken_file_is_named(copy_of: Any, file: str) -> None:
    folder = copy_of("channels")
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    part, name = file.split("/")
    assert part in (message := _refused(folder))
    assert name in message
    if file.endswith(("config.json", ".safetensors")):
        (folder / file).write_bytes(whole[: len(whole) // 2])
        assert part in _refused(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_are_missing_or_of_another_shape_are_refused(copy_of: Any, part: str) -> None:
    folder = copy_of("sd1")
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    first = next(iter(sorted(state)))
    save_file({key: value for key, value in state.items() if key != first}, file, {"format": "pt"})
    assert "lacks 1 weights" in _refused(folder)
    save_file(state | {first: torch.zeros(3)}, file, {"format": "pt"})
    message = _refused(folder)
    assert f"part {part!r}" in message
    assert first in message  # which weight, not the library's advice to its own programmers
    assert "ignore_mismatched_sizes" not in message


def test_parts_of_different_models_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def variant(name: str, family: str = "sd1", **unet: Any) -> Path:
        return save_brought(tmp_path / name, parts=make_parts(family, **unet))

    assert "width 32, the text encoder makes 16" in _refused(variant("narrow", cross_attention_dim=32))
    assert "an inpainting model" in _refused(variant("inpainting", in_channels=9))
    assert "9 channels and the autoencoder makes latents of 4" in _refused(tmp_path / "inpainting")
    assert "class conditions" in _refused(variant("classes", num_class_embeds=3))
    xl = variant(
        "xl", addition_embed_type="text_time", projection_class_embeddings_input_dim=32, addition_time_embed_dim=4
    )
    assert "Stable Diffusion XL" in _refused(xl)
    assert "image_size" in _refused(variant("sizes", sample_size=(8, 8)))
    assert "image_size = 34" in _refused(folders["sd1"], ModelOptions(image_size=34))
    _edit(tmp_path / "classes" / "vae" / "config.json", _class_name="AutoencoderTiny")
    assert "AutoencoderTiny, not a AutoencoderKL" in _refused(tmp_path / "classes")


def test_a_tokenizer_of_another_model_is_refused(copy_of: Any) -> None:
    folder = copy_of("sd1")
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    more = vocabulary | {f"extra{n}": len(vocabulary) + n for n in range(5)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(more))
    assert "tokens, the text encoder" in _refused(folder)


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("StableDiffusionXLPipeline", ["unet", "text_encoder_2"], "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", ["transformer", "text_encoder_2"], "Stable Diffusion 3"),
        ("FluxPipeline", ["transformer"], "Flux"),
        ("LDMTextToImagePipeline", ["bert"], "latent diffusion"),
    ],
)
def test_other_families_are_told_apart(tmp_path: Path, name: str, parts: list[str], said: str) -> None:
    index = {"_class_name": name} | {part: ["library", "Class"] for part in parts}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    message = _refused(tmp_path)
    assert said in message
    assert "only Stable Diffusion 1.x/2.x works" in message


def test_folders_that_are_no_model(folders: dict[str, Path], tmp_path: Path) -> None:
    assert "no generator at" in _refused(tmp_path / "nowhere", kind=NotFound)
    assert "is not a generator" in _refused(tmp_path)
    assert "one part of a model" in _refused(folders["sd1"] / "unet")
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    assert "pickled" in _refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "to load a single file, name it" in _refused(tmp_path)


def test_pickled_weights_are_refused_with_the_way_out(copy_of: Any) -> None:
    folder = copy_of("sd1")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    message = _refused(folder)
    assert "docs/generators.md, 'Pickles'" in message


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    parts = make_parts()
    folder = save_brought(tmp_path / "sharded", parts=parts)
    with quiet_libraries():
        shutil.rmtree(folder / "unet")
        parts["unet"].save_pretrained(folder / "unet", max_shard_size="100KB")
    assert load_stack(folder, options=TWO).image_size == SIZE
    lost = sorted((folder / "unet").glob("*-00002-of-*.safetensors"))[0]
    lost.unlink()
    assert lost.name in _refused(folder)


# ---- identity


def test_identity_follows_what_is_read_and_nothing_else(copy_of: Any) -> None:
    folder = copy_of("sd1")
    before = identity(folder, TWO)
    (folder / "README.md").write_text("words")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"not read")
    assert identity(folder, TWO) == before
    assert identity(folder, ModelOptions(structures=TWO.structures, image_size=48)) != before
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"conv_in.bias": state["conv_in.bias"] + 1}, file, {"format": "pt"})
    assert identity(folder, TWO) != before
