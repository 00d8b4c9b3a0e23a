"""quarantine.csv of an import: the records that could not be used, with the reason, written as the import goes on.

Input: refused records, batch by batch. Output: a CSV file ``record_id, reason``; an interruption keeps what is there.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from radpref.data.core.files import storage_errors
from radpref.data.datasets.workers import Refused

log = logging.getLogger(__name__)

SHOWN = 5
"""How many reasons the log repeats."""


class Quarantine:
    """The file, open while an import runs. Every import tries refused records again, so it begins anew."""

    def __init__(self, path: Path) -> None:
        self.path, self.n, self.first = path, 0, ""
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Say how many there are, where the log did not repeat every reason."""
        if self.n > SHOWN:
            log.warning("quarantined %d records; all reasons are in %s", self.n, self.path)

    def add(self, refused: Iterable[Refused]) -> None:
        """Append the refused records of one batch, durably.

        Raises:
            StorageFull: the disk is full.
        """
        rows = [(one.record_id, one.reason) for one in refused]
        if not rows:
            return
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if file.tell() == 0:
                    writer.writerow(["record_id", "reason"])
                writer.writerows(rows)
                file.flush()
                os.fsync(file.fileno())
        for record_id, reason in rows[: max(0, SHOWN - self.n)]:
            log.warning("quarantined %s: %s", record_id, reason)
        self.first = self.first or rows[0][1]
        self.n += len(rows)
