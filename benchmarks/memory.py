"""What a training step needs: weights with their moments, activations kept for the backward pass, peak memory, time.

    OMP_NUM_THREADS=1 python -m benchmarks.memory --size embedded --json
    OMP_NUM_THREADS=1 python -m benchmarks.memory --size sd --json      # about 12 GB, minutes

Two steps (`--size sd`: one) of `radpref generate train` and their checkpoint on random images of the model's size, each
way in a separate process: the peak is that process's resident memory above the loaded model. Activations are counted:
the bytes of all tensors that autograd holds at once, weights left out. Parts (`train.accumulation`) and
`train.checkpointing` give the same step with less of them. `--size sd` is the study's recipe on a model of Stable
Diffusion 2.1's size with random weights: a new ControlNet on a frozen UNet, 256 px, checkpointing, parts of one image,
no average. The table of weights is counted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rows import command_line, row, show
from radpref.data.core.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from radpref.generation.stack.models import GeneratorStack
    from radpref.generation.training.compute import Precision
    from radpref.generation.training.latents import LatentCorpus
    from radpref.generation.training.unet_training import TrainSettings

PART = "--one-way"
"""How the process that measures one way is called."""
COPIES = {"trained": 5, "frozen": 1}
"""Float32 numbers for a weight: itself, gradient, Adam's two moments, average; or itself alone."""


@dataclass(frozen=True)
class Size:
    """Images of a batch, steps, precision, and the ways: name -> (accumulation, checkpointing)."""

    batch: int
    steps: int
    precision: Precision
    ways: dict[str, tuple[int, bool]]


WAYS = {
    "plain": (1, False), "4 parts": (4, False), "checkpointing": (1, True), "8 parts, checkpointing": (8, True),
}  # fmt: skip
SIZES = {
    "tiny": Size(8, 1, "f32", {name: WAYS[name] for name in ("plain", "4 parts", "checkpointing")}),
    "embedded": Size(32, 2, "bf16", WAYS),
    "sd": Size(2, 1, "bf16", {"2 parts, checkpointing": (2, True)}),
}


class Held:
    """Counts the bytes of the tensors that autograd keeps for the backward pass, each storage once; the peak of it."""

    def __init__(self, weights: set[int]) -> None:
        """``weights``: addresses of storages that are there anyway."""
        self.now = self.peak = 0
        self._weights, self._users = weights, Counter[int]()

    def counting(self) -> AbstractContextManager[Any]:
        """While this is entered, kept tensors are counted."""
        from torch.autograd.graph import saved_tensors_hooks

        return saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def _pack(self, tensor: Tensor) -> _Kept:
        storage, kept = tensor.untyped_storage(), _Kept(tensor)
        place = storage.data_ptr()
        if place not in self._weights:
            self._users[place] += 1
            if self._users[place] == 1:
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
            weakref.finalize(kept, self._gone, place, storage.nbytes())
        return kept

    def _gone(self, place: int, n_bytes: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            self.now -= n_bytes


class _Kept:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def build(size: str) -> GeneratorStack:
    """The stack of a size."""
    from radpref.generation.stack.loading import load_stack
    from radpref.generation.stack.models import tiny_stack

    if size == "embedded":
        return load_stack("embedded")
    if size == "tiny":
        return tiny_stack(0)
    from benchmarks.sampling_models import sd_stack

    return replace(sd_stack("cpu"), image_size=256)


def random_corpus(stack: GeneratorStack, n: int) -> LatentCorpus:
    """``n`` rows of latents, masks and captions of the stack's shapes."""
    from radpref.generation.stack.tokenizer import tokenize
    from radpref.generation.training.latents import LatentCorpus

    rng, texts = np.random.default_rng(0), ("normal", "severe left pleural effusion")
    masks = rng.integers(0, 256, (n, len(stack.structures), stack.image_size, stack.image_size // 8), dtype=np.uint8)
    return LatentCorpus(
        rng.normal(size=(n, *stack.latent_shape)).astype(np.float16),
        masks,
        np.ones(masks.shape[:2], np.bool_),
        texts,
        tokenize(stack.tokenizer, list(texts)),
        [[i % 2] for i in range(n)],
        stack.image_size,
    )


def settings_of(size: str, way: str) -> TrainSettings:
    """All three networks, modes mixed; at Stable Diffusion's size the ControlNet alone, on masks alone."""
    from radpref.generation.training.unet_training import FINE_TUNE, MASK_STAGE

    scale = SIZES[size]
    accumulation, checkpointing = scale.ways[way]
    base = FINE_TUNE
    if size == "sd":
        base = replace(MASK_STAGE, mode_mix=(0.0, 1.0, 0.0), channel_drop=0.0, min_snr_gamma=None, coarse_weight=0.0)
        base = replace(base, cache_text=True, loop=replace(base.loop, ema_decay=0.0))
    loop = replace(base.loop, checkpoint_s=1e9)
    return replace(
        base, batch_size=scale.batch, precision=scale.precision, accumulation=accumulation,
        checkpointing=checkpointing, loop=loop,
    )  # fmt: skip


def train_steps(size: str, way: str, folder: Path) -> dict[str, float]:
    """Train in this process: MiB of the loaded model, the peak above it, MiB kept for backward, processor s a step."""
    import torch

    from radpref.generation.training.loop import Budget
    from radpref.generation.training.unet_training import train

    torch.set_num_threads(1)
    stack, scale = build(size), SIZES[size]
    corpus = random_corpus(stack, scale.batch)
    modules = [module for module in stack.modules().values() if module is not None]
    held = Held({p.untyped_storage().data_ptr() for module in modules for p in module.parameters()})
    loaded, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with held.counting():
        train(stack, corpus, folder, Budget(n_steps=scale.steps), settings_of(size, way))
    return {
        "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024,
        "loaded_mib": loaded / 1024,
        "kept_mib": held.peak / 2**20,
        "step_s": (time.process_time() - started) / scale.steps,
    }


def weight_rows() -> list[dict[str, Any]]:
    """Parameters of Stable Diffusion 2.1's networks, and the GB of weights, gradients, moments and average."""
    from benchmarks.sampling_models import sd_stack
    from radpref.generation.stack.adapters import attach_lora, lora_parameters

    stack = sd_stack("meta")
    unet = sum(p.numel() for p in stack.unet.parameters())
    control = sum(p.numel() for p in stack.controlnet.parameters()) if stack.controlnet is not None else 0
    attach_lora(stack.unet, 16, 0)
    lora = sum(p.numel() for p in lora_parameters(stack.unet).values())
    rows = []
    for name, trained, frozen in (("UNet, full", unet, 0), ("ControlNet", control, unet), ("LoRA", lora, unet)):
        numbers = COPIES["trained"] * trained + COPIES["frozen"] * frozen
        rows.append(row(f"sd, {name}: parameters trained, million", trained / 1e6, None))
        rows.append(row(f"sd, {name}: weights, gradients, moments, average, GB", 4 * numbers / 1e9, None))
    return rows


def run(size: str) -> list[dict[str, Any]]:
    """All rows of a size, each way in a separate process."""
    rows, scale = [], SIZES[size]
    for way in track(scale.ways, f"ways to train, {size}", len(scale.ways)):
        command = [sys.executable, "-m", "benchmarks.memory", "--size", size, PART, way]
        found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])
        rows += [
            row(f"{size}, {way}: peak above the loaded model, MiB", found["peak_mib"], None),
            row(f"{size}, {way}: activations kept for the backward pass, MiB", found["kept_mib"], None),
            row(f"{size}, {way}: processor s a step", found["step_s"], None),
        ]
    return [*rows, *weight_rows()]


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("memory", __doc__, SIZES)
    parser.add_argument(PART, metavar="WAY", help="measure one way in this process and print it as JSON")
    options = parser.parse_args()
    if options.one_way is not None:
        if options.one_way not in SIZES[options.size].ways:
            parser.error(f"{PART} {options.one_way!r}: choose one of {', '.join(SIZES[options.size].ways)}")
        with tempfile.TemporaryDirectory(prefix="radpref-memory-") as folder:
            print(json.dumps(train_steps(options.size, options.one_way, Path(folder))))
        return
    rows = run(options.size)
    show(rows, options.json)


if __name__ == "__main__":
    main()
