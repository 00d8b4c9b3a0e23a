"""The embedded default: trains, in stages, the small generator that is shipped in ``generation/weights/embedded``.

    corpus -> vae -> latents -> unet (text to image) -> control (with masks) -> decoder (sharper) -> export

``radpref generate train --embedded``; every stage resumes where it was interrupted and is skipped when it is finished.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL

from radpref.data.core.files import write_atomic
from radpref.generation.stack.architecture import UnetSettings, build_controlnet
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack, save_stack
from radpref.generation.stack.places import MANIFEST
from radpref.generation.training.corpus import EMBEDDED_STRUCTURES, build_phantom_corpus, load_corpus
from radpref.generation.training.decoder_training import refine_decoder
from radpref.generation.training.latents import LatentCorpus, encode_corpus
from radpref.generation.training.loop import Budget
from radpref.generation.training.model_card import write_model_card
from radpref.generation.training.recipes import fresh_stack
from radpref.generation.training.unet_training import MASK_STAGE, TEXT_STAGE, TrainSettings, train
from radpref.generation.training.vae_training import VaeSettings, reconstruction_report, train_vae
from radpref.generation.training.validation import Validation

log = logging.getLogger(__name__)

STAGES: tuple[str, ...] = ("corpus", "vae", "latents", "unet", "control", "decoder", "export")
CORPUS_SEED, HELD_OUT_SEED, STACK_SEED, UNET_SEED, CONTROL_SEED, DECODER_SEED = 2026, 7_001, 1, 3, 4, 6
SHEET_EVERY = 250
"""Steps between two sheets of the watched texts."""
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

    n_images: int = 12_000
    n_held_out: int = 256
    image_size: int = 128
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


def vae_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Train the autoencoder; saved under ``vae/``, its held-out figures as ``vae.json``."""
    corpus = load_corpus(work / "corpus")
    vae = train_vae(corpus, work / "vae_run", settings.vae_budget, settings.vae, seed=STACK_SEED)
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


def untrained_stack(work: Path, settings: EmbeddedSettings) -> GeneratorStack:
    """The trained autoencoder with untrained text encoder and UNet and the corpus' tokenizer; no ControlNet yet."""
    corpus = load_corpus(work / "corpus")
    texts = [text for texts in corpus.captions for text in texts]
    vae: Any = AutoencoderKL.from_pretrained(work / "vae", local_files_only=True)
    return fresh_stack(
        texts, EMBEDDED_STRUCTURES, settings.image_size, STACK_SEED, vae, settings.unet, settings.n_merges
    )


def latents(work: Path, stack: GeneratorStack) -> LatentCorpus:
    """The corpus' latents, encoded once."""
    return encode_corpus(stack, load_corpus(work / "corpus"), work / "latents")


def unet_stage(work: Path, settings: EmbeddedSettings) -> None:
    """Train UNet and text encoder from text; saves the stack under ``unet_stack/``."""
    stack = untrained_stack(work, settings)
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
    watch = Validation(stack, None, [Condition(text) for text in WATCHED_TEXTS], folder, "sheet", n_steps=15)
    settings = replace(settings, loop=replace(settings.loop, observe_every=SHEET_EVERY))
    train(stack, latents(work, stack), folder, budget, settings, seed=seed, observe=watch)


def export_stage(work: Path, settings: EmbeddedSettings, target: Path) -> None:
    """Copy the finished stack as fp16 into `target` with its model card."""
    stack = load_stack(work / "stack")
    stack.model_id = "embedded"
    if (work / "vae_refined.json").exists():
        refined: Any = AutoencoderKL.from_pretrained(work / "vae_refined", local_files_only=True)
        stack.vae = refined
    save_stack(stack, target, half=True)
    write_model_card(target, work, settings.n_images)


def train_embedded(work: Path, target: Path, settings: EmbeddedSettings, stages: Sequence[str] = STAGES) -> None:
    """Run the given stages in order; a finished stage (its output exists) is skipped."""
    steps: dict[str, tuple[Path, Callable[[], object]]] = {
        "corpus": (work / "held_out" / "corpus.jsonl", lambda: corpus_stage(work, settings)),
        "vae": (work / "vae.json", lambda: vae_stage(work, settings)),
        "latents": (work / "latents" / "latents.npy", lambda: latents(work, untrained_stack(work, settings))),
        "unet": (work / "unet_stack" / MANIFEST, lambda: unet_stage(work, settings)),
        "control": (work / "stack" / MANIFEST, lambda: control_stage(work, settings)),
        "decoder": (work / "vae_refined.json", lambda: decoder_stage(work, settings)),
        "export": (target / MANIFEST, lambda: export_stage(work, settings, target)),
    }
    for stage in stages:
        output, action = steps[stage]
        if stage != "export" and output.exists():
            log.info("stage %s is finished: skipped", stage)
            continue
        started = time.monotonic()
        action()
        log.info("stage %s took %.0f s", stage, time.monotonic() - started)
