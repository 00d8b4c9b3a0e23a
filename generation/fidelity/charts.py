"""Charts of the fidelity page as SVG text; pure functions of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from radpref.data.core.charts import INK, MUTED, arm_style, draw
from radpref.data.core.statistics import Estimate
from radpref.generation.fidelity.figures import Distances, FidelityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = tuple[str, str]
"""Colour and marker."""
REAL, CHANCE = ("#6b7580", "o"), ("#b98080", "|")
SPACES = {"pixels": "thumbnail distance", "features": "feature distance"}


def _dot(ax: Axes, y: float, figure: Estimate | None, style: Style) -> None:
    if figure is None or figure.value is None:
        return
    colour, marker = style
    if figure.low is not None and figure.high is not None:
        ax.plot([figure.low, figure.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
    edge = colour if marker == "|" else "white"
    ax.plot(figure.value, y, marker, color=colour, markersize=7.5, markeredgecolor=edge, markeredgewidth=1.0)


def distances(report: FidelityReport) -> str:
    """FID and KID of every source, and of as many real images in the generator's place."""
    rows: list[tuple[str, Distances, Style]] = [(name, found, arm_style(name)) for name, found in report.images.items()]
    rows.append((f"real images ({report.real.ideal})", next(iter(report.images.values())).real, REAL))

    def plot(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for place, (_, found, style) in enumerate(rows):
            _dot(axes[0], place, found.frechet, style)
            _dot(axes[1], place, found.kid, style)
        for ax, title in zip(axes, ("Fréchet distance (FID)", "kernel distance (KID)"), strict=True):
            ax.axvline(0, color=MUTED, linewidth=0.8)
            ax.set(title=title, yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
            ax.grid(axis="y", visible=False)
        axes[0].set_yticklabels([row[0] for row in rows], color=INK)

    return draw(8.2, 1.0 + 0.36 * len(rows), plot)


def nearest(report: FidelityReport, name: str) -> str:
    """Distances to the nearest training image: generated images over held-out real patients, both spaces."""
    generated = report.images[name].memorisation.distance
    held_out = report.real.held_out.distance

    def plot(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        for ax, (space, title) in zip(axes, SPACES.items(), strict=True):
            own, real = np.array(generated[space]), np.array(held_out[space])
            limit = float(np.percentile(real, 1))
            edges = np.linspace(0, 1.02 * max(own.max(), real.max(), 1e-6), 46)
            shares = [np.full(len(v), 100 / len(v)) for v in (real, own)]
            ax.hist(real, edges, weights=shares[0], color="#b9c1c9", label="held-out real patients")
            colour = arm_style(name)[0]
            ax.hist(own, edges, weights=shares[1], histtype="step", color=colour, linewidth=1.8, label=name)
            ax.axvline(limit, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="their 1st percentile")
            ax.set(title=title, xlabel="distance to the nearest training image", xlim=(0, edges[-1]))
            ax.set_ylabel("share of images, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)

    return draw(8.2, 3.1, plot)


def adherence(report: FidelityReport) -> str | None:
    """Dice of each structure: what was asked, what the network reaches on real images, and chance."""
    sources = {name: found.conditions.masks for name, found in report.images.items() if found.conditions}
    structures = list(dict.fromkeys(name for masks in sources.values() for name in masks))
    if not structures:
        return None
    real = report.real.conditions.masks if report.real.conditions else {}
    n_rows = len(sources) + 2

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        for place, structure in enumerate(structures):
            shown = [(real, REAL), *((masks, arm_style(name)) for name, masks in sources.items())]
            series = [(masks[structure].asked if structure in masks else None, style) for masks, style in shown]
            first = next(iter(sources.values()))
            series.append((first[structure].chance if structure in first else None, CHANCE))
            for k, (estimate, style) in enumerate(series):
                _dot(ax, place + (k - (n_rows - 1) / 2) * 0.7 / n_rows, estimate, style)
        labels = [("real images, own masks", REAL), *((name, arm_style(name)) for name in sources)]
        labels.append(("chance: masks of other prompts", CHANCE))
        for label, (colour, marker) in labels:
            ax.plot([], [], marker, color=colour, label=label)
        ax.set(yticks=range(len(structures)), ylim=(len(structures) - 0.5, -0.5), xlim=(0, 1), xlabel="Dice")
        ax.set_yticklabels(structures, color=INK)
        ax.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=len(labels))

    return draw(8.2, 1.3 + 0.2 * n_rows * len(structures), plot)
