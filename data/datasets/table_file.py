"""Table files: CSV, TSV (also gzipped) and parquet, every cell as text. Output: a pandas DataFrame.

CSV as programs of offices write it is read too: a byte-order mark, UTF-16, semicolons or tabs in place of commas.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from radpref.data.core.errors import InvalidInput, NotFound

PARQUET = {".parquet", ".pq"}
BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PACKED = {".zip", ".bz2", ".xz", ".zst", ".tar"}
"""Endings that pandas unpacks itself; the header is not looked at."""
TABLES = {".csv", ".tsv", ".tab", *PARQUET}


def read_table_file(path: Path) -> pd.DataFrame:
    """A table file with every cell as text ("" where blank) and stripped column names.

    Raises:
        NotFound: no such file.
        InvalidInput: a folder, or a file that cannot be parsed.
    """
    if path.is_dir():
        near = sorted(file.name for file in path.iterdir() if TABLES & {part.lower() for part in file.suffixes})
        hint = f"give one of its files: {', '.join(near[:5])}" if near else "give the CSV or parquet file"
        raise InvalidInput(f"{path} is a folder; {hint}")
    if not path.is_file():
        raise NotFound(f"no table at {path}; give the CSV or parquet file")
    suffixes = {part.lower() for part in path.suffixes}
    try:
        if suffixes & PARQUET:
            table = _as_text(pd.read_parquet(path, dtype_backend="pyarrow"))  # whole numbers stay whole beside blanks
        else:
            encoding, separator = _dialect(path, "\t" if suffixes & {".tsv", ".tab"} else ",")
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding=encoding)
    except UnicodeDecodeError as error:
        byte = error.object[error.start : error.start + 1].hex()
        raise InvalidInput(
            f"{path} is not a readable table (byte 0x{byte} is not UTF-8); save it as CSV UTF-8"
        ) from error
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{path} is not a readable table ({reason}); fix it or export it again") from error
    table.columns = [str(name).strip() for name in table.columns]
    return table


def _dialect(path: Path, separator: str) -> tuple[str, str]:
    """(encoding, separator) by the header; another separator than the named one only where that is not in it."""
    if path.suffix.lower() in PACKED:
        return "utf-8-sig", separator
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        head = file.readline(1 << 16)
    encoding = "utf-16" if head.startswith(BOMS) else "utf-8-sig"
    header = head.replace(b"\0", b"").decode("utf-8", "replace")
    others = [other for other in (",", ";", "\t") if other in header]
    return encoding, separator if separator in others or len(others) != 1 else others[0]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: table[name].astype(object).where(table[name].notna(), "").astype(str) for name in table})


def nearest(name: str, present: Sequence[str]) -> str:
    """A hint for a column that is not there: the nearest one, or all that are."""
    near = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(present)}"
