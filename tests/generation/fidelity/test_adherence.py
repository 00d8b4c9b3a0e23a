"""The held-out condition report: drawing of conditions, answers by hand, the whole report on tiny networks."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.phantom.spec import FINDINGS, HELD_OUT, combinations
from radpref.data.phantom.text import canonical_caption, paraphrases
from radpref.generation.fidelity import adherence
from radpref.generation.fidelity.adherence import Proportion, condition_report, judge_answers, sheet_rows, text_hits
from radpref.generation.fidelity.held_out import Answers, held_out_conditions
from radpref.generation.sampling import sampler
from radpref.generation.stack.models import tiny_stack
from tests.support.errors import refuses
from tests.support.measuring import tiny_measure

NAMES = ("effusion", "effusion/left", "effusion/right", "normal")


def test_a_proportion_of_nothing_has_no_rate() -> None:
    assert Proportion.of([]) == Proportion(0, 0, None, None, None)
    assert Proportion.of([True] * 15 + [False] * 5) == Proportion(15, 20, 0.75, 0.5313, 0.8881)


def test_conditions_have_their_modes_groups_and_are_reproducible() -> None:
    conditions = held_out_conditions(30, 0, ("lungs", "heart", "lesion"), 32)
    assert [c.mode for c in conditions].count("M2I") == 6
    for c in conditions:
        assert (c.text is None) == (c.mode == "M2I") == (c.asked == {})
        assert (c.mask is None) == (c.mode == "T2I")
        assert c.mask is None or (c.mask.shape == (3, 32, 32) and c.mask[:2].any((1, 2)).all())
    groups = [c.group for c in conditions if c.text]
    assert {groups.count(g) for g in adherence.TEXT_GROUPS} == {8}
    again = held_out_conditions(30, 0, ("lungs", "heart", "lesion"), 32)
    assert [c.text for c in again] == [c.text for c in conditions]
    other = held_out_conditions(30, 1, ("lungs", "heart", "lesion"), 32)
    assert not any(np.array_equal(a.render, b.render) for a, b in zip(conditions, other, strict=True))


def test_groups_keep_their_promise() -> None:
    kept_back = {canonical_caption([f]) for f in HELD_OUT}
    unseen = {text for f in combinations(FINDINGS) for text in paraphrases([f], unseen=True)}
    unseen |= set(paraphrases([], unseen=True))
    for c in held_out_conditions(60, 5, ("lungs",), 16):
        if c.text:
            assert (c.group == "held-out combination") == (c.text in kept_back)
            assert (c.group == "unseen caption") == (c.text in unseen)


def answers() -> Answers:
    p = np.array([[0.9, 0.8, 0.1, 0.0], [0.9, 0.2, 0.7, 0.0], [0.1, 0.0, 0.0, 0.9]], np.float32)
    return Answers(p, p >= 0.5, NAMES)


def test_text_figures_by_hand() -> None:
    left = {"effusion": 1, "effusion/left": 1}
    figures = text_hits(answers(), [left, left, {"normal": 1}], [0, 1, 2])
    assert (figures.finding.k, figures.finding.n) == (3, 3)
    assert (figures.side.k, figures.side.n) == (1, 2)
    assert (figures.finding_and_side.k, figures.finding_and_side.n) == (2, 3)
    assert text_hits(answers(), [left, {}, {}], [1, 2]).finding.n == 0


def test_chance_is_below_a_perfect_generator() -> None:
    asked = [{"effusion": 1, "effusion/left": 1}, {"effusion": 1, "effusion/right": 1}, {"normal": 1}]
    chance = adherence.chance_rates(answers(), asked, [0, 1, 2], np.random.default_rng(0))
    assert text_hits(answers(), asked, [0, 1, 2]).finding_and_side.rate == 1
    assert chance.finding_and_side == pytest.approx(1 / 3, abs=0.12)
    assert adherence.chance_rates(answers(), [{}] * 3, [0], np.random.default_rng(0)).finding is None


def phantom_judge() -> Any:
    names = (*FINDINGS, "normal", "pneumonia/left", "pneumonia/right")
    return tiny_measure("judge", "judge", attributes=names, structures=("lungs", "heart", "lesion"))


def test_report_from_stack_to_sheet() -> None:
    stack = tiny_stack()
    report, conditions, images = condition_report(stack, phantom_judge(), 10, 3, n_steps=2, batch_size=4)
    assert images.shape == (10, stack.image_size, stack.image_size)
    assert images.dtype == np.uint8
    assert report.text.all.generated.finding.n == 8
    assert report.mask["TM2I"].generated["lungs"].n == 4
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["judge"]["name"] == "judge"
    rows = sheet_rows(conditions, images, judge_answers(phantom_judge(), images))
    for row, condition, image in zip(rows, conditions, images, strict=True):
        asked, render, generated = row.groups
        assert asked.any() == (condition.mask is not None)
        assert (render[0] == condition.render).all()
        assert (generated[0] == image).all()
        assert ("finding" in row.caption) == bool(condition.text)


def test_perfect_sampler_reaches_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = tiny_stack()
    renders = np.stack([c.render for c in held_out_conditions(10, 3, stack.structures, stack.image_size)])
    monkeypatch.setattr(sampler, "sample", lambda *a, **k: renders)
    report, *_ = condition_report(stack, phantom_judge(), 10, 3)
    for part in (report.text.all, report.mask["M2I"], *report.text.by_group.values()):
        assert part.generated == part.render


def test_stack_without_controlnet_is_asked_for_texts_only() -> None:
    stack = replace(tiny_stack(), controlnet=None)
    report, conditions, _ = condition_report(stack, phantom_judge(), 4, 0, n_steps=1)
    assert {c.mode for c in conditions} == {"T2I"}
    assert report.mask == {}


def test_only_a_judge_may_judge() -> None:
    with refuses(InvalidInput, "judge", "rater"):
        condition_report(tiny_stack(), tiny_measure(), 2)
    with refuses(InvalidInput, 0):
        held_out_conditions(0, 0, (), 32)
