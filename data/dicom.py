"""DICOM radiographs through pydicom: one frame, as it is displayed, without anything that names a person.

Input: a file. Output: (H, W) uint8 or uint16, white is dense. No tag is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InvalidInput, NotFound
from data.images import GrayImage

SUFFIXES = (".dcm", ".dicom")


def is_dicom(path: Path) -> bool:
    """True for a file with a DICOM suffix or the mark ``DICM`` at byte 128 (file names may lack a suffix)."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> GrayImage:
    """A radiograph (H, W) as its file says it is displayed: rescaled, VOI LUT or first window, MONOCHROME1 inverted.

    Raises:
        NotFound: no such file.
        InvalidInput: no DICOM, truncated, without pixels, of several frames, in colour, or without a decoder.
    """
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    try:
        dataset = pydicom.dcmread(path)
        pixels: np.ndarray = dataset.pixel_array
    except FileNotFoundError as error:
        raise NotFound(f"no image at {path}; check the path") from error
    except Exception as error:  # pydicom and its plugins raise what they like
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{path} is not a readable DICOM image ({reason}); replace or remove it") from error
    values = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset, index=0), dtype=np.float64)
    return _spread(values, dataset)


def _spread(values: np.ndarray, dataset: Any) -> GrayImage:
    low, high = float(values.min()), float(values.max())
    deep = int(dataset.BitsStored) > 8
    top = 65535 if deep else 255
    scaled = np.round((values - low) / max(high - low, 1e-9) * top)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        scaled = top - scaled
    return scaled.astype(np.uint16) if deep else scaled.astype(np.uint8)
