"""The decoder's own training: what stays, what moves, and that the discriminator takes part as it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.generation.stack.autoencoder import build_vae
from radpref.generation.training import decoder_training
from radpref.generation.training.decoder_training import (
    PatchDiscriminator,
    adversarial_weight,
    discriminator_loss,
    feature_distance,
    refine_decoder,
)
from radpref.generation.training.loop import Budget, LoopSettings
from radpref.generation.training.vae_training import VaeSettings, latent_statistics
from tests.support.training import corpus_from_arrays

SETTINGS = VaeSettings(
    channels=(8, 16), latent_channels=4, crop=16, batch_size=4, full_batch_size=2, bf16=False,
    loop=LoopSettings(learning_rate=1e-3, warmup_steps=2, log_every=2, checkpoint_s=1e9),
)  # fmt: skip
LATENTS = np.zeros((6, 4, 8, 8), dtype=np.float16)


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_the_latent_space_stays_and_the_decoder_moves(tmp_path: Path, adversarial: float) -> None:
    vae = build_vae(SETTINGS, 32, seed=0).eval()
    corpus = corpus_from_arrays(_images(), [["x"]] * 6, structures=("lungs",))
    mean, _ = latent_statistics(vae, corpus)
    decoder_before = vae.decoder.conv_out.weight.clone()
    refine_decoder(vae, LATENTS, corpus.images, tmp_path, Budget(n_steps=3), SETTINGS, adversarial=adversarial)
    torch.testing.assert_close(latent_statistics(vae, corpus)[0], mean)
    assert not torch.equal(decoder_before, vae.decoder.conv_out.weight)
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_an_interrupted_run_against_the_discriminator_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_training, "ADVERSARIAL_WARMUP_STEPS", 2)
    budget = Budget(n_steps=5)  # past the warm-up, so that both players' losses count
    weights = []
    for name, n_parts in (("whole", 1), ("parts", 2)):
        for part in range(n_parts):
            vae = build_vae(SETTINGS, 32, seed=0).eval()
            own = budget if part == n_parts - 1 else Budget(n_steps=3)
            # the rate depends on the budget, so it is held level
            level = LoopSettings(learning_rate=1e-3, final_rate=1.0, warmup_steps=2, log_every=2, checkpoint_s=1e9)
            shape = VaeSettings(channels=(8, 16), latent_channels=4, full_batch_size=2, bf16=False, loop=level)
            refine_decoder(vae, LATENTS, _images(), tmp_path / name, own, shape, adversarial=0.5)
        weights.append(vae.decoder.conv_out.weight)
    assert torch.equal(*weights)


def test_the_discriminator_learns_to_tell_and_its_verdict_moves_the_image() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator((8, 8))
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    sharp = torch.randn(8, 1, 32, 32)
    smooth = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    losses = []
    for _ in range(30):
        loss = discriminator_loss(critic(sharp)[0], critic(smooth)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]
    decoded = smooth.clone().requires_grad_(True)
    (-critic(decoded)[0].mean()).backward()
    moved = smooth - 20 * decoded.grad  # against the decoder's loss
    assert critic(moved)[0].mean().item() > critic(smooth)[0].mean().item()


def test_feature_distance_is_zero_for_equal_images_and_teaches_the_decoded_side_only() -> None:
    critic = PatchDiscriminator((8, 8))
    x = torch.randn(2, 1, 16, 16)
    features = critic(x)[1]
    assert feature_distance(features, features).item() == 0
    real = [torch.ones(1, requires_grad=True)]
    decoded = [torch.zeros(1, requires_grad=True)]
    feature_distance(real, decoded).backward()
    assert real[0].grad is None
    assert decoded[0].grad.item() == -1


def test_the_adversarial_weight_makes_both_gradients_of_one_size() -> None:
    last = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight = adversarial_weight((3 * last).sum(), (6 * last).sum(), last)
    assert weight.item() == pytest.approx(0.5, abs=1e-4)
