"""Devices, precision, the shares of processes, and one-line errors."""

from __future__ import annotations

import pytest
import torch

from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.generation.stack.device import pick_device
from radpref.generation.training.compute import Compute, launch_hint, make_compute, memory_errors
from tests.support.errors import refuses


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with refuses(InvalidInput, "cuda", "--device"):
        make_compute("cuda")
    with refuses(InvalidInput, "tpu", "cpu", "cuda", "mps"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == "cuda"
    assert pick_device("cpu") == "cpu"


def test_fp16_needs_cuda_and_other_precisions_no_scaler() -> None:
    with refuses(InvalidInput, "fp16", "cpu", "bf16"):
        Compute().scaler("fp16")
    assert Compute().scaler("bf16") is None
    product = torch.ones(2, 2)
    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        with Compute().autocast(precision):  # type: ignore[arg-type]
            assert (product @ product).dtype == dtype


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (1, 4), (2, 1), (2, 3), (4, 2)])
def test_processes_and_parts_share_every_row_once(world: int, parts: int) -> None:
    rows = [
        row
        for rank in range(world)
        for part in range(parts)
        for row in range(24)[Compute(rank=rank, world=world).own_rows(24, part, parts)]
    ]
    assert sorted(rows) == list(range(24))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    Compute(world=4).check_batch(24, 3)
    with refuses(InvalidInput, "batch_size", 30, 4, 8):
        Compute(world=4).check_batch(30, 2)


def test_out_of_memory_says_what_to_change() -> None:
    with (
        refuses(RadprefError, 7, "train.accumulation"),
        memory_errors(7, "raise train.accumulation"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_launch_line_is_shown_where_gpus_would_idle(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert launch_hint(Compute(), tmp_path) == ""
    hint = launch_hint(Compute(torch.device("cuda")), tmp_path)
    assert f"accelerate launch --multi_gpu --num_processes 8 -m radpref generate train --study {tmp_path}" in hint
    assert launch_hint(Compute(torch.device("cuda"), 0, 8), tmp_path) == ""


def test_one_process_shares_and_averages_with_nobody() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    Compute().average_gradients([[parameter]], [True])
    assert parameter.grad is None
    assert Compute().share("value") == "value"
    assert float(Compute().mean(torch.tensor(2.0))) == 2.0
    make_compute("cpu").wait()
