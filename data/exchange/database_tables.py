"""Every table and view of the database as CSV, without secrets, and without arms until they may be named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radpref.data.exchange.export_folder import Written
from radpref.data.exchange.table_files import write_csv

if TYPE_CHECKING:
    from radpref.data.study.study import Study

_SHOWN = ("presentations", "presentation_states", "counted_presentations")
SECRET_COLUMNS = {"raters": {"password_hash"}, "invites": {"token_hash"}, **{key: {"token"} for key in _SHOWN}}
BLINDED_COLUMNS = {"set_images": {"arm", "seed"}, "image_sets": {"ordinal"}, "runs": {"config", "result"}}
"""Left out until arms may be named: the arm itself, and what a set's run would let one draw it again from."""
SKIPPED_TABLES = {"sessions"}


def write_database(study: Study, draft: Path, *, arms: bool) -> Written:
    """One CSV per table and view; no password hashes, tokens and sessions. Cells are safe for spreadsheets."""
    database = study.db.tables
    counts = {}
    for name in sorted({*database.table_names(), *database.view_names()} - SKIPPED_TABLES):
        if name.startswith("sqlite_"):
            continue
        rows = study.db.connection.execute(f'SELECT * FROM "{name}"')
        hidden = SECRET_COLUMNS.get(name, set()) | (set() if arms else BLINDED_COLUMNS.get(name, set()))
        header = [str(column[0]) for column in rows.description]
        kept = [k for k, column in enumerate(header) if column not in hidden]
        counts[name] = write_csv(
            draft / f"{name}.csv", [header[k] for k in kept], ([row[k] for k in kept] for row in rows)
        )
    simulated = study.db.value("SELECT 1 FROM raters WHERE kind = 'simulated' LIMIT 1") is not None
    return Written({"tables": counts}, {"tables": counts}, simulated)
