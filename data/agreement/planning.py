"""Coverage planner: so many raters and hours - how many sets does each score, and what precision does that buy?

Input: raters, hours, seconds per set, and a study (its sets, its [annotate] section). Output: one line per overlap,
each a design that fits into the hours, with the precision of agreement by simulation of the two-way model
(data/agreement/precision.py), and the lines for study.toml. Where the hours do not suffice for all sets, the design
has fewer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radpref.data.agreement.precision import ASSUMED, Precision, expected_precision
from radpref.data.agreement.score_tables import PLAUSIBLE_TIME
from radpref.data.core.errors import InvalidInput
from radpref.data.reader_study.lifecycle import stage

if TYPE_CHECKING:
    from radpref.data.config.reader_study import AnnotateConfig
    from radpref.data.study.study import Study

DEFAULT_SECONDS = 60.0
DEFAULT_SOURCE = (
    "assumed: 15 s for each of four images, below the 25 ± 9 s that an AI-assisted structured report of a chest"
    " radiograph took (arXiv:2510.16070); a pilot measures your own"
)
MIN_MEASURED = 5
"""Submitted sets of people from which seconds per set are measured rather than assumed."""
PARTIAL = (
    "With fewer readers per set than raters, ICC is computed from all images with two scores or more (variance"
    " components of the incomplete design), and ± is for the sets shared out among all raters."
)
_TIMES = f"""
SELECT max(e.client ->> '$.active_ms') / 1000.0 AS s FROM score_events e JOIN raters r USING (rater_id)
JOIN presentations p USING (presentation_id) JOIN image_sets i USING (set_id)
WHERE e.kind = 'submit' AND r.kind = 'human' AND i.purpose IN ('rating', 'comparison') AND {PLAUSIBLE_TIME}
GROUP BY e.presentation_id
"""


@dataclass(frozen=True)
class Load:
    """What one rater scores: rating sets, and around them comparison sets, training, checks and hidden repeats."""

    rating: int
    comparison: int
    training: int
    attention: int
    repeats: int

    @property
    def total(self) -> int:
        """All sets the rater sees."""
        return self.rating + self.comparison + self.training + self.attention + self.repeats


@dataclass(frozen=True)
class Row:
    """One design: ``n_sets`` rating sets with ``overlap`` readers each.

    ``all_sets``: {number of readers: number of sets} if nevertheless every set of the study is given out in the same
    hours; sets with the fewest readers come first. ``precision``: None with one reader or one set. ``enough``: the
    design has all sets that are wanted. ``study_toml``: the lines that give this design.
    """

    overlap: int
    n_sets: int
    load: Load
    hours_per_rater: float
    all_sets: dict[int, int]
    precision: Precision | None
    enough: bool
    sets_per_rater: int
    study_toml: list[str]


@dataclass(frozen=True)
class Plan:
    """Designs for ``raters`` with ``hours`` each, ``sets`` rating sets wanted."""

    raters: int
    hours: float
    sets: int
    seconds_per_set: float
    seconds_source: str
    icc: float
    assumed: str
    stage: str
    rows: list[Row]


def seconds_per_set(study: Study) -> tuple[float, str]:
    """(median active seconds of a submitted set, where that comes from)."""
    times = [float(row["s"]) for row in study.db.rows(_TIMES) if row["s"]]
    if len(times) < MIN_MEASURED:
        return DEFAULT_SECONDS, DEFAULT_SOURCE
    return round(statistics.median(times), 1), f"measured: median of {len(times)} sets submitted in this study"


def load_of(n_rating: int, n_comparison: int, settings: AnnotateConfig) -> Load:
    """The load of a rater with ``n_rating`` rating sets; shares are rounded as in
    data/reader_study/presentations.py."""
    return Load(
        n_rating,
        n_comparison,
        settings.training_sets,
        round(settings.attention * n_rating),
        round(settings.repeats * n_rating),
    )


def capacity(n_showings: int, n_comparison: int, settings: AnnotateConfig) -> int:
    """The most rating sets that fit, with all that comes around them, into ``n_showings`` sets; 0 if none."""
    low, high = 0, max(0, n_showings)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if load_of(middle, n_comparison, settings).total <= n_showings else (low, middle - 1)
    return low


def plan(
    study: Study,
    *,
    raters: int,
    hours: float,
    sets: int | None = None,
    overlap: int | None = None,
    seconds: float | None = None,
    icc: float = 0.5,
) -> Plan:
    """The plan; see the module's docstring.

    Args:
        sets: rating sets to be scored; default: those of the study, or ``sets.n`` of study.toml before they are made.
        overlap: readers of each set; default: a line for every overlap from 1 to all.
        seconds: time for one set; default: measured, or assumed (:func:`seconds_per_set`).
        icc: the agreement that is expected, ICC(2,1) of single scores.

    Raises:
        InvalidInput: a number out of range, or not even the training fits into the hours.
    """
    _check(raters, hours, sets, overlap, seconds, icc)
    settings = study.config.annotate
    n_there = {
        purpose: int(study.db.value("SELECT count(*) FROM image_sets WHERE purpose = ?", (purpose,)))
        for purpose in ("rating", "comparison")
    }
    n_sets = sets or n_there["rating"] or study.config.sets.n
    s, source = (seconds, "given with --seconds-per-set") if seconds else seconds_per_set(study)
    n_showings = int(hours * 3600 // s)
    if capacity(n_showings, 0, settings) < 1:
        least = load_of(1, 0, settings).total * s / 3600
        raise InvalidInput(f"--hours {hours:g} holds no set after the training; give at least {least:.2f}")
    wanted = [overlap] if overlap else _overlaps(raters)
    rows = [_row(k, raters, n_sets, n_there, n_showings, s, settings, icc) for k in wanted]
    return Plan(raters, hours, n_sets, s, source, icc, ASSUMED, stage(study.db), rows)


def _check(raters: int, hours: float, sets: int | None, overlap: int | None, seconds: float | None, icc: float) -> None:
    if not 1 <= raters <= 200:
        raise InvalidInput(f"--raters {raters}: give 1 to 200")
    if not 0 < hours <= 1000:
        raise InvalidInput(f"--hours {hours:g}: give the hours of each rater, more than 0 and at most 1000")
    if sets is not None and not 1 <= sets <= 100_000:
        raise InvalidInput(f"--sets {sets}: give 1 to 100000")
    if overlap is not None and not 1 <= overlap <= raters:
        raise InvalidInput(f"--overlap {overlap}: give 1 to the number of raters ({raters})")
    if seconds is not None and not 1 <= seconds <= 3600:
        raise InvalidInput(f"--seconds-per-set {seconds:g}: give 1 to 3600")
    if not 0 < icc < 1:
        raise InvalidInput(f"--icc {icc:g}: give a number between 0 and 1")


def _overlaps(raters: int) -> list[int]:
    """1 to all raters; where there are many, a choice."""
    return [k for k in range(1, raters + 1) if k <= 6 or k == raters or k % 5 == 0]


def _row(
    overlap: int, raters: int, n_sets: int, n_there: Mapping[str, int], n_showings: int, s: float,
    settings: AnnotateConfig, icc: float,
) -> Row:  # fmt: skip
    n_compared = -(-n_there["comparison"] * overlap // raters)
    most = capacity(n_showings, n_compared, settings)
    fits = min(n_sets, raters * most // overlap)
    load = load_of(-(-fits * overlap // raters), n_compared, settings)
    base, extra = divmod(min(raters * most, n_sets * overlap), n_sets)
    all_sets = {count: n for count, n in ((base + 1, extra), (base, n_sets - extra)) if n}
    precision = expected_precision(fits, overlap, icc, n_raters=raters) if fits >= 2 and overlap >= 2 else None
    lines = ["[annotate]", f"raters_per_set = {overlap}", f"sets_per_rater = {load.rating}"]
    if fits < n_sets and not n_there["rating"]:
        lines = ["[sets]", f"n = {fits}", *lines]
    elif fits < n_sets:
        spread = " and ".join(f"{n} with {count} readers" for count, n in all_sets.items())
        lines = [f"# {n_sets} sets are there already: they end up {spread}", *lines]
    hours = round(load.total * s / 3600, 2)
    return Row(overlap, fits, load, hours, all_sets, precision, fits == n_sets, load.total, lines)


def plan_lines(found: Plan) -> list[str]:
    """The plan as lines of text."""
    lines = [
        f"{found.raters} raters with {found.hours:g} h each, {found.sets} rating sets wanted",
        f"{found.seconds_per_set:g} s per set: {found.seconds_source}",
        "",
        f"{'readers':>7} {'sets':>10} {'each rater sees':>16} {'hours':>6}  {'ICC ±':<7} {'preferences':<13} of which",
    ]
    for row in found.rows:
        load, precision = row.load, row.precision
        around = [f"{n} {name}" for name, n in vars(load).items()]
        icc, preference = "-", "-"
        if precision:
            icc = f"{precision.icc_half_width:.3f}" if precision.icc_half_width is not None else "-"
            preference = f"{precision.preference:.2f} ± {precision.preference_half_width:.3f}"
        sets = f"{row.n_sets}" if row.enough else f"only {row.n_sets}"
        lines.append(
            f"{row.overlap:>7} {sets:>10} {row.sets_per_rater:>16} {row.hours_per_rater:>6.1f}  {icc:<7}"
            f" {preference:<13} {', '.join(part for part in around if not part.startswith('0 '))}"
        )
    lines += [
        "",
        f"± is half the 95 % interval expected at ICC(2,1) = {found.icc:g}, for these readers.",
        f"Assumed: {found.assumed}.",
    ]
    if any(row.overlap < found.raters for row in found.rows):
        lines.append(PARTIAL)
    if found.stage in ("locked", "frozen"):
        lines.append(f"The study is {found.stage}: what study.toml says is fixed, this is for another one.")
    if len(found.rows) == 1:
        return [*lines, "For study.toml:", *(f"  {line}" for line in found.rows[0].study_toml)]
    return [*lines, "Choose a line and repeat with --overlap to see what to write into study.toml."]
