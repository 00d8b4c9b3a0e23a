"""Does the generator follow its condition? The report on held-out conditions (unseen mask, phantom patient and seed).

    python -m generation.fidelity.adherence --json adherence.json --sheet adherence.png

Asked texts and masks of phantom patients nobody was trained on -> images -> the judge (a network of role `judge` that
no rater, pair or filter uses): does it find the asked disease, on the asked side, and where is the asked structure?
Beside every figure stand the ceiling (phantom renders of the same conditions) and chance (the same answers, compared
with conditions in shuffled order).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.errors import InvalidInput
from data.files import write_atomic
from data.progress import bar
from generation.measuring.measure import MeasureNet, load_measure, structure_dice
from generation.measuring.measure_data import CONDITIONS_DRAW, FIRST_PATIENT, PATIENTS_PER_DRAW, phantom_asked, to_uint8

if TYPE_CHECKING:
    from generation.stack.models import GeneratorStack

log = logging.getLogger(__name__)
IMAGES = npt.NDArray[np.uint8]
TEXT_GROUPS = ("seen caption", "unseen caption", "held-out combination")
MODE_CYCLE = ("T2I", "TM2I", "T2I", "TM2I", "M2I")  # 40, 40 and 20 %
N_SHUFFLES = 50


@dataclass(frozen=True)
class HeldOutCondition:
    """One asked condition and what the phantom shows for it."""

    mode: str  # T2I, M2I or TM2I
    group: str  # one of TEXT_GROUPS; "mask only" for M2I
    text: str | None
    asked: dict[str, int]  # attributes the text asks for; empty for M2I
    mask: npt.NDArray[np.bool_] | None  # (S, H, W), channels as in the stack's structures
    render: IMAGES  # (H, W), the phantom of this condition: the ceiling


def wilson(k: int, n: int, z: float = 1.96) -> dict[str, float | int | None]:
    """A proportion with its Wilson score interval (95 % for z = 1.96): {k, n, rate, low, high}; None where n is 0."""
    if n == 0:
        return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    p, scale = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return {"k": k, "n": n, "rate": round(p, 4), "low": round(low, 4), "high": round(high, 4)}


# --- conditions ------------------------------------------------------------------------------------------------


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

    from data.phantom import HELD_OUT, PhantomSpec, canonical_caption, draw_spec, paraphrases, render

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
        render=to_uint8(phantom.image),
    )


# --- answers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What the judge sees in N images."""

    probability: npt.NDArray[np.float32]  # (N, A)
    present: npt.NDArray[np.bool_]  # (N, A)
    attributes: tuple[str, ...]

    def found(self, image: int, asked: dict[str, int]) -> bool:
        """Every asked finding (or "normal") counts as present in the image."""
        names = [name for name in asked if "/" not in name and name in self.attributes]
        return bool(names) and all(self.present[image, self.attributes.index(name)] for name in names)

    def side_right(self, image: int, asked: dict[str, int]) -> bool | None:
        """The asked side is more probable than the other, for every asked side; None where no side is asked."""
        other = {"left": "right", "right": "left"}
        verdicts = []
        for name in asked:
            finding, _, side = name.partition("/")
            opposite = f"{finding}/{other.get(side, '')}"
            if name in self.attributes and opposite in self.attributes:
                p, q = (self.probability[image, self.attributes.index(a)] for a in (name, opposite))
                verdicts.append(bool(p > q))
        return all(verdicts) if verdicts else None


def judge_answers(judge: MeasureNet, images: IMAGES) -> Answers:
    """Ask the judge about uint8 images (N, H, W)."""
    return Answers(judge.predict(images), judge.present(images), judge.attributes)


def text_figures(answers: Answers, asked: Sequence[dict[str, int]], rows: Sequence[int]) -> dict[str, Any]:
    """Hits over the images `rows`, each against its own `asked`: finding, side (of sided ones), and both together.

    Returns:
        {"finding": wilson, "side": wilson, "finding_and_side": wilson}; the last counts unsided texts by the finding.
    """
    texts = [i for i in rows if asked[i]]
    found = [answers.found(i, asked[i]) for i in texts]
    side = [answers.side_right(i, asked[i]) for i in texts]
    sided = [value for value in side if value is not None]
    both = [hit and value is not False for hit, value in zip(found, side, strict=True)]
    return {
        "finding": wilson(sum(found), len(found)),
        "side": wilson(sum(sided), len(sided)),
        "finding_and_side": wilson(sum(both), len(both)),
    }


def chance_figures(
    answers: Answers, asked: Sequence[dict[str, int]], rows: Sequence[int], rng: np.random.Generator
) -> dict[str, float | None]:
    """The same rates with the texts of `rows` dealt out at random, mean over shuffles."""
    texts = [i for i in rows if asked[i]]
    draws: dict[str, list[float]] = {"finding": [], "side": [], "finding_and_side": []}
    for _ in range(N_SHUFFLES if texts else 0):
        dealt = dict(zip(texts, (asked[texts[j]] for j in rng.permutation(len(texts))), strict=True))
        figures = text_figures(answers, [dealt.get(i, {}) for i in range(len(asked))], texts)
        for key, values in draws.items():
            if figures[key]["rate"] is not None:
                values.append(figures[key]["rate"])
    return {key: round(float(np.mean(values)), 4) if values else None for key, values in draws.items()}


def mask_dice(
    judge: MeasureNet, images: IMAGES, masks: npt.NDArray[np.bool_], structures: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Dice of the judge's segmentation with the asked masks (N, S, H, W), per structure over images that ask for it.

    Returns:
        {structure: {mean, low, high, n}}, a normal interval of the mean; structures nobody asks for are left out.
    """
    result: dict[str, dict[str, float | int]] = {}
    for name, values in structure_dice(judge, images, masks, structures).items():
        kept = values[np.isfinite(values)].astype(np.float64)
        if kept.size:
            half = 1.96 * float(kept.std(ddof=1)) / kept.size**0.5 if kept.size > 1 else 0.0
            mean = float(kept.mean())
            result[name] = {
                "mean": round(mean, 4),
                "low": round(max(0.0, mean - half), 4),
                "high": round(min(1.0, mean + half), 4),
                "n": int(kept.size),
            }
    return result


# --- report ----------------------------------------------------------------------------------------------------


def condition_report(
    stack: GeneratorStack,
    judge: MeasureNet,
    n_conditions: int = 200,
    seed: int = 0,
    *,
    n_steps: int = 20,
    guidance_scale: float = 2.0,
    batch_size: int = 32,
    sampler: Callable[..., IMAGES] | None = None,
) -> tuple[dict[str, Any], list[HeldOutCondition], IMAGES]:
    """Sample the held-out conditions and let the judge look: (report as JSON values, conditions, images (N, H, W)).

    Args:
        sampler: stands in for `generation.sampling.sampler.sample` (tests, other engines).

    Raises:
        InvalidInput: the network is no judge.
    """
    if judge.role != "judge":
        raise InvalidInput(f"{judge.name} has role {judge.role!r}: adherence is measured by a network of role 'judge'")
    conditions = held_out_conditions(
        n_conditions, seed, stack.structures, stack.image_size, with_masks=stack.controlnet is not None
    )
    images = _sampled(stack, conditions, seed, sampler, n_steps, guidance_scale, batch_size)
    report = {
        "n_conditions": n_conditions,
        "seed": seed,
        "n_steps": n_steps,
        "guidance_scale": guidance_scale,
        "model": stack.model_id,
        "judge": {"name": judge.name, "sha256": judge.sha256},
        **figures(judge, conditions, images, stack.structures, np.random.default_rng([seed, 1])),
    }
    return report, conditions, images


def _sampled(
    stack: GeneratorStack,
    conditions: Sequence[HeldOutCondition],
    seed: int,
    sampler: Callable[..., IMAGES] | None,
    n_steps: int,
    guidance_scale: float,
    batch_size: int,
) -> IMAGES:
    from generation.sampling.sampler import sample
    from generation.stack.conditions import Condition

    draw = sampler or sample
    seeds = [int(s) for s in np.random.default_rng([seed, 2]).integers(2**31, size=len(conditions))]
    with bar("sampling held-out conditions", len(conditions)) as advance:
        return draw(
            stack, [Condition(c.text, c.mask) for c in conditions], seeds,
            n_steps=n_steps, guidance_scale=guidance_scale, batch_size=batch_size, progress=advance,
        )  # fmt: skip


def figures(
    judge: MeasureNet,
    conditions: Sequence[HeldOutCondition],
    images: IMAGES,
    structures: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Text figures by group, mode and finding, Dice by mode; each for generated images, renders and shuffled texts."""
    renders = np.stack([condition.render for condition in conditions])
    asked = [condition.asked for condition in conditions]
    seen, ceiling = judge_answers(judge, images), judge_answers(judge, renders)

    def text_part(rows: list[int]) -> dict[str, Any]:
        return {
            "generated": text_figures(seen, asked, rows),
            "render": text_figures(ceiling, asked, rows),
            "chance": chance_figures(seen, asked, rows, rng),
        }

    def where(key: Callable[[HeldOutCondition], Any], value: Any) -> list[int]:
        return [i for i, condition in enumerate(conditions) if condition.text and key(condition) == value]

    everything = [i for i, condition in enumerate(conditions) if condition.text]
    findings = sorted({next(iter(a)) for a in asked if a})
    return {
        "text": {
            "all": text_part(everything),
            "by_group": {g: text_part(where(lambda c: c.group, g)) for g in TEXT_GROUPS},
            "by_mode": {m: text_part(where(lambda c: c.mode, m)) for m in ("T2I", "TM2I")},
            "by_finding": {
                name: {key: part for key, part in text_part(where(lambda c: next(iter(c.asked)), name)).items()
                       if key != "chance"} for name in findings
            },
        },
        "mask": {m: _mask_part(judge, conditions, images, renders, structures, m, rng) for m in ("M2I", "TM2I")},
    }  # fmt: skip


def _mask_part(
    judge: MeasureNet,
    conditions: Sequence[HeldOutCondition],
    images: IMAGES,
    renders: IMAGES,
    structures: Sequence[str],
    mode: str,
    rng: np.random.Generator,
) -> dict[str, Any]:
    rows = [i for i, condition in enumerate(conditions) if condition.mode == mode]
    if not rows:
        return {}
    masks = np.stack([mask for i in rows if (mask := conditions[i].mask) is not None])
    step = int(rng.integers(1, len(rows))) if len(rows) > 1 else 0  # no image keeps its own mask
    return {
        "generated": mask_dice(judge, images[rows], masks, structures),
        "render": mask_dice(judge, renders[rows], masks, structures),
        "chance": mask_dice(judge, images[rows], np.roll(masks, step, axis=0), structures),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m generation.fidelity.adherence`."""
    parser = argparse.ArgumentParser(prog="generation.fidelity.adherence", description="Held-out condition report.")
    parser.add_argument("--model", default="embedded", help="'embedded' or the folder of a generator")
    parser.add_argument("--judge", default="judge", help="shipped judge or the path of one")
    parser.add_argument("--n", type=int, default=200, help="number of held-out conditions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="contact sheet (PNG) of the first 40 conditions")
    options = parser.parse_args(arguments)
    import torch

    from generation.fidelity.adherence_sheet import contact_sheet
    from generation.stack.models import load_stack

    if options.threads:
        torch.set_num_threads(options.threads)
    judge = load_measure(options.judge)
    report, conditions, images = condition_report(
        load_stack(options.model),
        judge,
        options.n,
        options.seed,
        n_steps=options.steps,
        guidance_scale=options.guidance,
    )
    write_atomic(options.json, json.dumps(report, indent=1) + "\n")
    if options.sheet:
        answers = judge_answers(judge, images[:40])
        write_atomic(options.sheet, contact_sheet(conditions[:40], images[:40], answers))


if __name__ == "__main__":
    main()
