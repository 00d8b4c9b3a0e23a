"""Does the generator follow its condition? The report on held-out conditions (unseen mask, phantom patient and seed).

    python -m radpref.generation.fidelity.adherence --json adherence.json --sheet adherence.png

Asked texts and masks of phantom patients nobody was trained on -> images -> the judge (a network of role `judge` that
no rater, pair or filter uses): does it find the asked disease, on the asked side, and where is the asked structure?
Beside every figure are the ceiling (phantom renders of the same conditions) and chance (the same answers, compared
with conditions in shuffled order).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.core.statistics import wilson
from radpref.data.imaging.sheets import SheetRow, mask_picture, save_sheet
from radpref.generation.fidelity.figures import NetworkName
from radpref.generation.fidelity.held_out import IMAGES, TEXT_GROUPS, Answers, HeldOutCondition, held_out_conditions
from radpref.generation.measuring.image_scores import structure_dice
from radpref.generation.measuring.measuring_network import MeasureNet, load_measure

if TYPE_CHECKING:
    from radpref.generation.stack.models import GeneratorStack

log = logging.getLogger(__name__)
N_SHUFFLES = 50
N_SHOWN = 40
"""Conditions on the contact sheet."""


@dataclass(frozen=True)
class Proportion:
    """k of n with its Wilson interval (95 %); rate, low and high are None where n is 0."""

    k: int
    n: int
    rate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Proportion:
        """The share of hits, to four digits."""
        k, n = sum(hits), len(hits)
        if n == 0:
            return cls(0, 0, None, None, None)
        low, high = wilson(k, n)
        return cls(k, n, round(k / n, 4), round(low, 4), round(high, 4))


@dataclass(frozen=True)
class TextHits:
    """Images that show what their text asks for: the finding, the side (of sided texts), and both together."""

    finding: Proportion
    side: Proportion
    finding_and_side: Proportion


@dataclass(frozen=True)
class ChanceRates:
    """The rates of `TextHits` with the texts dealt out at random, mean over shuffles."""

    finding: float | None
    side: float | None
    finding_and_side: float | None


@dataclass(frozen=True)
class TextFigures:
    """Hits of generated images, of phantom renders of the same conditions (the ceiling), and by chance."""

    generated: TextHits
    render: TextHits
    chance: ChanceRates


@dataclass(frozen=True)
class MeanDice:
    """Mean Dice over n images with a normal interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class MaskFigures:
    """Dice with the asked mask by structure, as in `TextFigures`; chance: another image's mask."""

    generated: dict[str, MeanDice]
    render: dict[str, MeanDice]
    chance: dict[str, MeanDice]


@dataclass(frozen=True)
class TextReport:
    """Text figures over everything, and by group, mode and finding."""

    all: TextFigures
    by_group: dict[str, TextFigures]
    by_mode: dict[str, TextFigures]
    by_finding: dict[str, TextFigures]


@dataclass(frozen=True)
class AdherenceReport:
    """The held-out condition report; field names are the keys of its JSON file, `mask` is by mode."""

    n_conditions: int
    seed: int
    n_steps: int
    guidance_scale: float
    model: str
    judge: NetworkName
    text: TextReport
    mask: dict[str, MaskFigures]


def judge_answers(judge: MeasureNet, images: IMAGES) -> Answers:
    """Ask the judge about uint8 images (N, H, W)."""
    return Answers(judge.predict(images), judge.present(images), judge.attributes)


def text_hits(answers: Answers, asked: Sequence[dict[str, int]], rows: Sequence[int]) -> TextHits:
    """Hits over the images `rows`, each against its own `asked`; texts without a side count as both by the finding."""
    texts = [i for i in rows if asked[i]]
    found = [answers.found(i, asked[i]) for i in texts]
    side = [answers.side_right(i, asked[i]) for i in texts]
    both = [hit and value is not False for hit, value in zip(found, side, strict=True)]
    return TextHits(
        Proportion.of(found), Proportion.of([value for value in side if value is not None]), Proportion.of(both)
    )


def chance_rates(
    answers: Answers, asked: Sequence[dict[str, int]], rows: Sequence[int], rng: np.random.Generator
) -> ChanceRates:
    """The same rates with the texts of `rows` dealt out at random, mean over shuffles; None without texts."""
    texts = [i for i in rows if asked[i]]
    draws: list[TextHits] = []
    for _ in range(N_SHUFFLES if texts else 0):
        dealt = dict(zip(texts, (asked[texts[j]] for j in rng.permutation(len(texts))), strict=True))
        draws.append(text_hits(answers, [dealt.get(i, {}) for i in range(len(asked))], texts))

    def mean(rates: Iterable[float | None]) -> float | None:
        known = [rate for rate in rates if rate is not None]
        return round(float(np.mean(known)), 4) if known else None

    return ChanceRates(*(mean(getattr(hits, one.name).rate for hits in draws) for one in fields(ChanceRates)))


def mask_dice(
    judge: MeasureNet, images: IMAGES, masks: npt.NDArray[np.bool_], structures: Sequence[str]
) -> dict[str, MeanDice]:
    """Dice of the judge's segmentation with the asked masks (N, S, H, W), by structure, over images that ask for it.

    Structures that nobody asks for are left out.
    """
    result = {}
    for name, values in structure_dice(judge, images, masks, structures).items():
        kept = values[np.isfinite(values)].astype(np.float64)
        if kept.size:
            half = 1.96 * float(kept.std(ddof=1)) / kept.size**0.5 if kept.size > 1 else 0.0
            mean = float(kept.mean())
            low, high = max(0.0, mean - half), min(1.0, mean + half)
            result[name] = MeanDice(round(mean, 4), round(low, 4), round(high, 4), int(kept.size))
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
) -> tuple[AdherenceReport, list[HeldOutCondition], IMAGES]:
    """Sample the held-out conditions and let the judge look: (report, conditions, images (N, H, W) uint8).

    Raises:
        InvalidInput: the network is not a judge.
    """
    from radpref.generation.sampling.sampler import sample
    from radpref.generation.stack.conditions import Condition

    if judge.role != "judge":
        raise InvalidInput(f"{judge.name} has role {judge.role!r}: adherence is measured by a network of role 'judge'")
    conditions = held_out_conditions(
        n_conditions, seed, stack.structures, stack.image_size, with_masks=stack.controlnet is not None
    )
    seeds = [int(s) for s in np.random.default_rng([seed, 2]).integers(2**31, size=len(conditions))]
    with bar("sampling held-out conditions", len(conditions)) as advance:
        images = sample(
            stack, [Condition(c.text, c.mask) for c in conditions], seeds,
            n_steps=n_steps, guidance_scale=guidance_scale, batch_size=batch_size,
            on_batch=lambda places, _: advance(len(places)),
        )  # fmt: skip
    rng = np.random.default_rng([seed, 1])
    text = text_report(judge, conditions, images, rng)
    masked = [mode for mode in ("M2I", "TM2I") if any(c.mode == mode for c in conditions)]
    mask = {mode: mask_figures(judge, conditions, images, stack.structures, mode, rng) for mode in masked}
    card = NetworkName(judge.name, judge.sha256)
    report = AdherenceReport(n_conditions, seed, n_steps, guidance_scale, stack.model_id, card, text, mask)
    return report, conditions, images


def text_report(
    judge: MeasureNet, conditions: Sequence[HeldOutCondition], images: IMAGES, rng: np.random.Generator
) -> TextReport:
    """Figures of all texts, by group, mode and finding."""
    asked = [condition.asked for condition in conditions]
    seen = judge_answers(judge, images)
    ceiling = judge_answers(judge, np.stack([condition.render for condition in conditions]))

    def part(key: Callable[[HeldOutCondition], object], value: object) -> TextFigures:
        rows = [i for i, condition in enumerate(conditions) if condition.text and key(condition) == value]
        return TextFigures(
            text_hits(seen, asked, rows), text_hits(ceiling, asked, rows), chance_rates(seen, asked, rows, rng)
        )

    findings = sorted({next(iter(a)) for a in asked if a})
    return TextReport(
        part(lambda c: True, True),
        {group: part(lambda c: c.group, group) for group in TEXT_GROUPS},
        {mode: part(lambda c: c.mode, mode) for mode in ("T2I", "TM2I")},
        {name: part(lambda c: next(iter(c.asked)), name) for name in findings},
    )


def mask_figures(
    judge: MeasureNet,
    conditions: Sequence[HeldOutCondition],
    images: IMAGES,
    structures: Sequence[str],
    mode: str,
    rng: np.random.Generator,
) -> MaskFigures:
    """Dice of one mode's images, which must occur."""
    rows = [i for i, condition in enumerate(conditions) if condition.mode == mode]
    masks = np.stack([mask for i in rows if (mask := conditions[i].mask) is not None])
    renders = np.stack([conditions[i].render for i in rows])
    step = int(rng.integers(1, len(rows))) if len(rows) > 1 else 0  # no image keeps its own mask
    return MaskFigures(
        mask_dice(judge, images[rows], masks, structures),
        mask_dice(judge, renders, masks, structures),
        mask_dice(judge, images[rows], np.roll(masks, step, axis=0), structures),
    )


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
    write_atomic(options.json, json.dumps(asdict(report), indent=1) + "\n")
    if options.sheet:
        rows = sheet_rows(conditions[:N_SHOWN], images[:N_SHOWN], judge_answers(judge, images[:N_SHOWN]))
        save_sheet(options.sheet, rows, ("asked mask", "render", "generated"), columns=4)


if __name__ == "__main__":
    main()
