"""Counted operations, measured seconds and device memory of a piece of work, and what a device could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.benchmark import Timer

from radpref.generation.sampling.denoising import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.peers.diffusers_sampling import DiffusersPeer
    from radpref.generation.stack.conditions import Condition
    from radpref.generation.stack.models import GeneratorStack

SET_SIZE = 4


def count_flops(work: Callable[[], Any]) -> int:
    """Floating-point operations (2 x MAC) of what torch runs in ``work``."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def counted(run: Callable[[int], Any], n_steps: int) -> float:
    """GFLOP of one image at ``n_steps`` from runs of one and two steps of one set."""
    one, two = (count_flops(partial(run, n)) for n in (1, 2))
    return (one + (n_steps - 1) * (two - one)) / SET_SIZE / 1e9


def our_set(stack: GeneratorStack, condition: Condition, seeds: list[int], n_steps: int, guidance: float) -> Tensor:
    """Latents of one set, ours."""
    from radpref.generation.sampling.sampler import sample_latents
    from radpref.generation.stack.conditions import encode_conditions

    batch = encode_conditions(stack, [condition] * len(seeds))
    return sample_latents(stack, batch, seeds, n_steps=n_steps, guidance_scale=guidance)


def our_gflop(stack: GeneratorStack, condition: Condition, n_steps: int, guidance: float) -> float:
    """GFLOP of one of our images, texts encoded afresh."""
    from radpref.generation.sampling.sampler import decode

    def run(n: int) -> None:
        stack.text_cache.clear()
        decode(stack, our_set(stack, condition, list(range(SET_SIZE)), n, guidance))

    return counted(run, n_steps)


def peer_gflop(peer: DiffusersPeer, condition: Condition, noise: Tensor, plain: bool) -> float:
    """GFLOP of one of the peer's images; on a processor without fused attention, which torch cannot count."""

    def run(n: int) -> None:
        with peer.steps(n):
            peer.sample_set(condition, noise, plain=plain)

    try:
        peer.fuse_attention(noise.device.type != "cpu")
        return counted(run, peer.n_steps)
    finally:
        peer.fuse_attention(True)


@dataclass
class Side:
    """One of those that take turns: what a turn is and how many images it gives; how it is warmed up; how often."""

    work: Callable[[], Any]
    images: int
    turns: int
    warm: Callable[[], Any] | None = None


@dataclass
class Timing:
    """Seconds an image, wall and processor (medians over the turns); of the warm-up; what the last turn gave."""

    wall: float
    cpu: float
    warm: float
    result: Any = None


def interleave(sides: dict[str, Side], device: str) -> dict[str, Timing]:
    """Warm all sides up, then let them take turns; one with fewer turns drops out early."""

    def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        synchronise(device)
        return time.perf_counter() - wall, time.process_time() - cpu, result

    warm = {name: timed(side.warm or side.work)[0] for name, side in sides.items()}
    times: dict[str, list[tuple[float, float, Any]]] = {name: [] for name in sides}
    for turn in range(max(side.turns for side in sides.values())):
        for name, side in sides.items():
            if turn < side.turns:
                times[name].append(timed(side.work))
    return {
        name: Timing(
            statistics.median(one[0] for one in found) / sides[name].images,
            statistics.median(one[1] for one in found) / sides[name].images,
            warm[name],
            found[-1][2],
        )
        for name, found in times.items()
    }


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_speed(device: str, precision: str, side: int = 8192) -> float:
    """The device's FLOP/s on one large matrix product, best of ten: the floor's unit."""
    a = torch.randn(side, side, device=device, dtype=PRECISIONS[precision])
    timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    return 2 * side**3 / min(float(timer.timeit(1).mean) for _ in range(10))


def cudnn(*, benchmark: bool, tf32: bool = True) -> AbstractContextManager[Any]:
    """cuDNN's two settings for a block: trying its algorithms for each shape; TF32 in float32 convolutions.

    Torch's own defaults: no trials, TF32.
    """
    return torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=tf32)


@contextmanager
def peak_memory(device: str, modules: Sequence[torch.nn.Module], into: dict[str, Any]) -> Iterator[None]:
    """Writes the most device memory a block took, in GiB, with the weights of ``modules``, to ``into["memory_gib"]``.

    What else lies on the device is not counted.
    """
    if device != "cuda":
        yield
        return
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    peak = torch.cuda.max_memory_allocated() - before + weights
    into["memory_gib"] = peak / 2**30
