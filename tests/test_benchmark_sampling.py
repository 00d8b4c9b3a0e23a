"""The sampling benchmark at its smallest size: rows, equal latents, and work that is counted, not timed."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks.peers.diffusers_sampling import DiffusersPeer
from benchmarks.sampling import (
    SIZES,
    TARGETS,
    TOLERANCE,
    add_times,
    build,
    count_flops,
    make_conditions,
    measure,
    our_set,
    sd_stack,
)
from generation.sampling.sampler import decode, initial_noise
from generation.stack.conditions import encode_conditions
from generation.stack.models import GeneratorStack

SEEDS = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def stack() -> GeneratorStack:
    return build("tiny", "cpu")


def per_step(run) -> int:
    """Operations of one step: a run of three steps less one of two, so that what is done once falls out."""
    run(1)  # texts that ours keeps are encoded here
    return count_flops(lambda: run(3)) - count_flops(lambda: run(2))


def ours_per_step(stack: GeneratorStack, mode: str) -> int:
    condition = make_conditions(stack, mode, 1)[0]
    return per_step(lambda n: our_set(stack, condition, SEEDS, n, 2.0))


def peer_per_step(stack: GeneratorStack, mode: str, *, plain: bool = False) -> int:
    condition, noise = make_conditions(stack, mode, 1)[0], initial_noise(stack, SEEDS)
    peer = DiffusersPeer(stack, 3, 2.0)
    peer.fuse_attention(False)

    def run(n: int) -> None:
        peer.n_steps = n
        peer.sample_set(condition, noise, plain=plain, output="latent")

    return per_step(run)


def test_rows_say_what_was_run_and_the_results_are_equal() -> None:
    rows = measure("tiny", "cpu", with_peer=True, precision="f32", compile_mode=None, repeats=1)
    named = [(row["mode"], row["peer_name"]) for row in rows]
    controlled = "StableDiffusionControlNetPipeline"
    assert named == [
        ("T2I", f"{controlled}, black hint"),
        ("T2I", "StableDiffusionPipeline"),
        ("M2I", controlled),
        ("TM2I", controlled),
    ]
    for row in rows:
        assert row["latent_difference"] < TOLERANCE  # float32 sums in another order, over a few steps
        assert row["latent_size"] > 1  # the latents are not all zero, so the difference means something
        assert min(row["ours_s"], row["peer_s"], row["ours_cpu_s"], row["peer_cpu_s"]) > 0
        assert row["ratio"] == row["peer_s"] / row["ours_s"]
        assert row["threads"] == torch.get_num_threads()
    assert [row["target"] for row in rows] == [1.3, None, 1.9, 1.0]
    assert rows[1]["met"] is None


def test_without_a_peer_there_is_one_row_a_mode() -> None:
    rows = measure("tiny", "cpu", with_peer=False, precision="f32", compile_mode=None, repeats=1)
    assert [row["mode"] for row in rows] == list(TARGETS["cpu"])
    assert all("ratio" not in row and row["gflop"] > 0 for row in rows)


def test_a_missed_target_and_a_share_are_said() -> None:
    row = {"peer_name": "p", "plain": False, "device": "cuda", "mode": "M2I", "gflop": 100.0}
    add_times(row, {"ours": (4.0, 1.0), "p": (6.0, 1.0)}, n_images=2, speed=1e12)
    assert (row["ratio"], row["target"], row["met"]) == (1.5, 3.0, False)
    assert (row["share"], row["share_met"]) == (0.05, False)


def test_masks_alone_cost_half_of_what_both_branches_cost(stack: GeneratorStack) -> None:
    assert 2 * ours_per_step(stack, "M2I") == ours_per_step(stack, "TM2I")
    assert 2 * ours_per_step(stack, "M2I") < peer_per_step(stack, "M2I")


def test_texts_alone_cost_no_controlnet(stack: GeneratorStack) -> None:
    assert ours_per_step(stack, "T2I") == peer_per_step(stack, "T2I", plain=True)
    assert ours_per_step(stack, "T2I") < 0.8 * peer_per_step(stack, "T2I")


def test_hints_are_encoded_once_and_not_in_every_step(stack: GeneratorStack) -> None:
    batch = encode_conditions(stack, make_conditions(stack, "TM2I", 1) * 4)
    with torch.no_grad():
        encoder = count_flops(lambda: stack.controlnet.controlnet_cond_embedding(batch.hint))
    assert peer_per_step(stack, "TM2I") - ours_per_step(stack, "TM2I") == 2 * encoder  # both branches, every step
    condition = make_conditions(stack, "TM2I", 1)[0]
    text_and_hint = count_flops(lambda: our_set(stack, condition, SEEDS, 1, 2.0)) - ours_per_step(stack, "TM2I")
    assert text_and_hint == encoder  # the text was encoded before and is kept


def test_counted_work_is_that_of_the_parts(stack: GeneratorStack) -> None:
    latents = torch.zeros(4, *stack.latent_shape)
    whole = count_flops(partial(decode, stack, latents))
    assert whole == 4 * count_flops(partial(decode, stack, latents[:1])) > 0


def test_the_large_model_costs_what_stable_diffusion_costs() -> None:
    large = sd_stack("meta")  # shapes without numbers
    latents, step = torch.zeros(1, 4, 64, 64, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    states, hint = torch.zeros(1, 77, 1024, device="meta"), torch.zeros(1, 5, 512, 512, device="meta")
    assert large.latent_shape == (4, 64, 64)
    with torch.no_grad():
        unet = count_flops(lambda: large.unet(latents, step, encoder_hidden_states=states))
        control = count_flops(lambda: large.controlnet(latents, step, states, controlnet_cond=hint))
        decoder = count_flops(lambda: large.vae.decode(latents))
        text = count_flops(lambda: large.text_encoder(input_ids=torch.zeros(1, 77, dtype=torch.long, device="meta")))
    assert unet == pytest.approx(803e9, rel=0.01)
    assert control == pytest.approx(283e9, rel=0.01)
    assert decoder == pytest.approx(2515e9, rel=0.01)
    assert text < unet / 10


def test_sizes_are_those_that_the_targets_speak_of() -> None:
    assert set(SIZES) == {"tiny", "embedded", "sd"}
    assert all(size.batch % 4 == 0 and size.sets > 0 for size in SIZES.values())
