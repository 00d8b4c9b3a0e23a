"""The resumable training loop of generator and arms: budget, learning rate, averages, metrics, atomic checkpoints.

Input: modules, a loss function of (step, progress) and a budget in steps or minutes. Output: trained modules (their
exponential moving average, where one is kept), ``metrics.jsonl`` and ``checkpoint.safetensors`` in a folder. In a
step-bound run every random draw comes from one `torch.Generator` whose state is saved, or is a function of the step: a
resumed run equals an uninterrupted one bit for bit. Several processes (`radpref.generation.training.compute`) may share
the steps: all hold the same weights and generator, the main one writes.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.generation.training.averages import BEST, BestWeights, Ema
from radpref.generation.training.checkpoints import CHECKPOINT, Checkpoint
from radpref.generation.training.compute import FUSED_DEVICES, Compute, Precision, memory_errors

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Part(NamedTuple):
    """A part of a step's loss (their sum is minimised), its number of images, and figures for the log line."""

    loss: Tensor
    n_images: int
    figures: Mapping[str, Tensor] = MappingProxyType({})


Parts = Callable[[int, float], Iterable[Part]]
"""(step, progress) -> the parts of the step's loss, computed one after the other."""
Observe = Callable[[int], Mapping[str, Any] | None]
"""step -> figures for metrics.jsonl; None where there is nothing to observe at this step."""


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

    ema_decay: 0 for no average; checkpoint_s: seconds between checkpoints; log_every: steps between writes to
    metrics.jsonl; log_each: a line for each of these steps, not one for their mean; observe_every: steps between
    observations (each with a checkpoint), 0 for none; keep_best: name of the observed figure whose lowest value says
    which averaged weights `TrainingLoop.keep` leaves, "" for the last ones; way_out, if_diverged: what to change where
    memory ends, and where the loss is not a number any more.
    """

    learning_rate: float = 1e-3
    final_rate: float = 0.02  # of learning_rate, where the cosine ends; 1 for a constant rate
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    checkpoint_s: float = 180.0
    log_every: int = 25
    log_each: bool = False
    observe_every: int = 0
    keep_best: str = ""
    way_out: str = (
        "raise train.accumulation (the same result with less memory), set train.checkpointing = true, "
        "or lower train.batch_size"
    )
    if_diverged: str = "lower the learning rate"


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
        generator: torch.Generator | None,
        budget: Budget,
        settings: LoopSettings,
        compute: Compute | None = None,
        precision: Precision = "f32",
    ) -> None:
        """`parameter_groups`: (parameters, factor on the learning rate) each; `generator`: None where every draw is a
        function of the step; `precision` decides on a loss scaler.

        Raises:
            InvalidInput: the folder's checkpoint is of another model, a budget in minutes for several processes, or
                fp16 without CUDA.
        """
        self.folder, self.budget, self.settings = folder, budget, settings
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
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self.compute.device.type in FUSED_DEVICES,
        )
        self.scaler = self.compute.scaler(precision)
        self.ema = Ema(self.parameters, settings.ema_decay)
        self.step, self.elapsed_s = 0, 0.0
        self.best = BestWeights(folder / BEST, settings.keep_best, self.parameters)
        self._checkpoint = Checkpoint(folder / CHECKPOINT, self.parameters, self.optimizer, self.ema.shadow, generator)
        self._waiting: list[dict[str, Any]] = []
        """Log lines that are not written yet, so that not every step waits for the device."""
        self._loss, self._figures = torch.zeros((), device=self.compute.device), dict[str, Tensor]()
        self._n_losses, self._n_images, self._since, self._rate = 0, 0, 0.0, 0.0
        """What happened since the last line."""
        self._resume()

    def run(self, parts: Parts, observe: Observe | None = None, title: str = "") -> None:
        """Train until the budget is used, on losses that come in parts, computed one after the other.

        `observe(step)` is called with the averaged weights every `observe_every` steps and at the end, in the main
        process; its figures go into metrics.jsonl. `title` is that of the progress bar.
        """
        self._since = last_checkpoint = time.monotonic()
        with self._bar(title) as advance:
            while (progress := self.budget.progress(self.step, self.elapsed_s)) < 1:
                started = time.monotonic()
                with memory_errors(self.step, self.settings.way_out):
                    self._one_step(parts, progress)
                self.elapsed_s += time.monotonic() - started
                advance(1)
                observed = self._record(observe, ended=self.budget.progress(self.step, self.elapsed_s) >= 1)
                if observed or time.monotonic() - last_checkpoint > self.settings.checkpoint_s:
                    with self._pause():
                        self.save()
                    last_checkpoint = time.monotonic()

    def _record(self, observe: Observe | None, *, ended: bool) -> bool:
        """Log and observe what is due after this step; whether that was a step to observe."""
        settings, every = self.settings, self.settings.observe_every
        writes = ended or self.step % settings.log_every == 0
        line = self._line() if writes or settings.log_each else {}
        seen: Mapping[str, Any] | None = None
        if ended or (every > 0 and self.step % every == 0):
            self._check_finite(line.get("loss", self._loss))
            seen = {} if observe is None else self._observe(observe)
            line |= {"step": self.step, **seen} if seen else {}
        if line:
            self._waiting.append(line)
        if writes or seen is not None:
            self._write_lines()
        return ended or seen is not None

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """Time that does not count as training in the log's speed."""
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    @contextmanager
    def _bar(self, title: str) -> Iterator[Callable[[int], None]]:
        """A progress bar where the number of steps is known."""
        shown = self.budget.n_steps is not None and self.compute.is_main
        title = title or f"train {self.folder.name}"
        with bar(title, self.budget.n_steps or 0) if shown else nullcontext(lambda _: None) as advance:
            advance(self.step)
            yield advance

    def _one_step(self, parts: Parts, progress: float) -> None:
        """One optimizer step on the sum of the parts."""
        self._rate = learning_rate_at(progress, self.step, self.settings)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self._rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        for loss, n_images, figures in itertools.starmap(Part, parts(self.step, progress)):
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]
            self._loss = self._loss + loss.detach()
            self._n_images += n_images
            self._figures |= figures
        self.compute.average_gradients(self.groups, self.active)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._figures["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step += 1
        self._n_losses += 1
        self.ema.update(self.step)

    def _line(self) -> dict[str, Any]:
        """Mean loss and speed since the last line; all processes call it. Tensors stay: no wait for the device."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        line = {
            "step": self.step,
            "loss": self.compute.mean(self._loss) / self._n_losses,
            **self._figures,
            "learning_rate": round(self._rate, 10),
            "seconds": round(seconds / self._n_losses, 6),
            "images_per_s": round(self._n_images * self.compute.world / seconds, 2),
            "elapsed_s": round(self.elapsed_s, 2),
        }
        self._loss, self._figures = torch.zeros_like(self._loss), {}
        self._n_losses, self._n_images, self._since = 0, 0, now
        return line

    def _check_finite(self, loss: Tensor | float) -> None:
        if not math.isfinite(loss):
            rate = float(self.optimizer.param_groups[0]["lr"])
            precision = "" if self.scaler is None else ', or use precision = "bf16"'
            raise InvalidInput(
                f"the loss became {float(loss)} at step {self.step} (learning rate {rate:.2g}): "
                f"{self.settings.if_diverged}{precision}"
            )

    def _write_lines(self) -> None:
        """Write the waiting lines; all processes call it. A loss that is not a number stops the run."""
        lines = [{key: _plain(value) for key, value in line.items()} for line in self._waiting]
        for line in self._waiting:
            self._check_finite(line.get("loss", 0.0))
        self._waiting.clear()
        if self.compute.is_main and lines:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
            if self.step % (self.settings.log_every * 4) == 0:
                log.info("%s %s", self.folder.name, lines[-1])

    def _observe(self, observe: Observe) -> Mapping[str, Any] | None:
        if not self.compute.is_main:
            return {}
        with self._pause(), self.ema.applied():
            figures = observe(self.step)
            self.best.offer(self.step, figures or {})
        return figures

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
            InvalidInput: the loss is not a number any more; the older checkpoint stays.
            StorageFull: the disk is full; the older checkpoint stays.
        """
        if not self.compute.is_main:
            return
        self._write_lines()
        self._check_finite(self._loss)
        metadata = {"step": str(self.step), "elapsed_s": repr(self.elapsed_s)}
        if self.scaler is not None:
            metadata["scaler"] = json.dumps(self.scaler.state_dict())
        self._checkpoint.save(metadata)

    def _resume(self) -> None:
        if known := self._checkpoint.restore():
            self.step, self.elapsed_s = int(known["step"]), float(known["elapsed_s"])
            if self.scaler is not None and "scaler" in known:
                self.scaler.load_state_dict(json.loads(known["scaler"]))
            log.info("resumed %s at step %d (%.0f s used)", self.folder, self.step, self.elapsed_s)
        self.best.resume(self.step)
        if self.compute.is_main:
            self._forget_lines_after(self.step)

    def _forget_lines_after(self, step: int) -> None:
        """Drop log lines of steps that the checkpoint does not know; they will be made again."""
        path = self.folder / METRICS
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            write_atomic(path, "".join(kept))


def _step_of(line: str) -> float:
    """The step of a log line; infinite for a torn one."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    """A figure for JSON: six digits of a tensor, a float as it is, None for one that is not finite."""
    if isinstance(value, Tensor):
        value = float(f"{float(value):.6g}")
    return None if isinstance(value, float) and not math.isfinite(value) else value
