"""Condition semantics: absent text is zero, absent mask is no residual, guidance keeps the mask."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.conditions import (
    Condition,
    ConditionBatch,
    both_branches,
    encode_conditions,
    encode_text,
    guide,
    has_text,
    mask_to_hint,
    needs_guidance,
    predict_noise,
    unconditional_states,
)
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from tests.support.errors import refuses


@pytest.fixture(scope="module")
def stack() -> GeneratorStack:
    made = tiny_stack(0)
    _wake_controlnet(made)
    return made


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _wake_controlnet(stack: GeneratorStack) -> None:
    """A fresh ControlNet's residuals are exactly 0; give it some."""
    assert stack.controlnet is not None
    generator = torch.Generator().manual_seed(9)
    for block in [*stack.controlnet.controlnet_down_blocks, stack.controlnet.controlnet_mid_block]:
        block.weight.copy_(torch.randn(block.weight.shape, generator=generator) * 0.1)
    out = stack.controlnet.controlnet_cond_embedding.conv_out
    out.weight.copy_(torch.randn(out.weight.shape, generator=generator) * 0.1)


def _mask(side: str = "left", size: int = 32) -> np.ndarray:
    mask = np.zeros((2, size, size), dtype=bool)
    mask[0, 8:24, (16 if side == "left" else 4) : (28 if side == "left" else 16)] = True
    return mask


def _noisy(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


BLACK = np.zeros((2, 32, 32), dtype=bool)


@pytest.mark.parametrize(
    ("text", "mask", "mode"),
    [
        ("Normal", None, "T2I"),
        ("Normal", BLACK, "T2I"),
        ("N/A", _mask(), "M2I"),
        ("n/a ", _mask(), "M2I"),
        (None, _mask(), "M2I"),
        ("", _mask(), "M2I"),
        ("Normal", _mask(), "TM2I"),
    ],
)
def test_mode_follows_what_is_present(text: str | None, mask: np.ndarray | None, mode: str) -> None:
    assert Condition(text, mask).mode == mode


@pytest.mark.parametrize("text", [None, "", "N/A"])
def test_a_condition_of_nothing_is_refused(text: str | None) -> None:
    with refuses(InvalidInput, repr(text)):
        _ = Condition(text, BLACK).mode


def test_has_text_knows_the_placeholder() -> None:
    assert has_text("Normal")
    assert not has_text("N/A")


def test_absent_text_is_zero_and_the_placeholder_is_never_encoded(stack: GeneratorStack) -> None:
    stack.text_cache.clear()
    batch = encode_conditions(stack, [Condition("N/A", _mask()), Condition("Normal"), Condition(None, _mask())])
    assert torch.count_nonzero(batch.text_states[0]) == 0
    assert torch.count_nonzero(batch.text_states[2]) == 0
    assert torch.count_nonzero(batch.text_states[1]) > 0
    assert batch.text_present.tolist() == [0, 1, 0]
    assert batch.mask_present.tolist() == [1, 0, 1]
    assert not any(text.strip().upper() == "N/A" for text in stack.text_cache)


def test_texts_are_encoded_once(stack: GeneratorStack) -> None:
    encode_conditions(stack, [Condition("mild right pneumothorax")])
    with patch.object(stack.text_encoder, "forward", side_effect=AssertionError("encoded again")):
        encode_conditions(stack, [Condition("mild right pneumothorax")] * 3)


def test_no_mask_means_the_plain_unet_though_the_controlnet_is_trained(stack: GeneratorStack) -> None:
    batch = encode_conditions(stack, [Condition("Normal"), Condition("Normal", BLACK)])
    noisy, steps = _noisy(2), torch.tensor([500, 20])
    plain = stack.unet(noisy, steps, encoder_hidden_states=batch.text_states).sample
    torch.testing.assert_close(predict_noise(stack.unet, stack.controlnet, noisy, steps, batch), plain)
    assert stack.controlnet is not None
    with patch.object(stack.controlnet, "forward", side_effect=AssertionError("ControlNet was run")):
        predict_noise(stack.unet, stack.controlnet, noisy, steps, batch)


def test_mixed_batch_equals_samples_alone_and_residuals_times_presence(stack: GeneratorStack) -> None:
    conditions = [Condition("Normal"), Condition("Normal", _mask()), Condition(None, _mask("right"))]
    noisy, steps = _noisy(3), torch.tensor([700, 300, 10])
    together = predict_noise(stack.unet, stack.controlnet, noisy, steps, encode_conditions(stack, conditions))
    for row, condition in enumerate(conditions):
        part = slice(row, row + 1)
        alone = encode_conditions(stack, [condition])
        single = predict_noise(stack.unet, stack.controlnet, noisy[part], steps[part], alone)
        torch.testing.assert_close(together[part], single, atol=1e-5, rtol=1e-4)
    batch = encode_conditions(stack, conditions)
    assert stack.controlnet is not None
    down, mid = stack.controlnet(
        noisy, steps, encoder_hidden_states=batch.text_states, controlnet_cond=batch.hint, return_dict=False
    )
    weight = batch.mask_present[:, None, None, None]
    multiplied = stack.unet(
        noisy,
        steps,
        encoder_hidden_states=batch.text_states,
        down_block_additional_residuals=tuple(d * weight for d in down),
        mid_block_additional_residual=mid * weight,
    ).sample
    torch.testing.assert_close(together, multiplied, atol=1e-5, rtol=1e-4)


def test_the_mask_changes_the_prediction(stack: GeneratorStack) -> None:
    noisy, steps = _noisy(1), torch.tensor([400])
    left, right = (encode_conditions(stack, [Condition("Normal", _mask(side))]) for side in ("left", "right"))
    difference = predict_noise(stack.unet, stack.controlnet, noisy, steps, left) - predict_noise(
        stack.unet, stack.controlnet, noisy, steps, right
    )
    assert difference.abs().max() > 1e-4


def test_gradients_of_text_only_samples_do_not_reach_the_controlnet() -> None:
    stack = tiny_stack(3)
    _wake_controlnet(stack)
    assert stack.controlnet is not None
    with torch.enable_grad():
        stack.controlnet.requires_grad_(True)
        stack.unet.requires_grad_(True)
        batch = encode_conditions(stack, [Condition("Normal"), Condition("Normal", _mask())])
        output = predict_noise(stack.unet, stack.controlnet, _noisy(2), torch.tensor([5, 5]), batch)
        output[0].square().sum().backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in stack.controlnet.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in stack.unet.parameters())


def test_samples_closed_to_the_controlnet_see_its_residuals_as_constants() -> None:
    stack = tiny_stack(3)
    _wake_controlnet(stack)
    assert stack.controlnet is not None
    batch = encode_conditions(stack, [Condition("Normal", _mask()), Condition("Normal", _mask("right"))])
    noisy, steps = _noisy(2), torch.tensor([5, 300])
    found = {}
    for name, rows, opened in (("both", [0, 1], None), ("second alone", [1], None), ("closed", [0, 1], [False, True])):
        stack.controlnet.requires_grad_(True).zero_grad()
        with torch.enable_grad():
            passes = None if opened is None else torch.tensor(opened)
            output = predict_noise(stack.unet, stack.controlnet, noisy, steps, batch, to_controlnet=passes)
            output[rows].square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in stack.controlnet.parameters() if p.grad is not None])
        found[name] = output.detach(), gradient
    assert torch.equal(found["closed"][0], found["both"][0])
    torch.testing.assert_close(found["closed"][1], found["second alone"][1], atol=1e-6, rtol=1e-4)
    assert not torch.allclose(found["both"][1], found["second alone"][1], atol=1e-6, rtol=1e-2)


def guided(stack: GeneratorStack, noisy: torch.Tensor, step: torch.Tensor, batch: ConditionBatch, scale: float):
    """Guidance as the sampler puts it together."""
    if not needs_guidance(batch, scale):
        return predict_noise(stack.unet, stack.controlnet, noisy, step, batch)
    steps = step.expand(2 * len(batch))
    both = both_branches(stack, batch)
    return guide(predict_noise(stack.unet, stack.controlnet, torch.cat([noisy, noisy]), steps, both), scale)


def test_guidance_formula_and_the_mask_in_both_branches(stack: GeneratorStack) -> None:
    batch = encode_conditions(stack, [Condition("Normal", _mask())])
    noisy, step = _noisy(1), torch.tensor(600)
    conditional = predict_noise(stack.unet, stack.controlnet, noisy, step, batch)
    free = ConditionBatch(torch.zeros_like(batch.text_states), batch.hint, torch.zeros(1), batch.mask_present)
    unconditional = predict_noise(stack.unet, stack.controlnet, noisy, step, free)
    expected = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(guided(stack, noisy, step, batch, 3.0), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("unconditional", ["zero", "empty_prompt"])
def test_guidance_of_mask_only_is_skipped_as_there_is_no_text_to_guide_by(
    stack: GeneratorStack, unconditional: Literal["zero", "empty_prompt"]
) -> None:
    brought = copy.copy(stack)
    brought.unconditional = unconditional
    batch = encode_conditions(brought, [Condition(None, _mask())])
    assert not needs_guidance(batch, 3.0)
    noisy, step = _noisy(1), torch.tensor(600)
    plain = predict_noise(stack.unet, stack.controlnet, noisy, step, batch)
    assert torch.equal(guided(brought, noisy, step, batch, 7.0), plain)


def test_absent_text_is_zero_and_unguided_under_empty_prompt_in_mixed_batches_too(stack: GeneratorStack) -> None:
    brought = copy.copy(stack)
    brought.unconditional = "empty_prompt"
    conditions = [Condition("Normal"), Condition(None, _mask()), Condition("Normal", _mask("right"))]
    batch = encode_conditions(brought, conditions)
    assert torch.count_nonzero(batch.text_states[1]) == 0
    free = batch.without_text(unconditional_states(brought))
    assert torch.count_nonzero(free.text_states[1]) == 0
    empty = encode_text(brought, [""])[0]
    torch.testing.assert_close(free.text_states[0], empty)
    torch.testing.assert_close(free.text_states[2], empty)
    noisy, step = _noisy(3), torch.tensor(600)
    together = guided(brought, noisy, step, batch, 4.0)
    for row, condition in enumerate(conditions):
        alone = guided(brought, noisy[row : row + 1], step, encode_conditions(brought, [condition]), 4.0)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("unconditional", ["zero", "empty_prompt"])
def test_the_unconditional_branch_keeps_the_mask(
    stack: GeneratorStack, unconditional: Literal["zero", "empty_prompt"]
) -> None:
    brought = copy.copy(stack)
    brought.unconditional = unconditional
    batch = encode_conditions(brought, [Condition("Normal", _mask())])
    noisy, step = _noisy(1), torch.tensor([600])
    states = torch.zeros_like(batch.text_states) if unconditional == "zero" else encode_text(brought, [""])
    free = replace(batch, text_states=states, text_present=torch.zeros(1))
    conditional, bare = (predict_noise(stack.unet, stack.controlnet, noisy, step, one) for one in (batch, free))
    expected = bare + 2.5 * (conditional - bare)
    torch.testing.assert_close(guided(brought, noisy, step, batch, 2.5), expected, atol=1e-5, rtol=1e-4)
    without_mask = predict_noise(stack.unet, None, noisy, step, free)
    assert (bare - without_mask).abs().max() > 1e-3


def test_hint_is_resized_and_binary() -> None:
    hint = mask_to_hint(_mask(size=32), 2, 64)
    assert hint.shape == (2, 64, 64)
    assert set(hint.unique().tolist()) == {0.0, 1.0}
    assert torch.count_nonzero(mask_to_hint(None, 3, 16)) == 0


def test_a_thin_structure_survives_a_smaller_generator() -> None:
    """A chest tube one pixel wide, which nearest neighbours miss: an empty hint would silently mean "no mask"."""
    mask = np.zeros((3, 64, 64), np.bool_)
    mask[0, 8:56, 20] = mask[1, 10:50, 10:50] = True
    hint = mask_to_hint(mask, 3, 16)
    assert torch.count_nonzero(hint[0]) == 12  # rows 8 to 55 touch 12 rows of 4
    assert hint[0, :, 5].sum() == 12
    assert torch.equal(hint[1], mask_to_hint(mask[1:2], 1, 16)[0])  # what survives by nearest neighbour is left alone
    assert torch.count_nonzero(hint[1]) == 100
    assert not hint[2].any()


def test_a_mask_of_other_structures_is_refused(stack: GeneratorStack) -> None:
    with refuses(InvalidInput, (3, 32, 32), "(2, H, W)"):
        encode_conditions(stack, [Condition("Normal", np.ones((3, 32, 32), dtype=bool))])
    with refuses(InvalidInput):
        encode_conditions(stack, [])


def test_a_mask_for_a_model_without_controlnet_is_refused(stack: GeneratorStack) -> None:
    bare = copy.copy(stack)
    bare.controlnet = None
    with refuses(InvalidInput, "tiny", "ControlNet"):
        encode_conditions(bare, [Condition("Normal", _mask())])
