"""The tables of an export: what is asked of the database, and what every column means.

Input: a study. Output: :class:`Table` objects, rows as tuples in column order. Nothing here is secret: no password
hash, no login, no invitation. Columns that name an arm are there only where the caller may have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpref.data.agreement.reliability import Agreement, IntraRater, NotComputable
from radpref.data.study.db import StudyDatabase

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Kind = Literal["text", "int", "float", "bool"]


@dataclass(frozen=True)
class Column:
    """One column: name, kind, meaning and unit. ``blinded``: tells the arm; left out until arms may be named."""

    name: str
    kind: Kind
    description: str
    unit: str | None = None
    blinded: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its rows; None is a missing value."""

    name: str
    description: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]


_RATER = (
    Column("rater", "text", "name of the rater"),
    Column("rater_kind", "text", "human or simulated"),
    Column("simulated", "bool", "true: a program, not a person"),
)
_SET = (
    Column("set_id", "text", "the set of four images"),
    Column("purpose", "text", "rating, comparison (two arms), attention (real images), training (with feedback)"),
    Column("mode", "text", "what the set asks for: T2I text, M2I mask, TM2I both"),
    Column("condition_id", "text", "the condition all four images were made for"),
    Column("condition_text", "text", "its text; missing on M2I"),
)
_ARM = (
    Column("arm", "text", "generator the image is from; real on attention and training sets", blinded=True),
    Column("seed", "int", "seed the image was sampled with", blinded=True),
)
_PLACE = (
    Column("slot", "int", "image of the set, 0-3; the same for every rater"),
    Column("letter", "text", "where the image stood on this rater's screen, A-D"),
    Column("image_sha256", "text", "file images/ab/<sha256>.png of the study"),
)
_LETTER = "substr('ABCD', instr(p.slots, {0}.slot), 1)"

EVENTS = (
    Column("event_id", "int", "number in the log; ascending in time"),
    Column("uuid", "text", "made by the client, so that a repeated save is one event"),
    *_RATER,
    *_SET,
    Column("presentation_id", "int", "one showing of one set to one rater"),
    Column("position", "int", "place of the showing in the rater's order, from 0"),
    Column("repeat_of", "int", "the earlier showing that this one repeats unmarked; missing: none"),
    Column("phase", "text", "pilot or main"),
    Column("counted", "bool", "true: this showing is analysed (no repeat; no pilot that the lock left out)"),
    Column("kind", "text", "score, rank, flag, comment, skip, unskip or submit"),
    *_PLACE,
    Column("criterion", "text", "text or mask; of a flag artifact or unrealistic"),
    Column("value", "int", "score 0-5, rank 1-4, flag 0/1; missing on a score: taken back", "points"),
    Column("comment", "text", "comment, or reason of a skip"),
    Column("active_s", "float", "time with the set open and in use, as the page measured it, on submits", "seconds"),
    Column("client", "text", "what the page reported with it, JSON"),
    Column("created_at", "text", "when the server stored it, UTC", "ISO 8601"),
    *_ARM,
)
_EVENTS = f"""
SELECT e.event_id, e.uuid, r.username AS rater, r.kind AS rater_kind, r.kind = 'simulated' AS simulated,
       s.set_id, s.purpose, c.mode, s.condition_id, c.text AS condition_text,
       p.presentation_id, p.position, p.repeat_of, p.phase,
       p.presentation_id IN (SELECT presentation_id FROM counted_presentations) AS counted,
       e.kind, e.slot, {_LETTER.format("e")} AS letter, i.image_sha AS image_sha256, e.criterion, e.value, e.comment,
       CASE WHEN e.kind = 'submit' THEN (e.client ->> '$.active_ms') / 1000.0 END AS active_s,
       e.client, e.created_at, i.arm, i.seed
FROM score_events e JOIN presentations p USING (presentation_id) JOIN raters r ON r.rater_id = e.rater_id
JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)
LEFT JOIN set_images i ON i.set_id = s.set_id AND i.slot = e.slot
ORDER BY e.event_id
"""

SCORES = (
    *_RATER,
    *_SET,
    *_PLACE,
    Column("criterion", "text", "text or mask"),
    Column("value", "int", "the rater's last score of this image, 0-5", "points"),
    Column("submitted", "bool", "true: the rater submitted the set; only such scores become preference pairs"),
    Column("event_id", "int", "the event that holds the score, see table events"),
    Column("created_at", "text", "when the server stored it, UTC", "ISO 8601"),
    *_ARM,
)
_SCORES = f"""
SELECT v.username AS rater, v.rater_kind, v.rater_kind = 'simulated' AS simulated,
       s.set_id, s.purpose, c.mode, s.condition_id, c.text AS condition_text,
       v.slot, {_LETTER.format("v")} AS letter, i.image_sha AS image_sha256, v.criterion, v.value,
       p.state = 'submitted' AS submitted, v.event_id, v.created_at, i.arm, i.seed
FROM current_scores v JOIN counted_presentations p USING (presentation_id) JOIN image_sets s ON s.set_id = v.set_id
JOIN conditions c USING (condition_id) JOIN set_images i ON i.set_id = s.set_id AND i.slot = v.slot
WHERE s.purpose IN ('rating', 'comparison') AND p.state <> 'skipped'
ORDER BY v.rater_id, s.set_id, v.slot, v.criterion
"""

PAIRS = (
    Column("run_id", "text", "the run of `align pairs` that made it"),
    Column("rater_kind", "text", "human or simulated; never a mixture"),
    Column("simulated", "bool", "true: from programs' scores, not people's"),
    Column("set_id", "text", "the set both images are of"),
    Column("mode", "text", "what the set asks for"),
    Column("condition_text", "text", "its text; missing on M2I"),
    Column("slot_i", "int", "first image of the pair, 0-3"),
    Column("slot_j", "int", "second image, above slot_i"),
    Column("image_i_sha256", "text", "first image"),
    Column("image_j_sha256", "text", "second image"),
    Column("criterion", "text", "text or mask"),
    Column("p", "float", "share of raters who prefer image i; a tie counts half", "probability"),
    Column("n_raters", "int", "raters behind it", "raters"),
    Column("split", "text", "train or held_out"),
)
_PAIRS = """
SELECT q.run_id, q.rater_kind, q.rater_kind = 'simulated' AS simulated, q.set_id, c.mode, c.text AS condition_text,
       q.slot_i, q.slot_j, a.image_sha AS image_i_sha256, b.image_sha AS image_j_sha256, q.criterion, q.p,
       q.n_raters, q.split
FROM pairs q JOIN image_sets s USING (set_id) JOIN conditions c USING (condition_id)
JOIN set_images a ON a.set_id = q.set_id AND a.slot = q.slot_i
JOIN set_images b ON b.set_id = q.set_id AND b.slot = q.slot_j
ORDER BY q.pair_id
"""

RATERS = (
    *_RATER,
    Column("role", "text", "rater or admin"),
    Column("active", "bool", "false: retired; scores stay"),
    Column("created_at", "text", "when the account was made, UTC", "ISO 8601"),
    Column("admitted_at", "text", "when the rater was let through from training to scoring, UTC", "ISO 8601"),
    Column("admitted_share", "float", "share of training answers in range then; missing: let in by the office"),
    Column("n_events", "int", "events of this rater", "events"),
    Column("n_counted_scores", "int", "rows of table scores of this rater", "scores"),
)
_RATERS = """
SELECT r.username AS rater, r.kind AS rater_kind, r.kind = 'simulated' AS simulated, r.role, r.active, r.created_at,
       a.at AS admitted_at, a.share AS admitted_share,
       (SELECT count(*) FROM score_events e WHERE e.rater_id = r.rater_id) AS n_events,
       coalesce(n.n, 0) AS n_counted_scores
FROM raters r LEFT JOIN admissions a USING (rater_id)
LEFT JOIN (SELECT v.rater_id, count(*) AS n FROM current_scores v JOIN counted_presentations p USING (presentation_id)
           WHERE p.purpose IN ('rating', 'comparison') AND p.state <> 'skipped' GROUP BY v.rater_id) n
ON n.rater_id = r.rater_id ORDER BY r.rater_id
"""

AGREEMENT = (
    Column("rater_kind", "text", "human or simulated; never together"),
    Column("simulated", "bool", "true: agreement of programs, not of people"),
    Column("scope", "text", "all, mode, finding, or rater (one rater with himself, from hidden repeats)"),
    Column("scope_value", "text", "which mode, finding or rater; missing for all"),
    Column("criterion", "text", "text, mask or overall (both)"),
    Column("measure", "text", "name of the measure, see docs/methods.md"),
    Column("value", "float", "its value; missing: not computable"),
    Column("low", "float", "lower end of the 95 % bootstrap interval over sets"),
    Column("high", "float", "upper end"),
    Column("n_raters", "int", "raters", "raters"),
    Column("n_sets", "int", "sets", "sets"),
    Column("n_scores", "int", "scores", "scores"),
    Column("not_computable", "text", "why there is no value"),
    Column(
        "icc_basis", "text", "ICC only. complete: images all raters scored; incomplete: those with 2 scores or more"
    ),
    Column("icc_n_items", "int", "ICC only: images it is from", "images"),
)
_READ: dict[Kind, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": float, "text": str}
QUERIES: tuple[tuple[str, str, tuple[Column, ...], str], ...] = (
    ("events", "Everything raters did, in order; append-only", EVENTS, _EVENTS),
    ("scores", "Counted scores of rating and comparison sets: one row per rater, image and criterion", SCORES, _SCORES),
    ("pairs", "Preference pairs made from the scores", PAIRS, _PAIRS),
    ("raters", "Who scored; no passwords", RATERS, _RATERS),
)


def database_tables(db: StudyDatabase, *, arms: bool) -> list[Table]:
    """Events, scores, pairs and raters, all of one moment; ``arms``: with the columns that name arms and seeds."""
    raw = []
    db.connection.execute("BEGIN")  # people who score wait meanwhile: only fetch here
    try:
        for *_, sql in QUERIES:
            cursor = db.connection.execute(sql)
            raw.append(([str(one[0]) for one in cursor.description], cursor.fetchall()))
    finally:
        db.connection.execute("ROLLBACK")
    found = []
    for (name, description, columns, _), (header, rows) in zip(QUERIES, raw, strict=True):
        kept = tuple(column for column in columns if arms or not column.blinded)
        picked = [(header.index(column.name), _READ[column.kind]) for column in kept]
        plain = (tuple(None if row[k] is None else read(row[k]) for k, read in picked) for row in rows)
        found.append(Table(name, description, kept, tuple(plain)))
    return found


def agreement_table(study: Study, n_boot: int = 1000) -> Table:
    """Every agreement measure as one row, people and simulated raters apart."""
    from radpref.data.agreement.rater_quality import study_agreement

    rows: list[tuple[Any, ...]] = []
    for kind, part in study_agreement(study, n_boot=n_boot).by_kind.items():
        parts: list[tuple[str, str | None, str, Agreement | IntraRater | NotComputable]] = [
            ("all", None, name, found) for name, found in part.criteria.items()
        ]
        parts += [("mode", mode, name, found) for mode, of in part.modes.items() for name, found in of.items()]
        parts += [("finding", name, "text", found) for name, found in part.findings.items()]
        parts += [("rater", name, "overall", found) for name, found in part.intra_rater.items()]
        for scope, which, criterion, found in parts:
            rows += _measures((kind, kind == "simulated", scope, which, criterion), found)
    text = "Agreement between raters, and of raters with themselves, with 95 % bootstrap intervals over sets"
    return Table("agreement", text, AGREEMENT, tuple(rows))


def _measures(key: Sequence[Any], found: Agreement | IntraRater | NotComputable) -> list[tuple[Any, ...]]:
    sizes = (found.n_raters, found.n_sets, found.n_scores)
    if isinstance(found, NotComputable):
        return [(*key, None, None, None, None, *sizes, found.not_computable, None, None)]
    rows = []
    for name, one in found.measures.items():
        reason: str | None = None
        basis: tuple[str | None, int | None] = (None, None)
        if isinstance(found, Agreement) and name.startswith("icc"):
            reason = found.icc_not_computable if one.value is None else None
            basis = (found.icc_basis, found.icc_n_items)
        rows.append((*key, name, one.value, one.low, one.high, *sizes, reason, *basis))
    return rows
