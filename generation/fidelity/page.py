"""Writes the fidelity page: one HTML file that loads nothing, and beside it the page of pictures with real images.

The report of `report` -> ``index.html`` (figures, tables, at most a sheet of samples: may be shown to
reviewers) and ``pictures.html`` (generated, nearest training image, difference: real patients, stays in the study).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt

from radpref.data.core.files import write_atomic
from radpref.data.core.statistics import Estimate
from radpref.data.imaging.framing import fit_image
from radpref.data.imaging.images import SYNTHETIC_MARK, encode_png, to_uint8
from radpref.data.study.templates import page_style
from radpref.generation.fidelity import charts, memorisation
from radpref.generation.fidelity.figures import FidelityReport, HeldOutPatients
from radpref.generation.fidelity.image_source import ImageSource
from radpref.generation.fidelity.likeness import rows_by_group
from radpref.generation.fidelity.memorisation import Neighbours
from radpref.generation.fidelity.request import SAMPLES_PER_PROMPT

if TYPE_CHECKING:
    from radpref.data.study.study import Study

TEMPLATES = Path(__file__).parent / "templates"
N_PROMPTS_SHOWN = 6
N_NEIGHBOURS_SHOWN = 12
TONES = {"clean enough": "good", "suspicious": "bad", "too few images to say": "open"}
SHARES = {
    "below_1": ("nearer than the 1st percentile of held-out patients", 0.01),
    "below_5": ("nearer than the 5th percentile", 0.05),
    "ratio_below_1": ("nearest / next 20 below their 1st percentile", 0.01),
    "suspects": ("suspects: both of it", None),
    "nearer": ("P(nearer than a held-out patient)", 0.5),
}


def write_page(
    study: Study,
    report: FidelityReport,
    shown: Sequence[tuple[ImageSource, dict[str, Neighbours]]],
    training: ImageSource,
    *,
    pictures: bool,
) -> None:
    """Write `report.page` and the page of pictures beside it; without `pictures` neither samples nor neighbours.

    Samples that may be copies of patients are on the page of pictures, not on the one that may be shown around.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "figure": figure, "share": share}
    adherence = charts.adherence(report)
    suspicious = [
        source.name
        for source, _ in shown
        if report.images[source.name].memorisation.verdict == "suspicious" or not pictures
    ]
    context = {
        "style": page_style(),
        "title": study.config.title,
        "name": study.config.name,
        "report": report,
        "real": report.real,
        "tones": TONES,
        "shares": SHARES,
        "spaces": charts.SPACES,
        "rule": memorisation,
        "distances": svg_uri(charts.distances(report)),
        "nearest": {name: svg_uri(charts.nearest(report, name)) for name in report.images},
        "adherence": svg_uri(adherence) if adherence else None,
        "sheets": {source.name: sample_pictures(source) for source, _ in shown if source.name not in suspicious},
        "suspicious": suspicious,
        "pictures": pictures,
    }
    write_atomic(report.page, environment.get_template("fidelity.html.j2").render(context))
    if pictures:
        context["neighbours"] = {
            source.name: neighbour_pictures(report.real.held_out, source, found, training) for source, found in shown
        }
        context["sheets"] = {source.name: sample_pictures(source) for source, _ in shown if source.name in suspicious}
        write_atomic(
            report.page.with_name("pictures.html"), environment.get_template("pictures.html.j2").render(context)
        )


# --- numbers ---------------------------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    """0.0123 -> "1.2 %"."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def share(found: Estimate | None) -> str:
    """A share with its interval, in percent; a dash where it was not measured."""
    return figure(found, 1, 100, " %")


def figure(found: Estimate | float | None, digits: int = 3, scale: float = 1.0, unit: str = "") -> str:
    """A figure with its interval, where it has one; a dash where it was not measured."""
    value = found.value if isinstance(found, Estimate) else found
    if value is None:
        return "–"
    text = f"{value * scale:.{digits}f}{unit}"
    if isinstance(found, Estimate) and found.low is not None and found.high is not None:
        text += f" [{found.low * scale:.{digits}f}, {found.high * scale:.{digits}f}]"
    return text


# --- pictures --------------------------------------------------------------------------------------------------


def svg_uri(svg: str) -> str:
    """An SVG as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def png_uri(image: npt.NDArray[np.uint8], *, synthetic: bool) -> str:
    """A picture as a data URI; synthetic ones carry the mark by which an import refuses them."""
    payload = encode_png(image, text={"Synthetic": SYNTHETIC_MARK} if synthetic else None)
    return "data:image/png;base64," + base64.b64encode(payload).decode()


@dataclass(frozen=True)
class Picture:
    """One strip of images as a data URI, and the line below it."""

    caption: str
    uri: str


def sample_pictures(source: ImageSource) -> list[Picture]:
    """The first prompts, each with its samples side by side."""
    shown = []
    members = rows_by_group(source.groups or [i // SAMPLES_PER_PROMPT for i in range(source.n)])
    for rows in members[:N_PROMPTS_SHOWN]:
        strip = np.concatenate(list(source.batch(rows[:SAMPLES_PER_PROMPT])), axis=1)
        caption = ""
        if source.conditions is not None:
            condition = source.conditions[rows[0]]
            masks = f"mask: {', '.join(sorted(condition.masks))}" if condition.masks else ""
            caption = " · ".join(part for part in (condition.mode, condition.text or "", masks) if part)
        shown.append(Picture(caption, png_uri(strip, synthetic=True)))
    return shown


def neighbour_pictures(
    held_out: HeldOutPatients, source: ImageSource, found: dict[str, Neighbours], training: ImageSource
) -> list[Picture]:
    """The images nearest to a training image, relative to held-out patients, with that image and the difference."""
    relative = {
        space: own.distance / max(float(np.percentile(held_out.distance[space], 1)), 1e-8)
        for space, own in found.items()
    }
    spaces = list(relative)
    table = np.stack([relative[space] for space in spaces])
    rows = []
    for row in np.argsort(table.min(0), kind="stable")[:N_NEIGHBOURS_SHOWN]:
        space = spaces[int(table[:, row].argmin())]
        own = found[space]
        image = source.read(int(row))
        size = max(image.shape)
        real = to_uint8(fit_image(training.read(int(own.index[row])), size))
        image = to_uint8(fit_image(image, size))
        caption = (
            f"image {int(row)}: {charts.SPACES[space]} {own.distance[row]:.3f}, "
            f"{relative[space][row]:.2f} of the held-out 1st percentile; nearest / next {own.ratio[row]:.2f}"
        )
        strip = np.concatenate([image, real, difference(image, real)], axis=1)
        rows.append(Picture(caption, png_uri(strip, synthetic=True)))
    return rows


def difference(image: npt.NDArray[Any], real: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """|difference| of two images (H, W) brought to one mean and spread; three times enlarged, 0 is black."""
    a, b = (v.astype(np.float32) for v in (image, real))
    a = (a - a.mean()) / max(float(a.std()), 1e-3) * float(b.std()) + b.mean()
    return np.asarray(np.clip(3 * np.abs(a - b), 0, 255), np.uint8)
