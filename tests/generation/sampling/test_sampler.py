"""Sampling: seeds make images, batching does not, modes cost what they must."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput
from radpref.generation.sampling.compiling import compile_networks
from radpref.generation.sampling.denoising import encoded_hints, make_ready
from radpref.generation.sampling.sampler import decode, initial_noise, make_solver, sample, sample_latents
from radpref.generation.stack.conditions import (
    Condition,
    control_residuals,
    encode_conditions,
    mask_to_hint,
    masked_rows,
)
from radpref.generation.stack.device import pick_device
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from tests.support.errors import refuses


@pytest.fixture(scope="module")
def stack() -> GeneratorStack:
    return tiny_stack(0)


def _mask() -> np.ndarray:
    mask = np.zeros((2, 32, 32), dtype=bool)
    mask[1, 8:24, 8:24] = True
    return mask


MIXED = [Condition("Normal"), Condition(None, _mask()), Condition("severe effusion", _mask()), Condition("pneumonia")]


def test_images_are_uint8_in_the_order_given(stack: GeneratorStack) -> None:
    images = sample(stack, MIXED, [1, 2, 3, 4], n_steps=2)
    assert images.shape == (4, 32, 32)
    assert images.dtype == np.uint8
    single = sample(stack, MIXED[2:3], [3], n_steps=2)
    assert np.abs(images[2].astype(int) - single[0].astype(int)).max() <= 1


def test_the_result_does_not_depend_on_batching(stack: GeneratorStack) -> None:
    conditions, seeds = MIXED * 2, list(range(8))
    whole = sample(stack, conditions, seeds, n_steps=3)
    for batch_size in (1, 3):
        parts = sample(stack, conditions, seeds, n_steps=3, batch_size=batch_size)
        assert np.abs(whole.astype(int) - parts.astype(int)).max() <= 1
    order = [5, 2, 7, 0]
    shuffled = sample(stack, [conditions[i] for i in order], [seeds[i] for i in order], n_steps=3)
    assert np.abs(whole[order].astype(int) - shuffled.astype(int)).max() <= 1


def test_equal_seeds_equal_images_other_seeds_other_images(stack: GeneratorStack) -> None:
    images = sample(stack, [Condition("Normal")] * 3, [7, 7, 8], n_steps=2)
    assert np.abs(images[0].astype(int) - images[1].astype(int)).max() <= 1
    assert np.abs(images[0].astype(int) - images[2].astype(int)).mean() > 1


def test_noise_is_drawn_per_image_and_leaves_the_global_generator_alone(stack: GeneratorStack) -> None:
    before = torch.random.get_rng_state()
    noise = initial_noise(stack, [3, 4])
    assert torch.equal(noise[1:], initial_noise(stack, [4]))
    sample(stack, [Condition("Normal")], [0], n_steps=1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("condition", "rows_per_step", "controlled"),
    [(MIXED[0], 2, False), (MIXED[1], 1, True), (MIXED[2], 2, True)],
)
def test_each_mode_runs_only_what_it_needs(
    stack: GeneratorStack, condition: Condition, rows_per_step: int, controlled: bool
) -> None:
    assert stack.controlnet is not None
    with (
        patch.object(stack.unet, "forward", wraps=stack.unet.forward) as unet,
        patch.object(stack.controlnet, "forward", wraps=stack.controlnet.forward) as control,
    ):
        sample(stack, [condition], [1], n_steps=4, guidance_scale=2.0)
    assert unet.call_count == 4
    assert {call.args[0].shape[0] for call in unet.call_args_list} == {rows_per_step}
    assert control.call_count == (4 if controlled else 0)


def test_guidance_one_needs_no_second_branch(stack: GeneratorStack) -> None:
    with patch.object(stack.unet, "forward", wraps=stack.unet.forward) as unet:
        sample(stack, MIXED[:1], [1], n_steps=2, guidance_scale=1.0)
    assert {call.args[0].shape[0] for call in unet.call_args_list} == {1}


def test_sixteen_bits_agree_with_eight(stack: GeneratorStack) -> None:
    eight = sample(stack, MIXED[:1], [1], n_steps=2)
    sixteen = sample(stack, MIXED[:1], [1], n_steps=2, dtype=np.uint16)
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen.astype(float) / 257 - eight).max() <= 0.51


def test_bfloat16_stays_close(stack: GeneratorStack) -> None:
    exact = sample(stack, MIXED, [1, 2, 3, 4], n_steps=2).astype(int)
    fast = sample(stack, MIXED, [1, 2, 3, 4], n_steps=2, precision="bf16").astype(int)
    assert np.abs(exact - fast).mean() < 4


def test_every_batch_is_handed_out_once(stack: GeneratorStack) -> None:
    done: dict[int, np.ndarray] = {}
    images = sample(
        stack,
        MIXED * 2,
        range(8),
        n_steps=1,
        batch_size=3,
        on_batch=lambda places, part: done.update(zip(places, part, strict=True)),
    )
    assert sorted(done) == list(range(8))
    assert all(np.array_equal(images[place], image) for place, image in done.items())


def test_the_solver_spans_the_whole_schedule(stack: GeneratorStack) -> None:
    solver = make_solver(stack, 20)
    assert len(solver.timesteps) == 20
    assert int(solver.timesteps[0]) == 999
    assert make_solver(stack, 1).timesteps.tolist() == [999]


def test_bad_requests_are_explained(stack: GeneratorStack) -> None:
    with refuses(InvalidInput, 2, 1):
        sample(stack, MIXED[:2], [1])
    with refuses(InvalidInput):
        sample(stack, [], [])
    with refuses(InvalidInput, "n_steps", 0):
        sample(stack, MIXED[:1], [1], n_steps=0)
    with refuses(InvalidInput, "batch_size", 0):
        sample(stack, MIXED[:1], [1], batch_size=0)
    with refuses(InvalidInput, "N/A"):
        sample(stack, [Condition("N/A")], [1])


def test_channels_last_weights_draw_the_same_images(stack: GeneratorStack) -> None:
    ready = make_ready(tiny_stack(0))
    weight = ready.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain, fast = (sample(one, MIXED, [1, 2, 3, 4], n_steps=2).astype(int) for one in (stack, ready))
    assert np.abs(plain - fast).max() <= 1


def test_cast_weights_sample_without_autocast() -> None:
    exact = sample(tiny_stack(0), MIXED, [1, 2, 3, 4], n_steps=2).astype(int)
    cast = tiny_stack(0).to("cpu", torch.bfloat16)
    assert np.abs(exact - sample(cast, MIXED, [1, 2, 3, 4], n_steps=2, precision="bf16")).mean() < 4


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_encoded_hints_give_the_residuals_of_hints(order: str) -> None:
    stack = tiny_stack(0)
    assert stack.controlnet is not None
    stack.controlnet.register_to_config(controlnet_conditioning_channel_order=order)
    for zero in (*stack.controlnet.controlnet_down_blocks, stack.controlnet.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    batch = encode_conditions(stack, [MIXED[1], MIXED[2]])
    noisy, steps = initial_noise(stack, [1, 2]), torch.tensor([500, 500])
    with torch.no_grad():
        down, mid = control_residuals(stack.controlnet, noisy, steps, batch)
        with encoded_hints(stack.controlnet, batch.hint) as hint:
            again_down, again_mid = control_residuals(stack.controlnet, noisy, steps, replace(batch, hint=hint))
    assert float(mid.abs().max()) > 1e-3
    for one, other in zip([*down, mid], [*again_down, again_mid], strict=True):
        assert torch.equal(one, other)


def test_a_loop_asks_for_masks_once_and_not_in_every_step(stack: GeneratorStack) -> None:
    with patch("radpref.generation.sampling.denoising.masked_rows", wraps=masked_rows) as asked:
        sample(stack, MIXED[2:3], [1], n_steps=5)
    assert asked.call_count == 2  # whether to encode hints, and for the loop


def test_a_mixed_batch_is_sampled_as_its_parts(stack: GeneratorStack) -> None:
    together = sample_latents(stack, encode_conditions(stack, MIXED), [1, 2, 3, 4], n_steps=2)
    for i, condition in enumerate(MIXED):
        alone = sample_latents(stack, encode_conditions(stack, [condition]), [i + 1], n_steps=2)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=1e-3)


def test_compiled_stacks_see_one_number_of_rows_only() -> None:
    stack = tiny_stack(0)
    plain = sample(stack, MIXED, [1, 2, 3, 4], n_steps=1, batch_size=3).astype(int)
    with patch.object(torch.nn.Module, "compile", autospec=True) as compiled:
        compile_networks(stack, "reduce-overhead")
    assert [call.args[0] for call in compiled.call_args_list] == [stack.unet, stack.controlnet, stack.vae.decoder]
    for call in compiled.call_args_list:
        assert call.kwargs["dynamic"] is False
        assert call.kwargs["options"]["triton.cudagraphs"] is True
    stack.unet._compiled_call_impl = stack.unet._call_impl
    with (
        patch.object(stack.unet, "forward", wraps=stack.unet.forward) as unet,
        patch.object(stack.vae.decoder, "forward", wraps=stack.vae.decoder.forward) as decoder,
    ):
        padded = sample(stack, MIXED, [1, 2, 3, 4], n_steps=1, batch_size=3).astype(int)
    assert {call.args[0].shape[0] for call in unet.call_args_list} == {6}  # three of two branches, six of one
    assert all(call.kwargs["down_block_additional_residuals"] for call in unet.call_args_list)
    assert {call.args[0].shape[0] for call in decoder.call_args_list} == {3}
    assert np.abs(plain - padded).max() <= 1


def test_a_mask_shared_by_images_is_carried_to_the_device_once(stack: GeneratorStack) -> None:
    large = np.repeat(np.repeat(_mask(), 2, axis=1), 2, axis=2)
    given = [MIXED[1], MIXED[2], MIXED[1], Condition("normal"), Condition(None, large)]
    hint = encode_conditions(stack, given).hint
    expected = torch.stack([mask_to_hint(one.mask, 2, 32) for one in given]).float()
    assert hint.dtype == torch.float32
    assert torch.equal(hint, expected)
    assert torch.equal(hint[4], hint[0])
    assert hint[0].any()
    assert not hint[3].any()


def test_large_batches_are_decoded_in_equal_parts(stack: GeneratorStack) -> None:
    latents = initial_noise(stack, range(6))
    whole = decode(stack, latents)
    with patch("radpref.generation.sampling.sampler.DECODED_PIXELS", 4 * stack.image_size**2):
        torch.testing.assert_close(decode(stack, latents), whole, atol=1e-5, rtol=1e-4)


def test_devices_and_precisions_that_are_not_there_are_named(stack: GeneratorStack) -> None:
    assert pick_device("cpu") == "cpu"
    with refuses(InvalidInput, "cuda:99", "--device"):
        pick_device("cuda:99")
    with refuses(InvalidInput, "fp16", "bf16", "f32"):
        sample(stack, MIXED[:1], [1], n_steps=1, precision="fp16")
    with refuses(InvalidInput, "f64", "f32", "bf16", "fp16"):
        sample(stack, MIXED[:1], [1], n_steps=1, precision="f64")
    with refuses(InvalidInput, "generator.compile", "cpu"):
        make_ready(stack, compile_mode="default")
