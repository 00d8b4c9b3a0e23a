"""Reports: their sections, and the impression that a caption is made from.

Input: the free text of a radiology report, in lines (MIMIC-CXR) or on one line (tables). Output: the text of the
section that says what was found, scrubbed, one item per line. The order of choice, first that holds something:

1. the last IMPRESSION (CONCLUSION, OPINION, SUMMARY ...): an addendum's or a final one comes after an earlier one,
   preliminary readings (WET READ) are passed over;
2. FINDINGS AND IMPRESSION in one;
3. FINDINGS;
4. the last paragraph, where there are headings but none of these (many MIMIC-CXR reports end so);
5. the whole text, where there is no heading at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from radpref.data.text.scrub import scrub

_IMPRESSION = (
    "FINAL IMPRESSION", "OVERALL IMPRESSION", "IMPRESSIONS", "IMPRESSION", "CONCLUSIONS", "CONCLUSION", "OPINION",
    "SUMMARY", "INTERPRETATION", "ASSESSMENT", "IMPRESSION AND RECOMMENDATIONS", "IMPRESSION AND RECOMMENDATION",
    "IMPRESSION/RECOMMENDATION", "IMPRESSION/RECOMMENDATIONS", "IMPRESSON",
)  # fmt: skip
_BOTH = (
    "FINDINGS AND IMPRESSION", "FINDINGS & IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS / IMPRESSION",
    "IMPRESSION AND FINDINGS", "IMPRESSION/FINDINGS", "FINDINGS AND CONCLUSION", "FINDINGS IMPRESSION",
)  # fmt: skip
_FINDINGS = ("FINDINGS", "FINDING", "OBSERVATIONS", "REPORT", "RESULT", "RESULTS")
_OTHER = (
    "FINAL REPORT", "EXAMINATION", "EXAM", "STUDY", "PROCEDURE", "TECHNIQUE", "VIEWS", "VIEW", "INDICATION",
    "INDICATIONS", "HISTORY", "CLINICAL HISTORY", "CLINICAL INFORMATION", "CLINICAL INDICATION", "CLINICAL IMPRESSION",
    "CLINICAL DATA", "CLINICAL INFO", "REASON FOR EXAM", "REASON FOR EXAMINATION", "REASON FOR THIS EXAMINATION",
    "REASON", "COMPARISON", "COMPARISONS", "WET READ", "WET READ VERSION", "PRELIMINARY REPORT", "PRELIMINARY READ",
    "NOTIFICATION", "NOTIFICATIONS", "RECOMMENDATION", "RECOMMENDATIONS", "ADDENDUM", "FINAL ADDENDUM", "COMMENT",
    "TYPE OF EXAMINATION", "DATE OF EXAM", "DATE", "CRITICAL RESULT", "ATTESTATION", "PROVISIONAL FINDINGS IMPRESSION",
)  # fmt: skip
_KINDS = {
    **dict.fromkeys(_IMPRESSION, "impression"),
    **dict.fromkeys(_BOTH, "findings and impression"),
    **dict.fromkeys(_FINDINGS, "findings"),
    **dict.fromkeys(_OTHER, "other"),
}
_NAMES = "|".join(re.escape(name) for name in sorted(_KINDS, key=len, reverse=True))
_AT_LINE = re.compile(
    rf"^[ \t]*(?P<name>{_NAMES})(?:\s*\([^)\n]*\))?[ \t]*(?P<mark>:|-{{1,2}}(?=\s)|[–—](?=\s)|$)[ \t]*", re.I | re.M
)
_INLINE = re.compile(rf"(?:(?<=[.!?:;)\]])|(?<=\s)|^)(?P<name>{_NAMES})\s*(?P<mark>:)\s*")
_AFTER_STOP = re.compile(rf"(?<=[.!?)] )(?P<name>{_NAMES})\s*(?P<mark>:)\s*", re.I)
_PRELIMINARY = re.compile(r"^(?:WET READ|PRELIMINARY|PROVISIONAL)", re.I)
_SIGNATURE = re.compile(
    r"^\W*(?:(?:electronically\s+)?(?:signed|approved|dictated|transcribed|verified|interpreted|reported|reviewed)\b"
    r"[^\n]{0,40}\b(?:by|on|at)\b|i(?:,| have| personally)\b[^\n]*(?:reviewed|personally)|(?:attending|resident|staff)?"
    r"\s*radiologist\s*:|end of (?:report|impression)|(?:dictated|signed)\s*:|[^\n]{0,60},?\s+(?:m\.?d\.?|mbbs|frcr|do)"
    r"\s*\.?\s*$)",
    re.I,
)
_NOTICE = re.compile(
    r"\b(?:(?:findings|results?|these|this|above|impression)\b[^.]*\b(?:discussed|communicated|relayed|telephoned|"
    r"conveyed|called|reported)\b|(?:discussed|communicated|telephoned|paged)\b[^.]*\b(?:by|with|to)\b)[^.]*(?:\.|$)",
    re.I,
)
_ITEM = re.compile(r"^\s*(?:\(?\d{1,2}[.):]\)?|[-*•·])\s+")
_INLINE_ITEM = re.compile(r"(?:(?<=^)|(?<=[.;:?!]\s)|(?<=[.;:?!]))\(?\d{1,2}[.)](?=\s*[A-Z])\s*")
_ABBREVIATION = re.compile(r"\b(?:Drs?|Mr|Mrs|Ms|vs|St|approx|cf|no|e\.g|i\.e|fig)\.$", re.I)


@dataclass(frozen=True)
class Impression:
    """What a report says it found. ``section``: where it stood; see the order in the module's docstring."""

    text: str
    section: str


@dataclass(frozen=True)
class Section:
    """One headed part of a report; ``kind`` is impression, findings, findings and impression, or other."""

    name: str
    kind: str
    text: str


def sections(report: str) -> tuple[str, list[Section]]:
    """(the text before the first heading, the headed parts in order)."""
    report = report.replace("\r\n", "\n").replace("\r", "\n")
    found: dict[int, re.Match[str]] = {}
    for pattern in (_AT_LINE, _INLINE, _AFTER_STOP):
        for match in pattern.finditer(report):
            start = match.start("name")
            if not any(other.start("name") <= start < other.end() for other in found.values()):
                found[start] = match
    starts = sorted(found)
    parts: list[Section] = []
    if not starts:
        return report, parts
    for start, following in zip(starts, [*starts[1:], len(report)], strict=True):
        name = " ".join(found[start].group("name").upper().split())
        parts.append(Section(name, _KINDS.get(name, "other"), report[found[start].end() : following]))
    return report[: starts[0]], parts


def impression(report: str) -> Impression | None:
    """What the report found, scrubbed, one item per line; None where there is nothing to read."""
    head, parts = sections(report)
    for kind in ("impression", "findings and impression", "findings"):
        texts = [cleaned for part in _final(parts) if part.kind == kind and (cleaned := clean(part.text))]
        if texts:
            return Impression(texts[-1], kind)
    if not parts:
        cleaned = clean(head)
        return Impression(cleaned, "whole text") if cleaned else None
    paragraphs = re.split(r"\n\s*\n", parts[-1].text)
    cleaned = clean(paragraphs[-1]) if len(paragraphs) > 1 else ""
    return Impression(cleaned, "last paragraph") if cleaned else None


def _final(parts: list[Section]) -> list[Section]:
    """The parts of the final report: what a preliminary reading says is left out where more follows."""
    kept: list[Section] = []
    preliminary = False
    for part in parts:
        if _PRELIMINARY.match(part.name):
            preliminary = True
            continue
        preliminary = preliminary and part.name not in ("FINAL REPORT", "EXAMINATION", "EXAM", "INDICATION")
        if not preliminary or part.kind != "other":
            kept.append(part)
    return kept


def clean(text: str) -> str:
    """A section's text scrubbed, without numbering, signature and notices; one item or sentence group per line."""
    items: list[str] = []
    fresh = True
    for line in takewhile(lambda line: not _SIGNATURE.match(line), scrub(text).splitlines()):
        if not line.strip():
            fresh = True
            continue
        numbered = _ITEM.sub("", line)
        if fresh or numbered != line or not items:
            items.append(numbered.strip())
        else:
            items[-1] += " " + line.strip()
        fresh = False
    found = []
    for item in items:
        for part in _INLINE_ITEM.split(item):
            plain = " ".join(_NOTICE.sub(" ", part).split()).strip(" ,;-")
            if re.search(r"[A-Za-z]{2}", plain):
                found.append(plain)
    return "\n".join(found)


def sentences(text: str) -> list[str]:
    """Sentences of a cleaned text, without closing marks; ``1.5 cm`` and ``Dr.`` do not end one."""
    found: list[str] = []
    for line in text.splitlines():
        pieces: list[str] = []
        for piece in re.split(r"(?<=[.!?;])\s+", line):
            if pieces and _ABBREVIATION.search(pieces[-1]):
                pieces[-1] += " " + piece
            else:
                pieces.append(piece)
        found += [plain for piece in pieces if re.search(r"\w", plain := piece.strip(" .!;"))]
    return found
