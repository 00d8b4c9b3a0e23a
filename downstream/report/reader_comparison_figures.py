"""Charts of the reader comparison: gains and win rates with intervals, shares of pairs won, example sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.core.charts import INK, MUTED, arm_style, draw
from radpref.downstream.inference.reader_comparison import RELEVANT_GAIN, ArmsRead, Estimate, GainRow
from radpref.downstream.report.reader_comparison_views import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIE = "#d5d9de"


def forest(part: ArmsRead) -> str:
    """Gain (left) and win rate (right) per mode and criterion; dots: each rater's mean over all modes."""
    rows = part.rows
    style = arm_style(part.second)
    ends = [end for row in rows for end in (row.gain.value, *(row.gain.ci or ()), *(row.gain.ci_bootstrap or ()))]
    reach = min(5.0, max([RELEVANT_GAIN * 1.5, *map(abs, ends)]) * 1.1)

    def plot(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        left.axvspan(-RELEVANT_GAIN, RELEVANT_GAIN, color="#eef1f4", zorder=0)
        _estimates(left, 0.0, [(row.role, row.gain) for row in rows], [one.gain for one in part.raters], style)
        _estimates(right, 0.5, [(row.role, row.win_rate) for row in rows], [one.win_rate for one in part.raters], style)
        _finish(left, right, rows, reach)

    return draw(8.6, 1.05 + 0.46 * len(rows), plot)


def _estimates(
    ax: Axes, zero: float, rows: Sequence[tuple[str, Estimate]], raters: Sequence[float], style: tuple[str, str]
) -> None:
    """One line per row: interval of the model thick, of the bootstrap thin below it; each rater above the first."""
    colour, marker = style
    ax.axvline(zero, color=INK, linewidth=0.9)
    for y, (role, one) in enumerate(rows):
        for ends, dy, width in ((one.ci, 0.0, 2.6), (one.ci_bootstrap, 0.24, 1.0)):
            if ends is not None:
                ax.plot(
                    np.clip(ends, -5, 5), [y + dy, y + dy], color=colour, linewidth=width,
                    alpha=0.55 if role == "detail" else 1.0, solid_capstyle="butt",
                )  # fmt: skip
        fill, edge = ("white", colour) if one.ci is None else (colour, "white")
        ax.plot(
            one.value, y, marker=marker, color=colour, markerfacecolor=fill, markeredgecolor=edge,
            markersize=9 if role == "primary" else 6.5, zorder=4,
        )  # fmt: skip
    if len(raters) > 1:
        ax.plot(raters, [-0.34] * len(raters), linestyle="", marker="|", markersize=8, color=MUTED, zorder=3)
    ax.grid(axis="y", visible=False)


def _finish(left: Axes, right: Axes, rows: Sequence[GainRow], reach: float) -> None:
    left.set_yticks(range(len(rows)), [f"{label(row)}  (n = {row.gain.n_conditions})" for row in rows])
    for text, row in zip(left.get_yticklabels(), rows, strict=True):
        text.set_color(MUTED if row.role == "detail" else INK)
        text.set_fontweight("bold" if row.role == "primary" else "normal")
    left.set(ylim=(len(rows) - 0.4, -0.7), xlim=(-reach, reach), xlabel="gain in score (0 to 5)")
    right.set(xlim=(0, 1), xlabel="win rate of image pairs")
    right.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
    right.tick_params(axis="y", length=0)


def win_bars(part: ArmsRead) -> str:
    """Shares of image pairs won, tied and lost by the second arm."""
    rows = part.rows

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        shares = np.array([[row.wins, row.ties, 1 - row.wins - row.ties] for row in rows]) * 100
        left = np.zeros(len(rows))
        colours = (arm_style(part.second)[0], TIE, arm_style(part.first)[0])
        texts = (f"{part.second} higher", "tie", f"{part.first} higher")
        for k, (text, colour) in enumerate(zip(texts, colours, strict=True)):
            bars = ax.barh(range(len(rows)), shares[:, k], left=left, color=colour, height=0.66, label=text)
            labels = [f"{share:.0f}" if share >= 7 else "" for share in shares[:, k]]  # a narrow bar has no room
            ax.bar_label(bars, labels, label_type="center", fontsize=8.5, color=INK if k == 1 else "white")
            left += shares[:, k]
        ax.set_yticks(range(len(rows)), [label(row) for row in rows])
        ax.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xlabel="share of image pairs, %")
        ax.axvline(50, color=INK, linewidth=0.8, linestyle=":")
        ax.grid(visible=False)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)

    return draw(8.6, 1.15 + 0.36 * len(rows), plot)


def example_sets(rows: Sequence[tuple[str, Sequence[tuple[str, npt.NDArray[np.uint8]]]]]) -> str:
    """One set per row: (what was asked, (arm, image) of its four images, equal seeds side by side)."""

    def plot(figure: Figure) -> None:
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (text, images) in zip(parts, rows, strict=True):
            part.suptitle(text if len(text) < 90 else text[:88] + "…", fontsize=9, x=0.008, ha="left")
            for k, (ax, (arm, image)) in enumerate(zip(part.subplots(1, len(images)), images, strict=True)):
                ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
                ax.set_title(
                    f"{arm}, {'first' if k < 2 else 'second'} seed", fontsize=8, fontweight="normal", color=MUTED
                )
                ax.set_axis_off()

    return draw(8.6, 2.55 * len(rows), plot)
