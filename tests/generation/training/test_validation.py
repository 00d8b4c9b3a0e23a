"""Sheets and losses during training: the same conditions, noise and times every time; nothing is disturbed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.models import tiny_stack
from radpref.generation.training.compute import Compute
from radpref.generation.training.latents import encode_corpus
from radpref.generation.training.unet_training import NoiseObjective
from radpref.generation.training.validation import (
    Validation,
    choose_conditions,
    sheet_row,
    validation_draw,
    validation_loss,
)
from tests.support.training import MIXED, training_corpus

MASK = np.zeros((2, 32, 32), dtype=bool)
MASK[0, 8:24, 4:12] = True


def test_conditions_take_the_modes_in_turn_and_show_only_what_a_mode_shows() -> None:
    candidates = [Condition(f"text {i}", MASK if i % 2 else None) for i in range(20)]
    chosen = choose_conditions(candidates, (0.4, 0.2, 0.4), 9)
    assert [condition.mode for condition in chosen] == ["T2I"] * 3 + ["M2I"] * 3 + ["TM2I"] * 3
    assert [condition.text for condition in chosen[:3]] == ["text 0", "text 9", "text 19"]
    assert all(condition.text is None for condition in chosen[3:6])
    assert [condition.mode for condition in choose_conditions(candidates, (1.0, 0.0, 0.0), 8)] == ["T2I"] * 8
    assert choose_conditions([Condition("only text")], (0.0, 1.0, 0.0), 8) == []


def test_the_validation_loss_is_fixed_and_does_not_depend_on_its_batches(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    corpus = encode_corpus(stack, training_corpus(10), tmp_path)
    objective = NoiseObjective(stack, corpus, MIXED, Compute(), None)
    torch.manual_seed(1)
    first = validation_loss(objective)
    torch.manual_seed(2)
    assert validation_loss(objective) == first
    assert abs(validation_loss(objective, batch_size=3) - first) < 1e-5 * first
    draw = validation_draw(corpus, MIXED, 1000)
    assert sorted(draw.timesteps.tolist()) == [50 + 100 * k for k in range(10)]
    assert draw.keep[:, 0].all()
    without = validation_draw(corpus, replace(MIXED, mode_mix=(1.0, 0.0, 0.0)), 1000)
    assert not without.keep.any()
    assert torch.equal(without.noise, draw.noise)
    masks = validation_draw(corpus, replace(MIXED, mode_mix=(0.0, 1.0, 0.0)), 1000)
    assert not masks.text_present.any()


def test_a_sheet_is_the_same_again_and_leaves_the_stack_as_it_was(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    stack.unet.train()
    stack.text_cache["stale"] = torch.zeros(1)
    conditions = [Condition("severe effusion"), Condition(None, MASK), Condition("clear lungs", MASK)]
    validation = Validation(stack, None, conditions, tmp_path, "masks", n_steps=2)
    assert validation(3) == {"sheet": "masks-000003.png"}
    validation(12)
    assert (tmp_path / "masks-000003.png").read_bytes() == (tmp_path / "masks-000012.png").read_bytes()
    assert stack.unet.training
    assert not stack.vae.training
    assert stack.text_cache == {}


def test_a_row_of_a_sheet_shows_mask_and_sample() -> None:
    image = np.full((32, 32), 90, dtype=np.uint8)
    mask, sample = sheet_row(image, Condition(None, MASK), with_mask=True).groups
    assert (sample == image).all()
    assert ((mask[0] > 0) == MASK[0]).all()
    empty, _ = sheet_row(image, Condition("effusion"), with_mask=True).groups
    assert not empty.any()
    assert len(sheet_row(image, Condition("effusion"), with_mask=False).groups) == 1
