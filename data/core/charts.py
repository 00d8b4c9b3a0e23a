"""How charts look in every report: colours and markers of the arms, matplotlib settings, drawing to SVG text.

Colours and markers are the same in every figure and tell the arms apart without colour vision.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#66727f", "#dfe3e8"
ARM_STYLE = {
    "real": ("#6b7580", "o"),
    "real_balanced": ("#9a8f5c", "P"),
    "baseline": ("#2f6fb0", "s"),
    "aligned": ("#c4561a", "D"),
    "finetuned": ("#2e8b57", "^"),
    "proxy-filtered": ("#7a4ea3", "v"),
    "proxy-finetuned": ("#a03d63", "X"),
}
SPARE_STYLES = (("#00808a", "*"), ("#8a6d00", "p"), ("#5b6f00", "h"))
RC: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.0,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.linewidth": 0.8,
    "legend.frameon": False, "legend.fontsize": 8.5, "svg.fonttype": "path", "svg.hashsalt": "radpref",
}  # fmt: skip


def arm_style(arm: str) -> tuple[str, str]:
    """(colour, marker) of an arm."""
    if arm in ARM_STYLE:
        return ARM_STYLE[arm]
    return SPARE_STYLES[sum(arm.encode()) % len(SPARE_STYLES)]


def draw(width: float, height: float, plot: Callable[[Figure], None]) -> str:
    """An SVG of ``width`` x ``height`` inches drawn by ``plot``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure

    with mpl.rc_context(RC):
        figure = NewFigure(figsize=(width, height), layout="constrained", facecolor="white")
        plot(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
