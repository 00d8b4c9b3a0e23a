"""Draws the house from the contracts that `make lint` enforces: rooms by floor, packages inside, ways through it.

python docs/examples/house_picture.py docs/images/house.png
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[2]
COLOURS = {
    "annotate_app": "#2f6f8f",
    "downstream": "#7a5195",
    "alignment": "#bc5090",
    "generation": "#d1743c",
    "data": "#3b7d4f",
}
PLACES = {  # x, y, width, height: floors upwards
    "data": (0.02, 0.02, 0.96, 0.27),
    "generation": (0.02, 0.325, 0.96, 0.155),
    "alignment": (0.02, 0.515, 0.46, 0.155),
    "downstream": (0.52, 0.515, 0.46, 0.155),
    "annotate_app": (0.02, 0.705, 0.96, 0.12),
}
SAYS = {
    "annotate_app": "the reading room; of the other rooms it knows data only",
    "downstream": "knows data only",
    "alignment": "knows generation and data",
    "generation": "the model, its training and images; knows data",
    "data": "the study record: one folder, one database. Knows no torch",
}
FILES = ("accounts", "assignment", "blinding", "scoring", "writer", "server", "dashboard", "static/*.js")


def floors(container: str) -> list[str]:
    """Packages of a room from the top floor to the ground, as the contract orders them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract.get("containers") == [f"radpref.{container}"]:
            return [name for layer in contract["layers"] for name in layer.split(" | ")]
    return list(FILES)


def draw(target: Path) -> None:
    """One PNG of 1600 x 1000 pixels."""
    figure, axes = plt.subplots(figsize=(16, 10), dpi=100)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    rounded = "round,pad=0.0,rounding_size=0.008"
    top = (0.02, 0.86, 0.96, 0.1)
    axes.add_patch(FancyBboxPatch(top[:2], top[2], top[3], boxstyle=rounded, fc="#f3f3f3", ec="#555555"))
    axes.text(0.035, 0.925, "radpref", fontsize=20, weight="bold", va="center")
    axes.text(
        0.14, 0.925, "cli: one name a step     rounds: the loop as a list of steps     api: names for a notebook",
        fontsize=14, va="center",
    )  # fmt: skip
    axes.text(
        0.035, 0.883, "imports point down only, inside the rooms from left to right", fontsize=12, color="#555555"
    )
    for room, (x, y, width, height) in PLACES.items():
        colour = COLOURS[room]
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=rounded, fc=colour + "18", ec=colour, lw=2))
        axes.text(x + 0.015, y + height - 0.025, f"{room}/", fontsize=17, weight="bold", color=colour, va="center")
        axes.text(x + 0.2, y + height - 0.025, SAYS[room], fontsize=13, va="center", color="#333333")
        names = floors(room)
        rows = 2 if len(names) > 9 else 1
        columns = -(-len(names) // rows)
        space = (height - 0.05) / rows
        for k, name in enumerate(names):
            left = x + 0.012 + (width - 0.024) * (k % columns) / columns
            low = y + 0.012 + (rows - 1 - k // columns) * space
            box = (width - 0.024) / columns - 0.008
            axes.add_patch(FancyBboxPatch((left, low), box, space - 0.018, boxstyle=rounded, fc="white", ec=colour))
            size = 13 if width > 0.5 else 11
            axes.text(left + box / 2, low + (space - 0.018) / 2, name, ha="center", va="center", fontsize=size)
    figure.savefig(target, bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
