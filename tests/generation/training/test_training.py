"""Training: corpora, the resumable loop, batches as designed, losses, VAE and embedded stages on tiny sizes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.phantom.spec import HELD_OUT, Finding
from radpref.generation.stack.autoencoder import build_vae
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import UnetSettings, tiny_stack
from radpref.generation.training.compute import Compute
from radpref.generation.training.corpus import build_phantom_corpus, load_corpus
from radpref.generation.training.embedded import STAGES, EmbeddedSettings, train_embedded
from radpref.generation.training.latents import LatentCorpus, augment, encode_corpus
from radpref.generation.training.loop import Budget, LoopSettings, TrainingLoop, learning_rate_at
from radpref.generation.training.unet_training import (
    TrainSettings,
    coarse_error,
    draw_batch,
    load_rows,
    loss_weights,
    train,
)
from radpref.generation.training.vae_training import (
    VaeSettings,
    gradient_distance,
    latent_statistics,
    normalise_latents,
    reconstruction_report,
    train_vae,
)
from tests.support.errors import refuses
from tests.support.training import (
    FAST,
    MIXED,
    SAVED_EACH_STEP,
    corpus_from_arrays,
    interrupted_after,
    moved_networks,
    training_corpus,
)

TINY_VAE = VaeSettings(channels=(8, 16), latent_channels=4, crop=16, batch_size=4, full_batch_size=2, bf16=False)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> LatentCorpus:
    return encode_corpus(tiny_stack(0), training_corpus(), tmp_path_factory.mktemp("latents"))


def test_corpus_round_trip_and_masks(tmp_path: Path) -> None:
    corpus = training_corpus()
    corpus.save(tmp_path)
    loaded = load_corpus(tmp_path)
    assert np.array_equal(loaded.images, corpus.images)
    assert loaded.masks([3])[0, 0, 8:24, 4:12].all()
    assert not loaded.masks([3])[0, 1].any()


def test_bad_corpora_are_explained(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    with refuses(InvalidInput, "images", 2):
        corpus_from_arrays(images, [[]])
    with refuses(NotFound, "--embedded"):
        load_corpus(tmp_path)


def test_phantom_corpus_leaves_out_held_out_combinations_and_resumes(tmp_path: Path) -> None:
    corpus = build_phantom_corpus(tmp_path / "a", 12, 32, seed=5)
    assert len(corpus) == 12
    assert corpus.structures == ("lungs", "heart", "lesion", "pneumothorax")
    assert corpus.masks([0])[0, 0].any()
    held = Finding("pleural_effusion", "right", "severe")
    assert held in HELD_OUT
    texts = {text for texts in corpus.captions for text in texts}
    assert "Severe right pleural effusion" not in texts
    again = build_phantom_corpus(tmp_path / "b", 12, 32, seed=5)
    assert np.array_equal(again.images, corpus.images)
    assert again.captions == corpus.captions


def test_budget_and_rate() -> None:
    with refuses(InvalidInput, "n_steps", "minutes"):
        Budget()
    assert Budget(n_steps=10).progress(5, 1e9) == 0.5
    assert Budget(n_steps=100, minutes=1).progress(10, 45) == 0.75
    settings = LoopSettings(learning_rate=1.0, final_rate=0.1, warmup_steps=4)
    assert learning_rate_at(0, 0, settings) == 0.25
    assert learning_rate_at(0, 100, settings) == 1.0
    assert learning_rate_at(1.0, 100, settings) == pytest.approx(0.1)


def test_interrupted_training_equals_uninterrupted(latents: LatentCorpus, tmp_path: Path) -> None:
    whole = train(tiny_stack(0), latents, tmp_path / "whole", Budget(n_steps=6), MIXED, seed=3)
    saved = replace(MIXED, loop=SAVED_EACH_STEP)
    with interrupted_after(2), pytest.raises(KeyboardInterrupt):
        train(tiny_stack(0), latents, tmp_path / "parts", Budget(n_steps=6), saved, seed=3)
    resumed = train(tiny_stack(0), latents, tmp_path / "parts", Budget(n_steps=6), saved, seed=3)
    for name, module in whole.modules().items():
        other = resumed.modules()[name]
        for (key, a), (_, b) in zip(module.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(a, b), f"{name}.{key}"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    one, two = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    generator = torch.Generator()
    TrainingLoop(tmp_path, [(list(one.parameters()), 1.0)], generator, Budget(n_steps=1), FAST).save()
    with refuses(InvalidInput, "checkpoint.safetensors"):
        TrainingLoop(tmp_path, [(list(two.parameters()), 1.0)], generator, Budget(n_steps=1), FAST)


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)

    def parts(step: int, progress: float) -> list[tuple[Tensor, int]]:
        del step, progress
        return [(model.weight.sum() * float("nan"), 1)]

    loop = TrainingLoop(tmp_path, [(list(model.parameters()), 1.0)], torch.Generator(), Budget(n_steps=8), FAST)
    with refuses(InvalidInput, "nan", 2):
        loop.run(parts)


def test_training_moves_what_it_should_and_logs(latents: LatentCorpus, tmp_path: Path) -> None:
    before, after = tiny_stack(0), tiny_stack(0)
    text_only = replace(MIXED, mode_mix=(1.0, 0.0, 0.0), control_rate=0.0)
    train(after, latents, tmp_path, Budget(n_steps=4), text_only, seed=1)
    assert moved_networks(before, after) == {"unet", "text_encoder"}
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"step", "loss", "images_per_s"} <= set(record)
    mixed = tiny_stack(0)
    train(mixed, latents, tmp_path / "m", Budget(n_steps=4), replace(MIXED, text_rate=0.0), seed=1)
    assert moved_networks(before, mixed) == {"unet", "controlnet"}


def test_batches_have_the_modes_asked_for(latents: LatentCorpus) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = replace(MIXED, batch_size=600, text_drop=0.0)
    batch = load_rows(latents, draw_batch(latents, settings, generator), slice(0, 600), Compute())
    has_mask = batch.hint.flatten(1).any(dim=1)
    counts = Counter(
        "TM2I" if text and mask else "T2I" if text else "M2I"
        for text, mask in zip(batch.text_present.bool().tolist(), has_mask.tolist(), strict=True)
    )
    assert counts["T2I"] / 600 == pytest.approx(0.3, abs=0.06)
    assert counts["M2I"] / 600 == pytest.approx(0.3, abs=0.06)
    assert torch.equal(has_mask, batch.mask_present.bool())
    assert not batch.hint[:, 1].any()  # the heart is unknown in this corpus
    assert set(batch.hint.unique().tolist()) == {0.0, 1.0}


def test_text_is_dropped_for_guidance_and_channels_never_all(latents: LatentCorpus) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = replace(MIXED, batch_size=400, text_drop=0.5, channel_drop=0.95, mode_mix=(0.0, 0.0, 1.0))
    batch = load_rows(latents, draw_batch(latents, settings, generator), slice(0, 400), Compute())
    assert float(batch.text_present.mean()) == pytest.approx(0.5, abs=0.08)
    assert bool(batch.hint.flatten(1).any(dim=1).all())


def test_masks_without_a_controlnet_or_nothing_to_train_are_refused(latents: LatentCorpus, tmp_path: Path) -> None:
    stack = tiny_stack(0)
    with refuses(InvalidInput, "unet_rate", "text_rate"):
        train(stack, latents, tmp_path, Budget(n_steps=1), TrainSettings(unet_rate=0.0))
    stack.controlnet = None
    with refuses(InvalidInput, "ControlNet"):
        train(stack, latents, tmp_path, Budget(n_steps=1), MIXED)


def test_augmented_variants_move_image_and_mask_alike(tmp_path: Path) -> None:
    masks = torch.zeros(8, 1, 32, 32)
    masks[:, :, 10:20, 10:20] = 1
    images, moved = augment(masks * 1.6 - 0.8, masks, torch.Generator().manual_seed(0))
    assert ((images > 0).float() - moved).abs().mean() < 0.02
    assert (moved - masks).abs().sum() > 0
    corpus = encode_corpus(tiny_stack(0), training_corpus(), tmp_path, n_variants=3)
    assert len(corpus) == 36
    assert corpus.hints(np.array([0, 13]), Compute()).shape == (2, 2, 32, 32)


def test_corpora_that_do_not_fit_the_stack_are_refused(tmp_path: Path) -> None:
    with refuses(InvalidInput, 64, 32):
        encode_corpus(tiny_stack(0), training_corpus(size=64), tmp_path)
    with refuses(InvalidInput, "lungs", "heart"):
        encode_corpus(tiny_stack(0), training_corpus(structures=("lungs",)), tmp_path)


def test_min_snr_weights() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01])
    steps = torch.arange(3)
    weights = loss_weights(alphas, steps, 5.0, "epsilon")
    torch.testing.assert_close(weights, torch.tensor([5 / 99.0, 1.0, 1.0]), atol=1e-4, rtol=1e-4)
    assert loss_weights(alphas, steps, None, "epsilon").tolist() == [1, 1, 1]
    assert loss_weights(alphas, steps, 5.0, "v_prediction")[1] == pytest.approx(0.5)


def test_coarse_error_weighs_the_mean_most_at_pure_noise() -> None:
    alphas = torch.tensor([0.001, 0.1, 0.9])
    shift = coarse_error(torch.full((3, 4, 16, 16), 0.01), alphas)
    assert shift[0] > 10 * shift[1] > 100 * shift[2]
    noise = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert 0.5 < float(coarse_error(noise, alphas)[0]) < 4
    zero_mean = noise - torch.nn.functional.avg_pool2d(noise, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert float(coarse_error(zero_mean, alphas).max()) < 1e-9


def test_gradient_distance_sees_lines() -> None:
    flat, line = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    line[..., 8] = 0.2
    assert gradient_distance(flat, flat) == 0
    assert gradient_distance(flat, flat + 0.5) == 0
    assert gradient_distance(line, flat) > 0.01


def test_normalising_latents_keeps_the_reconstructions() -> None:
    corpus, vae = training_corpus(), build_vae(TINY_VAE, 32, seed=0).eval()
    before = reconstruction_report(vae, corpus.images)
    normalise_latents(vae, corpus)
    after = reconstruction_report(vae, corpus.images)
    assert after["psnr_db"] == pytest.approx(before["psnr_db"], abs=1e-3)
    mean, deviation = latent_statistics(vae, corpus)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-3, rtol=0)


def test_the_autoencoder_learns(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 32), (8, 32, 1)).astype(np.uint8)
    corpus = corpus_from_arrays(ramp, [["x"]] * 8, structures=("lungs",))
    settings = replace(TINY_VAE, loop=replace(FAST, learning_rate=5e-3))
    fresh = reconstruction_report(build_vae(settings, 32, seed=0).eval(), ramp)["psnr_db"]
    vae = train_vae(corpus, tmp_path, Budget(n_steps=60), settings)
    assert reconstruction_report(vae, ramp)["psnr_db"] > fresh + 3


@pytest.mark.slow
def test_all_embedded_stages_run_resume_and_export(tmp_path: Path) -> None:
    shape = UnetSettings(
        channels=(16, 32), attention=(False, True), heads=2, layers_per_block=1, norm_groups=8,
        hint_channels=(8, 8, 8), text_width=32, text_layers=1, text_heads=2,
    )  # fmt: skip
    settings = EmbeddedSettings(
        n_images=12,
        n_held_out=4,
        image_size=32,
        vae=replace(TINY_VAE, loop=FAST),
        unet=shape,
        text_stage=replace(MIXED, mode_mix=(1.0, 0.0, 0.0), control_rate=0.0),
        mask_stage=replace(MIXED, text_rate=0.0),
        vae_budget=Budget(n_steps=2),
        unet_budget=Budget(n_steps=2),
        control_budget=Budget(n_steps=2),
        decoder_budget=Budget(n_steps=2),
        n_merges=80,
    )
    work, out = tmp_path / "work", tmp_path / "out"
    train_embedded(work, out, settings, STAGES[:4])
    stamp = (work / "vae.json").stat().st_mtime_ns
    train_embedded(work, out, settings)
    assert (work / "vae.json").stat().st_mtime_ns == stamp
    stack = load_stack(out)
    assert stack.model_id == "embedded"
    assert stack.controlnet is not None
    card = (out / "README.md").read_text()
    assert "12 phantoms" in card
    assert "Known faults" in card
