"""Commands about captions and exchange: ``data caption``, ``study export``, ``study import``.

Registered in data/cli/study_commands.py; what is heavy is imported inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpref.data.core.console import JsonOption, StudyOption, confirm, emit

if TYPE_CHECKING:
    from radpref.data.captions.due import Estimate
    from radpref.data.captions.writing import CaptionResult


def caption(
    study: StudyOption = Path(),
    source: Annotated[
        str | None, typer.Option(help="rules (offline) or endpoint; default: captions.source of study.toml.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what the endpoint would cost; ask nothing.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Also replace valid captions that the data set brought.")
    ] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Only records without any caption.")] = False,
    split: Annotated[str | None, typer.Option(help="Only train, val or test.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before reports are sent off this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a five-word caption for every record that has none, or one that breaks the study's rules."""
    import os

    from radpref.data.captions.due import estimate_only
    from radpref.data.captions.writing import write_captions
    from radpref.data.study.study import Study

    opened = Study(study)
    if estimate:
        cost = estimate_only(opened, redo=redo, missing=missing, split=split, limit=limit, environ=os.environ)
        emit(cost, True) if as_json else print_estimate(cost)
        return

    def confirm_sending(expected: Estimate) -> None:
        if not as_json:
            print_estimate(expected)
        if expected.n_to_ask and expected.place != "this machine":
            question = f"Impressions of {expected.n_to_ask} reports leave this machine for {expected.endpoint}."
            confirm(question, yes, as_json)

    found = write_captions(
        opened,
        source,
        redo=redo,
        missing=missing,
        split=split,
        limit=limit,
        environ=os.environ,
        confirm=confirm_sending,
    )
    emit(found, True) if as_json else print_captions(found)


def print_estimate(found: Estimate) -> None:
    """The estimate for people."""
    cost = "unknown: set captions.price_input and price_output" if found.cost is None else f"{found.cost:.2f}"
    typer.echo(
        f"{found.n_due} captions are due, {found.n_reports} of them have a report to ask about; "
        f"{found.n_cached} answers are here already.\n"
        f"{found.n_to_ask} questions to {found.endpoint} ({found.place}), model {found.model}: "
        f"about {found.tokens_sent} tokens sent, {found.tokens_answered} answered; price {cost}."
    )
    if found.place != "this machine":
        typer.echo("Scrubbed impressions leave this machine; scrubbing does not de-identify (docs/texts.md).")


def print_captions(found: CaptionResult) -> None:
    """What was written, for people: counts, what was refused, examples."""
    typer.echo(
        f"{found.n_records} records: {found.n_kept} captions stay, {found.n_due} were due, "
        f"{found.n_written} written ({found.version})."
    )
    if found.broken:
        listed = ", ".join(f"{n} {rule}" for rule, n in found.broken.items())
        typer.echo(f"Captions that were there and broke a rule: {listed}.")
    if not found.n_due:
        return
    by = found.by
    if found.source == "endpoint":
        asked = found.asked
        typer.echo(
            f"By the endpoint {by['endpoint']}, by the rules instead {by['fallback']}, without a report {by['rules']}; "
            f"{asked.n_answers} new answers, {asked.tokens_sent} tokens sent, "
            f"{asked.tokens_answered} answered."
        )
    if found.rejected:
        typer.echo("Answers rejected: " + ", ".join(f"{n} {rule}" for rule, n in found.rejected.items()) + ".")
    if found.n_unread:
        typer.echo(f"{found.n_unread} records say nothing a caption can be made of; what they had stays.")
    typer.echo(f"{found.n_asking} of {found.n_labelled} captions of records with labels ask for one of them.")
    if found.n_conditions_kept:
        typer.echo(f"{found.n_conditions_kept} conditions were drawn from earlier captions and keep their text.")
    for one in found.examples:
        typer.echo(f"  {one.caption:<44} <- {' '.join(one.text.split())[:70]}")


def export(
    target: Annotated[Path, typer.Argument(help="Folder for the files.")],
    study: StudyOption = Path(),
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="csv (the whole database), tables (scores), pick-a-pic, study-jsonl or datasets."
        ),
    ] = "csv",
    raters: Annotated[
        str, typer.Option(help="Whose scores (pick-a-pic, study-jsonl): human, simulated, or auto: the kind there is.")
    ] = "auto",
    ties: Annotated[
        bool | None,
        typer.Option("--ties/--no-ties", help="Pairs scored alike; default: in pick-a-pic, not in study-jsonl."),
    ] = None,
    criterion: Annotated[str | None, typer.Option(help="pick-a-pic: only text or only mask.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every database table as CSV, or scores, preferences and sets for other programs; no arms until they may be named.

    `radpref annotate export` is the same as --format tables, with a choice of file types.
    """
    from radpref.data.exchange.export import ExportOptions
    from radpref.data.exchange.export import export as run
    from radpref.data.exchange.export_folder import HIDDEN
    from radpref.data.reader_study.lifecycle import operator
    from radpref.data.study.study import Study

    options = ExportOptions(raters=raters, ties=ties, criterion=criterion)
    found = run(Study(study), target, format_, options, actor=operator())
    emit(found.to_json(), as_json)
    if not as_json and not found.arms:
        typer.echo(HIDDEN)


def import_sets(
    path: Annotated[Path, typer.Argument(help="The study authors' JSONL file, or the folder that holds it.")],
    study: StudyOption = Path(),
    structure: Annotated[
        str | None, typer.Option(help="What the masks show (of data.structures), where the file does not say.")
    ] = None,
    rater: Annotated[str | None, typer.Option(help="Name for the rater of a file that names none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Import scored sets of four from a pair file; its raters are marked as imported and never log in."""
    from dataclasses import asdict

    from radpref.data.exchange.pair_import import import_study_jsonl
    from radpref.data.study.study import Study

    emit(asdict(import_study_jsonl(Study(study), path, structure=structure, rater=rater)), as_json)
