"""Findings: what disease does to the thorax, as geometry changes and as opacities inside the lungs.

Each finding draws its random shape from its own generator, the same number of draws whatever the severity, so
severity only scales the finding: the lesion of "severe" contains about that of "mild" in the same patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from radpref.data.phantom.anatomy import Anatomy, Cavity
from radpref.data.phantom.raster import Array, Frame, Points, blur, cover, splat, texture
from radpref.data.phantom.spec import FINDINGS, SEVERITIES, Finding
from radpref.data.phantom.tubes import Tree

HEART_RATIO = {"mild": 0.555, "moderate": 0.61, "severe": 0.67}
"""Cardiothoracic ratio of cardiomegaly (normal is below 0.5)."""


@dataclass(frozen=True)
class Scene:
    """What a finding may look at. `field` is 0..1 lung field per side, in (right, left) order; all (H, W)."""

    frame: Frame
    anatomy: Anatomy
    cavity: Cavity
    field: tuple[Array, Array]
    hemithorax: tuple[Array, Array]  # the same with the recess behind the diaphragm
    trees: tuple[Tree, Tree]


@dataclass(frozen=True)
class Effect:
    """What one finding adds on the film; arrays (H, W) float32.

    fill: fraction of the lung's thickness that became water, 0..1. lines: thickness of thin water lines, cm.
    region: 0..1, the lesion. air: 0..1, pleural air. vessel_gain: factor on the lung vessels.
    """

    fill: Array
    region: Array
    lines: Array | None = None
    air: Array | None = None
    vessel_gain: float = 1.0


def finding_rng(patient_seed: int, finding: Finding) -> np.random.Generator:
    """The generator of one finding in one patient; independent of severity."""
    return np.random.default_rng([patient_seed, 2, FINDINGS.index(finding.name)])


def change_geometry(anatomy: Anatomy, findings: tuple[Finding, ...], patient_seed: int) -> Anatomy:
    """The patient after what the findings do to heart, diaphragm and mediastinum."""
    ratio, raised, shift = anatomy.heart_ratio, {"left": 0.0, "right": 0.0}, 0.0
    for finding in findings:
        level = SEVERITIES.index(finding.severity)
        side = finding.side or ""
        towards = {"left": 1.0, "right": -1.0}.get(side, 0.0)
        if finding.name == "cardiomegaly":
            jitter = finding_rng(patient_seed, finding).uniform(-0.012, 0.012)
            ratio = HEART_RATIO[finding.severity] + float(jitter)
        elif finding.name == "edema":
            ratio = max(ratio, anatomy.heart_ratio + 0.015 * (level + 1))
        elif finding.name == "atelectasis":
            raised[side] += (0.9, 2.0, 3.2)[level]
            shift += towards * (0.3, 0.8, 1.5)[level]
        elif finding.name == "pneumothorax":
            raised[side] -= (0.0, 0.3, 1.2)[level]
            shift -= towards * (0.0, 0.2, 1.3)[level]
        elif finding.name == "pleural_effusion":
            shift -= towards * (0.0, 0.1, 0.5)[level]
    return replace(anatomy, heart_ratio=ratio, raise_right=raised["right"], raise_left=raised["left"], shift=shift)


def _effusion(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """Fluid with a meniscus: blunted angle, then a level that climbs to mid-lung, highest at the wall."""
    anatomy, frame = scene.anatomy, scene.frame
    u = np.clip(np.abs(frame.x) / scene.cavity.lateral, 0, 1)
    top = anatomy.dome_y(2 * i - 1)
    jitter = rng.uniform(-0.4, 0.4)
    wall_y = (0.35 * top + 0.65 * anatomy.costophrenic_y - 2.3, top - 2.4, top - 8.6)[level] + jitter * (0.5, 1, 2)[
        level
    ]
    fall = (9.0, 4.6, 2.6)[level]
    surface = wall_y + fall * (1 - u) ** 1.2 - (1.2, 1.8, 2.0)[level] * np.exp(-(1 - u) / 0.05)
    surface = surface + 0.12 * texture(rng, frame.size, 1.6, 16)
    depth_below = frame.y - surface
    fill = cover(depth_below, 1.1) * np.clip(0.62 + 0.10 * depth_below, 0, 0.97) * scene.hemithorax[i]
    return Effect(fill.astype(np.float32), (cover(depth_below, 0.4) * scene.field[i]).astype(np.float32))


def _atelectasis(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """Plate-like bands above a raised diaphragm; severe ones add a collapsed base."""
    side, frame = 2 * i - 1, scene.frame
    ax = frame.x * np.float32(side)
    top = scene.anatomy.dome_y(side)
    amount = np.zeros_like(frame.x)
    offsets = np.array([2.2, 3.4, 5.0, 6.8]) + rng.uniform(-0.4, 0.4, 4)
    for k in range(4):
        tilt, bow = rng.uniform(-0.4, 0.3), rng.uniform(-0.03, 0.03)
        middle, half = rng.uniform(7.5, 10.0), rng.uniform(2.6, 4.0) * (0.9, 1.1, 1.2)[level]
        width = rng.uniform(0.15, 0.30) * (1.0, 1.2, 1.4)[level]
        if k > (0, 1, 2)[level]:
            continue
        dx = ax - np.float32(middle)
        across = frame.y - (top - offsets[k] + tilt * dx + bow * dx * dx)
        taper = cover(half - np.abs(dx), 1.6)
        amount = np.maximum(amount, np.exp(-((across / width) ** 2)) * taper * (0.30, 0.32, 0.34)[level])
    base = cover(frame.y - (top - (0.0, 1.2, 3.0)[level] + 0.32 * (ax - 5)), 2.6) * (0.0, 0.26, 0.44)[level]
    grain = 1 + 0.15 * texture(rng, frame.size, 1.0)
    fill = np.maximum(amount, base) * grain * scene.field[i]
    region = np.maximum(cover(amount - 0.09, 0.1), cover(base - 0.12, 0.1)) * scene.field[i]
    return Effect(np.clip(fill, 0, 0.9).astype(np.float32), region.astype(np.float32))


def _consolidation(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """A dense homogeneous lobe that ends at a fissure; the rest of its border is ragged."""
    frame, anatomy = scene.frame, scene.anatomy
    ax = np.abs(frame.x)
    ragged = texture(rng, frame.size, 1.3, 24)
    upper = rng.random() < 0.45
    top, low = anatomy.apex_y, anatomy.dome_y(2 * i - 1)
    fissure = low - 8.6 + rng.uniform(-0.6, 0.6) if upper else low - 6.4 + rng.uniform(-0.6, 0.6)
    slope = rng.uniform(-0.16, 0.16)
    line = fissure + slope * (ax - 7) + 0.03 * (ax - 7) ** 2 + 0.10 * ragged
    reach = (0.42, 0.68, 1.05)[level]
    span = abs((top if upper else low + 3.0) - fissure)
    depth = (line - frame.y) if upper else (frame.y - line)  # distance into the lobe from the fissure
    edge_cm = reach * span + 0.7 * ragged - depth
    lateral = ax - ((5.2, 3.4, 0.0)[level] + 0.8 * ragged)
    inside = cover(depth, 0.45) * cover(edge_cm, 2.2) * cover(lateral, 2.0) * scene.field[i]
    fill = inside * (0.56, 0.62, 0.68)[level] * (1 + 0.05 * ragged)
    return Effect(fill.astype(np.float32), cover(inside - 0.5, 0.2))


def _bronchograms(scene: Scene, i: int) -> Array:
    """Air-filled bronchi of one lung, cm of air."""
    tree = scene.trees[i]
    keep = (tree.radius > 0.09) & (tree.radius < 0.3)
    volume: Points = np.pi * (0.75 * tree.radius[keep]) ** 2 * tree.length[keep]
    drawn = splat(scene.frame, tree.x[keep], tree.y[keep] + 0.25, volume)
    return np.maximum(blur(drawn, max(0.5, 0.09 / scene.frame.px_cm)), 0)


def _pneumonia(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """Patchy ill-defined foci of one lung, with air bronchograms."""
    side, frame, anatomy = 2 * i - 1, scene.frame, scene.anatomy
    patch = texture(rng, frame.size, 1.3, 30, 4)
    low = anatomy.dome_y(side)
    amount = np.zeros_like(frame.x)
    near_x, near_y = rng.uniform(5.5, 9.0), low - rng.uniform(2.5, 7.5)
    for k in range(8):
        cx, cy = near_x + rng.normal(0, 1.9), near_y + rng.normal(0, 2.6)
        radius = rng.uniform(1.1, 2.1) * (1.0, 1.2, 1.45)[level]
        if k >= (3, 5, 8)[level]:
            continue
        cx = float(np.clip(cx, 3.5, 0.85 * anatomy.half_width))
        cy = float(np.clip(cy, anatomy.apex_y + 4, low - 0.8))
        dx, dy = frame.x - np.float32(side * cx), frame.y - np.float32(cy)
        amount = amount + np.exp(-(dx * dx + dy * dy) / (2 * radius * radius))
    amount = np.clip(amount, 0, 1.15) * (1 + 0.30 * patch)
    fill = np.clip(amount, 0, 1.2) * (0.32, 0.40, 0.48)[level] * scene.field[i]
    fill = fill * (1 - np.clip(0.42 * _bronchograms(scene, i), 0, 0.45))
    return Effect(np.clip(fill, 0, 0.8).astype(np.float32), cover(amount - 0.38, 0.2) * scene.field[i])


def _kerley(scene: Scene, rng: np.random.Generator, count: int) -> Array:
    """Kerley B lines: short horizontal septa at the lateral bases, cm of water."""
    xs, ys, vs = [], [], []
    u = np.linspace(0, 1, 24)
    for k in range(22):
        side = 1.0 if k % 2 else -1.0
        y0 = scene.anatomy.dome_right_y + rng.uniform(-4.5, 2.2)
        length, tilt = rng.uniform(0.9, 1.9), rng.uniform(-0.2, 0.2)
        if k >= count:
            continue
        x0 = scene.anatomy.half_width - 0.35
        xs.append(side * (x0 - length * u))
        ys.append(y0 + tilt * length * u)
        vs.append(np.full(24, 0.05 * length / 24))
    drawn = splat(scene.frame, np.concatenate(xs), np.concatenate(ys), np.concatenate(vs))
    return np.maximum(blur(drawn, max(0.45, 0.05 / scene.frame.px_cm)), 0)


def _edema(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """Perihilar bat-wing haze of both lungs, prominent vessels, Kerley lines."""
    frame, anatomy = scene.frame, scene.anatomy
    hilum_y = 0.5 * (anatomy.dome_right_y + anatomy.dome_left_y) - 4.6
    cloud, mesh = texture(rng, frame.size, 1.4, 40, 3), texture(rng, frame.size, 0.3, 48, 18)
    reach = (4.6, 5.6, 6.8)[level]
    dx, dy = (np.abs(frame.x) - 4.6) / reach, (frame.y - np.float32(hilum_y)) / (1.35 * reach)
    wing = np.exp(-0.9 * (dx * dx + dy * dy) ** 1.3)
    lower = 0.35 * cover(frame.y - np.float32(hilum_y + 2), 10.0)
    both = scene.field[0] + scene.field[1]
    haze = (wing + lower * wing**0.4) * (0.24, 0.40, 0.58)[level]
    fill = haze * (1 + 0.13 * cloud + 0.06 * mesh) * both
    lines = _kerley(scene, rng, (6, 14, 22)[level]) * (1.0, 1.3, 1.6)[level]
    region = cover(wing * (1 + 0.1 * cloud) - 0.42, 0.1) * both
    return Effect(
        np.clip(fill, 0, 0.8).astype(np.float32), region.astype(np.float32), lines, None, (1.25, 1.5, 1.75)[level]
    )


def _pneumothorax(scene: Scene, i: int, level: int, rng: np.random.Generator) -> Effect:
    """Pleural air over a shrunken lung: no markings outside a thin visceral pleural line."""
    side, frame, anatomy = 2 * i - 1, scene.frame, scene.anatomy
    ax = frame.x * np.float32(side) - np.float32(0.35 * side * anatomy.shift)
    height = (frame.y - np.float32(anatomy.apex_y)) / np.float32(anatomy.costophrenic_y - anatomy.apex_y)
    height = np.clip(height, 0, 1.1)
    wobble = 0.10 * texture(rng, frame.size, 1.8, 12)
    size = rng.uniform(0.9, 1.1)
    width = (1.6, 3.3, 6.3)[level] * size
    fade = ((1 - height / 0.72), (1.05 - 0.72 * height), (1.0 - 0.42 * height))[level]
    apical = (1.9, 3.3, 5.2)[level] * size
    wall = scene.cavity.lateral - ax
    gap = width * np.clip(fade, 0, 1) + wobble
    lateral_cm = gap - wall  # > 0 in the air
    crest = anatomy.apex_y + apical + 0.10 * (ax - 5.0) ** 2 * (1.0 if level < 2 else 0.5)
    apex_cm = crest - frame.y + wobble
    joint = np.logaddexp(lateral_cm * 1.6, apex_cm * 1.6) / 1.6  # smooth union
    joint = joint - np.float32(0.15)
    air = cover(joint, 2 * frame.px_cm) * scene.field[i]
    line_cm = max(0.07, 0.42 * frame.px_cm)
    line = 0.16 * (0.07 / line_cm) ** 0.5 * np.exp(-((joint / line_cm) ** 2)) * scene.field[i]
    denser = (0.015, 0.04, 0.16)[level] * (1 - air) * scene.field[i]
    return Effect(
        denser.astype(np.float32), cover(joint, 0.2) * scene.field[i], line.astype(np.float32), air.astype(np.float32)
    )


_DRAW: dict[str, Callable[[Scene, int, int, np.random.Generator], Effect]] = {
    "atelectasis": _atelectasis,
    "consolidation": _consolidation,
    "edema": _edema,
    "pleural_effusion": _effusion,
    "pneumonia": _pneumonia,
    "pneumothorax": _pneumothorax,
}
"""Finding -> its opacity: of the lung ``i`` (0: right), of severity ``level`` (place in `SEVERITIES`)."""


def draw_effects(scene: Scene, findings: tuple[Finding, ...], patient_seed: int) -> list[Effect]:
    """The opacities of all findings but cardiomegaly, which is geometry alone."""
    return [
        _DRAW[f.name](scene, int(f.side != "right"), SEVERITIES.index(f.severity), finding_rng(patient_seed, f))
        for f in findings
        if f.name in _DRAW
    ]
