"""``radpref downstream``: run the grid, write the report."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from radpref.data.core.console import JsonOption, StudyOption

app = typer.Typer(no_args_is_help=True)


@app.command("run")
def run_command(
    study: StudyOption = Path(),
    task: list[str] = typer.Option([], "--task", help="Only this task (may be repeated)."),
    workers: int = typer.Option(1, "--workers", min=1, help="Processes that train cells at the same time."),
    as_json: JsonOption = False,
) -> None:
    """Train every cell that is not finished yet; compare arms."""
    from radpref.data.study.study import Study
    from radpref.downstream.grid import run_grid
    from radpref.downstream.inference.comparisons import PairedComparison

    result = run_grid(Study(study), tasks=task or None, n_workers=workers)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(f"grid {result.run_id}: {len(result.cells)} cells")
    for row in result.comparisons:
        shown = f"{row.difference:+.4f}" if isinstance(row, PairedComparison) else row.reason
        typer.echo(f"  {row.task} {row.fraction:g} {row.multiple}x {row.comparison}: {shown} ({row.verdict})")


@app.command("report")
def report_command(study: StudyOption = Path(), as_json: JsonOption = False) -> None:
    """Write the report (one HTML page, tables as CSV, figures)."""
    from radpref.data.study.study import Study
    from radpref.downstream.report.report import run_report

    path = run_report(Study(study))
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))
