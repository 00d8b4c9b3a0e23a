"""The reader comparison: how much higher raters scored the second of two arms than the first.

Input: comparison sets with their readings. Output: :class:`ReaderComparison` for the report: gain and win rate of the
second arm per mode and criterion with intervals and verdicts, flags, what the design could have found. People and
simulated raters are never mixed.

Rules, fixed before any study: the gain in score over all modes is the primary figure, the modes behind it are a
family apart (Holm); P is two-sided; fewer than `MIN_RATERS` raters or `MIN_CONDITIONS` conditions never
conclude; "no difference shown" needs 80 % power for `RELEVANT_GAIN`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from radpref.data.reader_study.scores import CRITERIA, FLAGS
from radpref.data.study.conditions import MODES
from radpref.downstream.inference.comparison_sets import Arms, ComparisonSets, Reading, read_comparison_sets
from radpref.downstream.inference.crossed import Crossed, crossed_bootstrap, detectable, fit_crossed, planned
from radpref.downstream.inference.t_tests import Verdict, conclude, holm

if TYPE_CHECKING:
    from radpref.data.study.study import Study

MIN_RATERS, MIN_CONDITIONS = 3, 5
RELEVANT_GAIN = 0.5
"""Smallest gain that matters here: half a point of the scale 0 to 5."""
N_BOOT = 2000
ALL, OVERALL = "all modes", "overall"
PLAN_RATERS, PLAN_FACTORS = (3, 4, 6, 10), (1, 2, 4)
Role = Literal["primary", "mode", "detail"]


@dataclass(frozen=True)
class SetComparison:
    """One rater's scores of one set on one criterion (or over its criteria): second arm against first."""

    rater: str
    condition: str
    mode: str
    criterion: str
    first: float  # mean score, 0 to 5
    second: float
    wins: float  # share of image pairs that the second arm wins
    ties: float
    n_scores: int

    @property
    def gain(self) -> float:
        """Mean score of the second arm minus that of the first."""
        return self.second - self.first

    @property
    def win_rate(self) -> float:
        """Share of image pairs that the second arm wins, a tie being half a win."""
        return self.wins + self.ties / 2


@dataclass(frozen=True)
class Estimate:
    """A mean over raters and conditions. Intervals are None where there are too few of them, or nothing varies."""

    value: float
    n_raters: int
    n_conditions: int
    fit: Crossed | None = None
    ci: tuple[float, float] | None = None  # 95 %, of the crossed model
    ci_bootstrap: tuple[float, float] | None = None

    def clipped(self, low: float, high: float) -> Estimate:
        """The same where values cannot leave [low, high]; the bootstrap never does."""
        ci = None if self.ci is None else (max(self.ci[0], low), min(self.ci[1], high))
        return replace(self, value=min(max(self.value, low), high), ci=ci)


@dataclass(frozen=True)
class GainRow:
    """Gain and win rate of the second arm in the sets of a mode, on a criterion."""

    mode: str  # or `ALL`
    criterion: str  # or `OVERALL`
    role: Role
    n_scores: int
    mean_first: float
    mean_second: float
    gain: Estimate
    win_rate: Estimate
    wins: float
    ties: float
    p_holm: float | None = None
    detectable_gain: float | None = None  # found with 80 % power
    verdict: Verdict | None = None  # None: not tested


@dataclass(frozen=True)
class RaterRow:
    """One rater alone, over all modes."""

    rater: str
    n_sets: int
    first: float
    second: float
    gain: float
    win_rate: float
    ties: float


@dataclass(frozen=True)
class FlagRow:
    """Share of images flagged in either arm, and the difference, second minus first."""

    flag: str
    n_images: int
    share_first: float
    share_second: float
    difference: Estimate


@dataclass(frozen=True)
class PlanRow:
    """Smallest gain found with 80 % power by ``n_raters`` who each score ``n_sets``."""

    n_raters: int
    n_sets: int
    detectable_gain: float


@dataclass(frozen=True)
class ArmsRead:
    """One pair of arms as one kind of rater scored it. rows: the primary one, then modes, then single criteria."""

    kind: str
    first: str
    second: str
    rows: tuple[GainRow, ...]
    raters: tuple[RaterRow, ...]
    flags: tuple[FlagRow, ...]
    plan: tuple[PlanRow, ...]
    n_raters: int
    n_sets: int
    n_scores: int
    n_readings: int
    n_incomplete: int


@dataclass(frozen=True)
class ReaderComparison:
    """Everything that the report says about comparison sets."""

    source: ComparisonSets
    parts: tuple[ArmsRead, ...]


def reader_comparison(study: Study) -> ReaderComparison | None:
    """Read and evaluate the comparison sets; None where the study has none (see `read_comparison_sets`)."""
    source = read_comparison_sets(study)
    if source is None:
        return None
    parts = []
    for arms, kind in itertools.product(source.arms, ("human", "simulated")):
        own = [one for one in source.readings if (one.about.arms, one.kind) == (arms, kind)]
        parts.append(_arms_read(arms, kind, own, study.config.downstream.alpha))
    return ReaderComparison(source, tuple(part for part in parts if part is not None))


def _arms_read(arms: Arms, kind: str, readings: Sequence[Reading], alpha: float) -> ArmsRead | None:
    first, second = (arm for arm, _ in arms)
    compared = [one for reading in readings for one in compare_set(reading, first)]
    if not compared:
        return None
    rows = _rows(compared, alpha)
    overall = [one for one in compared if one.criterion == OVERALL]
    return ArmsRead(
        kind, first, second, rows, tuple(_rater_rows(overall)), tuple(_flag_rows(readings, first)),
        tuple(_plan(rows[0].gain, alpha)) if rows else (),
        n_raters=len({one.rater for one in compared}), n_sets=len({one.condition for one in compared}),
        n_scores=sum(one.n_scores for one in compared if one.criterion != OVERALL),
        n_readings=len(readings), n_incomplete=len(readings) - len(overall),
    )  # fmt: skip


def compare_set(reading: Reading, first_arm: str) -> list[SetComparison]:
    """Both arms of one submitted set, per criterion and over the mode's criteria.

    Every image of one arm is compared with every image of the other. A criterion that lacks an arm gives nothing; the
    overall comparison is the mean over the mode's criteria, and is there only if all of them are.
    """
    about, found = reading.about, list[SetComparison]()
    place = (reading.rater, about.condition, about.mode)
    for criterion in CRITERIA[about.mode]:
        scores: tuple[list[int], list[int]] = ([], [])
        for image in about.images:
            if (value := reading.scores.get((image.slot, criterion))) is not None:
                scores[image.arm != first_arm].append(value)
        first, second = (np.array(own, dtype=np.float64) for own in scores)
        if len(first) and len(second):
            signs = np.sign(second[:, None] - first[None, :])
            wins, ties, n = float((signs > 0).mean()), float((signs == 0).mean()), len(first) + len(second)
            found.append(SetComparison(*place, criterion, float(first.mean()), float(second.mean()), wins, ties, n))
    if len(found) == len(CRITERIA[about.mode]):
        n = sum(one.n_scores for one in found)
        found.append(SetComparison(*place, OVERALL, *_means(found), n))
    return found


def _means(own: Sequence[SetComparison]) -> tuple[float, float, float, float]:
    """Mean score of the first arm and of the second, wins, ties."""
    first, second, wins, ties = np.mean([(one.first, one.second, one.wins, one.ties) for one in own], axis=0).tolist()
    return first, second, wins, ties


def estimate(values: Sequence[float], raters: Sequence[str], conditions: Sequence[str]) -> Estimate:
    """Mean over raters and conditions with both intervals, where there are enough of either."""
    y = np.array(values, dtype=np.float64)
    r, c = (np.unique(np.array(names), return_inverse=True)[1] for names in (raters, conditions))
    n_raters, n_conditions = int(r.max()) + 1, int(c.max()) + 1
    enough = n_raters >= MIN_RATERS and n_conditions >= MIN_CONDITIONS
    fit = fit_crossed(y, r, c) if enough else None
    if fit is None:
        return Estimate(float(y.mean()), n_raters, n_conditions)
    rng = np.random.default_rng([17, n_raters, n_conditions])
    bootstrap = crossed_bootstrap(y, r, c, rng, N_BOOT)
    return Estimate(fit.estimate, n_raters, n_conditions, fit, fit.interval(), bootstrap)


def _rows(compared: Sequence[SetComparison], alpha: float) -> tuple[GainRow, ...]:
    """The primary row, one per mode, then one per criterion; the first two with verdicts, a family each."""
    modes = [mode for mode in MODES if any(one.mode == mode for one in compared)]
    criteria = [name for name in ("text", "mask") if any(one.criterion == name for one in compared)]
    places: list[tuple[str, str, Role]] = [(ALL, OVERALL, "primary"), *((mode, OVERALL, "mode") for mode in modes)]
    wider = [ALL] if len(modes) > 1 and len(criteria) > 1 else []
    split = [*wider, *(mode for mode in modes if len(CRITERIA[mode]) > 1)]
    places += [(mode, criterion, "detail") for mode in split for criterion in criteria]
    rows = []
    for mode, criterion, role in places:
        own = [one for one in compared if mode in (ALL, one.mode) and one.criterion == criterion]
        if own:
            rows.append(_row(mode, criterion, role, own))
    families = [[row for row in rows if row.role == role] for role in ("primary", "mode")]
    tested = [row for family in families for row in _concluded(family, alpha)]
    return (*tested, *(row for row in rows if row.role == "detail"))


def _row(mode: str, criterion: str, role: Role, own: Sequence[SetComparison]) -> GainRow:
    raters, conditions = [one.rater for one in own], [one.condition for one in own]
    first, second, wins, ties = _means(own)
    return GainRow(
        mode, criterion, role, sum(one.n_scores for one in own), first, second,
        estimate([one.gain for one in own], raters, conditions),
        estimate([one.win_rate for one in own], raters, conditions).clipped(0, 1), wins, ties,
    )  # fmt: skip


def _concluded(family: Sequence[GainRow], alpha: float) -> list[GainRow]:
    """The rows with Holm's P over the family, the gain that each could have found, and verdicts."""
    fits = [row.gain.fit for row in family]
    found = []
    for row, fit, p in zip(family, fits, holm([1.0 if fit is None else fit.p() for fit in fits]).tolist(), strict=True):
        if fit is None:
            found.append(replace(row, verdict="too small to conclude"))
            continue
        smallest = detectable(fit.se, fit.df, alpha / len(family))
        better, worse = (p, 1.0) if fit.estimate > 0 else (1.0, p)  # P is two-sided: the sign says which of the two
        verdict = conclude(better, worse, smallest, alpha, RELEVANT_GAIN)
        found.append(replace(row, p_holm=p, detectable_gain=smallest, verdict=verdict))
    return found


def _rater_rows(overall: Sequence[SetComparison]) -> list[RaterRow]:
    found = []
    for name in sorted({one.rater for one in overall}):
        own = [one for one in overall if one.rater == name]
        first, second, wins, ties = _means(own)
        found.append(RaterRow(name, len(own), first, second, second - first, wins + ties / 2, ties))
    return found


def _plan(gain: Estimate, alpha: float) -> list[PlanRow]:
    """What more raters or more sets would find, from this study's variances."""
    if gain.fit is None:
        return []
    return [
        PlanRow(n_raters, n_sets, detectable(*planned(gain.fit, n_raters, n_sets), alpha))
        for n_raters in sorted({gain.n_raters, *PLAN_RATERS})
        for n_sets in (factor * gain.n_conditions for factor in PLAN_FACTORS)
    ]


def _flag_rows(readings: Sequence[Reading], first_arm: str) -> list[FlagRow]:
    raters, conditions = [one.rater for one in readings], [one.about.condition for one in readings]
    found = []
    for flag in FLAGS:
        shares = np.array([_flagged(one, flag, first_arm) for one in readings])
        difference = estimate((shares[:, 1] - shares[:, 0]).tolist(), raters, conditions)
        first, second = shares.mean(axis=0).tolist()
        found.append(FlagRow(flag, 4 * len(readings), first, second, difference))
    return found


def _flagged(reading: Reading, flag: str, first_arm: str) -> tuple[float, float]:
    """Share of flagged images of the first arm and of the second."""
    flags: tuple[list[int], list[int]] = ([], [])
    for image in reading.about.images:
        flags[image.arm != first_arm].append(reading.flags.get((image.slot, flag), 0))
    return float(np.mean(flags[0])), float(np.mean(flags[1]))
