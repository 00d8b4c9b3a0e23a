"""Scores -> preference pairs, with the score events each pair comes from.

Input: current scores of submitted presentations of rating sets. Output: rows of ``pairs`` and ``pair_events``.

For a set, a criterion and two images i < j every rater gives 1 (i scored higher), 0 (lower) or 0.5 (a tie; ties are
kept). A rater who saw the set twice counts once, with the mean. p = P(i preferred to j) is the mean over raters. Train
and held-out sets are disjoint by set and by source: sets whose conditions share a patient, or a condition, stay
together (connected components). Scores of people and of simulated raters are never mixed.

Where the study asks which of equally scored images is better (``tie_break``), the rater's ranks order a tie: the
better one gets ``P_RANKED`` = 0.75. That is less than the 1 of a point apart, because the same rater has just said that
the same words of the scale fit both; it is halfway between that and no opinion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.reader_study.scores import N_SLOTS, scoring_kind
from radpref.data.study.runs import finished_run, once
from radpref.data.study.splits import connected_components

if TYPE_CHECKING:
    from radpref.data.reader_study.scores import RaterKind
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

Split = Literal["train", "held_out"]

P_RANKED = 0.75
"""Preference for the better ranked of two images that one rater scored alike."""
_SCORES = """
SELECT v.event_id, v.presentation_id, v.rater_id, v.set_id, v.slot, v.criterion, v.value, k.value AS rank,
       k.event_id AS rank_event
FROM current_scores v
LEFT JOIN score_events k ON k.event_id = (
  SELECT max(e.event_id) FROM score_events e WHERE e.presentation_id = v.presentation_id AND e.kind = 'rank'
  AND e.slot = v.slot AND e.criterion = v.criterion)
JOIN counted_presentations p USING (presentation_id)
WHERE p.purpose = 'rating' AND p.state = 'submitted' AND v.rater_kind = ?
ORDER BY v.event_id
"""
_SOURCES = """
SELECT s.set_id, s.condition_id, t.dataset AS text_dataset, t.patient_id AS text_patient,
       m.dataset AS mask_dataset, m.patient_id AS mask_patient
FROM image_sets s JOIN conditions c USING (condition_id)
LEFT JOIN records t ON t.record_id = c.text_record LEFT JOIN records m ON m.record_id = c.mask_record
"""


@dataclass(frozen=True)
class Score:
    """One current score, with its event, and the place among equals if the rater gave one (1 is best)."""

    event_id: int
    presentation_id: int
    rater_id: int
    set_id: str
    slot: int
    criterion: str
    value: int
    rank: int | None = None
    rank_event: int | None = None


@dataclass(frozen=True)
class Pair:
    """p = P(slot_i preferred to slot_j | criterion), slot_i < slot_j; events: all scores (and ranks) behind it."""

    set_id: str
    slot_i: int
    slot_j: int
    criterion: str
    p: float
    n_raters: int
    events: tuple[int, ...]


def preference(a: int, b: int) -> float:
    """1 where the first score is higher, 0 where lower, 0.5 for a tie."""
    return 0.5 if a == b else float(a > b)


def opinion(a: Score, b: Score) -> tuple[float, list[int]]:
    """One rater's preference for ``a`` over ``b``, and the events it rests on; ranks only order equal scores."""
    events = [a.event_id, b.event_id]
    if a.value != b.value or a.rank is None or b.rank is None or a.rank == b.rank:
        return preference(a.value, b.value), events
    events += [event for event in (a.rank_event, b.rank_event) if event is not None]
    return P_RANKED if a.rank < b.rank else 1 - P_RANKED, events


def pairs_from_scores(scores: Iterable[Score], min_raters: int = 1) -> list[Pair]:
    """All pairs of images of one set and criterion that at least `min_raters` raters scored both of.

    Raises:
        InvalidInput: `min_raters` below 1.
    """
    if min_raters < 1:
        raise InvalidInput(f"min_raters is {min_raters}: give a whole number of at least 1")
    sheets: dict[tuple[str, str], dict[tuple[int, int], dict[int, Score]]] = {}
    for score in scores:
        sheet = sheets.setdefault((score.set_id, score.criterion), {})
        sheet.setdefault((score.rater_id, score.presentation_id), {})[score.slot] = score
    found: list[Pair] = []
    for (set_id, criterion), sheet in sorted(sheets.items()):
        slots = sorted({slot for given in sheet.values() for slot in given})
        for i, j in combinations(slots, 2):
            pair = _pair(set_id, criterion, i, j, sheet)
            if pair is not None and pair.n_raters >= min_raters:
                found.append(pair)
    return found


def _pair(
    set_id: str, criterion: str, i: int, j: int, sheet: Mapping[tuple[int, int], Mapping[int, Score]]
) -> Pair | None:
    opinions: dict[int, list[float]] = {}
    events: list[int] = []
    for (rater_id, _), given in sheet.items():
        if i in given and j in given:
            value, behind = opinion(given[i], given[j])
            opinions.setdefault(rater_id, []).append(value)
            events += behind
    if not opinions:
        return None
    p = float(np.mean([np.mean(values) for values in opinions.values()]))
    return Pair(set_id, i, j, criterion, p, len(opinions), tuple(sorted(events)))


def split_components(components: Sequence[Sequence[str]], held_out_fraction: float, seed: int) -> dict[str, Split]:
    """Allot whole components: in seeded order, each that still fits into the wanted number of held-out sets.

    At least one set is trained on; at least one is held out where there are two components or more.
    """
    names = [name for group in components for name in group]
    split: dict[str, Split] = dict.fromkeys(names, "train")
    if len(components) < 2:
        return split
    wanted = max(1, round(held_out_fraction * len(names)))
    order = [components[i] for i in np.random.default_rng([seed, 404]).permutation(len(components))]
    held: list[str] = []
    for group in order:
        if len(held) + len(group) <= wanted:
            held += group
    if not held:  # every component is larger than wanted: the smallest one
        smallest = min(order, key=len)
        held = list(smallest)
    split.update(dict.fromkeys(held, "held_out"))
    return split


def load_scores(study: Study, kind: RaterKind) -> list[Score]:
    """Current scores of submitted presentations of rating sets, by one kind of rater, in event order."""
    return [Score(**row) for row in study.db.rows(_SCORES, [kind])]


def set_sources(study: Study, set_ids: Iterable[str]) -> dict[str, set[Hashable]]:
    """What ties sets together: their condition, and the patients its text and masks come from."""
    wanted = set(set_ids)
    keys: dict[str, set[Hashable]] = {}
    for row in study.db.rows(_SOURCES):
        if row["set_id"] in wanted:
            found: set[Hashable] = {("condition", row["condition_id"])}
            for part in ("text", "mask"):
                if row[f"{part}_patient"] is not None:
                    found.add(("patient", row[f"{part}_dataset"], row[f"{part}_patient"]))
            keys[str(row["set_id"])] = found
    return keys


def set_images(study: Study, set_ids: Iterable[str]) -> tuple[str, ...]:
    """Hashes of the sets' images, set by set and slot by slot.

    Raises:
        NotFound: a set has lost an image.
    """
    shas: list[str] = []
    for set_id in set_ids:
        rows = study.db.rows("SELECT image_sha FROM set_images WHERE set_id = ? ORDER BY slot", [set_id])
        if len(rows) != N_SLOTS:
            raise NotFound(f"set {set_id} has {len(rows)} images of {N_SLOTS}: run `radpref generate sets` again")
        shas += [str(row["image_sha"]) for row in rows]
    return tuple(shas)


def run_pairs(study: Study, *, raters: str | None = None, min_raters: int = 1) -> dict[str, Any]:
    """Make the pairs of the scores as they are now; unchanged scores give the run that is already there.

    Args:
        raters: "human", "simulated" or "auto"; default: study.toml's align.raters.

    Raises:
        NotFound: nothing was scored yet.
        Conflict: both kinds of rater scored and none was chosen.
    """
    settings = study.config.align
    kind = scoring_kind(study.db, raters or settings.raters)
    scores = load_scores(study, kind)
    read = [event for s in scores for event in (s.event_id, s.rank_event) if event is not None]
    digest = hashlib.sha256(",".join(map(str, read)).encode()).hexdigest()
    config = {
        "raters": kind,
        "min_raters": min_raters,
        "held_out_fraction": settings.held_out_fraction,
        "seed": settings.seed,
        "scores": digest,
    }

    def work(run: Run) -> dict[str, Any]:
        pairs = pairs_from_scores(scores, min_raters)
        if not pairs:
            raise NotFound(
                f"no two images of a set were scored by {min_raters} rater(s): score more, or lower --min-raters"
            )
        components = connected_components(set_sources(study, {pair.set_id for pair in pairs}))
        split = split_components(components, settings.held_out_fraction, settings.seed)
        _store(study, run, pairs, kind, split)
        return _summary(run.run_id, kind, pairs, split, len(components))

    return once(study, "pairs", config, work, {"scores": digest}).outcome


def _store(study: Study, run: Run, pairs: Sequence[Pair], kind: RaterKind, split: Mapping[str, Split]) -> None:
    """All rows in one transaction; an interrupted run has none."""
    with study.db.write() as connection:
        if connection.execute("SELECT 1 FROM pairs WHERE run_id = ? LIMIT 1", (run.run_id,)).fetchone():
            return
        for pair in pairs:
            cursor = connection.execute(
                "INSERT INTO pairs(run_id, set_id, slot_i, slot_j, criterion, p, n_raters, rater_kind, split)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.run_id, pair.set_id, pair.slot_i, pair.slot_j, pair.criterion, pair.p, pair.n_raters, kind,
                    split[pair.set_id],
                ),
            )  # fmt: skip
            connection.executemany(
                "INSERT INTO pair_events VALUES (?, ?)", [(cursor.lastrowid, event) for event in pair.events]
            )


def _summary(
    run_id: str, kind: RaterKind, pairs: Sequence[Pair], split: Mapping[str, Split], n_components: int
) -> dict[str, Any]:
    held = {name for name, part in split.items() if part == "held_out"}
    return {
        "run_id": run_id,
        "raters": kind,
        "n_sets": len(split),
        "n_sets_train": len(split) - len(held),
        "n_sets_held_out": len(held),
        "n_source_groups": n_components,
        "n_pairs": len(pairs),
        "n_pairs_train": sum(pair.set_id not in held for pair in pairs),
        "n_pairs_held_out": sum(pair.set_id in held for pair in pairs),
        "n_pairs_by_criterion": {c: sum(p.criterion == c for p in pairs) for c in ("text", "mask")},
        "n_ties": sum(pair.p == 0.5 for pair in pairs),
        "n_raters_max": max(pair.n_raters for pair in pairs),
    }


def find_pairs_run(study: Study, run_id: str | None = None) -> Run:
    """The finished pairs run with this id, or the newest one.

    Raises:
        NotFound: there is none.
    """
    run = finished_run(study, "pairs", run_id=run_id)
    if run is None:
        which = f"pairs run '{run_id}'" if run_id else "preference pairs"
        raise NotFound(f"no {which} in {study.root}: make them with `radpref align pairs`")
    return run


def pair_indices(n_images: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The unordered pairs (i, j), i < j, of a set: (i...), (j...), n (n - 1) / 2 each."""
    pairs = list(combinations(range(n_images), 2))
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)
