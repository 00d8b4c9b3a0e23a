"""Charts of the fidelity page as SVG text; pure functions of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.core.charts import INK, MUTED, arm_style, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL, CHANCE = ("#6b7580", "o"), ("#b98080", "|")
SPACES = {"pixels": "thumbnail distance", "features": "feature distance"}


def _dot(ax: Axes, y: float, figure: dict[str, Any] | None, style: tuple[str, str]) -> None:
    if not figure or figure["value"] is None:
        return
    colour, marker = style
    if figure.get("low") is not None:
        ax.plot([figure["low"], figure["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
    edge = colour if marker == "|" else "white"
    ax.plot(figure["value"], y, marker, color=colour, markersize=7.5, markeredgecolor=edge, markeredgewidth=1.0)


def distances(report: dict[str, Any]) -> str:
    """FID and KID of every source, and of as many real images in the generator's place."""
    rows: list[tuple[str, dict[str, Any] | None, dict[str, Any] | None, tuple[str, str]]] = []
    for name, found in report["images"].items():
        rows.append((name, found["frechet"], found["kid"], arm_style(name)))
    first = next(iter(report["images"].values()))
    rows.append((f"real images ({report['ideal']})", first["real"]["frechet"], first["real"]["kid"], REAL))

    def plot(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, title, column in zip(axes, ("Fréchet distance (FID)", "kernel distance (KID)"), (1, 2), strict=True):
            for place, row in enumerate(rows):
                _dot(ax, place, row[column], row[3])  # type: ignore[arg-type]
            ax.axvline(0, color=MUTED, linewidth=0.8)
            ax.set(title=title, yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
            ax.grid(axis="y", visible=False)
        axes[0].set_yticklabels([row[0] for row in rows], color=INK)

    return draw(8.2, 1.0 + 0.36 * len(rows), plot)


def nearest(report: dict[str, Any], name: str) -> str:
    """Distances to the nearest training image: generated images over held-out real patients, both spaces."""
    generated = report["images"][name]["memorisation"]["distance"]
    held_out = report["held_out"]["distance"]

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


def adherence(report: dict[str, Any]) -> str | None:
    """Dice of each structure: what was asked, what the network reaches on real images, and chance."""
    sources = {name: found["conditions"]["masks"] for name, found in report["images"].items() if found["conditions"]}
    structures = list(dict.fromkeys(name for masks in sources.values() for name in masks))
    if not structures:
        return None
    real = (report["conditions"] or {}).get("masks", {})
    n_rows = len(sources) + 2

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        for place, structure in enumerate(structures):
            series = [(real.get(structure, {}).get("asked"), REAL)]
            series += [(masks.get(structure, {}).get("asked"), arm_style(name)) for name, masks in sources.items()]
            first = next(iter(sources.values())).get(structure, {})
            series.append((first.get("chance"), CHANCE))
            for k, (figure_, style) in enumerate(series):
                _dot(ax, place + (k - (n_rows - 1) / 2) * 0.7 / n_rows, figure_, style)
        labels = [("real images, own masks", REAL), *((name, arm_style(name)) for name in sources)]
        labels.append(("chance: masks of other prompts", CHANCE))
        for label, (colour, marker) in labels:
            ax.plot([], [], marker, color=colour, label=label)
        ax.set(yticks=range(len(structures)), ylim=(len(structures) - 0.5, -0.5), xlim=(0, 1), xlabel="Dice")
        ax.set_yticklabels(structures, color=INK)
        ax.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=len(labels))

    return draw(8.2, 1.3 + 0.2 * n_rows * len(structures), plot)
