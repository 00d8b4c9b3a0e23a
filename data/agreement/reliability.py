"""Agreement of raters with each other and with themselves, with bootstrap intervals over whole sets.

Input: a matrix raters x items, (R, N) float, NaN where a rater gave no score; the table of
`radpref.data.reader_study.scores.score_table`; a table of repeated scores. Output: reports of
dataclasses. The coefficients are in data/agreement/coefficients.py and data/agreement/intraclass.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.agreement.coefficients import (
    Float,
    Index,
    Measure,
    alpha_measure,
    as_matrix,
    kappa_measure,
    kendall_tau,
    ordinal_alpha,
    preference_agreement,
    preference_measure,
    tau_measure,
    weighted_kappa,
)
from radpref.data.agreement.intraclass import icc, icc_design, icc_measure

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "agreement",
    "agreement_report",
    "icc",
    "intra_rater",
    "kendall_tau",
    "ordinal_alpha",
    "preference_agreement",
    "weighted_kappa",
]

OVERALL = "overall"
CONFIDENCE = 0.95
MIN_SETS = 10
"""A mode or a finding with fewer shared sets is not broken out: its figures would be noise."""
MIN_REPEATS = 5
"""Fewer repeated sets say nothing about one rater."""


@dataclass(frozen=True)
class Coefficient:
    """A measure with its 95 % interval; None: not computable."""

    value: float | None
    low: float | None
    high: float | None


Coefficients = dict[str, Coefficient]


@dataclass(frozen=True)
class NotComputable:
    """Scores of which there are too few, and why."""

    n_raters: int
    n_sets: int
    n_scores: int
    not_computable: str


@dataclass(frozen=True)
class Agreement:
    """Agreement between raters.

    n_items: scored images (times criteria); icc_basis: "complete" (images every rater scored) or "incomplete" (all
    images with two scores or more, where few or none are complete); icc_n_items: how many those are; icc_k: readers of
    each (harmonic mean); icc_not_computable: why there is no ICC, or None.
    """

    n_raters: int
    n_sets: int
    n_scores: int
    n_items: int
    n_items_shared: int
    n_items_complete: int
    icc_basis: str
    icc_n_items: int
    icc_k: float | None
    icc_not_computable: str | None
    n_sets_shared: int
    measures: Coefficients


@dataclass(frozen=True)
class IntraRater:
    """Agreement of one rater's two scores of the same images, ``hours_between`` (median) them."""

    n_sets: int
    n_scores: int
    hours_between: float
    measures: Coefficients
    n_raters: int = 1


Found = Agreement | NotComputable


@dataclass(frozen=True)
class KindAgreement:
    """Raters of one kind: agreement by criterion ("text", "mask", "overall"), by mode and criterion, by asked finding
    (text criterion), and of each rater with their own earlier scores."""

    raters: list[str]
    n_raters: int
    n_sets: int
    n_scores: int
    criteria: dict[str, Found]
    modes: dict[str, dict[str, Found]]
    findings: dict[str, Found]
    intra_rater: dict[str, IntraRater | NotComputable]


@dataclass(frozen=True)
class AgreementReport:
    """Agreement of a study's raters, people and simulated ones apart."""

    kinds: list[str]
    n_boot: int
    seed: int
    confidence: float
    by_kind: dict[str, KindAgreement]


def agreement(
    matrix: npt.ArrayLike, groups: Sequence[Any], sets: Sequence[Any], *, n_boot: int = 1000, seed: int = 0
) -> Coefficients:
    """All measures of a matrix (R, N), their intervals by a 95 % percentile bootstrap over ``sets``.

    ``groups`` says which items are compared with each other, ``sets`` which are drawn together.
    """
    values = as_matrix(matrix)
    clusters, n_sets = _numbered(sets)
    measures = [
        icc_measure(values, clusters),
        alpha_measure(values, clusters),
        kappa_measure(values, clusters),
        preference_measure(values, groups, clusters),
        tau_measure(values, groups, clusters),
    ]
    return _bootstrapped(measures, n_sets, n_boot, seed)


def _numbered(sets: Sequence[Any]) -> tuple[Index, int]:
    names = {name: number for number, name in enumerate(dict.fromkeys(sets))}
    return np.array([names[name] for name in sets], dtype=np.intp), len(names)


def _bootstrapped(measures: Sequence[Measure], n_sets: int, n_boot: int, seed: int) -> Coefficients:
    rng = np.random.default_rng([seed, 31])
    draws = rng.multinomial(n_sets, np.full(n_sets, 1 / n_sets), size=n_boot) if n_sets > 1 else np.zeros((0, n_sets))
    found: Coefficients = {}
    for measure in measures:
        point = measure.evaluate(measure.sums.sum(axis=0, keepdims=True))
        boots = measure.evaluate(draws @ measure.sums)
        found |= {name: _interval(float(point[name][0]), boots[name]) for name in point}
    return found


def _interval(value: float, boots: Float) -> Coefficient:
    finite = boots[np.isfinite(boots)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(finite, [tail, 100 - tail]) if len(finite) > 1 else (math.nan, math.nan)
    return Coefficient(_plain(value), _plain(low), _plain(high))


def _plain(number: float) -> float | None:
    return round(float(number), 6) if math.isfinite(number) else None


def intra_rater(
    first: npt.ArrayLike,
    again: npt.ArrayLike,
    groups: Sequence[Any],
    sets: Sequence[Any],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Coefficients:
    """One rater's two scores (N,) of the same images: share exactly alike and within one point, and the coefficients.

    Intervals are bootstrapped over ``sets``; ``groups`` as in :func:`agreement`.
    """
    matrix = as_matrix([np.asarray(first, dtype=np.float64), np.asarray(again, dtype=np.float64)])
    clusters, n_sets = _numbered(sets)
    gap = np.abs(matrix[0] - matrix[1])
    sums = np.zeros((n_sets, 3))
    np.add.at(sums, clusters, np.column_stack([gap == 0, gap <= 1, np.ones(len(gap))]).astype(np.float64))
    shares = Measure(sums, lambda s: {"exact": s[:, 0] / s[:, 2], "within_one": s[:, 1] / s[:, 2]})
    measures = [shares, icc_measure(matrix, clusters), kappa_measure(matrix, clusters)]
    found = _bootstrapped([*measures, tau_measure(matrix, groups, clusters)], n_sets, n_boot, seed)
    found.pop("icc_2_k")  # the mean of a rater with himself is not what anybody uses
    return found


def agreement_report(
    table: pd.DataFrame,
    n_boot: int = 1000,
    seed: int = 0,
    *,
    findings: Mapping[str, Collection[str]] | None = None,
    repeats: pd.DataFrame | None = None,
) -> AgreementReport:
    """Agreement of a score table (`radpref.data.reader_study.scores.score_table`).

    Args:
        findings: condition_id -> the findings it asks for; each is broken out on the text criterion.
        repeats: one row per repeated score: rater_kind, username, set_id, criterion, slot, first, again, hours.
    """
    kinds = sorted(str(kind) for kind in table["rater_kind"].unique())
    by_kind = {}
    for kind in kinds:
        part = table[table["rater_kind"] == kind]
        criteria = sorted(str(name) for name in part["criterion"].unique())
        by_kind[kind] = KindAgreement(
            sorted(str(name) for name in part["username"].unique()),
            *_sizes(part),
            criteria={
                name: _criterion(part if name == OVERALL else part[part["criterion"] == name], n_boot, seed)
                for name in [*criteria, OVERALL]
            },
            modes={
                str(mode): {
                    str(name): _criterion(rows, n_boot, seed, MIN_SETS) for name, rows in of_mode.groupby("criterion")
                }
                for mode, of_mode in part.groupby("mode")
            },
            findings=_findings(part, findings or {}, n_boot, seed),
            intra_rater=_intra(repeats, kind, n_boot, seed),
        )
    return AgreementReport(kinds, n_boot, seed, CONFIDENCE, by_kind)


def _sizes(part: pd.DataFrame) -> tuple[int, int, int]:
    """(raters, sets, scores)."""
    return int(part["rater_id"].nunique()), int(part["set_id"].nunique()), len(part)


def _criterion(part: pd.DataFrame, n_boot: int, seed: int, min_sets: int = 1) -> Found:
    sizes = _sizes(part)
    if sizes[0] < 2:
        return NotComputable(*sizes, "one rater; agreement needs at least two")
    wide = part.pivot(index="rater_id", columns=["set_id", "criterion", "slot"], values="value").sort_index(axis=1)
    matrix = wide.to_numpy(dtype=np.float64)
    items = [(str(column[0]), str(column[1])) for column in wide.columns.to_list()]
    shared = (~np.isnan(matrix)).sum(axis=0) >= 2
    if not shared.any():
        return NotComputable(*sizes, "no image has scores of two raters; let raters score the same sets")
    n_shared = len({items[item][0] for item in np.flatnonzero(shared)})
    if n_shared < min_sets:
        return NotComputable(*sizes, f"n too small: {n_shared} sets scored by two raters, needs {min_sets}")
    complete = int((~np.isnan(matrix)).all(axis=0).sum())
    measures = agreement(matrix, items, [set_id for set_id, _ in items], n_boot=n_boot, seed=seed)
    names = part.drop_duplicates("rater_id").set_index("rater_id")["username"]
    design = icc_design(matrix, [str(names[rater]) for rater in wide.index])
    no_icc = design.reason or ("the scores do not vary" if measures["icc_2_1"].value is None else None)
    return Agreement(
        *sizes,
        n_items=matrix.shape[1],
        n_items_shared=int(shared.sum()),
        n_items_complete=complete,
        icc_basis=design.basis,
        icc_n_items=design.n_items,
        icc_k=_plain(design.k),
        icc_not_computable=no_icc,
        n_sets_shared=n_shared,
        measures=measures,
    )


def icc_basis_text(criterion: str, found: Agreement) -> str:
    """From which images the ICCs of a criterion are, in words; call it where there is one."""
    things = f"{found.icc_n_items:,} {'images x criteria' if criterion == 'overall' else 'images'}"
    if found.icc_basis == "complete":
        return f"{things} that every rater scored"
    return f"{things} with two scores or more, {found.icc_k:.2g} each; incomplete design"


def _findings(part: pd.DataFrame, findings: Mapping[str, Collection[str]], n_boot: int, seed: int) -> dict[str, Found]:
    """Agreement on the text criterion of the sets that ask for each finding; findings with too few sets say so."""
    text = part[part["criterion"] == "text"]
    names = sorted({name for condition in text["condition_id"].unique() for name in findings.get(str(condition), ())})
    found = {}
    for name in names:
        asked = [condition for condition, these in findings.items() if name in these]
        found[name] = _criterion(text[text["condition_id"].isin(asked)], n_boot, seed, MIN_SETS)
    return found


def _intra(repeats: pd.DataFrame | None, kind: str, n_boot: int, seed: int) -> dict[str, IntraRater | NotComputable]:
    if repeats is None:
        return {}
    rows = repeats[repeats["rater_kind"] == kind]
    return {str(name): intra_rater_entry(part, n_boot, seed) for name, part in rows.groupby("username")}


def intra_rater_entry(part: pd.DataFrame, n_boot: int, seed: int) -> IntraRater | NotComputable:
    """:func:`intra_rater` of one rater's repeated scores, with n and the hours between; see `agreement_report`."""
    n_sets, n_scores = int(part["set_id"].nunique()), len(part)
    if n_sets < MIN_REPEATS:
        return NotComputable(1, n_sets, n_scores, f"n too small: {n_sets} repeated sets, needs {MIN_REPEATS}")
    sets = [str(name) for name in part["set_id"]]
    groups = list(zip(sets, part["criterion"], strict=True))
    first, again = part["first"].to_numpy(), part["again"].to_numpy()
    measures = intra_rater(first, again, groups, sets, n_boot=n_boot, seed=seed)
    hours = float(np.median(part.drop_duplicates("set_id")["hours"].to_numpy(dtype=np.float64)))
    return IntraRater(n_sets, n_scores, round(hours, 1), measures)


def agreement_lines(report: AgreementReport) -> list[str]:
    """The report as lines of text."""
    if not report.by_kind:
        return ["no scores yet"]
    lines = []
    for kind, part in report.by_kind.items():
        mark = "SIMULATED raters" if kind == "simulated" else "people"
        lines.append(f"{mark}: {part.n_raters} raters, {part.n_sets} sets, {part.n_scores} scores")
        for criterion, found in part.criteria.items():
            if isinstance(found, NotComputable):
                lines.append(f"  {criterion}: not computable ({found.not_computable})")
                continue
            for name, one in found.measures.items():
                text = f"  {criterion:<8} {name:<28} {_measure(one)}"
                lines.append(text + (_icc_note(criterion, found) if name.startswith("icc") else ""))
    return lines


def _icc_note(criterion: str, found: Agreement) -> str:
    """From which images an ICC is, or why there is none."""
    return f"  ({found.icc_not_computable or icc_basis_text(criterion, found)})"


def _measure(found: Coefficient) -> str:
    if found.value is None:
        return "not computable"
    interval = "" if found.low is None or found.high is None else f"  [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:6.3f}{interval}"
