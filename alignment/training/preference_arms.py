"""Train an arm of a study: "aligned" by Diffusion-DPO, "finetuned" on well-scored images; log, watch, save, register.

Input: a study with a pairs run. Output: a run of kind ``align`` or ``finetune``, ``models/<run_id>/`` with a model
card, and a row of ``models``. The same call again resumes an interrupted run, or returns the finished one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radpref.alignment.preferences.pairs import Split
from radpref.alignment.preferences.preference_sets import SPLITS, StoredSets, encode_sets, read_sets
from radpref.alignment.requests import ArmKind, TrainingRequest, training_request
from radpref.alignment.training.dpo import DpoStep
from radpref.alignment.training.finetune import FinetuneStep, image_scores, select_images, selected_images
from radpref.alignment.training.held_out import HeldOut
from radpref.alignment.training.policy import make_policy
from radpref.alignment.training.train_arm import ArmTraining, StepFunction, train_arm
from radpref.alignment.training.watch import MODES, N_PROMPTS, Prompt
from radpref.data.study.runs import Run, once
from radpref.generation.stack.adapters import generator_identity, load_generator
from radpref.generation.stack.device import pick_device

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.study.study import Study

log = logging.getLogger(__name__)


def run_align(study: Study, *, arm: str = "aligned", **options: Any) -> dict[str, Any]:
    """Diffusion-DPO on a pairs run; registers the arm. `options` and errors as in `training_request`."""
    return train_preference_arm(training_request(study, arm, kind="align", **options))


def run_finetune(study: Study, *, arm: str = "finetuned", **options: Any) -> dict[str, Any]:
    """The filter-and-fine-tune arm on the training sets of the same pairs run; see :func:`run_align`."""
    return train_preference_arm(training_request(study, arm, kind="finetune", **options))


def train_preference_arm(request: TrainingRequest) -> dict[str, Any]:
    """Train what was asked for, unless that was done before; returns the figures of the run."""
    study, device = request.study, pick_device(request.device)
    base = generator_identity(request.generator)
    config = {
        "arm": request.arm,
        "pairs_run": request.pairs_run,
        "raters": request.raters,
        "align": request.settings.model_dump(mode="json"),
        "generator": study.config.generator.model_dump(mode="json"),
        "base": base,
    }

    def work(run: Run) -> dict[str, Any]:
        return _train(request, run, device)

    return once(study, request.kind, config, work, {"generator": base}).outcome


def _train(request: TrainingRequest, run: Run, device: str) -> dict[str, Any]:
    study, settings = request.study, request.settings
    stack = load_generator(request.generator, device)
    stored = read_sets(study, request.pairs_run, stack.structures)
    sets = encode_sets(study, stack, stored)
    train, held_out = sets["train"], sets.get("held_out")
    policy = make_policy(
        stack,
        rank=settings.lora_rank,
        seed=settings.seed,
        train_controlnet=train.has_masks,
        bf16=study.config.generator.precision == "bf16",
    )
    facts: dict[str, Any] = {
        "raters": request.raters,
        "pairs_run": request.pairs_run,
        "n_sets_train": len(train),
        "n_sets_held_out": len(held_out or ()),
    }
    step: StepFunction
    if request.kind == "finetune":
        selection = select_images(image_scores(train), settings.finetune_min_score)
        facts |= {"n_images": len(selection.images), "min_score": selection.threshold, "warning": selection.warning}
        if selection.warning:
            log.warning("%s", selection.warning)
        step = FinetuneStep(policy, selected_images(train, selection), settings)
    else:
        step = DpoStep(policy, train, settings)
    training = ArmTraining(
        study,
        run,
        request.arm,
        settings,
        policy,
        prompts=watch_prompts(stored),
        held_out=HeldOut(policy, held_out, settings.beta, settings.seed) if held_out else None,
        facts=facts,
        card=lambda result: model_card(request.kind, result, settings),
    )
    return train_arm(training, step)


def watch_prompts(stored: Mapping[Split, StoredSets]) -> list[Prompt]:
    """Fixed prompts of the watch: distinct conditions of held-out sets first, texts before masks, at most N_PROMPTS."""
    chosen: dict[tuple[str, str], Prompt] = {}
    for split in reversed(SPLITS):
        if sets := stored.get(split):
            both = {one.condition_id: (one, asked) for one, asked in zip(sets.conditions, sets.asked, strict=True)}
            for name, (one, asked) in sorted(both.items(), key=lambda item: (MODES.index(item[1][0].mode), item[0])):
                chosen.setdefault((one.mode, one.text or name), Prompt.of(one, asked))
    return list(chosen.values())[:N_PROMPTS]


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
