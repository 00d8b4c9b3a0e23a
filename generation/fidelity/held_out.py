"""Conditions whose phantoms no network has seen, and what a judge answers about their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.imaging.images import high_byte
from radpref.generation.measuring.image_scores import findings_right, sides_right
from radpref.generation.measuring.measuring_data import (
    CONDITIONS_DRAW,
    FIRST_PATIENT,
    PATIENTS_PER_DRAW,
    phantom_asked,
)

IMAGES = npt.NDArray[np.uint8]
TEXT_GROUPS = ("seen caption", "unseen caption", "held-out combination")
MODE_CYCLE = ("T2I", "TM2I", "T2I", "TM2I", "M2I")  # 40, 40 and 20 %


@dataclass(frozen=True)
class HeldOutCondition:
    """One asked condition and what the phantom shows for it."""

    mode: str  # T2I, M2I or TM2I
    group: str  # one of TEXT_GROUPS; "mask only" for M2I
    text: str | None
    asked: dict[str, int]  # attributes the text asks for; empty for M2I
    mask: npt.NDArray[np.bool_] | None  # (S, H, W), channels as in the stack's structures
    render: IMAGES  # (H, W), the phantom of this condition: the ceiling


def held_out_conditions(
    n: int, seed: int, structures: Sequence[str], size: int, *, with_masks: bool = True
) -> list[HeldOutCondition]:
    """`n` conditions with patients of the range kept for this report; modes and groups in fixed shares.

    Every second mask holds all structures of the phantom, the others its anatomy (lungs, heart) alone.

    Args:
        structures: hint channels of the stack, in order; unknown ones stay empty.
        with_masks: False for a stack without a ControlNet: T2I only.
    """
    if n < 1:
        raise InvalidInput(f"{n} held-out conditions: give 1 or more")
    rng = np.random.default_rng([seed, CONDITIONS_DRAW])
    conditions = []
    n_text = 0
    for i in range(n):
        mode = MODE_CYCLE[i % len(MODE_CYCLE)] if with_masks else "T2I"
        group = "mask only" if mode == "M2I" else TEXT_GROUPS[n_text // 2 % len(TEXT_GROUPS)]
        n_text += mode != "M2I"
        patient = FIRST_PATIENT + CONDITIONS_DRAW * PATIENTS_PER_DRAW + (10_000 * seed + i) % PATIENTS_PER_DRAW
        conditions.append(_condition(mode, group, patient, rng, structures, size))
    return conditions


def _condition(
    mode: str, group: str, patient: int, rng: np.random.Generator, structures: Sequence[str], size: int
) -> HeldOutCondition:
    from dataclasses import replace

    from radpref.data.phantom.render import render
    from radpref.data.phantom.spec import HELD_OUT, PhantomSpec, draw_spec
    from radpref.data.phantom.text import canonical_caption, paraphrases

    if group == "held-out combination":
        kept_back = sorted(HELD_OUT, key=lambda f: (f.name, str(f.side), f.severity))
        spec = PhantomSpec(patient, (kept_back[int(rng.integers(len(kept_back)))],), int(rng.integers(2**31)))
    else:
        spec = replace(draw_spec(rng, second_finding_fraction=0.0, exclude=HELD_OUT), patient_seed=patient)
    phantom = render(spec, size)
    texts = [canonical_caption(spec.findings), *paraphrases(spec.findings, unseen=False)]
    if group == "unseen caption":
        texts = paraphrases(spec.findings, unseen=True) or texts[:1]
    elif group == "held-out combination":
        texts = texts[:1]
    text = texts[int(rng.integers(len(texts)))]
    kept = set(structures) if rng.random() < 0.5 else {"lungs", "heart"}
    empty = np.zeros((size, size), bool)
    mask = np.stack([phantom.masks.get(name, empty) if name in kept else empty for name in structures])
    return HeldOutCondition(
        mode=mode,
        group=group,
        text=None if mode == "M2I" else text,
        asked={} if mode == "M2I" else phantom_asked(spec.findings),
        mask=None if mode == "T2I" else mask,
        render=high_byte(phantom.image),
    )


@dataclass(frozen=True)
class Answers:
    """What the judge sees in N images."""

    probability: npt.NDArray[np.float32]  # (N, A)
    present: npt.NDArray[np.bool_]  # (N, A)
    attributes: tuple[str, ...]

    def found(self, image: int, asked: dict[str, int]) -> bool:
        """Every asked finding (or "normal") counts as present in the image."""
        return bool(findings_right(self.present[[image]], self.attributes, asked)[0] == 1)

    def side_right(self, image: int, asked: dict[str, int]) -> bool | None:
        """The asked side is more probable than the other, for every asked side; None where no side is asked."""
        right = float(sides_right(self.probability[[image]], self.attributes, asked)[0])
        return None if np.isnan(right) else bool(right)
