"""From attenuation to a displayed radiograph: Beer-Lambert law, scatter, noise and the display curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from radpref.data.phantom.raster import Array, blur

MU_SOFT = 0.205
"""Linear attenuation of soft tissue, 1/cm, at about 70 keV effective (NIST XCOM: water 0.193, muscle 0.204)."""
MU_BONE = 0.50
"""Compact bone, 1/cm (NIST XCOM: cortical bone 1.92 g/cm3 x 0.26 cm2/g)."""
MU_LUNG = 0.053
"""Inflated lung, 1/cm (lung tissue at 0.26 g/cm3)."""
MU_AIR = 0.0003
"""Air, 1/cm."""


@dataclass(frozen=True)
class Exposure:
    """One exposure and its processing."""

    photons: float  # per pixel at 128 x 128 in the open beam, sets the quantum noise
    scatter: float  # scatter-to-primary ratio behind the patient
    electronic: float  # read-out noise, as a fraction of the open beam
    window_low: float  # display: percentile of the body's signal shown black
    window_toe: float  # display: how far below that black lies, as a fraction of the window
    gamma: float  # display curve
    contrast: float  # display: steepness of the S-curve
    detail: float  # display: boost of fine detail (unsharp masking)


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Draw tube output, scatter and processing of one film."""
    return Exposure(
        photons=float(np.exp(rng.uniform(np.log(2e5), np.log(1.2e6)))),
        scatter=rng.uniform(0.35, 0.9),
        electronic=rng.uniform(3e-5, 1.5e-4),
        window_low=rng.uniform(1.0, 4.0),
        window_toe=rng.uniform(0.0, 0.16),
        gamma=float(np.exp(rng.normal(0.0, 0.14))),
        contrast=rng.uniform(1.2, 1.9),
        detail=rng.uniform(0.7, 1.5),
    )


def expose(attenuation: Array, exposure: Exposure, px_cm: float, rng: np.random.Generator) -> Array:
    """Line integrals (H, W), dimensionless -> noisy log signal of the same kind (higher is denser).

    Primary I = I0 exp(-integral mu dl), plus scatter as a wide blur of it, Poisson noise (Gaussian limit) and
    read-out noise.
    """
    primary = np.exp(-attenuation)
    behind = np.minimum(primary, np.float32(0.12))  # the open beam hardly scatters
    signal = primary + np.float32(exposure.scatter) * blur(behind, 3.2 / px_cm) * np.float32(0.55)
    variance = signal / np.float32(exposure.photons * (px_cm / 0.3125) ** 2) + np.float32(exposure.electronic**2)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = signal + blur(np.sqrt(variance) * noise, 0.45)
    return cast(Array, -np.log(np.maximum(signal, np.float32(1e-4))))


def display(signal: Array, exposure: Exposure, px_cm: float) -> NDArray[np.uint16]:
    """Log signal -> 16-bit picture, bones white: detail boost, window, S-curve."""
    base = blur(signal, 1.6 / px_cm)
    # Clipping the boosted part keeps halos off diaphragm and skin, as clinical processing does.
    fine = signal - blur(signal, 0.55 / px_cm)
    boost = np.clip(signal - base, -0.22, 0.22) * 0.35 + np.clip(fine, -0.12, 0.12) * 1.1
    signal = signal + np.float32(exposure.detail) * boost
    body = signal[base > 0.55]
    low, high = (float(q) for q in np.percentile(body[::3], (exposure.window_low, 96.0)))
    low -= exposure.window_toe * (high - low)
    v = np.maximum((signal - low) / (high - low), 0)
    # Film-like shoulder: dense parts approach white without clipping.
    k = np.float32(exposure.contrast)
    curve = np.tanh(k * v ** np.float32(1.75)) / np.tanh(1.2 * k)
    shown = np.clip(curve, 0, 1) ** np.float32(exposure.gamma)
    return cast(NDArray[np.uint16], np.round(shown * 65535).astype(np.uint16))
