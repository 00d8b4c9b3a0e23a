"""A small random corpus and settings for the tests of generator training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.data.study.study import Study
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.training.corpus import EMBEDDED_STRUCTURES, Corpus
from radpref.generation.training.loop import LoopSettings
from radpref.generation.training.study_corpus import records_corpus, training_records
from radpref.generation.training.unet_training import TrainSettings
from tests.support.sampling import stop_after

FAST = LoopSettings(learning_rate=1e-3, warmup_steps=2, log_every=2, checkpoint_s=1e9)
SAVED_EACH_STEP = replace(FAST, checkpoint_s=-1.0)
MIXED = TrainSettings(
    batch_size=4, mode_mix=(0.3, 0.3, 0.4), text_rate=0.5, control_rate=1.0, precision="f32", loop=FAST
)


def corpus_from_arrays(
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    masks: dict[str, np.ndarray] | None = None,
    structures: Sequence[str] = EMBEDDED_STRUCTURES,
) -> Corpus:
    """A corpus of any images: uint8 (N, H, H); `masks` {structure: bool (N, H, H)}, absent structures stay black."""
    planes = np.zeros((len(images), len(structures), *images.shape[1:]), dtype=bool)
    for name, given in (masks or {}).items():
        planes[:, structures.index(name)] = given
    packed = np.packbits(planes, axis=-1)
    texts = [list(own) for own in captions]
    return Corpus(images, packed, tuple(structures), texts)


def study_corpus(study: Study, structures: tuple[str, ...], folder: Path) -> Corpus:
    """The training split of a study, kept in `folder`."""
    return records_corpus(study, training_records(study), structures, folder)


@contextmanager
def interrupted_after(n_steps: int) -> Iterator[None]:
    """A training in the block gets a KeyboardInterrupt where it draws the batch after `n_steps`."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "radpref.generation.training.unet_training.draw_batch", n_steps, KeyboardInterrupt())
        yield


def training_corpus(n: int = 12, size: int = 32, structures: tuple[str, ...] = ("lungs", "heart")) -> Corpus:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
    lungs = np.zeros((n, size, size), dtype=bool)
    lungs[:, 8:24, 4:12] = True
    captions = [["Normal", "clear lungs"] if i % 2 else ["severe effusion"] for i in range(n)]
    return corpus_from_arrays(images, captions, {"lungs": lungs}, structures)


def moved_networks(before: GeneratorStack, after: GeneratorStack) -> set[str]:
    return {
        name
        for name, module in before.modules().items()
        if any(
            not torch.equal(a, b) for a, b in zip(module.parameters(), after.modules()[name].parameters(), strict=True)
        )
    }
