"""The checkpoint format: everything comes back, also from the files that trainings of arms wrote before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radpref.data.core.errors import InvalidInput
from radpref.generation.training.checkpoints import CHECKPOINT, Checkpoint

NAMES = ("lora.a.weight", "lora.b.weight", "control.a.weight", "control.b.weight")
"""As a policy gives them: the LoRA's by name, then the ControlNet's."""


def checkpoint(folder: Path, seed: int, n_steps: int = 0, *, drawn: bool = True) -> Checkpoint:
    """Parameters of four shapes after some steps of AdamW, with averages and a generator."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(2, size, generator=generator)) for size in (1, 2, 3, 4)]
    optimizer = torch.optim.AdamW(parameters)
    for _ in range(n_steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    averages = [parameter.detach() / 2 for parameter in parameters]
    return Checkpoint(
        folder / CHECKPOINT, parameters, optimizer, averages if drawn else [], generator if drawn else None
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all(
        torch.equal(a, b)
        and one.optimizer.state[a].keys() == other.optimizer.state[b].keys()
        and all(torch.equal(value, other.optimizer.state[b][key]) for key, value in one.optimizer.state[a].items())
        for a, b in pairs
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    before, after = checkpoint(tmp_path, 1, n_steps=3), checkpoint(tmp_path, 2)
    assert after.restore() == {}
    before.save({"step": "3"})
    assert not same(before, after)
    assert after.restore() == {"step": "3"}
    assert same(before, after)
    assert all(torch.equal(a, b) for a, b in zip(before.averages, after.averages, strict=True))
    assert before.generator is not None
    assert after.generator is not None
    assert torch.equal(torch.rand(4, generator=before.generator), torch.rand(4, generator=after.generator))


def test_arms_that_were_interrupted_under_the_older_names_go_on(tmp_path: Path) -> None:
    before, after = checkpoint(tmp_path, 1, n_steps=3, drawn=False), checkpoint(tmp_path, 2, drawn=False)
    tensors = {}
    for name, parameter in zip(NAMES, before.parameters, strict=True):
        tensors[f"parameter/{name}"] = parameter.detach()
        for key, value in before.optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    save_file(tensors, before.path, metadata={"step": "3", "elapsed_s": "1.5"})
    assert after.restore() == {"step": "3", "elapsed_s": "1.5"}
    assert same(before, after)
    assert {float(state["step"]) for state in after.optimizer.state.values()} == {3.0}


@pytest.mark.parametrize("swapped", [False, True])
def test_another_model_is_refused_and_left_as_it_is(tmp_path: Path, swapped: bool) -> None:
    before = checkpoint(tmp_path, 1, n_steps=1)
    before.save({"step": "1"})
    other = checkpoint(tmp_path, 2)
    parameters = list(reversed(other.parameters)) if swapped else list(other.parameters[:-1])
    values = [parameter.detach().clone() for parameter in parameters]
    wrong = Checkpoint(other.path, parameters, other.optimizer, [], None)
    with pytest.raises(InvalidInput) as refused:
        wrong.restore()
    assert str(other.path) in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(values, parameters, strict=True))


def test_averages_that_were_not_kept_start_from_the_weights(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1, n_steps=1, drawn=False).save({"step": "1"})
    assert not any(name.startswith("ema.") for name in load_file(tmp_path / CHECKPOINT))
    after = checkpoint(tmp_path, 2)
    resumed = Checkpoint(after.path, after.parameters, after.optimizer, after.averages, None)
    resumed.restore()
    assert all(torch.equal(a, b) for a, b in zip(resumed.averages, resumed.parameters, strict=True))
