"""From [train] to stages: rates by size, what fits, new ControlNets, and what a run is recognised by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from radpref.data.config.generation import TrainConfig
from radpref.data.config.study_config import parse_config
from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.adapters import attach_lora
from radpref.generation.stack.models import tiny_stack
from radpref.generation.training.compute import Compute
from radpref.generation.training.recipes import (
    check_recipe,
    fit_structures,
    fresh_stack,
    grow_controlnet,
    is_large,
    learning_rates,
    make_recipe,
)
from tests.support.errors import refuses

STUDY = ("lungs", "heart", "rib_fractures", "chest_tubes", "pneumothorax")


def _train(**keys: Any) -> TrainConfig:
    return parse_config({"train": keys}).train


def test_rates_follow_the_size_of_the_model(tmp_path: Path) -> None:
    assert learning_rates(_train(), large=False) == (5e-4, 2.5e-4)
    assert learning_rates(_train(), large=True) == (1e-5, 1e-5)
    assert learning_rates(_train(unet="lora"), large=True) == (1e-4, 1e-5)
    assert learning_rates(_train(learning_rate=2e-4), large=False) == (2e-4, 1e-4)
    assert learning_rates(_train(learning_rate=2e-4, control_learning_rate=3e-6), large=True) == (2e-4, 3e-6)
    (tmp_path / "unet").mkdir()
    save_file({"a": torch.zeros(1000)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert not is_large(tmp_path)
    assert not is_large(tmp_path / "absent.safetensors")
    header = b'{"b":{"dtype":"F16","shape":[50000000,2],"data_offsets":[0,200000000]}}'
    with (tmp_path / "unet" / "diffusion_pytorch_model-00002.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 200_000_000)  # a hole, no bytes on disk
    assert is_large(tmp_path)


def test_old_settings_make_the_stages_they_always_made() -> None:
    recipe = make_recipe(_train(), large=False, masks=True)
    assert recipe.text is not None
    assert recipe.masks is not None
    assert (recipe.text.unet_rate, recipe.text.text_rate, recipe.text.control_rate) == (1.0, 0.5, 0.0)
    assert (recipe.masks.unet_rate, recipe.masks.text_rate, recipe.masks.control_rate) == (1.0, 0.5, 1.0)
    assert recipe.masks.mode_mix == (0.4, 0.2, 0.4)
    assert (recipe.text.min_snr_gamma, recipe.text.coarse_weight, recipe.text.precision) == (5.0, 1.0, "bf16")
    assert not recipe.text.cache_text


def test_the_study_recipe_trains_the_controlnet_alone_on_masks_without_text_by_the_plain_loss() -> None:
    keys = {"unet": "frozen", "text_encoder": "frozen", "control": "new", "mix": [0, 100, 0], "channel_drop": 0}
    recipe = make_recipe(_train(**keys, accumulation=16, batch_size=512), large=True, masks=True)
    assert recipe.text is None
    masks = recipe.masks
    assert masks is not None
    assert (masks.unet_rate, masks.text_rate, masks.control_rate, masks.mode_mix) == (0, 0, 1, (0, 1, 0))
    assert (masks.min_snr_gamma, masks.coarse_weight, masks.loop.learning_rate) == (None, 0, 1e-5)
    assert masks.cache_text
    check_recipe(recipe, Compute(world=8))
    with refuses(InvalidInput, 48, "batch_size"):
        check_recipe(recipe, Compute(world=3))
    with refuses(InvalidInput, "fp16", "cpu", "bf16"):
        check_recipe(make_recipe(_train(precision="fp16"), large=False, masks=False), Compute())


def test_a_controlnet_can_be_trained_alone_after_the_text() -> None:
    recipe = make_recipe(_train(control_alone=True), large=False, masks=True)
    assert recipe.text is not None
    assert recipe.masks is not None
    assert (recipe.text.unet_rate, recipe.masks.unet_rate, recipe.masks.text_rate) == (1, 0, 0)
    assert make_recipe(_train(control="none"), large=False, masks=True).masks is None
    assert make_recipe(_train(), large=False, masks=False).masks is None


def test_a_section_that_trains_nothing_is_refused() -> None:
    with refuses(InvalidInput, "unet_steps", "text_encoder"):
        make_recipe(_train(unet_steps=0, vae_steps=0), large=False, masks=False)
    with refuses(InvalidInput, "[train]", "ControlNet"):
        make_recipe(_train(unet="frozen", text_encoder="frozen"), large=False, masks=False)
    with refuses(InvalidInput, "mix", [50, 50, 50]):
        _train(mix=[50, 50, 50])


def test_masks_without_a_channel_are_refused_and_a_new_controlnet_mends_it() -> None:
    stack = tiny_stack(0)  # knows lungs and heart
    with refuses(InvalidInput, "rib_fractures", "train.control", "new"):
        fit_structures(stack, _train(), STUDY, {"lungs", "rib_fractures"})
    assert fit_structures(stack, _train(), STUDY, {"lungs"}) == ("lungs", "heart")
    assert fit_structures(stack, _train(control="none"), STUDY, {"rib_fractures"}) == ("lungs", "heart")
    with refuses(InvalidInput, "train.control", "new"):
        fit_structures(stack, _train(control="new"), STUDY, set())
    stack.structures = ("lungs", "heart", "lesion")
    with refuses(InvalidInput, 2, "lungs", "heart", "lesion"):
        fit_structures(stack, _train(), STUDY, {"lungs"})
    assert fit_structures(stack, _train(control="new"), STUDY, {"rib_fractures"}) == STUDY
    assert stack.controlnet is None


def test_a_new_controlnet_grows_from_the_unet_with_its_lora_and_changes_nothing_at_first() -> None:
    stack = tiny_stack(0)
    stack.structures = STUDY
    for parameter in attach_lora(stack.unet, 2, seed=1).values():
        torch.nn.init.constant_(parameter, 0.1)
    controlnet = grow_controlnet(stack, seed=3)
    assert controlnet.config.conditioning_channels == 5
    assert not any("lora" in name for name, _ in controlnet.named_parameters())
    own = stack.unet.down_blocks[0].resnets[0].conv1
    assert not torch.equal(controlnet.down_blocks[0].resnets[0].conv1.weight, own.base_layer.weight)
    hint = torch.ones(1, 5, 32, 32)
    down, mid = controlnet(
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([5]),
        encoder_hidden_states=torch.zeros(1, 32, 32),
        controlnet_cond=hint,
        return_dict=False,
    )
    assert not any(bool(residual.any()) for residual in (*down, mid))


def test_a_fresh_model_has_the_embedded_architecture() -> None:
    stack = fresh_stack(["severe left effusion"], STUDY, 64, seed=3)
    assert stack.latent_shape == (8, 8, 8)
    assert stack.controlnet is None
    assert torch.equal(stack.unet.conv_in.weight, fresh_stack(["x"], STUDY, 64, seed=3).unet.conv_in.weight)
    with refuses(InvalidInput, "data.image_size", 72, 32):
        fresh_stack(["x"], STUDY, 72, seed=3)
