"""Blinding: what of an image may reach a rater. Letters instead of slots, bare pixels instead of files.

Input: a presentation. Output: raw little-endian pixels, all images of a set alike in size and depth, so that neither
names, hashes, metadata, nor the length of an answer tell anything about an image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import NotFound, RadprefError
from radpref.data.imaging.images import GrayImage
from radpref.data.study.study import Study

LETTERS = "ABCD"


@dataclass(frozen=True)
class Geometry:
    """Size in pixels and depth (8 or 16 bits) in which all images of a set are sent."""

    width: int
    height: int
    bits: int


class MaskRow(NamedTuple):
    """A mask of a condition: its structure, file and size in pixels."""

    structure: str
    mask_sha: str
    width: int
    height: int


def slot_of(slots: str, letter: object) -> int:
    """Slot (0-3) shown at ``letter`` when a presentation's permutation is ``slots``.

    Raises:
        NotFound: the letter is not A-D.
    """
    if not isinstance(letter, str) or len(letter) != 1 or letter not in LETTERS:
        raise NotFound("there is no image of that letter; use A, B, C or D")
    return int(slots[LETTERS.index(letter)])


def letter_of(slots: str, slot: int) -> str:
    """Letter under which a rater sees ``slot``."""
    return LETTERS[slots.index(str(slot))]


def image_geometry(study: Study, set_id: str) -> Geometry:
    """Common geometry of the four images of a set: the largest width, height and depth.

    A set whose images are lost has that of study.toml: it is shown, its images cannot be read, and it can be skipped.
    """
    width, height, bits = study.db.connection.execute(
        "SELECT max(width), max(height), max(bit_depth) FROM set_images JOIN images ON sha256 = image_sha"
        " WHERE set_id = ?",
        (set_id,),
    ).fetchone()
    size = study.config.data.image_size
    return Geometry(size, size, 8) if width is None else Geometry(width, height, bits)


def pixel_payload(study: Study, set_id: str, slot: int) -> bytes:
    """Raw pixels of one image, row by row, uint8 or little-endian uint16, in the common geometry of its set.

    Raises:
        NotFound: the image file is missing or broken.
    """
    sha = study.db.value("SELECT image_sha FROM set_images WHERE set_id = ? AND slot = ?", (set_id, slot))
    try:
        image = study.store.image(str(sha))
    except RadprefError as error:
        raise NotFound("this image cannot be read; skip the set and tell the study office") from error
    fitted = fit(image, **asdict(image_geometry(study, set_id)))
    return fitted.astype(fitted.dtype.newbyteorder("<")).tobytes()


def fit(image: GrayImage, width: int, height: int, bits: int) -> GrayImage:
    """Bring an image to ``bits`` and centre it on a black (height, width) field; pixels are never resampled."""
    rows, columns = height - image.shape[0], width - image.shape[1]
    margins = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    if bits == 16:
        return np.pad(image.astype(np.uint16) * np.uint16(257 if image.dtype == np.uint8 else 1), margins)
    return np.pad(image.astype(np.uint8), margins)


def mask_rows(study: Study, condition_id: str) -> list[MaskRow]:
    """A condition's non-empty masks in the order of study.toml."""
    rows = study.db.connection.execute(
        "SELECT structure, mask_sha, width, height FROM condition_masks JOIN masks ON sha256 = mask_sha"
        " WHERE condition_id = ? AND n_pixels > 0",
        (condition_id,),
    )
    order = {name: index for index, name in enumerate(study.config.data.structures)}
    return sorted(map(MaskRow._make, rows), key=lambda row: (order.get(row.structure, len(order)), row.structure))


def mask_payload(study: Study, condition_id: str) -> bytes:
    """Asked masks as one little-endian uint16 per pixel; bit i is the i-th structure of :func:`mask_rows`.

    Raises:
        NotFound: the condition has no mask, or its file cannot be read.
    """
    rows = mask_rows(study, condition_id)
    if not rows:
        raise NotFound("this set has no mask")
    field: npt.NDArray[np.uint16] = np.zeros((rows[0].height, rows[0].width), dtype="<u2")
    try:
        for bit, row in enumerate(rows[:16]):
            field |= study.store.mask(row.mask_sha).astype("<u2") << np.uint16(bit)
    except (RadprefError, ValueError) as error:
        raise NotFound("the mask of this set cannot be read; skip the set and tell the study office") from error
    return field.tobytes()
