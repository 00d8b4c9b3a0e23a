"""Every table of the database as CSV, without secrets, and without arms until they may be named."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.exchange.tables_export import safe_cell
from radpref.data.reader_study.lifecycle import arms_visible, operator, reveal_arms
from radpref.data.study.study import Study
from radpref.data.upkeep.backup import (
    MANIFEST,
)

_SHOWN = ("presentations", "presentation_states", "counted_presentations")


SECRET_COLUMNS = {"raters": {"password_hash"}, "invites": {"token_hash"}, **{key: {"token"} for key in _SHOWN}}


BLINDED_COLUMNS = {"set_images": {"arm", "seed"}, "image_sets": {"ordinal"}, "runs": {"config", "result"}}
"""Left out until arms may be named: the arm itself, and what a set's run would let one draw it again from."""


SKIPPED_TABLES = ("sessions",)


def export(study: Study, target: Path) -> dict[str, Any]:
    """Write one CSV per table and view into the folder ``target``; no password hashes, tokens and sessions.

    Text cells that a spreadsheet would run as a formula get a leading apostrophe. Until arms may be named, what tells
    them is left out. Returns {target, tables: {name: n}, arms: bool}.

    Raises:
        InvalidInput: the folder is a backup or an export of the reading room, whose manifest would no longer be true.
    """
    target = Path(target).resolve()
    if (target / MANIFEST).exists():
        raise InvalidInput(f"{target} holds a backup or another export ({MANIFEST}); choose a new folder")
    arms = arms_visible(study.db)
    if arms:
        reveal_arms(study.db, operator(), f"export of every table to {target.name}")
    database = study.db.tables
    names = sorted(set(database.table_names() + database.view_names()) - set(SKIPPED_TABLES))
    counts: dict[str, int] = {}
    for name in names:
        if name.startswith("sqlite_"):
            continue
        rows = study.db.connection.execute(f'SELECT * FROM "{name}"')
        hidden = SECRET_COLUMNS.get(name, set()) | (set() if arms else BLINDED_COLUMNS.get(name, set()))
        header = [str(column[0]) for column in rows.description]
        kept = [k for k, column in enumerate(header) if column not in hidden]
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([header[k] for k in kept])
        counts[name] = 0
        for row in rows:
            writer.writerow([safe_cell(row[k]) for k in kept])
            counts[name] += 1
        write_atomic(target / f"{name}.csv", buffer.getvalue())
    return {"target": str(target), "tables": counts, "arms": arms}
