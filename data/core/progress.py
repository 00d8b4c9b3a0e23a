"""Progress bars with time left, for anything that may take more than two seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; yields ``advance(n)``. Plain lines (every 10 %) where there is no terminal."""
    if not sys.stderr.isatty():
        yield _plain(description, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, quiet=_is_quiet())) as progress:
        yield partial(progress.advance, progress.add_task(description, total=total))


def _is_quiet() -> bool:
    return os.environ.get("RADPREF_QUIET") == "1"


def _plain(description: str, total: int) -> Callable[[int], None]:
    done, shown = 0, -1

    def advance(n: int = 1) -> None:
        nonlocal done, shown
        done += n
        tenth = 10 * done // max(total, 1)
        if tenth != shown and not _is_quiet():
            shown = tenth
            sys.stderr.write(f"{description}: {done}/{total}\n")
            sys.stderr.flush()

    return advance


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Iterate over ``items`` under a progress bar of ``total`` steps."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)
