"""Feedback without people: pools filtered by the proxy, and the generator fine-tuned on what the proxy kept.

Input: a study. Output: pools of arm "proxy-filtered", a run of kind ``proxy`` with the model of arm "proxy-finetuned"
and its pools (paper, "Proxy model": 90th percentile, 9,000 steps). Same LoRA, images per step, sampler and
pools as the preference arms; no score of a person or simulated rater is read. The same call again resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from radpref.alignment.preferences.preference_sets import encode_stored
from radpref.alignment.requests import PROXY_ARMS, check_proxy
from radpref.alignment.training.finetune import FinetuneStep, TrainingImages
from radpref.alignment.training.policy import make_policy
from radpref.alignment.training.train_arm import ArmTraining, train_arm
from radpref.alignment.training.watch import MODES, N_PROMPTS, Prompt
from radpref.data.study.conditions import load_condition, mask_stack
from radpref.data.study.pools import PROXY_FILTERED, PROXY_FINETUNED, pool_run
from radpref.data.study.runs import Run, once
from radpref.generation.pools.pool import run_pool
from radpref.generation.stack.adapters import generator_identity, load_generator
from radpref.generation.stack.conditions import Condition, encode_conditions
from radpref.generation.stack.device import pick_device
from radpref.generation.stack.options import find_generator

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.study.study import Study
    from radpref.generation.stack.models import GeneratorStack


def run_proxy(
    study: Study, *, arms: Sequence[str] | None = None, n_steps: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Filter the pools of all tasks; fine-tune on them; sample the fine-tuned generator's pools.

    Args:
        arms: "proxy-filtered" alone stops after the filter; default both.
        n_steps: instead of proxy.finetune_steps.
        device: of the training; "auto" takes a CUDA device where there is one.

    Errors as `check_proxy` and `radpref.generation.pools.proxy_filter.filter_pool`.
    """
    wanted = list(dict.fromkeys(arms or PROXY_ARMS))
    check_proxy(study, wanted, n_steps, device)
    device = pick_device(device)
    settings = study.config.align.model_copy(
        update={
            "n_steps": study.config.proxy.finetune_steps if n_steps is None else n_steps,
            "learning_rate": study.config.proxy.learning_rate,
        }
    )
    result: dict[str, Any] = {PROXY_FILTERED: run_pool(study, arms=[PROXY_FILTERED])["pools"]}
    if PROXY_FINETUNED in wanted:
        result["training"] = _finetune(study, settings, device)
        result[PROXY_FINETUNED] = run_pool(study, arms=[PROXY_FINETUNED])["pools"]
    return result


def _finetune(study: Study, settings: AlignConfig, device: str) -> dict[str, Any]:
    generator = find_generator(study)
    base = generator_identity(generator)
    pools = [pool_run(study, task.name, PROXY_FILTERED) for task in study.config.downstream.tasks]
    config = {
        "arm": PROXY_FINETUNED,
        "pools": pools,
        "proxy": study.config.proxy.model_dump(mode="json"),
        "align": settings.model_dump(mode="json"),
        "generator": study.config.generator.model_dump(mode="json"),
        "base": base,
    }

    def work(run: Run) -> dict[str, Any]:
        return _train(study, run, pools, load_generator(generator, device), settings)

    return once(study, "proxy", config, work, {"generator": base}).outcome


def _kept(study: Study, pools: Sequence[str], at_most: int) -> list[tuple[str, str]]:
    """(hash, condition) of at most so many filtered images, evenly from the pools and spread over each."""
    found = []
    for number, run_id in enumerate(pools):
        rows = study.db.rows(
            "SELECT image_sha, condition_id FROM pool_images WHERE run_id = ? ORDER BY ordinal", [run_id]
        )
        share = at_most // len(pools) + (number < at_most % len(pools))
        for i in np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int)):
            found.append((str(rows[i]["image_sha"]), str(rows[i]["condition_id"])))
    return found


def training_images(
    study: Study, stack: GeneratorStack, kept: Sequence[tuple[str, str]]
) -> tuple[TrainingImages, list[Prompt]]:
    """Latents of the images, their distinct conditions encoded once, and those conditions, texts first."""
    shas, condition_ids = zip(*kept, strict=True)
    distinct = list(dict.fromkeys(condition_ids))
    stored = [load_condition(study, name) for name in distinct]
    asked = [Condition(one.text, mask_stack(study, one.masks, stack.structures)) for one in stored]
    place = {name: i for i, name in enumerate(distinct)}
    rows = torch.tensor([place[name] for name in condition_ids], device=stack.device)
    latents = encode_stored(study, stack, shas, "encoding what the proxy kept")
    order = sorted(range(len(stored)), key=lambda i: MODES.index(stored[i].mode))
    prompts = [Prompt.of(stored[i], asked[i]) for i in order]
    return TrainingImages(latents, encode_conditions(stack, asked), rows), prompts


def _train(
    study: Study, run: Run, pools: Sequence[str], stack: GeneratorStack, settings: AlignConfig
) -> dict[str, Any]:
    images, prompts = training_images(study, stack, _kept(study, pools, study.config.proxy.finetune_images))
    policy = make_policy(
        stack,
        rank=settings.lora_rank,
        seed=settings.seed,
        train_controlnet=any(prompt.condition.mask is not None for prompt in prompts),
        bf16=study.config.generator.precision == "bf16",
    )
    training = ArmTraining(
        study,
        run,
        PROXY_FINETUNED,
        settings,
        policy,
        prompts=prompts[:N_PROMPTS],
        held_out=None,
        facts={"n_images": len(images)},
        card=lambda result: _card(study, result, settings),
    )
    return train_arm(training, FinetuneStep(policy, images, settings))


def _card(study: Study, result: dict[str, Any], settings: AlignConfig) -> str:
    proxy = study.config.proxy
    return f"""# Arm "{PROXY_FINETUNED}" (run {result["run_id"]})

Research use, not for diagnosis. Synthetic images only.

- Method: denoising loss on {result["n_images"]} of the baseline's own images at or above percentile \
{proxy.percentile:g} of the proxy `{proxy.model}`, class by class; {settings.n_steps} steps of \
{settings.sets_per_step * 4} images, learning rate {settings.learning_rate:g} (LoRA, rank {settings.lora_rank})
- No person and no simulated rater scored anything of it
- Seed {settings.seed}; {result["n_parameters"]:,} trained parameters; {result["train_s"]:.0f} s of training

Known faults: what the proxy cannot see is not corrected, and what it likes for the wrong reason is learned. Never judge
this arm by the proxy.
"""
