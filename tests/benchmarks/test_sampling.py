"""The sampling benchmark at its smallest size: rows, equal latents, and work that is counted, not timed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.peers.diffusers_sampling import DiffusersPeer
from benchmarks.sampling import MODES, SIZES, TOLERANCE, Plan, add_times, grey_difference, measure
from benchmarks.sampling_models import build, make_conditions, sd_stack
from benchmarks.sampling_work import Side, Timing, count_flops, interleave, matrix_speed, our_set
from radpref.generation.sampling.sampler import decode, initial_noise
from radpref.generation.stack.conditions import encode_conditions
from radpref.generation.stack.models import GeneratorStack

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
        with peer.steps(n):
            peer.sample_set(condition, noise, plain=plain, output="latent")

    return per_step(run)


def test_rows_say_what_was_run_and_the_results_are_equal() -> None:
    seen: list[dict] = []
    rows = measure(Plan("tiny", "cpu", peers=("f32",), repeats=1), seen.append)
    named = [(row["mode"], row["peer_name"]) for row in rows]
    controlled = "StableDiffusionControlNetPipeline"
    assert named == [
        ("TM2I", controlled),
        ("M2I", controlled),
        ("T2I", f"{controlled}, black hint"),
        ("T2I", "StableDiffusionPipeline"),
    ]
    for row in rows:
        assert row["latent_difference"] < TOLERANCE  # float32 sums in another order, over a few steps
        assert row["latent_size"] > 1  # the latents are not all zero, so the difference means something
        assert min(row["ours_s"], row["peer_s"], row["ours_cpu_s"], row["peer_cpu_s"]) > 0
        assert row["ratio"] == row["peer_s"] / row["ours_s"]
        assert (row["threads"], row["peer_precision"]) == (torch.get_num_threads(), "f32")
        if "grey_max" in row:  # finished images, texts alone against the pipeline that knows texts only
            assert row["grey_max"] <= 1 < row["grey_other"]
    assert ["grey_max" in row for row in rows] == [True, True, False, True]
    assert [row["target"] for row in rows] == [1.0, 1.9, 1.3, None]
    assert [row["judged"] for row in rows] == [True, True, True, False]
    assert rows[3]["met"] is None
    assert seen == rows  # each was told as soon as it was measured


def test_without_a_peer_there_is_one_row_a_mode() -> None:
    rows = measure(Plan("tiny", "cpu", modes=("M2I", "T2I"), repeats=1))
    assert [row["mode"] for row in rows] == ["M2I", "T2I"]
    assert all("ratio" not in row and row["gflop"] > 0 for row in rows)


def gpu_row(peer_precision: str, **more: object) -> dict:
    row = {"peer_name": "p", "plain": False, "mode": "M2I", "gflop": 100.0, "peer_gflop": 150.0}
    row |= {"peer_precision": peer_precision, **more}
    plan = Plan("sd", "cuda", precision="bf16", peers=("bf16", "f32"))
    add_times(row, Timing(2.0, 0.5, 9.0), Timing(3.0, 0.5, 9.0), 1e12, plan)
    return row


def test_a_missed_target_a_share_and_what_was_within_reach_are_said() -> None:
    row = gpu_row("bf16")
    assert (row["ratio"], row["target"], row["met"], row["judged"]) == (1.5, 3.0, False, True)
    assert (row["share"], row["share_met"], row["floor_images_per_s"]) == (0.05, False, 10.0)
    # the peer makes 150 GFLOP in 3 s, a twentieth of the device's; ours at the floor would be thirty times as fast
    assert (row["peer_share"], row["ratio_ceiling"]) == (0.05, 30.0)
    assert row["noted_share"] == pytest.approx(0.05 / 790)


def test_the_target_is_judged_by_the_pipeline_in_our_precision() -> None:
    assert [gpu_row(one)["judged"] for one in ("bf16", "f32")] == [True, False]
    assert [gpu_row("bf16", plain=True)[key] for key in ("target", "met", "judged")] == [None, None, False]


def test_grey_levels_are_those_of_the_first_set() -> None:
    ours = np.zeros((6, 2, 2), np.uint8)
    ours[1], ours[5] = 100, 77
    theirs = ours[:4].copy()
    theirs[0, 0, 0], theirs[1, 0, 0] = 3, 95
    assert grey_difference(ours, theirs) == {"grey_mean": 0.5, "grey_max": 5, "grey_other": 50.0}


def test_sides_take_turns_after_a_warm_up_and_a_slow_one_drops_out() -> None:
    calls: list[str] = []

    def side(name: str, turns: int, warm: str | None = None) -> Side:
        return Side(partial(calls.append, name), 2, turns, None if warm is None else partial(calls.append, warm))

    found = interleave({"a": side("a", 2), "b": side("b", 1, "b warm")}, "cpu")
    assert calls == ["a", "b warm", "a", "b", "a"]
    assert set(found) == {"a", "b"}
    assert found["a"].wall >= 0


def test_matrix_speed_is_counted_operations_over_seconds() -> None:
    assert 1e6 < matrix_speed("cpu", "f32", 64) < 1e15


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
    for size in SIZES.values():
        assert size.batch % 4 == 0
        assert size.sets > 0
        assert 1 <= size.peer_sets <= min(size.sets, size.mask_sets)
    assert set(MODES) == {"T2I", "M2I", "TM2I"}
    large = SIZES["sd"]  # a turn is one full batch: 64 UNet rows whatever the mode
    assert 4 * large.sets == large.batch
    assert 4 * large.mask_sets == 2 * large.batch
