"""DICOM radiographs through pydicom: one frame, as it is meant to be displayed, without anything that names a person.

Input: a file. Output: (H, W) uint8 or uint16, dense tissue white. Only the tags of :data:`TAGS` are ever parsed.
PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3.1.2 (MONOCHROME1), C.7.5.1.1.2 (pixel padding).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.imaging.images import GrayImage

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

SUFFIXES = (".dcm", ".dicom")
MAX_BITS = 16
TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "BurnedInAnnotation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
"""What is read of a file; names, dates and identifiers are passed over."""
VIEWS = ("AP", "PA", "LL", "RL", "LATERAL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO", "RAO", "AP AXIAL")
MODALITIES = ("CR", "DX", "RF", "XA", "OT", "SC", "RG")


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
    """A radiograph (H, W) as its file asks to be displayed; uint8 where it stores up to 8 bits, else uint16.

    Rescale or modality LUT, then the VOI LUT, else the first window, then MONOCHROME1 is inverted and padding is black.
    A window spans the whole range of the result; without one 8 bits stay as they are and more bits are stretched from
    the smallest to the largest value.

    Raises:
        NotFound: no such file.
        InvalidInput: no DICOM, truncated, without pixels, of several frames, in colour, over 16 bits, with text burned
            in, or compressed in a way no installed decoder knows.
    """
    dataset = _read(path, TAGS)
    _check(dataset, path)
    pixels = _decode(dataset, path)
    try:
        return _display(pixels, dataset)
    except Exception as error:  # a window of width 0, a LUT that is cut off: pydicom raises what it likes
        raise InvalidInput(f"{path} cannot be displayed ({_reason(error)}); fix its window or LUT") from error


def dicom_facts(path: Path) -> dict[str, str]:
    """``view_position`` and ``modality`` where the file gives them in the standard's words; nothing else.

    Raises:
        NotFound, InvalidInput: no such file, or no DICOM.
    """
    dataset = _read(path, ("ViewPosition", "Modality"), pixels=False)
    words = {"view_position": ("ViewPosition", VIEWS), "modality": ("Modality", MODALITIES)}
    found = {name: (str(dataset.get(tag) or "").strip().upper(), allowed) for name, (tag, allowed) in words.items()}
    return {name: word for name, (word, allowed) in found.items() if word in allowed}


def _read(path: Path, tags: tuple[str, ...], *, pixels: bool = True) -> FileDataset:
    import pydicom
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # odd but readable values do not matter
    try:
        return pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels=not pixels)
    except FileNotFoundError as error:
        raise NotFound(f"no image at {path}; check the path in the table") from error
    except Exception as error:  # pydicom raises whatever its parser meets in a broken file
        raise InvalidInput(f"{path} is not a readable DICOM file ({_reason(error)}); replace or remove it") from error


def _check(dataset: FileDataset, path: Path) -> None:
    if "PixelData" not in dataset:
        raise InvalidInput(f"{path} holds no pixel data (or was cut off before it); replace or remove it")
    missing = [tag for tag in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation") if tag not in dataset]
    if missing:
        raise InvalidInput(f"{path} is not a readable DICOM image (no {missing[0]}); replace or remove it")
    frames = dataset.get("NumberOfFrames") or 1
    if int(frames) != 1:
        raise InvalidInput(f"{path} holds {frames} frames; export the one frontal image")
    photometric = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise InvalidInput(f"{path} is in colour ({photometric}); export it as MONOCHROME2")
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise InvalidInput(f"{path} says that text is burned into its pixels; mask it and set BurnedInAnnotation to NO")


def _decode(dataset: FileDataset, path: Path) -> npt.NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed and syntax.is_transfer_syntax:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            raise InvalidInput(f"{path} is compressed as {syntax.name}, not a single image; convert it") from None
        if not available:
            needed = 'pip install "radpref[dicom]"'
            raise InvalidInput(f"{path} is compressed as {syntax.name} and no decoder is installed; {needed}")
    try:
        pixels: npt.NDArray[Any] = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # decoders are plugins with errors of their own
        compressed = syntax is not None and syntax.is_compressed
        reason = f"no decoder reads it as {syntax.name}; it may be cut off" if compressed else _reason(error)
        raise InvalidInput(f"{path} has unreadable pixel data ({reason}); replace or remove it") from error
    if pixels.ndim != 2 or int(pixels.max()) - int(pixels.min()) >= 2**MAX_BITS:
        raise InvalidInput(f"{path} has pixels of shape {pixels.shape} over {MAX_BITS} bits; export it as grayscale")
    return pixels


def _display(pixels: npt.NDArray[Any], dataset: FileDataset) -> GrayImage:
    """The display pipeline runs on a table of all values between the smallest and the largest, not on every pixel."""
    from pydicom.pixels.processing import apply_modality_lut

    bits = 8 if int(dataset.get("BitsStored") or dataset.BitsAllocated) <= 8 else MAX_BITS
    padding = _padding(pixels, dataset)
    shown = pixels if padding is None else pixels[~padding]
    low, high = (int(pixels.min()), int(pixels.max())) if not shown.size else (int(shown.min()), int(shown.max()))
    modality = apply_modality_lut(np.arange(low, high + 1), dataset)
    table = _apply_voi(modality, dataset, bits)
    if table is None:
        table = modality.astype(np.float64)
        if bits == MAX_BITS or low < 0 or "ModalityLUTSequence" in dataset:
            table = (table - table.min()) / max(float(np.ptp(table)), 1e-9) * (2**bits - 1)
        else:
            table = np.arange(low, high + 1, dtype=np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = 2**bits - 1 - table
    kind = np.uint8 if bits == 8 else np.uint16
    image = np.round(table).clip(0, 2**bits - 1).astype(kind)[pixels.clip(low, high).astype(np.int64) - low]
    if padding is not None:
        image[padding] = 0
    return np.asarray(image)


def _padding(pixels: npt.NDArray[Any], dataset: FileDataset) -> npt.NDArray[np.bool_] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    ends = sorted((int(value), int(dataset.get("PixelPaddingRangeLimit") or value)))
    mask: npt.NDArray[np.bool_] = (pixels >= ends[0]) & (pixels <= ends[1])
    return mask if mask.any() else None


def _apply_voi(values: npt.NDArray[Any], dataset: FileDataset, bits: int) -> npt.NDArray[np.float64] | None:
    """VOI LUT, else first window, on values after the modality step; 0 to 2**bits - 1. None: the file has neither."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.processing import apply_voi, apply_windowing

    top = 2**bits - 1
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        n_entries, first, depth = (int(part) for part in item.LUTDescriptor)
        item.LUTDescriptor = [n_entries, first, MAX_BITS]  # with 8 pydicom would also index the table by 8 bits
        found = apply_voi(np.round(values).astype(np.int64), dataset).astype(np.float64)
        return np.asarray(found / (2**depth - 1) * top)
    if any(dataset.get(tag) in (None, "") for tag in ("WindowCenter", "WindowWidth")):
        return None
    window = Dataset()  # without rescale tags, so that pydicom spans 0 to 2**bits - 1
    window.PhotometricInterpretation, window.PixelRepresentation, window.BitsStored = "MONOCHROME2", 0, bits
    window.WindowCenter, window.WindowWidth = dataset.WindowCenter, dataset.WindowWidth
    window.VOILUTFunction = dataset.get("VOILUTFunction") or "LINEAR"
    return np.asarray(apply_windowing(values, window), dtype=np.float64)


def _reason(error: Exception) -> str:
    """One line, cut: a parser's message may run over pages."""
    return " ".join(str(error).split())[:200] or type(error).__name__
