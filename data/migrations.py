"""Schema of study.db as numbered migrations, each applied once in its own transaction.

Input: an open sqlite-utils Database. Output: the newest schema. See docs/schema.md for the drawing.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlite_utils import Database

from data.audit import rehash
from data.errors import Conflict
from data.sqlite import sqlite3

_INITIAL = """
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed')),
  started_at TEXT NOT NULL,
  finished_at TEXT,
  config TEXT NOT NULL CHECK (json_valid(config)),
  provenance TEXT NOT NULL CHECK (json_valid(provenance)),
  result TEXT CHECK (result IS NULL OR json_valid(result))
) STRICT;

CREATE TABLE images (
  sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
  origin TEXT NOT NULL CHECK (origin IN ('real', 'synthetic')),
  width INTEGER NOT NULL, height INTEGER NOT NULL,
  bit_depth INTEGER NOT NULL CHECK (bit_depth IN (8, 16))
) STRICT;

CREATE TABLE masks (
  sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
  width INTEGER NOT NULL, height INTEGER NOT NULL,
  n_pixels INTEGER NOT NULL CHECK (n_pixels >= 0)
) STRICT;

-- One real (or phantom) radiograph with its patient, split, report and caption.
CREATE TABLE records (
  record_id TEXT PRIMARY KEY,
  dataset TEXT NOT NULL,
  patient_id TEXT NOT NULL,
  split TEXT NOT NULL CHECK (split IN ('train', 'val', 'test')),
  image_sha TEXT NOT NULL REFERENCES images(sha256),
  caption TEXT, report TEXT,
  extra TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(extra))
) STRICT;
CREATE INDEX records_split ON records(split, patient_id);
-- Patients never cross splits: refused by the database itself.
CREATE TRIGGER records_patient_split BEFORE INSERT ON records
WHEN EXISTS (SELECT 1 FROM records WHERE patient_id = NEW.patient_id AND dataset = NEW.dataset AND split <> NEW.split)
BEGIN SELECT RAISE(ABORT, 'patient is already in another split'); END;

CREATE TABLE labels (
  record_id TEXT NOT NULL REFERENCES records(record_id),
  label TEXT NOT NULL,
  value REAL CHECK (value IS NULL OR value IN (0.0, 1.0)),
  PRIMARY KEY (record_id, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE record_masks (
  record_id TEXT NOT NULL REFERENCES records(record_id),
  structure TEXT NOT NULL,
  mask_sha TEXT NOT NULL REFERENCES masks(sha256),
  PRIMARY KEY (record_id, structure)
) STRICT, WITHOUT ROWID;

-- What is asked of the generator. text is NULL on M2I; no rows in condition_masks on T2I.
CREATE TABLE conditions (
  condition_id TEXT PRIMARY KEY,
  mode TEXT NOT NULL CHECK (mode IN ('T2I', 'M2I', 'TM2I')),
  text TEXT CHECK ((text IS NULL) = (mode = 'M2I')),
  asked TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(asked)),
  text_record TEXT REFERENCES records(record_id),
  mask_record TEXT REFERENCES records(record_id),
  extra TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(extra))
) STRICT;

CREATE TABLE condition_masks (
  condition_id TEXT NOT NULL REFERENCES conditions(condition_id),
  structure TEXT NOT NULL,
  mask_sha TEXT NOT NULL REFERENCES masks(sha256),
  PRIMARY KEY (condition_id, structure)
) STRICT, WITHOUT ROWID;

CREATE TABLE image_sets (
  set_id TEXT PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  ordinal INTEGER NOT NULL,
  condition_id TEXT NOT NULL REFERENCES conditions(condition_id),
  purpose TEXT NOT NULL DEFAULT 'rating' CHECK (purpose IN ('rating', 'training', 'comparison')),
  UNIQUE (run_id, ordinal)
) STRICT;

CREATE TABLE set_images (
  set_id TEXT NOT NULL REFERENCES image_sets(set_id),
  slot INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 3),
  image_sha TEXT NOT NULL REFERENCES images(sha256),
  seed INTEGER NOT NULL,
  arm TEXT NOT NULL,
  PRIMARY KEY (set_id, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE raters (
  rater_id INTEGER PRIMARY KEY,
  username TEXT NOT NULL UNIQUE COLLATE NOCASE,
  kind TEXT NOT NULL CHECK (kind IN ('human', 'simulated')),
  role TEXT NOT NULL CHECK (role IN ('rater', 'admin')),
  password_hash TEXT CHECK (password_hash IS NULL OR kind = 'human'),
  order_seed INTEGER NOT NULL,
  active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
  detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail)),
  created_at TEXT NOT NULL
) STRICT;

-- One presentation of one set to one rater. token is random, so that nothing about the set leaks.
-- slots: which slot stands at positions A-D, e.g. '2031'.
CREATE TABLE presentations (
  presentation_id INTEGER PRIMARY KEY,
  token TEXT NOT NULL UNIQUE,
  rater_id INTEGER NOT NULL REFERENCES raters(rater_id),
  set_id TEXT NOT NULL REFERENCES image_sets(set_id),
  position INTEGER NOT NULL,
  slots TEXT NOT NULL CHECK (length(slots) = 4),
  UNIQUE (rater_id, position)
) STRICT;
CREATE INDEX presentations_set ON presentations(set_id, rater_id);

-- The append-only log. kind 'score' with value NULL takes a score back (undo is an event);
-- 'flag' has value 0/1; 'skip' and 'submit' concern the whole set (slot NULL).
CREATE TABLE score_events (
  event_id INTEGER PRIMARY KEY AUTOINCREMENT,
  uuid TEXT NOT NULL UNIQUE,
  presentation_id INTEGER NOT NULL REFERENCES presentations(presentation_id),
  rater_id INTEGER NOT NULL REFERENCES raters(rater_id),
  kind TEXT NOT NULL CHECK (kind IN ('score', 'flag', 'comment', 'skip', 'unskip', 'submit')),
  slot INTEGER CHECK (slot BETWEEN 0 AND 3),
  criterion TEXT CHECK (criterion IN ('text', 'mask', 'artifact', 'unrealistic')),
  value INTEGER CHECK (value BETWEEN 0 AND 5),
  comment TEXT,
  client TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(client)),
  created_at TEXT NOT NULL,
  CHECK (kind <> 'score' OR (slot IS NOT NULL AND criterion IN ('text', 'mask'))),
  CHECK (kind <> 'flag' OR (slot IS NOT NULL AND criterion IN ('artifact', 'unrealistic') AND value IN (0, 1)))
) STRICT;
CREATE INDEX score_events_presentation ON score_events(presentation_id, kind, slot, criterion, event_id);
CREATE TRIGGER score_events_no_update BEFORE UPDATE ON score_events
BEGIN SELECT RAISE(ABORT, 'score events are append-only'); END;
CREATE TRIGGER score_events_no_delete BEFORE DELETE ON score_events
BEGIN SELECT RAISE(ABORT, 'score events are append-only'); END;

CREATE VIEW current_scores AS
SELECT e.event_id, e.presentation_id, e.rater_id, r.kind AS rater_kind, r.username, p.set_id, p.position, p.slots,
       e.slot, e.criterion, e.value, e.created_at
FROM score_events e
JOIN presentations p USING (presentation_id)
JOIN raters r ON r.rater_id = e.rater_id
WHERE e.kind = 'score' AND e.value IS NOT NULL
  AND e.event_id = (SELECT max(l.event_id) FROM score_events l WHERE l.presentation_id = e.presentation_id
                    AND l.kind = 'score' AND l.slot = e.slot AND l.criterion = e.criterion);

CREATE VIEW presentation_states AS
SELECT p.*, CASE (SELECT kind FROM score_events e WHERE e.presentation_id = p.presentation_id
                  AND e.kind IN ('submit', 'skip', 'unskip') ORDER BY event_id DESC LIMIT 1)
            WHEN 'submit' THEN 'submitted' WHEN 'skip' THEN 'skipped' ELSE 'open' END AS state
FROM presentations p;

CREATE TABLE sessions (
  token_hash TEXT PRIMARY KEY,
  rater_id INTEGER NOT NULL REFERENCES raters(rater_id),
  created_at TEXT NOT NULL, last_seen_at TEXT NOT NULL, expires_at TEXT NOT NULL
) STRICT;

CREATE TABLE audit_events (
  audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
) STRICT;
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;

-- A network has one role for ever: the primary key is its content hash.
CREATE TABLE networks (
  sha256 TEXT PRIMARY KEY,
  role TEXT NOT NULL CHECK (role IN ('rater', 'judge', 'fidelity', 'proxy')),
  name TEXT NOT NULL
) STRICT;
CREATE TRIGGER networks_one_role BEFORE INSERT ON networks
WHEN EXISTS (SELECT 1 FROM networks WHERE sha256 = NEW.sha256 AND role <> NEW.role)
BEGIN SELECT RAISE(ABORT, 'this network already has another role'); END;
CREATE TRIGGER networks_no_update BEFORE UPDATE ON networks
BEGIN SELECT RAISE(ABORT, 'a network keeps its role'); END;

-- Generators: arm is the name the report uses ('baseline', 'aligned', 'finetuned'); path is inside the study.
CREATE TABLE models (
  model_id TEXT PRIMARY KEY,
  run_id TEXT REFERENCES runs(run_id),
  arm TEXT NOT NULL,
  path TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail)),
  created_at TEXT NOT NULL
) STRICT;

-- p = P(i preferred to j | criterion); z-orientation and ties as in docs/methods.md.
CREATE TABLE pairs (
  pair_id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  set_id TEXT NOT NULL REFERENCES image_sets(set_id),
  slot_i INTEGER NOT NULL, slot_j INTEGER NOT NULL CHECK (slot_i < slot_j),
  criterion TEXT NOT NULL CHECK (criterion IN ('text', 'mask')),
  p REAL NOT NULL CHECK (p BETWEEN 0 AND 1),
  n_raters INTEGER NOT NULL CHECK (n_raters > 0),
  rater_kind TEXT NOT NULL CHECK (rater_kind IN ('human', 'simulated')),
  split TEXT NOT NULL CHECK (split IN ('train', 'held_out')),
  UNIQUE (run_id, set_id, slot_i, slot_j, criterion)
) STRICT;
CREATE TABLE pair_events (
  pair_id INTEGER NOT NULL REFERENCES pairs(pair_id),
  event_id INTEGER NOT NULL REFERENCES score_events(event_id),
  PRIMARY KEY (pair_id, event_id)
) STRICT, WITHOUT ROWID;

-- Synthetic training images for the downstream tasks; nested: a multiple takes a prefix of the ordinals.
CREATE TABLE pool_images (
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  task TEXT NOT NULL,
  arm TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  image_sha TEXT NOT NULL REFERENCES images(sha256),
  condition_id TEXT NOT NULL REFERENCES conditions(condition_id),
  seed INTEGER NOT NULL,
  labels TEXT NOT NULL CHECK (json_valid(labels)),
  PRIMARY KEY (run_id, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX pool_images_task ON pool_images(task, arm, ordinal);

-- Finished cells of the downstream grid; cell_id hashes only what changes the result.
CREATE TABLE cells (
  cell_id TEXT PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  spec TEXT NOT NULL CHECK (json_valid(spec)),
  metrics TEXT NOT NULL CHECK (json_valid(metrics)),
  finished_at TEXT NOT NULL
) STRICT;
"""


_READER_STUDY = """
DROP VIEW current_scores;
DROP VIEW presentation_states;

-- attention: real images with a known answer, hidden among the rating sets. training: the same, shown as training.
CREATE TABLE new_image_sets (
  set_id TEXT PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  ordinal INTEGER NOT NULL,
  condition_id TEXT NOT NULL REFERENCES conditions(condition_id),
  purpose TEXT NOT NULL DEFAULT 'rating' CHECK (purpose IN ('rating', 'training', 'attention', 'comparison')),
  UNIQUE (run_id, ordinal)
) STRICT;
INSERT INTO new_image_sets SELECT * FROM image_sets;
DROP TABLE image_sets;
ALTER TABLE new_image_sets RENAME TO image_sets;

-- What a rater should answer on a training or attention set, and why (shown as feedback on training sets only).
CREATE TABLE set_expectations (
  set_id TEXT NOT NULL REFERENCES image_sets(set_id),
  slot INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 3),
  criterion TEXT NOT NULL CHECK (criterion IN ('text', 'mask')),
  low INTEGER NOT NULL CHECK (low BETWEEN 0 AND 5),
  high INTEGER NOT NULL CHECK (high BETWEEN low AND 5),
  reason TEXT NOT NULL,
  PRIMARY KEY (set_id, slot, criterion)
) STRICT, WITHOUT ROWID;

-- repeat_of: the earlier presentation of the same set to the same rater. phase: see study_stage below.
ALTER TABLE presentations ADD COLUMN repeat_of INTEGER REFERENCES presentations(presentation_id);
ALTER TABLE presentations ADD COLUMN phase TEXT NOT NULL DEFAULT 'pilot' CHECK (phase IN ('pilot', 'main'));
UPDATE presentations SET phase = 'main'
WHERE rater_id IN (SELECT rater_id FROM raters WHERE kind = 'simulated');
CREATE UNIQUE INDEX presentations_once ON presentations(rater_id, set_id, phase) WHERE repeat_of IS NULL;

-- As before, with kind 'rank': place (1 is best) among images that the rater scored alike; NULL takes it back.
CREATE TABLE new_score_events (
  event_id INTEGER PRIMARY KEY AUTOINCREMENT,
  uuid TEXT NOT NULL UNIQUE,
  presentation_id INTEGER NOT NULL REFERENCES presentations(presentation_id),
  rater_id INTEGER NOT NULL REFERENCES raters(rater_id),
  kind TEXT NOT NULL CHECK (kind IN ('score', 'rank', 'flag', 'comment', 'skip', 'unskip', 'submit')),
  slot INTEGER CHECK (slot BETWEEN 0 AND 3),
  criterion TEXT CHECK (criterion IN ('text', 'mask', 'artifact', 'unrealistic')),
  value INTEGER CHECK (value BETWEEN 0 AND 5),
  comment TEXT,
  client TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(client)),
  created_at TEXT NOT NULL,
  CHECK (kind <> 'score' OR (slot IS NOT NULL AND criterion IN ('text', 'mask'))),
  CHECK (kind <> 'rank' OR (slot IS NOT NULL AND criterion IN ('text', 'mask') AND value BETWEEN 1 AND 4)),
  CHECK (kind <> 'flag' OR (slot IS NOT NULL AND criterion IN ('artifact', 'unrealistic') AND value IN (0, 1)))
) STRICT;
INSERT INTO new_score_events SELECT * FROM score_events;
DROP TABLE score_events;
ALTER TABLE new_score_events RENAME TO score_events;
CREATE INDEX score_events_presentation ON score_events(presentation_id, kind, slot, criterion, event_id);
CREATE TRIGGER score_events_no_update BEFORE UPDATE ON score_events
BEGIN SELECT RAISE(ABORT, 'score events are append-only'); END;
CREATE TRIGGER score_events_no_delete BEFORE DELETE ON score_events
BEGIN SELECT RAISE(ABORT, 'score events are append-only'); END;

CREATE VIEW current_scores AS
SELECT e.event_id, e.presentation_id, e.rater_id, r.kind AS rater_kind, r.username, p.set_id, p.position, p.slots,
       e.slot, e.criterion, e.value, e.created_at
FROM score_events e
JOIN presentations p USING (presentation_id)
JOIN raters r ON r.rater_id = e.rater_id
WHERE e.kind = 'score' AND e.value IS NOT NULL
  AND e.event_id = (SELECT max(l.event_id) FROM score_events l WHERE l.presentation_id = e.presentation_id
                    AND l.kind = 'score' AND l.slot = e.slot AND l.criterion = e.criterion);

CREATE VIEW presentation_states AS
SELECT p.*, CASE (SELECT kind FROM score_events e WHERE e.presentation_id = p.presentation_id
                  AND e.kind IN ('submit', 'skip', 'unskip') ORDER BY event_id DESC LIMIT 1)
            WHEN 'submit' THEN 'submitted' WHEN 'skip' THEN 'skipped' ELSE 'open' END AS state
FROM presentations p;

-- The life of a study: draft (no row yet) -> pilot -> locked -> frozen, one step at a time, never back.
-- A draft becomes a pilot with the first event of a person.
CREATE TABLE stages (
  stage_id INTEGER PRIMARY KEY,
  at TEXT NOT NULL, actor TEXT NOT NULL,
  stage TEXT NOT NULL UNIQUE CHECK (stage IN ('pilot', 'locked', 'frozen')),
  detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
) STRICT;
CREATE VIEW study_stage AS
SELECT coalesce((SELECT stage FROM stages ORDER BY stage_id DESC LIMIT 1), 'draft') AS stage;
CREATE TRIGGER stages_one_step BEFORE INSERT ON stages
WHEN (SELECT stage FROM study_stage) || '>' || NEW.stage NOT IN ('draft>pilot', 'pilot>locked', 'locked>frozen')
BEGIN SELECT RAISE(ABORT, 'a study goes draft, pilot, locked, frozen: one step at a time, never back'); END;
CREATE TRIGGER stages_no_update BEFORE UPDATE ON stages
BEGIN SELECT RAISE(ABORT, 'stages are append-only'); END;
CREATE TRIGGER stages_no_delete BEFORE DELETE ON stages
BEGIN SELECT RAISE(ABORT, 'stages are append-only'); END;
CREATE TRIGGER score_events_frozen BEFORE INSERT ON score_events
WHEN (SELECT stage FROM study_stage) = 'frozen'
BEGIN SELECT RAISE(ABORT, 'the study is frozen: scores are closed'); END;
CREATE TRIGGER score_events_pilot AFTER INSERT ON score_events
WHEN (SELECT stage FROM study_stage) = 'draft'
  AND (SELECT kind FROM raters WHERE rater_id = NEW.rater_id) = 'human'
BEGIN INSERT INTO stages(at, actor, stage) VALUES (NEW.created_at, 'first score', 'pilot'); END;
CREATE TRIGGER image_sets_locked BEFORE INSERT ON image_sets
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER image_sets_kept BEFORE UPDATE ON image_sets
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_images_locked BEFORE INSERT ON set_images
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER image_sets_stay BEFORE DELETE ON image_sets
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_images_kept BEFORE UPDATE ON set_images
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_images_stay BEFORE DELETE ON set_images
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_expectations_locked BEFORE INSERT ON set_expectations
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_expectations_kept BEFORE UPDATE ON set_expectations
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER set_expectations_stay BEFORE DELETE ON set_expectations
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
CREATE TRIGGER presentations_kept BEFORE UPDATE OF rater_id, set_id, slots, phase, repeat_of ON presentations
BEGIN SELECT RAISE(ABORT, 'what a rater was shown does not change'); END;
-- A retired rater may still hold a page that is open.
CREATE TRIGGER score_events_retired BEFORE INSERT ON score_events
WHEN (SELECT active FROM raters WHERE rater_id = NEW.rater_id) = 0
BEGIN SELECT RAISE(ABORT, 'this rater is retired'); END;
INSERT INTO stages(at, actor, stage)
SELECT min(e.created_at), 'first score', 'pilot' FROM score_events e JOIN raters r USING (rater_id)
WHERE r.kind = 'human' HAVING count(*) > 0;

-- Presentations whose scores are analysed: no repeats, and after a lock no pilot ones (unless the lock kept them).
CREATE VIEW counted_presentations AS
SELECT s.*, i.purpose FROM presentation_states s JOIN image_sets i USING (set_id)
WHERE s.repeat_of IS NULL
  AND (s.phase = 'main'
       OR NOT EXISTS (SELECT 1 FROM stages WHERE stage = 'locked' AND coalesce(detail ->> '$.keep_scores', 0) = 0));

CREATE TRIGGER pairs_of_rating_sets BEFORE INSERT ON pairs
WHEN (SELECT purpose FROM image_sets WHERE set_id = NEW.set_id) <> 'rating'
BEGIN SELECT RAISE(ABORT, 'only rating sets are trained on'); END;

-- Links by which a person sets the first password: hashed, used once, expiring.
CREATE TABLE invites (
  invite_id INTEGER PRIMARY KEY,
  token_hash TEXT NOT NULL UNIQUE,
  rater_id INTEGER NOT NULL REFERENCES raters(rater_id),
  created_at TEXT NOT NULL, created_by TEXT NOT NULL, expires_at TEXT NOT NULL,
  used_at TEXT
) STRICT;
CREATE TRIGGER invites_once BEFORE UPDATE ON invites WHEN OLD.used_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'this invitation was used'); END;

-- Who may go on from training to scoring: by the calibration gate (share reached), or let in by the study office.
CREATE TABLE admissions (
  rater_id INTEGER PRIMARY KEY REFERENCES raters(rater_id),
  at TEXT NOT NULL, actor TEXT NOT NULL,
  share REAL CHECK (share BETWEEN 0 AND 1)
) STRICT;

-- Each audit row carries the hash of its content and of the row before: see data/audit.py.
ALTER TABLE audit_events ADD COLUMN hash TEXT NOT NULL DEFAULT '';
"""


def _m001_initial(connection: sqlite3.Connection) -> None:
    _run_script(connection, _INITIAL)


def _m002_reader_study(connection: sqlite3.Connection) -> None:
    _run_script(connection, _READER_STUDY)
    connection.execute("DROP TRIGGER audit_events_no_update")
    rehash(connection)
    _run_script(
        connection,
        """
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
CREATE TRIGGER audit_events_chained BEFORE INSERT ON audit_events WHEN length(NEW.hash) <> 64
BEGIN SELECT RAISE(ABORT, 'audit events are written by data/audit.py'); END;
""",
    )


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute the statements of ``script`` inside the transaction that is open (executescript would commit it)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


_LARGE_IMPORTS = """
CREATE INDEX records_patient ON records(dataset, patient_id, split);
CREATE INDEX records_image ON records(image_sha);
"""


def _m003_large_imports(connection: sqlite3.Connection) -> None:
    """Patient and image of a new record are looked up, not searched: 200,000 records would be 200,000 full scans."""
    _run_script(connection, _LARGE_IMPORTS)


_CAPTIONS = """
-- Who wrote which caption, by which rules or model, in which run; the last row of a record is the caption it has,
-- unless the data set's own stands. source 'fallback': by rules, after the endpoint's answers broke the rules.
CREATE TABLE caption_events (
  event_id INTEGER PRIMARY KEY AUTOINCREMENT,
  record_id TEXT NOT NULL REFERENCES records(record_id),
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  source TEXT NOT NULL CHECK (source IN ('rules', 'endpoint', 'fallback')),
  version TEXT NOT NULL,
  caption TEXT NOT NULL CHECK (length(caption) > 0),
  previous TEXT,
  detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail)),
  created_at TEXT NOT NULL
) STRICT;
CREATE INDEX caption_events_record ON caption_events(record_id, event_id);
CREATE TRIGGER caption_events_no_update BEFORE UPDATE ON caption_events
BEGIN SELECT RAISE(ABORT, 'caption events are append-only'); END;
CREATE TRIGGER caption_events_no_delete BEFORE DELETE ON caption_events
BEGIN SELECT RAISE(ABORT, 'caption events are append-only'); END;
CREATE TRIGGER records_caption_locked BEFORE UPDATE OF caption ON records
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its captions are fixed'); END;

-- What an endpoint answered, by the hash of everything it was asked with: asked again, it costs nothing.
CREATE TABLE caption_answers (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  model TEXT NOT NULL,
  answer TEXT NOT NULL,
  prompt_tokens INTEGER, completion_tokens INTEGER,
  created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


def _m004_captions(connection: sqlite3.Connection) -> None:
    _run_script(connection, _CAPTIONS)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _m001_initial,
    _m002_reader_study,
    _m003_large_imports,
    _m004_captions,
)


def migrate(database: Database) -> int:
    """Bring ``database`` to the newest schema; returns its version.

    Raises:
        Conflict: the file was written by a newer radpref.
    """
    connection = database.conn
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise Conflict(f"study.db has schema {version}, this radpref knows {len(MIGRATIONS)}; update radpref")
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        _apply(connection, number, step)
    return len(MIGRATIONS)


def _apply(connection: sqlite3.Connection, number: int, step: Callable[[sqlite3.Connection], None]) -> None:
    """One migration, all or nothing. Foreign keys rest meanwhile (tables are rebuilt) and are checked at its end."""
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) < number:
                step(connection)
                broken = connection.execute("PRAGMA foreign_key_check").fetchone()
                if broken is not None:
                    raise Conflict(f"study.db: a row of '{broken[0]}' names something missing; restore a backup")
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
