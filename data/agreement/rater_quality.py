"""How the raters of a study score: the figures behind the study office's dashboard, people and simulated apart.

Input: the tables of data/agreement/score_tables.py. Output: one report of dataclasses. Training is in no figure but its
own; hidden repeats only in the agreement with oneself (and in progress and pace); attention checks only in attention
(and in progress and pace). Nothing here knows an arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from radpref.data.agreement.rater_measures import (
    Drift,
    InRange,
    Leniency,
    Pace,
    PositionEffect,
    ScoreCounts,
    StraightLining,
    TooSmall,
    distribution,
    drift,
    equal_sets,
    in_range,
    leniency,
    pace,
    position_effect,
    straight_lining,
    with_others,
)
from radpref.data.agreement.reliability import (
    AgreementReport,
    IntraRater,
    NotComputable,
    agreement_report,
    intra_rater_entry,
)
from radpref.data.agreement.score_tables import (
    RATED,
    QualityTables,
    RaterRow,
    asked_findings,
    read_tables,
    repeat_table,
)
from radpref.data.reader_study.scores import score_table
from radpref.data.study.study import Study

N_BOOT = 500
THRESHOLDS = {
    "leniency": 1.0,
    "position_p": 0.01,
    "repeats_kappa": 0.4,
    "attention": 0.75,
    "drift": 0.3,
    "too_fast": 0.1,
    "straight_line": 0.1,
}
"""When a figure is worth a look: see :func:`_flags`. Nobody is left out because of one."""


@dataclass(frozen=True)
class SetCounts:
    """How far through some sets a rater is."""

    n_sets: int
    n_done: int
    n_skipped: int


@dataclass(frozen=True)
class Progress(SetCounts):
    """Sets of one rater as the rater sees them, training apart; images flagged; time of the last event."""

    n_left: int
    modes: dict[str, SetCounts]
    training: SetCounts
    artifact: int
    unrealistic: int
    last: str | None


@dataclass(frozen=True)
class RaterQuality:
    """One rater; each figure is explained in data/agreement/rater_measures.py."""

    username: str
    kind: str
    active: bool
    progress: Progress
    pace: Pace | TooSmall
    distribution: dict[str, ScoreCounts]
    leniency: Leniency | TooSmall
    position: PositionEffect | TooSmall
    repeats: IntraRater | NotComputable
    attention: InRange | TooSmall
    training: InRange | TooSmall
    drift: Drift | TooSmall
    straight_line: StraightLining | TooSmall


@dataclass(frozen=True)
class Flag:
    """A figure of one rater that is worth a look; nobody is left out because of it."""

    username: str
    measure: str
    value: float
    threshold: float
    n: int


@dataclass(frozen=True)
class KindQuality:
    """Raters of one kind; coverage: number of raters -> sets that so many scored."""

    raters: list[RaterQuality]
    coverage: dict[str, int]
    flags: list[Flag]


@dataclass(frozen=True)
class QualityReport:
    """How the raters score, people and simulated ones apart; intervals are 95 %."""

    thresholds: dict[str, float]
    too_fast_s: float
    n_boot: int
    by_kind: dict[str, KindQuality]


def study_quality(study: Study, *, n_boot: int = N_BOOT) -> QualityReport:
    """:func:`quality_report` of a study as it is now."""
    config = study.config.annotate
    return quality_report(read_tables(study.db), too_fast_s=config.too_fast_s, n_boot=n_boot, seed=config.seed)


def study_agreement(study: Study, *, n_boot: int = 1000) -> AgreementReport:
    """`radpref.data.agreement.reliability.agreement_report` of a study, with its findings and hidden repeats."""
    return agreement_report(
        score_table(study.db),
        n_boot=n_boot,
        seed=study.config.annotate.seed,
        findings=asked_findings(study.db),
        repeats=repeat_table(read_tables(study.db)),
    )


def quality_report(tables: QualityTables, *, too_fast_s: float, n_boot: int = N_BOOT, seed: int = 0) -> QualityReport:
    """How each rater of ``tables`` scores; less than ``too_fast_s`` seconds per score count as too fast."""
    by_kind = {}
    for kind in ("human", "simulated"):
        people = [rater for rater in tables.raters if rater.kind == kind]
        if people:
            by_kind[kind] = _kind_report(tables, kind, people, too_fast_s, n_boot, seed)
    return QualityReport(THRESHOLDS, too_fast_s, n_boot, by_kind)


def _kind_report(
    tables: QualityTables, kind: str, people: list[RaterRow], too_fast_s: float, n_boot: int, seed: int
) -> KindQuality:
    shown = tables.shown[tables.shown["rater_kind"] == kind]
    scores = tables.scores[(tables.scores["rater_kind"] == kind) & tables.scores["done"]]
    first = scores[scores["purpose"].isin(RATED) & scores["repeat_of"].isna()]
    rated, equal = with_others(first), equal_sets(first)
    repeats = repeat_table(tables)
    repeats = repeats[repeats["rater_kind"] == kind]
    lines = []
    for rater in people:
        name = rater.username
        own_shown, own = shown[shown["username"] == name], rated[rated["username"] == name]
        work = own_shown[own_shown["purpose"] != "training"]
        checks, training = (
            in_range(scores[(scores["username"] == name) & (scores["purpose"] == purpose)], tables.expected)
            for purpose in ("attention", "training")
        )
        progress = _progress(own_shown)
        line = RaterQuality(
            name,
            kind,
            rater.active,
            progress,
            pace=pace(work, too_fast_s, progress.n_left),
            distribution=distribution(own),
            leniency=leniency(own, n_boot=n_boot, seed=seed),
            position=position_effect(own, n_boot=n_boot, seed=seed),
            repeats=intra_rater_entry(repeats[repeats["username"] == name], n_boot, seed),
            attention=checks,
            training=training,
            drift=drift(own),
            straight_line=straight_lining(equal, _rater_id(own_shown)),
        )
        lines.append(line)
    return KindQuality(lines, _coverage(shown), [flag for line in lines for flag in _flags(line)])


def _rater_id(shown: pd.DataFrame) -> int:
    return int(shown["rater_id"].iloc[0]) if len(shown) else -1


def _progress(shown: pd.DataFrame) -> Progress:
    """Sets of one rater, training apart; repeats and attention checks count as the rater sees them: as sets."""
    work = shown[shown["purpose"] != "training"]
    training = shown[shown["purpose"] == "training"]
    counts = _counts(work)
    return Progress(
        **vars(counts),
        n_left=counts.n_sets - counts.n_done - counts.n_skipped,
        modes={str(mode): _counts(part) for mode, part in work.groupby("mode")},
        training=_counts(training),
        artifact=int(shown["artifact"].sum()),
        unrealistic=int(shown["unrealistic"].sum()),
        last=max((str(time) for time in shown["last_at"].dropna()), default=None),
    )


def _counts(shown: pd.DataFrame) -> SetCounts:
    return SetCounts(len(shown), int(shown["done"].sum()), int((shown["state"] == "skipped").sum()))


def _coverage(shown: pd.DataFrame) -> dict[str, int]:
    """How many sets were scored by 0, 1, 2, ... raters (first showings of rating and comparison sets)."""
    first = shown[shown["purpose"].isin(RATED) & shown["repeat_of"].isna()]
    n_raters = first.groupby("set_id")["done"].sum()
    return {str(n): int(sets) for n, sets in n_raters.value_counts().sort_index().items()}


def _flags(line: RaterQuality) -> list[Flag]:
    """What of one rater is worth a look. Nobody is left out because of it."""
    found: list[tuple[str, float, float, int]] = []  # measure, value, threshold, n
    limits, repeats = THRESHOLDS, line.repeats
    for name, figure in (("leniency", line.leniency), ("drift", line.drift)):
        if not isinstance(figure, TooSmall) and abs(figure.value) >= limits[name] and figure.low * figure.high > 0:
            found.append((name, figure.value, limits[name], figure.n_sets))
    p = line.position.p if isinstance(line.position, PositionEffect) else None
    if isinstance(line.position, PositionEffect) and p is not None and p < limits["position_p"]:
        found.append(("position_p", p, limits["position_p"], line.position.n_sets))
    kappa = repeats.measures["kappa_quadratic"].value if isinstance(repeats, IntraRater) else None
    if kappa is not None and kappa < limits["repeats_kappa"]:
        found.append(("repeats_kappa", kappa, limits["repeats_kappa"], repeats.n_sets))
    if isinstance(line.attention, InRange) and line.attention.value < limits["attention"]:
        found.append(("attention", line.attention.value, limits["attention"], line.attention.n))
    if isinstance(line.pace, Pace) and (fast := line.pace.too_fast).value >= limits["too_fast"]:
        found.append(("too_fast", fast.value, limits["too_fast"], fast.n))
    if isinstance(straight := line.straight_line, StraightLining):
        above = (straight.others or 0.0) + limits["straight_line"]
        if straight.low > above:
            found.append(("straight_line", straight.value, round(above, 4), straight.n))
    return [Flag(line.username, *figures) for figures in found]
