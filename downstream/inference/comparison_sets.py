"""Comparison sets as their raters scored them: each holds two images of each of two arms, unmarked.

Input: a study. Output: :class:`ComparisonSets`. People's scores are read by arm only where the study's life allows it,
and that is written into the audit log.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.lifecycle import arms_visible, operator, reveal_arms, stage
from radpref.data.study.conditions import MODES

if TYPE_CHECKING:
    from radpref.data.study.db import StudyDatabase
    from radpref.data.study.study import Study

N_EXAMPLES = 3
Arms = tuple[tuple[str, str], ...]
"""(name, content hash of the model) of both arms: two models of one name are two comparisons."""
Pictures = tuple[tuple[str, npt.NDArray[np.uint8]], ...]
"""(arm, picture) of each image of a set, equal seeds side by side."""

_SETS = """
SELECT s.set_id, s.condition_id, c.mode, c.text, r.config,
  (SELECT json_group_array(json_array(slot, arm, seed, image_sha))
   FROM (SELECT * FROM set_images i WHERE i.set_id = s.set_id ORDER BY slot)) AS images
FROM image_sets s JOIN conditions c USING (condition_id) JOIN runs r USING (run_id)
WHERE s.purpose = 'comparison' AND r.status = 'done' ORDER BY r.started_at, s.run_id, s.ordinal
"""
_COUNTED = """
SELECT p.presentation_id, p.set_id, p.rater_id, r.username, r.kind FROM counted_presentations p
JOIN raters r USING (rater_id) WHERE p.purpose = 'comparison' AND p.state = 'submitted' ORDER BY p.presentation_id
"""
_VALUES = """
SELECT presentation_id, slot, criterion, value FROM {} v JOIN counted_presentations p USING (presentation_id)
WHERE p.purpose = 'comparison' AND p.state = 'submitted'
"""
_SCORES = _VALUES.format("current_scores")
_FLAGS = _VALUES.format("score_events") + "AND v.kind = 'flag' ORDER BY v.event_id"
_PROGRESS = """
SELECT count(*) AS n, coalesce(sum(p.state <> 'open'), 0) AS n_done, count(DISTINCT p.rater_id) AS n_raters
FROM counted_presentations p JOIN raters r USING (rater_id)
WHERE p.purpose = 'comparison' AND r.kind = 'human' AND (r.active = 1 OR p.state <> 'open')
"""
_TRAINED_ON = """
SELECT (SELECT count(*) FROM pairs) AS n_pairs,
(SELECT count(*) FROM pairs JOIN image_sets USING (set_id) WHERE purpose <> 'rating') AS n_pairs_of_comparisons,
(SELECT count(*) FROM pair_events JOIN score_events USING (event_id) JOIN presentations USING (presentation_id)
 JOIN image_sets USING (set_id) WHERE purpose <> 'rating') AS n_pair_events_of_comparisons,
(SELECT count(*) FROM (SELECT DISTINCT r.dataset, r.patient_id FROM image_sets s JOIN conditions c
 USING (condition_id) JOIN records r ON r.record_id IN (c.text_record, c.mask_record)
 WHERE s.purpose = 'comparison' INTERSECT SELECT DISTINCT r.dataset, r.patient_id FROM pairs p
 JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)
 JOIN records r ON r.record_id IN (c.text_record, c.mask_record))) AS n_rated_patients
"""


@dataclass(frozen=True)
class SetImage:
    """One image of a set."""

    slot: int
    arm: str
    seed: int
    image_sha: str


@dataclass(frozen=True)
class ComparisonSet:
    """What a set asked for, its two arms and its images in the order of slots."""

    condition: str
    mode: str
    text: str | None
    arms: Arms
    images: tuple[SetImage, ...]


@dataclass(frozen=True)
class Reading:
    """A set as one rater submitted it. scores, flags: (slot, criterion or flag) -> value."""

    rater: str
    kind: str  # "human" or "simulated"
    about: ComparisonSet
    scores: dict[tuple[int, str], int]
    flags: dict[tuple[int, str], int]


@dataclass(frozen=True)
class Progress:
    """How far people are: sets given to them, sets done, people who were given any."""

    n: int
    n_done: int
    n_raters: int


@dataclass(frozen=True)
class TrainedOn:
    """Counts that prove that nothing was trained on comparison sets: all of them but ``n_pairs`` should be 0."""

    n_pairs: int
    n_pairs_of_comparisons: int
    n_pair_events_of_comparisons: int
    n_rated_patients: int


@dataclass(frozen=True)
class ComparisonSets:
    """The comparison sets of a study. readings: the newest of each rater and set, of people only if ``visible``."""

    sets: tuple[ComparisonSet, ...]
    readings: tuple[Reading, ...]
    visible: bool
    stage: str
    progress: Progress
    trained_on: TrainedOn
    examples: tuple[tuple[ComparisonSet, Pictures], ...]  # sets to show, only if ``visible``

    @property
    def arms(self) -> list[Arms]:
        """The pairs of arms that are compared."""
        return list(dict.fromkeys(one.arms for one in self.sets))

    @property
    def modes(self) -> dict[str, int]:
        """How many sets of each mode there are."""
        found = [one.mode for one in self.sets]
        return {mode: found.count(mode) for mode in MODES if mode in found}


def read_comparison_sets(study: Study) -> ComparisonSets | None:
    """All comparison sets with their readings; None where the study has none.

    Writes an audit row when people's scores, or images, are shown by arm.
    """
    db = study.db
    sets = _sets(db)
    if not sets:
        return None
    shown: Sequence[ComparisonSet] = ()
    progress, trained_on = db.row(_PROGRESS) or {}, db.row(_TRAINED_ON) or {}
    now, visible = stage(db), arms_visible(db)
    if visible:
        reveal_arms(db, operator(), "report")
        shown = _first_of_modes(list(sets.values()))
    readings = _readings(db, sets, ("human", "simulated") if visible else ("simulated",))
    counts = (Progress(**progress), TrainedOn(**trained_on))
    examples = tuple((one, _pictures(study, one)) for one in shown)
    return ComparisonSets(tuple(sets.values()), readings, visible, now, *counts, examples)


def _first_of_modes(sets: Sequence[ComparisonSet]) -> list[ComparisonSet]:
    """The first sets of the first pair of arms, one per mode before a second of any: not selected by eye."""
    by_mode = [[one for one in sets if (one.arms, one.mode) == (sets[0].arms, mode)] for mode in MODES]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_mode))
    return [one for one in turns if one is not None][:N_EXAMPLES]


def _pictures(study: Study, about: ComparisonSet) -> Pictures:
    names = [name for name, _ in about.arms]
    images = sorted(about.images, key=lambda image: (image.seed, names.index(image.arm)))
    return tuple((image.arm, to_uint8(study.store.image(image.image_sha))) for image in images)


def _sets(db: StudyDatabase) -> dict[str, ComparisonSet]:
    """Sets of finished runs by their id, in the order of the runs."""
    found = {}
    for row in db.rows(_SETS):
        arms = tuple((str(arm), str(identity)) for arm, identity in json.loads(row["config"])["arms"])
        own = tuple(SetImage(*image) for image in json.loads(row["images"]))
        found[str(row["set_id"])] = ComparisonSet(row["condition_id"], row["mode"], row["text"], arms, own)
    return found


def _readings(db: StudyDatabase, sets: dict[str, ComparisonSet], kinds: Sequence[str]) -> tuple[Reading, ...]:
    """Of each rater and set what was submitted last; of a flag given twice the last word counts."""
    scores, flags = (_values(db, sql) for sql in (_SCORES, _FLAGS))
    shown = (row for row in db.rows(_COUNTED) if row["set_id"] in sets and row["kind"] in kinds)
    newest = {(row["rater_id"], row["set_id"]): row for row in shown}
    return tuple(
        Reading(
            row["username"], row["kind"], sets[row["set_id"]],
            scores[row["presentation_id"]], flags[row["presentation_id"]],
        )
        for row in newest.values()
    )  # fmt: skip


def _values(db: StudyDatabase, sql: str) -> dict[int, dict[tuple[int, str], int]]:
    """presentation -> (slot, criterion or flag) -> value, a later row over an earlier one."""
    found: dict[int, dict[tuple[int, str], int]] = defaultdict(dict)
    for row in db.rows(sql):
        found[row["presentation_id"]][row["slot"], row["criterion"]] = row["value"]
    return found
