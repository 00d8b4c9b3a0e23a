"""Reports: the section a caption is made from, in the layouts real reports have; what is scrubbed out of them."""

from __future__ import annotations

import importlib.util
import re
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.data.text.reports import impression, sections, sentences
from radpref.data.text.scrub import scrub, tokens

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old woman with cough  // eval for pneumonia

 TECHNIQUE:  Portable AP radiograph.

 COMPARISON:  ___

 FINDINGS:

 The lungs are clear.  There is a small right
 pleural effusion.

 IMPRESSION:

 1.  Small right pleural effusion, unchanged
 since ___.
 2.  No pneumothorax.

 NOTIFICATION:  The findings were discussed with ___, M.D. by ___, M.D. on the
 telephone on ___ at 3:14 PM, 5 minutes after discovery.
"""
MIMIC_LAST = """                                 FINAL REPORT
 CHEST, TWO VIEWS

 HISTORY:  Chest pain.

 COMPARISON:  None.

 PA and lateral views of the chest were obtained.  The lungs are clear.
"""
WET = """WET READ: ___ ___ ___ 9:12 AM
 IMPRESSION: No acute process.
 ______________________________________________________________________________
                                 FINAL REPORT
 IMPRESSION: Right apical pneumothorax.
"""
ADDENDUM = """FINDINGS: Heart enlarged.
IMPRESSION: Cardiomegaly.

ADDENDUM: On further review there is a nodule.
IMPRESSION: Cardiomegaly. Left lower lobe nodule.
"""

FORMS: list[tuple[str, str, str]] = [
    (MIMIC, "impression", "Small right pleural effusion, unchanged since.\nNo pneumothorax."),
    (MIMIC_LAST, "last paragraph", "PA and lateral views of the chest were obtained. The lungs are clear."),
    (WET, "impression", "Right apical pneumothorax."),
    (ADDENDUM, "impression", "Cardiomegaly. Left lower lobe nodule."),
    ("FINDINGS: Clear lungs. IMPRESSION: Normal chest.", "impression", "Normal chest."),
    ("Findings: Clear lungs. Impression: Normal chest.", "impression", "Normal chest."),
    ("FINDINGS\nClear lungs.\n\nIMPRESSION\nNormal chest.", "impression", "Normal chest."),
    ("Impression - Mild edema", "impression", "Mild edema"),
    ("IMPRESSION – Mild edema", "impression", "Mild edema"),
    ("FINDINGS: x\nCONCLUSION: Mild edema.", "impression", "Mild edema."),
    ("FINDINGS: x\nCONCLUSIONS: Mild edema.", "impression", "Mild edema."),
    ("FINDINGS: Mild edema.", "findings", "Mild edema."),
    ("FINDINGS: Mild edema.\nIMPRESSION:\n", "findings", "Mild edema."),
    ("FINDINGS: Mild edema.\nIMPRESSION: ___", "findings", "Mild edema."),
    ("HISTORY: Cough.\nFINDINGS AND IMPRESSION: Mild edema.", "findings and impression", "Mild edema."),
    ("FINDINGS/IMPRESSION:\n1) Mild edema\n2) Small effusion", "findings and impression",
     "Mild edema\nSmall effusion"),
    ("IMPRESSION: 1. Mild edema. 2. Small effusion of 1.5 cm.", "impression",
     "Mild edema.\nSmall effusion of 1.5 cm."),
    ("IMPRESSION:\n- Mild edema\n- Small effusion", "impression", "Mild edema\nSmall effusion"),
    ("IMPRESSION: Mild edema.\nElectronically signed by: Jane Roe on 3/4/2019", "impression", "Mild edema."),
    ("IMPRESSION: Mild edema.\nJane Roe, M.D.", "impression", "Mild edema."),
    ("IMPRESSION: Mild edema. Findings discussed with Dr. Roe at 3:15 pm.", "impression", "Mild edema."),
    ("IMPRESSION AND RECOMMENDATION: Nodule. Chest CT.", "impression", "Nodule. Chest CT."),
    ("IMPRESSION: Nodule.\nRECOMMENDATION(S): Chest CT.", "impression", "Nodule."),
    ("CLINICAL IMPRESSION: Pneumonia?\nFINDINGS: Clear lungs.", "findings", "Clear lungs."),
    ("Small left pneumothorax.", "whole text", "Small left pneumothorax."),
    ("IMPRESSION: Edema.\r\n\r\nCOMMENT: none", "impression", "Edema."),
]  # fmt: skip


@pytest.mark.parametrize(("report", "section", "text"), FORMS)
def test_the_impression_of_a_report(report: str, section: str, text: str) -> None:
    found = impression(report)
    assert found is not None
    assert (found.section, found.text) == (section, text)


@pytest.mark.parametrize("report", ["", "  \n", "___", "IMPRESSION:", "INDICATION: Cough.", "IMPRESSION: [** **] ___."])
def test_nothing_to_read_is_none(report: str) -> None:
    assert impression(report) is None


def test_sections_are_found_in_order() -> None:
    head, parts = sections(MIMIC)
    assert head.strip() == ""
    assert [part.name for part in parts] == [
        "FINAL REPORT", "EXAMINATION", "INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION",
        "NOTIFICATION",
    ]  # fmt: skip


def test_sentences_do_not_end_in_numbers_and_abbreviations() -> None:
    text = "Nodule of 1.5 cm vs. scar. No effusion; no edema\nHeart normal."
    assert sentences(text) == ["Nodule of 1.5 cm vs. scar", "No effusion", "no edema", "Heart normal"]


SCRUBBED: list[tuple[str, str, list[str]]] = [
    ("Effusion since ___.", "Effusion since.", ["___"]),
    ("Seen [**2101-3-4**] by [**Doctor First Name 12**].", "Seen by.", ["[** **]"]),
    ("XXXX sternotomy on x-XXXX.", "sternotomy on x-ray.", ["XXXX"]),
    ("Film of 12/31/2019 and 2019-12-31 and 31.12.19.", "Film of and and.", ["date"]),
    ("Compared to March 3, 2019 and 4 May 2020.", "Compared to and.", ["date"]),
    ("Effusion in May 2020.", "Effusion in.", ["date"]),
    ("Called on 3/4 at 14:32.", "Called.", ["date", "time"]),
    ("92-year-old man.", "elderly man.", ["age above 89"]),
    ("Woman aged 103.", "Woman elderly.", ["age above 89"]),
    ("95 yo with cough", "elderly with cough", ["age above 89"]),
    ("Read by Dr. Jane Roe.", "Read by.", ["name"]),
    ("MRN: 123456, tel. 555-123-4567, a.b@c.org.", ", tel.,.", ["mail address", "number of a person",
                                                               "telephone number"]),
    ("Patient [NAME] of <PHI>.", "Patient of.", ["placeholder"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "clean", "kinds"), SCRUBBED)
def test_tokens_are_scrubbed_and_named(text: str, clean: str, kinds: list[str]) -> None:
    assert tokens(text) == kinds
    assert scrub(text).replace(",.", ".") == clean.replace(",.", ".")
    assert tokens(scrub(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Mild edema. T12/L1 fracture, 5 mm nodule of 1.2 x 3.4 cm.",
        "89-year-old man with 2-3 nodules; may represent pneumonia.",
        "Ribs 3/4 on the right. 90 degrees. May be old.",
        "Grade XX of IX.",
    ],
)
def test_what_names_nobody_stays(text: str) -> None:
    assert scrub(text) == text
    assert tokens(text) == []


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = impression(text)
    assert found is None or (found.text and not re.search(r"_{2,}", found.text))


def test_real_reports_where_they_are_installed() -> None:
    """An extra input: 3,955 open reports inside an installed package, one file a report; never copied."""
    spec = importlib.util.find_spec("torchxrayvision")  # not imported: it would load torch
    archive = Path(next(iter(spec.submodule_search_locations or []))) / "data" / "NLMCXR_reports.tgz" if spec else None
    if archive is None or not archive.is_file():
        pytest.skip("torchxrayvision is not installed")
    counts: Counter[str] = Counter()
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            if not member.name.endswith(".xml"):
                continue
            file = opened.extractfile(member)
            assert file is not None
            parts = {p.get("Label"): (p.text or "").strip() for p in ET.fromstring(file.read()).iter("AbstractText")}
            report = "\n".join(f"{name}: {text}" for name, text in parts.items() if text)
            found = impression(report)
            counts["all"] += 1
            counts[found.section if found else "none"] += 1
            readable = bool(parts.get("IMPRESSION") or parts.get("FINDINGS"))
            assert (found is not None) == readable
            if found:
                assert tokens(found.text) == []
                assert impression(" ".join(report.split())) == found  # the same report on one line
    assert counts["all"] == sum(counts[name] for name in ("impression", "findings", "none"))
    assert counts["impression"] > 0.98 * counts["all"], dict(counts)
