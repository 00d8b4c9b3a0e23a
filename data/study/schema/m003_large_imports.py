"""Schema 3: indices for imports of hundreds of thousands of records."""

from __future__ import annotations

from radpref.data.core.sqlite import sqlite3
from radpref.data.study.schema.script import run_script

LARGE_IMPORTS = """
CREATE INDEX records_patient ON records(dataset, patient_id, split);
CREATE INDEX records_image ON records(image_sha);
"""


def apply(connection: sqlite3.Connection) -> None:
    """Patient and image of a new record are looked up, not searched: 200,000 records would be 200,000 full scans."""
    run_script(connection, LARGE_IMPORTS)
