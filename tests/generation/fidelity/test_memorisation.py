"""Copies are found and other patients are not, on generators whose conduct is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radpref.data.core.errors import InvalidInput
from radpref.generation.fidelity import memorisation
from radpref.generation.fidelity.feature_store import thumbnails
from radpref.generation.fidelity.memorisation import Neighbours, find_neighbours
from radpref.generation.training.latents import augment
from tests.support.errors import refuses

SIZE = 64


def chests(n: int, seed: int) -> np.ndarray:
    """Different smooth pictures of one kind, uint8 (n, 64, 64): a common chest, and blobs of each patient's own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    common = 90 + 60 * np.cos(4 * np.pi * x) * np.sin(np.pi * y)
    images = np.repeat(common[None], n, axis=0)
    for image in images:
        for _ in range(6):
            cy, cx, width = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.15)
            image += rng.normal(0, 40) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return np.clip(images + rng.normal(0, 3, images.shape), 0, 255).astype(np.uint8)


TRAINING, HELD_OUT = chests(160, 1), chests(300, 2)


def neighbours(images: np.ndarray) -> Neighbours:
    table = thumbnails(TRAINING)
    average = memorisation.thumbnail_vectors(table, shifted=False)[:, 0].mean(0)
    return find_neighbours(
        thumbnails(images),
        lambda rows: memorisation.thumbnail_vectors(rows, average, shifted=True),
        lambda: (memorisation.thumbnail_vectors(part, average, shifted=False)[:, 0] for part in np.split(table, 4)),
    )


@pytest.fixture(scope="module")
def held_out() -> Neighbours:
    return neighbours(HELD_OUT)


def judged(images: np.ndarray, held_out: Neighbours) -> dict:
    found = neighbours(images)
    twins = found.distance < memorisation.TWIN_DISTANCE
    suspect = memorisation.suspects(found, held_out)
    return memorisation.verdict(suspect, twins, len(held_out), np.random.default_rng(0))


def noisy(images: np.ndarray, sigma: float, seed: int = 7) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def test_a_copier_is_suspicious_and_its_models_are_named(held_out: Neighbours) -> None:
    copies = noisy(TRAINING[:80], 12)
    assert judged(copies, held_out).verdict == "suspicious"
    assert neighbours(copies).index.tolist() == list(range(80))


def test_other_patients_are_clean_enough(held_out: Neighbours) -> None:
    found = judged(chests(300, 3), held_out)
    assert (found.verdict, found.n_twins) == ("clean enough", 0)


def test_a_few_images_cannot_be_cleared(held_out: Neighbours) -> None:
    assert judged(chests(12, 3), held_out).verdict == "too few images to say"


def test_a_few_held_out_patients_clear_nothing(held_out: Neighbours) -> None:
    few = held_out.take(np.arange(memorisation.HELD_OUT_NEEDED - 1))
    found = judged(chests(300, 3), few)
    assert found.verdict == "too few images to say"
    assert "79 held-out images" in found.why
    assert judged(noisy(TRAINING[:80], 12), few).verdict == "suspicious"  # what is found is said all the same


@pytest.mark.parametrize("disguise", ["shifted", "mirrored", "brighter", "blurred", "enlarged", "shrunk"])
def test_a_disguised_copy_is_still_the_nearest(disguise: str, held_out: Neighbours) -> None:
    from scipy.ndimage import gaussian_filter

    models = TRAINING[:20].astype(np.float64)
    copies = {
        "shifted": np.roll(models, (3, -2), axis=(1, 2)),
        "mirrored": models[:, :, ::-1],
        "brighter": models * 0.6 + 70,
        "blurred": gaussian_filter(models, (0, 1.5, 1.5)),
        "enlarged": memorisation.zoom(models.astype(np.float32), 1.05),
        "shrunk": memorisation.zoom(models.astype(np.float32), 0.95),
    }[disguise]
    found = neighbours(noisy(copies, 4))
    assert found.index.tolist() == list(range(20))
    assert memorisation.suspects(found, held_out).mean() > 0.9


def test_variants_that_training_makes_of_an_image_are_copies_of_it(held_out: Neighbours) -> None:
    """A generator that memorised a shifted, zoomed, brighter variant has memorised the patient."""
    images = torch.from_numpy(TRAINING[:20].astype(np.float32))[:, None] / 127.5 - 1
    moved, _ = augment(images, torch.zeros(20, 1, SIZE, SIZE), torch.Generator().manual_seed(0))
    found = neighbours(noisy((moved[:, 0].numpy() + 1) * 127.5, 4))
    assert found.index.tolist() == list(range(20))
    assert memorisation.suspects(found, held_out).mean() > 0.9


def test_zoom_is_about_the_middle_and_undone_by_its_inverse() -> None:
    images = chests(3, 6)[:, 16:48, 16:48].astype(np.float32)
    np.testing.assert_array_equal(memorisation.zoom(images, 1.0), images)
    back = memorisation.zoom(memorisation.zoom(images, 1.06), 1 / 1.06)
    assert np.abs(back - images)[:, 4:-4, 4:-4].mean() < 0.1 * images.std()
    peak = np.zeros((1, 31, 31), np.float32)
    peak[0, 15, 15] = peak[0, 15, 25] = 1
    large = memorisation.zoom(peak, 1.2)[0, 15]
    assert (int(large[:20].argmax()), 20 + int(large[20:].argmax())) == (15, 27)


def test_one_copy_in_twenty_is_not_lost_in_the_crowd(held_out: Neighbours) -> None:
    crowd = chests(190, 4)
    assert judged(crowd, held_out).verdict == "clean enough"
    assert judged(np.concatenate([crowd, noisy(TRAINING[:10], 2)]), held_out).n_twins == 10
    assert judged(np.concatenate([crowd, noisy(TRAINING[:10], 2)]), held_out).verdict == "suspicious"


def test_bland_images_are_near_to_all_and_no_copies(held_out: Neighbours) -> None:
    """The average radiograph with a little of each patient: close to everything, closest to nobody."""
    mean = TRAINING.mean(0)
    bland = np.stack([mean + 0.25 * (image - mean) for image in chests(150, 5).astype(np.float64)])
    found = neighbours(np.clip(bland, 0, 255).astype(np.uint8))
    assert np.median(found.ratio) > np.median(held_out.ratio) - 0.05
    assert memorisation.suspects(found, held_out).mean() < 0.05


def test_blocks_of_any_size_give_the_same_neighbours() -> None:
    rng = np.random.default_rng(0)
    table, queries = memorisation.unit(rng.normal(size=(90, 5))), rng.normal(size=(300, 5))
    found = [
        find_neighbours(queries, memorisation.feature_vectors, lambda n=n: (table[i : i + n] for i in range(0, 90, n)))
        for n in (90, 7)
    ]
    np.testing.assert_array_equal(found[0].index, found[1].index)
    np.testing.assert_allclose(found[0].ratio, found[1].ratio, rtol=1e-5)
    every = np.linalg.norm(memorisation.unit(queries)[:, None] - table[None], axis=-1)
    np.testing.assert_array_equal(found[0].index, every.argmin(1))
    np.testing.assert_allclose(found[0].distance, every.min(1), atol=1e-3)
    next_ones = np.sort(every, axis=1)[:, 1 : memorisation.N_NEXT + 1].mean(1)
    np.testing.assert_allclose(found[0].ratio, every.min(1) / next_ones, rtol=1e-3)


def test_conformal_levels_are_exact() -> None:
    """Among exchangeable images at most `level` fall below: counted over all ranks."""
    reference = np.arange(99.0)
    p = memorisation.conformal(np.arange(-0.5, 99.5), reference)
    assert (p <= 0.01).sum() == 1
    assert (p <= 0.05).sum() == 5
    assert memorisation.copy_level(1000) == 0.01
    assert memorisation.copy_level(9) == 0.1
    assert memorisation.conformal(np.array([-1.0]), np.arange(9.0))[0] <= memorisation.copy_level(9)


def test_shares_without_copying_are_what_chance_says() -> None:
    rng = np.random.default_rng(0)
    both = [Neighbours(rng.normal(1, 0.1, n), rng.normal(0.8, 0.05, n), np.zeros(n, int)) for n in (2000, 2000)]
    found = memorisation.space_figures(*both, rng, n_resamples=100)
    for key, expected in (("below_1", 0.01), ("below_5", 0.05), ("nearer", 0.5)):
        share = getattr(found, key)
        assert share.low <= share.value <= share.high
        assert share.value == pytest.approx(expected, abs=0.02)


def test_too_little_to_compare_with_is_one_line() -> None:
    with refuses(InvalidInput, 1, 2):
        find_neighbours(
            np.ones((2, 3)), memorisation.feature_vectors, lambda: iter([memorisation.unit(np.ones((1, 3)))])
        )
    with refuses(InvalidInput, (2, 8, 8)):
        memorisation.thumbnail_vectors(np.zeros((2, 8, 8)), shifted=False)
