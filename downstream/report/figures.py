"""Figures of the report as SVG text: score distributions, alignment curves, downstream values, power, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from radpref.data.core.charts import INK, MUTED, arm_style, draw
from radpref.downstream.cells.cells import CellRow
from radpref.downstream.cells.metrics import METRIC_NAMES, PRIMARY_METRIC
from radpref.downstream.inference.comparisons import Comparison, PairedComparison
from radpref.downstream.inference.power import detectable_effect

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE_COLOURS = ("#7f2f12", "#c4561a", "#eaa477", "#9dbad6", "#4f86b8", "#1d4e80")


def score_distribution(counts: pd.DataFrame) -> str:
    """Share of each score 0-5 per rater. counts: a row per criterion and rater, six columns."""
    criteria = list(counts.index.unique(0))

    def plot(figure: Figure) -> None:
        axes = figure.subplots(1, len(criteria), squeeze=False, sharex=True)[0]
        for ax, criterion in zip(axes, criteria, strict=True):
            own = counts.loc[criterion]
            shares = 100 * own.to_numpy() / own.sum(axis=1).to_numpy()[:, None]
            left = np.zeros(len(own))
            for score in range(6):
                ax.barh(
                    own.index, shares[:, score], left=left, color=SCORE_COLOURS[score], height=0.68, label=str(score)
                )
                left += shares[:, score]
            ax.set(xlim=(0, 100), xlabel="share of scores, %", title=f"{criterion} criterion")
            ax.invert_yaxis()
            ax.grid(axis="y", visible=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=6, title="score", title_fontsize=8.5)

    return draw(8.6, 1.5 + 0.3 * max(len(counts) / len(criteria), 2), plot)


def alignment_curves(lines: Sequence[Mapping[str, float | None]]) -> str:
    """Loss, implicit accuracy, both errors' shifts, drift and diversity over steps."""

    def plot(figure: Figure) -> None:
        axes = figure.subplots(2, 2, sharex=True)
        _curve(axes[0, 0], lines, {"loss": ("training", "baseline"), "held_out_loss": ("held-out sets", "aligned")})
        axes[0, 0].set(title="DPO loss", ylabel="nats")
        names = {"train_accuracy": ("training", "baseline"), "held_out_accuracy": ("held-out sets", "aligned")}
        _curve(axes[0, 1], lines, names)
        axes[0, 1].axhline(0.5, color=MUTED, linewidth=0.9, linestyle=":")
        axes[0, 1].set(title="Implicit accuracy (chance 0.5)", ylabel="share of pairs", ylim=(0, 1))
        shifts = {
            "held_out_winner_shift": ("preferred, held out", "finetuned"),
            "held_out_loser_shift": ("other, held out", "aligned"),
            "winner_shift": ("preferred, training", "finetuned"), "loser_shift": ("other, training", "aligned"),
        }  # fmt: skip
        present = {key: value for key, value in shifts.items() if any(line.get(key) is not None for line in lines)}
        _curve(axes[1, 0], lines, dict(list(present.items())[:2]))
        axes[1, 0].axhline(0, color=MUTED, linewidth=0.9)
        axes[1, 0].set(title="Change of denoising error against reference", ylabel="mean squared error", xlabel="step")
        _curve(axes[1, 1], lines, {"diversity": ("diversity", "baseline"), "drift": ("drift", "aligned")})
        axes[1, 1].set(title="Drift and diversity, fixed prompts", ylabel="relative to baseline", xlabel="step")
        axes[1, 1].set_ylim(bottom=0)

    return draw(8.6, 5.0, plot)


def _curve(ax: Axes, lines: Sequence[Mapping[str, float | None]], names: dict[str, tuple[str, str]]) -> None:
    for key, (label, style) in names.items():
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None and "step" in line]
        if not points:
            continue
        steps, values = np.array(points, dtype=np.float64).T
        colour, marker = arm_style(style)
        if len(values) > 60:
            width = max(1, len(values) // 40)
            ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
            mean = ndimage.uniform_filter1d(values, width, mode="nearest")
            ax.plot(steps, mean, color=colour, linewidth=1.6, label=label)
        else:
            ax.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")
    else:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=MUTED)


def seed_slopes(cells: Sequence[CellRow]) -> str:
    """One panel per task and fraction: each seed a thin line through the arms, the mean with its 95 % CI on top."""
    panels = list(dict.fromkeys((cell.task, cell.fraction) for cell in cells))
    columns = list(dict.fromkeys(task for task, _ in panels))
    rows = sorted({fraction for _, fraction in panels})

    def plot(figure: Figure) -> None:
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for i, fraction in enumerate(rows):
            for j, task in enumerate(columns):
                own = [cell for cell in cells if (cell.task, cell.fraction) == (task, fraction)]
                _slopes(axes[i, j], own, f"{task}, {fraction:.0%} of real data" if len(rows) > 1 else task)

    return draw(8.6, 0.5 + 2.7 * len(rows), plot)


def _slopes(ax: Axes, cells: Sequence[CellRow], title: str) -> None:
    if not cells:
        ax.set_axis_off()
        return
    metric = PRIMARY_METRIC[cells[0].kind]
    places = list(dict.fromkeys((cell.arm, cell.multiple) for cell in cells))
    table = {(cell.seed, cell.arm, cell.multiple): cell.value(metric) for cell in cells}
    seeds = sorted({cell.seed for cell in cells})
    values = np.array([[table.get((seed, *place)) for place in places] for seed in seeds], dtype=np.float64)
    for row in values:
        ax.plot(range(len(places)), row, color=MUTED, linewidth=0.8, alpha=0.55, marker=".", markersize=4)
    ends: list[float] = []
    for x, (arm, _) in enumerate(places):
        known = values[:, x][np.isfinite(values[:, x])]
        if not len(known):
            continue
        colour, marker = arm_style(arm)
        half = stats.t.isf(0.025, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else 0.0
        ends += [float(known.mean() - half), float(known.mean() + half), *known]
        ax.errorbar(
            x, known.mean(), yerr=half, color=colour, marker=marker, markersize=6.5, capsize=3, linewidth=1.6, zorder=5
        )
    labels = [arm.replace("_", "\n") + (f"\n{multiple}x" if multiple else "\nonly") for arm, multiple in places]
    ax.set_xticks(range(len(places)), labels)
    ax.set(title=title, ylabel=METRIC_NAMES[metric].split(",")[0], xlim=(-0.4, len(places) - 0.6))
    if ends:
        margin = max(0.05 * (max(ends) - min(ends)), 0.01)
        ax.set_ylim(max(0.0, min(ends) - margin), min(1.0, max(ends) + margin))
    ax.grid(axis="x", visible=False)


def forest(rows: Sequence[Comparison], relevant: float) -> str:
    """Differences of the primary comparisons: 95 % CI over seeds (thick) and over seeds and patients (thin)."""
    shown = [row for row in rows if isinstance(row, PairedComparison)]
    reach = max([relevant * 2, *(abs(v) for row in shown for v in (*_clip(row), row.difference))]) * 1.08

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        ax.axvspan(-relevant, relevant, color="#eef1f4", zorder=0)
        ax.axvline(0, color=INK, linewidth=0.9)
        for y, row in enumerate(shown):
            colour, marker = arm_style(row.a)
            if np.isfinite(row.ci_bootstrap).all():
                ax.plot(row.ci_bootstrap, [y + 0.22, y + 0.22], color=colour, linewidth=1.0, alpha=0.75)
            ax.plot(np.clip(row.ci, -reach, reach), [y, y], color=colour, linewidth=2.6, solid_capstyle="butt")
            ax.plot(row.difference, y, color=colour, marker=marker, markersize=7, markeredgecolor="white")
            ax.annotate(_note(row), (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)
        ax.set_yticks(range(len(shown)), [_label(row) for row in shown])
        ax.set(ylim=(len(shown) - 0.4, -0.6), xlim=(-reach, reach))
        ax.set_xlabel("difference in the primary metric (first arm minus second); shaded: smaller than matters here")
        ax.grid(axis="y", visible=False)

    return draw(8.6, 1.0 + 0.42 * max(len(shown), 1), plot)


def _clip(row: PairedComparison) -> list[float]:
    """Ends of the intervals, but no more than 0.5 away: a wild interval at n = 2 must not flatten the rest."""
    return [float(np.clip(value, -0.5, 0.5)) for value in (*row.ci, *row.ci_bootstrap) if np.isfinite(value)]


def _note(row: PairedComparison) -> str:
    return f"{row.difference:+.3f}   P(Holm) {row.p_holm:.2f}".replace("-", "−")


def _label(row: PairedComparison) -> str:
    place = f"{row.fraction:.0%}" + (f", {row.multiple}x" if row.multiple else "")
    return f"{row.task} ({place}): {row.a} > {row.b}"


def power_curve(n_seeds: int, family_size: int, alpha: float) -> str:
    """Effect found with 80 % power against the number of seeds, for a single test and for one of the family."""
    seeds = np.unique(np.concatenate([np.arange(3, 11), [12, 15, 20, 30]]))

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        for level, label, arm in (
            (alpha, "one single test", "baseline"),
            (alpha / family_size, f"one of {family_size} (Bonferroni)", "aligned"),
        ):
            colour, marker = arm_style(arm)
            effects = [detectable_effect(int(n), level) for n in seeds]
            ax.plot(seeds, effects, color=colour, marker=marker, markersize=4, label=label)
        ax.axvline(n_seeds, color=MUTED, linestyle=":", linewidth=1.2)
        here = ax.get_xaxis_transform()  # x in seeds, y as a share of the axes
        ax.text(n_seeds, 0.95, f" this grid: n = {n_seeds}", transform=here, va="top", color=MUTED)
        ax.set(xlabel="paired seeds", ylabel="detectable dz (80 % power)", yscale="log")
        ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        ax.minorticks_off()
        ax.legend(loc="upper right")

    return draw(5.6, 2.9, plot)


def sample_sheet(rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]], arms: Sequence[str]) -> str:
    """Columns are conditions, rows are arms: the same condition and seed are above each other."""
    n_columns = 3 if len(rows) % 4 and not len(rows) % 3 else 4
    n_blocks = -(-len(rows) // n_columns)

    def plot(figure: Figure) -> None:
        axes = figure.subplots(n_blocks * len(arms), n_columns, squeeze=False)
        for ax in axes.ravel():
            ax.set_axis_off()
        for k, (text, images) in enumerate(rows):
            block, column = divmod(k, n_columns)
            for a, image in enumerate(images):
                ax = axes[block * len(arms) + a, column]
                ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
                if a == 0:
                    ax.set_title(text if len(text) < 30 else text[:28] + "…", fontsize=8, fontweight="normal")
                if column == 0:
                    ax.text(
                        -0.06, 0.5, arms[a], transform=ax.transAxes, rotation=90, ha="center", va="center", fontsize=8.5
                    )

    return draw(8.6, n_blocks * (2.05 * len(arms) + 0.25), plot)
