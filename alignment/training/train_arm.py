"""What training an arm is, whatever it learns from: the loop, its watch, saving and registering.

Input: a policy and a function step -> (loss, figures). Output: ``models/<run_id>/`` with a model card, a row of
``models``, and the figures of the run. Preference arms and the proxy's arm are trained by this same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpref.alignment.training.dpo import HeldOut, summary
from radpref.alignment.training.trainer import StepFunction, Trainer, TrainSettings
from radpref.alignment.training.watch import Watch, feature_function
from radpref.generation.stack.adapters import register_model, save_adapters

if TYPE_CHECKING:
    from radpref.alignment.preferences.preference_sets import PreferenceSets
    from radpref.alignment.training.policy import Policy
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.study.conditions import StoredCondition
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

N_PROMPTS = 4
"""Prompts of the drift and diversity watch."""


def train_arm(
    study: Study,
    run: Run,
    policy: Policy,
    step: StepFunction,
    settings: AlignConfig,
    *,
    arm: str,
    prompts: Sequence[StoredCondition],
    held_out: PreferenceSets | None,
    facts: Mapping[str, Any],
    card: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Train (or take up again), save and register one arm; returns the figures of the run.

    Args:
        prompts: what the watch samples again and again, at most `N_PROMPTS`.
        held_out: preference sets for held-out figures; None for an arm that learns from no preferences.
        facts: what the caller knows of the material; they stand in the result.
        card: result -> model card.
    """
    features, features_name = feature_function(study)
    watch = Watch(study, prompts[:N_PROMPTS], features, run.folder / "watch", settings.seed)
    watch.set_baseline(policy.stack)  # before the checkpoint is taken up: the policy equals the baseline here
    measured = HeldOut(policy, held_out, settings.beta, settings.seed) if held_out else None
    trainer = Trainer(run, policy, _loop_settings(settings))
    trainer.train(step, ArmObserver(policy, watch, measured, settings.n_steps), f"training arm {arm}")
    result = {
        "run_id": run.run_id,
        "arm": arm,
        "n_steps": settings.n_steps,
        **facts,
        "train_controlnet": bool(policy.control),
        "n_parameters": sum(p.numel() for p in trainer.parameters.values()),
        "train_s": round(trainer.elapsed_s, 2),
        "features": features_name,
        **summary(run.metrics()),
    }
    sha256 = save_adapters(policy.stack, run.model_folder, with_controlnet=bool(policy.control), card=card(result))
    register_model(study, run.run_id, arm, sha256, result)
    return {**result, "sha256": sha256}


def _loop_settings(settings: AlignConfig) -> TrainSettings:
    return TrainSettings(
        n_steps=settings.n_steps,
        learning_rate=settings.learning_rate,
        controlnet_learning_rate=settings.controlnet_learning_rate,
        warmup_steps=settings.warmup_steps,
    )


@dataclass
class ArmObserver:
    """Held-out figures every 10 to 100 steps (ten times a run), the watch every 50 or more, both at the end."""

    policy: Policy
    watch: Watch
    held_out: HeldOut | None
    n_steps: int

    def _watch_due(self, step: int) -> bool:
        return step % max(self.n_steps // 4, 50) == 0 or step == self.n_steps

    def _held_out_due(self, step: int) -> bool:
        every = min(max(self.n_steps // 10, 10), 100)
        return self.held_out is not None and (step % every == 0 or step == self.n_steps)

    def due(self, step: int) -> bool:
        """Whether the step has figures of its own."""
        return self._watch_due(step) or self._held_out_due(step)

    def __call__(self, step: int) -> dict[str, Any]:
        """The figures of one step."""
        figures: dict[str, Any] = {}
        if self.held_out is not None and self._held_out_due(step):
            figures |= self.held_out.measure()
        if self._watch_due(step):
            figures |= self.watch.observe(self.policy.stack, step)
        return figures
