"""Speed of sampling against diffusers' pipelines, mode by mode, with the work counted and the results compared.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling --size embedded --peer-from-diffusers --json
    python -m benchmarks.sampling --size sd --device cuda --peer-from-diffusers --json

Ours is batched over all sets of a mode; the peer (`benchmarks/peers/diffusers_sampling.py`) is called set by set, four
images a call. Both have the same weights, schedule, steps, guidance and initial latents, run in one process and take
turns; medians over the repeats, ratio = peer / ours. `latent_difference` is the largest one over a set of each
mode, in float32 before any compilation and casting. GFLOP are counted (2 x MAC) for one image, decoding included; on a
GPU `share` says which part of the device's own measured matrix speed they make. `--size sd` is a model of Stable
Diffusion 2.1's size with random weights (it draws nothing; it costs what a real one costs).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.peers.diffusers_sampling import DiffusersPeer
    from generation.stack.conditions import Condition
    from generation.stack.models import GeneratorStack

SET_SIZE = 4
TARGETS = {"cpu": {"T2I": 1.3, "M2I": 1.9, "TM2I": 1.0}, "cuda": {"T2I": 3.0, "M2I": 3.0, "TM2I": 3.0}}
SHARE_TARGET = 0.5
"""Of the device's measured matrix speed."""
TOLERANCE = 1e-3
"""Largest latent difference that still counts as equal: latents are about 1 in size, a float32 sum over a few thousand
terms is good to about 1e-6 of that, and two orders of summation drift apart over the steps."""
TEXTS = (
    "severe left pleural effusion", "mild right pneumothorax", "moderate cardiomegaly", "pulmonary edema",
    "right lower lobe pneumonia", "normal", "left basal atelectasis", "bilateral consolidation",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is run: sets per mode, steps, guidance scale, our batch, repeats."""

    sets: int
    steps: int
    guidance: float
    batch: int
    repeats: int


SIZES = {"tiny": Size(2, 3, 2.0, 8, 1), "embedded": Size(4, 20, 2.0, 16, 5), "sd": Size(16, 25, 4.0, 32, 3)}


def build(size: str, device: str) -> GeneratorStack:
    """The stack of a size, in float32; the ControlNet's residuals are not zero, so that leaving it out would show."""
    import torch

    from generation.stack.models import load_stack, quiet_libraries, tiny_stack

    if size == "embedded":
        return load_stack("embedded", device)
    stack = tiny_stack(0) if size == "tiny" else sd_stack(device)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for convolution in (*stack.controlnet.controlnet_down_blocks, stack.controlnet.controlnet_mid_block):
            drawn = torch.randn(convolution.weight.shape, generator=generator)
            convolution.weight.copy_(0.02 * drawn)
    with quiet_libraries():
        return stack.to(device).eval()


def sd_stack(device: str) -> GeneratorStack:
    """A model of Stable Diffusion 2.1's shape at 512 px with five hint channels, random weights, made on the device."""
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from generation.stack.models import GeneratorStack, make_scheduler
    from generation.stack.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(list(TEXTS), n_merges=100)
    tokenizer.model_max_length = 77
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=512,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        controlnet = ControlNetModel.from_unet(unet, conditioning_channels=5)
        structures = ("lungs", "heart", "pneumothorax", "rib_fractures", "chest_tubes")
        return GeneratorStack(
            vae, unet, controlnet, CLIPTextModel(text), tokenizer, make_scheduler(), structures, 512, model_id="sd"
        )


def make_conditions(stack: GeneratorStack, mode: str, n: int) -> list[Condition]:
    """``n`` different conditions of a mode; masks are boxes."""
    from generation.stack.conditions import Condition

    found = []
    for i in range(n):
        mask = np.zeros((len(stack.structures), stack.image_size, stack.image_size), np.bool_)
        side = stack.image_size // 4
        mask[i % len(mask), side : 3 * side, side + i : 2 * side + i] = True
        text = TEXTS[i % len(TEXTS)] if mode != "M2I" else None
        found.append(Condition(text, mask if mode != "T2I" else None))
    return found


def our_set(stack: GeneratorStack, condition: Condition, seeds: list[int], n_steps: int, guidance: float) -> Tensor:
    """Latents of one set, ours."""
    from generation.sampling.sampler import sample_latents
    from generation.stack.conditions import encode_conditions

    batch = encode_conditions(stack, [condition] * len(seeds))
    return sample_latents(stack, batch, seeds, n_steps=n_steps, guidance_scale=guidance)


def count_flops(work: Callable[[], Any]) -> int:
    """Floating-point operations (2 x MAC) of what torch runs in ``work``."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def counted(run: Callable[[int], Any], n_steps: int) -> float:
    """GFLOP of one image at ``n_steps`` from runs of one and two steps of one set."""
    one, two = (count_flops(lambda n=n: run(n)) for n in (1, 2))
    return (one + (n_steps - 1) * (two - one)) / SET_SIZE / 1e9


def our_gflop(stack: GeneratorStack, condition: Condition, n_steps: int, guidance: float) -> float:
    """GFLOP of one of our images, texts encoded afresh."""
    from generation.sampling.sampler import decode

    def run(n: int) -> None:
        stack.text_cache.clear()
        decode(stack, our_set(stack, condition, list(range(SET_SIZE)), n, guidance))

    return counted(run, n_steps)


def peer_gflop(peer: DiffusersPeer, condition: Condition, noise: Tensor, plain: bool) -> float:
    """GFLOP of one of the peer's images; on a processor without fused attention, which torch cannot count."""
    steps = peer.n_steps

    def run(n: int) -> None:
        peer.n_steps = n
        peer.sample_set(condition, noise, plain=plain)

    try:
        peer.fuse_attention(noise.device.type != "cpu")
        return counted(run, steps)
    finally:
        peer.fuse_attention(True)
        peer.n_steps = steps


def interleave(sides: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of each side; the sides take turns, the first round is thrown away."""
    import torch

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, work in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(t[0] for t in found), statistics.median(t[1] for t in found))
        for name, found in times.items()
    }


def matrix_speed(precision: str) -> float:
    """The device's FLOP/s on one large matrix product, best of ten: the floor's unit."""
    import torch

    from generation.sampling.denoising import PRECISIONS

    a = torch.randn(8192, 8192, device="cuda", dtype=PRECISIONS[precision])
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = max(best, 2 * 8192**3 / (time.perf_counter() - started))
    return best


def measure(
    size: str, device: str, *, with_peer: bool, precision: str, compile_mode: str | None, repeats: int | None = None
) -> list[dict[str, Any]]:
    """One row per mode and peer; peers only where asked for."""
    from generation.sampling.denoising import PRECISIONS, make_ready
    from generation.sampling.sampler import initial_noise, sample
    from generation.stack.models import quiet_libraries

    scale = SIZES[size]
    stack = build(size, device)
    noise = initial_noise(stack, range(SET_SIZE)).to(device)
    conditions = {mode: make_conditions(stack, mode, scale.sets) for mode in TARGETS["cpu"]}
    rows: list[dict[str, Any]] = []
    for mode, own in conditions.items():
        entry = {"mode": mode, "size": size, "device": device, "precision": precision, "threads": n_threads()}
        rows.append({**entry, "peer_name": None, "gflop": our_gflop(stack, own[0], scale.steps, scale.guidance)})
        if with_peer:
            rows[-1:] = [{**rows[-1], **compared} for compared in compare(stack, mode, own[0], noise, scale)]
    if device == "cuda":
        with quiet_libraries():
            stack.to(device, PRECISIONS[precision])  # both sides: a pipeline is used in half precision there
    peer = make_peer(stack, scale) if with_peer else None
    make_ready(stack, precision=precision, compile_mode=compile_mode)
    speed = matrix_speed(precision) if device == "cuda" else None
    for mode, own in conditions.items():
        mine = [row for row in rows if row["mode"] == mode]
        every, seeds = [c for c in own for _ in range(SET_SIZE)], list(range(SET_SIZE * len(own)))
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda e=every, s=seeds: sample(
                stack, e, s, n_steps=scale.steps, guidance_scale=scale.guidance, batch_size=scale.batch,
                precision=precision,
            )
        }  # fmt: skip
        for row in mine if peer is not None else ():
            sides[row["peer_name"]] = lambda c=own, plain=row["plain"], p=peer: [
                p.sample_set(one, noise, plain=plain) for one in c
            ]
        found = interleave(sides, scale.repeats if repeats is None else repeats, device)
        for row in mine:
            add_times(row, found, len(every), speed)
    return rows


def make_peer(stack: GeneratorStack, scale: Size) -> DiffusersPeer:
    """The pipelines on copies of the stack's networks as they are now."""
    from benchmarks.peers.diffusers_sampling import DiffusersPeer

    return DiffusersPeer(stack, scale.steps, scale.guidance)


def compare(stack: GeneratorStack, mode: str, condition: Condition, noise: Tensor, scale: Size) -> list[dict[str, Any]]:
    """For each peer of a mode: its name, counted work, and the largest difference of the latents of one set."""
    peer = make_peer(stack, scale)
    ours = our_set(stack, condition, list(range(SET_SIZE)), scale.steps, scale.guidance)
    found = []
    for plain in (False, True) if mode == "T2I" else (False,):
        # a black hint still leaves trained residuals: equality is asked of the pipeline with them switched off
        strength = 0.0 if mode == "T2I" else 1.0
        theirs = peer.sample_set(condition, noise, plain=plain, scale=strength, output="latent")
        name = "StableDiffusionPipeline" if plain else "StableDiffusionControlNetPipeline"
        found.append(
            {
                "peer_name": name + (", black hint" if mode == "T2I" and not plain else ""),
                "plain": plain,
                "peer_gflop": peer_gflop(peer, condition, noise, plain),
                "latent_difference": float((ours - theirs).abs().max()),
                "latent_size": float(ours.abs().max()),
            }
        )
    return found


def add_times(row: dict[str, Any], found: dict[str, tuple[float, float]], n_images: int, speed: float | None) -> None:
    """Fill times, ratios, targets and the share of the device's speed into a row."""
    wall, cpu = found["ours"]
    row |= {"ours_s": wall / n_images, "ours_cpu_s": cpu / n_images, "target": None, "met": None}
    if row["peer_name"] is not None:
        peer_wall, peer_cpu = found[row["peer_name"]]
        target = None if row.pop("plain") else TARGETS[row["device"]][row["mode"]]
        ratio = peer_wall / wall
        row |= {
            "peer_s": peer_wall / n_images,
            "peer_cpu_s": peer_cpu / n_images,
            "ratio": ratio,
            "ratio_cpu": peer_cpu / cpu,
            "target": target,
            "met": None if target is None else bool(ratio >= target),
        }
    if speed is not None:
        share = row["gflop"] * 1e9 / row["ours_s"] / speed
        row |= {"matrix_tflops": speed / 1e12, "share": share, "share_target": SHARE_TARGET}
        row["share_met"] = bool(share >= SHARE_TARGET)


def n_threads() -> int:
    """Processor threads of torch."""
    import torch

    return torch.get_num_threads()


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16", "fp16"), help="default f32, on a GPU bf16")
    parser.add_argument("--compile-mode", choices=("off", "default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--peer-from-diffusers", action="store_true", help="run diffusers' pipelines beside ours")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.size == "sd" and options.device == "cpu":
        parser.error("--size sd needs a GPU: add --device cuda")
    on_gpu = options.device == "cuda"
    mode = options.compile_mode or ("default" if on_gpu else "off")
    rows = measure(
        options.size,
        options.device,
        with_peer=options.peer_from_diffusers,
        precision=options.precision or ("bf16" if on_gpu else "f32"),
        compile_mode=None if mode == "off" else mode,
        repeats=options.repeats,
    )
    for row in rows:
        known = {key: value for key, value in row.items() if value is not None}
        facts = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in known.items()]
        print(" ".join(facts), file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
