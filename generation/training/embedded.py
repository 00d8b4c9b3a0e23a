"""The embedded default: trains, in stages, the small generator that is shipped in ``generation/weights/embedded``.

    corpus -> vae -> latents -> unet (text to image) -> control (with masks) -> decoder (sharper) -> export

Every stage resumes where it was interrupted and is skipped when it is finished:
``python -m radpref.generation.training.embedded --stage all --work DIR``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from radpref.data.core.files import write_atomic
from radpref.data.imaging.sheets import SheetRow, save_sheet
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.architecture import (
    UnetSettings,
    build_controlnet,
    build_text_encoder,
    build_unet,
    make_scheduler,
)
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack, save_stack
from radpref.generation.stack.places import EMBEDDED_FOLDER, MANIFEST
from radpref.generation.stack.tokenizer import build_tokenizer
from radpref.generation.training.corpus import EMBEDDED_STRUCTURES, Corpus, build_phantom_corpus, load_corpus
from radpref.generation.training.decoder_training import refine_decoder
from radpref.generation.training.latents import LatentCorpus, encode_corpus
from radpref.generation.training.loop import Budget
from radpref.generation.training.model_card import write_model_card
from radpref.generation.training.unet_training import MASK_STAGE, TEXT_STAGE, TrainSettings, train
from radpref.generation.training.vae_training import VaeSettings, reconstruction_report, train_vae

log = logging.getLogger(__name__)

STAGES: tuple[str, ...] = ("corpus", "vae", "latents", "unet", "control", "decoder", "export")
IMAGE_SIZE = 128
N_IMAGES = 12_000
N_HELD_OUT = 256
CORPUS_SEED, HELD_OUT_SEED, VAE_SEED, TEXT_SEED, UNET_SEED, CONTROL_SEED = 2026, 7_001, 1, 2, 3, 4
DECODER_SEED = 6
WATCHED_TEXTS: tuple[str, ...] = (
    "Normal",
    "Severe left pleural effusion",
    "Moderate right pneumothorax",
    "Severe cardiomegaly",
    "Severe pulmonary edema",
    "Moderate right consolidation",
    "Moderate left pneumonia",
    "Severe right atelectasis",
)


@dataclass(frozen=True)
class EmbeddedSettings:
    """Sizes and budgets of one reproduction; the defaults made the shipped weights."""

    n_images: int = N_IMAGES
    n_held_out: int = N_HELD_OUT
    image_size: int = IMAGE_SIZE
    vae: VaeSettings = field(default_factory=VaeSettings)
    unet: UnetSettings = field(default_factory=UnetSettings)
    text_stage: TrainSettings = TEXT_STAGE
    mask_stage: TrainSettings = MASK_STAGE
    vae_budget: Budget = field(default_factory=lambda: Budget(minutes=28))
    unet_budget: Budget = field(default_factory=lambda: Budget(minutes=45))
    control_budget: Budget = field(default_factory=lambda: Budget(minutes=15))
    decoder_budget: Budget = field(default_factory=lambda: Budget(minutes=20))
    n_merges: int = 1200
    workers: int = 1


def corpus_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Render the training phantoms and a small held-out corpus of other patients."""
    for name, count, seed in (
        ("corpus", settings.n_images, CORPUS_SEED),
        ("held_out", settings.n_held_out, HELD_OUT_SEED),
    ):
        build_phantom_corpus(work / name, count, settings.image_size, seed, settings.workers)


def vae_stage(work: Path, settings: EmbeddedSettings, corpus: Corpus | None = None) -> None:
    """Train the autoencoder; saved under ``vae/``, its held-out figures as ``vae.json``."""
    training = corpus if corpus is not None else load_corpus(work / "corpus")
    vae = train_vae(training, work / "vae_run", settings.vae_budget, settings.vae, seed=VAE_SEED)
    _keep_vae(vae, work, "vae")


def decoder_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Train the decoder further on the latents as they are; saved under ``vae_refined/``."""
    vae: Any = AutoencoderKL.from_pretrained(work / "vae", local_files_only=True)
    encoded = np.load(work / "latents" / "latents.npy", mmap_mode="r")
    images = load_corpus(work / "corpus").images
    shape = replace(settings.vae, loop=replace(settings.vae.loop, learning_rate=8e-4))
    vae = refine_decoder(vae, encoded, images, work / "decoder_run", settings.decoder_budget, shape, DECODER_SEED)
    _keep_vae(vae, work, "vae_refined")


def _keep_vae(vae: Any, work: Path, name: str) -> None:
    """Save an autoencoder under `name` and its held-out figures as ``<name>.json``, last."""
    figures = reconstruction_report(vae, load_corpus(work / "held_out").images)
    log.info("autoencoder %s on held-out phantoms: %s", name, figures)
    vae.save_pretrained(work / name)
    write_atomic(work / f"{name}.json", json.dumps(figures, indent=2) + "\n")


def fresh_stack(work: Path, settings: EmbeddedSettings) -> GeneratorStack:
    """The trained autoencoder with untrained text encoder and UNet and the corpus' tokenizer; no ControlNet yet."""
    corpus = load_corpus(work / "corpus")
    vae: Any = AutoencoderKL.from_pretrained(work / "vae", local_files_only=True)
    tokenizer = build_tokenizer([text for texts in corpus.captions for text in texts], settings.n_merges)
    shape = settings.unet
    stack = GeneratorStack(
        vae=vae,
        unet=None,  # set below, when the latents' shape is known
        controlnet=None,
        text_encoder=build_text_encoder(tokenizer, shape, TEXT_SEED),
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        structures=EMBEDDED_STRUCTURES,
        image_size=settings.image_size,
    )
    channels, side, _ = stack.latent_shape
    stack.unet = build_unet(channels, side, shape, UNET_SEED)
    return stack


def latents(work: Path, stack: GeneratorStack) -> LatentCorpus:
    """The corpus' latents, encoded once."""
    return encode_corpus(stack, load_corpus(work / "corpus"), work / "latents")


def text_image_sheet(stack: GeneratorStack, path: Path, n_each: int = 4) -> None:
    """Sample the watched texts with fixed seeds: one text a row."""
    conditions = [Condition(text) for text in WATCHED_TEXTS for _ in range(n_each)]
    seeds = [100 + k % n_each for k in range(len(conditions))]
    images = sample(stack, conditions, seeds, n_steps=15).reshape(-1, n_each, stack.image_size, stack.image_size)
    save_sheet(path, [SheetRow(text, (own,)) for text, own in zip(WATCHED_TEXTS, images, strict=True)], columns=2)


def _watch(stack: GeneratorStack, folder: Path, every: int = 3) -> Callable[[int], None]:
    """Writes a sheet at every `every`-th checkpoint."""
    calls = {"n": 0}

    def on_checkpoint(step: int) -> None:
        calls["n"] += 1
        if calls["n"] % every == 1:
            trained = [(module, module.training) for module in stack.modules().values()]
            for module, _ in trained:
                module.eval()
            stack.text_cache.clear()
            text_image_sheet(stack, folder / f"sheet-{step:06d}.png", n_each=2)
            stack.text_cache.clear()
            for module, was_training in trained:
                module.train(was_training)

    return on_checkpoint


def unet_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Train UNet and text encoder from text; saves the stack under ``unet_stack/``."""
    stack = fresh_stack(work, settings)
    _train_stack(stack, work, "unet_run", settings.unet_budget, settings.text_stage, UNET_SEED)
    save_stack(stack, work / "unet_stack")


def control_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Grow a ControlNet from the trained UNet and train it with masks, with and without text; saves ``stack/``."""
    stack = load_stack(work / "unet_stack")
    stack.controlnet = build_controlnet(stack.unet, len(stack.structures), settings.unet.hint_channels, CONTROL_SEED)
    _train_stack(stack, work, "control_run", settings.control_budget, settings.mask_stage, CONTROL_SEED)
    save_stack(stack, work / "stack")


def _train_stack(
    stack: GeneratorStack, work: Path, run: str, budget: Budget, settings: TrainSettings, seed: int
) -> None:
    """Train what `settings` names on the corpus' latents, with sheets of samples under `run`."""
    folder = work / run
    train(stack, latents(work, stack), folder, budget, settings, seed=seed, on_checkpoint=_watch(stack, folder))
    text_image_sheet(stack, folder / "sheet-final.png")


def export_stage(work: Path, settings: EmbeddedSettings, target: Path) -> None:
    """Copy the finished stack as fp16 into `target` with its model card."""
    stack = load_stack(work / "stack")
    stack.model_id = "embedded"
    if (work / "vae_refined.json").exists():
        refined: Any = AutoencoderKL.from_pretrained(work / "vae_refined", local_files_only=True)
        stack.vae = refined
    save_stack(stack, target, half=True)
    write_model_card(target, work, settings.n_images)


def train_embedded(
    work: Path, target: Path, settings: EmbeddedSettings, stages: Sequence[str] = STAGES, vae_corpus: Path | None = None
) -> None:
    """Run the given stages in order; a finished stage (its output exists) is skipped."""
    outputs = {
        "corpus": work / "held_out" / "corpus.jsonl",
        "vae": work / "vae.json",
        "latents": work / "latents" / "latents.npy",
        "unet": work / "unet_stack" / MANIFEST,
        "control": work / "stack" / MANIFEST,
        "decoder": work / "vae_refined.json",
    }
    actions: dict[str, Callable[[], object]] = {
        "corpus": lambda: corpus_stage(work, settings),
        "vae": lambda: vae_stage(work, settings, load_corpus(vae_corpus) if vae_corpus is not None else None),
        "latents": lambda: latents(work, fresh_stack(work, settings)),
        "unet": lambda: unet_stage(work, settings),
        "control": lambda: control_stage(work, settings),
        "decoder": lambda: decoder_stage(work, settings),
        "export": lambda: export_stage(work, settings, target),
    }
    for stage in stages:
        if stage in outputs and outputs[stage].exists():
            log.info("stage %s is finished: skipped", stage)
            continue
        started = time.monotonic()
        actions[stage]()
        log.info("stage %s took %.0f s", stage, time.monotonic() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of ``python -m radpref.generation.training.embedded``."""
    defaults = EmbeddedSettings()
    parser = argparse.ArgumentParser(
        prog="python -m radpref.generation.training.embedded", description="Train the embedded generator."
    )
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus, latents and checkpoints")
    parser.add_argument("--out", type=Path, default=EMBEDDED_FOLDER, help="where the export goes")
    parser.add_argument("--minutes", type=float, help="budget of the one stage given (default: the shipped one's)")
    parser.add_argument("--steps", type=int, help="budget of the one stage given, in steps")
    parser.add_argument("--images", type=int, default=defaults.n_images)
    parser.add_argument("--vae-corpus", type=Path, help="another corpus folder for the vae stage")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(options.threads)
    settings = replace(defaults, n_images=options.images, workers=options.workers)
    if options.minutes is not None or options.steps is not None:
        budget = Budget(options.steps, options.minutes)
        settings = replace(
            settings, vae_budget=budget, unet_budget=budget, control_budget=budget, decoder_budget=budget
        )
    stages = STAGES if options.stage == "all" else (options.stage,)
    train_embedded(options.work, options.out, settings, stages, options.vae_corpus)


if __name__ == "__main__":
    main()
