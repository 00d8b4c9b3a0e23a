"""What every benchmark shares: its command line, its rows, and how they are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pandas

Row = dict[str, Any]
COLUMNS = ("ours", "peer", "ratio", "target", "met", "verdict")


def row(
    metric: str, ours: float, target: float | None, *, peer: float | None = None, more_is_better: bool = False
) -> Row:
    """One row of the result; ``ratio`` is peer / ours where there is a peer."""
    met = None if target is None else bool(ours >= target if more_is_better else ours <= target)
    return {
        "metric": metric,
        "ours": round(ours, 3),
        "peer": None if peer is None else round(peer, 3),
        "ratio": None if peer is None else round(peer / ours, 2),
        "target": target,
        "met": met,
    }


def command_line(
    name: str, doc: str | None, sizes: Iterable[str] = (), default: str = "tiny"
) -> argparse.ArgumentParser:
    """Parser of ``python -m benchmarks.NAME`` with ``--json``, and ``--size`` where there are sizes."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc, formatter_class=formatter)
    if found := sorted(sizes):
        parser.add_argument("--size", choices=found, default=default)
    parser.add_argument("--json", action="store_true", help="print one JSON line last")
    return parser


def show(rows: Sequence[Row], as_json: bool, **more: Any) -> None:
    """The rows as a table on standard error, and as one JSON line with ``more`` beside them on standard output."""
    table = pandas.DataFrame(rows, columns=["metric", *COLUMNS]).set_index("metric").dropna(axis=1, how="all")
    print(table.astype(object).fillna("").to_string(index_names=False), file=sys.stderr)
    if as_json:
        print(json.dumps({"rows": rows, **more}))
