"""What training an arm is, whatever it learns from: the loop, its watch, saving and registering.

Input: a policy and a function step -> loss. Output: ``models/<run_id>/`` with a model card, a row of
``models``, and the figures of the run. Preference arms and the proxy's arm are trained by this same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpref.alignment.training.held_out import HeldOut
from radpref.alignment.training.watch import Prompt, Watch
from radpref.generation.stack.adapters import register_model, save_adapters
from radpref.generation.training.compute import Compute
from radpref.generation.training.loop import Budget, LoopSettings, Part, TrainingLoop

if TYPE_CHECKING:
    from radpref.alignment.training.policy import Policy
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

StepFunction = Callable[[int], Part]
"""step -> its loss, with gradient; which images, timesteps and noises it takes follows from the step alone."""


@dataclass(frozen=True)
class ArmTraining:
    """One training of an arm, with everything that it needs found and loaded.

    prompts: what the watch samples; held_out: None for an arm that learns from no preferences; facts: what the caller
    knows of the material, for the result; card: result -> model card.
    """

    study: Study
    run: Run
    arm: str
    settings: AlignConfig
    policy: Policy
    prompts: Sequence[Prompt]
    held_out: HeldOut | None
    facts: Mapping[str, Any]
    card: Callable[[dict[str, Any]], str]


def train_arm(training: ArmTraining, step: StepFunction) -> dict[str, Any]:
    """Train (or take up again), save and register one arm; returns the figures of the run."""
    study, run, policy, settings = training.study, training.run, training.policy, training.settings
    # Before the checkpoint is taken up: the policy equals the baseline here.
    watch = Watch(study, policy.stack, training.prompts, run.folder / "watch", settings.seed)
    observer = ArmObserver(policy, watch, training.held_out, settings.n_steps)
    groups = [(list(policy.lora.values()), 1.0)]
    if policy.control:
        groups.append((list(policy.control.values()), settings.controlnet_learning_rate / settings.learning_rate))
    loop = TrainingLoop(
        run.folder,
        groups,
        None,
        Budget(settings.n_steps),
        _loop_settings(settings, observer.every),
        Compute(policy.stack.device),
    )
    loop.run(lambda number, _: [step(number)], observer, title=f"training arm {training.arm}")
    result = {
        "run_id": run.run_id,
        "arm": training.arm,
        "n_steps": settings.n_steps,
        **training.facts,
        "train_controlnet": bool(policy.control),
        "n_parameters": sum(p.numel() for p in loop.parameters),
        "train_s": round(loop.elapsed_s, 2),
        "features": watch.features.name,
        **summary(run.metrics()),
    }
    card = training.card(result)
    sha256 = save_adapters(policy.stack, run.model_folder, with_controlnet=bool(policy.control), card=card)
    register_model(study, run.run_id, training.arm, sha256, result)
    return {**result, "sha256": sha256}


def _loop_settings(settings: AlignConfig, observe_every: int) -> LoopSettings:
    """AdamW at a constant rate after the warm-up, no moving average: what is trained is what is left."""
    return LoopSettings(
        learning_rate=settings.learning_rate,
        final_rate=1.0,
        warmup_steps=settings.warmup_steps,
        betas=(0.9, 0.999),
        ema_decay=0.0,
        log_every=10,
        log_each=True,
        observe_every=observe_every,
        way_out="lower align.sets_per_step",
        if_diverged="lower align.learning_rate or align.beta",
    )


@dataclass
class ArmObserver:
    """Held-out figures every 10 to 100 steps (ten times a run), the watch every 50 or more, both at the end."""

    policy: Policy
    watch: Watch
    held_out: HeldOut | None
    n_steps: int

    @property
    def held_out_every(self) -> int:
        """Steps between held-out figures."""
        return min(max(self.n_steps // 10, 10), 100)

    @property
    def watch_every(self) -> int:
        """Steps between samples of the watch."""
        return max(self.n_steps // 4, 50)

    @property
    def every(self) -> int:
        """Steps of which some have figures and all others have none."""
        return self.watch_every if self.held_out is None else math.gcd(self.held_out_every, self.watch_every)

    def __call__(self, step: int) -> dict[str, Any] | None:
        """The figures of one step; None where none are due."""
        figures: dict[str, Any] = {}
        ended = step == self.n_steps
        if self.held_out is not None and (ended or step % self.held_out_every == 0):
            figures |= self.held_out.measure()
        if ended or step % self.watch_every == 0:
            figures |= self.watch.observe(self.policy.stack, step)
        return figures or None


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the log says at its end: last value of every held-out and watch figure, means over the last tenth."""
    result: dict[str, Any] = {}
    tail = lines[-max(len(lines) // 10, 1) :]
    for key in ("loss", "train_accuracy", "winner_shift", "loser_shift", "seconds"):
        values = [line[key] for line in tail if line.get(key) is not None]
        result[key] = sum(values) / len(values) if values else None
    for key in ("held_out_accuracy", "held_out_loss", "drift", "paired_shift", "diversity"):
        values = [line[key] for line in lines if line.get(key) is not None]
        result[key] = values[-1] if values else None
    return result
