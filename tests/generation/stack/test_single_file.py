"""Single safetensors files in the original layout: equal to the same weights as a directory, told apart, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.identity import identity
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.single_file import CONFIGS, inspect_file
from tests.support.brought import make_parts, save_brought
from tests.support.original_layout import save_original

PARAMETERS = {"sd1": (859_520_964, 83_653_863, 123_060_480), "sd2": (865_910_724, 83_653_863, 340_387_840)}
"""Of Stable Diffusion 1.5 and 2.1: UNet, autoencoder, text encoder."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("single")
    for family in ("sd1", "sd2"):
        parts = make_parts(family)
        save_brought(root / family, family, parts=parts)
        save_original(parts, root / f"{family}.safetensors", family == "sd2")
    return root


def _refused(path: Path, options: ModelOptions | None = None, kind: type[Exception] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        load_stack(path, options=options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_file_equals_the_directory_of_the_same_weights(made: Path, family: str) -> None:
    single = load_stack(made / f"{family}.safetensors", options=ModelOptions(config=made / family))
    directory = load_stack(made / family)
    assert single.prediction_type == directory.prediction_type
    assert (single.image_size, single.unconditional, single.model_id) == (32, "empty_prompt", family)
    for name, module in directory.modules().items():
        state = single.modules()[name].state_dict()
        assert state.keys() == module.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items()), name
    conditions = [Condition("Severe left pleural effusion")]
    images = [sample(stack, conditions, [3], n_steps=2) for stack in (single, directory)]
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_the_shipped_configurations_are_those_of_stable_diffusion(family: str) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = CONFIGS / family
    with torch.device("meta"):
        networks: list[Any] = [
            UNet2DConditionModel.from_config(json.loads((folder / "unet/config.json").read_text())),
            AutoencoderKL.from_config(json.loads((folder / "vae/config.json").read_text())),
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        ]
    assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == PARAMETERS[family]


def test_what_a_file_is_follows_from_its_keys(made: Path) -> None:
    assert inspect_file(made / "sd1.safetensors").family == "sd1"
    assert inspect_file(made / "sd2.safetensors").family == "sd2"


def test_a_second_generation_file_must_say_what_it_predicts(made: Path, tmp_path: Path) -> None:
    message = _refused(made / "sd2.safetensors")
    assert "generator.prediction_type" in message
    named = save_original(make_parts("sd2"), tmp_path / "v.safetensors", True, {"modelspec.prediction_type": "v"})
    assert inspect_file(named).prediction_type == "v_prediction"
    # the shapes are not those of Stable Diffusion 2, so the shipped configuration cannot fit them
    assert "give its own as generator.config" in _refused(named)
    assert "give its own as generator.config" in _refused(made / "sd1.safetensors")


def test_study_toml_overrules_the_configuration(made: Path) -> None:
    options = ModelOptions(config=made / "sd1", prediction_type="v_prediction", image_size=48)
    stack = load_stack(made / "sd1.safetensors", options=options)
    assert (stack.prediction_type, stack.image_size) == ("v_prediction", 48)


def test_files_that_are_something_else_say_what(made: Path, tmp_path: Path) -> None:
    def written(name: str, *keys: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: torch.zeros(1) for key in keys}, path)
        return path

    unet, text, vae = "model.diffusion_model.x", "cond_stage_model.transformer.x", "first_stage_model.x"
    assert "Stable Diffusion XL" in _refused(written("xl", unet, vae, "conditioner.embedders.0.x"))
    assert "Stable Diffusion 3" in _refused(written("sd3", "model.diffusion_model.joint_blocks.0.x"))
    assert "Flux" in _refused(written("flux", "double_blocks.0.x"))
    assert "is a LoRA" in _refused(written("lora", "lora_unet_x.lora_down.weight"))
    assert "is a ControlNet" in _refused(written("control", "control_model.x"))
    assert "not a whole" in _refused(written("unet", "down_blocks.0.x"))
    assert "no text encoder" in _refused(written("notext", unet, vae))
    assert "no autoencoder" in _refused(written("novae", unet, text))
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    assert "pickled" in _refused(tmp_path / "old.ckpt")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert "not a safetensors file" in _refused(tmp_path / "broken.safetensors")
    assert "no configuration at" in _refused(
        made / "sd1.safetensors", ModelOptions(config=tmp_path / "nowhere"), NotFound
    )


@pytest.mark.parametrize(
    "lost",
    [
        "model.diffusion_model.out.2.weight",
        "first_stage_model.decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_file_without_some_weights_is_refused(made: Path, tmp_path: Path, lost: str) -> None:
    state = load_file(made / "sd1.safetensors")
    del state[lost]
    save_file(state, tmp_path / "less.safetensors")
    message = _refused(tmp_path / "less.safetensors", ModelOptions(config=made / "sd1"))
    assert "weights" in message or "does not fit" in message


def test_identity_holds_file_and_configuration(made: Path) -> None:
    one, two = (ModelOptions(config=made / family) for family in ("sd1", "sd2"))
    path = made / "sd1.safetensors"
    assert len({identity(path, one), identity(path, two), identity(path, ModelOptions())}) == 3
