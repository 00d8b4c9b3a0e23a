"""A resumable training loop: budget in steps or minutes, cosine rate, EMA, metrics, atomic checkpoints.

Input: modules, a loss function of (step, progress) and a budget. Output: trained modules (their exponential moving
average), ``metrics.jsonl`` and ``checkpoint.safetensors`` in a folder. In a step-bound run every random draw comes
from one `torch.Generator` whose state is saved, so a resumed run equals an uninterrupted one. Several processes
(`radpref.generation.training.compute`) may share the steps: all hold the same weights and generator, the main one
writes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.generation.training.averages import BEST, BestWeights, Ema
from radpref.generation.training.compute import FUSED_DEVICES, Compute, Precision, memory_errors
from radpref.generation.training.tensor_files import stored, write_tensors

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
Parts = Callable[[int, float], Iterable[tuple[Tensor, int]]]
"""(step, progress) -> the step's losses, whose sum is minimised, each with its number of images."""


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
    """Optimisation settings of one loop.

    ema_decay: 0 for no average; checkpoint_s: seconds between checkpoints; observe_every: steps between observations
    (each with a checkpoint), 0 for none; keep_best: name of the observed figure whose lowest value says which averaged
    weights `TrainingLoop.keep` leaves, "" for the last ones; way_out: what to change where memory ends.
    """

    learning_rate: float = 1e-3
    final_rate: float = 0.02  # of learning_rate, where the cosine ends
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    checkpoint_s: float = 180.0
    log_every: int = 25
    observe_every: int = 0
    keep_best: str = ""
    way_out: str = (
        "raise train.accumulation (the same result with less memory), set train.checkpointing = true, "
        "or lower train.batch_size"
    )


def learning_rate_at(progress: float, step: int, settings: LoopSettings) -> float:
    """Linear warm-up in steps, then a cosine over the used fraction of the budget."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)


class TrainingLoop:
    """Runs a loss function until the budget is used, resuming from its folder."""

    def __init__(
        self,
        folder: Path,
        parameter_groups: list[tuple[list[nn.Parameter], float]],
        generator: torch.Generator,
        budget: Budget,
        settings: LoopSettings,
        compute: Compute | None = None,
        precision: Precision = "f32",
    ) -> None:
        """`parameter_groups`: (parameters, factor on the learning rate) each; `precision` decides on a loss scaler.

        Raises:
            InvalidInput: the folder's checkpoint is of another model, a budget in minutes for several processes, or
                fp16 without CUDA.
        """
        self.folder, self.budget, self.settings, self.generator = folder, budget, settings, generator
        self.compute = compute or Compute()
        if budget.minutes is not None and self.compute.world > 1:
            raise InvalidInput(f"a budget of {budget.minutes} minutes needs one process: give steps for several")
        folder.mkdir(parents=True, exist_ok=True)
        self.groups = [group for group, _ in parameter_groups]
        self.active = [True] * len(self.groups)
        """Per group whether the present step's batch uses it; the loss function may change it."""
        self.parameters = [p for group in self.groups for p in group]
        self.factors = [factor for _, factor in parameter_groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in self.groups],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
            fused=self.compute.device.type in FUSED_DEVICES,
        )
        self.scaler = self.compute.scaler(precision)
        self.ema = Ema(self.parameters, settings.ema_decay)
        self.step, self.elapsed_s = 0, 0.0
        self.best = BestWeights(folder / BEST, settings.keep_best, self.parameters)
        self._loss, self._n_losses = torch.zeros((), device=self.compute.device), 0
        self._resume()

    def run(
        self,
        loss_fn: Callable[[int, float], tuple[Tensor, int]],
        on_checkpoint: Callable[[int], None] | None = None,
        stop_after: int | None = None,
    ) -> bool:
        """Train on `loss_fn(step, progress) -> (loss, n_images)`; True when the budget is used.

        `stop_after` interrupts after so many steps (with a checkpoint).
        """
        return self.run_parts(lambda step, progress: [loss_fn(step, progress)], on_checkpoint, stop_after)

    def run_parts(
        self,
        parts: Parts,
        on_checkpoint: Callable[[int], None] | None = None,
        stop_after: int | None = None,
        observe: Callable[[int], dict[str, Any]] | None = None,
    ) -> bool:
        """As :meth:`run`, where a step's loss comes in parts that are computed one after the other.

        `observe(step)` is called with the averaged weights every `observe_every` steps and at the end, in the main
        process; its figures go into metrics.jsonl.
        """
        last_checkpoint = last_log = time.monotonic()
        n_images, first, rate = 0, self.step, 0.0
        with self._bar() as advance:
            while (progress := self.budget.progress(self.step, self.elapsed_s)) < 1:
                started = time.monotonic()
                rate = self._set_rate(progress)
                with memory_errors(self.step, self.settings.way_out):
                    n_images += self._one_step(parts, progress)
                advance(1)
                now = time.monotonic()
                self.elapsed_s += now - started
                if self.step % self.settings.log_every == 0:
                    self._log(n_images * self.compute.world / max(now - last_log, 1e-9), rate)
                    n_images, last_log = 0, now
                stopped = stop_after is not None and self.step - first >= stop_after
                due = self._is_due()
                if due and observe is not None and not stopped:
                    self._observe(observe)
                if stopped:
                    self.save()
                    return self._is_used_up()
                if now - last_checkpoint > self.settings.checkpoint_s or due:
                    self.save()
                    if on_checkpoint is not None and self.compute.is_main:
                        with self.ema.applied():
                            on_checkpoint(self.step)
                    last_checkpoint = last_log = time.monotonic()
                    n_images = 0
        if self.step > first:
            if self._n_losses:
                self._log(n_images * self.compute.world / max(time.monotonic() - last_log, 1e-9), rate)
            if observe is not None:
                self._observe(observe)
            self.save()
        return True

    def _is_used_up(self) -> bool:
        return self.budget.progress(self.step, self.elapsed_s) >= 1

    def _is_due(self) -> bool:
        """Whether to observe now; the end of the budget is observed in any case."""
        every = self.settings.observe_every
        return every > 0 and self.step % every == 0 and not self._is_used_up()

    @contextmanager
    def _bar(self) -> Iterator[Callable[[int], None]]:
        """A progress bar where the number of steps is known."""
        shown = self.budget.n_steps is not None and self.compute.is_main
        with bar(f"train {self.folder.name}", self.budget.n_steps or 0) if shown else nullcontext(_nothing) as advance:
            advance(self.step)
            yield advance

    def _set_rate(self, progress: float) -> float:
        rate = learning_rate_at(progress, self.step, self.settings)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        return rate

    def _one_step(self, parts: Parts, progress: float) -> int:
        """One optimizer step; returns the number of images of this process."""
        n_images = 0
        self.optimizer.zero_grad(set_to_none=True)
        for loss, n in parts(self.step, progress):
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]
            self._loss = self._loss + loss.detach()
            n_images += n
        self.compute.average_gradients(self.groups, self.active)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step += 1
        self._n_losses += 1
        self.ema.update(self.step)
        return n_images

    def _log(self, images_per_s: float, rate: float) -> None:
        """Mean loss since the last line; all processes call it. A loss that is no number stops the run."""
        loss = float(self.compute.mean(self._loss)) / max(self._n_losses, 1)
        self._loss, self._n_losses = torch.zeros_like(self._loss), 0
        self._check_finite(loss, rate)
        record = {
            "step": self.step,
            "loss": round(loss, 6),
            "images_per_s": round(images_per_s, 2),
            "learning_rate": round(rate, 8),
            "elapsed_s": round(self.elapsed_s, 1),
        }
        self._write(record)
        if self.step % (self.settings.log_every * 4) == 0:
            log.info("%s %s", self.folder.name, record)

    def _check_finite(self, loss: float, rate: float) -> None:
        if not math.isfinite(loss):
            precision = "" if self.scaler is None else ', or use precision = "bf16"'
            raise InvalidInput(
                f"the loss became {loss} at step {self.step}: lower the learning rate ({rate:.2g}){precision}"
            )

    def _write(self, record: dict[str, Any]) -> None:
        if self.compute.is_main:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _observe(self, observe: Callable[[int], dict[str, Any]]) -> None:
        if self.compute.is_main:
            with self.ema.applied():
                figures = observe(self.step)
                self.best.offer(self.step, figures)
            if figures:
                self._write({"step": self.step, **figures})

    def keep(self) -> None:
        """Leave in the model what training was for: the averaged weights, of the best observation where one decides.

        All processes call it at the end.
        """
        self.compute.wait()
        if (step := self.best.copy_to_model()) is None:
            self.ema.copy_to_model()
        else:
            log.info("%s keeps the weights of step %d", self.folder.name, step)

    def save(self) -> None:
        """Write the checkpoint beside and rename (main process only).

        Raises:
            InvalidInput: the loss is no number any more; the older checkpoint stays.
            StorageFull: the disk is full; the older checkpoint stays.
        """
        if not self.compute.is_main:
            return
        self._check_finite(float(self._loss), float(self.optimizer.param_groups[0]["lr"]))
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for index, parameter in enumerate(self.parameters):
            tensors[f"parameter.{index}"] = stored(parameter)
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{name}"] = stored(value)
        for index, shadow in enumerate(self.ema.shadow):
            tensors[f"ema.{index}"] = stored(shadow)
        metadata = {"step": str(self.step), "elapsed_s": repr(self.elapsed_s)}
        if self.scaler is not None:
            metadata["scaler"] = json.dumps(self.scaler.state_dict())
        write_tensors(self.folder / CHECKPOINT, tensors, metadata)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if path.exists():
            with safe_open(path, framework="pt") as file:
                self._restore(file, path)
            log.info("resumed %s at step %d (%.0f s used)", self.folder, self.step, self.elapsed_s)
        self.best.resume(self.step)
        if self.compute.is_main:
            self._forget_lines_after(self.step)

    def _restore(self, file: Any, path: Path) -> None:
        names = set(file.keys())
        by_parameter: dict[int, dict[str, str]] = {}
        for name in names:
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                by_parameter.setdefault(int(index), {})[key] = name
        count = sum(name.startswith("parameter.") for name in names)
        shapes = [tuple(file.get_slice(f"parameter.{i}").get_shape()) for i in range(count)]
        if shapes != [tuple(p.shape) for p in self.parameters]:
            raise InvalidInput(f"{path} holds another model than the one to train: remove that file")
        metadata = file.metadata()
        self.step, self.elapsed_s = int(metadata["step"]), float(metadata["elapsed_s"])
        self.generator.set_state(file.get_tensor("generator"))
        if self.scaler is not None and "scaler" in metadata:
            self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(file.get_tensor(f"parameter.{index}"))
                if self.ema.shadow:
                    average = f"ema.{index}" if f"ema.{index}" in names else f"parameter.{index}"
                    self.ema.shadow[index].copy_(file.get_tensor(average))
                state = {
                    key: _like(parameter, file.get_tensor(name)) for key, name in by_parameter.get(index, {}).items()
                }
                if state:
                    self.optimizer.state[parameter] = state

    def _forget_lines_after(self, step: int) -> None:
        """Drop log lines of steps that the checkpoint does not know; they will be made again."""
        path = self.folder / METRICS
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            write_atomic(path, "".join(kept))


def _nothing(n: int) -> None:
    del n


def _step_of(line: str) -> float:
    """The step of a log line; infinite for a torn one."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _like(parameter: nn.Parameter, kept: Tensor) -> Tensor:
    """Optimizer state on the parameter's device and in its memory layout, which fused optimizers insist on."""
    if kept.shape != parameter.shape or kept.ndim == 0:
        return kept.clone().to(parameter.device)
    return torch.empty_like(parameter).copy_(kept)
