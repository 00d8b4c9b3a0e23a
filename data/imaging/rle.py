"""Run-length encodings of masks: the two conventions that chest X-ray data sets use, never mixed up silently.

Input: text of numbers in pairs, column-major (down each column first). Output: masks (H, W) bool, and back.

- ``relative`` (SIIM-ACR): each pair is (gap since the end of the last run, length of the run).
- ``absolute`` (CANDID-PTX's rib and tube files, many challenges): each pair is (start counted from ``first``, length).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.images import Mask

Convention = Literal["relative", "absolute"]
CONVENTIONS: tuple[Convention, ...] = ("relative", "absolute")
EMPTY = "-1"


def _check(convention: str, height: int, width: int) -> None:
    if convention not in CONVENTIONS:
        raise InvalidInput(f"run-length convention {convention!r} is unknown; choose one of {', '.join(CONVENTIONS)}")
    if height < 1 or width < 1:
        raise InvalidInput(f"a mask of {width}x{height} pixels has no pixel; give the size of its image")


def decode_rle(text: str, height: int, width: int, convention: Convention, *, first: int = 1) -> Mask:
    """Text -> mask (height, width) bool. "-1" and blank are empty masks. ``first`` numbers the first pixel (absolute).

    Raises:
        InvalidInput: not whole numbers in pairs, an empty run, overlapping absolute runs, or a run past the last pixel.
    """
    _check(convention, height, width)
    flat = np.zeros(height * width, dtype=np.bool_)
    if text.strip() in ("", EMPTY):
        return flat.reshape(height, width)
    try:
        numbers = np.array([int(part) for part in text.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"run lengths {text[:40]!r} are not whole numbers; give pairs 'start length'") from error
    if len(numbers) % 2:
        raise InvalidInput(f"{len(numbers)} run-length numbers do not make pairs; the text may be cut off")
    begins, lengths = numbers[0::2], numbers[1::2]
    if convention == "relative":
        starts = np.cumsum(begins) + np.concatenate(([0], np.cumsum(lengths)[:-1]))
    else:
        starts = begins - first
    ends = starts + lengths
    if (lengths < 1).any() or starts[0] < 0 or (starts[1:] < ends[:-1]).any():
        raise InvalidInput(f"run lengths {text[:40]!r} overlap or are empty; is the convention {convention!r} right?")
    if ends[-1] > flat.size:
        raise InvalidInput(f"a run ends at pixel {ends[-1]} of {width}x{height}; check the size and {convention!r}")
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    return np.ascontiguousarray(flat.reshape(width, height).T)


def encode_rle(mask: Mask, convention: Convention, *, first: int = 1) -> str:
    """Mask (H, W) bool -> text; an empty mask is "-1"."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InvalidInput(f"a mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
    _check(convention, *mask.shape)
    flat = mask.T.ravel().astype(np.int8)
    change = np.diff(np.concatenate(([0], flat, [0])))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    if not len(starts):
        return EMPTY
    begins = starts + first if convention == "absolute" else starts - np.concatenate(([0], ends[:-1]))
    return " ".join(f"{begin} {length}" for begin, length in zip(begins, ends - starts, strict=True))


def union_rle(texts: Iterable[str], height: int, width: int, convention: Convention, *, first: int = 1) -> Mask:
    """The union of several encodings of one image: SIIM-ACR gives one row per region."""
    _check(convention, height, width)
    union = np.zeros((height, width), dtype=np.bool_)
    for text in texts:
        union |= decode_rle(text, height, width, convention, first=first)
    return union
