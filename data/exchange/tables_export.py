"""Export what a study measured: events, scores, agreement, pairs and raters as CSV, parquet and Hugging Face datasets.

Input: a study and a folder. Output: ``csv/<table>.csv``, ``parquet/<table>.parquet``, ``datasets/`` (a DatasetDict for
``datasets.load_from_disk``) and MANIFEST.json: every file with its SHA-256, every column with its meaning. The folder
is there whole or not at all; the same command again replaces it. Arms and seeds are in it only when arms may be named.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import sha256_file, storage_errors, write_atomic
from radpref.data.exchange.tables import Column, Table, agreement_table, database_tables
from radpref.data.reader_study.lifecycle import arms_visible, early_unblinding, reveal_arms, stage
from radpref.data.study.migrations import MIGRATIONS
from radpref.data.study.runs import git_revision, now

if TYPE_CHECKING:
    from radpref.data.study.study import Study

MANIFEST = "MANIFEST.json"
KIND = "radpref export"
FORMATS = ("csv", "parquet", "datasets")
HIDDEN = "arms stay hidden until the study is frozen (`radpref study freeze`); arm and seed are left out"
_RISKY = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet runs as a formula: text that starts like one gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.lstrip("'").startswith(_RISKY) else value


def original_cell(text: str) -> str:
    """Undo :func:`safe_cell`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_RISKY) else text


def export(
    study: Study, target: Path, formats: Sequence[str] = FORMATS, *, actor: str, n_boot: int = 1000
) -> dict[str, Any]:
    """Write the folder ``target``; returns {target, tables: {name: rows}, arms: bool, simulated: bool}.

    Raises:
        InvalidInput: an unknown format, or the folder holds something that is no export.
        StorageFull: the disk is full; an earlier export there stays whole.
    """
    for name in formats:
        if name not in FORMATS:
            raise InvalidInput(f"--format {name} is unknown; choose {', '.join(FORMATS)} or all")
    target = Path(target).resolve()
    with whole_folder(target, KIND) as draft:
        arms = arms_visible(study.db)
        if arms:
            reveal_arms(study.db, actor, f"export of scores to {target.name}")
        tables = database_tables(study.db, arms=arms)
        tables.insert(2, agreement_table(study, n_boot))
        for name in formats:
            _WRITERS[name](draft / name, tables)
        simulated = _holds_simulated(tables)
        manifest = {
            **manifest_head(study, draft, KIND, arms=arms, simulated=simulated),
            "formats": list(formats),
            "csv_note": f"text that begins with one of {' '.join(map(repr, _RISKY))} has an apostrophe in front",
            "tables": {table.name: _described_table(table) for table in tables},
        }
        write_atomic(draft / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
    counts = {table.name: len(table.rows) for table in tables}
    return {"target": str(target), "tables": counts, "arms": arms, "simulated": simulated}


@contextmanager
def whole_folder(target: Path, kind: str) -> Iterator[Path]:
    """A draft folder that takes the place of ``target`` when the block ends; on an error an earlier one stays whole.

    ``kind``: what MANIFEST.json of an earlier folder must say for it to be replaced.

    Raises:
        InvalidInput: ``target`` holds something else, or cannot be written.
        StorageFull: the disk is full.
    """
    _refuse_other_folder(target, kind)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with storage_errors(target):
        try:
            try:
                draft.mkdir(parents=True)
            except FileNotFoundError as error:  # a file system that makes no folders, such as /proc
                raise InvalidInput(f"cannot write {target}: {error.strerror}; choose another folder") from error
            yield draft
            _put_in_place(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _refuse_other_folder(target: Path, kind: str) -> None:
    if not target.exists():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    try:
        known = json.loads((target / MANIFEST).read_text(encoding="utf-8")).get("kind") == kind
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        raise InvalidInput(f"{target} exists and is no {kind.removeprefix('radpref ')}; choose a new folder")


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the finished folder to its place; an earlier export steps aside first and is then removed."""
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.replace(old)
    try:
        draft.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


# --- formats -----------------------------------------------------------------------------------------------------


def _write_csv(folder: Path, tables: Sequence[Table]) -> None:
    for table in tables:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([column.name for column in table.columns])
        for row in table.rows:
            writer.writerow([_csv_cell(value) for value in row])
        write_atomic(folder / f"{table.name}.csv", buffer.getvalue())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else safe_cell(value)


def _arrow(table: Table) -> Any:
    """The table as pyarrow, with the columns' meaning and unit as field metadata."""
    import pyarrow as pa

    kinds = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema(
        [pa.field(column.name, kinds[column.kind], metadata=_described(column)) for column in table.columns],
        metadata={"description": table.description},
    )
    values = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    arrays = [pa.array(list(cells), field.type) for cells, field in zip(values, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _described(column: Column) -> dict[str, str]:
    return {"description": column.description} | ({"unit": column.unit} if column.unit else {})


def _write_parquet(folder: Path, tables: Sequence[Table]) -> None:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for table in tables:
        pq.write_table(_arrow(table), folder / f"{table.name}.parquet", compression="zstd")


def _write_datasets(folder: Path, tables: Sequence[Table]) -> None:
    """One split per table that has rows (`datasets` cannot read an empty one back), each with typed features."""
    import datasets

    types = {"text": "string", "int": "int64", "float": "float64", "bool": "bool"}
    found = {}
    for table in tables:
        if table.rows:
            features = datasets.Features({column.name: datasets.Value(types[column.kind]) for column in table.columns})
            info = datasets.DatasetInfo(description=table.description, features=features)
            found[table.name] = datasets.Dataset(_arrow(table).replace_schema_metadata(None), info=info)
    folder.mkdir(parents=True)
    if not found:
        return
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict(found).save_to_disk(str(folder))
    finally:
        if shown:
            datasets.enable_progress_bars()


_WRITERS: dict[str, Callable[[Path, Sequence[Table]], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "datasets": _write_datasets,
}


# --- manifest ----------------------------------------------------------------------------------------------------


def manifest_head(study: Study, draft: Path, kind: str, *, arms: bool, simulated: bool) -> dict[str, Any]:
    """What every manifest says: study, stage, blinding, who scored, versions, and the hash of each file so far."""
    early = early_unblinding(study.db)
    return {
        "kind": kind,
        "created_at": now(),
        "study": study.config.name,
        "title": study.config.title,
        "stage": stage(study.db),
        "unblinded_before_freeze": early
        and {"at": early["at"], "actor": early["actor"], **json.loads(early["detail"])},
        "arms": {"included": arms, "why_not": None if arms else HIDDEN},
        "simulated": simulated,
        "simulated_note": "rows with simulated = true are from programs, not from people" if simulated else None,
        "radpref": _version(),
        "schema": len(MIGRATIONS),
        "git": git_revision(),
        "files": {
            path.relative_to(draft).as_posix(): sha256_file(path) for path in sorted(draft.rglob("*")) if path.is_file()
        },
    }


def _described_table(table: Table) -> dict[str, Any]:
    columns = [
        {"name": column.name, "type": column.kind, "unit": column.unit, "description": column.description}
        for column in table.columns
    ]
    return {"description": table.description, "rows": len(table.rows), "columns": columns}


def _holds_simulated(tables: Sequence[Table]) -> bool:
    for table in tables:
        names = [column.name for column in table.columns]
        if any(row[names.index("simulated")] for row in table.rows):
            return True
    return False


def _version() -> str | None:
    try:
        return importlib.metadata.version("radpref")
    except importlib.metadata.PackageNotFoundError:
        return None
