"""Progress bars with time left, for anything that may take more than two seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def _console() -> object:
    from rich.console import Console

    return Console(stderr=True, quiet=os.environ.get("RADPREF_QUIET") == "1")


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; yields ``advance(n)``. Plain lines (every 10 %) where there is no terminal."""
    if not sys.stderr.isatty():
        yield _plain(description, total)
        return
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
    with Progress(*columns, console=_console()) as progress:  # type: ignore[arg-type]
        task = progress.add_task(description, total=total)

        def advance(n: int = 1) -> None:
            progress.advance(task, n)

        yield advance


def _plain(description: str, total: int) -> Callable[[int], None]:
    state = {"done": 0, "shown": -1}
    quiet = os.environ.get("RADPREF_QUIET") == "1"

    def advance(n: int = 1) -> None:
        state["done"] += n
        tenth = 10 * state["done"] // max(total, 1)
        if tenth != state["shown"] and not quiet:
            state["shown"] = tenth
            sys.stderr.write(f"{description}: {state['done']}/{total}\n")
            sys.stderr.flush()

    return advance


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Iterate over ``items`` under a progress bar of ``total`` steps."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)
