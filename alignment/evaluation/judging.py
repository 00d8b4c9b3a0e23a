"""What networks say about sampled images, and the figures made of it; pure functions of arrays.

Shapes: (n, k) for n conditions of k images each; NaN where a condition does not ask for it. All intervals are 95 %
percentile bootstrap intervals over conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import StoredCondition
from radpref.generation.fidelity.condition_figures import sides_right
from radpref.generation.measuring.measure import MeasureNet, score_mask, score_text

FloatArray = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]
TIE = 0.02
"""Scores of 0-1 that differ by no more count as a tie: half a win."""
MEASURES = ("score", "text", "dice", "hit", "side")


def judge_condition(
    net: MeasureNet,
    images: Images,
    condition: StoredCondition,
    mask: npt.NDArray[np.bool_] | None,
    names: Sequence[str],
) -> dict[str, FloatArray]:
    """Figures (k,) of the k images of one condition, as `net` sees them; NaN where it is not asked.

    Args:
        images: (k, H, W) uint8. mask: (S, H, W) bool at the images' size, its planes named by `names`.

    Returns:
        text: P of what the text asks for, side included. dice: mean Dice of the asked structures.
        score: mean of the two that are asked, 0-1. hit: 1 where every asked finding is found (the network's own
        thresholds). side: 1 where every asked side is likelier than the other.
    """
    nothing = np.full(len(images), np.nan)
    found = dict.fromkeys(MEASURES, nothing)
    asked = {name: value for name, value in condition.asked.items() if name in net.attributes}
    if asked:
        found["text"] = score_text(net, images, asked).astype(np.float64)
        found["hit"] = _hits(net, images, asked)
        found["side"] = sides_right(net.predict(images), net.attributes, asked)
    if mask is not None and any(
        name in net.structures and plane.any() for name, plane in zip(names, mask, strict=True)
    ):
        found["dice"] = score_mask(net, images, mask, names).astype(np.float64)
    parts = np.stack([found["text"], found["dice"]])
    known = ~np.isnan(parts)
    total = np.where(known, parts, 0).sum(0)
    found["score"] = np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)
    return found


def _hits(net: MeasureNet, images: Images, asked: dict[str, int]) -> FloatArray:
    present = net.present(images)
    findings = [name for name in asked if "/" not in name]
    if not findings:
        return np.full(len(images), np.nan)
    right = [present[:, net.column(name)] == bool(asked[name]) for name in findings]
    return np.asarray(np.all(right, axis=0), np.float64)


def win_points(arm: FloatArray, baseline: FloatArray) -> FloatArray:
    """1 where the arm's image scores more than TIE above the baseline's of the same seed, 0 below, 0.5 between."""
    gain = arm - baseline
    points = np.where(np.abs(gain) <= TIE + 1e-12, 0.5, (gain > 0).astype(np.float64))
    return np.where(np.isnan(gain), np.nan, points)


def bootstrap_mean(values: FloatArray, seed: int, n_boot: int = 2000) -> dict[str, Any]:
    """Mean of (n, k) over images with a value, and its interval over conditions.

    Returns:
        value, low, high (None where no image has a value; low and high None for a single condition), n conditions.
    """
    if values.ndim != 2:
        raise InvalidInput(f"values of shape {values.shape}: give (conditions, images)")
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(1), known.sum(1)
    keep = counts > 0
    sums, counts = sums[keep], counts[keep]
    n = len(sums)
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    result: dict[str, Any] = {"value": float(sums.sum() / counts.sum()), "low": None, "high": None, "n": n}
    if n > 1:
        rows = np.random.default_rng([seed, 111]).integers(0, n, (n_boot, n))
        means = sums[rows].sum(1) / counts[rows].sum(1)
        result["low"], result["high"] = (float(x) for x in np.percentile(means, [2.5, 97.5]))
    return result


def arm_figures(judged: dict[str, FloatArray], modes: Sequence[str], seed: int) -> dict[str, Any]:
    """One arm's figures: each measure (n, k) with its interval, and the score by mode."""
    figures: dict[str, Any] = {
        {"hit": "hit_rate", "side": "side_accuracy", "dice": "mask_dice", "text": "text_fidelity"}.get(name, name):
        bootstrap_mean(judged[name], seed)
        for name in MEASURES
    }  # fmt: skip
    own = np.array(modes)
    figures["score_by_mode"] = {
        mode: bootstrap_mean(judged["score"][own == mode], seed) for mode in dict.fromkeys(modes)
    }
    return figures


def comparison(
    arm: dict[str, FloatArray],
    baseline: dict[str, FloatArray],
    seen_by_raters: tuple[FloatArray, FloatArray] | None,
    seed: int,
) -> dict[str, Any]:
    """An arm against the baseline, image by image of equal condition and seed.

    Args:
        seen_by_raters: scores (n, k) of arm and baseline by the raters' networks, where raters were simulated.

    Returns:
        win_rate, n_win, n_tie, n_loss, judge_gain, hit_gain, side_gain, dice_gain; rater_gain and
        reward_hacking_gap = rater_gain - judge_gain (None without rater networks).
    """
    points = win_points(arm["score"], baseline["score"])
    gain = arm["score"] - baseline["score"]
    figures: dict[str, Any] = {
        "win_rate": bootstrap_mean(points, seed),
        "n_win": int((points == 1).sum()),
        "n_tie": int((points == 0.5).sum()),
        "n_loss": int((points == 0).sum()),
        "judge_gain": bootstrap_mean(gain, seed),
        "rater_gain": None,
        "reward_hacking_gap": None,
    }
    for name in ("hit", "side", "dice"):
        figures[f"{name}_gain"] = bootstrap_mean(arm[name] - baseline[name], seed)
    if seen_by_raters is not None:
        rater_gain = seen_by_raters[0] - seen_by_raters[1]
        figures["rater_gain"] = bootstrap_mean(rater_gain, seed)
        figures["reward_hacking_gap"] = bootstrap_mean(rater_gain - gain, seed)
    return figures
