"""The tables of a study (data/exchange/tables.py) as CSV, parquet and Hugging Face `datasets`.

Input: tables. Output: ``csv/<table>.csv``, ``parquet/<table>.parquet`` and ``datasets/`` (a DatasetDict for
``datasets.load_from_disk``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.files import write_atomic
from radpref.data.exchange.export_folder import Written, save_datasets
from radpref.data.exchange.tables import Column, Table, agreement_table, database_tables

if TYPE_CHECKING:
    from radpref.data.study.study import Study

_RISKY = ("=", "+", "-", "@", "\t", "\r")


def write_tables(study: Study, draft: Path, file_types: Sequence[str], *, arms: bool, n_boot: int) -> Written:
    """Events, scores, agreement, pairs and raters, a folder for each of ``file_types`` (keys of `FILE_TYPES`)."""
    tables = database_tables(study.db, arms=arms)
    tables.insert(2, agreement_table(study, n_boot))
    for name in file_types:
        FILE_TYPES[name](draft / name, tables)
    described = {
        "formats": list(file_types),
        "csv_note": f"text that begins with one of {' '.join(map(repr, _RISKY))} has an apostrophe in front",
        "tables": {table.name: _described_table(table) for table in tables},
    }
    counts = {"tables": {table.name: len(table.rows) for table in tables}}
    return Written(counts, described, any(map(_holds_simulated, tables)))


def safe_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet runs as a formula: text that starts like one gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.lstrip("'").startswith(_RISKY) else value


def original_cell(text: str) -> str:
    """Undo :func:`safe_cell`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_RISKY) else text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write one CSV of safe cells (true and false in small letters); returns the number of rows."""
    buffer, n_rows = io.StringIO(), 0
    writer = csv.writer(buffer)
    writer.writerow(header)
    for row in rows:
        writer.writerow([str(value).lower() if isinstance(value, bool) else safe_cell(value) for value in row])
        n_rows += 1
    write_atomic(path, buffer.getvalue())
    return n_rows


def _write_csv(folder: Path, tables: Sequence[Table]) -> None:
    for table in tables:
        write_csv(folder / f"{table.name}.csv", [column.name for column in table.columns], table.rows)


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
    if found:
        save_datasets(found, folder)


FILE_TYPES: dict[str, Callable[[Path, Sequence[Table]], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "datasets": _write_datasets,
}


def _described_table(table: Table) -> dict[str, object]:
    columns = [
        {"name": column.name, "type": column.kind, "unit": column.unit, "description": column.description}
        for column in table.columns
    ]
    return {"description": table.description, "rows": len(table.rows), "columns": columns}


def _holds_simulated(table: Table) -> bool:
    position = [column.name for column in table.columns].index("simulated")
    return any(row[position] for row in table.rows)
