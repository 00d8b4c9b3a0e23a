"""The reader comparison: how raters scored two arms in sets that hold two images of each, unmarked.

Input: a study's comparison sets and the counted scores of them. Output: plain data for the report: gain and win rate
of the second arm per mode and criterion with intervals and verdicts, flags, what the design could have found.
People and simulated raters are never mixed. People's scores are read by arm only where the study's life allows it, and
that is written into the audit log.

Rules, fixed before any study: the gain in score over all modes is the primary figure, the modes stand behind it as a
family of their own (Holm); P is two-sided; fewer than `MIN_RATERS` raters or `MIN_CONDITIONS` conditions never
conclude; "no difference shown" needs 80 % power for `RELEVANT_GAIN`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.reader_study.lifecycle import arms_visible, operator, reveal_arms, stage
from radpref.data.reader_study.scores import CRITERIA, FLAGS
from radpref.data.study.conditions import MODES
from radpref.downstream.inference.crossed import Crossed, Float, crossed_bootstrap, detectable, fit_crossed, planned
from radpref.downstream.inference.t_tests import holm, verdict

if TYPE_CHECKING:
    from radpref.data.study.study import Study

MIN_RATERS, MIN_CONDITIONS = 3, 5
RELEVANT_GAIN = 0.5
"""Smallest gain that matters here: half a point of the scale 0 to 5."""
N_BOOT = 2000
ALL, OVERALL = "all modes", "overall"
N_EXAMPLES = 3
PLAN_RATERS, PLAN_FACTORS = (3, 4, 6, 10), (1, 2, 4)

_SETS = """
SELECT s.set_id, s.run_id, s.ordinal, s.condition_id, c.mode, c.text, r.config
FROM image_sets s JOIN conditions c USING (condition_id) JOIN runs r USING (run_id)
WHERE s.purpose = 'comparison' AND r.status = 'done' ORDER BY r.started_at, s.run_id, s.ordinal
"""
_IMAGES = """
SELECT i.set_id, i.slot, i.arm, i.seed, i.image_sha FROM set_images i JOIN image_sets s USING (set_id)
WHERE s.purpose = 'comparison' ORDER BY i.set_id, i.slot
"""
_COUNTED = """
SELECT p.presentation_id, p.set_id, p.rater_id, r.username, r.kind FROM counted_presentations p
JOIN raters r USING (rater_id) WHERE p.purpose = 'comparison' AND p.state = 'submitted' ORDER BY p.presentation_id
"""
_SCORES = """
SELECT v.presentation_id, v.slot, v.criterion, v.value FROM current_scores v
JOIN counted_presentations p USING (presentation_id) WHERE p.purpose = 'comparison' AND p.state = 'submitted'
"""
_FLAGS = """
SELECT e.presentation_id, e.slot, e.criterion, e.value FROM score_events e
JOIN counted_presentations p USING (presentation_id)
WHERE p.purpose = 'comparison' AND p.state = 'submitted' AND e.kind = 'flag' ORDER BY e.event_id
"""
_PROGRESS = """
SELECT count(*) AS n, coalesce(sum(p.state <> 'open'), 0) AS n_done, count(DISTINCT p.rater_id) AS n_raters
FROM counted_presentations p JOIN raters r USING (rater_id)
WHERE p.purpose = 'comparison' AND r.kind = 'human' AND (r.active = 1 OR p.state <> 'open')
"""
_PROOF = {
    "pairs": "SELECT count(*) FROM pairs",
    "pairs_of_comparisons": "SELECT count(*) FROM pairs JOIN image_sets USING (set_id) WHERE purpose <> 'rating'",
    "pair_events_of_comparisons": (
        "SELECT count(*) FROM pair_events JOIN score_events USING (event_id) JOIN presentations USING (presentation_id)"
        " JOIN image_sets USING (set_id) WHERE purpose <> 'rating'"
    ),
    "rated_patients": (
        "SELECT count(*) FROM (SELECT DISTINCT r.dataset, r.patient_id FROM image_sets s JOIN conditions c"
        " USING (condition_id) JOIN records r ON r.record_id IN (c.text_record, c.mask_record)"
        " WHERE s.purpose = 'comparison' INTERSECT SELECT DISTINCT r.dataset, r.patient_id FROM pairs p"
        " JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)"
        " JOIN records r ON r.record_id IN (c.text_record, c.mask_record))"
    ),
}


@dataclass(frozen=True)
class Reading:
    """One rater's view of one set on one criterion (or over its criteria): second arm against first."""

    rater: str
    condition: str
    mode: str
    criterion: str
    first: float
    second: float
    wins: float
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


def read_set(rater: str, condition: str, mode: str, scores: dict[str, tuple[list[int], list[int]]]) -> list[Reading]:
    """Readings of one submitted set. scores: criterion -> (scores of the first arm, of the second).

    Every image of one arm is compared with every image of the other. A criterion that lacks an arm gives nothing; the
    overall reading is the mean over the mode's criteria, and is there only if all of them are.
    """
    found = []
    for criterion in CRITERIA[mode]:
        first, second = (np.array(part, dtype=np.float64) for part in scores.get(criterion, ([], [])))
        if len(first) and len(second):
            signs = np.sign(second[:, None] - first[None, :])
            wins, ties = float((signs > 0).mean()), float((signs == 0).mean())
            n = len(first) + len(second)
            found.append(
                Reading(rater, condition, mode, criterion, float(first.mean()), float(second.mean()), wins, ties, n)
            )
    if len(found) == len(CRITERIA[mode]):
        first_mean, second_mean, wins, ties = (
            float(np.mean([getattr(one, name) for one in found])) for name in ("first", "second", "wins", "ties")
        )
        n = sum(one.n_scores for one in found)
        found.append(Reading(rater, condition, mode, OVERALL, first_mean, second_mean, wins, ties, n))
    return found


def estimate(values: Sequence[float], raters: Sequence[str], conditions: Sequence[str]) -> dict[str, Any]:
    """Mean over raters and conditions with both intervals; None for what too few raters or conditions do not give."""
    y = np.array(values, dtype=np.float64)
    r, c = (np.unique(np.array(names), return_inverse=True)[1] for names in (raters, conditions))
    n_raters, n_conditions = int(r.max()) + 1, int(c.max()) + 1
    enough = n_raters >= MIN_RATERS and n_conditions >= MIN_CONDITIONS
    fit = fit_crossed(y, r, c) if enough else None
    found: dict[str, Any] = {
        "n_raters": n_raters, "n_conditions": n_conditions, "value": float(y.mean()) if fit is None else fit.estimate,
        "low": None, "high": None, "boot_low": None, "boot_high": None, "fit": fit,
    }  # fmt: skip
    if fit is not None:
        found["low"], found["high"] = fit.interval()
        rng = np.random.default_rng([17, n_raters, n_conditions])
        found["boot_low"], found["boot_high"] = crossed_bootstrap(y, r, c, rng, N_BOOT)
    return found


def _rows(readings: Sequence[Reading], alpha: float) -> list[dict[str, Any]]:
    """The primary row, one per mode, then one per criterion; with P, verdicts and what could have been found."""
    modes = [mode for mode in MODES if any(one.mode == mode for one in readings)]
    places = [(ALL, OVERALL, "primary")] + [(mode, OVERALL, "mode") for mode in modes]
    criteria = [name for name in ("text", "mask") if any(one.criterion == name for one in readings)]
    if len(modes) > 1 and len(criteria) > 1:
        places += [(ALL, criterion, "detail") for criterion in criteria]
    places += [(mode, criterion, "detail") for mode in modes if len(CRITERIA[mode]) > 1 for criterion in criteria]
    rows = []
    for mode, criterion, role in places:
        own = [one for one in readings if mode in (ALL, one.mode) and one.criterion == criterion]
        if own:
            rows.append({"mode": mode, "criterion": criterion, "role": role, **_row(own)})
    for role in ("primary", "mode"):
        family = [row for row in rows if row["role"] == role]
        for row, p in zip(family, holm([1.0 if row["p"] is None else row["p"] for row in family]), strict=True):
            _conclude(row, float(p), alpha, len(family))
    return rows


def _row(own: Sequence[Reading]) -> dict[str, Any]:
    raters, conditions = [one.rater for one in own], [one.condition for one in own]
    gain = estimate([one.gain for one in own], raters, conditions)
    wins = estimate([one.win_rate for one in own], raters, conditions)
    fit: Crossed | None = gain["fit"]
    clipped = {key: None if wins[key] is None else float(np.clip(wins[key], 0, 1)) for key in ("low", "high")}
    return {
        "n_raters": gain["n_raters"], "n_conditions": gain["n_conditions"],
        "n_scores": sum(one.n_scores for one in own),
        "mean_first": float(np.mean([one.first for one in own])),
        "mean_second": float(np.mean([one.second for one in own])),
        **{f"gain{key and '_' + key}": gain[key or "value"] for key in ("", "low", "high", "boot_low", "boot_high")},
        "df": fit.df if fit else None, "p": fit.p() if fit else None, "fit": fit,
        "win_rate": float(np.clip(wins["value"], 0, 1)), "win_rate_low": clipped["low"],
        "win_rate_high": clipped["high"], "win_rate_boot_low": wins["boot_low"],
        "win_rate_boot_high": wins["boot_high"],
        "wins": float(np.mean([one.wins for one in own])), "ties": float(np.mean([one.ties for one in own])),
    }  # fmt: skip


def _conclude(row: dict[str, Any], p: float, alpha: float, family_size: int) -> None:
    """Add Holm's P, the detectable gain and the verdict of `radpref.downstream.inference.t_tests` to a row."""
    fit: Crossed | None = row["fit"]
    smallest = detectable(fit.se, fit.df, alpha / family_size) if fit else float("inf")
    better, worse = (p, 1.0) if row["gain"] > 0 else (1.0, p)
    row["p_holm"] = p if fit else None
    row["detectable_gain"] = smallest if fit else None
    row["verdict"] = verdict(row["n_conditions"] if fit else 0, better, worse, smallest, alpha, RELEVANT_GAIN)


def _raters(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Each rater alone, over all modes."""
    found = []
    for name in sorted({one.rater for one in readings}):
        own = [one for one in readings if one.rater == name and one.criterion == OVERALL]
        if own:
            means = {key: float(np.mean([getattr(one, key) for one in own])) for key in ("first", "second", "gain")}
            rates = {key: float(np.mean([getattr(one, key) for one in own])) for key in ("win_rate", "ties")}
            found.append({"rater": name, "n_sets": len(own), **means, **rates})
    return found


def _plan(fit: Crossed | None, n_conditions: int, alpha: float) -> list[dict[str, Any]]:
    """Smallest gain found with 80 % power by more raters or more sets, from this study's variances."""
    if fit is None:
        return []
    found = []
    for n_raters in sorted({fit.n_raters, *PLAN_RATERS}):
        for n_sets in (factor * n_conditions for factor in PLAN_FACTORS):
            smallest = detectable(*planned(fit, n_raters, n_sets), alpha)
            found.append({"n_raters": n_raters, "n_sets": n_sets, "detectable_gain": smallest})
    return found


def _flag_rows(flags: dict[str, list[tuple[str, str, Float]]]) -> list[dict[str, Any]]:
    """Share of images flagged in either arm, and the difference. flags: name -> (rater, condition, share per arm)."""
    found = []
    for name, own in flags.items():
        shares = np.array([share for *_, share in own])
        difference = estimate(list(shares[:, 1] - shares[:, 0]), [one[0] for one in own], [one[1] for one in own])
        found.append({
            "flag": name, "n_images": 4 * len(own), "share_first": float(shares[:, 0].mean()),
            "share_second": float(shares[:, 1].mean()), "difference": difference["value"],
            "low": difference["low"], "high": difference["high"],
            "boot_low": difference["boot_low"], "boot_high": difference["boot_high"],
        })  # fmt: skip
    return found


@dataclass(frozen=True)
class _Tables:
    """Rows of the database by set and presentation."""

    sets: dict[str, dict[str, Any]]
    images: dict[str, list[dict[str, Any]]]
    presentations: list[dict[str, Any]]
    scores: dict[int, list[dict[str, Any]]]
    flags: dict[int, dict[tuple[int, str], int]]


def _load(study: Study) -> _Tables:
    db = study.db
    sets = {str(row["set_id"]): row for row in db.rows(_SETS)}
    for row in sets.values():
        # Two models of one name, aligned anew in between, are two comparisons.
        row["arms"] = tuple((str(arm), str(identity)) for arm, identity in json.loads(row["config"])["arms"])
    images: dict[str, list[dict[str, Any]]] = {}
    for row in db.rows(_IMAGES):
        images.setdefault(str(row["set_id"]), []).append(row)
    newest = {(row["rater_id"], row["set_id"]): row for row in db.rows(_COUNTED) if row["set_id"] in sets}
    scores: dict[int, list[dict[str, Any]]] = {}
    for row in db.rows(_SCORES):
        scores.setdefault(int(row["presentation_id"]), []).append(row)
    flags: dict[int, dict[tuple[int, str], int]] = {}
    for row in db.rows(_FLAGS):  # in the order they were given: the last stands
        flags.setdefault(int(row["presentation_id"]), {})[int(row["slot"]), str(row["criterion"])] = int(row["value"])
    return _Tables(sets, images, list(newest.values()), scores, flags)


def reader_comparison(study: Study) -> dict[str, Any] | None:
    """Everything the report says about comparison sets; None where the study has none.

    Writes an audit row when people's scores, or images, are shown by arm.
    """
    tables = _load(study)
    if not tables.sets:
        return None
    db = study.db
    visible = arms_visible(db)
    if visible:
        reveal_arms(db, operator(), "report")
    kinds = ["human", "simulated"] if visible else ["simulated"]
    pairs = list(dict.fromkeys(row["arms"] for row in tables.sets.values()))
    parts = [
        part for arms in pairs for kind in kinds if (part := _part(tables, arms, kind, study.config.downstream.alpha))
    ]
    modes = [row["mode"] for row in tables.sets.values()]
    progress = db.row(_PROGRESS) or {}
    return {
        "n_sets": len(tables.sets), "modes": {mode: modes.count(mode) for mode in MODES if mode in modes},
        "arms": [[arm for arm, _ in arms] for arms in pairs], "visible": visible, "stage": stage(db),
        "progress": progress, "parts": parts,
        "people_scored": any(row["kind"] == "human" for row in tables.presentations),
        "proof": {name: int(db.value(sql)) for name, sql in _PROOF.items()},
        "examples": _examples(tables, pairs[0]) if visible else [],
    }  # fmt: skip


def _part(tables: _Tables, arms: tuple[tuple[str, str], ...], kind: str, alpha: float) -> dict[str, Any] | None:
    """One pair of arms as one kind of rater scored it."""
    first, second = (arm for arm, _ in arms)
    readings: list[Reading] = []
    flags: dict[str, list[tuple[str, str, Float]]] = {name: [] for name in FLAGS}
    n_read = 0
    for shown in tables.presentations:
        about = tables.sets[shown["set_id"]]
        if about["arms"] != arms or shown["kind"] != kind:
            continue
        n_read += 1
        arm_of = {int(image["slot"]): str(image["arm"]) for image in tables.images[shown["set_id"]]}
        scores: dict[str, tuple[list[int], list[int]]] = {}
        for row in tables.scores.get(shown["presentation_id"], []):
            by_arm = scores.setdefault(str(row["criterion"]), ([], []))
            by_arm[int(arm_of[int(row["slot"])] == second)].append(int(row["value"]))
        readings += read_set(str(shown["username"]), str(about["condition_id"]), str(about["mode"]), scores)
        given = tables.flags.get(shown["presentation_id"], {})
        for name, own in flags.items():
            shares = [
                np.mean([given.get((slot, name), 0) for slot, arm in arm_of.items() if arm == one])
                for one in (first, second)
            ]
            own.append((str(shown["username"]), str(about["condition_id"]), np.array(shares, dtype=np.float64)))
    if not readings:
        return None
    rows = _rows(readings, alpha)
    overall = [one for one in readings if one.criterion == OVERALL]
    primary = rows[0]
    return {
        "kind": kind, "first": first, "second": second, "alpha": alpha, "rows": rows, "raters": _raters(readings),
        "flags": _flag_rows(flags), "plan": _plan(primary["fit"], primary["n_conditions"], alpha),
        "n_raters": len({one.rater for one in readings}), "n_sets": len({one.condition for one in readings}),
        "n_scores": sum(one.n_scores for one in readings if one.criterion != OVERALL),
        "n_readings": n_read, "n_incomplete": n_read - len(overall),
    }  # fmt: skip


def _examples(tables: _Tables, arms: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """The first sets of the first pair of arms, one per mode before a second of any: not selected by eye."""
    own = [row for row in tables.sets.values() if row["arms"] == arms]
    turn = dict.fromkeys(MODES, 0)
    for row in own:
        row["turn"], turn[row["mode"]] = turn[row["mode"]], turn[row["mode"]] + 1
    chosen = sorted(own, key=lambda row: (row["turn"], MODES.index(row["mode"])))[:N_EXAMPLES]
    found = []
    for row in chosen:
        images = sorted(
            tables.images[row["set_id"]], key=lambda i: (i["seed"], [arm for arm, _ in arms].index(i["arm"]))
        )
        found.append({"mode": row["mode"], "text": row["text"], "images": [(i["arm"], i["image_sha"]) for i in images]})
    return found
