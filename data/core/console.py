"""What every command asks for and prints: ``--study``, ``--json``; a result as words, or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radpref.data.core.errors import Conflict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

StudyOption = Annotated[Path, typer.Option("--study", help="Folder of the study.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]


def confirm(question: str, yes: bool, as_json: bool) -> None:
    """Ask before going on, unless ``yes`` (--yes).

    Raises:
        Conflict: nobody can be asked: no terminal, or a script reads the output.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise Conflict(f"{question} Repeat the command with --yes to go on")
    typer.confirm(f"{question} Go on?", abort=True)


def emit(result: Mapping[str, Any] | DataclassInstance, as_json: bool) -> None:
    """Print a result, a mapping or a dataclass: one JSON object, or one indented line per value."""
    result = result if isinstance(result, Mapping) else asdict(result)
    if as_json:
        typer.echo(json.dumps(dict(result), default=str))
    else:
        typer.echo("\n".join(_lines(result, 0)))


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Mapping):
        found: list[str] = []
        for key, inner in value.items():
            if isinstance(inner, Mapping | list | tuple) and inner:
                found += [f"{pad}{key}:", *_lines(inner, depth + 1)]
            else:
                found.append(f"{pad}{key}: {_word(inner)}")
        return found
    if isinstance(value, list | tuple):
        return [line for inner in value for line in _lines(inner, depth)]
    return [f"{pad}{_word(value)}"]


def _word(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
