"""One network, one role: entering measuring networks in a study's table ``networks``, which refuses a second role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpref.data.core.errors import Conflict, InvalidInput
from radpref.generation.measuring.measuring_network import MeasureNet, Role, load_measure
from radpref.generation.measuring.network_files import network_path

if TYPE_CHECKING:
    from radpref.data.study.study import Study


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


def load_network(study: Study, name: str, role: Role) -> MeasureNet:
    """Load a network and enter it in the study under `role`; errors as `load_measure` and `register_network`.

    Raises:
        InvalidInput: it was trained for another role.
    """
    net = load_measure(network_path(study, name))
    if net.role != role:
        raise InvalidInput(f"network '{name}' was trained as {net.role}, not as {role}: name one of role {role}")
    register_network(study, net.sha256, role, name)
    return net
