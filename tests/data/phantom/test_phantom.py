"""The digital phantom: determinism, exact masks, labels, words."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.core.errors import InvalidInput
from radpref.data.phantom.render import render
from radpref.data.phantom.spec import (
    CHEXPERT_LABELS,
    FINDINGS,
    HELD_OUT,
    SEVERITIES,
    STRUCTURES,
    Finding,
    PhantomSpec,
    combinations,
    draw_spec,
)
from radpref.data.phantom.text import canonical_caption, paraphrases, report

SIDED = tuple(name for name in FINDINGS if name not in ("edema", "cardiomegaly"))
COMPARISONS = {"unchanged", "improved", "worsened", "increased", "decreased", "new", "stable", "worsening", "improving"}


def _one(name: str, side: str | None, severity: str = "moderate", seed: int = 3, view: int = 0) -> PhantomSpec:
    return PhantomSpec(seed, (Finding(name, side, severity),), view)


def test_same_spec_same_bytes_and_other_seeds_differ() -> None:
    spec = _one("pneumonia", "left")
    first, second = render(spec, 96), render(spec, 96)
    assert first.image.dtype == np.uint16
    assert np.array_equal(first.image, second.image)
    assert all(np.array_equal(first.masks[k], second.masks[k]) for k in STRUCTURES)
    other_view, other_patient = (
        render(_one("pneumonia", "left", view=1), 96),
        render(_one("pneumonia", "left", seed=4), 96),
    )
    assert not np.array_equal(first.image, other_view.image)
    assert not np.array_equal(first.image, other_patient.image)


@pytest.mark.parametrize("size", [64, 101, 200])
def test_any_size(size: int) -> None:
    drawn = render(_one("consolidation", "right"), size)
    assert drawn.image.shape == (size, size)
    assert drawn.image.max() > 50_000
    assert drawn.image.min() < 10_000
    assert tuple(drawn.masks) == STRUCTURES
    assert all(mask.shape == (size, size) and mask.dtype == np.bool_ for mask in drawn.masks.values())


def test_masks_scale_with_the_size() -> None:
    spec = _one("pleural_effusion", "left", "severe")
    small, large = render(spec, 64), render(spec, 256)
    for name in ("lungs", "heart", "lesion"):
        assert small.masks[name].mean() == pytest.approx(large.masks[name].mean(), rel=0.06)


@pytest.mark.parametrize("finding", combinations(), ids=lambda f: f"{f.name}-{f.side}-{f.severity}")
def test_masks_are_consistent(finding: Finding) -> None:
    for seed in (1, 2):
        masks = render(PhantomSpec(seed, (finding,)), 128).masks
        thorax = masks["lungs"] | masks["heart"]
        assert masks["lungs"].mean() > 0.1
        assert masks["heart"].mean() > 0.03
        assert not (masks["lungs"] & masks["heart"]).any()
        assert masks["lesion"].sum() > 10
        assert not (masks["lesion"] & ~thorax).any()
        assert not (masks["pneumothorax"] & ~masks["lungs"]).any()
        assert masks["pneumothorax"].any() == (finding.name == "pneumothorax")


@pytest.mark.parametrize("name", SIDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_laterality_is_radiological(name: str, side: str) -> None:
    lesion = render(_one(name, side), 128).masks["lesion"]
    columns = np.nonzero(lesion)[1]
    assert (columns.mean() > 64) == (side == "left")


def test_a_normal_film_has_no_lesion() -> None:
    drawn = render(PhantomSpec(5), 96)
    assert not drawn.masks["lesion"].any()
    assert not drawn.masks["pneumothorax"].any()
    assert drawn.labels == {**dict.fromkeys(FINDINGS, 0), "normal": 1}
    assert drawn.caption == "Normal"


def test_labels_name_every_finding() -> None:
    spec = PhantomSpec(2, (Finding("edema", "bilateral", "severe"), Finding("cardiomegaly", None, "mild")))
    labels = render(spec, 64).labels
    assert {name for name, value in labels.items() if value} == {"edema", "cardiomegaly"}
    assert set(labels) == {*FINDINGS, "normal"}
    assert set(CHEXPERT_LABELS) <= set(FINDINGS)


def _ratio(spec: PhantomSpec) -> float:
    masks = render(spec, 192).masks
    heart, lungs = np.nonzero(masks["heart"].any(0))[0], np.nonzero(masks["lungs"].any(0))[0]
    return float(np.ptp(heart) / np.ptp(lungs))


def test_cardiothoracic_ratio_grows() -> None:
    for seed in range(4):
        ratios = [_ratio(PhantomSpec(seed)), *(_ratio(_one("cardiomegaly", None, s, seed)) for s in SEVERITIES)]
        assert ratios == sorted(ratios)
        assert ratios[0] < 0.52
        assert ratios[1] > 0.52
        assert ratios[3] < 0.75


def test_heart_lies_left_of_the_midline() -> None:
    for seed in range(4):
        masks = render(PhantomSpec(seed), 128).masks
        assert np.nonzero(masks["heart"])[1].mean() > np.nonzero(masks["lungs"])[1].mean()


@pytest.mark.parametrize("side", ["left", "right"])
def test_effusion_brightens_its_own_base(side: str) -> None:
    for seed in range(4):
        plain, wet = render(PhantomSpec(seed), 128), render(_one("pleural_effusion", side, "severe", seed), 128)
        lungs = plain.masks["lungs"]
        lower = np.arange(128)[:, None] > np.nonzero(lungs)[0].mean()
        left = np.arange(128)[None, :] > 64
        own, other = (left, ~left) if side == "left" else (~left, left)
        gain = wet.image.astype(float) - plain.image
        scale = plain.image[lungs].mean()
        assert gain[lungs & lower & own].mean() > 0.2 * scale
        assert abs(gain[lungs & lower & other].mean()) < 0.1 * scale


def test_pneumothorax_is_darker_than_lung() -> None:
    for seed in range(4):
        plain, air = render(PhantomSpec(seed), 128), render(_one("pneumothorax", "right", "severe", seed), 128)
        region = air.masks["pneumothorax"] & plain.masks["lungs"]
        rest = air.masks["lungs"] & ~air.masks["pneumothorax"]
        assert air.image[region].mean() < air.image[rest].mean()


@pytest.mark.parametrize("name", FINDINGS)
def test_severity_grows_the_lesion(name: str) -> None:
    side = "bilateral" if name == "edema" else None if name == "cardiomegaly" else "right"
    for seed in range(4):
        areas = [int(render(_one(name, side, s, seed), 128).masks["lesion"].sum()) for s in SEVERITIES]
        assert areas[0] < areas[1] < areas[2], (name, seed, areas)


@pytest.mark.parametrize(
    "spec",
    [
        PhantomSpec(0, (Finding("fracture", "left", "mild"),)),
        PhantomSpec(0, (Finding("pneumonia", "bilateral", "mild"),)),
        PhantomSpec(0, (Finding("cardiomegaly", "left", "mild"),)),
        PhantomSpec(0, (Finding("edema", "bilateral", "huge"),)),
        PhantomSpec(0, (Finding("pneumonia", "left", "mild"), Finding("pneumonia", "right", "mild"))),
        PhantomSpec(-1),
        PhantomSpec(0, (), -2),
    ],
)
def test_bad_input_is_refused(spec: PhantomSpec) -> None:
    with pytest.raises(InvalidInput):
        render(spec, 64)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InvalidInput):
        render(PhantomSpec(0), 4)
    with pytest.raises(InvalidInput):
        draw_spec(np.random.default_rng(0), normal_fraction=1.5)


def test_drawn_specs_keep_to_the_rules() -> None:
    rng = np.random.default_rng(1)
    specs = [draw_spec(rng, exclude=HELD_OUT) for _ in range(2000)]
    normal = sum(not spec.findings for spec in specs) / len(specs)
    double = sum(len(spec.findings) == 2 for spec in specs) / len(specs)
    assert normal == pytest.approx(0.15, abs=0.03)
    assert 0.07 < double < 0.16
    seen = {finding for spec in specs for finding in spec.findings}
    assert not seen & HELD_OUT
    assert seen == set(combinations()) - HELD_OUT
    assert len({spec.patient_seed for spec in specs}) == len(specs)
    assert draw_spec(np.random.default_rng(7)) == draw_spec(np.random.default_rng(7))


def test_held_out_keeps_each_side_and_severity_in_training() -> None:
    kept = set(combinations()) - HELD_OUT
    for finding in HELD_OUT:
        assert any(f.name == finding.name and f.side == finding.side for f in kept)
        assert any(f.name == finding.name and f.severity == finding.severity for f in kept)


def _sets_of_findings() -> list[tuple[Finding, ...]]:
    rng = np.random.default_rng(2)
    drawn = [draw_spec(rng, second_finding_fraction=1.0).findings for _ in range(300)]
    return [(), *((finding,) for finding in combinations()), *drawn]


def test_captions_follow_the_study() -> None:
    for findings in _sets_of_findings():
        seen, unseen = paraphrases(findings, unseen=False), paraphrases(findings, unseen=True)
        assert seen
        assert unseen
        assert not set(map(str.lower, seen)) & set(map(str.lower, unseen))
        for caption in (canonical_caption(findings), *seen, *unseen):
            words = caption.lower().split()
            assert 1 <= len(words) <= 5, caption
            assert caption[0].isupper(), caption
            assert not set(",\"'") & set(caption)
            assert not COMPARISONS & set(words)


def test_unseen_wordings_are_never_seen_anywhere() -> None:
    everything = _sets_of_findings()
    seen = {text.lower() for f in everything for text in (canonical_caption(f), *paraphrases(f, unseen=False))}
    unseen = {text.lower() for f in everything for text in paraphrases(f, unseen=True)}
    assert not seen & unseen
    known = {w for text in seen for w in text.split()}
    known |= {w.strip(".:,").lower() for f in everything for w in report(PhantomSpec(0, f)).split()}
    new_words = {w for text in unseen for w in text.split()} - known
    assert len(new_words) <= 3, new_words


def test_canonical_captions() -> None:
    assert canonical_caption([Finding("pleural_effusion", "left", "moderate")]) == "Moderate left pleural effusion"
    pair = [Finding("edema", "bilateral", "severe"), Finding("cardiomegaly", None, "mild")]
    assert canonical_caption(pair) == "Severe edema with cardiomegaly"


def test_report_names_side_and_impression() -> None:
    text = report(_one("pleural_effusion", "right"))
    assert text.startswith("FINDINGS:")
    assert "IMPRESSION: Moderate right pleural effusion." in text
    assert "right costophrenic angle" in text
    assert "No pleural effusion" not in text
