"""Import records into a study: read, quarantine what cannot be used, store in batches, resume.

Input: a study and the name of a reader. Output: rows in ``records``, ``labels``, ``record_masks``; image and mask
files; a run of kind "import" with ``quarantine.csv``. One bad image never stops an import.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import Conflict, InvalidInput, NotFound, RadprefError
from data.files import sha256_file, write_atomic
from data.progress import bar
from data.readers import PlannedRecord, Record, get_reader
from data.records import Run, latest_run, start_run
from data.splits import split_manifest
from data.sqlite import sqlite3
from data.study import Study

log = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Records per transaction: what an interruption loses at most."""
N_THREADS = 4
"""Files are synced to disk while other records are rendered or read."""


def import_records(study: Study, source: str | None = None, path: Path | str | None = None) -> dict[str, Any]:
    """Import all records of a reader (``source``, default ``data.reader``) that the study does not hold yet.

    Returns {run_id, reader, n_planned, n_imported, n_existing, n_quarantined, quarantine, splits}.

    Raises:
        InvalidInput: the table cannot be used, or no row of it could be.
        Conflict: the study holds records of another image size.
        StorageFull: the disk is full; finished batches stay, the next run goes on from there.
    """
    config = study.config.data
    name = source or config.reader
    table = Path(path) if path is not None else None
    if name != "phantom" and table is None and config.path is not None:
        table = study.root / config.path
    _check_size(study)
    plan = get_reader(name)(config, table)
    planned = plan.planned
    existing = {str(row["record_id"]) for row in study.db.rows("SELECT record_id FROM records")}
    pending = [record for record in planned if record.record_id not in existing]
    result: dict[str, Any] = {"reader": name, "n_planned": len(planned), "n_existing": len(planned) - len(pending)}
    if not pending:
        return {**result, "run_id": _finished_run(study), "n_imported": 0, "n_quarantined": 0, "quarantine": None,
                "splits": split_manifest(study.db)}  # fmt: skip
    run_config = {"reader": name, "path": str(table) if table else None, "data": config.model_dump(mode="json")}
    inputs = {file.name: sha256_file(file) for file in plan.inputs}
    with start_run(study, "import", run_config, inputs) as run:
        quarantined = _import_pending(study, pending)
        result |= {"run_id": run.run_id, "n_imported": len(pending) - len(quarantined)}
        result["n_quarantined"] = len(quarantined)
        result["quarantine"] = _write_quarantine(run, quarantined)
        result["splits"] = split_manifest(study.db)
        run.result = dict(result)
    if quarantined and len(quarantined) == len(planned):
        first = next(iter(quarantined.values()))
        raise InvalidInput(f"no record of {table or name} could be used, first reason: {first}")
    return result


def _check_size(study: Study) -> None:
    size = study.config.data.image_size
    other = study.db.value(
        "SELECT i.width FROM records r JOIN images i ON i.sha256 = r.image_sha WHERE i.width <> ? LIMIT 1", (size,)
    )
    if other is not None:
        raise Conflict(
            f"the study holds records of {other} px, data.image_size is {size}; set it back or make a new study"
        )


def _finished_run(study: Study) -> str | None:
    try:
        return latest_run(study, "import").run_id
    except NotFound:
        return None


def _import_pending(study: Study, pending: list[PlannedRecord]) -> dict[str, str]:
    """Load and store in batches; returns record_id -> reason of what was quarantined."""
    quarantined: dict[str, str] = {}
    with bar("import", len(pending)) as advance, ThreadPoolExecutor(N_THREADS) as pool:
        for batch in _batches(pending):
            loaded = list(pool.map(partial(_load, study), batch))
            quarantined |= {
                planned.record_id: str(found)
                for planned, found in zip(batch, loaded, strict=True)
                if isinstance(found, RadprefError)
            }
            for record, reason in _store_batch(study, [found for found in loaded if isinstance(found, Record)]):
                quarantined[record.record_id] = reason
            advance(len(batch))
    for record_id, reason in itertools.islice(quarantined.items(), 5):
        log.warning("quarantined %s: %s", record_id, reason)
    return quarantined


def _load(study: Study, planned: PlannedRecord) -> Record | RadprefError:
    """Load one record and write its files ahead of the transaction; returns the error of an unusable one."""
    try:
        record = planned.load()
    except (InvalidInput, NotFound) as error:
        return error
    study.store.write_image(record.image, "real")
    for mask in record.masks.values():
        study.store.write_mask(mask)
    return record


def _batches(items: list[PlannedRecord]) -> Iterator[list[PlannedRecord]]:
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start : start + BATCH_SIZE]


def _store_batch(study: Study, records: Iterable[Record]) -> list[tuple[Record, str]]:
    """Store records in one transaction; returns those refused, with the reason."""
    refused = []
    with study.db.write() as connection:
        for record in records:
            reason = _store_record(study, connection, record)
            if reason is not None:
                refused.append((record, reason))
    return refused


def _store_record(study: Study, connection: sqlite3.Connection, record: Record) -> str | None:
    """Store one record inside an open transaction; returns a reason instead where it must not be stored."""
    other = connection.execute(
        "SELECT split FROM records WHERE dataset = ? AND patient_id = ? AND split <> ?",
        (record.dataset, record.patient_id, record.split),
    ).fetchone()
    if other is not None:
        return f"patient {record.patient_id} is in {record.split} and in {other[0]}; keep a patient in one split"
    try:
        image_sha = study.store.put_image(connection, record.image, "real")
    except Conflict as error:
        return str(error)
    twin = connection.execute("SELECT record_id FROM records WHERE image_sha = ?", (image_sha,)).fetchone()
    if twin is not None:
        return f"the image is identical to that of {twin[0]}; keep one of them"
    connection.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.record_id, record.dataset, record.patient_id, record.split, image_sha, record.caption, record.report,
         json.dumps(record.extra, ensure_ascii=False)),
    )  # fmt: skip
    labels = [(record.record_id, name, value) for name, value in record.labels.items()]
    connection.executemany("INSERT INTO labels VALUES (?, ?, ?)", labels)
    for structure, mask in record.masks.items():
        mask_sha = study.store.put_mask(connection, mask)
        connection.execute("INSERT INTO record_masks VALUES (?, ?, ?)", (record.record_id, structure, mask_sha))
    return None


def _write_quarantine(run: Run, quarantined: dict[str, str]) -> str | None:
    """Write quarantine.csv into the run folder; returns its path, or None where all records were fine."""
    path = run.folder / "quarantine.csv"
    if not quarantined:
        path.unlink(missing_ok=True)
        return None
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["record_id", "reason"])
    writer.writerows(quarantined.items())
    write_atomic(path, buffer.getvalue())
    return str(path)
