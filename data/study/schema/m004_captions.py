"""Schema 4: where captions come from, and what an endpoint answered."""

from __future__ import annotations

CAPTIONS = """
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
