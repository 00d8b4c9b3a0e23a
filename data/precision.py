"""Expected precision of agreement figures: what the dashboard's intervals will be like for so many sets and readers.

Input: numbers of sets and readers, the ICC(2,1) that is expected. Output: half widths of 95 % intervals, by simulation
of the two-way random effects model (Shrout & Fleiss 1979; McGraw & Wong 1996): score = set + image within set + reader
+ error. In the balanced case without readers' severity it agrees with the closed form of Bonett (2002, Stat Med 21,
1331-1335), :func:`bonett_half_width`; that one knows neither sets of four nor severity, so it is only the check.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
SET_SIZE = 4
BETWEEN_SETS = 0.3
"""Assumed share of the images' variance that is common to a set: one condition, four seeds."""
SEVERITY = 0.2
"""Assumed share of the other variance that is how harsh a reader is throughout."""
POINTS = 1.3
"""Assumed standard deviation of single scores, points of the 0-5 scale; decides how often two images tie."""
N_DRAWS = 400
ASSUMED = (
    f"{BETWEEN_SETS:.0%} of the variance between images is between sets, {SEVERITY:.0%} of the rest is severity of"
    f" readers, scores have a standard deviation of {POINTS:g}; simulation of the two-way model"
)
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Precision:
    """Expected values and half widths of 95 % intervals.

    ``icc_half_width``: for these very readers, as the dashboard's bootstrap over sets gives it.
    ``icc_half_width_any_readers``: if other readers of the same kind had scored; few readers make it wide.
    ``preference``: how often two readers order two images of a set alike (a tie is a third answer).
    """

    n_sets: int
    n_readers: int
    icc_half_width: float
    icc_half_width_any_readers: float
    preference: float
    preference_half_width: float


def bonett_half_width(n_items: int, n_readers: int, icc: float) -> float:
    """Half of the expected 95 % interval of an ICC from independent items (Bonett 2002, solved for the width)."""
    k = n_readers
    return _Z * float(np.sqrt(2 * (1 - icc) ** 2 * (1 + (k - 1) * icc) ** 2 / (k * (k - 1) * (n_items - 1))))


@functools.lru_cache(maxsize=256)
def expected_precision(
    n_sets: int,
    n_readers: int,
    icc: float,
    *,
    set_size: int = SET_SIZE,
    between_sets: float = BETWEEN_SETS,
    severity: float = SEVERITY,
    n_draws: int = N_DRAWS,
) -> Precision:
    """Simulate ``n_draws`` studies in which ``n_readers`` readers score all ``n_sets`` sets; always the same draws."""
    rng = np.random.default_rng([n_sets, n_readers, round(icc * 1e6), 77])
    spread = np.sqrt((1 - icc) * severity)
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / n_readers) for i in range(n_readers)])
    # These readers: severities as they are expected, the same in every draw. Scaled to the variance they stand for.
    fixed = spread * quantiles / np.sqrt((quantiles**2).sum() / (n_readers - 1))
    these, any_readers, preferences = [], [], []
    for _ in range(n_draws):
        scores = _scores(rng, n_sets, n_readers, icc, set_size, between_sets, severity)
        these.append(icc_2_1(scores + fixed[:, None]))
        any_readers.append(icc_2_1(scores + spread * rng.standard_normal(n_readers)[:, None]))
        preferences.append(_preference(scores + fixed[:, None], set_size))
    return Precision(
        n_sets,
        n_readers,
        round(_Z * float(np.std(these, ddof=1)), 4),
        round(_Z * float(np.std(any_readers, ddof=1)), 4),
        round(float(np.mean(preferences)), 4),
        round(_Z * float(np.std(preferences, ddof=1)), 4),
    )


def _scores(
    rng: np.random.Generator, n_sets: int, n_readers: int, icc: float, set_size: int, between: float, severity: float
) -> Float:
    """Scores (readers, images) without the readers' severity; variance 1 with it."""
    sets = np.repeat(rng.standard_normal(n_sets), set_size) * np.sqrt(icc * between)
    images = rng.standard_normal(n_sets * set_size) * np.sqrt(icc * (1 - between))
    errors = rng.standard_normal((n_readers, n_sets * set_size)) * np.sqrt((1 - icc) * (1 - severity))
    found: Float = sets + images + errors
    return found


def icc_2_1(scores: Float) -> float:
    """ICC(2,1) of a full matrix (readers, items)."""
    k, n = scores.shape
    grand = scores.mean()
    items, readers = scores.mean(axis=0), scores.mean(axis=1)
    between_items = k * ((items - grand) ** 2).sum() / (n - 1)
    between_readers = n * ((readers - grand) ** 2).sum() / (k - 1)
    error = ((scores - items - readers[:, None] + grand) ** 2).sum() / ((n - 1) * (k - 1))
    return float((between_items - error) / (between_items + (k - 1) * error + k * (between_readers - error) / n))


def _preference(latent: Float, set_size: int) -> float:
    """Share of image pairs that two readers order alike, after rounding to the scale of 0-5."""
    points = np.clip(np.rint(2.5 + POINTS * latent), 0, 5).reshape(len(latent), -1, set_size)
    i, j = np.triu_indices(set_size, 1)
    signs = np.sign(points[:, :, i] - points[:, :, j])
    same = [(signs[a] == signs[b]).mean() for a, b in itertools.combinations(range(len(signs)), 2)]
    return float(np.mean(same))
