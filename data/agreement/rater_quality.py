"""How the raters of a study score: the figures behind the study office's dashboard, people and simulated apart.

Input: the tables of data/agreement/score_tables.py. Output: one JSON-ready report. Training is in no figure but its
own; hidden repeats only in the agreement with oneself (and in progress and pace); attention checks only in attention
(and in progress and pace). Nothing here knows an arm.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from radpref.data.agreement.rater_measures import (
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
from radpref.data.agreement.reliability import agreement_report, intra_rater_entry
from radpref.data.agreement.score_tables import RATED, QualityTables, asked_findings, read_tables, repeat_table
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


def study_quality(study: Study, *, n_boot: int = N_BOOT) -> dict[str, Any]:
    """:func:`quality_report` of a study as it is now."""
    config = study.config.annotate
    return quality_report(read_tables(study.db), too_fast_s=config.too_fast_s, n_boot=n_boot, seed=config.seed)


def study_agreement(study: Study, *, n_boot: int = 1000) -> dict[str, Any]:
    """`radpref.data.agreement.reliability.agreement_report` of a study, with its findings and hidden repeats."""
    return agreement_report(
        score_table(study.db),
        n_boot=n_boot,
        seed=study.config.annotate.seed,
        findings=asked_findings(study.db),
        repeats=repeat_table(read_tables(study.db)),
    )


def quality_report(tables: QualityTables, *, too_fast_s: float, n_boot: int = N_BOOT, seed: int = 0) -> dict[str, Any]:
    """{"thresholds", "too_fast_s", "by_kind": {kind: {"raters": [...], "coverage": {...}, "flags": [...]}}}.

    A rater has username, kind, active, progress, pace, distribution, leniency, position, repeats, attention,
    training, drift and straight_line; see data/agreement/rater_measures.py. CIs are 95 %.
    """
    by_kind: dict[str, Any] = {}
    for kind in ("human", "simulated"):
        people = [rater for rater in tables.raters if rater["kind"] == kind]
        if people:
            by_kind[kind] = _kind_report(tables, kind, people, too_fast_s, n_boot, seed)
    return {"thresholds": THRESHOLDS, "too_fast_s": too_fast_s, "n_boot": n_boot, "by_kind": by_kind}


def _kind_report(
    tables: QualityTables, kind: str, people: list[dict[str, Any]], too_fast_s: float, n_boot: int, seed: int
) -> dict[str, Any]:
    shown = tables.shown[tables.shown["rater_kind"] == kind]
    scores = tables.scores[(tables.scores["rater_kind"] == kind) & tables.scores["done"]]
    first = scores[scores["purpose"].isin(RATED) & scores["repeat_of"].isna()]
    rated, equal = with_others(first), equal_sets(first)
    repeats = repeat_table(tables)
    repeats = repeats[repeats["rater_kind"] == kind]
    lines = []
    for rater in people:
        name = rater["username"]
        own_shown, own = shown[shown["username"] == name], rated[rated["username"] == name]
        work = own_shown[own_shown["purpose"] != "training"]
        checks, training = (
            in_range(scores[(scores["username"] == name) & (scores["purpose"] == purpose)], tables.expected)
            for purpose in ("attention", "training")
        )
        progress = _progress(own_shown)
        line = {
            "username": name,
            "kind": kind,
            "active": bool(rater["active"]),
            "progress": progress,
            "pace": pace(work, too_fast_s, progress["n_left"]),
            "distribution": distribution(own),
            "leniency": leniency(own, n_boot=n_boot, seed=seed),
            "position": position_effect(own, n_boot=n_boot, seed=seed),
            "repeats": intra_rater_entry(repeats[repeats["username"] == name], n_boot, seed),
            "attention": checks,
            "training": training,
            "drift": drift(own),
            "straight_line": straight_lining(equal, _rater_id(own_shown)),
        }
        lines.append(line)
    return {"raters": lines, "coverage": _coverage(shown), "flags": [flag for line in lines for flag in _flags(line)]}


def _rater_id(shown: pd.DataFrame) -> int:
    return int(shown["rater_id"].iloc[0]) if len(shown) else -1


def _progress(shown: pd.DataFrame) -> dict[str, Any]:
    """Sets of one rater, training apart; repeats and attention checks count as the rater sees them: as sets."""
    work = shown[shown["purpose"] != "training"]
    training = shown[shown["purpose"] == "training"]
    counts = _counts(work)
    return {
        **counts,
        "n_left": counts["n_sets"] - counts["n_done"] - counts["n_skipped"],
        "modes": {str(mode): _counts(part) for mode, part in work.groupby("mode")},
        "training": _counts(training),
        "artifact": int(shown["artifact"].sum()),
        "unrealistic": int(shown["unrealistic"].sum()),
        "last": max((str(time) for time in shown["last_at"].dropna()), default=None),
    }


def _counts(shown: pd.DataFrame) -> dict[str, int]:
    return {
        "n_sets": len(shown),
        "n_done": int(shown["done"].sum()),
        "n_skipped": int((shown["state"] == "skipped").sum()),
    }


def _coverage(shown: pd.DataFrame) -> dict[str, int]:
    """How many sets were scored by 0, 1, 2, ... raters (first showings of rating and comparison sets)."""
    first = shown[shown["purpose"].isin(RATED) & shown["repeat_of"].isna()]
    n_raters = first.groupby("set_id")["done"].sum()
    return {str(n): int(sets) for n, sets in n_raters.value_counts().sort_index().items()}


def _flags(line: dict[str, Any]) -> list[dict[str, Any]]:
    """What of one rater is worth a look: rater, measure, value, threshold, n. Nobody is left out because of it."""
    found: list[dict[str, Any]] = []

    def flag(measure: str, value: float, threshold: float, n: int) -> None:
        found.append({"username": line["username"], "measure": measure, "value": value, "threshold": threshold, "n": n})

    limits = THRESHOLDS
    lenient, place, slope = line["leniency"], line["position"], line["drift"]
    if "value" in lenient and abs(lenient["value"]) >= limits["leniency"] and lenient["low"] * lenient["high"] > 0:
        flag("leniency", lenient["value"], limits["leniency"], lenient["n_sets"])
    if place.get("p") is not None and place["p"] < limits["position_p"]:
        flag("position_p", place["p"], limits["position_p"], place["n_sets"])
    kappa = line["repeats"].get("measures", {}).get("kappa_quadratic", {}).get("value")
    if kappa is not None and kappa < limits["repeats_kappa"]:
        flag("repeats_kappa", kappa, limits["repeats_kappa"], line["repeats"]["n_sets"])
    if line["attention"].get("value", 1.0) < limits["attention"]:
        flag("attention", line["attention"]["value"], limits["attention"], line["attention"]["n"])
    if "value" in slope and abs(slope["value"]) >= limits["drift"] and slope["low"] * slope["high"] > 0:
        flag("drift", slope["value"], limits["drift"], slope["n_sets"])
    fast = line["pace"].get("too_fast")
    if fast and fast["value"] >= limits["too_fast"]:
        flag("too_fast", fast["value"], limits["too_fast"], fast["n"])
    straight = line["straight_line"]
    above = (straight.get("others") or 0.0) + limits["straight_line"]
    if straight.get("low", 0.0) > above:
        flag("straight_line", straight["value"], round(above, 4), straight["n"])
    return found
