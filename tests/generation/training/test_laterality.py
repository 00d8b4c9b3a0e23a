"""No image or mask on its way into a training of the generator is ever mirrored: words such as "right" depend on it.

The image is bright at one side of one half, its mask covers that block. Every draw must be more like it than like its
mirror images. A mirror in one of a hundred draws would be seen in 400 of them with a probability of 98 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.data.study.study import Study
from radpref.generation.fidelity.memorisation import zoom
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from radpref.generation.training import decoder_training
from radpref.generation.training.compute import Compute
from radpref.generation.training.corpus import Corpus
from radpref.generation.training.latents import augment, encode_corpus
from radpref.generation.training.loop import Budget
from radpref.generation.training.unet_training import draw_batch, load_rows
from radpref.generation.training.vae_training import VaeSettings
from radpref.generation.training.vae_training import draw_batch as draw_images
from tests.support.training import MIXED, corpus_from_arrays, study_corpus

SIZE, N_DRAWS = 32, 400


def one_sided(dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """A radiograph (H, W) that is bright at the upper image left (the patient's right), and the mask of that block."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[4:13, 3:12] = True
    levels = np.where(mask, 220, 60)
    return (levels * 257 if dtype == np.uint16 else levels).astype(dtype), mask


def corpus(n: int = 4) -> Corpus:
    image, mask = one_sided()
    images, masks = np.repeat(image[None], n, 0), np.repeat(mask[None], n, 0)
    return corpus_from_arrays(images, [["x"]] * n, {"lungs": masks}, ("lungs", "heart"))


def turned(planes: Tensor) -> list[int]:
    """Numbers of the planes (n, H, W), of any size, that are more like a mirror image of `one_sided` than like it."""
    small = F.interpolate(torch.from_numpy(one_sided()[1])[None, None].float(), size=planes.shape[-2:], mode="area")[0]
    ways = torch.cat([small, small.flip(-1), small.flip(-2), small.flip(-1, -2)]).flatten(1)
    ways = ways - ways.mean(1, keepdim=True)
    return torch.nonzero((planes.float().flatten(1) @ ways.T).argmax(1)).flatten().tolist()


@pytest.fixture
def averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents that can be looked at: block means of the image in each channel."""

    def encode(self: GeneratorStack, signal: Tensor) -> Tensor:
        channels, side, _ = self.latent_shape
        return F.adaptive_avg_pool2d(signal, side).expand(-1, channels, -1, -1)

    monkeypatch.setattr(GeneratorStack, "encode_images", encode)


def test_a_mirror_would_be_seen() -> None:
    image = torch.from_numpy(one_sided()[0])
    assert turned(torch.stack([image, image.flip(-1), image, image.flip(-2)])) == [1, 3]


def test_augmentation_moves_image_and_mask_and_mirrors_neither() -> None:
    image, mask = (torch.from_numpy(plane.astype(np.float32)).expand(N_DRAWS, 1, -1, -1) for plane in one_sided())
    images, masks = augment(image / 127.5 - 1, mask, torch.Generator().manual_seed(0))
    assert turned(images[:, 0]) == turned(masks[:, 0]) == []


def test_what_unet_and_controlnet_are_trained_on_keeps_its_side(tmp_path: Path, averaging: None) -> None:
    latents = encode_corpus(tiny_stack(0), corpus(), tmp_path, n_variants=N_DRAWS // 4, seed=1)
    everything = torch.from_numpy(np.array(latents.latents, dtype=np.float32))
    assert len(everything) == N_DRAWS
    assert turned(everything[:, 0]) == []
    assert turned(latents.hints(np.arange(N_DRAWS), Compute())[:, 0]) == []
    for seed in range(N_DRAWS // 2):  # a mirror of a whole batch would be as rare as that
        draw = draw_batch(latents, MIXED, torch.Generator().manual_seed(seed))
        batch = load_rows(latents, draw, slice(0, MIXED.batch_size), Compute())
        assert turned(batch.latents[:, 0]) == []
        assert turned(batch.hint[batch.mask_present.bool(), 0]) == []


def test_whole_images_of_autoencoder_training_keep_their_side() -> None:
    batch = draw_images(corpus(), VaeSettings(full_batch_size=N_DRAWS), torch.Generator().manual_seed(0), full=True)
    assert turned(batch[:, 0]) == []


def test_crops_of_autoencoder_training_are_pieces_of_the_image_as_it_is() -> None:
    ramp = np.add.outer(np.zeros(SIZE), np.arange(SIZE) * 4) + np.arange(SIZE)[:, None]  # rises to the right and down
    images = np.repeat(ramp[None].astype(np.uint8), 4, 0)
    given = corpus_from_arrays(images, [["x"]] * 4, {}, ("lungs",))
    settings = VaeSettings(crop=16, batch_size=N_DRAWS)
    crops = draw_images(given, settings, torch.Generator().manual_seed(0), full=False)[:, 0]
    assert crops.shape[1:] == (16, 16)
    assert bool((crops.diff(dim=-1) > 0).all())
    assert bool((crops.diff(dim=-2) > 0).all())


def test_the_decoder_is_shown_images_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(decoder_training, "gradient_distance", lambda y, x: seen.append(x) or (y - x).square().mean())
    latents = np.zeros((4, *tiny_stack(0).latent_shape), np.float32)
    settings = VaeSettings(full_batch_size=50, bf16=False)
    decoder_training.refine_decoder(
        tiny_stack(0).vae, latents, corpus().images, tmp_path, Budget(n_steps=2), settings, seed=0
    )
    assert len(seen) == 2
    assert turned(torch.cat(seen)[:, 0]) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_radiographs_and_masks_of_a_study_keep_their_side(tmp_path: Path, dtype: type) -> None:
    study = Study.create(tmp_path / "s", f"[data]\nimage_size = {SIZE}\n")
    image, mask = one_sided(dtype)
    with study.db.write() as connection:
        for index in range(4):
            stored = study.store.put_image(connection, image, "real")
            connection.execute(
                "INSERT INTO records(record_id, dataset, patient_id, split, image_sha, caption)"
                " VALUES (?, 'toy', ?, 'train', ?, 'right effusion')",
                (f"r{index}", f"p{index}", stored),
            )
            plane = study.store.put_mask(connection, mask)
            connection.execute("INSERT INTO record_masks VALUES (?, 'lungs', ?)", (f"r{index}", plane))
    read = study_corpus(study, ("lungs",), tmp_path / "kept")
    assert turned(torch.from_numpy(np.array(read.images))) == []
    assert turned(torch.from_numpy(read.masks(range(4)))[:, 0]) == []


@pytest.mark.parametrize("factor", [0.94, 0.97, 1.0, 1.03, 1.06])
def test_zooms_of_the_copy_check_do_not_mirror(factor: float) -> None:
    """It adds mirror images itself, on purpose: a mirror in the zoom would take the other half away."""
    image = one_sided()[0].astype(np.float32)
    assert turned(torch.from_numpy(zoom(image[None], factor))) == []
