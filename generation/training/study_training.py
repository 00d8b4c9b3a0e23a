"""Trains a study's own generator on its own training split, nothing else.

Input: records of split ``train`` (real images with captions and masks) and section [train]. Output: a stack in
``models/<run_id>/``, entered in table ``models`` as arm "trained", which ``generator.model = "trained"`` samples from.
Several processes (``accelerate launch``) share the steps of UNet and ControlNet; the main
one reads database and images, trains the autoencoder and writes.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from radpref.data.config.generation import TrainConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import sha256_bytes, sha256_tree, write_atomic
from radpref.data.study.conditions import StudyRecord, record_conditions
from radpref.data.study.runs import Run, once
from radpref.data.study.study import Study
from radpref.generation.stack.adapters import (
    ADAPTER,
    LORA_FOLDER,
    attach_lora,
    generator_identity,
    load_generator,
    lora_parameters,
    merge_lora,
    register_model,
)
from radpref.generation.stack.models import GeneratorStack, save_stack
from radpref.generation.stack.options import find_generator
from radpref.generation.stack.parts import quiet_libraries
from radpref.generation.stack.places import TRAINED, model_path
from radpref.generation.training.compute import Compute, make_compute
from radpref.generation.training.corpus import Corpus
from radpref.generation.training.decoder_training import refine_decoder
from radpref.generation.training.latents import encode_corpus
from radpref.generation.training.loop import Budget
from radpref.generation.training.recipes import (
    Recipe,
    check_recipe,
    fit_structures,
    fresh_stack,
    grow_controlnet,
    is_large,
    learning_rates,
    make_recipe,
    stack_is_large,
)
from radpref.generation.training.request import FRESH, check_training, require_size, warn_without_validation
from radpref.generation.training.study_corpus import (
    read_images,
    record_condition,
    records_corpus,
    spread,
    training_records,
)
from radpref.generation.training.train_card import stage_figures, train_card
from radpref.generation.training.unet_training import NoiseObjective, TrainSettings, train
from radpref.generation.training.vae_training import VaeSettings, reconstruction_report, train_vae
from radpref.generation.training.validation import Validation, choose_conditions

log = logging.getLogger(__name__)

VAE_VALIDATION_IMAGES = 128
VALIDATION_IMAGES = 256
"""Of the validation loss."""
VAE_RATE, FRESH_VAE_RATE, DECODER_RATE = 5e-4, 2e-3, 5e-4
VAE_WAY_OUT = "lower train.vae_batch_size"
ADVERSARIAL_WEIGHT = 0.5
"""Of the discriminator's verdict, relative to pixel and gradient errors (Esser et al. 2021 use 0.8-1)."""


def run_train(study: Study, *, device: str = "auto") -> dict[str, Any]:
    """Train the study's generator (section [train]); resumes; returns run id, figures and where the weights are.

    Raises:
        InvalidInput: the start model does not fit study.toml, the batch cannot be shared, the device is not there, or
            the loss is no longer a number.
        RadprefError: the device's memory did not suffice.
    """
    check_training(study, device)
    compute = make_compute(device)
    settings, records = study.config.train, compute.share(training_records(study) if compute.is_main else [])
    start = None if settings.start == FRESH else model_path(study, settings.start)
    large = start is not None and is_large(start)
    config = run_config(study, large, len(records))

    def work(run: Run) -> dict[str, Any]:
        compute.share((run.run_id, None))
        return _train(study, run, records, large, compute)

    if not compute.is_main:  # the main process alone reads and writes the database
        run_id, outcome = compute.share(("", None))
        return outcome or _train(study, Run(study, run_id, "train", config), records, large, compute)
    run = once(study, "train", config, work, {"training images": _hash_of(records)})
    if run.already_done:
        compute.share(("", run.outcome))
    return run.outcome


def _train(study: Study, run: Run, records: list[StudyRecord], large: bool, compute: Compute) -> dict[str, Any]:
    """Check start model and recipe against the study, train, and keep the weights (in the main process)."""
    settings, stack = study.config.train, _start_stack(study, records)
    with_masks = {structure for record in records for structure in record["masks"]}
    structures = fit_structures(stack, settings, study.config.data.structures, with_masks)
    recipe = make_recipe(settings, large, masks=bool(with_masks & set(structures)))
    check_recipe(recipe, compute)
    require_size(study, stack.image_size)
    if compute.is_main:
        warn_without_validation(study)
    corpus = records_corpus(study, records, stack.structures, run.folder / "corpus", compute)
    if settings.unet == "lora" and not lora_parameters(stack.unet):
        attach_lora(stack.unet, settings.lora_rank, settings.seed + 4)
    run.result = _train_stages(study, stack, corpus, run.folder, recipe, compute)
    run.result |= {
        "learning_rate": recipe.learning_rate,
        "control_learning_rate": recipe.control_learning_rate,
        "processes": compute.world,
        "device": compute.device.type,
        "settings": settings.model_dump(mode="json"),
    }
    if compute.is_main:
        _keep(study, stack, run)
    compute.wait()
    return run.result


def run_config(study: Study, large: bool, n_images: int) -> dict[str, Any]:
    """What identifies a run: section [train] with its learning rate resolved, number of images, structures."""
    settings = study.config.train
    return {
        **settings.model_dump(mode="json"),
        "learning_rate": learning_rates(settings, large)[0],
        "n_images": n_images,
        "structures": list(study.config.data.structures),
    }


def _start_stack(study: Study, records: list[StudyRecord]) -> GeneratorStack:
    settings = study.config.train
    if settings.start != FRESH:
        try:
            return load_generator(find_generator(study, settings.start), with_controlnet=settings.control != "new")
        except InvalidInput as error:
            way_out = ", or train.control = 'new' trains one" if str(error).startswith("the ControlNet") else ""
            raise InvalidInput(f"{error}{way_out}") from error
    texts = [record["caption"] for record in records if record["caption"]]
    return fresh_stack(texts, study.config.data.structures, study.config.data.image_size, settings.seed)


def _keep(study: Study, stack: GeneratorStack, run: Run) -> None:
    """Write weights, LoRA and model card, and register the model."""
    if study.config.train.start != FRESH:
        run.result["start_sha256"] = generator_identity(find_generator(study, study.config.train.start))
    if lora_parameters(stack.unet):
        run.model_folder.mkdir(parents=True, exist_ok=True)
        with quiet_libraries():
            stack.unet.save_lora_adapter(run.model_folder / LORA_FOLDER, adapter_name=ADAPTER, safe_serialization=True)
        merge_lora(stack.unet)
    stack.model_id = run.run_id
    save_stack(stack, run.model_folder, half=True)
    card = train_card(study.config.name, run.run_id, run.config, run.result)
    write_atomic(run.model_folder / "README.md", card)
    register_model(study, run.run_id, TRAINED, sha256_tree(run.model_folder), run.result)
    run.result |= {"run_id": run.run_id, "model": str(run.model_folder)}


def _train_stages(
    study: Study, stack: GeneratorStack, corpus: Corpus, folder: Path, recipe: Recipe, compute: Compute
) -> dict[str, Any]:
    """Autoencoder, text, masks with text, decoder; each resumes from its own checkpoint in ``folder``."""
    settings, large = study.config.train, stack_is_large(stack)
    result = _autoencoder(study, stack, corpus, folder, compute)
    if compute.is_main:
        stack.vae.to(compute.device)
    latents = encode_corpus(
        stack,
        corpus,
        folder / "latents",
        n_variants=settings.variants,
        seed=settings.seed,
        batch_size=8 if large else 64,
        compute=compute,
    )

    def stage(name: str, n_steps: int, own: TrainSettings, seed: int) -> None:
        observe = _validation(study, stack, folder, name, own, compute) if settings.sheet_every else None
        train(stack, latents, folder / name, Budget(n_steps), own, seed, compute=compute, observe=observe)

    if recipe.text is not None:
        stage("text", settings.unet_steps, recipe.text, settings.seed + 1)
    if recipe.masks is not None:
        if stack.controlnet is None:
            stack.controlnet = grow_controlnet(stack, settings.seed + 5)
        stage("masks", settings.control_steps, recipe.masks, settings.seed + 2)
    if settings.decoder_steps and compute.is_main:
        shape = _vae_settings(settings, DECODER_RATE)
        shape = replace(shape, loop=replace(shape.loop, warmup_steps=20))
        own = latents.latents[: len(corpus)]  # of the images as they are; augmented ones come after
        budget = Budget(settings.decoder_steps)
        stack.vae = refine_decoder(
            stack.vae, own, corpus.images, folder / "decoder", budget, shape, settings.seed + 3, ADVERSARIAL_WEIGHT
        )
        result["autoencoder_refined"] = reconstruction_report(stack.vae, _vae_validation(study, large))
    return result | {
        "n_images": len(corpus),
        "n_latents": len(latents),
        "masks": bool(latents.present.any()),
        "stages": stage_figures(folder),
    }


def _autoencoder(study: Study, stack: GeneratorStack, corpus: Corpus, folder: Path, compute: Compute) -> dict[str, Any]:
    """Train the autoencoder (in the main process) and report on validation images."""

    settings = study.config.train
    result: dict[str, Any] = {}
    finished = folder / "vae" / "result.safetensors"
    if compute.is_main:
        validation = _vae_validation(study, stack_is_large(stack))
        before = after = reconstruction_report(stack.vae, validation)
        if settings.vae_steps:
            vae_settings = _vae_settings(settings, FRESH_VAE_RATE if settings.start == FRESH else VAE_RATE)
            scale = float(stack.vae.config.scaling_factor)
            stack.vae = train_vae(
                corpus,
                folder / "vae",
                Budget(settings.vae_steps),
                vae_settings,
                settings.seed,
                start=stack.vae.requires_grad_(True),  # a loaded stack is frozen
                device=compute.device,
            )
            log.info("scaling factor %.4f -> %.4f", scale, stack.vae.config.scaling_factor)
            if compute.world > 1:
                weights = {name: value.contiguous() for name, value in stack.vae.state_dict().items()}
                save_file(weights, finished)
            after = reconstruction_report(stack.vae.eval().requires_grad_(False), validation)
        result = {"autoencoder_before": before, "autoencoder_after": after}
    compute.wait()
    if settings.vae_steps and not compute.is_main:
        stack.vae.load_state_dict(load_file(finished))
        stack.vae.register_to_config(scaling_factor=1.0)
    return result


def _vae_settings(settings: TrainConfig, rate: float) -> VaeSettings:
    """Of autoencoder and decoder; a whole image costs as much as four crops."""
    shape = VaeSettings(bf16=settings.precision != "f32", batch_size=settings.vae_batch_size)
    whole = max(1, round(settings.vae_batch_size * 3 / 8))
    return replace(shape, full_batch_size=whole, loop=replace(shape.loop, learning_rate=rate, way_out=VAE_WAY_OUT))


def _vae_validation(study: Study, large: bool) -> np.ndarray:
    """Images, uint8 (N, H, W), on which autoencoders are measured."""
    records = record_conditions(study, "val") or training_records(study)
    return read_images(study, spread(records, 8 if large else VAE_VALIDATION_IMAGES))


def _validation(
    study: Study, stack: GeneratorStack, folder: Path, name: str, own: TrainSettings, compute: Compute
) -> Validation | None:
    """What the main process looks at during a stage; None where there is no validation split, or elsewhere."""
    if not compute.is_main:
        return None
    records = spread([r for r in record_conditions(study, "val") if r["caption"] or r["masks"]], VALIDATION_IMAGES)
    if not records:
        return None
    settings, alone = study.config, Compute(compute.device)
    corpus = records_corpus(study, records, stack.structures, folder / "validation" / "corpus")
    latents = encode_corpus(stack, corpus, folder / "validation", batch_size=8, compute=alone)
    candidates = [record_condition(study, r, stack.structures) for r in records]
    return Validation(
        stack,
        NoiseObjective(stack, latents, own, alone, None),
        choose_conditions(candidates, own.mode_mix, settings.train.sheet_images),
        folder / "sheets",
        name,
        n_steps=settings.generator.n_steps,
        guidance_scale=settings.generator.guidance_scale,
    )


def _hash_of(records: list[StudyRecord]) -> str:
    return sha256_bytes("\n".join(sorted(str(record["image_sha"]) for record in records)).encode())
