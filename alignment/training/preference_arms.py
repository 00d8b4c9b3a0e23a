"""Train an arm of a study: "aligned" by Diffusion-DPO, "finetuned" on well-scored images; log, watch, save, register.

Input: a study with a pairs run. Output: a run of kind ``align`` or ``finetune``, ``models/<run_id>/`` with a model
card, and a row of ``models``. The same call again resumes an interrupted run, or returns the finished one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpref.alignment.preferences.pairs import find_pairs_run
from radpref.alignment.preferences.preference_sets import PreferenceSets, load_preference_sets
from radpref.alignment.requests import check_training
from radpref.alignment.training.dpo import DpoStep
from radpref.alignment.training.finetune import FinetuneStep, image_scores, select_images, selected_images
from radpref.alignment.training.policy import Policy, make_policy
from radpref.alignment.training.train_arm import N_PROMPTS, StepFunction, train_arm
from radpref.data.core.errors import NotFound
from radpref.data.study.conditions import StoredCondition, load_condition
from radpref.data.study.runs import Run, once
from radpref.generation.stack.adapters import arm_identity, load_arm
from radpref.generation.stack.device import pick_device
from radpref.generation.stack.places import BASELINE

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.study.study import Study

log = logging.getLogger(__name__)

ArmKind = Literal["align", "finetune"]
ARM_OF: dict[ArmKind, str] = {"align": "aligned", "finetune": "finetuned"}


@dataclass(frozen=True)
class Material:
    """What one training needs, loaded: the policy, training sets and the held-out sets (None if there are none)."""

    policy: Policy
    train: PreferenceSets
    held_out: PreferenceSets | None


def run_align(
    study: Study,
    *,
    arm: str = "aligned",
    pairs_run: str | None = None,
    n_steps: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Diffusion-DPO on a pairs run (the newest by default); registers the arm.

    Args:
        n_steps: instead of study.toml's align.n_steps.
        device: "auto" takes a CUDA device where there is one.

    Raises:
        NotFound: no pairs yet.
        InvalidInput: a bad arm name or device. Others: as `radpref.alignment.requests.check_training`.
    """
    return _run(study, "align", arm, pairs_run, n_steps, device)


def run_finetune(
    study: Study,
    *,
    arm: str = "finetuned",
    pairs_run: str | None = None,
    n_steps: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The filter-and-fine-tune arm on the training sets of the same pairs run; see :func:`run_align`."""
    return _run(study, "finetune", arm, pairs_run, n_steps, device)


def _run(
    study: Study, kind: ArmKind, arm: str, pairs_run: str | None, n_steps: int | None, device: str
) -> dict[str, Any]:
    check_training(study, [arm], pairs_run, n_steps, device)
    device, settings = pick_device(device), study.config.align
    if n_steps is not None:
        settings = settings.model_copy(update={"n_steps": n_steps})
    pairs = find_pairs_run(study, pairs_run)
    base = arm_identity(study, BASELINE)
    config = {
        "arm": arm,
        "pairs_run": pairs.run_id,
        "raters": pairs.config["raters"],
        "align": settings.model_dump(mode="json"),
        "generator": study.config.generator.model_dump(mode="json"),
        "base": base,
    }
    inputs = {"generator": base}
    return once(study, kind, config, lambda run: _train(study, run, kind, arm, settings, device), inputs).outcome


def load_material(study: Study, pairs_run: str, settings: AlignConfig, device: str) -> Material:
    """Load the baseline, encode the sets of a pairs run, and make the policy.

    Raises:
        NotFound: the pairs run has no training sets.
    """
    stack = load_arm(study, BASELINE, device)
    train = load_preference_sets(study, stack, pairs_run, "train")
    if train is None:
        raise NotFound(f"pairs run {pairs_run} has no training sets: score more sets, then run `radpref align pairs`")
    held_out = load_preference_sets(study, stack, pairs_run, "held_out")
    bf16 = study.config.generator.precision == "bf16"
    policy = make_policy(
        stack, rank=settings.lora_rank, seed=settings.seed, train_controlnet=train.has_masks, bf16=bf16
    )
    return Material(policy, train, held_out)


def watch_conditions(study: Study, pairs_run: str) -> list[StoredCondition]:
    """Fixed prompts of the watch: distinct conditions of held-out sets first, texts before masks, at most N_PROMPTS."""
    rows = study.db.rows(
        "SELECT DISTINCT s.condition_id, c.mode, c.text, p.split FROM pairs p JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE p.run_id = ? ORDER BY p.split, s.condition_id",
        [pairs_run],
    )
    order = {"T2I": 0, "TM2I": 1, "M2I": 2}
    rows.sort(key=lambda row: (row["split"] != "held_out", order[row["mode"]]))
    chosen: dict[tuple[str, str], str] = {}
    for row in rows:
        chosen.setdefault((row["mode"], row["text"] or row["condition_id"]), row["condition_id"])
    return [load_condition(study, condition_id) for condition_id in list(chosen.values())[:N_PROMPTS]]


def _train(study: Study, run: Run, kind: ArmKind, arm: str, settings: AlignConfig, device: str) -> dict[str, Any]:
    pairs_run = str(run.config["pairs_run"])
    material = load_material(study, pairs_run, settings, device)
    policy = material.policy
    facts: dict[str, Any] = {
        "raters": run.config["raters"],
        "pairs_run": pairs_run,
        "n_sets_train": len(material.train),
        "n_sets_held_out": len(material.held_out or ()),
    }
    step_function: StepFunction
    if kind == "finetune":
        selection = select_images(image_scores(material.train), settings.finetune_min_score)
        facts |= {"n_images": len(selection.images), "min_score": selection.threshold, "warning": selection.warning}
        if selection.warning:
            log.warning("%s", selection.warning)
        step_function = FinetuneStep(policy, selected_images(material.train, selection), settings)
    else:
        step_function = DpoStep(policy, material.train, settings)
    return train_arm(
        study,
        run,
        policy,
        step_function,
        settings,
        arm=arm,
        prompts=watch_conditions(study, pairs_run),
        held_out=material.held_out,
        facts=facts,
        card=lambda result: model_card(kind, result, settings),
    )


def model_card(kind: ArmKind, result: dict[str, Any], settings: AlignConfig) -> str:
    """README.md of a trained arm: what it is, from which preferences, how, and how it ended."""
    how = {
        "align": f"Diffusion-DPO, loss {settings.loss}, beta {settings.beta:g}",
        "finetune": f"denoising loss on {result.get('n_images')} images with a mean score >= {result.get('min_score')}",
    }[kind]
    who = "SIMULATED raters" if result["raters"] == "simulated" else "human raters"
    figures = "\n".join(
        f"- {key}: {result[key]:.4g}"
        for key in ("loss", "held_out_accuracy", "held_out_loss", "winner_shift", "loser_shift", "drift", "diversity")
        if isinstance(result.get(key), float)
    )
    return f"""# Arm "{result["arm"]}" (run {result["run_id"]})

Research use, not for diagnosis. Synthetic images only.

- Method: {how}; {settings.n_steps} steps of {settings.sets_per_step * 4} images, learning rate \
{settings.learning_rate:g} (LoRA, rank {settings.lora_rank}), \
{f"{settings.controlnet_learning_rate:g} (ControlNet)" if result["train_controlnet"] else "ControlNet untouched"}
- Preferences: pairs run {result["pairs_run"]}, scores of {who}, {result["n_sets_train"]} training sets, \
{result["n_sets_held_out"]} held out
- Seed {settings.seed}; {result["n_parameters"]:,} trained parameters; {result["train_s"]:.0f} s of training

At the end of training:

{figures or "- no figures"}

Known faults: whatever the raters could not see is not corrected; drift and diversity were watched on \
{N_PROMPTS} prompts only. Use it with the generator, sampler, steps and guidance it was trained for.
"""
