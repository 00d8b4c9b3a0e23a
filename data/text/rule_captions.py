"""Captions by rules: the main finding of a report, in at most five words, without a network and always the same.

Input: the text of an impression (data/text/reports.py), or labels. Output: "Small right pleural effusion", "Normal", or
None where the text says nothing that is understood: an unknown finding must not become "Normal".

Of the findings that are there (data/text/mentions.py), those that the record's labels deny come last, doubtful ones
after certain ones, then the order of `radpref.data.text.findings.FINDINGS` decides, then the place in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from radpref.data.text.caption_rules import MAX_WORDS, NORMAL, n_words
from radpref.data.text.findings import NORMAL_LABELS, label_sides, main_finding, of_label
from radpref.data.text.mentions import RANK, SIZES, Mention, mentions

CAPTIONER_VERSION = 1
"""Goes up when the same report may get another caption."""

MIN_DENIED = 5
"""So many findings must labels deny for "Normal": where only pneumothorax is labelled, no image is known normal."""

_BONES = ("rib", "clavicle", "vertebral", "humerus")
_WITH_HILUM = ("lung_lesion", "lymphadenopathy", "lung_opacity")
_NORMAL = re.compile(
    r"\b(?:normal|unremarkable|negative|clear|no (?:active|acute|significant|focal|evidence|definite|radiographic|"
    r"finding)|without (?:active|acute|evidence|significant|demonstration)|within normal limits|nothing acute|free of|"
    r"no \w+ (?:disease|abnormalit\w+|process|finding\w*))\b",
    re.I,
)
_ABNORMAL = re.compile(r"\b(?:abnormal(?! contour)|not (?:normal|clear|unremarkable))\b", re.I)


def caption_of_text(text: str, labels: Mapping[str, float | None] | None = None) -> str | None:
    """Caption of an impression's text; "Normal" where it says so or only rules findings out.

    ``labels``: what is known of the record (1, 0 or None); a finding that they deny is chosen last.
    """
    named = mentions(text)
    there = [one for one in named if one.state != "absent"]
    if there:
        return _write(min(there, key=lambda one: _order(one, labels or {})))
    if _ABNORMAL.search(text):
        return None
    return NORMAL if named or _NORMAL.search(text) else None


def caption_of_labels(labels: Mapping[str, float | None]) -> str | None:
    """Caption from labels alone: the main positive finding with its sides; None where nothing is known.

    "Normal" needs a label that says so (devices do not contradict it, as in CheXpert's "No Finding"), or at least
    `MIN_DENIED` findings that are all known and 0 and no label that says the opposite.
    """
    known = {label: finding for label in labels if "/" not in label and (finding := main_finding(label))}
    positive = [label for label in known if labels[label] == 1]
    said = [labels[name] for name in NORMAL_LABELS if labels.get(name) is not None]
    if 1 in said and all(known[label].label == "support_devices" for label in positive):
        return NORMAL
    if not positive:
        denied = not said and len(known) >= MIN_DENIED and all(labels[label] == 0 for label in known)
        return NORMAL if denied else None
    label = min(positive, key=lambda one: (RANK[known[one]], one))
    sides = label_sides(label, labels) if known[label].sided else []
    return _write(Mention(known[label], "present", "bilateral" if len(sides) == 2 else "".join(sides), "", "", "", 0))


def rule_caption(text: str | None, labels: Mapping[str, float | None]) -> str | None:
    """The caption of a record: from its impression's text, but from its labels where that is missing, not understood
    or "Normal" although a label says there is a finding."""
    by_report = caption_of_text(text, labels) if text else None
    if by_report not in (None, NORMAL):
        return by_report
    by_labels = caption_of_labels(labels)
    return by_labels if by_report is None or by_labels not in (None, NORMAL) else by_report


def _order(mention: Mention, labels: Mapping[str, float | None]) -> tuple[int, ...]:
    names = [name for name in labels if "/" not in name and mention.finding in of_label(name)]
    denied = bool(names) and all(labels[name] == 0 for name in names)
    return int(denied), int(mention.state == "possible"), RANK[mention.finding], mention.place


def _write(mention: Mention) -> str:
    """The caption of one finding: as much of doubt, size, side, site and kind as five words hold."""
    finding, site = mention.finding, mention.site
    if site in _BONES and finding.label != "fracture":
        site = ""
    if site in ("hilar", "mediastinal") and finding.label not in _WITH_HILUM:
        site = ""
    doubt = "possible" if mention.state == "possible" else ""
    size = "" if finding.label == "fracture" and mention.size in SIZES else mention.size
    kind = "" if mention.kind and mention.kind[:5] in finding.noun else mention.kind
    side = "" if site == "lingular" else mention.side
    noun = (mention.side == "bilateral" and finding.plural) or finding.noun
    caption = noun
    for parts in (
        (doubt, size, side, site, kind),
        (doubt, size, side, site, ""),
        (doubt, size, side, "", kind),
        (doubt, size, side, "", ""),
        (doubt, "", side, site, ""),
        (doubt, "", side, "", ""),
        (doubt, size, "", "", ""),
        (doubt, "", "", "", ""),
    ):
        named = noun.removeprefix("lung ") if parts[3] else noun  # "right upper lobe nodule"
        caption = " ".join([*(part for part in parts if part), named])
        if n_words(caption) <= MAX_WORDS:
            break
    return caption[0].upper() + caption[1:]
