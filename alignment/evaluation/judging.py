"""What networks say about sampled images, and the figures made of it; pure functions of arrays.

Shapes: (n, k) for n conditions of k images each; NaN where a condition does not ask for it. All intervals are 95 %
percentile bootstrap intervals over conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.core.statistics import MeanEstimate
from radpref.data.study.conditions import StoredCondition
from radpref.generation.measuring.image_scores import findings_right, score_mask, score_text, sides_right
from radpref.generation.measuring.measuring_network import MeasureNet

FloatArray = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]
TIE = 0.02
"""Scores of 0-1 that differ by no more count as a tie: half a win."""


@dataclass(frozen=True)
class Judged:
    """What a network says of images: (k,) for one condition, (n, k) for many; NaN where it is not asked.

    text: P of what the text asks for, side included. dice: mean Dice of the asked structures. score: mean of the two
    that are asked, 0-1. hit: 1 where every asked finding is found (the network's own thresholds). side: 1 where every
    asked side is likelier than the other.
    """

    score: FloatArray
    text: FloatArray
    dice: FloatArray
    hit: FloatArray
    side: FloatArray

    @classmethod
    def stacked(cls, conditions: Sequence[Judged]) -> Judged:
        """Many conditions of equally many images each, (n, k)."""
        return cls(*(np.stack([getattr(one, field.name) for one in conditions]) for field in fields(cls)))


@dataclass(frozen=True)
class ArmFigures:
    """One arm's measures with their intervals over conditions; then how far its images moved and how varied they are.

    drift, paired_shift, diversity: see `radpref.alignment.training.watch.drift_and_diversity`.
    """

    score: MeanEstimate
    text_fidelity: MeanEstimate
    mask_dice: MeanEstimate
    hit_rate: MeanEstimate
    side_accuracy: MeanEstimate
    score_by_mode: dict[str, MeanEstimate]
    drift: float
    paired_shift: float
    diversity: float


@dataclass(frozen=True)
class ArmComparison:
    """An arm against the baseline, image by image of equal condition and seed.

    rater_gain and reward_hacking_gap = rater_gain - judge_gain are None where no raters were simulated.
    """

    win_rate: MeanEstimate
    n_win: int
    n_tie: int
    n_loss: int
    judge_gain: MeanEstimate
    rater_gain: MeanEstimate | None
    reward_hacking_gap: MeanEstimate | None
    hit_gain: MeanEstimate
    side_gain: MeanEstimate
    dice_gain: MeanEstimate


def judge_condition(
    net: MeasureNet,
    images: Images,
    condition: StoredCondition,
    mask: npt.NDArray[np.bool_] | None,
    names: Sequence[str],
) -> Judged:
    """Figures (k,) of the k images of one condition, as `net` sees them.

    Args:
        images: (k, H, W) uint8. mask: (S, H, W) bool at the images' size, its planes named by `names`.
    """
    text = hit = side = dice = np.full(len(images), np.nan)
    asked = {name: value for name, value in condition.asked.items() if name in net.attributes}
    if asked:
        text = score_text(net, images, asked).astype(np.float64)
        hit = findings_right(net.present(images), net.attributes, asked)
        side = sides_right(net.predict(images), net.attributes, asked)
    if mask is not None and any(
        name in net.structures and plane.any() for name, plane in zip(names, mask, strict=True)
    ):
        dice = score_mask(net, images, mask, names).astype(np.float64)
    return Judged(mean_of_known(np.stack([text, dice])), text, dice, hit, side)


def mean_of_known(values: FloatArray) -> FloatArray:
    """Mean over the first axis of the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def win_points(arm: FloatArray, baseline: FloatArray) -> FloatArray:
    """1 where the arm's image scores more than TIE above the baseline's of the same seed, 0 below, 0.5 between."""
    gain = arm - baseline
    points = np.where(np.abs(gain) <= TIE + 1e-12, 0.5, (gain > 0).astype(np.float64))
    return np.where(np.isnan(gain), np.nan, points)


def bootstrap_mean(values: FloatArray, seed: int, n_boot: int = 2000) -> MeanEstimate:
    """Mean of (n, k) over images with a value, and its interval over conditions (None for a single condition).

    Raises:
        InvalidInput: another shape.
    """
    if values.ndim != 2:
        raise InvalidInput(f"values of shape {values.shape}: give (conditions, images)")
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(1), known.sum(1)
    keep = counts > 0
    sums, counts = sums[keep], counts[keep]
    n = len(sums)
    if n == 0:
        return MeanEstimate(None, None, None, 0)
    mean = float(sums.sum() / counts.sum())
    if n == 1:
        return MeanEstimate(mean, None, None, 1)
    rows = np.random.default_rng([seed, 111]).integers(0, n, (n_boot, n))
    low, high = np.percentile(sums[rows].sum(1) / counts[rows].sum(1), [2.5, 97.5])
    return MeanEstimate(mean, float(low), float(high), n)


def arm_figures(judged: Judged, modes: Sequence[str], moved: dict[str, float], seed: int) -> ArmFigures:
    """One arm's figures, each with its interval, the score also by mode; `moved` is its drift and diversity."""
    own = np.array(modes)
    return ArmFigures(
        bootstrap_mean(judged.score, seed),
        bootstrap_mean(judged.text, seed),
        bootstrap_mean(judged.dice, seed),
        bootstrap_mean(judged.hit, seed),
        bootstrap_mean(judged.side, seed),
        {mode: bootstrap_mean(judged.score[own == mode], seed) for mode in dict.fromkeys(modes)},
        **moved,
    )


def comparison(
    arm: Judged, baseline: Judged, seen_by_raters: tuple[FloatArray, FloatArray] | None, seed: int
) -> ArmComparison:
    """An arm against the baseline, image by image of equal condition and seed.

    Args:
        seen_by_raters: scores (n, k) of arm and baseline by the raters' networks, where raters were simulated.
    """
    points = win_points(arm.score, baseline.score)
    gain = arm.score - baseline.score
    rater_gain = None if seen_by_raters is None else seen_by_raters[0] - seen_by_raters[1]
    return ArmComparison(
        win_rate=bootstrap_mean(points, seed),
        n_win=int((points == 1).sum()),
        n_tie=int((points == 0.5).sum()),
        n_loss=int((points == 0).sum()),
        judge_gain=bootstrap_mean(gain, seed),
        rater_gain=None if rater_gain is None else bootstrap_mean(rater_gain, seed),
        reward_hacking_gap=None if rater_gain is None else bootstrap_mean(rater_gain - gain, seed),
        hit_gain=bootstrap_mean(arm.hit - baseline.hit, seed),
        side_gain=bootstrap_mean(arm.side - baseline.side, seed),
        dice_gain=bootstrap_mean(arm.dice - baseline.dice, seed),
    )
