"""Does the generator follow its condition? The report on held-out conditions (unseen mask, phantom patient and seed).

    python -m radpref.generation.fidelity.adherence --json adherence.json --sheet adherence.png

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.core.statistics import wilson
from radpref.data.imaging.sheets import SheetRow, mask_picture, save_sheet
from radpref.generation.fidelity.held_out import IMAGES, TEXT_GROUPS, Answers, HeldOutCondition, held_out_conditions
from radpref.generation.measuring.image_scores import structure_dice
from radpref.generation.measuring.measuring_network import MeasureNet, load_measure

if TYPE_CHECKING:
    from radpref.generation.stack.models import GeneratorStack

log = logging.getLogger(__name__)
N_SHUFFLES = 50
N_SHOWN = 40
"""Conditions on the contact sheet."""


def proportion(k: int, n: int) -> dict[str, float | int | None]:
    """k of n with its Wilson interval (95 %): {k, n, rate, low, high}; the last three are None where n is 0."""
    if n == 0:
        return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    low, high = wilson(k, n)
    return {"k": k, "n": n, "rate": round(k / n, 4), "low": round(low, 4), "high": round(high, 4)}


def judge_answers(judge: MeasureNet, images: IMAGES) -> Answers:
    """Ask the judge about uint8 images (N, H, W)."""
    return Answers(judge.predict(images), judge.present(images), judge.attributes)


def text_figures(answers: Answers, asked: Sequence[dict[str, int]], rows: Sequence[int]) -> dict[str, Any]:
    """Hits over the images `rows`, each against its own `asked`: finding, side (of sided ones), and both together.

    Returns:
        {"finding", "side", "finding_and_side"}, each a `proportion`; the last counts unsided texts by the finding.
    """
    texts = [i for i in rows if asked[i]]
    found = [answers.found(i, asked[i]) for i in texts]
    side = [answers.side_right(i, asked[i]) for i in texts]
    sided = [value for value in side if value is not None]
    both = [hit and value is not False for hit, value in zip(found, side, strict=True)]
    return {
        "finding": proportion(sum(found), len(found)),
        "side": proportion(sum(sided), len(sided)),
        "finding_and_side": proportion(sum(both), len(both)),
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
        sampler: stands in for `radpref.generation.sampling.sampler.sample` (tests, other engines).

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
    from radpref.generation.sampling.sampler import sample
    from radpref.generation.stack.conditions import Condition

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


def sheet_rows(conditions: Sequence[HeldOutCondition], images: IMAGES, answers: Answers) -> list[SheetRow]:
    """Per condition the asked mask, the phantom's render and the generated image; `answers` are of the generated ones.

    The caption ends with the judge's verdict: + hit, - miss.
    """
    rows = []
    for i, (condition, image) in enumerate(zip(conditions, images, strict=True)):
        mask = np.zeros_like(image) if condition.mask is None else mask_picture(condition.mask, *image.shape)
        caption = f"{condition.mode} {condition.text or '(mask only)'} ({condition.group})"
        if condition.asked:
            side = answers.side_right(i, condition.asked)
            caption += f": {'+' if answers.found(i, condition.asked) else '-'} finding"
            caption += "" if side is None else f", {'+' if side else '-'} side"
        rows.append(SheetRow(caption, (mask[None], condition.render[None], image[None])))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m radpref.generation.fidelity.adherence`."""
    parser = argparse.ArgumentParser(
        prog="radpref.generation.fidelity.adherence", description="Held-out condition report."
    )
    parser.add_argument("--model", default="embedded", help="'embedded' or the folder of a generator")
    parser.add_argument("--judge", default="judge", help="shipped judge or the path of one")
    parser.add_argument("--n", type=int, default=200, help="number of held-out conditions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help=f"contact sheet (PNG) of the first {N_SHOWN} conditions")
    options = parser.parse_args(arguments)
    import torch

    from radpref.generation.stack.loading import load_stack

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
        rows = sheet_rows(conditions[:N_SHOWN], images[:N_SHOWN], judge_answers(judge, images[:N_SHOWN]))
        save_sheet(options.sheet, rows, ("asked mask", "render", "generated"), columns=4)


if __name__ == "__main__":
    main()
