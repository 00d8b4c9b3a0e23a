"""The digital phantom: frontal chest radiographs with exact masks, labels, captions and reports.

`render(PhantomSpec(...), size)` projects a parametric thorax through the Beer-Lambert law. No downloads, no torch.
Masks come from the geometry that made the picture: `lungs` is the lung field above the diaphragm and beside
heart and mediastinum (opacified lung and pleural air included), `heart` its silhouette, `lesion` what the findings
added, `pneumothorax` the pleural air. Radiological convention: the patient's right is at image left.

    anatomy -> findings -> line integrals -> detector -> display
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radpref.data.core.errors import InvalidInput
from radpref.data.phantom.anatomy import (  # fmt: skip
    Anatomy,
    Cavity,
    body,
    breasts,
    cavity,
    draw_anatomy,
    draw_pose,
    gastric_gas,
    heart,
    mediastinum,
)
from radpref.data.phantom.detector import MU_AIR, MU_BONE, MU_LUNG, MU_SOFT, display, draw_exposure, expose
from radpref.data.phantom.findings import Effect, Scene, change_geometry, draw_effects
from radpref.data.phantom.raster import Array, Frame, cover, texture
from radpref.data.phantom.spec import FINDINGS, STRUCTURES, PhantomSpec, check_spec
from radpref.data.phantom.text import canonical_caption, report
from radpref.data.phantom.tubes import airways, bones, vessel_tree, vessels

MIN_SIZE, MAX_SIZE = 16, 4096


@dataclass(frozen=True)
class PhantomImage:
    """A rendered radiograph.

    image: (H, W) uint16, 0..65535, bones white. masks: one (H, W) bool per name of `STRUCTURES`.
    labels: 0 or 1 for each of `FINDINGS` and for "normal". caption: five words at most.
    """

    image: NDArray[np.uint16]
    masks: dict[str, NDArray[np.bool_]]
    labels: dict[str, int]
    spec: PhantomSpec
    caption: str
    report: str


@dataclass(frozen=True)
class _Organs:
    """Thickness maps along the beam in cm, (H, W), before findings fill the lungs."""

    body: Array
    lung: Array
    bone: Array
    air: Array
    blood: Array


def _lung_depth(cav: Cavity, heart_radius: Array, middle: Array, anatomy: Anatomy) -> tuple[Array, tuple[Array, Array]]:
    """Lung along the beam (cm) and the 0..1 lung field of each side."""
    heart_cm = 0.88 * anatomy.depth * np.sqrt(np.maximum(1 - heart_radius**2, 0))
    free = np.maximum(cav.depth - np.maximum(heart_cm, middle), 0)
    total = np.zeros_like(free)
    fields = []
    for i in (0, 1):
        height = cav.dome_cm[i]
        above = cover(height, 0.35)
        # Behind the dome the posterior recess still holds a little lung.
        part = above + (1 - above) * 0.30 * np.exp(np.minimum(height, 0) / 1.5) * cover(cav.wall_cm, 1.0)
        total += free * part * cav.in_side[i]
        fields.append((cover(cav.wall_cm, 0.4) * above * cav.in_side[i]).astype(np.float32))
    return total.astype(np.float32), (fields[0], fields[1])


def _attenuation(organs: _Organs, effects: list[Effect], grain: Array) -> Array:
    """Line integral of the attenuation coefficient, dimensionless, (H, W)."""
    lung, blood = organs.lung, organs.blood
    water = np.zeros_like(lung)
    air = np.zeros_like(lung)
    for effect in effects:
        water = water + effect.fill * (1 - water)
        if effect.air is not None:
            air = np.maximum(air, effect.air)
    aerated = lung * (1 - water) * (1 - air)
    solid = organs.body - lung - organs.air + lung * water * (1 - air)
    lines = sum((effect.lines for effect in effects if effect.lines is not None), np.zeros_like(lung))
    marks = (blood * (1 - water) + lines * (1 - 0.6 * water)) * (1 - air) + lines * air
    marks = marks * np.clip((lung - 3.5) / 5.0, 0, 1)
    total = MU_SOFT * np.maximum(solid, 0) + MU_LUNG * aerated * (1 + 0.10 * grain) + MU_AIR * (organs.air + lung * air)
    total = total + (MU_BONE - MU_SOFT * 0.5) * organs.bone + (MU_SOFT - MU_LUNG) * marks
    return np.asarray(total, np.float32)


def _masks(
    frame: Frame, cav: Cavity, heart_radius: Array, middle: Array, effects: list[Effect], grown: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Exact masks from the geometry; see the module docstring."""
    masks = {name: np.zeros((frame.size, frame.size), bool) for name in STRUCTURES}
    above = (cav.dome_cm[0] > 0) & (cav.in_side[0] >= 0.5) | (cav.dome_cm[1] > 0) & (cav.in_side[1] > 0.5)
    inside = (heart_radius < 1) & (np.minimum(cav.dome_cm[0], cav.dome_cm[1]) > -1.5)
    masks["heart"] = inside
    masks["lungs"] = (cav.wall_cm > 0) & above & ~(heart_radius < 1) & (middle <= 0.5)
    thorax = masks["lungs"] | masks["heart"]
    for effect in effects:
        masks["lesion"] |= effect.region > 0.5
        if effect.air is not None:
            masks["pneumothorax"] |= (effect.region > 0.5) & masks["lungs"]
    masks["lesion"] = (masks["lesion"] & masks["lungs"]) | (grown & thorax)
    return masks


def render(spec: PhantomSpec, size: int = 128) -> PhantomImage:
    """Render a spec as a `size` x `size` radiograph; the same spec and size give the same bytes.

    Raises InvalidInput on an unknown finding, side or severity, a repeated finding, a negative seed or a bad size.
    """
    check_spec(spec)
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InvalidInput(f"size is {size}: give {MIN_SIZE} to {MAX_SIZE} pixels")
    rng = np.random.default_rng([spec.patient_seed, 1])
    view = np.random.default_rng([spec.patient_seed, spec.view_seed, 3])
    normal = draw_anatomy(rng)
    anatomy = change_geometry(normal, spec.findings, spec.patient_seed)
    frame = Frame(size, draw_pose(view))
    exposure = draw_exposure(view)

    cav, heart_radius, middle = cavity(frame, anatomy), heart(frame, anatomy), mediastinum(frame, anatomy)
    lung, fields = _lung_depth(cav, heart_radius, middle, anatomy)
    trees = (vessel_tree(anatomy, -1, rng), vessel_tree(anatomy, 1, rng))
    wall = cover(cav.wall_cm, 0.4)
    hemithorax = (wall * cav.in_side[0], wall * cav.in_side[1])
    scene = Scene(frame, anatomy, cav, fields, hemithorax, trees)
    effects = draw_effects(scene, spec.findings, spec.patient_seed)
    gain = anatomy.vessel_gain * float(np.prod([effect.vessel_gain for effect in effects]))
    organs = _Organs(
        body=body(frame, anatomy) + breasts(frame, anatomy),
        lung=lung,
        bone=bones(frame, anatomy, rng) * np.float32(anatomy.bone_density),
        air=airways(frame, anatomy) + gastric_gas(frame, anatomy),
        blood=vessels(frame, list(trees), gain, 0.5 * anatomy.shift),
    )
    grain = texture(rng, size, 0.8)
    signal = expose(_attenuation(organs, effects, grain), exposure, frame.px_cm, view)

    names = {finding.name for finding in spec.findings}
    grown = np.zeros((size, size), bool)
    if "cardiomegaly" in names:
        grown = (heart_radius < 1) & ~(heart(frame, normal) < 1)
    return PhantomImage(
        image=display(signal, exposure, frame.px_cm),
        masks=_masks(frame, cav, heart_radius, middle, effects, grown),
        labels={**{name: int(name in names) for name in FINDINGS}, "normal": int(not names)},
        spec=spec,
        caption=canonical_caption(spec.findings),
        report=report(spec),
    )
