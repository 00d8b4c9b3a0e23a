"""Training steps alone and beside another program, with OpenMP threads that wait passively (ours) and that spin (peer).

    python -m benchmarks.waiting --size full --json

Each measurement is a separate process that loads the embedded generator's UNet and trains it, forward and backward,
on one batch; the policies take turns. "Beside another program": a second process of the same kind runs all the while.
Targets: alone at least 0.97 of the spinning threads' speed; beside, faster than them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.rows import command_line, row, show

SIZES = {"tiny": (4, 1), "full": (10, 3)}
"""(steps a measurement, measurements of each policy)."""
BATCH = 8
POLICIES = ("PASSIVE", "ACTIVE")
LEAST_ALONE, LEAST_BESIDE = 0.97, 1.0


def work(n_steps: int) -> float:
    """Seconds of ``n_steps`` training steps of the embedded UNet in this process, after one that does not count."""
    import torch

    from radpref.generation.stack.loading import load_stack
    from radpref.generation.stack.places import SHIPPED

    stack = load_stack(SHIPPED["embedded"])
    unet = stack.unet.train().requires_grad_(True)
    config = unet.config
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(
        BATCH, config["in_channels"], config["sample_size"], config["sample_size"], generator=generator
    )
    states = torch.randn(BATCH, 16, config["cross_attention_dim"], generator=generator)
    started = 0.0
    for step in range(n_steps + 1):
        if step == 1:
            started = time.perf_counter()
        unet(latents, 500, encoder_hidden_states=states).sample.square().mean().backward()
    return time.perf_counter() - started


def measured(policy: str, n_steps: int) -> float:
    """Seconds of the steps in a separate process."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--steps", str(n_steps)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_WAIT_POLICY": policy}, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@contextmanager
def company(policy: str) -> Iterator[None]:
    """Another program of the same kind and policy, at work all the while."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--steps", "1000000"]
    with subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": policy}, stdout=subprocess.DEVNULL) as other:
        time.sleep(8)  # until it has loaded and trains
        try:
            yield
        finally:
            other.kill()


def run(size: str) -> list[dict[str, Any]]:
    """Rows of median seconds a step: ours passive, peer active; ratio: how many times as fast."""
    n_steps, n_turns = SIZES[size]
    rows = []
    for place, target in (("alone", LEAST_ALONE), ("beside another program", LEAST_BESIDE)):
        seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for _ in range(n_turns):
            for policy in POLICIES:
                if place == "alone":
                    seconds[policy].append(measured(policy, n_steps))
                else:
                    with company(policy):
                        seconds[policy].append(measured(policy, n_steps))
        ours, peer = (statistics.median(seconds[policy]) / n_steps for policy in POLICIES)
        rows.append({**row(f"seconds a step, {place}", ours, target, peer=peer), "met": peer / ours >= target})
    return rows


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("waiting", __doc__, SIZES, "full")
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        print(work(options.steps))
        return
    rows = run(options.size)
    show(rows, options.json)


if __name__ == "__main__":
    main()
