"""A resumable training loop: budget in steps or minutes, cosine rate, EMA, metrics, atomic checkpoints.

Input: modules, a loss function of (step, progress) and a budget. Output: trained modules (their exponential moving
average), ``metrics.jsonl`` and ``checkpoint.safetensors`` in a folder. In a step-bound run every random draw comes
from one `torch.Generator` whose state is saved, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data.errors import InvalidInput

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Budget:
    """How long to train: at most `n_steps`, at most `minutes`; at least one of them must be given."""

    n_steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.n_steps is None and self.minutes is None:
            raise InvalidInput("a training budget needs steps or minutes, got neither: pass n_steps=... or minutes=...")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Fraction used, 0-1 (may pass 1)."""
        by_steps = step / max(self.n_steps, 1) if self.n_steps is not None else 0.0
        by_time = elapsed_s / max(self.minutes * 60, 1e-9) if self.minutes is not None else 0.0
        return max(by_steps, by_time)


@dataclass(frozen=True)
class LoopSettings:
    """Optimisation settings of one loop; `checkpoint_s` seconds between checkpoints."""

    learning_rate: float = 1e-3
    final_rate: float = 0.02  # of learning_rate, where the cosine ends
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    checkpoint_s: float = 180.0
    log_every: int = 25


class Ema:
    """Exponential moving average of parameters; the decay ramps up over the first steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after optimiser step `step`."""
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


def learning_rate_at(progress: float, step: int, settings: LoopSettings) -> float:
    """Linear warm-up in steps, then a cosine over the used fraction of the budget."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)


class TrainingLoop:
    """Runs `loss_fn(step, progress) -> (loss, n_images)` until the budget is used, resuming from its folder."""

    def __init__(
        self,
        folder: Path,
        parameter_groups: list[tuple[list[nn.Parameter], float]],
        generator: torch.Generator,
        budget: Budget,
        settings: LoopSettings,
    ) -> None:
        """`parameter_groups`: (parameters, factor on the learning rate) each."""
        self.folder, self.budget, self.settings, self.generator = folder, budget, settings, generator
        folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for group, _ in parameter_groups for p in group]
        self.factors = [factor for _, factor in parameter_groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group, _ in parameter_groups],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.ema = Ema(self.parameters, settings.ema_decay)
        self.step, self.elapsed_s = 0, 0.0
        self._resume()

    def run(
        self,
        loss_fn: Callable[[int, float], tuple[Tensor, int]],
        on_checkpoint: Callable[[int], None] | None = None,
        stop_after: int | None = None,
    ) -> bool:
        """Train; True when the budget is used. `stop_after` interrupts after so many steps (with a checkpoint)."""
        last_checkpoint = last_log = time.monotonic()
        loss_sum, n_images, n_done = torch.zeros(()), 0, 0
        while (progress := self.budget.progress(self.step, self.elapsed_s)) < 1:
            started = time.monotonic()
            rate = learning_rate_at(progress, self.step, self.settings)
            for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
                group["lr"] = rate * factor
            loss, n = loss_fn(self.step, progress)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
            self.optimizer.step()
            self.step += 1
            self.ema.update(self.step)
            now = time.monotonic()
            self.elapsed_s += now - started
            loss_sum, n_images, n_done = loss_sum + loss.detach(), n_images + n, n_done + 1
            if n_done % self.settings.log_every == 0:
                self._log(float(loss_sum) / self.settings.log_every, n_images / (now - last_log), rate)
                loss_sum, n_images, last_log = torch.zeros(()), 0, now
            if stop_after is not None and n_done >= stop_after:
                self.save()
                return self.budget.progress(self.step, self.elapsed_s) >= 1
            if now - last_checkpoint > self.settings.checkpoint_s:
                self.save()
                if on_checkpoint is not None:
                    with self.ema.applied():
                        on_checkpoint(self.step)
                last_checkpoint = last_log = time.monotonic()
                loss_sum, n_images = torch.zeros(()), 0
                n_done -= n_done % self.settings.log_every
        self.save()
        return True

    def _log(self, loss: float, images_per_s: float, rate: float) -> None:
        if not math.isfinite(loss):
            raise InvalidInput(f"the loss became {loss} at step {self.step}: lower the learning rate ({rate:.2g})")
        record = {
            "step": self.step,
            "loss": round(loss, 6),
            "images_per_s": round(images_per_s, 2),
            "learning_rate": round(rate, 8),
            "elapsed_s": round(self.elapsed_s, 1),
        }
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.step % (self.settings.log_every * 4) == 0:
            log.info("%s %s", self.folder.name, record)

    def save(self) -> None:
        """Write the checkpoint beside and rename."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for index, (parameter, shadow) in enumerate(zip(self.parameters, self.ema.shadow, strict=True)):
            tensors[f"parameter.{index}"] = parameter.detach().contiguous()
            tensors[f"ema.{index}"] = shadow.contiguous()
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{name}"] = value.contiguous()
        temporary = self.folder / (CHECKPOINT + ".part")
        save_file(tensors, temporary, metadata={"step": str(self.step), "elapsed_s": repr(self.elapsed_s)})
        temporary.replace(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if f"parameter.{len(self.parameters) - 1}" not in names or f"parameter.{len(self.parameters)}" in names:
                raise InvalidInput(f"{path} holds another model than the one to train: remove that file")
            metadata = file.metadata()
            self.step, self.elapsed_s = int(metadata["step"]), float(metadata["elapsed_s"])
            self.generator.set_state(file.get_tensor("generator"))
            with torch.no_grad():
                for index, parameter in enumerate(self.parameters):
                    parameter.copy_(file.get_tensor(f"parameter.{index}"))
                    self.ema.shadow[index].copy_(file.get_tensor(f"ema.{index}"))
                    state = {
                        name.rsplit(".", 1)[1]: file.get_tensor(name).clone()
                        for name in names
                        if name.startswith(f"optimizer.{index}.")
                    }
                    if state:
                        self.optimizer.state[parameter] = state
        log.info("resumed %s at step %d (%.0f s used)", self.folder, self.step, self.elapsed_s)
