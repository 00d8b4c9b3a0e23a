"""Where a training computes: its device, its precision, and the processes that share one batch.

Processes are started by ``accelerate launch``; a plain ``radpref generate train`` is one process. Every process draws
the random numbers of the whole batch and computes its own rows of it, then gradients are averaged once a step: a batch
gives the same step however many processes share it and into however many parts it is cut. See docs/adr/0013.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.generation.sampling.denoising import PRECISIONS
from radpref.generation.stack.device import pick_device

T = TypeVar("T")
Precision = Literal["f32", "bf16", "fp16"]
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
BUCKET = 1 << 25
"""Numbers averaged in one go: 128 MiB of float32."""
WAIT = timedelta(hours=24)
"""How long processes wait for the one that encodes a data set."""


@dataclass(frozen=True)
class Compute:
    """A device and this process' place among `world` processes; rank 0 is the main one, which alone writes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    _used: dict[tuple[bool, ...], list[bool]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and database rows."""
        return self.rank == 0

    def autocast(self, precision: Precision) -> torch.autocast:
        """Mixed precision of a block; nothing for "f32"."""
        mixed = precision != "f32"
        return torch.autocast(self.device.type, dtype=PRECISIONS[precision] if mixed else None, enabled=mixed)

    def scaler(self, precision: Precision) -> torch.amp.GradScaler | None:
        """The loss scaler that fp16 needs; None for the other precisions.

        Raises:
            InvalidInput: fp16 without a CUDA device.
        """
        if precision != "fp16":
            return None
        if self.device.type != "cuda":
            raise InvalidInput(f'precision "fp16" needs a CUDA GPU, the device is {self.device.type}: use "bf16"')
        return torch.amp.GradScaler("cuda")

    def own_rows(self, n: int, part: int = 0, n_parts: int = 1) -> slice:
        """Which rows of a batch of `n` this process computes in part number `part`."""
        size = n // (self.world * n_parts)
        start = (self.rank * n_parts + part) * size
        return slice(start, start + size)

    def check_batch(self, n: int, n_parts: int) -> None:
        """InvalidInput, with the multiple to use, for a batch that cannot be cut evenly."""
        if n % (self.world * n_parts):
            raise InvalidInput(
                f"batch_size = {n} cannot be shared by {self.world} process(es) in {n_parts} part(s) each: "
                f"make it a multiple of {self.world * n_parts}"
            )

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on this device; from pinned memory, without waiting, where that is a GPU."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def average_gradients(self, groups: Sequence[Sequence[nn.Parameter]], active: Sequence[bool]) -> None:
        """Replace gradients by their mean over the processes.

        `active`: per group whether any row of the whole batch uses it; an idle group keeps having no gradients. A
        process whose own rows do not use an active group adds zeros. Which parameters of active groups ever get a
        gradient is asked once for each combination of active groups, so the device is not waited for in each step.
        """
        if self.world == 1:
            return
        parameters = [p for group, on in zip(groups, active, strict=True) if on for p in group]
        key = tuple(active)
        if key not in self._used:
            flags = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
            self._used[key] = [bool(flag) for flag in self._reduce(flags, "max").tolist()]
        used = [p for p, flag in zip(parameters, self._used[key], strict=True) if flag]
        for bucket in _buckets(used):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            mean = self._reduce(torch.cat([g.reshape(-1) for g in gradients]), "mean")
            for parameter, part in zip(bucket, torch.split(mean, [p.numel() for p in bucket]), strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes; all of them must call it."""
        return value if self.world == 1 else self._reduce(value, "mean")

    def _reduce(self, value: Tensor, how: str) -> Tensor:
        from accelerate.utils import reduce

        reduced: Tensor = reduce(value, how)
        return reduced

    def share(self, value: T) -> T:
        """The main process' value in every process; all of them must call it."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [value]
        broadcast_object_list(box)
        shared: T = box[0]
        return shared

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def close(self) -> None:
        """Leave the group of processes."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def make_compute(device: str = "auto") -> Compute:
    """The device asked for, and this process' place among those that ``accelerate launch`` started.

    On CUDA matrix products of float32 run in TF32. Other processes than the main one show no progress bars.

    Raises:
        InvalidInput: the device is unknown or not there.
    """
    kind = pick_device(device, automatic=("cuda", "mps", "cpu"))
    if kind.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Compute(torch.device(kind))
    from accelerate import PartialState

    state = PartialState(cpu=kind == "cpu", timeout=WAIT)
    if not state.is_main_process:
        os.environ["RADPREF_QUIET"] = "1"
    return Compute(torch.device(state.device), state.process_index, state.num_processes)


def launch_hint(compute: Compute, study: Path) -> str:
    """How to use the other GPUs of this machine; empty where all are used."""
    n_gpus = torch.cuda.device_count() if compute.device.type == "cuda" else 0
    if compute.world > 1 or n_gpus < 2:
        return ""
    return (
        f"one of {n_gpus} GPUs is used; all: accelerate launch --multi_gpu --num_processes {n_gpus} "
        f"-m radpref generate train --study {shlex.quote(str(study))}"
    )


def prepare_module(module: nn.Module, compute: Compute, *, checkpointing: bool = False) -> None:
    """Move a network to the device (channels last on CUDA); with `checkpointing` it keeps no activations."""
    if compute.device.type == "cuda":
        module.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        module.to(compute.device)
    networks: Any = module
    if checkpointing:
        networks.enable_gradient_checkpointing()
    elif hasattr(networks, "disable_gradient_checkpointing"):
        networks.disable_gradient_checkpointing()


@contextmanager
def memory_errors(step: int, way_out: str) -> Iterator[None]:
    """Turn "out of memory" in a training step into a RadprefError of one line that says what to change: `way_out`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RadprefError(
            f"out of memory at step {step}: {way_out}; then run again (other settings begin anew)"
        ) from error
