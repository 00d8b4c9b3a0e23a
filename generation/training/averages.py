"""Which weights a training leaves: their moving average, and the averages of the best observation.

Input: the parameters that are trained, after each step; figures that were observed. Output: weights in the model, and
``best.safetensors`` beside the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from radpref.generation.training.checkpoints import stored, write_tensors

BEST = "best.safetensors"


class Ema:
    """Exponential moving average of parameters; the decay ramps up over the first steps. Decay 0: no average."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters) if decay > 0 else []
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after optimiser step `step`."""
        if not self.parameters:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the averaged weights into the model for good."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(shadow)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights for the duration of a block, the raw ones again after it."""
        raw = [p.detach().clone() for p in self.parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, raw, strict=True):
                    parameter.copy_(value)


class BestWeights:
    """The weights at the lowest value so far of an observed figure, on disk; nothing where `figure` is ""."""

    def __init__(self, path: Path, figure: str, parameters: Sequence[nn.Parameter]) -> None:
        self.path, self.figure, self.parameters = path, figure, parameters
        self.value = math.inf

    def resume(self, step: int) -> None:
        """Go on from what the file knows, unless that comes after `step` and will be observed again."""
        best = best_observation(self.path.parent) if self.figure else None
        if best is not None and best[1] <= step:
            self.value = best[0]

    def offer(self, step: int, figures: Mapping[str, Any]) -> None:
        """Keep the model's present weights if the figure is the lowest yet; errors as in :func:`write_tensors`."""
        value = figures.get(self.figure)
        if value is None or not value < self.value:
            return
        self.value = float(value)
        tensors = {f"parameter.{index}": stored(parameter) for index, parameter in enumerate(self.parameters)}
        write_tensors(self.path, tensors, {"value": repr(self.value), "step": str(step)})

    @torch.no_grad()
    def copy_to_model(self) -> int | None:
        """Put the kept weights into the model; their step, or None where none were kept."""
        best = best_observation(self.path.parent) if self.figure else None
        if best is None:
            return None
        with safe_open(self.path, framework="pt") as file:
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(file.get_tensor(f"parameter.{index}"))
        return best[1]


def best_observation(folder: Path) -> tuple[float, int] | None:
    """(lowest value, its step) of the figure that decides in a loop's folder; None where none does."""
    if not (folder / BEST).exists():
        return None
    with safe_open(folder / BEST, framework="pt") as file:
        known = file.metadata()
    return float(known["value"]), int(known["step"])
