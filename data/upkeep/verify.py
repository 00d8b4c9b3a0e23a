"""Verify a study: files against their hashes, the record against its rules, test patients against leakage.

Input: a study. Output: a :class:`Verification`; each problem is one line. Nothing is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal

from sqlite_utils import Database

from radpref.data.core.errors import RadprefError
from radpref.data.core.files import sha256_file, sha256_tree
from radpref.data.core.progress import bar
from radpref.data.core.sqlite import sqlite3
from radpref.data.imaging.images import read_image
from radpref.data.reader_study.seals import broken_seals
from radpref.data.study.audit import broken_link
from radpref.data.study.empty_splits import empty_splits
from radpref.data.study.migrations import migrate
from radpref.data.study.splits import hash_lines
from radpref.data.study.study import Study
from radpref.data.text.caption_rules import broken_rules

MAX_LISTED = 20
"""Problems of one kind that are listed one by one; the rest is counted."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Verification:
    """What was found; ``ok`` where there is no problem (notes do not count); checked: kind -> how many."""

    ok: bool
    problems: list[str]
    notes: list[str]
    checked: dict[str, int]
    study: str


class _Findings:
    """Collects problems and notes, each one line."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.checked: dict[str, int] = {}

    def add(self, lines: list[str], *, note: bool = False) -> None:
        """Add lines of one kind, the first `MAX_LISTED` in full."""
        target = self.notes if note else self.problems
        target += lines[:MAX_LISTED]
        if len(lines) > MAX_LISTED:
            target.append(f"... and {len(lines) - MAX_LISTED} more like the last line")


def verify(study: Study) -> Verification:
    """Check everything; see the module docstring."""
    found = _Findings()
    for check in (_database, _rules, _captions, _event_log, _audit_log, _seals, _files, _models, _runs):
        try:
            check(study, found)
        except (sqlite3.DatabaseError, RadprefError) as error:
            found.problems.append(f"{check.__name__.strip('_')}: cannot be checked: {' '.join(str(error).split())}")
    return Verification(not found.problems, found.problems, found.notes, found.checked, str(study.root))


def _database(study: Study, found: _Findings) -> None:
    """Pages, foreign keys, and the schema itself: triggers and tables as the migrations make them."""
    db = study.db
    pages = [str(row[0]) for row in db.connection.execute("PRAGMA integrity_check")]
    found.add([f"database: {' '.join(line.split())}" for line in pages if line != "ok"])
    keys = db.connection.execute("PRAGMA foreign_key_check").fetchall()
    found.add([f"foreign key: row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in keys])
    reference = Database(memory=True)
    migrate(reference)
    sql = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    expected = {str(row[0]): row[1] for row in reference.conn.execute(sql)}
    present = {str(row[0]): row[1] for row in db.connection.execute(sql)}
    reference.conn.close()
    found.add([f"schema: {name} is missing" for name in sorted(set(expected) - set(present))])
    changed = sorted(name for name in expected if name in present and expected[name] != present[name])
    found.add([f"schema: {name} was changed" for name in changed])
    found.checked["rows"] = sum(int(db.value(f'SELECT count(*) FROM "{name}"')) for name in db.tables.table_names())


Rule = tuple[str, str]
_SOURCES = """
SELECT c.condition_id, r.record_id, r.patient_id, r.dataset, r.split FROM conditions c
JOIN records r ON r.record_id IN (c.text_record, c.mask_record)"""
_USED = """(SELECT condition_id, 'set' AS use FROM image_sets UNION SELECT condition_id, 'pool' FROM pool_images)"""

RULES: tuple[Rule, ...] = (
    (
        "patient {dataset}/{patient_id} is in {n} splits",
        "SELECT dataset, patient_id, count(DISTINCT split) AS n FROM records GROUP BY 1, 2 HAVING n > 1",
    ),
    (
        "image {image_sha} is in {n} splits",
        "SELECT image_sha, count(DISTINCT split) AS n FROM records GROUP BY 1 HAVING n > 1",
    ),
    (
        "record {record_id} shows a synthetic image as real",
        "SELECT record_id FROM records r JOIN images i ON i.sha256 = r.image_sha WHERE i.origin <> 'real'",
    ),
    (
        "mask {structure} of record {record_id} is {w}x{h}, its image {iw}x{ih}",
        "SELECT x.structure, x.record_id, m.width w, m.height h, i.width iw, i.height ih FROM record_masks x"
        " JOIN masks m ON m.sha256 = x.mask_sha JOIN records r USING (record_id)"
        " JOIN images i ON i.sha256 = r.image_sha WHERE m.width <> i.width OR m.height <> i.height",
    ),
    (
        "masks of condition {condition_id} differ in size",
        "SELECT condition_id FROM condition_masks x JOIN masks m ON m.sha256 = x.mask_sha GROUP BY 1"
        " HAVING min(width) <> max(width) OR min(height) <> max(height)",
    ),
    (
        "condition {condition_id} is {mode} and has {n} masks",
        "SELECT condition_id, mode, count(mask_sha) AS n FROM conditions LEFT JOIN condition_masks USING (condition_id)"
        " GROUP BY 1 HAVING (mode = 'T2I') <> (n = 0)",
    ),
    (
        "set {set_id} has {n} images instead of 4",
        "SELECT set_id, count(image_sha) AS n FROM image_sets LEFT JOIN set_images USING (set_id)"
        " GROUP BY 1 HAVING n <> 4",
    ),
    (
        "set {set_id} holds the real image {image_sha}",
        "SELECT set_id, image_sha FROM set_images JOIN image_sets USING (set_id) JOIN images i ON i.sha256 = image_sha"
        " WHERE i.origin <> 'synthetic' AND purpose IN ('rating', 'comparison')",
    ),
    (
        "{purpose} set {set_id} holds image {image_sha}, which is no real image of the training split",
        "SELECT purpose, set_id, image_sha FROM set_images JOIN image_sets USING (set_id)"
        " JOIN images i ON i.sha256 = image_sha WHERE purpose IN ('training', 'attention') AND (i.origin <> 'real'"
        " OR EXISTS (SELECT 1 FROM records r WHERE r.image_sha = i.sha256 AND r.split <> 'train'))",
    ),
    (
        "{purpose} set {set_id} shows the text or mask of record {record_id}, which is not of the training split",
        f"SELECT purpose, set_id, s.record_id FROM image_sets JOIN ({_SOURCES}) s USING (condition_id)"
        " WHERE purpose IN ('training', 'attention') AND s.split <> 'train'",
    ),
    (
        "{purpose} set {set_id} has no expected answers",
        "SELECT purpose, set_id FROM image_sets WHERE purpose IN ('training', 'attention')"
        " AND NOT EXISTS (SELECT 1 FROM set_expectations x WHERE x.set_id = image_sets.set_id)",
    ),
    (
        "{purpose} set {set_id} has expected answers",
        "SELECT DISTINCT purpose, set_id FROM image_sets JOIN set_expectations USING (set_id)"
        " WHERE purpose IN ('rating', 'comparison')",
    ),
    (
        "comparison set {set_id} has images of {n} arms instead of 2",
        "SELECT set_id, count(DISTINCT arm) AS n FROM image_sets JOIN set_images USING (set_id)"
        " WHERE purpose = 'comparison' GROUP BY 1 HAVING n <> 2",
    ),
    (
        "presentation {presentation_id} repeats one of another rater, another set, or a repeat",
        "SELECT p.presentation_id FROM presentations p JOIN presentations f ON f.presentation_id = p.repeat_of"
        " WHERE f.rater_id <> p.rater_id OR f.set_id <> p.set_id OR f.repeat_of IS NOT NULL",
    ),
    (
        "presentation {presentation_id} of a simulated rater is a pilot's",
        "SELECT presentation_id FROM presentations JOIN raters USING (rater_id)"
        " WHERE kind = 'simulated' AND phase <> 'main' AND"
        " (SELECT stage FROM study_stage) IN ('locked', 'frozen')",
    ),
    (
        "{username} cannot be invited or admitted: a simulated rater",
        "SELECT DISTINCT username FROM raters WHERE kind = 'simulated' AND"
        " rater_id IN (SELECT rater_id FROM invites UNION SELECT rater_id FROM admissions)",
    ),
    (
        "pair {pair_id} is of a {purpose} set",
        "SELECT pair_id, purpose FROM pairs JOIN image_sets USING (set_id) WHERE purpose <> 'rating'",
    ),
    (
        "pair {pair_id} rests on event {event_id} of a hidden repeat",
        "SELECT pair_id, event_id FROM pair_events JOIN score_events USING (event_id)"
        " JOIN presentations USING (presentation_id) WHERE repeat_of IS NOT NULL",
    ),
    (
        "leak: test record {record_id} is source of condition {condition_id} used in a {use}",
        f"SELECT s.record_id, s.condition_id, u.use FROM ({_SOURCES}) s JOIN {_USED} u USING (condition_id)"
        " WHERE s.split = 'test'",
    ),
    (
        "leak: a mask of test record {record_id} conditions {condition_id} used in a {use}",
        "SELECT DISTINCT r.record_id, x.condition_id, u.use FROM condition_masks x"
        f" JOIN {_USED} u USING (condition_id) JOIN record_masks y USING (mask_sha) JOIN records r USING (record_id)"
        " WHERE r.split = 'test'",
    ),
    (
        "pairs of run {run_id} mix human and simulated raters",
        "SELECT run_id FROM pairs GROUP BY run_id HAVING count(DISTINCT rater_kind) > 1",
    ),
    (
        "pair {pair_id} is {rater_kind} and rests on event {event_id} of a {kind} rater",
        "SELECT pair_id, p.rater_kind, e.event_id, r.kind FROM pairs p JOIN pair_events USING (pair_id)"
        " JOIN score_events e USING (event_id) JOIN raters r USING (rater_id) WHERE r.kind <> p.rater_kind",
    ),
    (
        "pair {pair_id} rests on event {event_id}, which concerns another set, image or criterion",
        "SELECT pair_id, e.event_id FROM pairs p JOIN pair_events USING (pair_id) JOIN score_events e USING (event_id)"
        " JOIN presentations q USING (presentation_id) WHERE q.set_id <> p.set_id OR e.kind NOT IN ('score', 'rank')"
        " OR e.criterion <> p.criterion OR e.slot NOT IN (p.slot_i, p.slot_j)",
    ),
    (
        "set {set_id} is in both splits of pair run {run_id}",
        "SELECT run_id, set_id FROM pairs GROUP BY 1, 2 HAVING count(DISTINCT split) > 1",
    ),
    (
        "leak: patient {dataset}/{patient_id} is source of both splits of pair run {run_id}",
        "SELECT p.run_id, s.dataset, s.patient_id FROM pairs p JOIN image_sets USING (set_id)"
        f" JOIN ({_SOURCES}) s USING (condition_id) GROUP BY 1, 2, 3 HAVING count(DISTINCT p.split) > 1",
    ),
    (
        "rater {username} is simulated and has a password",
        "SELECT username FROM raters WHERE kind = 'simulated' AND password_hash IS NOT NULL",
    ),
    (
        "run {run_id} shows record {record_id} in training or attention sets, which is not of the training split",
        "SELECT DISTINCT run_id, r.record_id FROM runs, json_each(result, '$.records') c, json_each(c.value) v"
        " JOIN records r ON r.record_id = v.value WHERE runs.kind = 'checks' AND r.split <> 'train'",
    ),
)


def _rules(study: Study, found: _Findings) -> None:
    """Rules over rows; each query returns the rows that break its rule."""
    for message, sql in RULES:
        found.add([message.format(**row) for row in study.db.rows(sql)])
    found.add(empty_splits(study), note=True)
    found.checked["rules"] = len(RULES)


def _captions(study: Study, found: _Findings) -> None:
    """Captions that break the study's rules: a note, since a data set may bring longer ones."""
    texts = [str(row[0]) for row in study.db.connection.execute("SELECT caption FROM records WHERE caption > ''")]
    broken = [(text, rules[0]) for text in texts if (rules := broken_rules(text))]
    if broken:
        text, rule = shorten(broken[0][0], 60), broken[0][1]
        found.notes.append(
            f"{len(broken)} of {len(texts)} captions break the study's rules, e.g. {text!r}: {rule.reason}; "
            "`radpref data caption` replaces them"
        )
    found.checked["captions"] = len(texts)


def _event_log(study: Study, found: _Findings) -> None:
    """Score events: complete, of the presentation's own rater, with criteria that the set's mode asks for."""
    db = study.db
    n = int(db.value("SELECT count(*) FROM score_events"))
    last = int(db.value("SELECT coalesce(max(event_id), 0) FROM score_events"))
    written = int(db.value("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'score_events'") or 0)
    if n != last or last != written:
        found.problems.append(f"event log: {written} events were written, {n} are there up to number {last}")
    joined = (
        "FROM score_events e JOIN presentations p USING (presentation_id) JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id)"
    )
    strangers = db.rows(f"SELECT event_id {joined} WHERE e.rater_id <> p.rater_id")
    found.add([f"event {row['event_id']} is by another rater than its presentation" for row in strangers])
    wrong = db.rows(
        f"SELECT event_id, criterion, mode {joined} WHERE e.kind IN ('score', 'rank') AND"
        " ((mode = 'T2I' AND criterion <> 'text') OR (mode = 'M2I' AND criterion <> 'mask'))"
    )
    found.add([f"event {row['event_id']} scores {row['criterion']} of a {row['mode']} set" for row in wrong])
    back = db.rows(
        "SELECT event_id FROM (SELECT event_id, created_at, lag(created_at) OVER (ORDER BY event_id) AS before"
        " FROM score_events) WHERE created_at < before"
    )
    clock = [f"event {row['event_id']} is dated before its predecessor: the clock went back" for row in back]
    found.add(clock, note=True)
    found.checked["events"] = n


def _audit_log(study: Study, found: _Findings) -> None:
    """The chain of the audit log, from its first row to the last that was written."""
    db = study.db
    if (broken := broken_link(db.connection)) is not None:
        found.problems.append(f"audit log: row {broken} was changed, put in, or lost the row before it")
    n, last = db.connection.execute("SELECT count(*), coalesce(max(audit_id), 0) FROM audit_events").fetchone()
    written = int(db.value("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'audit_events'") or 0)
    if not n == last == written:
        found.problems.append(f"audit log: {max(last, written)} rows were written, {n} are there")
    found.checked["audit rows"] = int(n)


def _seals(study: Study, found: _Findings) -> None:
    """What the lock and the freeze wrote down, against what is there now."""
    found.add(broken_seals(study))
    found.checked["seals"] = int(study.db.value("SELECT count(*) FROM stages WHERE stage <> 'pilot'"))


def _files(study: Study, found: _Findings) -> None:
    """Re-hash every image and mask; compare names, sizes and rows. A file without a row is a note."""
    kinds: tuple[Literal["images", "masks"], ...] = ("images", "masks")
    rows = {kind: study.db.rows(f"SELECT sha256, width, height FROM {kind}") for kind in kinds}
    with bar("verify files", sum(len(part) for part in rows.values())) as advance:
        for kind in kinds:
            problems = []
            for row in rows[kind]:
                problems += _file_problem(study, kind, row)
                advance(1)
            found.add(problems)
            found.checked[kind] = len(rows[kind])
            known = {study.store.path(str(row["sha256"]), kind) for row in rows[kind]}
            _extra_files(study.root / kind, known, found)


def _file_problem(study: Study, kind: Literal["images", "masks"], row: Mapping[str, object]) -> list[str]:
    path = study.store.path(str(row["sha256"]), kind)
    name = f"{kind[:-1]} {path.relative_to(study.root)}"
    if not path.is_file():
        return [f"{name} is missing; restore a backup"]
    if sha256_file(path) != row["sha256"]:
        return [f"{name} was changed: its content has another hash; restore a backup"]
    try:
        height, width = read_image(path).shape
    except RadprefError as error:
        return [str(error)]
    if (width, height) != (row["width"], row["height"]):
        return [f"{name} is {width}x{height}, its row says {row['width']}x{row['height']}"]
    return []


def _extra_files(folder: Path, known: set[Path], found: _Findings) -> None:
    extra = sorted(path for path in folder.rglob("*") if path.is_file() and path not in known)
    drafts = [path for path in extra if path.name.startswith(".")]
    strange = [path for path in extra if path not in drafts and not _is_named_by_hash(path)]
    found.add([f"file {path.relative_to(folder.parent)} does not belong here" for path in strange])
    left = [path.relative_to(folder.parent) for path in sorted({*extra} - {*strange})]
    found.add([f"file {path} has no row: an interruption left it" for path in left], note=True)


def _is_named_by_hash(path: Path) -> bool:
    return path.suffix == ".png" and _HASH.fullmatch(path.stem) is not None


def _models(study: Study, found: _Findings) -> None:
    """Every model's folder is there and hashes to what was recorded."""
    rows = study.db.rows("SELECT model_id, path, sha256 FROM models")
    for row in rows:
        folder = study.root / str(row["path"])
        if not folder.is_dir():
            found.problems.append(f"model {row['model_id']}: {row['path']} is missing; restore a backup")
        elif sha256_tree(folder) != row["sha256"]:
            found.problems.append(f"model {row['model_id']}: the files of {row['path']} were changed")
    found.checked["models"] = len(rows)


def _runs(study: Study, found: _Findings) -> None:
    """Every run has its folder with config.json."""
    rows = study.db.rows("SELECT run_id, status FROM runs")
    missing = [row for row in rows if not (study.root / "runs" / str(row["run_id"]) / "config.json").is_file()]
    found.add([f"run {row['run_id']} has no config.json; restore a backup" for row in missing])
    unfinished = [row for row in rows if row["status"] == "running"]
    found.add([f"run {row['run_id']} is not finished; run its command again" for row in unfinished], note=True)
    found.checked["runs"] = len(rows)
    _training_images(study, found)


def _training_images(study: Study, found: _Findings) -> None:
    """Generators trained here read exactly the training split: the hash each run stored against today's records."""
    shown = study.db.rows(
        "SELECT image_sha FROM records r WHERE split = 'train' AND (coalesce(caption, '') <> '' OR EXISTS"
        " (SELECT 1 FROM record_masks x JOIN masks m ON m.sha256 = x.mask_sha"
        " WHERE x.record_id = r.record_id AND m.n_pixels > 0))"
    )
    expected = hash_lines([str(row["image_sha"]) for row in shown])
    stored = "json_extract(provenance, '$.inputs.\"training images\"')"
    runs = study.db.rows(f"SELECT run_id, {stored} AS stored FROM runs WHERE kind = 'train'")
    other = [row["run_id"] for row in runs if row["stored"] not in (None, expected)]
    lines = [f"run {name} did not train on today's training split; were records added since?" for name in other]
    found.add(lines, note=True)
    found.checked["trainings on the training split"] = sum(row["stored"] == expected for row in runs)
