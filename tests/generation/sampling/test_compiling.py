"""Compiled networks: how many graphs there are, that nothing is compiled twice, and that they draw the same images.

The backend counts graphs and runs them as they are: what is tested is what torch traces, which is the same on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from radpref.generation.sampling.compiling import (
    GRAPHS_KEPT,
    INDUCTOR_OPTIONS,
    compile_networks,
    images_per_batch,
    is_compiled,
    zero_residuals,
)
from radpref.generation.sampling.denoising import make_ready
from radpref.generation.sampling.sampler import initial_noise, sample
from radpref.generation.stack.conditions import Condition, control_residuals, encode_conditions
from radpref.generation.stack.models import GeneratorStack, tiny_stack

BATCH, SCALE = 2, 2.0


def trained(seed: int) -> GeneratorStack:
    """A tiny stack, laid out for sampling, whose ControlNet's residuals are not zero."""
    stack = make_ready(tiny_stack(seed))
    assert stack.controlnet is not None
    generator = torch.Generator().manual_seed(seed)
    for zero in (*stack.controlnet.controlnet_down_blocks, stack.controlnet.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.1, generator=generator)
    return stack


def conditions(mode: str, n: int) -> list[Condition]:
    mask = np.zeros((2, 32, 32), dtype=bool)
    mask[1, 8:24, 8:24] = True
    texts = ["normal", "severe effusion", "pneumonia"]
    text = {"M2I": [None] * 3}.get(mode, texts)
    return [Condition(text[i % 3], None if mode == "T2I" else np.roll(mask, i, axis=2)) for i in range(n)]


def draw(stack: GeneratorStack, mode: str, n: int, first_seed: int, n_steps: int = 2) -> np.ndarray:
    seeds = range(first_seed, first_seed + n)
    return sample(
        stack, conditions(mode, n), list(seeds), n_steps=n_steps, guidance_scale=SCALE, batch_size=BATCH
    ).astype(int)


@pytest.fixture(scope="module")
def graphs() -> Iterator[list[Any]]:
    """The graphs that are compiled, as they come; torch's caches are empty before and after."""
    torch._dynamo.reset()
    counters.clear()
    yield []
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def compile_counted(graphs: list[Any]) -> Any:
    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    def compiled(stack: GeneratorStack) -> GeneratorStack:
        compile_networks(stack, "default", backend)
        return stack

    return compiled


def test_each_network_is_one_graph_whatever_the_mode_the_batch_and_the_step(
    graphs: list[Any], compile_counted: Any
) -> None:
    plain, compiled = trained(1), compile_counted(trained(1))
    assert is_compiled(compiled)
    assert not is_compiled(plain)
    for mode, known in {"T2I": 2, "TM2I": 3, "M2I": 3}.items():  # UNet and decoder, then the ControlNet
        first = draw(compiled, mode, 5, first_seed=0)  # five images: a batch that is not full comes last
        assert np.abs(first - draw(plain, mode, 5, first_seed=0)).max() <= 1
        assert len(graphs) == known
    for mode in ("M2I", "T2I", "TM2I"):
        draw(compiled, mode, 3, first_seed=7, n_steps=3)
    assert len(graphs) == 3
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


def test_another_arm_reuses_the_graphs_with_its_own_weights(graphs: list[Any], compile_counted: Any) -> None:
    one, plain, other = compile_counted(trained(1)), trained(2), compile_counted(trained(2))
    before = draw(one, "TM2I", 2, first_seed=0)
    known = len(graphs)
    after = draw(other, "TM2I", 2, first_seed=0)
    assert len(graphs) == known
    assert np.abs(after - draw(plain, "TM2I", 2, first_seed=0)).max() <= 1
    assert np.abs(after - before).mean() > 4
    assert torch._dynamo.config.recompile_limit >= GRAPHS_KEPT


def test_zero_residuals_are_those_of_the_controlnet_in_shape_type_and_layout() -> None:
    stack = trained(1)
    assert stack.controlnet is not None
    batch = encode_conditions(stack, conditions("TM2I", 2))
    latents = initial_noise(stack, [1, 2])
    with torch.no_grad():
        down, mid = control_residuals(stack.controlnet, latents, torch.tensor([500, 500]), batch)
        zero_down, zero_mid = zero_residuals(stack.unet, latents)
    assert len(zero_down) == len(down)
    for real, zero in zip((*down, mid), (*zero_down, zero_mid), strict=True):
        assert (zero.shape, zero.dtype, zero.stride()) == (real.shape, real.dtype, real.stride())
        assert not zero.any()
        assert real.any()


def test_masks_alone_come_in_batches_of_as_many_rows_as_guided_images() -> None:
    stack = trained(1)
    assert images_per_batch(stack, "M2I", 4, SCALE) == 4
    compile_networks(stack, "default", backend=lambda graph, inputs: graph.forward)
    assert [images_per_batch(stack, mode, 4, SCALE) for mode in ("T2I", "TM2I", "M2I")] == [4, 4, 8]
    assert images_per_batch(stack, "M2I", 4, 1.0) == 4  # no guidance: one branch in all modes


def test_torchs_own_compiler_knows_the_options() -> None:
    from torch._inductor import config, list_mode_options

    for mode in ("default", "reduce-overhead", "max-autotune"):
        assert all(hasattr(config, key.split(".")[0]) for key in list_mode_options(mode) | INDUCTOR_OPTIONS)
    assert "options" in inspect.signature(torch.compile).parameters
