"""Captions: the study's rules as a validator, the rule-based captioner on hard sentences, what captions ask for."""

from __future__ import annotations

import importlib.util
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.data.phantom.spec import CHEXPERT_LABELS, draw_spec
from radpref.data.phantom.text import canonical_caption, paraphrases, report
from radpref.data.study.conditions import asked_attributes
from radpref.data.text.caption_rules import MAX_CHARACTERS, MAX_WORDS, broken_rules, n_words
from radpref.data.text.findings import ALIASES, FINDINGS, main_finding, of_label
from radpref.data.text.mentions import mentions
from radpref.data.text.reports import impression
from radpref.data.text.rule_captions import caption_of_labels, caption_of_text, rule_caption

# --- the validator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "caption",
    [
        "Normal", "Small right pleural effusion", "Right greater than left effusions", "Acute rib fracture",
        "Chronic emphysematous changes", "Clear lungs", "Kerley's lines", "Healed left rib fractures",
        "Low lung volumes", "Left upper-lobe nodule", "Enlarged heart", "Postoperative changes", "Œdème pulmonaire",
        "Old granulomatous disease", "T12 compression fracture", "Right picc line",
    ],
)  # fmt: skip
def test_a_caption_within_the_rules_is_valid(caption: str) -> None:
    assert broken_rules(caption) == []


BROKEN: list[tuple[str | None, str]] = [
    (None, "empty"), ("", "empty"), ("  \t", "empty"),
    ("Small effusion, edema", "comma"), ("Small effusion， edema", "comma"),
    ('"Normal"', "quotation mark"), ("“Normal”", "quotation mark"), ("'Normal'", "quotation mark"),
    ("‘Normal’", "quotation mark"), ("«Normal»", "quotation mark"), ("`Normal`", "quotation mark"),
    ("One two three four five six", "five words"), ("Effusion/edema/pneumonia in left lower lobe", "five words"),
    ("Unchanged effusion", "comparison"), ("Effusion unchanged", "comparison"), ("IMPROVED edema", "comparison"),
    ("Worsened edema", "comparison"), ("Worsening edema", "comparison"), ("Edema with no change", "comparison"),
    ("Increased opacity", "comparison"), ("Decreasing effusion", "comparison"), ("Stable cardiomegaly", "comparison"),
    ("Interval edema", "comparison"), ("New pneumonia", "comparison"), ("Prior granuloma", "comparison"),
    ("Edema compared to before", "comparison"), ("Persistent effusion", "comparison"),
    ("Resolved pneumothorax", "comparison"), ("Effusion again seen", "comparison"),
    ("Effusion remains", "comparison"), ("Progressive edema", "comparison"), ("Previously seen nodule", "comparison"),
    ("Residual pneumothorax", "comparison"), ("Recurrent effusion", "comparison"), ("Larger mass", "comparison"),
    ("Developing pneumonia", "comparison"), ("Enlarging nodule", "comparison"), ("Redemonstrated mass", "comparison"),
    ("Normal\n", "one line"), ("Mild\nedema", "one line"), (" Normal", "one line"), ("Mild\tedema", "one line"),
    ("Mild\u2028edema", "one line"),
    ("Effusion since ___", "de-identification token"), ("XXXX effusion", "de-identification token"),
    ("Effusion [**2019**]", "de-identification token"), ("Edema on 2019-12-31", "de-identification token"),
    ("<html>", "plain text"), ('{"caption"', "plain text"), ("Caption: Normal", "plain text"), ("12 5", "plain text"),
    ("Edema; effusion", "plain text"), ("a" * 81, "plain text"), ("---", "plain text"),
    ("Sorry I cannot help", "no answer"), ("Unable to determine", "no answer"), ("No report provided", "no answer"),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "rule"), BROKEN)
def test_a_broken_rule_is_named(caption: str | None, rule: str) -> None:
    found = broken_rules(caption)
    assert not any(one.reason[0].isupper() for one in found)  # a message reads on with it
    assert rule in [one.rule for one in found]
    assert all("\n" not in one.reason and one.reason for one in found)


def test_a_caption_may_have_as_many_characters_as_fit() -> None:
    words = "a" * (MAX_CHARACTERS - 7)
    assert broken_rules(f"{words} edema") == [
        one for one in broken_rules(f"{words} edema") if "characters" not in one.reason
    ]
    assert any(str(MAX_CHARACTERS + 1) in one.reason for one in broken_rules(f"{words}ab edema"))


def test_every_broken_rule_is_told() -> None:
    found = [one.rule for one in broken_rules("Small, unchanged right 'pleural' effusion since ___")]
    assert found == ["comma", "quotation mark", "comparison", "five words", "de-identification token"]


def test_words_are_counted() -> None:
    assert [n_words(text) for text in ("", "a", "a b", "a-b c", "a/b c", "a - b")] == [0, 1, 2, 2, 3, 2]


# --- the captioner -----------------------------------------------------------------------------------------------

SENTENCES: list[tuple[str, str | None]] = [
    ("No acute cardiopulmonary process.", "Normal"),
    ("Clear lungs. Normal heart size.", "Normal"),
    ("Small right pleural effusion.", "Small right pleural effusion"),
    ("Bilateral pleural effusions, right greater than left.", "Bilateral pleural effusions"),
    ("Effusions, left greater than right.", "Bilateral pleural effusions"),
    ("Mild to moderate pulmonary edema.", "Moderate pulmonary edema"),
    ("Pneumonia in the right upper lobe.", "Right upper lobe pneumonia"),
    ("RLL pneumonia.", "Right lower lobe pneumonia"),
    ("Heart size is mildly enlarged. Lungs are clear.", "Mild cardiomegaly"),
    ("The cardiac silhouette is enlarged.", "Cardiomegaly"),
    ("1.5 cm nodule in the left upper lobe.", "Left upper lobe nodule"),
    ("Large right hilar mass.", "Large right hilar mass"),
    ("Bibasilar atelectasis.", "Bilateral basilar atelectasis"),
    ("Tension pneumothorax on the left with mediastinal shift.", "Left tension pneumothorax"),
    ("Healed right rib fractures.", "Healed right rib fracture"),
    ("Hyperexpanded lungs compatible with COPD.", "Emphysema"),
    ("Low lung volumes.", "Low lung volumes"),
    ("Small pericardial effusion.", "Small pericardial effusion"),
    ("Effusion, small, left.", "Small left pleural effusion"),
    ("Pneumonia, right lower lobe.", "Right lower lobe pneumonia"),
    ("Small-to-moderate left pleural effusion.", "Moderate left pleural effusion"),
    ("Known lung cancer with right upper lobe mass.", "Right upper lobe mass"),
    ("Mildly displaced fractures of the left sixth and seventh ribs.", "Left rib fracture"),
    ("Complete opacification of the left hemithorax.", "Left lung opacity"),
    ("Moderate cardiomegaly with mild fluid overload.", "Mild fluid overload"),
    # negation
    ("No pneumothorax or effusion. Mild cardiomegaly.", "Mild cardiomegaly"),
    ("No focal consolidation, pleural effusion, or pneumothorax.", "Normal"),
    ("No pneumothorax, small right pleural effusion.", "Small right pleural effusion"),
    ("No pneumothorax and small right effusion.", "Small right pleural effusion"),
    ("There is no pneumothorax, but a large left effusion persists.", "Large left pleural effusion"),
    ("Cardiomegaly without pleural effusion or edema.", "Cardiomegaly"),
    ("Neither effusion nor pneumothorax is seen.", "Normal"),
    ("Effusion or pneumothorax is not identified.", "Normal"),
    ("Atelectasis rather than pneumonia at the left base.", "Left basilar atelectasis"),
    ("Pneumonia is unlikely.", "Normal"),
    ("Negative for pneumonia.", "Normal"),
    ("No focal consolidation to suggest pneumonia or tuberculosis.", "Normal"),
    ("Recommend CT to exclude an underlying mass. Left basilar opacity.", "Left basilar opacity"),
    ("History of pneumonia. Lungs are clear.", "Normal"),
    ("Removal of the chest tube. No pneumothorax.", "Normal"),
    # comparisons are left out, what is gone is gone
    ("Unchanged small left apical pneumothorax.", "Small left apical pneumothorax"),
    ("No change in the moderate left pleural effusion.", "Moderate left pleural effusion"),
    ("No significant interval change in pulmonary edema.", "Pulmonary edema"),
    ("Interval resolution of right pneumothorax.", "Normal"),
    ("The right pneumothorax has resolved.", "Normal"),
    ("Near complete resolution of the left effusion.", "Left pleural effusion"),
    ("Left-sided pneumothorax has decreased; right effusion is stable.", "Left pneumothorax"),
    ("No new consolidation. Increased right basilar opacity.", "Right basilar opacity"),
    ("Pulmonary edema has worsened, now moderate to severe.", "Severe pulmonary edema"),
    ("Bilateral pleural effusions have resolved. Cardiomegaly persists.", "Cardiomegaly"),
    ("Removal of a right chest tube with a small residual right pneumothorax.", "Small right pneumothorax"),
    ("In comparison with the prior study the left effusion is larger.", "Left pleural effusion"),
    # doubt
    ("Opacity projecting over the left lung base, likely atelectasis.", "Left basilar atelectasis"),
    ("Subtle opacity in the right middle lobe worrisome for pneumonia.", "Subtle right middle lobe opacity"),
    ("Left basilar opacity may reflect atelectasis, but pneumonia cannot be excluded.", "Left basilar opacity"),
    ("Cannot exclude small left pleural effusion.", "Possible small left pleural effusion"),
    ("Right lower lobe opacity may represent pneumonia.", "Right lower lobe opacity"),
    ("Left lower lobe atelectasis versus pneumonia.", "Left lower lobe atelectasis"),
    ("Possible pneumonia.", "Possible pneumonia"),
    ("Right upper lobe infiltrate consistent with pneumonia.", "Right upper lobe pneumonia"),
    ("Question of left rib fracture. Mild edema.", "Mild pulmonary edema"),
    # the main one of several
    ("Mild cardiomegaly. Small right pneumothorax.", "Small right pneumothorax"),
    ("Cardiomegaly with moderate bilateral pleural effusions.", "Moderate bilateral pleural effusions"),
    ("Endotracheal tube in standard position. Left lower lobe collapse.", "Left lower lobe collapse"),
    ("Endotracheal tube in standard position. No pneumothorax.", "Endotracheal tube"),
    # nothing that is understood is not "Normal"
    ("Comparison examinations would be useful.", None),
    ("Stable postoperative appearance of the chest.", None),
    ("Lung parenchyma is not clear.", None),
    ("Abnormal chest.", None),
    ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "caption"), SENTENCES)
def test_the_caption_of_a_sentence(text: str, caption: str | None) -> None:
    assert caption_of_text(text) == caption
    assert caption is None or broken_rules(caption) == []


def test_states_of_all_findings_of_a_report() -> None:
    text = "No pneumothorax. Small left effusion, possibly with atelectasis. Edema has resolved."
    found = [(one.finding.noun, one.state, one.side, one.size) for one in mentions(text)]
    assert found == [
        ("pneumothorax", "absent", "", ""),
        ("pleural effusion", "present", "left", "small"),
        ("atelectasis", "possible", "", ""),
        ("pulmonary edema", "absent", "", ""),
    ]


def caption_of_report(report: str) -> str | None:
    found = impression(report)
    return caption_of_text(found.text) if found else None


def test_the_impression_decides_not_the_findings() -> None:
    text = "FINDINGS: Possible nodule. Heart enlarged.\nIMPRESSION: Small left effusion."
    assert caption_of_report(text) == "Small left pleural effusion"
    assert caption_of_report("INDICATION: pneumonia") is None


def test_labels_alone_give_a_caption() -> None:
    sided = {"pleural_effusion": 1.0, "pleural_effusion/left": 0.0, "pleural_effusion/right": 1.0, "normal": 0.0}
    assert caption_of_labels(sided) == "Right pleural effusion"
    assert caption_of_labels({**sided, "pleural_effusion/left": 1.0}) == "Bilateral pleural effusions"
    assert caption_of_labels({"cardiomegaly": 1, "pneumothorax": 1}) == "Pneumothorax"
    assert caption_of_labels({"no_finding": 1, "support_devices": None}) == "Normal"
    denied = dict.fromkeys(("pneumonia", "edema", "pneumothorax", "pleural_effusion", "cardiomegaly"), 0.0)
    assert caption_of_labels(denied) == "Normal"
    assert caption_of_labels({**denied, "normal": 0.0}) is None  # something is there that no label names
    assert caption_of_labels({"normal": 1, "support_devices": 1}) == "Normal"  # devices are no finding
    assert caption_of_labels({"normal": 0, "support_devices": 1}) == "Support devices"
    assert caption_of_labels({"pneumothorax": 0.0}) is None  # one absent disease is no normal radiograph
    assert caption_of_labels({"pneumonia": None, "edema": 0.0}) is None  # not all is known
    assert caption_of_labels({"adult": 1.0, "site_b": 1.0}) is None  # no finding
    assert caption_of_labels({}) is None
    names = ["mass", "nodule", "effusion", "infiltration", "pleural_thickening", "hernia", "fibrosis"]
    assert [caption_of_labels({name: 1.0}) for name in names] == [
        "Lung mass", "Lung nodule", "Pleural effusion", "Lung opacity", "Pleural thickening", "Hiatal hernia",
        "Pulmonary fibrosis",
    ]  # fmt: skip


def test_report_and_labels_together() -> None:
    labels = {"pneumonia": 1.0, "pneumonia/left": 1.0}
    assert rule_caption("No acute process.", labels) == "Left pneumonia"  # labels overrule "Normal"
    assert rule_caption("Mild edema.", labels) == "Mild pulmonary edema"
    assert rule_caption("See above.", labels) == "Left pneumonia"
    assert rule_caption(None, labels) == "Left pneumonia"
    assert rule_caption("No acute process.", {"pneumonia": 0.0}) == "Normal"
    assert rule_caption("See above.", {}) is None
    # what the labels deny comes last
    text = "Pneumothorax. Mild edema."
    assert rule_caption(text, {"pneumothorax": 0.0, "edema": 1.0}) == "Mild pulmonary edema"


def test_phantom_captions_and_reports_follow_the_rules() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        spec = draw_spec(rng)
        for caption in [canonical_caption(spec.findings), *paraphrases(spec.findings, unseen=False)]:
            assert broken_rules(caption) == []
        caption = caption_of_report(report(spec)) or ""
        names = {finding.name for finding in spec.findings}
        assert caption == "Normal" if not names else any(asked_attributes(caption, {name: 1.0}) for name in names)


@given(st.text(max_size=120), st.dictionaries(st.sampled_from(["edema", "mass", "normal", "x/left"]), st.just(1.0)))
@settings(max_examples=50, deadline=None)
def test_any_text_gives_a_valid_caption_or_none(text: str, labels: dict[str, float | None]) -> None:
    caption = rule_caption(text, labels)
    assert caption is None or broken_rules(caption) == []


_WORDS = st.sampled_from(
    ["no", "possible", "without", "mild", "left", "right", "bilateral", "upper lobe", "base", "effusion",
     "pneumothorax", "edema", "nodule", "opacity", "with", "and", "or", ",", ".", "unchanged", "resolved",
     "is unlikely", "tension", "may represent", "healed", "rib fracture", "cannot exclude"]
)  # fmt: skip


@given(st.lists(_WORDS, max_size=14))
@settings(max_examples=80, deadline=None)
def test_any_order_of_report_words_gives_a_valid_caption(words: list[str]) -> None:
    caption = caption_of_text(" ".join(words))
    assert caption is None or broken_rules(caption) == []
    assert caption == caption_of_text(" ".join(words))


# --- what a caption asks for -------------------------------------------------------------------------------------

CHEXPERT14 = (
    "no_finding", "enlarged_cardiomediastinum", "cardiomegaly", "lung_opacity", "lung_lesion", "edema",
    "consolidation", "pneumonia", "atelectasis", "pneumothorax", "pleural_effusion", "pleural_other", "fracture",
    "support_devices",
)  # fmt: skip


@pytest.mark.parametrize("label", [*CHEXPERT14, *ALIASES])
def test_a_caption_made_from_a_label_asks_for_it(label: str) -> None:
    labels: dict[str, float | None] = {label: 1.0}
    caption = caption_of_labels(labels)
    assert caption is not None
    assert asked_attributes(caption, labels) == {label: 1}


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda one: one.noun)
def test_every_noun_is_understood_as_its_own_finding(finding) -> None:
    found = mentions(finding.noun)
    assert [one.finding.label for one in found] == [finding.label]
    assert len(finding.noun.split()) <= MAX_WORDS
    assert finding in of_label(finding.label)
    assert main_finding(finding.label) is not None
    if finding.plural:
        assert [one.finding for one in mentions(finding.plural)] == [finding]


def test_captions_of_the_five_labels_ask_for_one_label_each() -> None:
    """Pools take captions that name exactly one label of the task."""
    everything: dict[str, float | None] = dict.fromkeys([*CHEXPERT_LABELS, "pneumonia", "pneumothorax"], 1.0)
    for label in everything:
        caption = caption_of_labels({label: 1.0}) or ""
        assert asked_attributes(caption, everything) == {label: 1}


@pytest.mark.parametrize(
    ("caption", "positive", "asked"),
    [
        ("Bilateral pleural effusions", ("pleural_effusion", "pleural_effusion/left", "pleural_effusion/right"),
         ("pleural_effusion", "pleural_effusion/left", "pleural_effusion/right")),
        ("Small right effusion", ("pleural_effusion", "pleural_effusion/left"), ("pleural_effusion",)),
        ("Lingular opacity", ("lung_opacity", "lung_opacity/left", "lung_opacity/right"),
         ("lung_opacity", "lung_opacity/left")),
        ("Small pericardial effusion", ("pleural_effusion", "pericardial_effusion"), ("pericardial_effusion",)),
        ("Enlarged heart", ("cardiomegaly", "edema"), ("cardiomegaly",)),
        ("Pulmonary vascular congestion", ("edema", "cardiomegaly"), ("edema",)),
        ("Lung nodules", ("nodule", "mass", "lung_lesion"), ("nodule", "lung_lesion")),
        ("Normal", ("no_finding", "normal"), ("no_finding", "normal")),
        ("Pneumothoraces", ("pneumothorax",), ("pneumothorax",)),
        ("Tuberculosis", ("tuberculosis",), ("tuberculosis",)),
    ],
)  # fmt: skip
def test_plurals_synonyms_and_both_sides_are_asked(
    caption: str, positive: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    assert asked_attributes(caption, dict.fromkeys(positive, 1.0)) == dict.fromkeys(asked, 1)


def test_real_reports_where_they_are_installed() -> None:
    """An extra input: open reports inside an installed package. Every caption of each fourth one is valid."""
    spec = importlib.util.find_spec("torchxrayvision")
    archive = Path(next(iter(spec.submodule_search_locations or []))) / "data" / "NLMCXR_reports.tgz" if spec else None
    if archive is None or not archive.is_file():
        pytest.skip("torchxrayvision is not installed")
    captions: list[str | None] = []
    coded_normal: list[str | None] = []
    with tarfile.open(archive) as opened:
        for member in [one for one in opened.getmembers() if one.name.endswith(".xml")][::4]:
            file = opened.extractfile(member)
            assert file is not None
            root = ET.fromstring(file.read())
            parts = {part.get("Label"): (part.text or "").strip() for part in root.iter("AbstractText")}
            if not (parts.get("IMPRESSION") or parts.get("FINDINGS")):
                continue
            caption = caption_of_report("\n".join(f"{name}: {text}" for name, text in parts.items() if text))
            assert caption is None or broken_rules(caption) == [], caption
            captions.append(caption)
            if [one.text for one in root.iter("major")] == ["normal"]:  # coded by people
                coded_normal.append(caption)
    assert captions.count(None) < 0.02 * len(captions)
    assert coded_normal.count("Normal") > 0.95 * len(coded_normal)
