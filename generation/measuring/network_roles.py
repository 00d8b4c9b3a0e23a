"""One network, one role: entering measuring networks in a study's table ``networks``, which refuses a second role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.errors import Conflict
from generation.measuring.measure import Role

if TYPE_CHECKING:
    from data.study import Study


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
