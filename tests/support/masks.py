"""Mask transforms made again, for tests that what was drawn is kept."""

from __future__ import annotations

from collections.abc import Sequence

from radpref.data.imaging.images import Mask
from radpref.data.imaging.masks import TRANSFORMS, Step


def replay_transforms(stack: Mask, steps: Sequence[Step]) -> Mask:
    """A transformed stack from its source and the steps that a condition keeps."""
    for kind, *parameters in steps:
        stack = TRANSFORMS[kind].apply(stack, *parameters)
    return stack
