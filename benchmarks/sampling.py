"""Speed of sampling against diffusers' pipelines, mode by mode, with the work counted and the results compared.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling --size embedded --peer-from-diffusers --json
    python -m benchmarks.sampling --size sd --device cuda --peer-from-diffusers --json

Ours is batched over all sets of a mode; the peer (`benchmarks/peers/diffusers_sampling.py`) is called set by set, four
images a call. Both have the same weights, schedule, steps, guidance and initial latents, run in one process and take
turns; medians over the repeats, ratio = peer / ours. On a GPU there are two peers: the pipeline in our precision, by
which the target is judged (``judged``), and the pipeline in float32, as it comes from disk; torch's settings are its
defaults for both. ``ratio_ceiling`` is the ratio if ours ran at the device's own measured matrix speed: a target above
it is out of anybody's reach.

``latent_difference`` is the largest one over a set of each mode, in float32 before any compilation and casting;
``grey_mean`` and ``grey_max`` are those of the finished 8-bit images from the float32 pipeline's, ``grey_other`` the
mean difference of two images of different seeds. GFLOP are counted (2 x MAC) for one image, decoding included;
``share`` is the part of the device's matrix speed that they make. ``--size sd`` is a model of Stable Diffusion 2.1's
size with random weights (it draws nothing; it costs what a real one costs). With ``--json`` a row is printed as soon as
it is measured, so that a run cut short has reported, and all of them in one line last.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rows import command_line
from benchmarks.sampling_models import build, make_conditions

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.peers.diffusers_sampling import DiffusersPeer
    from benchmarks.sampling_work import Timing
    from radpref.generation.stack.conditions import Condition
    from radpref.generation.stack.models import GeneratorStack

    Row = dict[str, Any]

LOG = logging.getLogger(__name__)
SET_SIZE = 4
MODES = ("TM2I", "M2I", "T2I")
"""In this order: the ones with a target that compiles most come first, should the time run out."""
TARGETS = {"cpu": {"T2I": 1.3, "M2I": 1.9, "TM2I": 1.0}, "cuda": {"T2I": 3.0, "M2I": 3.0, "TM2I": 3.0}}
SHARE_TARGET = 0.5
"""Of the device's measured matrix speed."""
NOTED_SPEED = 790e12
"""FLOP/s in bf16 of the H100 and H200 that the issue's floors in images a second were computed with."""
TOLERANCE = 1e-3
"""Largest latent difference that still counts as equal: latents are about 1 in size, a float32 sum over a few thousand
terms is good to about 1e-6 of that, and two orders of summation drift apart over the steps."""


@dataclass(frozen=True)
class Size:
    """How much is run.

    sets a turn (mask_sets for M2I, whose images cost half); steps; guidance scale; our batch; repeats; peer_sets: sets
    of a peer's turn; equal_steps: steps over which latents are compared.
    """

    sets: int
    mask_sets: int
    steps: int
    guidance: float
    batch: int
    repeats: int
    peer_sets: int
    equal_steps: int


SIZES = {
    "tiny": Size(2, 2, 3, 2.0, 8, 1, 2, 3),
    "embedded": Size(4, 4, 20, 2.0, 16, 5, 4, 20),
    "sd": Size(8, 16, 25, 4.0, 32, 2, 2, 4),
}


@dataclass(frozen=True)
class Plan:
    """What is measured: a size of `SIZES` on a device, ours in `precision`, and which peers (precisions, none: ours).

    `compile_mode` is torch.compile's, None leaves it out; `repeats` in place of the size's.
    """

    size: str
    device: str
    precision: str = "f32"
    compile_mode: str | None = None
    peers: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    repeats: int | None = None

    @property
    def scale(self) -> Size:
        """The numbers of the size."""
        return SIZES[self.size]

    @property
    def own_precision(self) -> str:
        """That of the peer by which a target is judged: a processor's pipelines run in float32."""
        return self.precision if self.device == "cuda" else "f32"


def measure(plan: Plan, on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """One row per mode and peer, each given to `on_row` as soon as its mode is measured."""
    from benchmarks.peers.diffusers_sampling import DiffusersPeer
    from benchmarks.sampling_work import cudnn, matrix_speed, our_gflop, peer_gflop
    from radpref.generation.sampling.denoising import PRECISIONS, make_ready
    from radpref.generation.sampling.sampler import initial_noise
    from radpref.generation.stack.parts import quiet_libraries

    scale = plan.scale
    stack = build(plan.size, plan.device)
    noise = initial_noise(stack, range(SET_SIZE)).to(stack.device)
    conditions = {m: make_conditions(stack, m, scale.mask_sets if m == "M2I" else scale.sets) for m in plan.modes}
    LOG.info("built")
    peers: dict[str, DiffusersPeer] = {}
    rows: dict[str, list[Row]] = {mode: [{"peer_name": None}] for mode in plan.modes}
    if plan.peers:
        peers["f32"] = DiffusersPeer(stack, scale.steps, scale.guidance)
        for mode in plan.modes:
            with cudnn(benchmark=False, tf32=False):
                rows[mode] = compare(stack, peers["f32"], mode, conditions[mode][0], noise, scale)
        LOG.info("latents compared in float32")
    if plan.device == "cuda":
        with quiet_libraries():
            stack.to(stack.device, PRECISIONS[plan.precision])
        if plan.precision in plan.peers and plan.precision != "f32":
            peers[plan.precision] = DiffusersPeer(stack, scale.steps, scale.guidance)
    speed = matrix_speed(plan.device, plan.precision) if plan.device == "cuda" else None
    for mode in plan.modes:
        work = our_gflop(stack, conditions[mode][0], scale.steps, scale.guidance)
        for row in rows[mode]:
            row |= {"mode": mode, "gflop": work}
            if row["peer_name"] is not None:
                quick = peers.get(plan.own_precision, peers["f32"])
                row["peer_gflop"] = peer_gflop(quick, conditions[mode][0], noise, row["plain"])
    LOG.info("work counted")
    make_ready(stack, precision=plan.precision, compile_mode=plan.compile_mode)
    finished: list[Row] = []
    for mode in plan.modes:
        for row in measure_mode(plan, stack, peers, conditions[mode], noise, rows[mode], speed):
            finished.append(describe(plan) | row)
            on_row(finished[-1])
        LOG.info("%s measured", mode)
    return finished


def measure_mode(
    plan: Plan,
    stack: GeneratorStack,
    peers: dict[str, DiffusersPeer],
    conditions: Sequence[Condition],
    noise: Tensor,
    rows: Sequence[Row],
    speed: float | None,
) -> list[Row]:
    """The rows of one mode, one for each peer and its precision: ours and the peers take turns."""
    from benchmarks.sampling_work import Side, cudnn, interleave, peak_memory
    from radpref.generation.sampling.sampler import sample

    scale = plan.scale
    repeats = scale.repeats if plan.repeats is None else plan.repeats
    every, seeds = [c for c in conditions for _ in range(SET_SIZE)], list(range(SET_SIZE * len(conditions)))
    memory: Row = {}

    def ours() -> np.ndarray:
        modules = list(stack.modules().values())
        with cudnn(benchmark=plan.compile_mode is not None), peak_memory(plan.device, modules, memory):
            return sample(
                stack, every, seeds, n_steps=scale.steps, guidance_scale=scale.guidance, batch_size=scale.batch,
                precision=plan.precision,
            )  # fmt: skip

    def sets(peer: DiffusersPeer, plain: bool, n: int, n_steps: int) -> list[Tensor]:
        with cudnn(benchmark=False), peer.steps(n_steps):
            return [peer.sample_set(condition, noise, plain=plain) for condition in conditions[:n]]

    sides = {"ours": Side(ours, len(every), repeats)}
    measured: list[tuple[str, str, Row]] = []
    for row in rows:
        for precision in plan.peers if row["peer_name"] is not None else ():
            # float32 on a GPU takes several times as long: one set, once
            slow = plan.device == "cuda" and precision != plan.own_precision
            n, name = 1 if slow else scale.peer_sets, f"{row['peer_name']} {precision}"
            peer, plain = peers[precision], row["plain"]
            sides[name] = Side(
                partial(sets, peer, plain, n, scale.steps),
                n * SET_SIZE,
                1 if slow else repeats,
                partial(sets, peer, plain, n, 2 if plan.device == "cuda" else scale.steps),
            )
            measured.append((name, precision, row))
    found = interleave(sides, plan.device)
    finished = []
    for name, precision, row in measured or [("", "", rows[0])]:
        entry = {**row, **memory, **compiled_graphs(plan), "peer_precision": precision or None}
        if precision == "f32" and (row["mode"] != "T2I" or row["plain"]):
            entry |= grey_difference(found["ours"].result, peers["f32"].grey(found[name].result[0]))
        add_times(entry, found["ours"], found.get(name), speed, plan)
        finished.append(entry)
    return finished


def describe(plan: Plan) -> Row:
    """What was run, and with what."""
    import diffusers
    import torch

    described = {
        "size": plan.size, "device": plan.device, "precision": plan.precision, "compile_mode": plan.compile_mode,
        "steps": plan.scale.steps, "batch": plan.scale.batch, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "diffusers": diffusers.__version__,
    }  # fmt: skip
    return described | ({"device_name": torch.cuda.get_device_name()} if plan.device == "cuda" else {})


def compare(
    stack: GeneratorStack, peer: DiffusersPeer, mode: str, condition: Condition, noise: Tensor, scale: Size
) -> list[Row]:
    """For each peer of a mode: its name, and the largest difference of the latents of one set."""
    from benchmarks.sampling_work import our_set

    n = scale.equal_steps
    ours = our_set(stack, condition, list(range(SET_SIZE)), n, scale.guidance)
    found = []
    for plain in (False, True) if mode == "T2I" else (False,):
        # a black hint still leaves trained residuals: equality is asked of the pipeline with them switched off
        strength = 0.0 if mode == "T2I" else 1.0
        with peer.steps(n):
            theirs = peer.sample_set(condition, noise, plain=plain, scale=strength, output="latent")
        name = "StableDiffusionPipeline" if plain else "StableDiffusionControlNetPipeline"
        found.append(
            {
                "peer_name": name + (", black hint" if mode == "T2I" and not plain else ""),
                "plain": plain,
                "latent_difference": float((ours - theirs).abs().max()),
                "latent_size": float(ours.abs().max()),
                "latent_steps": n,
            }
        )
    return found


def grey_difference(ours: np.ndarray, theirs: np.ndarray) -> Row:
    """Mean and largest difference of our first set (n, H, W) uint8 from the peer's (4, H, W); of seeds, for scale."""
    own = ours[: len(theirs)].astype(np.int16)
    apart = np.abs(own - theirs)
    other = np.abs(own - np.roll(own, 1, axis=0))
    return {"grey_mean": float(apart.mean()), "grey_max": int(apart.max()), "grey_other": float(other.mean())}


def compiled_graphs(plan: Plan) -> Row:
    """Graphs compiled so far and the breaks in them; nothing without compilation."""
    if plan.compile_mode is None:
        return {}
    from torch._dynamo.utils import counters

    return {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}


def add_times(row: Row, ours: Timing, peer: Timing | None, speed: float | None, plan: Plan) -> None:
    """Fill times, ratios, targets and the share of the device's speed into a row."""
    row |= {"ours_s": ours.wall, "ours_cpu_s": ours.cpu, "ours_images_per_s": 1 / ours.wall, "warm_up_s": ours.warm}
    row |= {"target": None, "met": None, "judged": False}
    if peer is not None:
        plain, ratio = row.pop("plain"), peer.wall / ours.wall
        known = plan.device == "cpu" or plan.size == "sd"  # the targets of a GPU speak of the large model
        target = TARGETS[plan.device][row["mode"]] if known and not plain else None
        row |= {
            "peer_s": peer.wall,
            "peer_cpu_s": peer.cpu,
            "peer_images_per_s": 1 / peer.wall,
            "ratio": ratio,
            "ratio_cpu": peer.cpu / ours.cpu,
            "target": target,
            "met": None if target is None else bool(ratio >= target),
            "judged": target is not None and row["peer_precision"] == plan.own_precision,
        }
    if speed is not None:
        floor = speed / (row["gflop"] * 1e9)
        row |= {"matrix_tflops": speed / 1e12, "floor_images_per_s": floor, "share": 1 / ours.wall / floor}
        row |= {"share_target": SHARE_TARGET, "share_met": bool(row["share"] >= SHARE_TARGET)}
        noted = NOTED_SPEED / (row["gflop"] * 1e9)
        row |= {"noted_floor_images_per_s": noted, "noted_share": 1 / ours.wall / noted}
        if peer is not None:
            row["ratio_ceiling"] = peer.wall * floor
            row["peer_share"] = row["peer_gflop"] * 1e9 / peer.wall / speed


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line each and all of them in one line last."""
    parser = command_line("sampling", __doc__, SIZES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16", "fp16"), help="default f32, on a GPU bf16")
    parser.add_argument("--compile-mode", choices=("off", "default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="in the order given")
    parser.add_argument("--peer-from-diffusers", action="store_true", help="run diffusers' pipelines beside ours")
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.size == "sd" and options.device == "cpu":
        parser.error("--size sd needs a GPU: add --device cuda")
    on_gpu = options.device == "cuda"
    precision = options.precision or ("bf16" if on_gpu else "f32")
    mode = options.compile_mode or ("default" if on_gpu else "off")
    peers = tuple(dict.fromkeys((precision, "f32") if on_gpu else ("f32",)))
    plan = Plan(
        size=options.size,
        device=options.device,
        precision=precision,
        compile_mode=None if mode == "off" else mode,
        peers=peers if options.peer_from_diffusers else (),
        modes=tuple(dict.fromkeys(options.modes)),
        repeats=options.repeats,
    )

    def on_row(row: Row) -> None:
        known = {key: value for key, value in row.items() if value is not None}
        facts = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in known.items()]
        print(" ".join(facts), file=sys.stderr, flush=True)
        if options.json:
            print(json.dumps(row), flush=True)

    rows = measure(plan, on_row)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
