"""`radpref annotate`: serve the reading room, keep its accounts, report agreement."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpref.data.core.console import JsonOption, StudyOption
from radpref.data.core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from radpref.annotate_app.invites import InviteLink

app = typer.Typer(no_args_is_help=True, help="The reading room: serve it, keep its accounts, measure agreement.")
rater_app = typer.Typer(no_args_is_help=True, help="Accounts of the reading room.")
app.add_typer(rater_app, name="rater")
LOCAL = "http://127.0.0.1:7860"
DaysOption = Annotated[float, typer.Option(help="Days until the link expires, at most 90.")]
BaseUrl = Annotated[str, typer.Option(help="Address under which people open the reading room.")]


@app.command()
def serve(
    study: StudyOption = Path(),
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need TLS in front.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    behind_reverse_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Trust X-Forwarded-* of a reverse proxy on this machine.")
    ] = False,
) -> None:
    """Serve the reading room until Ctrl-C."""
    from radpref.data.reader_study.lifecycle import require_locked_config
    from radpref.data.reader_study.raters import list_raters
    from radpref.data.study.study import Study

    opened = Study(study)
    require_locked_config(opened)
    check_port(host, port)
    if not any(rater.kind == "human" for rater in list_raters(opened.db)):
        typer.echo(
            "No accounts yet: nobody can log in. Invite somebody with `radpref annotate rater invite NAME`.", err=True
        )
    from radpref.annotate_app.server import serve as run

    typer.echo(f"Reading room: http://{host}:{port}/  (Ctrl-C stops it)")
    run(opened, host, port, behind_reverse_proxy=behind_reverse_proxy)


def check_port(host: str, port: int) -> None:
    """Find out before the slow imports whether the address can be used.

    Raises:
        Conflict: something listens there already.
        InvalidInput: the address is not this machine's.
    """
    import socket

    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as error:
        if error.errno == errno.EADDRINUSE or "in use" in str(error):
            raise Conflict(f"port {port} of {host} is in use; take another one with --port") from error
        raise InvalidInput(f"cannot listen on {host}:{port} ({error.strerror}); check --host and --port") from error


@rater_app.command("add")
def rater_add(
    name: str,
    study: StudyOption = Path(),
    role: Annotated[str, typer.Option(help="rater or admin")] = "rater",
    ask: Annotated[bool, typer.Option("--ask", help="Type a password instead of having one made.")] = False,
) -> None:
    """Add a person; a password is made and shown once."""
    from radpref.annotate_app.accounts import add_account
    from radpref.data.study.study import Study

    chosen = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if ask else None
    password = add_account(Study(study).db, name, role, chosen)
    typer.echo(f"added {role} {name}" if ask else f"added {role} {name}, password: {password}  (shown only now)")


@rater_app.command("invite")
def rater_invite(
    name: str,
    study: StudyOption = Path(),
    role: Annotated[str | None, typer.Option(help="rater (default) or admin")] = None,
    days: DaysOption = 7.0,
    base_url: BaseUrl = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """Make a link by which a person (added if new) sets a password: once, for some days. Voids older links."""
    from radpref.annotate_app.invites import make_link
    from radpref.data.study.study import Study

    _show_link(make_link(Study(study).db, name, role=role, days=days, base_url=base_url), as_json)


def _show_link(found: InviteLink, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    until = found.expires_at[:16].replace("T", " ")
    typer.echo(f"{found.link}\nFor {found.name} alone: works once, until {until} UTC, and is shown only now.")


@rater_app.command("reset")
def rater_reset(
    name: str,
    study: StudyOption = Path(),
    ask: Annotated[bool, typer.Option("--ask", help="Type a password.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Have a password made and shown once.")] = False,
    days: DaysOption = 7.0,
    base_url: BaseUrl = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """End a person's password and logins and make a link for a new one; order and scores stay."""
    from radpref.annotate_app.accounts import reset_account
    from radpref.annotate_app.invites import make_link
    from radpref.data.study.study import Study

    opened = Study(study)
    if not ask and not password:
        _show_link(make_link(opened.db, name, days=days, base_url=base_url, new_password=True), as_json)
        return
    chosen = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if ask else None
    made = reset_account(opened.db, name, chosen)
    if as_json:
        typer.echo(json.dumps({"name": name} if ask else {"name": name, "password": made}))
    else:
        typer.echo(f"reset {name}" if ask else f"reset {name}, new password: {made}  (shown only now)")


@rater_app.command("retire")
def rater_retire(name: str, study: StudyOption = Path()) -> None:
    """End a person's part: no login, no new score. What was scored stays, and everybody's order too."""
    from radpref.data.reader_study.raters import retire
    from radpref.data.study.study import Study

    typer.echo(f"retired {retire(Study(study).db, name).username}; scores stay, `rater reinstate` undoes it")


@rater_app.command("reinstate")
def rater_reinstate(name: str, study: StudyOption = Path()) -> None:
    """Let a retired person log in again and go on where they stopped."""
    from radpref.data.reader_study.raters import reinstate
    from radpref.data.study.study import Study

    typer.echo(f"reinstated {reinstate(Study(study).db, name).username}")


@rater_app.command("admit")
def rater_admit(name: str, study: StudyOption = Path()) -> None:
    """Let a rater go on from training to scoring whatever the training's result was; written down."""
    from radpref.data.reader_study.raters import admit
    from radpref.data.study.study import Study

    typer.echo(f"admitted {admit(Study(study).db, name).username}")


@rater_app.command("list")
def rater_list(study: StudyOption = Path(), as_json: JsonOption = False) -> None:
    """All raters: role, kind, sets done."""
    from radpref.annotate_app.admin import overview
    from radpref.data.study.study import Study

    found = overview(Study(study))
    if as_json:
        typer.echo(json.dumps({"raters": [asdict(rater) for rater in found.raters], "admins": found.admins}))
        return
    for rater in found.raters:
        waiting = rater.kind == "human" and not rater.has_password
        state = "  no password yet" if waiting else "" if rater.active else "  retired"
        done = f"{rater.n_done} of {rater.n_sets} sets done, {rater.n_skipped} skipped"
        typer.echo(f"{rater.username:<24} rater  {rater.kind:<10} {done}{state}")
    for name in found.admins:
        typer.echo(f"{name:<24} admin")


@app.command()
def agreement(
    study: StudyOption = Path(),
    n_boot: Annotated[int, typer.Option(min=0, help="Bootstrap draws over sets.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """ICC(2,1), ICC(2,k), ordinal alpha, kappa and pairwise preference agreement; people and simulated raters apart."""
    from radpref.data.agreement.rater_quality import study_agreement
    from radpref.data.agreement.reliability import agreement_lines
    from radpref.data.study.study import Study

    report = study_agreement(Study(study), n_boot=n_boot)
    typer.echo(json.dumps(asdict(report)) if as_json else "\n".join(agreement_lines(report)))


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="Folder for the export; an earlier one there is replaced.")],
    study: StudyOption = Path(),
    format_: Annotated[str, typer.Option("--format", help="csv, parquet, datasets (Hugging Face) or all.")] = "all",
    n_boot: Annotated[int, typer.Option(min=0, help="Bootstrap draws of the agreement intervals.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Events, scores, agreement, pairs and raters, with a manifest. Arms are in it only when they may be named.

    The same as `radpref study export --format tables`, with a choice of file types.
    """
    from radpref.data.exchange.export import ExportOptions
    from radpref.data.exchange.export import export as run
    from radpref.data.exchange.export_folder import HIDDEN, SIMULATED
    from radpref.data.exchange.table_files import FILE_TYPES
    from radpref.data.reader_study.lifecycle import operator
    from radpref.data.study.study import Study

    file_types = tuple(FILE_TYPES) if format_ == "all" else (format_,)
    options = ExportOptions(file_types=file_types, n_boot=n_boot)
    found = run(Study(study), target, "tables", options, actor=operator())
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    typer.echo(f"{found.target}: " + ", ".join(f"{n} {name}" for name, n in found.counts["tables"].items()))
    if not found.arms:
        typer.echo(HIDDEN)
    if found.simulated:
        typer.echo(f"Simulated raters are in it: {SIMULATED}.")


@app.command()
def plan(
    raters: Annotated[int, typer.Option(help="How many people will score.")],
    hours: Annotated[float, typer.Option(help="Hours each of them has.")],
    study: StudyOption = Path(),
    sets: Annotated[
        int | None, typer.Option(help="Rating sets; default: the study's, or sets.n of study.toml.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="Readers of each set; default: a table of several.")] = None,
    seconds_per_set: Annotated[
        float | None, typer.Option(help="Default: measured from submitted sets, else 60 s.")
    ] = None,
    icc: Annotated[float, typer.Option(help="Agreement you expect, ICC(2,1).")] = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Coverage: how many sets each rater scores in the hours, by how many raters, and what precision that buys."""
    from radpref.data.agreement.planning import plan as run
    from radpref.data.agreement.planning import plan_lines
    from radpref.data.study.study import Study

    found = run(Study(study), raters=raters, hours=hours, sets=sets, overlap=overlap, seconds=seconds_per_set, icc=icc)
    typer.echo(json.dumps(asdict(found)) if as_json else "\n".join(plan_lines(found)))
