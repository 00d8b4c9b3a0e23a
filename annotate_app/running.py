"""What the commands of `radpref annotate` do, without a command line: accounts, the port, agreement as text."""

from __future__ import annotations

import functools
import socket
from typing import Any, get_args

from radpref.annotate_app import invites
from radpref.annotate_app.accounts import generate_password, hash_password
from radpref.data.agreement.rater_quality import study_agreement
from radpref.data.agreement.reliability import icc_basis_text
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study.raters import Role, add_rater, get_rater, set_password_hash
from radpref.data.study.study import Study


def add_account(study: Study, name: str, role: str, password: str | None = None) -> str:
    """Add a person; returns the password (made here unless given).

    Raises:
        InvalidInput: role, name or password is not usable.
        Conflict: the name is taken.
    """
    if role not in get_args(Role):
        raise InvalidInput(f"role '{role}' is unknown; choose rater or admin")
    chosen = password if password is not None else generate_password()
    add_rater(study.db, name, hash_password(chosen), "human", "admin" if role == "admin" else "rater")
    return chosen


def reset_account(study: Study, name: str, password: str | None = None) -> str:
    """Give a person a new password; returns it. Raises NotFound or InvalidInput (a simulated rater)."""
    get_rater(study.db, name)
    chosen = password if password is not None else generate_password()
    set_password_hash(study.db, name, hash_password(chosen))
    return chosen


def invite_link(
    study: Study, name: str, *, role: str | None = None, days: float, base_url: str, reset: bool = False
) -> dict[str, Any]:
    """Make an invitation (or, with ``reset``, take the password away and make a link for a new one).

    Returns {name, link, days, expires_at}. Raises what :func:`radpref.annotate_app.invites.invite` raises.
    """
    link = functools.partial(invites.link, base_url)
    link("")  # a bad address is refused before anything is made
    token = invites.reset(study.db, name, days=days) if reset else invites.invite(study.db, name, role=role, days=days)
    found = invites.find(study.db, token)
    return {"name": found.username, "link": link(token), "days": days, "expires_at": found.expires_at}


def check_port(host: str, port: int) -> None:
    """Find out before the slow imports whether the address can be used.

    Raises:
        Conflict: something listens there already.
        InvalidInput: the address is not this machine's.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as error:
        if error.errno == 98 or "in use" in str(error):
            raise Conflict(f"port {port} of {host} is in use; take another one with --port") from error
        raise InvalidInput(f"cannot listen on {host}:{port} ({error.strerror}); check --host and --port") from error


def run_agreement(study: Study, n_boot: int = 1000) -> dict[str, Any]:
    """Agreement of the study's current scores; see :func:`radpref.data.agreement.reliability.agreement_report`."""
    return study_agreement(study, n_boot=n_boot)


def agreement_lines(report: dict[str, Any]) -> list[str]:
    """The report of :func:`run_agreement` as lines of text."""
    if not report["by_kind"]:
        return ["no scores yet"]
    lines = []
    for kind, part in report["by_kind"].items():
        mark = "SIMULATED raters" if kind == "simulated" else "people"
        lines.append(f"{mark}: {part['n_raters']} raters, {part['n_sets']} sets, {part['n_scores']} scores")
        for criterion, found in part["criteria"].items():
            if "not_computable" in found:
                lines.append(f"  {criterion}: not computable ({found['not_computable']})")
                continue
            for name, value in found["measures"].items():
                text = f"  {criterion:<8} {name:<28} {_measure(value)}"
                lines.append(text + (_icc_note(criterion, found) if name.startswith("icc") else ""))
    return lines


def _icc_note(criterion: str, found: dict[str, Any]) -> str:
    """From which images an ICC is, or why there is none."""
    return f"  ({found['icc_not_computable'] or icc_basis_text(criterion, found)})"


def _measure(found: dict[str, float | None]) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return "not computable"
    return f"{value:6.3f}" if low is None or high is None else f"{value:6.3f}  [{low:.3f}, {high:.3f}]"
