"""Commands of ``radpref study`` and ``radpref data``; what is heavy is imported inside the commands."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpref.data.cli import texts_commands as cli_texts
from radpref.data.core.console import JsonOption, StudyOption, confirm, emit

if TYPE_CHECKING:
    from radpref.data.datasets.registry import Found
    from radpref.data.reader_study.lifecycle import OpenWork, StudyStatus
    from radpref.data.upkeep.overview import Overview

study_app = typer.Typer(no_args_is_help=True)
data_app = typer.Typer(no_args_is_help=True)


@study_app.command()
def new(
    path: Annotated[Path, typer.Argument(help="Folder to make.")],
    name: Annotated[str | None, typer.Option(help="Short name; default: the folder's name.")] = None,
    template: Annotated[str, typer.Option(help="default, demo, or table (your own images).")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Make a study folder with a commented study.toml."""
    from radpref.data.study.study import Study
    from radpref.data.study.templates import named_template

    study = Study.create(path, named_template(template, name or path.resolve().name))
    config = study.config.data
    source = f" {config.reader} PATH" if config.reader != "phantom" and config.path is None else ""
    following = f"radpref data import{source} --study {shlex.quote(str(path))}"
    if as_json:
        emit({"study": str(study.root), "next": following}, True)
    else:
        print(f"Made {study.root}. Look at {study.root / 'study.toml'}, then:\n  {following}")


@study_app.command()
def show(study: StudyOption = Path(), as_json: JsonOption = False) -> None:
    """Stage of the study, what may be done next, and counts of what it holds."""
    from radpref.data.reader_study.lifecycle import status
    from radpref.data.study.study import Study
    from radpref.data.upkeep.overview import overview

    opened = Study(study)
    found, stage = overview(opened), status(opened)
    if as_json:
        emit({**asdict(found), "stage": asdict(stage)}, True)
    else:
        _show_table(found)
        _show_stage(stage)


def _show_table(found: Overview) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found.name}  {found.study}", title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    for section in ("records", "images", "sets", "raters", "scores", "runs", "models"):
        counts: dict[str, int] = getattr(found, section)
        for key, count in counts.items():
            table.add_row(f"{section}: {key}", str(count))
        if not counts:
            table.add_row(section, "0")
    Console().print(table)
    print(f"next: {found.next}")


def _show_stage(stage: StudyStatus) -> None:
    last = stage.history[-1] if stage.history else None
    since = f", since {last.at[:16].replace('T', ' ')} UTC ({last.actor})" if last else ""
    print(f"stage: {stage.stage}{since}; you may:")
    for line in stage.may:
        print(f"  - {line}")
    if stage.n_open:
        print(f"  {stage.n_open} sets are still to be scored by people")
    if stage.not_begun:
        print(f"  not begun: {', '.join(stage.not_begun)}")
    if stage.unblinded:
        early = stage.unblinded
        print(f"  unblinded before the freeze by {early.actor}: {early.reason}")
    for line in stage.changed:
        print(f"  study.toml was changed after the lock: {line}")


YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@study_app.command()
def lock(
    study: StudyOption = Path(),
    keep_scores: Annotated[
        bool, typer.Option("--keep-scores", help="Count the pilot's scores in the analysis; this is written down.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fix the sets and the annotate section. Pilot scores leave the analysis; people score everything anew."""
    from radpref.data.reader_study import lifecycle
    from radpref.data.study.study import Study

    opened = Study(study)
    pilot = lifecycle.pilot_scores(opened.db)
    if pilot.n_scores and not keep_scores and lifecycle.stage(opened.db) == "pilot":
        left = f"{pilot.n_scores} scores of {pilot.n_raters} people are a pilot's and leave the analysis at the lock"
        confirm(f"{left} (--keep-scores keeps them). There is no way back.", yes, as_json)
    emit(lifecycle.lock(opened, lifecycle.operator(), keep_scores=keep_scores), as_json)


@study_app.command()
def freeze(study: StudyOption = Path(), yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Close scoring for ever; from then on arms may be named. Says who has sets left."""
    from radpref.data.reader_study import lifecycle
    from radpref.data.study.study import Study

    opened = Study(study)
    if lifecycle.stage(opened.db) == "locked":
        question = "Scoring closes for ever."
        question = " ".join([*_left_open(lifecycle.open_work(opened.db)), question])
        confirm(question, yes, as_json)
    emit(lifecycle.freeze(opened, lifecycle.operator()), as_json)


def _left_open(left: list[OpenWork]) -> list[str]:
    """Sentences about what people have not scored."""
    found = []
    if behind := [one for one in left if one.n_open]:
        names = ", ".join(f"{one.username} {one.n_open} of {one.n_sets}" for one in behind)
        n_open, n_begun = sum(one.n_open for one in behind), sum(one.n_begun for one in behind)
        found.append(f"{n_open} sets are not scored ({names}), {n_begun} of them begun.")
    if absent := [one.username for one in left if not one.n_sets]:
        found.append(f"Not begun at all: {', '.join(absent)}.")
    return found


@study_app.command()
def unblind(
    reason: Annotated[str, typer.Option(help="Why the arms must be known now; every later report shows it.")],
    study: StudyOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Name the arms before the freeze, in an emergency. Written down for ever, with who and why."""
    from radpref.data.reader_study import lifecycle
    from radpref.data.study.study import Study

    opened, actor = Study(study), lifecycle.operator()
    lifecycle.unblind(opened.db, actor, reason)
    emit({"unblinded": True, "actor": actor, "reason": reason.strip()[:500]}, as_json)


@study_app.command()
def verify(study: StudyOption = Path(), as_json: JsonOption = False) -> None:
    """Re-hash files, check the record against its rules and test patients against leakage. Exit code 1 on problems."""
    import radpref.data.upkeep.verify
    from radpref.data.study.study import Study

    found = radpref.data.upkeep.verify.verify(Study(study))
    if as_json:
        emit(found, True)
    else:
        for line in found.notes:
            print(f"note: {line}")
        for line in found.problems:
            print(f"problem: {line}")
        counts = ", ".join(f"{count} {name}" for name, count in found.checked.items())
        print(f"{'ok' if found.ok else str(len(found.problems)) + ' problems'} ({counts})")
    if not found.ok:
        raise typer.Exit(1)


@study_app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="Backup folder; a later backup adds only what is new.")],
    study: StudyOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Copy the study, consistently, while the reading room may go on. Logins are left out."""
    import radpref.data.upkeep.backup
    from radpref.data.study.study import Study

    emit(radpref.data.upkeep.backup.backup(Study(study), target), as_json)


@study_app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `study backup` wrote.")],
    path: Annotated[Path, typer.Argument(help="New folder for the study.")],
    as_json: JsonOption = False,
) -> None:
    """Make a study from a backup; every file is checked against its hash."""
    import radpref.data.upkeep.backup

    emit(radpref.data.upkeep.backup.restore(source, path), as_json)


@data_app.command("import")
def import_command(
    dataset: Annotated[
        str | None, typer.Argument(help="A reader (radpref data list names them); default: data.reader of study.toml.")
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="The data set: a table, an archive or a folder.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads, or processes for large sets; default: 4 threads, a process per core.")
    ] = None,
    study: StudyOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Check what is there, then import images, labels, masks, texts. Run again to resume; unusable ones are listed."""
    from radpref.data.datasets.importing import import_records
    from radpref.data.study.study import Study

    result = import_records(Study(study), dataset, path, workers=workers, on_found=None if as_json else _show_found)
    shown = {key: value for key, value in asdict(result).items() if key not in ("found", "warnings")}  # printed already
    emit(result if as_json else shown, as_json)


def _show_found(found: tuple[Found, ...]) -> None:
    """The layout check: what is there beside what the published set holds."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="found", title_justify="left")
    for name in ("what", "here", "published"):
        table.add_column(name, justify="left" if name == "what" else "right")
    table.add_column("note", overflow="fold")
    for line in found:
        published = "" if line.expected is None else str(line.expected)
        gap = f"{line.found - line.expected:+d}" if line.expected not in (None, line.found) else ""
        table.add_row(line.what, str(line.found), published, "; ".join(part for part in (gap, line.note) if part))
    Console().print(table)


@data_app.command("list")
def list_command(study: StudyOption = Path(), as_json: JsonOption = False) -> None:
    """List the readers, and records, patients, labels and masks per split."""
    from radpref.data.study.study import Study
    from radpref.data.upkeep.overview import data_overview

    emit(data_overview(Study(study)), as_json)


data_app.command("caption")(cli_texts.caption)
study_app.command("export")(cli_texts.export)
study_app.command("import")(cli_texts.import_sets)
