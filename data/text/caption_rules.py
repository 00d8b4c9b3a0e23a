"""The study's rules for captions, as a validator: it says which rule a caption breaks, whoever wrote it.

Input: a caption (from an endpoint, the rules, a table or a person). Output: the rules it breaks, each as one line.

The rules are those of the study's prompt ("The pipeline", 2): the main finding in at most five words, no comparison
with earlier studies, no commas, no quotation marks, "Normal" where nothing is found. The rest keeps out what is not
a caption: de-identification tokens, markup, an apology. Words that tell time on one film stay allowed: acute, chronic,
old, healed, postoperative; and so does "right greater than left", which compares two sides of one film.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from radpref.data.text.scrub import tokens

RULES_VERSION = 1
"""Goes up when a caption that was valid may not be any more: who wrote what under which rules stays traceable."""
MAX_WORDS = 5
MAX_CHARACTERS = 80
NORMAL = "Normal"

COMPARISONS: tuple[str, ...] = (
    "unchanged", "changed", "no change", "without change", "(?:change|changes) (?:from|since|in)",
    "improv(?:e|ed|es|ing|ement)", "wors(?:e|en|ened|ens|ening)", "progress(?:ed|es|ing|ion|ive|ively)?",
    "regress(?:ed|es|ing|ion)?", "increas(?:e|ed|es|ing|ingly)", "decreas(?:e|ed|es|ing)",
    "reduc(?:e|ed|es|ing|tion)", "diminish(?:ed|es|ing)?", "stable", "stability", "interval", "new", "newly",
    "again", "re-?demonstrat(?:e|ed|es|ion)", "prior", "priors", "previous(?:ly)?", "earlier", "former(?:ly)?",
    "compar(?:e|ed|es|ing|ison|isons|able)", "persist(?:s|ed|ing|ent|ently|ence)?",
    "resolv(?:e|ed|es|ing)", "resolution", "clear(?:ed|ing)", "remain(?:s|ed|ing)?", "continu(?:e|ed|es|ing)",
    "recur(?:red|rent|rence)?", "residual", "enlarging", "larger", "smaller", "bigger", "better", "evolv(?:e|ed|ing)",
    "evolution", "develop(?:ed|ing|ment)", "since", "similar", "as before", "still", "last (?:film|study|exam)",
)  # fmt: skip
"""Words of comparison with an earlier study. "reduced" and "developing" compare as "decreased" does, which is the
study's own; "clear" (lungs) does not, "cleared" does; "enlarged" (heart) describes one film, "enlarging" two."""
_COMPARISON = re.compile(rf"\b(?:{'|'.join(COMPARISONS)})\b", re.I)
_COMMA = re.compile(r"[,،、，﹐]")
_QUOTE = re.compile(r"[\"“”„‟«»‹›`´‘‚]|(?<![A-Za-z])['’]|['’](?![A-Za-z])")
_FOREIGN = re.compile(r"[^\w\s\-–/().%+&'’\"“”„‟«»‹›`´‘‚,،、，﹐]|_")
_NO_ANSWER = re.compile(
    r"\b(?:sorry|cannot|can['’]?t|unable|as an ai|not provided|no report|insufficient|caption|please|i am|i['’]m)\b",
    re.I,
)


@dataclass(frozen=True)
class Broken:
    """One broken rule: its name (stable, for counts) and what is wrong, for a person or for the endpoint."""

    rule: str
    reason: str


def broken_rules(caption: str | None) -> list[Broken]:
    """The rules that ``caption`` breaks, in a fixed order; none: it may be written."""
    if caption is None or not caption.strip():
        return [Broken("empty", "the caption is empty")]
    found = []
    if re.search(r"[\r\n\t\x00-\x1f\x7f\u2028\u2029]", caption):
        found.append(Broken("one line", "the caption is not one line of plain text"))
    if caption != caption.strip():
        found.append(Broken("one line", "the caption begins or ends with white space"))
    if _COMMA.search(caption):
        found.append(Broken("comma", "the caption has a comma"))
    if _QUOTE.search(caption):
        found.append(Broken("quotation mark", "the caption has a quotation mark"))
    if word := _COMPARISON.search(caption):
        found.append(Broken("comparison", f"'{word.group(0)}' compares with an earlier study"))
    if (n := n_words(caption)) > MAX_WORDS:
        found.append(Broken("five words", f"the caption has {n} words, at most {MAX_WORDS} are allowed"))
    if kinds := tokens(caption):
        found.append(Broken("de-identification token", f"the caption holds a de-identification token ({kinds[0]})"))
    elif sign := _FOREIGN.search(caption):
        found.append(Broken("plain text", f"the caption has the sign {sign.group(0)!r}; use words"))
    if len(caption) > MAX_CHARACTERS:
        found.append(Broken("plain text", f"the caption has {len(caption)} characters, at most {MAX_CHARACTERS}"))
    if not re.search(r"[^\W\d_]{2}", caption):
        found.append(Broken("plain text", "the caption has no word"))
    if word := _NO_ANSWER.search(caption):
        found.append(Broken("no answer", f"'{word.group(0)}' is not a finding; name the main finding"))
    return found


def n_words(caption: str) -> int:
    """Words of a caption: parted by white space or a slash; a hyphenated word is one."""
    return len([word for word in re.split(r"[\s/]+|\s[-–]\s", caption) if re.search(r"\w", word)])
