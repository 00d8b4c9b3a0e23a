"""The embedded default: speed of rendering, sampling and the command line's help; its autoencoder; size of its weights.

    python -m benchmarks.embedded --size tiny --json

The autoencoder is measured on phantoms that nothing was trained on (`--size full`: the 256 of its model card). The peer
of sampling is diffusers' ControlNet pipeline with the same networks, scheduler and steps, one set at a time, both
guidance branches and the ControlNet always computed. Absolute targets have no peer. Best of repeats.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import command_line, row, show
from benchmarks.sampling_models import make_conditions

SIZES = {
    "tiny": {"renders": 40, "repeats": 2, "sets": 2, "held_out": 16},
    "full": {"renders": 200, "repeats": 5, "sets": 8, "held_out": 256},
}
LIMITS_MB = {"embedded": 30.0, "measure": 12.0}
"""Of the weights that ship: the generator, and all measuring networks together."""


def best(action: Callable[[], Any], repeats: int) -> float:
    """The shortest wall time of ``action`` in seconds."""
    return min(timeit.repeat(action, number=1, repeat=repeats))


def phantom_row(n: int, repeats: int) -> dict[str, Any]:
    """Phantom radiographs per second at 128 x 128, one process."""
    from radpref.data.phantom.render import render
    from radpref.data.phantom.spec import draw_spec

    specs = [draw_spec(np.random.default_rng(seed)) for seed in range(n)]
    seconds = best(lambda: [render(spec, 128) for spec in specs], repeats)
    return row("phantom images/s at 128 px, one core", n / seconds, 40.0, more_is_better=True)


def help_row(repeats: int) -> dict[str, Any]:
    """Seconds until ``radpref --help`` has answered."""
    command = [sys.executable, "-m", "radpref", "--help"]
    return row(
        "radpref --help, s", best(lambda: subprocess.run(command, capture_output=True, check=True), repeats), 0.5
    )


def autoencoder_rows(n: int) -> list[dict[str, Any]]:
    """How well the autoencoder keeps ``n`` held-out phantoms; always the same on one kind of processor."""
    from radpref.generation.stack.loading import load_stack
    from radpref.generation.training.corpus import build_phantom_corpus, load_corpus
    from radpref.generation.training.embedded import HELD_OUT_SEED
    from radpref.generation.training.vae_training import reconstruction_report

    stack = load_stack("embedded")
    with tempfile.TemporaryDirectory(prefix="radpref-held-out-") as folder:
        build_phantom_corpus(Path(folder), n, stack.image_size, HELD_OUT_SEED, 1)
        figures = reconstruction_report(stack.vae, load_corpus(Path(folder)).images)
    return [row(f"autoencoder on {n} held-out phantoms: {name}", value, None) for name, value in figures.items()]


def weight_rows() -> list[dict[str, Any]]:
    """MB of the weights that ship, folder by folder."""
    from radpref.generation import WEIGHTS_FOLDER

    rows = []
    for name, limit in LIMITS_MB.items():
        files = [path for path in (WEIGHTS_FOLDER / name).rglob("*.safetensors") if "cxr128" not in path.parts]
        size = sum(path.stat().st_size for path in files)
        rows.append(row(f"weights of {name}, MB", size / 1e6, limit))
    return rows


def sampling_rows(repeats: int, n_sets: int, n_steps: int = 20, guidance: float = 2.0) -> list[dict[str, Any]]:
    """Seconds per set of four in each mode, ours batched over ``n_sets`` sets, against set by set with every branch."""
    from benchmarks.peers.diffusers_sampling import DiffusersPeer
    from radpref.generation.sampling.sampler import initial_noise, sample
    from radpref.generation.stack.loading import load_stack

    stack = load_stack("embedded")
    pipelines, noise = DiffusersPeer(stack, n_steps, guidance), initial_noise(stack, range(4))
    rows = []
    for mode in ("T2I", "M2I", "TM2I"):
        conditions = make_conditions(stack, mode, n_sets)
        repeated = [c for c in conditions for _ in range(4)]
        seeds = list(range(len(repeated)))
        draw = partial(sample, stack, n_steps=n_steps, guidance_scale=guidance)
        one = best(partial(draw, repeated[:4], [0, 1, 2, 3]), repeats)
        many = best(partial(draw, repeated, seeds, batch_size=32), repeats)
        peer = best(partial(pipelines.sample_set, conditions[0], noise), repeats)
        rows.append(row(f"one set of four, {mode}, s", one, 3.0, peer=peer))
        rows.append(row(f"set of four in a batch of {n_sets}, {mode}, s", many / n_sets, None, peer=peer))
    return rows


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("embedded", __doc__, SIZES)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size = SIZES[options.size]
    import torch

    torch.set_num_threads(options.threads)
    rows = [
        phantom_row(size["renders"], size["repeats"]),
        help_row(size["repeats"]),
        *weight_rows(),
        *autoencoder_rows(size["held_out"]),
        *sampling_rows(size["repeats"], size["sets"]),
    ]
    show(rows, options.json)


if __name__ == "__main__":
    main()
