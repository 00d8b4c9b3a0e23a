"""Training sets and attention checks: sets of four real images of the training split, with known good answers.

Input: records, labels and masks of the training split. Output: rows of ``image_sets`` (purpose ``training`` or
``attention``), ``set_images`` (arm ``real``) and ``set_expectations``, made once by a run of kind ``checks``. In every
set some images belong to the condition and some do not; see data/reader_study/expectations.py. Validation and test are
never used.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.imaging.images import GrayImage, to_uint8
from radpref.data.reader_study.expectations import Expectation, Record, asked_of, expect_mask, expect_text
from radpref.data.reader_study.scores import CRITERIA, N_SLOTS
from radpref.data.study.conditions import MODES, Mode, StoredCondition, allot, record_conditions, save_conditions
from radpref.data.study.runs import start_run

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Purpose = Literal["training", "attention"]
PURPOSES: tuple[Purpose, ...] = ("training", "attention")
N_LOOKED_AT = {"T2I": 400, "M2I": 60, "TM2I": 200}
"""Radiographs considered beside one condition, in random order."""
N_OVERLAPS = 24
"""With masks: among so many that fit, those with the least overlap are taken."""
MAX_TRIES = 40
"""Conditions of one mode that find no images, one after another, before that mode is given up."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckSet:
    """A set to be stored: its condition, and per slot the record shown with what is expected by criterion."""

    purpose: Purpose
    condition: StoredCondition
    shown: list[tuple[Record, dict[str, Expectation]]]


@dataclass(frozen=True)
class Checks:
    """Training sets and attention checks there are, those asked for, those made now, and why some are missing."""

    training: int
    attention: int
    wanted: dict[Purpose, int]
    made: int
    note: str | None


def ensure_checks(study: Study) -> Checks:
    """Make the training sets and attention checks that study.toml asks for and that are not there yet.

    Rating sets that were added since get their share of attention checks. A study whose records do not suffice gets
    fewer, which is no error; after the lock nothing is made.
    """
    settings = study.config.annotate
    wanted: dict[Purpose, int] = {
        "training": settings.training_sets,
        "attention": round(settings.attention * _count(study, "rating")),
    }
    have = {purpose: _count(study, purpose) for purpose in PURPOSES}
    missing = {purpose: max(0, wanted[purpose] - have[purpose]) for purpose in PURPOSES}
    made, why = 0, "the training split has too few records with labels, captions or masks"
    if study.db.value("SELECT stage FROM study_stage") in ("locked", "frozen"):
        why = "the study is locked"
    elif any(missing.values()):
        try:
            made = _make(study, missing, sum(have.values()))
        except (InvalidInput, NotFound) as error:  # a broken file must not keep people from scoring
            why = str(error)
    have = {purpose: _count(study, purpose) for purpose in PURPOSES}
    short = [f"{have[p]} of {wanted[p]} {p} sets" for p in PURPOSES if have[p] < wanted[p]]
    note = f"{' and '.join(short)} could be made: {why}" if short else None
    if note:
        log.warning("%s", note)
    return Checks(have["training"], have["attention"], wanted, made, note)


def _count(study: Study, purpose: str) -> int:
    sql = "SELECT count(*) FROM image_sets JOIN runs USING (run_id) WHERE purpose = ? AND status = 'done'"
    return int(study.db.value(sql, (purpose,)))


def _n_others(connection: Any, run_id: str) -> int:
    sql = "SELECT count(*) FROM image_sets WHERE purpose IN ('training', 'attention') AND run_id <> ?"
    return int(connection.execute(sql, (run_id,)).fetchone()[0])


def _make(study: Study, missing: dict[Purpose, int], first: int) -> int:
    """Plan and store in one transaction: an interrupted run has all of its sets, or none."""
    planned = plan_checks(study, missing, first)
    if not planned:
        return 0
    config = {
        "sets": dict(missing), "first": first, "seed": study.config.annotate.seed, "mix": list(study.config.sets.mix),
    }  # fmt: skip
    with start_run(study, "checks", config) as run:
        n_others = _n_others(study.db.connection, run.run_id)
        if not study.db.value("SELECT 1 FROM image_sets WHERE run_id = ? LIMIT 1", (run.run_id,)):
            files = _prepare(study, planned)
            with study.db.write() as connection:
                if _n_others(connection, run.run_id) == n_others:  # else another process made them meanwhile
                    _store(study, connection, run.run_id, planned, files)
        made = int(study.db.value("SELECT count(*) FROM image_sets WHERE run_id = ?", (run.run_id,)))
        run.result = {"n_sets": made, "records": _records(run.run_id, planned) if made else {}}
    return made


def _records(run_id: str, planned: Sequence[CheckSet]) -> dict[str, list[str]]:
    """Set -> the record behind each slot: an image that was brought to another size has lost its record's hash."""
    return {
        _set_id(run_id, ordinal): [str(record["record_id"]) for record, _ in one.shown]
        for ordinal, one in enumerate(planned)
    }


def _set_id(run_id: str, ordinal: int) -> str:
    return f"{run_id}-{ordinal:05d}"


def plan_checks(study: Study, missing: dict[Purpose, int], first: int) -> list[CheckSet]:
    """Choose conditions and images; the same records, seed and ``first`` (sets there are) give the same plan."""
    rows = study.db.rows(
        "SELECT text_record, mask_record FROM conditions JOIN image_sets USING (condition_id) JOIN runs USING (run_id)"
        " WHERE purpose IN ('training', 'attention') AND status = 'done'"
    )
    taken = {str(name) for row in rows for name in row.values() if name is not None}
    rng = np.random.default_rng([study.config.annotate.seed, 606, first])
    desk = _Desk(study, record_conditions(study, "train"), rng, taken)
    found = []
    for purpose in PURPOSES:
        counts = allot(missing[purpose], [share * bool(desk.queues[m]) for m, share in _mix(study)])
        modes = [mode for mode, n in zip(MODES, counts, strict=True) for _ in range(n)]
        for index in rng.permutation(len(modes)):
            made = desk.compose(purpose, modes[index])
            if made is not None:
                found.append(made)
    return found


def _mix(study: Study) -> list[tuple[Mode, int]]:
    return list(zip(MODES, study.config.sets.mix, strict=True))


@dataclass
class _Desk:
    """Puts sets together. ``queues``: per mode the records whose condition may be asked, evenly over findings."""

    study: Study
    records: list[Record]
    rng: np.random.Generator
    taken: set[str]
    queues: dict[Mode, list[Record]] = field(init=False)
    shown: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        order = [self.records[i] for i in self.rng.permutation(len(self.records))]
        free = [record for record in order if record["record_id"] not in self.taken]
        with_text = {record["record_id"] for record in free if asked_of(record)}
        self.queues = {
            "T2I": _in_turn([r for r in free if r["record_id"] in with_text]),
            "M2I": _in_turn([r for r in free if r["masks"]]),
            "TM2I": _in_turn([r for r in free if r["masks"] and r["record_id"] in with_text]),
        }
        for mode in ("M2I", "TM2I"):  # lungs and heart are much alike in everybody: masks of findings tell more
            self.queues[mode].sort(key=lambda record: -len(record["masks"]))
        self.mask = functools.lru_cache(maxsize=512)(self.study.store.mask)

    def compose(self, purpose: Purpose, mode: Mode) -> CheckSet | None:
        """The next set of ``mode``, or of another mode where that one's records are used up."""
        weights = dict(_mix(self.study))
        for kind in (mode, *(other for other in MODES if other != mode and weights[other])):
            tries = 0
            while self.queues[kind] and tries < MAX_TRIES:
                source = self.queues[kind].pop(0)
                if source["record_id"] in self.taken:
                    continue
                shown = self._images(source, kind)
                if shown is not None:
                    self.taken.add(source["record_id"])
                    self.shown.update(record["record_id"] for record, _ in shown)
                    return CheckSet(purpose, _condition(source, kind), shown)
                tries += 1
            self.queues[kind].clear()
        return None

    def _images(self, source: Record, mode: Mode) -> list[tuple[Record, dict[str, Expectation]]] | None:
        """Four images of different patients: the source's own, up to one more that belongs, the rest do not."""
        own = self._judged(source, source, mode)
        if own is None:
            return None
        judged = []
        for other in self._others(source, N_LOOKED_AT[mode]):
            found = self._judged(source, other, mode)
            if found is not None:
                judged.append((other, *found))
            if mode != "T2I" and len(judged) == N_OVERLAPS:
                break
        matches = [one for one in judged if all(x.is_match for x in one[1].values())]
        rest = [one for one in judged if not any(x.is_match for x in one[1].values())]
        rest.sort(key=lambda one: one[2])  # the least overlap first; without masks all are equal
        if mode == "T2I":  # one on the wrong side, where there is one: the others lack the finding
            side = next((i for i, one in enumerate(rest) if one[1]["text"].high == 2), 0)
            rest = [*rest[side : side + 1], *rest[:side], *rest[side + 1 :]]
        n_more = min(int(self.rng.integers(0, 2)), len(matches))
        chosen, patients = [(source, own[0])], {source["patient_id"]}
        for group, n in ((matches, 1 + n_more), (rest, N_SLOTS)):
            for other, expected, _ in group:
                if len(chosen) < n and other["patient_id"] not in patients:
                    chosen.append((other, expected))
                    patients.add(other["patient_id"])
        if len(chosen) < N_SLOTS:
            return None
        return [chosen[i] for i in self.rng.permutation(N_SLOTS)]

    def _others(self, source: Record, n: int) -> list[Record]:
        """Up to ``n`` other records in random order, those first that were shown least."""
        drawn = [self.records[i] for i in self.rng.permutation(len(self.records))[:n]]
        drawn = [record for record in drawn if record["patient_id"] != source["patient_id"]]
        return sorted(drawn, key=lambda record: self.shown[record["record_id"]])

    def _judged(self, source: Record, shown: Record, mode: Mode) -> tuple[dict[str, Expectation], float] | None:
        expected: dict[str, Expectation] = {}
        overlap = 0.0
        if "text" in CRITERIA[mode]:
            text = expect_text(source, shown)
            if text is None:
                return None
            expected["text"] = text
        if "mask" in CRITERIA[mode]:
            mask = expect_mask(source, shown, self.mask)
            if mask is None:
                return None
            expected["mask"], overlap = mask
        return expected, overlap


def _in_turn(records: Sequence[Record]) -> list[Record]:
    """The records in turn from groups that ask for the same findings, so that common findings do not fill all sets."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault("+".join(sorted(name for name in asked_of(record) if "/" not in name)), []).append(record)
    rounds = [(turn, record) for group in groups.values() for turn, record in enumerate(group)]
    return [record for _, record in sorted(rounds, key=lambda one: one[0])]


def _condition(source: Record, mode: Mode) -> StoredCondition:
    name = str(source["record_id"])
    text = None if mode == "M2I" else str(source["caption"])
    masks = {} if mode == "T2I" else dict(source["masks"])
    asked = asked_of(source) if text else {}
    return StoredCondition(mode, text, masks, asked, name if text else None, name if masks else None)


def _prepare(study: Study, planned: Sequence[CheckSet]) -> dict[str, str | GrayImage]:
    """Image hash of a record -> the same where it fits, or its pixels in the geometry of the study's own images."""
    size, bits = _geometry(study)
    files: dict[str, str | GrayImage] = {}
    for one in planned:
        for record, _ in one.shown:
            sha = str(record["image_sha"])
            row = study.db.row("SELECT width, height, bit_depth FROM images WHERE sha256 = ?", (sha,))
            if sha not in files:
                fits = row is not None and (row["width"], row["height"], row["bit_depth"]) == (*size, bits)
                files[sha] = sha if fits else _fitted(study.store.image(sha), size, bits)
                if not fits:
                    study.store.write_image(files[sha], "real")  # type: ignore[arg-type]  # files outside the write
    return files


def _geometry(study: Study) -> tuple[tuple[int, int], int]:
    """(width, height) and bits of most of the sampled images; before there are any, data.image_size at 8 bits."""
    row = study.db.row(
        "SELECT width, height, bit_depth FROM set_images JOIN image_sets USING (set_id) JOIN images"
        " ON sha256 = image_sha WHERE purpose = 'rating' GROUP BY 1, 2, 3 ORDER BY count(*) DESC LIMIT 1"
    )
    if row is None:
        return (study.config.data.image_size, study.config.data.image_size), 8
    return (int(row["width"]), int(row["height"])), int(row["bit_depth"])


def _fitted(image: GrayImage, size: tuple[int, int], bits: int) -> GrayImage:
    """An image at ``size`` (width, height) and ``bits``."""
    if image.shape[::-1] != size:
        smooth = Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BOX)
        rounded = np.round(np.asarray(smooth)).clip(0, np.iinfo(image.dtype).max)
        image = rounded.astype(np.uint8) if image.dtype == np.uint8 else rounded.astype(np.uint16)
    if bits == 8:
        return to_uint8(image)
    return image if image.dtype == np.uint16 else image.astype(np.uint16) * np.uint16(257)


def _store(
    study: Study, connection: Any, run_id: str, planned: Sequence[CheckSet], files: dict[str, str | GrayImage]
) -> None:
    save_conditions(connection, [one.condition for one in planned])
    known: dict[str, str] = {}
    for ordinal, one in enumerate(planned):
        set_id = _set_id(run_id, ordinal)
        connection.execute(
            "INSERT INTO image_sets VALUES (?, ?, ?, ?, ?)",
            (set_id, run_id, ordinal, one.condition.condition_id, one.purpose),
        )
        for slot, (record, expected) in enumerate(one.shown):
            file = files[str(record["image_sha"])]
            if record["image_sha"] not in known:
                stored = file if isinstance(file, str) else study.store.put_image(connection, file, "real")
                known[str(record["image_sha"])] = stored
            sha = known[str(record["image_sha"])]
            connection.execute("INSERT INTO set_images VALUES (?, ?, ?, 0, 'real')", (set_id, slot, sha))
            connection.executemany(
                "INSERT INTO set_expectations VALUES (?, ?, ?, ?, ?, ?)",
                [(set_id, slot, name, x.low, x.high, x.reason) for name, x in expected.items()],
            )
