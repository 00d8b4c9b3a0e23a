"""The parametric thorax: a patient's shape -> thickness maps of lungs, heart, vessels and soft tissue.

Lengths in cm (see `radpref.data.phantom.raster`). The cavity is a stack of elliptic sections whose width and depth are
functions of height; heart and diaphragm are cut out of it along the beam, so the visible lung field, the heart
silhouette and the masks come from one geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from radpref.data.phantom.raster import Array, Frame, Pose, cover, dome, table

APEX_X_CM = 4.7
"""Distance of the lung apex from the midline."""

# Heart border, (x, y) relative to the heart centre, clockwise from the left atrial appendage; cm, normal adult.
_HEART_BORDER = np.array(
    [
        (1.2, -7.2), (3.2, -5.4), (5.2, -3.0), (6.8, -0.4), (7.6, 2.0), (7.6, 3.8), (6.4, 5.4), (3.4, 6.2),
        (-0.5, 5.9), (-3.8, 4.6), (-5.2, 2.6), (-5.6, 0.2), (-5.0, -2.6), (-4.0, -5.2), (-1.8, -7.2),
    ]
)  # fmt: skip

# Skin line over neck and shoulders: |x| -> y, cm.
_SHOULDER_X = (0.0, 4.6, 5.3, 6.2, 8.5, 12.0, 15.5, 18.0, 20.0, 22.0, 25.0)
_SHOULDER_Y = (-40.0, -31.0, -23.0, -19.6, -17.8, -16.6, -15.6, -14.2, -11.8, -8.0, 2.0)


@dataclass(frozen=True)
class Anatomy:
    """One patient. Lengths in cm."""

    half_width: float  # of the thoracic cavity at its widest, 11.5-14.5
    apex_y: float  # top of the lungs
    dome_right_y: float  # top of the right diaphragm
    dome_left_y: float  # top of the left diaphragm (lower on the film)
    costophrenic_y: float  # lateral recess
    depth: float  # of the cavity along the beam, front to back
    heart_ratio: float  # cardiothoracic ratio
    heart_x: float  # heart centre
    fat: float  # subcutaneous fat, thickness on each side
    breast: float  # thickness of the breast shadow, 0 for none
    knob: float  # radius of the aortic knob
    bone_density: float  # 0.8-1.15 of normal
    shoulder_y: float  # shift of the shoulder line
    arm_x: float  # axis of the arm at the armpit
    gas: float  # radius of the gastric bubble, 0 for none
    vessel_gain: float  # prominence of the lung vessels
    raise_right: float = 0.0  # volume loss: elevation of the right diaphragm
    raise_left: float = 0.0
    shift: float = 0.0  # mediastinal shift, + to the patient's left (image right)

    def dome_y(self, side: int) -> float:
        """Height of a diaphragm dome; side -1 is the patient's right (image left), +1 the left."""
        return self.dome_right_y - self.raise_right if side < 0 else self.dome_left_y - self.raise_left


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a plausible adult."""
    size = rng.normal(0, 1)
    inspiration = float(np.clip(rng.normal(0, 1), -2, 1.6))
    dome_right = 6.9 + 1.15 * inspiration + 0.35 * size
    habitus = float(np.clip(rng.normal(0, 1), -1.6, 2.4))
    is_female = rng.random() < 0.5
    return Anatomy(
        half_width=float(np.clip(13.0 + 0.65 * size + 0.25 * rng.normal(), 11.4, 14.6)),
        apex_y=-13.6 - 0.4 * size + 0.5 * rng.normal(),
        dome_right_y=dome_right,
        dome_left_y=dome_right + rng.uniform(0.5, 1.5),
        costophrenic_y=dome_right + rng.uniform(4.2, 5.6),
        depth=17.0 + 1.2 * size + 0.8 * rng.normal(),
        heart_ratio=float(np.clip(rng.normal(0.455 - 0.012 * inspiration, 0.022), 0.40, 0.495)),
        heart_x=rng.normal(1.7, 0.25),
        fat=1.1 + 0.75 * max(habitus, -1.0),
        breast=rng.uniform(1.2, 3.2) * (1 + 0.25 * habitus) if is_female else 0.0,
        knob=rng.uniform(1.5, 2.25),
        bone_density=float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.2)),
        shoulder_y=rng.normal(0, 0.9),
        arm_x=18.6 + rng.uniform(-0.8, 2.5),
        gas=rng.uniform(0.9, 2.0) if rng.random() < 0.6 else 0.0,
        vessel_gain=float(np.exp(rng.normal(0, 0.18))),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw the positioning of one film (bedside films vary a lot)."""
    return Pose(
        angle_rad=float(np.clip(rng.normal(0, 0.022), -0.06, 0.06)),
        scale=float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.12)),
        shift_x_cm=rng.normal(0, 0.6),
        shift_y_cm=rng.normal(0.3, 0.8),
        yaw_cm=float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)),
    )


@dataclass(frozen=True)
class Cavity:
    """The thoracic cavity on the film; all (H, W). Index 0 is the patient's right lung, 1 the left."""

    lateral: Array  # x of the cavity wall at this height, > 0
    wall_cm: Array  # inside distance to the lateral wall and apex, horizontal cm
    dome_cm: tuple[Array, Array]  # height above the diaphragm of each side, cm
    depth: Array  # cavity thickness along the beam, before organs are cut out
    in_side: tuple[Array, Array]  # 0..1, side of the mediastinal midline


def wall_table(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights, lateral and medial border of a lung at each height: three (400,) arrays in cm."""
    height = np.linspace(anatomy.apex_y - 1, 22.0, 400)
    t = np.clip((height - anatomy.apex_y) / (anatomy.costophrenic_y - anatomy.apex_y), 0, 1)
    lateral = APEX_X_CM + (anatomy.half_width - APEX_X_CM) * (1 - (1 - t) ** 2.5) ** 0.6
    medial = APEX_X_CM - (APEX_X_CM - 0.9) * (1 - (1 - t) ** 7) ** 0.62
    return height, lateral, medial


def cavity(frame: Frame, anatomy: Anatomy) -> Cavity:
    """Walls, depth and diaphragm of the cavity; see `Cavity`."""
    height, lateral_t, medial_t = wall_table(anatomy)
    start, step = float(height[0]), float(height[1] - height[0])
    t = np.clip((height - anatomy.apex_y) / (anatomy.costophrenic_y - anatomy.apex_y), 0, 1)
    depth_t = anatomy.depth * (1 - (1 - t) ** 2.2) ** 0.6
    lateral = table(lateral_t.astype(np.float32), frame.y, start, step)
    medial = table(medial_t.astype(np.float32), frame.y, start, step)
    depth = table(depth_t.astype(np.float32), frame.y, start, step)
    x = frame.x - np.float32(0.35 * anatomy.shift)
    ax = np.abs(x)
    depth = depth * dome(ax / lateral) * cover(ax - medial, 0.9) * cover(ax - 2.2, 4.4)
    dome_cm = []
    reach = lateral - 5.6
    reach = np.where(np.abs(reach) < 1e-6, 1e-6, reach)
    for side in (-1, 1):
        top = anatomy.dome_y(side)
        outer = np.clip((ax - 5.6) / reach, 0, 1.2)
        inner = np.clip((5.6 - ax) / 5.6, 0, 1)
        edge = top + (anatomy.costophrenic_y - top) * outer * outer * np.sqrt(outer) + 1.3 * inner * inner
        dome_cm.append((edge - frame.y).astype(np.float32))
    left = cover(x, 0.6)
    return Cavity(lateral, np.minimum(lateral - ax, ax - medial), (dome_cm[0], dome_cm[1]), depth, (1 - left, left))


def _heart_scale(anatomy: Anatomy) -> float:
    """Horizontal scale of the border so that heart width / cavity width is the wanted ratio."""
    width = _HEART_BORDER[:, 0].max() - _HEART_BORDER[:, 0].min()
    return float(anatomy.heart_ratio * 2 * anatomy.half_width / width)


def heart(frame: Frame, anatomy: Anatomy) -> Array:
    """Normalised radius of the heart: < 1 inside the silhouette, (H, W)."""
    wide = _heart_scale(anatomy)
    tall = 1 + 0.45 * (wide - 1)
    border = _HEART_BORDER * (wide, tall)
    angle = np.arctan2(border[:, 1], border[:, 0])
    order = np.argsort(angle)
    angle, radius = angle[order], np.hypot(border[:, 0], border[:, 1])[order]
    spline = CubicSpline(np.append(angle, angle[0] + 2 * np.pi), np.append(radius, radius[0]), bc_type="periodic")
    start = -np.pi
    radius_t = spline(np.linspace(start, np.pi, 361)).astype(np.float32)
    dome_y = 0.5 * (anatomy.dome_right_y + anatomy.dome_left_y)
    centre_x = anatomy.heart_x + anatomy.shift + 0.8 * frame.pose.yaw_cm + 1.0 * (wide - 1)
    centre_y = dome_y - 3.9 - 2.0 * (tall - 1)
    dx, dy = frame.x - np.float32(centre_x), frame.y - np.float32(centre_y)
    limit = table(radius_t, np.arctan2(dy, dx), start, float(2 * np.pi / 360))
    rho: Array = np.sqrt(dx * dx + dy * dy) / limit
    return rho


def _round(frame: Frame, x: float, y: float, rx: float, ry: float) -> Array:
    """dome profile of an ellipse."""
    dx, dy = (frame.x - np.float32(x)) / np.float32(rx), (frame.y - np.float32(y)) / np.float32(ry)
    return dome(np.sqrt(dx * dx + dy * dy))


def mediastinum(frame: Frame, anatomy: Anatomy) -> Array:
    """Thickness of great vessels and mediastinal soft tissue without the heart, cm, (H, W)."""
    shift = anatomy.shift + 0.5 * frame.pose.yaw_cm
    top = anatomy.apex_y
    base = 0.5 * (anatomy.dome_right_y + anatomy.dome_left_y) - 3.2
    # Half-widths right and left of the midline by height: neck vessels, cava, aorta, down to the heart.
    heights = np.linspace(-24, 22, 200)
    knots_y = (-24.0, top - 1, top + 3.0, base - 9.0, base - 5.5, base - 2.0, base + 4.0, 22.0)
    right = PchipInterpolator(knots_y, (3.4, 2.9, 2.5, 2.5, 2.9, 2.6, 2.0, 1.9))(heights).astype(np.float32)
    left = PchipInterpolator(knots_y, (3.4, 3.0, 2.3, 2.3, 2.6, 2.6, 2.3, 2.2))(heights).astype(np.float32)
    step = float(heights[1] - heights[0])
    x = frame.x - np.float32(shift)
    half = np.where(x < 0, table(right, frame.y, -24.0, step), table(left, frame.y, -24.0, step))
    strip = 7.5 * dome(x / half)
    arch_y = base - 8.6
    knob = 6.5 * _round(frame, 0.7 + 0.3 * anatomy.knob + shift, arch_y + 0.4, anatomy.knob * 1.35, anatomy.knob * 1.5)
    trunk = 5.0 * _round(frame, 1.5 + shift, arch_y + 4.0, 2.6, 2.8)
    ascending = 5.5 * _round(frame, -0.9 + shift, arch_y + 3.4, 2.7, 4.6)
    thickness: Array = np.maximum(np.maximum(strip, knob), np.maximum(trunk, ascending))
    return thickness


def body(frame: Frame, anatomy: Anatomy) -> Array:
    """Thickness of the whole body (torso, neck, shoulders, arms) along the beam, cm, (H, W)."""
    wide = anatomy.half_width + 2.2 + 1.3 * anatomy.fat
    ax, y = np.abs(frame.x), frame.y
    skin = PchipInterpolator(_SHOULDER_X, _SHOULDER_Y)(np.linspace(0, 25, 126)).astype(np.float32)
    below_skin = y - table(skin, ax, 0.0, 0.2) - np.float32(anatomy.shoulder_y)
    half = np.float32(wide) + 1.4 * cover(-y - 3.5, 8.0) + 0.35 * cover(y - 8, 8.0)
    torso = (anatomy.depth + 3.8 + 1.7 * anatomy.fat) * dome(ax / half)
    shoulder_depth = 10.5 + 0.7 * anatomy.fat
    shoulder = shoulder_depth * dome(1 - np.clip(below_skin / 4.5, 0, 1)) * cover(-y - 3.0, 9.0)
    torso = torso * dome(1 - np.clip(below_skin / 7.0, 0, 1))
    arm_axis = np.float32(anatomy.arm_x) + 0.13 * np.maximum(y + 8, 0)
    arm_radius = 4.1 + 0.35 * anatomy.fat
    arm = 2 * arm_radius * dome((ax - arm_axis) / arm_radius) * cover(y + 8.5, 6.0)
    thickness: Array = np.maximum(np.maximum(torso, arm), shoulder)
    return thickness


def breasts(frame: Frame, anatomy: Anatomy) -> Array:
    """Extra soft tissue of the breasts, sharp at the lower fold, cm, (H, W)."""
    if anatomy.breast <= 0:
        return np.zeros_like(frame.x)
    ax = np.abs(frame.x)
    dx = (ax - 9.8) / (7.0 + 0.6 * anatomy.fat)
    fold = anatomy.dome_right_y + 2.6 + 0.8 * anatomy.fat
    dy = frame.y - np.float32(fold)
    dy = np.where(dy < 0, dy / 9.0, dy / 3.0)
    return np.float32(anatomy.breast) * np.maximum(1 - dx * dx - dy * dy, 0) ** np.float32(0.7)


def gastric_gas(frame: Frame, anatomy: Anatomy) -> Array:
    """Gas under the left diaphragm, cm of air, (H, W)."""
    if anatomy.gas <= 0:
        return np.zeros_like(frame.x)
    r = anatomy.gas
    return 3.2 * _round(frame, 5.2, anatomy.dome_left_y - anatomy.raise_left + 1.3 + 0.75 * r, 1.55 * r, 0.75 * r)
