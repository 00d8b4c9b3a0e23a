"""Measuring networks with random weights."""

from collections.abc import Sequence

from radpref.generation.measuring.architectures import NetworkShape, build_network
from radpref.generation.measuring.measuring_network import MeasureNet, Role


def tiny_measure(
    name: str = "tiny",
    role: Role = "rater",
    seed: int = 0,
    attributes: Sequence[str] = ("normal", "pleural_effusion", "pleural_effusion/left", "pleural_effusion/right"),
    structures: Sequence[str] = ("lungs", "heart"),
) -> MeasureNet:
    """A network with random weights for tests: whole in design, knows nothing."""
    shape = NetworkShape("plain", len(attributes), len(structures), 32, (4, 4, 8, 8), n_features=8)
    return MeasureNet(name, role, shape, tuple(attributes), tuple(structures), build_network(shape, seed).eval())
