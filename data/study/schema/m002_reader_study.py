"""Schema 2, the reader study: stages, phases, repeats, expectations, ranks, invitations, and chained audit rows."""

from __future__ import annotations

from radpref.data.core.sqlite import sqlite3
from radpref.data.study.audit import rehash
from radpref.data.study.schema.m001_initial import SCORE_EVENTS
from radpref.data.study.schema.script import run_script

_SETS = ("image_sets", "set_images", "set_expectations")
_EVENTS = {"locked": "INSERT", "kept": "UPDATE", "stay": "DELETE"}
_FIXED = """CREATE TRIGGER {table}_{name} BEFORE {event} ON {table}
WHEN (SELECT stage FROM study_stage) IN ('locked', 'frozen')
BEGIN SELECT RAISE(ABORT, 'the study is locked: its sets are fixed'); END;
"""
READER_STUDY = (
    """
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
"""
    + SCORE_EVENTS
    + """
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
"""
    + "".join(_FIXED.format(name=name, event=event, table=table) for table in _SETS for name, event in _EVENTS.items())
    + """CREATE TRIGGER presentations_kept BEFORE UPDATE OF rater_id, set_id, slots, phase, repeat_of ON presentations
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
)


def apply(connection: sqlite3.Connection) -> None:
    """Rebuild the tables whose checks change, then chain the audit rows that are there."""
    run_script(connection, READER_STUDY)
    connection.execute("DROP TRIGGER audit_events_no_update")
    rehash(connection)
    run_script(
        connection,
        """
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
CREATE TRIGGER audit_events_chained BEFORE INSERT ON audit_events WHEN length(NEW.hash) <> 64
BEGIN SELECT RAISE(ABORT, 'audit events are written by data/audit.py'); END;
""",
    )
