"""Bones, airways and lung vessels as 3-D tubes whose volume is splatted on the film.

A tube is sampled along its course and across its width; each sample deposits the volume it stands for, so the
line integral is exact up to the sampling, edges are anti-aliased and cortical rims appear by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from radpref.data.phantom.anatomy import Anatomy, wall_table
from radpref.data.phantom.raster import Array, Frame, Points, blur, cover, dome, splat

_ACROSS = np.linspace(-1, 1, 11)


def _shell_profile(wall: float) -> Points:
    """Bone thickness across a hollow tube of unit radius and relative wall thickness, (11,)."""
    outer = np.sqrt(np.maximum(1 - _ACROSS**2, 0.02))
    inner = np.sqrt(np.maximum(1 - (_ACROSS / (1 - wall)) ** 2, 0)) * (1 - wall)
    return outer - 0.75 * inner  # the marrow keeps a quarter of the cortex's bone


@dataclass(frozen=True)
class Tube:
    """Courses (x, y, z) of k tubes with n points each, (k, n) or (n,) cm, with half sizes.

    half_height lies in the film, half_depth along the beam; wall is the cortex as a fraction of the radius.
    """

    x: Points
    y: Points
    z: Points
    half_height: Points
    half_depth: Points
    wall: float = 0.3


def _tube_points(tube: Tube) -> tuple[Points, Points, Points]:
    """Sample tubes: x, y and volume (cm3) of k * n * 11 points."""
    dx, dy, dz = (np.gradient(course, axis=-1) for course in (tube.x, tube.y, tube.z))
    along = np.sqrt(dx * dx + dy * dy + dz * dz)
    film = np.hypot(dx, dy) + 1e-6
    profile = _shell_profile(tube.wall)
    across = tube.half_height[..., None] * _ACROSS
    # Ribs stand with their height in the coronal plane: across = film normal.
    x = tube.x[..., None] - (dy / film)[..., None] * across
    y = tube.y[..., None] + (dx / film)[..., None] * across
    volume = 4 / len(_ACROSS) * tube.half_depth * tube.half_height * along
    return x.ravel(), y.ravel(), (volume[..., None] * profile).ravel()


@lru_cache(maxsize=32)
def _hermite(n_controls: int, n: int) -> Points:
    """Weights (n, n_controls) of a cubic Hermite curve with central slopes (Catmull-Rom) through its controls."""
    identity = np.eye(n_controls)
    slope = np.gradient(identity, axis=0)  # derivative at each control, per control step
    u = np.linspace(0, n_controls - 1, n)
    k = np.minimum(u.astype(np.int64), n_controls - 2)
    t = (u - k)[:, None]
    start, end = identity[k] * (1 + 2 * t) * (1 - t) ** 2, identity[k + 1] * t**2 * (3 - 2 * t)
    weights: Points = start + end + slope[k] * t * (1 - t) ** 2 - slope[k + 1] * t**2 * (1 - t)
    return weights


def _curve(points: list[tuple[float, float]], n: int) -> tuple[Points, Points]:
    """Smooth planar curve through control points, n samples."""
    drawn = _hermite(len(points), n) @ np.array(points)
    return drawn[:, 0], drawn[:, 1]


def _splat_tubes(frame: Frame, tubes: list[Tube]) -> Array:
    parts = [_tube_points(tube) for tube in tubes]
    x, y, volume = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return splat(frame, x, y, volume)


def _flat_tube(points: list[tuple[float, float]], height: float, depth: float, wall: float, n: int = 100) -> Tube:
    x, y = _curve(points, n)
    return Tube(x, y, np.zeros(n), np.full(n, height), np.full(n, depth), wall)


def _ribs(anatomy: Anatomy, rng: np.random.Generator, yaw: float, n: int) -> Tube:
    """Ten pairs of ribs as loops that descend from the spine round the wall to the front.

    The floating ones hide in the abdomen and are left out.
    """
    height, lateral, _ = wall_table(anatomy)
    pitch = (anatomy.costophrenic_y - anatomy.apex_y) / 25.0 * 2.28
    drop_all = rng.uniform(0.9, 1.15)
    xs, ys, zs, heights, depths = [], [], [], [], []
    for number in range(1, 11):
        y0 = anatomy.apex_y - 0.9 + pitch * (number - 1) * (1 + 0.006 * number)
        drop = drop_all * min(4.6 + 1.1 * number, 9.8)
        end = np.deg2rad(np.interp(number, [1, 2, 6, 9, 10, 11], [158, 146, 138, 118, 104, 78]) + rng.normal(0, 3))
        for side in (-1, 1):
            phi = np.linspace(0.04, end, n)
            y = y0 + drop * (1 - np.cos(phi)) / 2 - 0.75 * np.sin(phi) * np.sin(np.minimum(2 * phi, np.pi))
            y = y + rng.normal(0, 0.08)
            wall_x = float(np.interp(y0 + drop / 2, height, lateral)) + 0.25
            wall_x *= float(np.interp(number, [1, 2, 3, 12], [0.86, 0.95, 1.0, 1.0]))
            x = 1.7 + (wall_x - 1.7) * np.sin(phi) ** 0.85
            z = -np.cos(phi) * anatomy.depth / 2
            taper = np.interp(phi / end, [0, 0.1, 0.5, 1], [0.42, 0.50, 0.58, 0.62]) * (0.85 if number == 1 else 1)
            depth = np.interp(phi / end, [0, 0.6, 0.97, 1], [0.33, 0.30, 0.24, 0.05]) * (0.5 if number < 3 else 1.0)
            if number > 8:  # the lowest ribs thin out over the abdomen
                depth = depth * np.interp(phi / end, [0, 0.55, 1], [1, 0.8, 0.15])
            xs.append(side * x + yaw * np.cos(phi) * -0.5)
            ys.append(y)
            zs.append(z)
            heights.append(taper)
            depths.append(depth)
    return Tube(np.array(xs), np.array(ys), np.array(zs), np.array(heights), np.array(depths), 0.34)


def _girdle(anatomy: Anatomy, rng: np.random.Generator, yaw: float) -> list[Tube]:
    """Clavicles, scapular borders and spines, upper arm bones."""
    tubes = []
    up, spread = anatomy.shoulder_y, rng.uniform(-0.6, 1.2)
    for side in (-1, 1):
        tilt = rng.normal(0, 0.4)
        clavicle = [(1.4, -8.6), (4.5, -9.9 + 0.3 * tilt), (9.0, -11.9 + tilt), (13.2, -12.9 + tilt), (15.6, -12.4)]
        x, y = _curve(clavicle, 120)
        thick = np.interp(np.linspace(0, 1, 120), [0, 0.12, 0.5, 1], [0.98, 0.74, 0.62, 0.75])
        tubes.append(Tube(side * x + yaw, y + up, np.zeros(120), thick, 0.8 * thick, 0.28))
        dx = spread
        medial = [(10.2 + dx, -12.6), (10.3 + dx, -9.0), (11.2 + dx, -5.0), (12.6 + dx, -2.2)]
        outer = [(12.6 + dx, -2.2), (13.7 + dx, -5.0), (14.6 + dx, -8.6), (15.0 + dx, -10.6)]
        spine = [(10.6 + dx, -11.4), (13.0 + dx, -12.7), (15.6 + dx, -13.9), (17.2 + dx, -13.6)]
        top = [(10.2 + dx, -12.6), (11.6 + dx, -13.1), (13.4 + dx, -12.0), (14.6 + dx, -11.6)]
        for line, h, d in ((medial, 0.16, 0.15), (outer, 0.30, 0.28), (spine, 0.38, 0.3), (top, 0.14, 0.14)):
            flat = _flat_tube(line, h, d, 0.5)
            tubes.append(replace(flat, x=side * flat.x, y=flat.y + up))
        arm = anatomy.arm_x
        course = [(arm - 2.0, -10.6), (arm - 0.9, -7.0), (arm + 0.2, 1.0), (arm + 1.8, 16.0)]
        shaft = _flat_tube(course, 1.05, 1.05, 0.33, 280)
        fade = np.clip(np.linspace(0, 6, len(shaft.x)), 0.02, 1)
        tubes.append(replace(shaft, x=side * shaft.x, y=shaft.y + up, half_depth=shaft.half_depth * fade))
    return tubes


def _plates(frame: Frame, anatomy: Anatomy) -> Array:
    """Scapular blades, glenoids and humeral heads, cm of bone, (H, W)."""
    ax, y = np.abs(frame.x), frame.y - np.float32(anatomy.shoulder_y)
    inside = np.minimum(ax - (10.6 + 0.2 * (y + 12)), (15.0 - 0.32 * (y + 10)) - ax)
    blade = 0.22 * cover(np.minimum(inside, y + 12.4), 0.6) * cover(-2.6 - y, 1.0)
    hx, hy = (ax - np.float32(anatomy.arm_x - 2.3)) / 2.35, (y + 11.4) / 2.5
    thickness: Array = blade + 1.1 * np.maximum(1 - hx * hx - hy * hy, 0) ** np.float32(0.8)
    return thickness


def _spine(frame: Frame, anatomy: Anatomy) -> Array:
    """Vertebral bodies, end plates, pedicles and spinous processes, cm of bone, (H, W)."""
    pitch = np.float32((anatomy.costophrenic_y - anatomy.apex_y) / 25.0 * 2.28)
    y = (frame.y - np.float32(anatomy.apex_y)) / pitch
    local = (y - np.floor(y)) - 0.5  # -0.5..0.5 within a level
    ax = np.abs(frame.x)
    half = 1.75 + 0.012 * (frame.y + 20) + 0.5 * local * local
    level = cover(0.40 - np.abs(local), 0.12)
    column = dome(frame.x / (half + 0.35))
    rim = np.exp(-(((np.abs(local) - 0.38) / 0.035) ** 2)) * 0.35 + np.exp(-(((ax - half) / 0.22) ** 2)) * 0.14
    r = np.sqrt(((ax - 1.05) / 0.42) ** 2 + ((local + 0.1) * pitch / 0.55) ** 2)
    pedicle = 0.55 * np.exp(-(((r - 0.85) / 0.35) ** 2))
    process = 0.8 * np.exp(-((frame.x / 0.28) ** 2) - ((local - 0.25) / 0.2) ** 2)
    thickness = column * (0.20 + level * (0.24 + 0.45 * rim)) + 0.42 * pedicle + 0.45 * process
    return np.asarray(thickness, np.float32)


def bones(frame: Frame, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """All bone along the beam, cm of compact bone, (H, W)."""
    n = int(np.clip(26 / frame.px_cm, 60, 240))
    tubes = [_ribs(anatomy, rng, frame.pose.yaw_cm, n), *_girdle(anatomy, rng, frame.pose.yaw_cm)]
    thin = blur(_splat_tubes(frame, tubes), max(0.45, 0.075 / frame.px_cm))
    return np.maximum(thin, 0) + _plates(frame, anatomy) + _spine(frame, anatomy)


def airways(frame: Frame, anatomy: Anatomy) -> Array:
    """Trachea and main bronchi, cm of air, (H, W)."""
    base = 0.5 * (anatomy.dome_right_y + anatomy.dome_left_y) - 3.2
    carina = base - 6.6
    mid = 0.8 * anatomy.shift + 0.3 * frame.pose.yaw_cm
    lines = [
        ([(0.0, -24.0), (0.1, -14.0), (0.0 + mid, -10.0), (-0.15 + mid, carina)], 0.85),
        (
            [(-0.15 + mid, carina), (-1.4 + mid, carina + 1.5), (-2.8 + mid, carina + 3.2), (-3.4 + mid, carina + 5.0)],
            0.62,
        ),
        (
            [(-0.15 + mid, carina), (1.6 + mid, carina + 1.5), (3.4 + mid, carina + 2.6), (4.4 + mid, carina + 4.0)],
            0.52,
        ),
    ]
    tubes = [_flat_tube(points, r, 0.8 * r, 0.999, 120) for points, r in lines]
    return np.maximum(blur(_splat_tubes(frame, tubes), max(0.5, 0.14 / frame.px_cm)), 0)


@dataclass(frozen=True)
class Tree:
    """Samples of a branching tree: position, radius (cm), length they stand for (cm), generation."""

    x: Points
    y: Points
    radius: Points
    length: Points


def vessel_tree(anatomy: Anatomy, side: int, rng: np.random.Generator) -> Tree:
    """Pulmonary vessels of one lung, from the hilum to the periphery, ever thinner; about 15,000 samples."""
    base = 0.5 * (anatomy.dome_right_y + anatomy.dome_left_y) - 3.2
    hilum_y = base - 2.6 - (0.9 if side > 0 else 0.0)
    trunks = np.deg2rad(np.array([-78, -52, -25, 0, 22, 40, 56, 70, 84]))  # 0 lateral, + downwards
    n = len(trunks)
    angle = trunks + rng.normal(0, 0.12, n)
    x = np.full(n, 2.9 if side < 0 else 3.7) + rng.uniform(0, 1.2, n)
    y = hilum_y + np.linspace(-1.6, 2.4, n)
    reach = np.array([8.5, 9.0, 9.0, 9.5, 10.5, 11.0, 11.0, 10.5, 9.5])  # root to periphery
    radius = 1.42 * np.array([0.30, 0.29, 0.23, 0.24, 0.29, 0.34, 0.38, 0.36, 0.27]) * rng.uniform(0.85, 1.15, n)
    length = reach * 0.29
    xs, ys, rs, ls = [], [], [], []
    for n_samples in (14, 12, 10, 8, 7, 6):  # a branch of each generation
        u = np.linspace(0, 1, n_samples)
        bend = rng.normal(0, 0.22, len(x))
        direction = angle[:, None] + bend[:, None] * u
        step = length[:, None] / (len(u) - 1)
        px = x[:, None] + np.concatenate((np.zeros((len(x), 1)), np.cumsum(np.cos(direction[:, 1:]) * step, 1)), 1)
        py = y[:, None] + np.concatenate((np.zeros((len(x), 1)), np.cumsum(np.sin(direction[:, 1:]) * step, 1)), 1)
        xs.append(px.ravel())
        ys.append(py.ravel())
        rs.append((radius[:, None] * (1 - 0.18 * u)).ravel())
        ls.append(np.broadcast_to(step, px.shape).ravel())
        x, y = np.repeat(px[:, -1], 2), np.repeat(py[:, -1], 2)
        fork = np.tile([1.0, -1.0], len(angle)) * rng.uniform(0.12, 0.62, 2 * len(angle))
        angle = np.repeat(angle + bend, 2) + fork
        major = rng.random(2 * len(fork) // 2) < 0.5
        radius = np.repeat(radius * 0.87, 2) * np.where(major, 0.94, 0.72)
        length = np.repeat(length, 2) * rng.uniform(0.62, 0.95, len(fork))
    return Tree(side * np.concatenate(xs), np.concatenate(ys), np.concatenate(rs), np.concatenate(ls))


def vessels(frame: Frame, trees: list[Tree], gain: float, shift: float) -> Array:
    """Thickness of the blood in the lung vessels, cm, (H, W)."""
    x = np.concatenate([tree.x for tree in trees]) + shift
    y = np.concatenate([tree.y for tree in trees])
    radius = np.concatenate([tree.radius for tree in trees]) * np.sqrt(gain)
    volume = np.pi * radius**2 * np.concatenate([tree.length for tree in trees])
    thick = radius > 0.16
    fine = blur(splat(frame, x[~thick], y[~thick], volume[~thick]), max(0.45, 0.05 / frame.px_cm))
    coarse = blur(splat(frame, x[thick], y[thick], volume[thick]), max(0.5, 0.15 / frame.px_cm))
    return np.maximum(fine, 0) + np.maximum(coarse, 0)
