"""The resumable loop of both trainers: warm-up, clipping, per-step log, checkpoints; resume equals no interruption.

Input: a policy and a function step -> (loss, figures). Output: trained parameters, ``metrics.jsonl``, and
``checkpoint.safetensors`` in the run's folder. No random state is carried along: every draw is a function of
(seed, step), so that a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from radpref.alignment.training.policy import Policy
from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.data.core.progress import bar
from radpref.generation.training.tensor_files import write_tensors

if TYPE_CHECKING:
    from radpref.data.study.runs import Run

CHECKPOINT = "checkpoint.safetensors"
StepFunction = Callable[[int], tuple[Tensor, dict[str, Tensor]]]


class Observer(Protocol):
    """Adds figures (held-out accuracy, drift) to the log lines of some steps."""

    def due(self, step: int) -> bool:
        """Whether there is something to observe after this step."""

    def __call__(self, step: int) -> dict[str, Any]:
        """The figures."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one loop; rates in 1/step, warm-up and intervals in steps."""

    n_steps: int
    learning_rate: float
    controlnet_learning_rate: float
    warmup_steps: int = 20
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    checkpoint_every: int = 50
    log_every: int = 10


def step_generator(*parts: int) -> torch.Generator:
    """A generator (CPU) that depends on all `parts` and on nothing else."""
    state = np.random.SeedSequence(list(parts)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def scheduled(step: int, n_items: int, per_step: int, seed: int) -> list[int]:
    """Which items step number `step` takes: epochs of seeded permutations laid end to end."""
    chosen = []
    for position in range(step * per_step, (step + 1) * per_step):
        epoch, place = divmod(position, n_items)
        order = np.random.default_rng([seed, 505, epoch]).permutation(n_items)
        chosen.append(int(order[place]))
    return chosen


class Trainer:
    """AdamW over a policy's LoRA and ControlNet. Made anew with the same run, it goes on where that run stopped."""

    def __init__(self, run: Run, policy: Policy, settings: TrainSettings) -> None:
        """Take up the run's checkpoint if it has one.

        Raises:
            InvalidInput: the checkpoint belongs to another model.
        """
        self.run_record, self.policy, self.settings = run, policy, settings
        self.parameters: dict[str, nn.Parameter] = {
            **{f"lora.{name}": p for name, p in policy.lora.items()},
            **{f"control.{name}": p for name, p in policy.control.items()},
        }
        groups = [{"params": list(policy.lora.values()), "base": settings.learning_rate}]
        if policy.control:
            groups.append({"params": list(policy.control.values()), "base": settings.controlnet_learning_rate})
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.step, self.elapsed_s = 0, 0.0
        self._waiting: list[dict[str, Any]] = []
        self._resume()

    def train(self, step_function: StepFunction, observe: Observer, title: str) -> None:
        """Run to `n_steps`; `observe` adds figures (held-out, watch) to the log lines of the steps where it is due.

        Raises:
            RadprefError: the loss is no finite number any more.
        """
        settings = self.settings
        with bar(title, settings.n_steps) as advance:
            advance(self.step)
            while self.step < settings.n_steps:
                started = time.monotonic()
                figures = self._one_step(step_function)
                self.step += 1
                seconds = time.monotonic() - started
                self.elapsed_s += seconds
                line = {"step": self.step, "seconds": seconds, **figures}
                if observe.due(self.step):
                    _check_finite(float(figures["loss"]), self.step)
                    line |= observe(self.step)
                self._waiting.append(line)
                if self.step % settings.log_every == 0 or self.step == settings.n_steps:
                    self._flush()
                if self.step % settings.checkpoint_every == 0 or self.step == settings.n_steps:
                    self._flush()
                    self.save()
                advance(1)

    def _one_step(self, step_function: StepFunction) -> dict[str, Any]:
        warm = min(1.0, (self.step + 1) / max(self.settings.warmup_steps, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * warm
        loss, figures = step_function(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.max_grad_norm)
        self.optimizer.step()
        return {
            "loss": loss.detach(),
            **figures,
            "grad_norm": norm,
            "learning_rate": self.settings.learning_rate * warm,
        }

    def _flush(self) -> None:
        """Write waiting log lines; figures become numbers here and not in every step (no wait for the device)."""
        for line in self._waiting:
            plain = {k: float(v) if isinstance(v, Tensor) else v for k, v in line.items()}
            _check_finite(float(plain["loss"]), int(plain["step"]))
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
            self.run_record.log(**{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in clean.items()})
        self._waiting.clear()

    def save(self) -> None:
        """Write the checkpoint beside and rename; parameters and optimizer state as safetensors.

        Raises:
            StorageFull: the disk is full; the older checkpoint stays.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameter/{name}"] = parameter.detach().contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = value.detach().contiguous()
        metadata = {"step": str(self.step), "elapsed_s": repr(self.elapsed_s)}
        write_tensors(self.run_record.folder / CHECKPOINT, tensors, metadata)

    def _resume(self) -> None:
        path = self.run_record.folder / CHECKPOINT
        if path.exists():
            with safe_open(path, framework="pt") as file:
                self._restore(file, path)
        lines = self.run_record.metrics()
        kept = [line for line in lines if line.get("step", 0) <= self.step]
        if len(kept) != len(lines):
            self.run_record.rewrite_metrics(kept)

    def _restore(self, file: Any, path: Any) -> None:
        names = set(file.keys())
        stored = {name.removeprefix("parameter/") for name in names if name.startswith("parameter/")}
        if stored != set(self.parameters):
            raise InvalidInput(f"{path} holds another model than the one to train: remove that file and run again")
        self.step, self.elapsed_s = int(file.metadata()["step"]), float(file.metadata()["elapsed_s"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"parameter/{name}"))
                state = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"optimizer/{key}/{name}" in names:
                        value = file.get_tensor(f"optimizer/{key}/{name}").clone()
                        state[key] = value.to(parameter.device)
                if state:
                    self.optimizer.state[parameter] = state


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise RadprefError(f"the loss became {loss} at step {step}: lower align.learning_rate or align.beta, run again")
