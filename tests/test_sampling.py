"""Sampling: seeds make images, batching does not, modes cost what they must."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch

from data.errors import InvalidInput
from generation.conditions import Condition
from generation.models import GeneratorStack, tiny_stack
from generation.sampling import initial_noise, make_solver, sample


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
    fast = sample(stack, MIXED, [1, 2, 3, 4], n_steps=2, bf16=True).astype(int)
    assert np.abs(exact - fast).mean() < 4


def test_progress_counts_every_image(stack: GeneratorStack) -> None:
    done: list[int] = []
    sample(stack, MIXED * 2, range(8), n_steps=1, batch_size=3, progress=done.append)
    assert sum(done) == 8


def test_the_solver_spans_the_whole_schedule(stack: GeneratorStack) -> None:
    solver = make_solver(stack, 20)
    assert len(solver.timesteps) == 20
    assert int(solver.timesteps[0]) == 999
    assert make_solver(stack, 1).timesteps.tolist() == [999]


def test_bad_requests_are_explained(stack: GeneratorStack) -> None:
    with pytest.raises(InvalidInput, match="2 conditions but 1 seeds"):
        sample(stack, MIXED[:2], [1])
    with pytest.raises(InvalidInput, match="no conditions"):
        sample(stack, [], [])
    with pytest.raises(InvalidInput, match="n_steps is 0"):
        sample(stack, MIXED[:1], [1], n_steps=0)
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        sample(stack, MIXED[:1], [1], batch_size=0)
    with pytest.raises(InvalidInput, match="neither text"):
        sample(stack, [Condition("N/A")], [1])
