"""The command line: one name per step of the loop; ``demo`` and ``round`` run the whole loop.

Room commands live in ``<room>/cli.py`` and import what is heavy inside the commands, so that
``radpref --help`` answers at once. Anything a user got wrong is one line and exit code 2.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import radpref.alignment.cli
import radpref.annotate_app.cli
import radpref.data.cli
import radpref.downstream.cli
import radpref.generation.cli
from radpref.data.core.console import JsonOption, StudyOption, emit
from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.data.core.files import system_error

app = typer.Typer(
    epilog="The loop: study new, data import, generate sets, annotate serve, align pairs, align train, align evaluate, "
    "generate pool, downstream run, downstream report. See docs/tutorial.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _room, _help in (
    ("study", radpref.data.cli.study_app, "Make, show, verify, back up and export a study."),
    ("data", radpref.data.cli.data_app, "Import real (or phantom) images with labels, masks and reports."),
    ("generate", radpref.generation.cli.app, "Train the generator; sample sets and pools; measure fidelity."),
    ("annotate", radpref.annotate_app.cli.app, "Serve the reading room, manage raters, measure agreement, simulate."),
    ("align", radpref.alignment.cli.app, "Scores to pairs, Diffusion-DPO, held-out evaluation."),
    ("downstream", radpref.downstream.cli.app, "Train classifiers and segmenters on real and augmented data; report."),
):
    app.add_typer(_room, name=_name, help=_help)
round_app = typer.Typer(
    help="One full round of the loop; stops where people must score and resumes after.", no_args_is_help=True
)
app.add_typer(round_app, name="round")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"radpref {importlib.metadata.version('radpref')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Radiologist preferences for synthetic chest X-rays: sample sets, score blinded, align, prove it downstream."""


radpref.annotate_app.cli.app.command("simulate")(radpref.alignment.cli.simulate)


@round_app.command("run")
def round_run(
    study: StudyOption = Path(),
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Let the simulated raters of study.toml score.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run every step that is not done yet. Stops with exit code 3 while people still have sets to score."""
    from radpref import rounds
    from radpref.data.study.study import Study

    outcome = rounds.run_round(Study(study), simulated=simulated)
    emit(outcome, as_json)
    if outcome["state"] == "waiting for raters":
        raise typer.Exit(3)


@app.command()
def demo(
    study: Annotated[
        Path | None, typer.Option("--study", help="Study folder; default studies/demo, or studies/demo-MODEL.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="embedded: digital phantoms; cxr128: a generator of real radiographs.")
    ] = "embedded",
    size: Annotated[
        str, typer.Option(help="demo: sized to ten minutes on two cores; full: the study's real numbers.")
    ] = "demo",
    serve: Annotated[bool, typer.Option(help="Serve the reading room and the report afterwards.")] = True,
    port: Annotated[int, typer.Option(help="Port on the loopback address.")] = 7860,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on a shipped model, then serve the reading room and the report. Run again to resume."""
    from radpref import rounds

    root = study or Path("studies/demo" if model == "embedded" else f"studies/demo-{model}")
    rounds.run_demo(root, size=size, serve=serve, port=port, as_json=as_json, model=model)


UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""An unknown command or option, or a value of the wrong kind; typer brings click's errors under its own name."""
INTERRUPTED = 130


def main() -> None:
    """Entry point: errors of the user are one line on standard error and exit code 2."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        refuse_empty(sys.argv[1:])
        code = app(standalone_mode=False, prog_name="radpref")
    except RadprefError as error:
        _refuse(str(error), type(error).__name__)
    except UsageError as error:
        _refuse(_usage_message(error), "InvalidInput")
    except typer.Abort:
        code = INTERRUPTED
    except OSError as error:
        refusal = system_error(error)
        if refusal is None:
            raise
        _refuse(str(refusal), type(refusal).__name__)
    if code == INTERRUPTED:
        print("radpref: interrupted; run the same command again to go on where it stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def refuse_empty(words: Sequence[str]) -> None:
    """An empty word is a shell variable that was not set; as a path it would mean the current folder.

    Raises:
        InvalidInput: an option or argument is empty.
    """
    for before, word in zip(["", *words], words, strict=False):
        if word.strip() == "":
            name = before if before.startswith("-") and "=" not in before else "an argument"
        elif re.fullmatch(r"--[\w-]+=\s*", word):
            name = word.split("=")[0]
        else:
            continue
        raise InvalidInput(f"{name} is empty; give a value, or leave it out")


def _refuse(message: str, kind: str) -> NoReturn:
    if message and "--json" in sys.argv:
        print(json.dumps({"error": message, "kind": kind}))
    if message:
        print(f"radpref: {message}", file=sys.stderr)
    sys.exit(2)


def _usage_message(error: Exception) -> str:
    """What is wrong with the command's words and where its help is; empty where the help was printed instead."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    message = " ".join(str(getattr(error, "format_message", error.__str__)()).split())
    command = getattr(getattr(error, "ctx", None), "command_path", "radpref")
    return f"{message.rstrip('.')}; see `{command} --help`"
