"""Content-addressed images and masks: grayscale PNG files named by their SHA-256, never changed.

Input: arrays (H, W) uint8/uint16 (images) or bool (masks). Output: the hash, a file and a database row.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
from radpref.data.core.sqlite import sqlite3

Origin = Literal["real", "synthetic"]
GrayImage = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]
SYNTHETIC_MARK = "radpref synthetic image; research use, not for diagnosis"


def encode_png(image: GrayImage, *, text: dict[str, str] | None = None) -> bytes:
    """PNG bytes of a grayscale image (H, W) uint8 or uint16; no metadata unless ``text`` is given.

    Raises:
        InvalidInput: another shape or dtype.
    """
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise InvalidInput(f"an image must be (H, W) uint8 or uint16, got {image.shape} {image.dtype}")
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def encode_mask(mask: Mask) -> bytes:
    """A mask (H, W) bool as PNG bytes, white on black; equal masks give equal bytes."""
    return encode_png(mask.astype(np.uint8) * np.uint8(255))


def read_image(path: Path) -> GrayImage:
    """Read any image file as grayscale (H, W), uint8 or uint16 (16-bit sources keep their depth).

    Raises:
        NotFound: no such file.
        InvalidInput: the file is not an image, or is truncated.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
                return np.asarray(picture, dtype=np.int64).clip(0, 65535).astype(np.uint16)
            return np.asarray(picture.convert("L"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise NotFound(f"no image at {path}; check the path in the table") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{path} is not a readable image ({reason}); replace or remove it") from error


@dataclass(frozen=True)
class ImageFile:
    """An image that was written: SHA-256 of its file, (H, W), 8 or 16 bits."""

    sha256: str
    shape: tuple[int, ...]
    bit_depth: int


@dataclass(frozen=True)
class MaskFile:
    """A mask that was written: SHA-256 of its file, (H, W), how many of its pixels are in."""

    sha256: str
    shape: tuple[int, ...]
    n_pixels: int


class ImageStore:
    """Files below one study folder, ``images/ab/<sha256>.png`` and ``masks/ab/<sha256>.png``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str, kind: Literal["images", "masks"] = "images") -> Path:
        """Path of the file with this hash."""
        return self.root / kind / sha256[:2] / f"{sha256}.png"

    def _put(self, payload: bytes, kind: Literal["images", "masks"]) -> str:
        sha256 = sha256_bytes(payload)
        target = self.path(sha256, kind)
        if not target.exists():
            write_atomic(target, payload)
        return sha256

    def write_image(self, image: GrayImage, origin: Origin) -> ImageFile:
        """Write the file of an image, without its database row (callable from any thread)."""
        mark = {"Synthetic": SYNTHETIC_MARK} if origin == "synthetic" else None
        return ImageFile(self._put(encode_png(image, text=mark), "images"), image.shape, image.dtype.itemsize * 8)

    def write_mask(self, mask: Mask) -> MaskFile:
        """Write the file of a mask (H, W) bool, without its database row."""
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise InvalidInput(f"a mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
        return MaskFile(self._put(encode_mask(mask), "masks"), mask.shape, int(mask.sum()))

    def put_image(self, connection: sqlite3.Connection, image: GrayImage, origin: Origin) -> str:
        """Store an image (H, W) uint8/uint16 inside an open write transaction; returns its SHA-256.

        Synthetic images carry a PNG text mark, so that a file that left the study cannot come back as real.
        """
        file = self.write_image(image, origin)
        self.add_image(connection, file, origin)
        return file.sha256

    def add_image(self, connection: sqlite3.Connection, file: ImageFile, origin: Origin) -> None:
        """The database row of an image whose file is written, inside an open write transaction.

        Raises:
            Conflict: the same pixels are already known with another origin.
        """
        known = connection.execute("SELECT origin FROM images WHERE sha256 = ?", (file.sha256,)).fetchone()
        if known is not None and known[0] != origin:
            name = file.sha256[:12]
            raise Conflict(f"image {name} is stored as {known[0]} and cannot also be {origin}; remove it there")
        connection.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT(sha256) DO NOTHING",
            (file.sha256, origin, file.shape[1], file.shape[0], file.bit_depth),
        )

    def put_mask(self, connection: sqlite3.Connection, mask: Mask) -> str:
        """Store a mask (H, W) bool inside an open write transaction; returns its SHA-256."""
        file = self.write_mask(mask)
        self.add_mask(connection, file)
        return file.sha256

    def add_mask(self, connection: sqlite3.Connection, file: MaskFile) -> None:
        """The database row of a mask whose file is written, inside an open write transaction."""
        connection.execute(
            "INSERT INTO masks VALUES (?, ?, ?, ?) ON CONFLICT(sha256) DO NOTHING",
            (file.sha256, file.shape[1], file.shape[0], file.n_pixels),
        )

    def image(self, sha256: str) -> GrayImage:
        """Read an image back, (H, W) uint8 or uint16."""
        return read_image(self.path(sha256))

    def mask(self, sha256: str) -> Mask:
        """Read a mask back, (H, W) bool."""
        return read_image(self.path(sha256, "masks")) > 127


def is_marked_synthetic(path: Path) -> bool:
    """True if the file carries the synthetic mark of this project."""
    try:
        with Image.open(path) as picture:
            return "Synthetic" in getattr(picture, "text", {})
    except (OSError, SyntaxError, ValueError):
        return False


def to_uint8(image: GrayImage) -> npt.NDArray[np.uint8]:
    """An image at 8 bits: 16-bit values are divided by 257 and rounded (65535 becomes 255)."""
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    return np.round(image.astype(np.float32) / 257.0).astype(np.uint8)


def high_byte(image: GrayImage) -> npt.NDArray[np.uint8]:
    """A phantom's render at 8 bits: the high byte of 16-bit values.

    Half a grey level darker than `to_uint8`; the shipped networks record hashes of data that was made so.
    """
    return np.asarray(image if image.dtype == np.uint8 else image >> 8, np.uint8)
