"""Scrubbing: de-identification tokens, dates, names and great ages taken out of free text.

Input: a report or a caption. Output: the text without them. A generator that sees ``___`` or ``XXXX`` in its prompts
learns to draw them, and what leaves the machine for an endpoint shall name nobody. This is a net under data sets that
are de-identified already, not a tool to de-identify reports with.

======================  ==========================================================================================
token                   forms
======================  ==========================================================================================
``[** ... **]``         MIMIC-III and many clinical corpora; also ``[REDACTED]``, ``<PHI>``, ``[NAME]`` and the like
``___``                 MIMIC-CXR, two underscores or more
``XXXX``                OpenI (``x-XXXX`` becomes x-ray), three X or more
dates and times         2019-12-31, 12/31/2019, 31.12.19, March 3 2019, on 3/4, 14:32, 3:45 pm
ages above 89           92-year-old, 101 yo, aged 95: "elderly", which says no number
people and numbers      Dr. Smith, MRN 123456, accession numbers, telephone numbers, mail addresses
======================  ==========================================================================================
"""

from __future__ import annotations

import re

_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
_OLD = r"(?:9\d|1[0-3]\d)"
_YEARS = r"(?:-|\s)?(?:years?|yrs?)(?:(?:-|\s)?old|\s+of\s+age)?|\s?(?:-|\s)?(?:y/?o|yo[mf])"

PATTERNS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("[** **]", re.compile(r"\[\*\*.*?\*\*\]", re.S), " "),
    (
        "placeholder",
        re.compile(
            r"[\[<(](?:redacted|phi|deidentified|de-identified|removed|anonymi[sz]ed|(?:\w+ )?name|date|time|age|"
            r"hospital|location|id|person|patient|doctor|phone)[\]>)]",
            re.I,
        ),
        " ",
    ),
    ("XXXX", re.compile(r"\bx-\s?X{2,}", re.I), "x-ray"),
    ("XXXX", re.compile(r"(?<![A-Za-z])X{3,}"), " "),
    ("___", re.compile(r"_{2,}"), " "),
    ("mail address", re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+\b"), " "),
    (
        "number of a person",
        re.compile(r"\b(?:mrn|accession|medical record)\s*(?:number|no\.?|#)?\s*[:#]?\s*\w*\d\w*", re.I),
        " ",
    ),
    ("telephone number", re.compile(r"(?<!\d)(?:\+?\d{1,2}[ .-])?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"), " "),
    ("date", re.compile(r"(?<!\d)(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}(?!\d)"), " "),
    ("date", re.compile(r"(?<!\d)\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)?\d\d(?!\d)"), " "),
    ("date", re.compile(rf"\b{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+(?:19|20)\d\d\b", re.I), " "),
    ("date", re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\.?,?\s+(?:19|20)\d\d\b", re.I), " "),
    ("date", re.compile(rf"\b{_MONTH}\.?,?\s+(?:of\s+)?(?:19|20)\d\d\b", re.I), " "),
    ("date", re.compile(r"\b(?:on|dated|since|from)\s+\d{1,2}/\d{1,2}(?![\d/])", re.I), " "),
    ("time", re.compile(r"\b(?:at\s+)?\d{1,2}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\b\.?)?(?!\d)", re.I), " "),
    ("age above 89", re.compile(rf"\b{_OLD}(?:{_YEARS})\b", re.I), "elderly"),
    ("age above 89", re.compile(rf"\b(?:aged?|age of|age:)\s*{_OLD}\b", re.I), "elderly"),
    ("name", re.compile(r"\b(?:Drs?|Prof|Mr|Mrs|Ms)\.?\s+(?:[A-Z]\.\s*)*[A-Z][a-z]+(?:[ -][A-Z][a-z]+)?"), " "),
)
"""(name of the token, how it looks, what replaces it)."""


def scrub(text: str) -> str:
    """``text`` without de-identification tokens, dates, names and ages above 89; lines are kept, gaps closed."""
    for _, pattern, instead in PATTERNS:
        text = pattern.sub(instead, text)
    return "\n".join(_tidy(line) for line in text.splitlines())


def tokens(text: str) -> list[str]:
    """Names of the kinds of token that ``text`` holds, in the order of `PATTERNS`, each once."""
    return list(dict.fromkeys(name for name, pattern, _ in PATTERNS if pattern.search(text)))


def _tidy(line: str) -> str:
    """Close the gaps that tokens leave: empty brackets, doubled spaces, a space before a mark."""
    line = re.sub(r"\(\s*[,;.]?\s*\)|\[\s*\]", " ", line)
    line = re.sub(r"[ \t]+", " ", line)
    line = re.sub(r" +([,.;:)])", r"\1", line)
    line = re.sub(r"([,;:])(?:[,;])+", r"\1", line)
    return line.strip()
