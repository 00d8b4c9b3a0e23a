"""`radpref annotate`: serve the reading room, keep its accounts, report agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The reading room: serve it, keep its accounts, measure agreement.")
rater_app = typer.Typer(no_args_is_help=True, help="Accounts of the reading room.")
app.add_typer(rater_app, name="rater")
StudyPath = Annotated[Path, typer.Option("--study", help="Folder of the study.")]


@app.command()
def serve(
    study: StudyPath = Path(),
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need TLS in front.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    behind_proxy: Annotated[bool, typer.Option(help="Trust X-Forwarded-* of a reverse proxy on this machine.")] = False,
) -> None:
    """Serve the reading room until Ctrl-C."""
    from annotate_app.running import check_port
    from data.raters import list_raters
    from data.study import Study

    opened = Study(study)
    check_port(host, port)
    if not any(rater.kind == "human" for rater in list_raters(opened.db)):
        typer.echo("No accounts yet: nobody can log in. Add one with `radpref annotate rater add NAME`.", err=True)
    from annotate_app.server import serve as run

    typer.echo(f"Reading room: http://{host}:{port}/  (Ctrl-C stops it)")
    run(opened, host, port, behind_proxy=behind_proxy)


@rater_app.command("add")
def rater_add(
    name: str,
    study: StudyPath = Path(),
    role: Annotated[str, typer.Option(help="rater or admin")] = "rater",
    ask: Annotated[bool, typer.Option("--ask", help="Type a password instead of having one made.")] = False,
) -> None:
    """Add a person; a password is made and shown once."""
    from annotate_app.running import add_account
    from data.study import Study

    chosen = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if ask else None
    password = add_account(Study(study), name, role, chosen)
    typer.echo(f"added {role} {name}" if ask else f"added {role} {name}, password: {password}  (shown only now)")


@rater_app.command("reset")
def rater_reset(
    name: str,
    study: StudyPath = Path(),
    ask: Annotated[bool, typer.Option("--ask", help="Type a password instead of having one made.")] = False,
) -> None:
    """Give a person a new password and end their logins; order and scores stay."""
    from annotate_app.running import reset_account
    from data.study import Study

    chosen = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if ask else None
    password = reset_account(Study(study), name, chosen)
    typer.echo(f"reset {name}" if ask else f"reset {name}, new password: {password}  (shown only now)")


@rater_app.command("list")
def rater_list(study: StudyPath = Path(), as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """All raters: role, kind, sets done."""
    from annotate_app.admin import overview
    from data.study import Study

    found = overview(Study(study))
    if as_json:
        typer.echo(json.dumps({"raters": found["raters"], "admins": found["admins"]}))
        return
    for rater in found["raters"]:
        state = "" if rater["active"] else "  retired"
        done = f"{rater['n_done']} of {rater['n_sets']} sets done, {rater['n_skipped']} skipped"
        typer.echo(f"{rater['username']:<24} rater  {rater['kind']:<10} {done}{state}")
    for name in found["admins"]:
        typer.echo(f"{name:<24} admin")


@app.command()
def agreement(
    study: StudyPath = Path(),
    n_boot: Annotated[int, typer.Option(min=0, help="Bootstrap draws over sets.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """ICC(2,1), ICC(2,k), ordinal alpha, kappa and pairwise preference agreement; people and simulated raters apart."""
    from annotate_app.running import agreement_lines, run_agreement
    from data.study import Study

    report = run_agreement(Study(study), n_boot)
    typer.echo(json.dumps(report) if as_json else "\n".join(agreement_lines(report)))
