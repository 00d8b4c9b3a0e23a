"""Import records into a study: check the layout, read, quarantine what cannot be used, store in batches, resume.

Input: a study and the name of a reader. Output: rows in ``records``, ``labels``, ``record_masks``; image and mask
files; a run of kind "import" with ``quarantine.csv``. One bad image never stops an import.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.core.files import sha256_file
from radpref.data.core.progress import bar
from radpref.data.core.sqlite import sqlite3
from radpref.data.datasets.quarantine import Quarantine
from radpref.data.datasets.registry import Found, ImportPlan, WrittenRecord, get_reader
from radpref.data.datasets.workers import Load, Outcome, Refused, Source, open_workers
from radpref.data.study.empty_splits import empty_splits
from radpref.data.study.runs import finished_run, start_run
from radpref.data.study.splits import SplitManifest, split_manifest
from radpref.data.study.study import Study

log = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Records per transaction: what an interruption loses at most."""
LARGE = 256 << 20
"""Bytes of inputs from which hashing them shows a bar."""


@dataclass(frozen=True)
class ImportResult:
    """What was there and what became of it.

    n_existing: records the study held before; quarantine: the list of those that could not be used, None where there is
    none; run_id: None where nothing was ever imported; warnings: one line for each split that holds no record.
    """

    reader: str
    found: list[Found]
    n_planned: int
    n_existing: int
    run_id: str | None
    n_imported: int
    n_quarantined: int
    quarantine: str | None
    splits: SplitManifest
    warnings: list[str] = field(default_factory=list)


def import_records(
    study: Study,
    source: str | None = None,
    path: Path | str | None = None,
    *,
    workers: int | None = None,
    on_found: Callable[[tuple[Found, ...]], None] | None = None,
) -> ImportResult:
    """Import all records of a reader (``source``, default ``data.reader``) that the study does not hold yet.

    Without ``path`` those of ``data.path``, which may be several: each gets its own run, counts are summed.
    ``workers``: threads or processes (see `open_workers`); ``on_found`` gets the layout check before any image is read.
    Records that were quarantined are tried again every time.

    Raises:
        InvalidInput: the table cannot be used, no row of it could be, or two data sets name a record alike.
        Conflict: the study holds records of another image size.
        StorageFull: the disk is full; finished batches stay, the next run goes on from there.
    """
    config = study.config.data
    name = source or config.reader
    if path is not None:
        places: list[Path | None] = [Path(path)]
    elif name == "phantom" or config.path is None:
        places = [None]
    else:
        own = (config.path,) if isinstance(config.path, str) else config.path
        places = [study.root / part for part in own]
    if not places:
        raise InvalidInput("data.path is an empty list; name a data set, or leave the line away")
    earlier: set[str] | None = set() if len(places) > 1 else None
    parts = [_import_one(study, name, place, earlier, workers, on_found) for place in places]
    warnings = empty_splits(study)
    for line in warnings:
        log.warning("warning: %s", line)
    return replace(
        parts[-1],
        found=[line for part in parts for line in part.found],
        n_planned=sum(part.n_planned for part in parts),
        n_existing=sum(part.n_existing for part in parts),
        n_imported=sum(part.n_imported for part in parts),
        n_quarantined=sum(part.n_quarantined for part in parts),
        quarantine=next((part.quarantine for part in reversed(parts) if part.quarantine), None),
        warnings=warnings,
    )


def _import_one(
    study: Study,
    name: str,
    where: Path | None,
    earlier: set[str] | None,
    workers: int | None,
    on_found: Callable[[tuple[Found, ...]], None] | None,
) -> ImportResult:
    """Import from one place; ``earlier`` holds the records of the places before it and takes up those of this one."""
    config = study.config.data
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers = {workers}: give at least 1")
    _check_size(study)
    origin = Source(get_reader(name), config, where, study.root)
    plan = origin.plan()
    if on_found is not None:
        on_found(plan.found)
    if earlier is not None:
        _refuse_repeated(plan, earlier, where)
    pending = _pending(study, plan)
    n_planned = len(plan.records)
    n_existing = n_planned - len(pending)
    if not pending:
        done, splits = finished_run(study, "import"), split_manifest(study.db)
        run_id = done.run_id if done else None
        return ImportResult(name, list(plan.found), n_planned, n_existing, run_id, 0, 0, None, splits)
    run_config = {"reader": name, "path": str(where) if where else None, "data": config.model_dump(mode="json")}
    with start_run(study, "import", run_config, _hashes(plan)) as run:
        with (
            closing(Quarantine(run.folder / "quarantine.csv")) as quarantine,
            open_workers(origin, plan, len(pending), workers) as load,
        ):
            _import_pending(study, pending, load, quarantine)
        result = ImportResult(
            name,
            list(plan.found),
            n_planned,
            n_existing,
            run.run_id,
            n_imported=len(pending) - quarantine.n,
            n_quarantined=quarantine.n,
            quarantine=str(quarantine.path) if quarantine.n else None,
            splits=split_manifest(study.db),
        )
        run.result = asdict(result)
    if quarantine.n and quarantine.n == n_planned:
        raise InvalidInput(f"no record of {where or name} could be used, first reason: {quarantine.first}")
    return result


def _refuse_repeated(plan: ImportPlan, earlier: set[str], where: Path | None) -> None:
    """Two tables that name their records alike would hide each other: the second would count as already there."""
    own = set(map(plan.records.record_id, range(len(plan.records))))
    if both := sorted(own & earlier):
        raise InvalidInput(
            f"{where} and a data set before it both have a record {both[0]}; name a column of identifiers that differ"
            " as data.columns.record, or put both tables into one folder above their images"
        )
    earlier |= own


def _pending(study: Study, plan: ImportPlan) -> list[int]:
    """Positions in the plan of what the study does not hold yet."""
    existing = {str(row["record_id"]) for row in study.db.rows("SELECT record_id FROM records")}
    return [i for i in range(len(plan.records)) if plan.records.record_id(i) not in existing]


def _hashes(plan: ImportPlan) -> dict[str, str]:
    """Name -> SHA-256 of the plan's inputs; two of one name carry their folders' names. A bar where it takes long."""
    names = [path.name for path in plan.inputs]
    keys = [
        path.name if names.count(path.name) == 1 else f"{path.resolve().parent.name}/{path.name}"
        for path in plan.inputs
    ]
    n_bytes = sum(path.stat().st_size for path in plan.inputs)
    with bar("hash", n_bytes) if n_bytes >= LARGE else nullcontext() as advance:
        return {key: sha256_file(path, advance) for key, path in zip(keys, plan.inputs, strict=True)}


def _check_size(study: Study) -> None:
    size = study.config.data.image_size
    other = study.db.value(
        "SELECT i.width FROM records r JOIN images i ON i.sha256 = r.image_sha WHERE i.width <> ? LIMIT 1", (size,)
    )
    if other is not None:
        raise Conflict(
            f"the study holds records of {other} px, data.image_size is {size}; set it back or make a new study"
        )


def _import_pending(study: Study, pending: Sequence[int], load: Load, quarantine: Quarantine) -> None:
    """Load and store batch by batch: a batch is in the database, and its refusals in the file, before the next."""
    with bar("import", len(pending)) as advance:
        for start in range(0, len(pending), BATCH_SIZE):
            outcomes = []
            for outcome in load(pending[start : start + BATCH_SIZE]):
                outcomes.append(outcome)
                advance(1)
            quarantine.add(_store_batch(study, outcomes))


def _store_batch(study: Study, outcomes: Iterable[Outcome]) -> list[Refused]:
    """Store records in one transaction; returns those refused, when loaded or now."""
    refused = []
    with study.db.write() as connection:
        for outcome in outcomes:
            found = outcome if isinstance(outcome, Refused) else _store_record(study, connection, outcome)
            if found is not None:
                refused.append(found)
    return refused


def _store_record(study: Study, connection: sqlite3.Connection, record: WrittenRecord) -> Refused | None:
    """Store one record inside an open transaction; returns a refusal instead where it must not be stored."""
    reason = _contradiction(connection, record)
    if reason is not None:
        return Refused(record.record_id, reason)
    try:
        study.store.add_image(connection, record.image, "real")
    except Conflict as error:
        return Refused(record.record_id, str(error))
    connection.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.record_id, record.dataset, record.patient_id, record.split, record.image.sha256, record.caption,
         record.report, json.dumps(record.extra, ensure_ascii=False)),
    )  # fmt: skip
    labels = [(record.record_id, name, value) for name, value in record.labels.items()]
    connection.executemany("INSERT INTO labels VALUES (?, ?, ?)", labels)
    for structure, mask in record.masks.items():
        study.store.add_mask(connection, mask)
        connection.execute("INSERT INTO record_masks VALUES (?, ?, ?)", (record.record_id, structure, mask.sha256))
    return None


def _contradiction(connection: sqlite3.Connection, record: WrittenRecord) -> str | None:
    """Why the record contradicts those stored: its identifier, its patient's split, or its image's twin."""
    if connection.execute("SELECT 1 FROM records WHERE record_id = ?", (record.record_id,)).fetchone():
        return f"the source holds {record.record_id} twice; keep one of them"
    other = connection.execute(
        "SELECT split FROM records WHERE dataset = ? AND patient_id = ? AND split <> ?",
        (record.dataset, record.patient_id, record.split),
    ).fetchone()
    if other is not None:
        return f"patient {record.patient_id} is in {record.split} and in {other[0]}; keep a patient in one split"
    twin = connection.execute(
        "SELECT record_id, dataset, patient_id, split FROM records WHERE image_sha = ?", (record.image.sha256,)
    ).fetchone()
    if twin is None:
        return None
    name, dataset, patient, split = twin
    if (dataset, patient) == (record.dataset, record.patient_id):
        return f"the image is identical to that of {name}; keep one of them"
    reason = f"the image maps to two patients: it is identical to that of {name} (patient {patient} in {split})"
    return f"{reason}, here patient {record.patient_id} in {record.split}; find out whose it is"
