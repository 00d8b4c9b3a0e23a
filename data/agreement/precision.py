"""Expected precision of agreement figures: what the dashboard's intervals will be like for so many sets and readers.

Input: numbers of sets and readers, the ICC(2,1) that is expected. Output: half widths of 95 % intervals, by simulation
of the two-way random effects model (Shrout & Fleiss 1979; McGraw & Wong 1996): score = set + image within set + reader
+ error. Where sets are shared out among more raters, the ICC is that of the incomplete design
(data/agreement/intraclass.py). In the balanced case without readers' severity it agrees with the closed form of Bonett
(2002, Stat Med 21, 1331-1335), :func:`bonett_half_width`; that one knows neither sets of four nor severity, so it is
only the check.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from radpref.data.agreement.intraclass import CrossedSums, variance_components

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
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
    """Expected values and half widths of 95 % intervals, each set read by ``n_readers`` of ``n_raters``.

    ``icc_half_width``: for these very readers, as the dashboard's bootstrap over sets gives it.
    ``icc_half_width_any_readers``: if other readers of the same kind had scored; few readers make it wide.
    None: not computable, because so few sets do not link all raters.
    ``preference``: how often two readers order two images of a set alike (a tie is a third answer).
    """

    n_sets: int
    n_readers: int
    icc_half_width: float | None
    icc_half_width_any_readers: float | None
    preference: float
    preference_half_width: float
    n_raters: int


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
    n_raters: int | None = None,
    set_size: int = SET_SIZE,
    between_sets: float = BETWEEN_SETS,
    severity: float = SEVERITY,
    n_draws: int = N_DRAWS,
) -> Precision:
    """Simulate ``n_draws`` studies in which ``n_readers`` readers score each of ``n_sets`` sets; always the same draws.

    ``n_raters``: the raters among whom the sets are shared out as `radpref.data.reader_study.presentations` does;
    default: ``n_readers``.
    """
    n_raters = n_readers if n_raters is None else n_raters
    rng = np.random.default_rng([n_sets, n_readers, round(icc * 1e6), 77])
    spread = np.sqrt((1 - icc) * severity)
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / n_raters) for i in range(n_raters)])
    # These readers: severities as they are expected, the same in every draw. Scaled to the variance they stand for.
    fixed = spread * quantiles / np.sqrt((quantiles**2).sum() / (n_raters - 1))
    design = SharedOut(np.repeat(shared_out(n_sets, n_readers, n_raters), set_size, axis=1), n_raters)
    these, any_readers, preferences = [], [], []
    for _ in range(n_draws):
        scores = _scores(rng, n_sets, n_readers, icc, set_size, between_sets, severity)
        these.append(design.sums_of(scores + fixed[design.whose]))
        any_readers.append(design.sums_of(scores + (spread * rng.standard_normal(n_raters))[design.whose]))
        preferences.append(_preference(scores + fixed[design.whose], set_size))
    return Precision(
        n_sets,
        n_readers,
        _half_width(design.icc_2_1(these)),
        _half_width(design.icc_2_1(any_readers)),
        round(float(np.mean(preferences)), 4),
        round(_Z * float(np.std(preferences, ddof=1)), 4),
        n_raters,
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


def _half_width(values: Float) -> float | None:
    return round(_Z * float(np.std(values, ddof=1)), 4) if np.isfinite(values).all() else None


def shared_out(n_sets: int, n_readers: int, n_raters: int) -> Index:
    """Which rater is each reader of each set, (n_readers, n_sets); as `radpref.data.reader_study.presentations` gives
    sets out.

    One rater after the other takes an equal share: sets with the fewest readers first, drawn among equals.
    """
    rng = np.random.default_rng([n_sets, n_readers, n_raters, 78])
    share = -(-n_sets * n_readers // n_raters)
    found, taken = np.zeros((n_readers, n_sets), dtype=np.intp), np.zeros(n_sets, dtype=np.intp)
    for rater in range(n_raters):
        order = rng.permutation(n_sets)
        order = order[np.argsort(taken[order], kind="stable")][:share]
        order = order[taken[order] < n_readers]
        found[taken[order], order] = rater
        taken[order] += 1
    return found


class SharedOut:
    """ICC(2,1) of many simulated studies of one design. ``whose`` (readers, images): the rater of each score."""

    def __init__(self, whose: Index, n_raters: int) -> None:
        self.whose, self.n_raters = whose, n_raters
        k, self.n_images = whose.shape
        scored = np.zeros((n_raters, self.n_images))
        scored[whose, np.arange(self.n_images)] = 1.0
        self.scores = scored.sum(axis=1)
        self.normal = np.diag(self.scores) - scored @ scored.T / k
        n_groups = int(self.scores.astype(bool).sum()) - int(np.linalg.matrix_rank(self.normal, hermitian=True))
        self.linked = n_groups == 1

    def sums_of(self, scores: Float) -> Float:
        """What the estimator needs of one study (readers, images): within, between, totals and adjusted of raters."""
        mean = scores.mean(axis=0)
        residual = scores - mean
        by_rater = [np.bincount(self.whose.ravel(), one.ravel(), self.n_raters) for one in (scores, residual)]
        return np.concatenate([[(residual**2).sum(), (mean**2).sum() * len(scores)], *by_rater])

    def icc_2_1(self, sums: Sequence[Float]) -> Float:
        """ICC(2,1) of each study; NaN where raters share no image, as in
        :func:`radpref.data.agreement.intraclass.icc_design`."""
        s, n = np.stack(sums), np.full(len(sums), float(self.n_images))
        if not self.linked:
            return np.full(len(n), np.nan)
        totals, adjusted = s[:, 2 : 2 + self.n_raters], s[:, 2 + self.n_raters :]
        scores = np.broadcast_to(self.scores, totals.shape)
        found = CrossedSums(n, n / len(self.whose), s[:, 0], s[:, 1], scores, totals, adjusted, self.normal[None])
        return variance_components(found).icc()["icc_2_1"]


def _preference(latent: Float, set_size: int) -> float:
    """Share of image pairs that two readers order alike, after rounding to the scale of 0-5."""
    points = np.clip(np.rint(2.5 + POINTS * latent), 0, 5).reshape(len(latent), -1, set_size)
    i, j = np.triu_indices(set_size, 1)
    signs = np.sign(points[:, :, i] - points[:, :, j])
    same = [(signs[a] == signs[b]).mean() for a, b in itertools.combinations(range(len(signs)), 2)]
    return float(np.mean(same))
