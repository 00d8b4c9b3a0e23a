"""The one checkpoint format of all trainings: a safetensors file that is there whole or not at all.

Input: parameters, their optimizer, moving averages and random generator. Output: the file; and the same objects as they
were, in a process that comes later. What is in it: ``parameter.<i>``, ``optimizer.<i>.<key>``, ``ema.<i>`` (where there
is an average) and ``generator`` (where there is one), numbered in the order of the parameters; and the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import storage_errors

CHECKPOINT = "checkpoint.safetensors"


def stored(value: Tensor) -> Tensor:
    """The tensor on the CPU in the plain memory layout; no copy is made on the device, nor of what is so already."""
    return value.detach().cpu().contiguous()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors to ``<path>.part`` and rename: an interruption leaves the older file as it was.

    Raises:
        StorageFull: the disk is full; the older file stays.
    """
    draft = path.with_name(path.name + ".part")
    with storage_errors(path):
        save_file(dict(tensors), draft, metadata=dict(metadata))
        draft.replace(path)


@dataclass(frozen=True)
class Checkpoint:
    """A file and the objects whose state it keeps; averages: one tensor per parameter, or none at all."""

    path: Path
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    averages: Sequence[Tensor]
    generator: torch.Generator | None

    def save(self, metadata: Mapping[str, str]) -> None:
        """Write the present state, and metadata such as the step; errors as in :func:`write_tensors`."""
        tensors = {} if self.generator is None else {"generator": self.generator.get_state()}
        for index, parameter in enumerate(self.parameters):
            tensors[f"parameter.{index}"] = stored(parameter)
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{key}"] = stored(value)
        tensors |= {f"ema.{index}": stored(average) for index, average in enumerate(self.averages)}
        write_tensors(self.path, tensors, metadata)

    @torch.no_grad()
    def restore(self) -> dict[str, str]:
        """Put the stored state, if there is one, into the objects; its metadata, empty where there is no file.

        Raises:
            InvalidInput: the file is of another model.
        """
        if not self.path.exists():
            return {}
        with safe_open(self.path, framework="pt") as file:
            names = _present_names(file.keys())
            n_stored = sum(key.startswith("parameter.") for key in names)
            shapes = [tuple(file.get_slice(names[f"parameter.{index}"]).get_shape()) for index in range(n_stored)]
            if shapes != [tuple(parameter.shape) for parameter in self.parameters]:
                raise InvalidInput(f"{self.path} holds another model than the one to train: remove that file")
            if self.generator is not None:
                self.generator.set_state(file.get_tensor("generator"))
            states: dict[int, dict[str, str]] = {}
            for key, name in names.items():
                if key.startswith("optimizer."):
                    _, number, state_key = key.split(".", 2)
                    states.setdefault(int(number), {})[state_key] = name
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(file.get_tensor(names[f"parameter.{index}"]))
                if self.averages:  # a training that had none goes on from its weights
                    name = names.get(f"ema.{index}", names[f"parameter.{index}"])
                    self.averages[index].copy_(file.get_tensor(name))
                if index in states:
                    state = {key: _like(parameter, file.get_tensor(name)) for key, name in states[index].items()}
                    self.optimizer.state[parameter] = state
            return dict(file.metadata())


def _present_names(keys: Iterable[str]) -> dict[str, str]:
    """Name as it is written now -> name in the file.

    Trainings of arms wrote ``parameter/<name>`` and ``optimizer/<key>/<name>``, the LoRA's names before the
    ControlNet's: an arm that was interrupted then goes on.
    """
    found = {key: key for key in keys}
    named = [key.removeprefix("parameter/") for key in found if key.startswith("parameter/")]
    for index, name in enumerate(sorted(named, key=lambda name: (not name.startswith("lora."), name))):
        found[f"parameter.{index}"] = f"parameter/{name}"
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"optimizer/{key}/{name}" in found:
                found[f"optimizer.{index}.{key}"] = f"optimizer/{key}/{name}"
    return found


def _like(parameter: nn.Parameter, kept: Tensor) -> Tensor:
    """Optimizer state on the parameter's device and in its memory layout, which fused optimizers insist on."""
    if kept.shape != parameter.shape or kept.ndim == 0:
        return kept.clone().to(parameter.device)
    return torch.empty_like(parameter).copy_(kept)
