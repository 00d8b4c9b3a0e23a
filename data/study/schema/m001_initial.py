"""Schema 1: runs, images, masks, records, conditions, sets, raters, scores, networks, models, pairs, pools, cells."""

from __future__ import annotations

INITIAL = """
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

SCORE_EVENTS = """
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
"""
"""The triggers and views of score_events, made again where the table is rebuilt."""
