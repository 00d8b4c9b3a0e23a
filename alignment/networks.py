"""Which measuring network plays which role in a study: found by path or name, entered in table ``networks``.

A study's own networks stand in ``<study>/networks/`` (or at a path in study.toml); otherwise the shipped ones are
taken. One network in two roles is refused, by the database too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.errors import InvalidInput
from generation.measuring.measure import MeasureNet, Role, load_measure
from generation.measuring.network_roles import register_network as register_network
from generation.measuring.places import network_path as network_path

if TYPE_CHECKING:
    from data.study import Study


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
