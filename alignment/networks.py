"""Which measuring network plays which role in a study: found by path or name, entered in table ``networks``.

A study's own networks stand in ``<study>/networks/`` (or at a path in study.toml); otherwise the shipped ones are
taken. One network in two roles is refused, by the database too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import Conflict, InvalidInput
from generation.measure import MeasureNet, Role, load_measure

if TYPE_CHECKING:
    from data.study import Study

FOLDER = "networks"


def network_path(study: Study, name: str) -> str | Path:
    """Where the network `name` is: a path (relative ones start at the study), ``networks/<name>`` there, or shipped."""
    for candidate in (study.root / name, study.root / FOLDER / name):
        if candidate.with_name(candidate.name.removesuffix(".json") + ".json").is_file():
            return candidate
    return Path(name).expanduser() if Path(name).is_absolute() else name


def load_network(study: Study, name: str, role: Role) -> MeasureNet:
    """Load a network and enter it in the study under `role`.

    Raises:
        NotFound: there is no such network.
        InvalidInput: it was trained for another role.
        Conflict: this study uses it in another role already.
    """
    net = load_measure(network_path(study, name))
    if net.role != role:
        raise InvalidInput(f"network '{name}' was trained as {net.role}, not as {role}: name one of role {role}")
    register_network(study, net.sha256, role, name)
    return net


def register_network(study: Study, sha256: str, role: Role, name: str) -> None:
    """Enter a network's hash under its role; the same again is harmless.

    Raises:
        Conflict: the same weights already have another role in this study.
    """
    row = study.db.row("SELECT role, name FROM networks WHERE sha256 = ?", [sha256])
    if row is None:
        with study.db.write() as connection:
            connection.execute("INSERT INTO networks VALUES (?, ?, ?)", (sha256, role, name))
    elif row["role"] != role:
        raise Conflict(
            f"network '{name}' ({sha256[:12]}) already is {row['role']} '{row['name']}' here, not {role}: use another"
        )
