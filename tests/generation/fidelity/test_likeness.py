"""Fidelity figures on cases whose answer is known."""

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.core.statistics import MeanEstimate
from radpref.generation.fidelity import likeness


def normal(n: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


def test_frechet_of_equal_sets_is_zero_and_symmetric() -> None:
    a, b = normal(300), normal(200, 0.5, seed=1)
    assert likeness.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert likeness.frechet_distance(a, b) == pytest.approx(likeness.frechet_distance(b, a))


def test_frechet_of_gaussians_is_the_analytic_value() -> None:
    a, b = normal(40_000), normal(40_000, 0.7, 2.0, seed=1)
    assert likeness.frechet_distance(a, b) == pytest.approx(4 * (0.7**2 + (2 - 1) ** 2), rel=0.02)
    assert likeness.frechet_distance(a[:100], a[:100] + 3) == pytest.approx(4 * 9)  # a pure shift is exact


def test_frechet_agrees_with_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 1
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    assert likeness.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_interval_holds_the_value_and_narrows_with_n() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (
        likeness.frechet_with_interval(normal(n), normal(n, 1.0, seed=1), rng, n_resamples=40) for n in (40, 1000)
    )
    assert wide.low <= wide.value <= wide.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_kid_is_unbiased_around_zero_and_sees_a_shift() -> None:
    same = [likeness.mmd2(normal(60, seed=s), normal(60, seed=1000 + s)) for s in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    found = likeness.kid(normal(200), normal(200, 1.0, seed=9), np.random.default_rng(0), n_subsets=30)
    assert 0 < found.low <= found.value <= found.high


def test_mmd_against_the_double_sum() -> None:
    a, b = normal(4, seed=1), normal(3, 0.5, seed=2)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 4 + 1) ** 3

    xx = np.mean([k(a[i], a[j]) for i in range(4) for j in range(4) if i != j])
    yy = np.mean([k(b[i], b[j]) for i in range(3) for j in range(3) if i != j])
    assert likeness.mmd2(a, b) == pytest.approx(xx + yy - 2 * np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize(("a", "b"), [(normal(5), normal(5, dim=3)), (normal(1), normal(5)), (normal(5)[0], normal(5))])
def test_features_that_do_not_compare_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        likeness.frechet_distance(a, b)


def test_few_images_of_many_features_give_the_same_distance() -> None:
    """The nuclear-norm form, taken where features outnumber images, against the definition."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(12, 20)), 2 * rng.normal(size=(15, 20)) + 0.5
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    root = np.real(sqrtm(ca @ cb + 0j))
    assert likeness.frechet_distance(a, b) == pytest.approx(shift @ shift + np.trace(ca + cb - 2 * root), rel=1e-3)


def test_frechet_agrees_with_torchmetrics() -> None:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(torch.nn.Module):
        num_features = 6

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :6].double()

    rng = np.random.default_rng(5)
    real, fake = (rng.integers(low, 256, (30, 3, 4, 4), dtype=np.uint8) for low in (0, 60))
    metric = FrechetInceptionDistance(feature=Features(), input_img_size=(3, 4, 4))
    for images, is_real in ((real, True), (fake, False)):
        metric.update(torch.from_numpy(images), real=is_real)
    ours = likeness.frechet_distance(*(x.reshape(30, -1)[:, :6] for x in (fake, real)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-3)


def test_extrapolation_takes_the_bias_away() -> None:
    rng = np.random.default_rng(2)
    equal = [(normal(60, seed=s, dim=8), normal(60, seed=900 + s, dim=8)) for s in range(12)]
    plain = np.mean([likeness.frechet_distance(a, b) for a, b in equal])
    extrapolated = [likeness.frechet_extrapolated(a, b, rng) for a, b in equal]
    assert abs(np.mean(extrapolated)) < plain / 3
    assert likeness.frechet_extrapolated(normal(20), normal(60, seed=1), rng) is None


def test_whole_groups_are_resampled() -> None:
    rng = np.random.default_rng(0)
    groups = ["a", "a", "a", "b", "b", "c"]
    for _ in range(20):
        rows = likeness.resample(groups, 6, rng).tolist()
        for members in ([0, 1, 2], [3, 4], [5]):
            assert len({rows.count(row) for row in members}) == 1
    assert len(likeness.resample(None, 6, rng)) == 6


def test_one_image_per_prompt_pretends_less_than_four() -> None:
    """Four equal images of a prompt are one piece of evidence: the interval over prompts is wider."""
    rng = np.random.default_rng(0)
    x = np.repeat(normal(40), 4, axis=0)
    prompts = [i // 4 for i in range(160)]
    by_image, by_prompt = (
        likeness.frechet_with_interval(x, normal(200, seed=1), rng, groups=(groups, None)) for groups in (None, prompts)
    )
    assert by_prompt.high - by_prompt.low > 1.3 * (by_image.high - by_image.low)


def test_standardised_features_have_unit_spread_and_quiet_dimensions_stay_quiet() -> None:
    known = normal(300) * [1, 100, 0, 0.5] + 3
    scaled = likeness.standardised(known)(known)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0, 1], atol=1e-9)
    assert np.abs(likeness.standardised(known)(known + np.array([0, 0, 0.01, 0]))).max() < 10


@pytest.mark.parametrize("size", [32, 64, 128, 200])
def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise(size: int) -> None:
    rng = np.random.default_rng(0)
    image = np.add.outer(np.arange(size), np.arange(size)).astype(np.uint8)
    little, much = (np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8) for sigma in (5, 60))
    same, near, far = likeness.ms_ssim(np.stack([image] * 3), np.stack([image, little, much]))
    assert same == pytest.approx(1, abs=1e-4)
    assert same > near > far


def test_copies_of_one_prompt_have_ms_ssim_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40), dtype=np.uint8)
    assert likeness.group_ms_ssim(np.repeat(images[:1], 3, axis=0)) == pytest.approx(1, abs=1e-4)
    assert likeness.group_ms_ssim(images) < 0.8
    with pytest.raises(InvalidInput):
        likeness.group_ms_ssim(images[:1])
    with pytest.raises(InvalidInput):
        likeness.ms_ssim(images, images[:, :20, :20])


def test_mean_interval_leaves_out_what_was_not_measured() -> None:
    rng = np.random.default_rng(0)
    found = likeness.mean_interval([0.2, float("nan"), 0.4], rng)
    assert found.value == pytest.approx(0.3)
    assert found.n == 2
    assert 0.2 <= found.low <= found.high <= 0.4
    assert likeness.mean_interval([float("nan")], rng) == MeanEstimate(None, None, None, 0)
    assert likeness.mean_interval([1.0], rng).low is None
