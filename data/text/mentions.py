"""Which findings a text names: there, possible or ruled out, and where and how large.

Input: the text of an impression. Output: :class:`Mention` items in the order of the text. A sentence is cut into
clauses; in each, words of negation ("no", "without", "negative for", "rather than", "is unlikely", "has resolved") rule
out the findings in their reach, and words of doubt ("possible", "may represent", "versus") mark them (after the ideas
of NegEx, Chapman et al. 2001). Size, kind, side and site are taken from the words around a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from radpref.data.text.findings import FINDINGS, SIDE_WORDS, Finding, compiled
from radpref.data.text.reports import sentences

RANK = {finding: rank for rank, finding in enumerate(FINDINGS)}
"""Finding -> its place in the order of `radpref.data.text.findings.FINDINGS`."""

_CLAUSE = re.compile(
    r"\s*(?:;|:|\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bexcept(?:ing)?(?: for)?\b|\botherwise\b|\bwhile\b"
    r"|\bwhereas\b|\baside from\b|\bother than\b|(?<=\w)\.(?=[A-Z])|\band (?:there|the|a|an)\b|\band (?=no\b))\s*",
    re.I,
)
_LIST_GOES_ON = re.compile(r"\b(?:or|nor)\b", re.I)
_NOT_NEGATION = re.compile(
    r"\b(?:no|without|not)(?: any)?(?: significant(?:ly)?| substantial(?:ly)?| interval| appreciable| real| much)*"
    r" (?:change[ds]?|increase|decrease|improvement|difference|growth|progression)\b(?: (?:in|of|from|to))?"
    r"|\bnot only\b|\bno longer in\b|\bnot? (?:doubt|surprising\w*)\b",
    re.I,
)
_DOUBT_NOT = re.compile(
    r"\b(?:cannot|can ?not|can['’]t|could not|not|difficult to|hard to)\b(?: be| completely| entirely| definitely)*"
    r" (?:exclude[d]?|rule[d]? out)\b",
    re.I,
)
_BEFORE = re.compile(
    r"\b(?:no|not|nor|none|without|absence of|absent|lack of|free of|clear of|negative for|neither|never|denies|"
    r"rather than|instead of|as opposed to|less likely|unlikely(?: to (?:be|represent|reflect))?|"
    r"resol(?:ved|ution of)(?: \w+)?|removal of|removed|rul(?:e|ed|ing) out|r/o|exclud(?:e|es|ed|ing)|"
    r"to exclude|evaluat(?:e|ion) for|assess(?:ment)? for|history of|hx of|h/o|status[- ]post|s/p|risk of|"
    r"ensure|treated|to identify|detect(?:ing|ion of)?|search(?:ing)? for)\b",
    re.I,
)
_AFTER = re.compile(
    r"\b(?:(?:is|are|was|were|has been|have been|being|be)? ?(?:not|no longer|never)(?: \w+){0,2}? "
    r"(?:seen|identified|present|visuali[sz]ed|evident|appreciated|demonstrated|detected|noted|visible|apparent|"
    r"suspected|found|observed)|(?:is|are|thought|considered|seems?|appears?)?(?: \w+)? ?(?:un|less )likely|"
    r"(?:has|have|had)?(?: \w+)? ?(?:resolved|cleared|disappeared)(?! partially)|(?:is|are) absent|"
    r"(?:(?:is|are|was|were|has been|have been) )?(?:excluded|ruled out|removed)|resolution|no longer)\b",
    re.I,
)
_DOUBT = re.compile(
    r"\b(?:possibl[ey]|possibilit\w+|may|might|could|questionable|question(?:s)? of|question|queried|versus|vs\.?|"
    r"concern(?:ing)?(?: for)?|worrisome for|suspicious for|suspicion of|differential(?: diagnosis)?|equivocal|or|"
    r"and/or|if|consider|potential(?:ly)?|should be considered)\b|\?",
    re.I,
)
_STOP = re.compile(
    r"\b(?:with(?! air)|which|that|there (?:is|are|was|were)|persists?|remains?|secondary to|due to|because of|"
    r"associated with|(?<!to )suggest\w*|consistent with|compatible with|represent\w*|reflect\w*|are seen|is seen|"
    r"and (?=(?:a|the|mild|moderate|severe|small|large|trace|tiny|minimal|left|right|bilateral|bibasilar|stable|"
    r"unchanged|persistent|increased|decreased|new)\b))\b",
    re.I,
)
_DOUBT_STOP = re.compile(r"\b(?:which|that|there (?:is|are|was|were)|superimposed|and (?=a\b))", re.I)
_RESOLVED = re.compile(r"\b(?:near(?:ly)?|almost|partial(?:ly)?|incomplete(?:ly)?) (?:complete(?:ly)? )?resol\w+", re.I)
_FRESH = re.compile(
    r"^(?:and )?(?:a|an|the|there|with|mild|moderate|severe|small|large|trace|tiny|minimal|massive|extensive|left|"
    r"right|bilateral|bibasilar|stable|unchanged|persistent|increased|decreased|new|worsening|improved|improving|patchy|"
    r"status|heart|lungs?|cardiac)\b",
    re.I,
)

SIZES = ("trace", "tiny", "minimal", "subtle", "faint", "borderline", "mild", "small", "moderate", "large", "marked",
          "extensive", "severe", "massive")  # fmt: skip
_KINDS = ("tension", "loculated", "calcified", "linear", "interstitial", "hazy", "compressive", "subsegmental",
          "patchy", "focal", "platelike", "discoid", "nodular", "aspiration", "lobar")  # fmt: skip
"""Kinds come next to the noun ("left tension pneumothorax"), sizes first ("small left pneumothorax")."""
SEVERITIES: dict[str, str] = {
    **{word: word for word in (*SIZES, *_KINDS, "diffuse", "multifocal", "healed", "healing", "old", "acute",
                               "chronic", "multiple")},
    "minimally": "minimal", "minor": "mild", "slight": "mild", "slightly": "mild", "mildly": "mild",
    "moderately": "moderate", "moderate-sized": "moderate", "large-sized": "large", "severely": "severe",
    "markedly": "marked", "gross": "marked", "enlarged": "",
}  # fmt: skip
"""Word before a finding -> word of the caption. Sizes and kinds; what compares with an earlier film is not here."""
_SITES = re.compile(
    r"\b(?:(upper|lower|middle|mid)[ -]?(?:to[ -](?:mid|lower)[ -])?(?:lobes?|lungs?(?: zones?)?|zones?)|"
    r"(apical|apex|apices)|(basilar|basal|lung bases?|lower lungs?|bases?|bibasilar|bibasal)|(retrocardiac)|"
    r"(perihilar|hilar)|(mediastinal|paratracheal)|(lingular?)|(subpulmonic)|(ribs?)|(clavicles?|clavicular)|"
    r"(vertebra\w*|spinal|spine|compression|thoracic)|(humer\w+|shoulder)|(biapical)|([rl][ul]l|rml))\b",
    re.I,
)
_MODIFIERS = frozenset(
    [*SEVERITIES, *(word for words in SIDE_WORDS.values() for word in words),
     "upper", "lower", "middle", "lobe", "lung", "base", "apex", "now", "currently", "to", "and", "in", "at", "the",
     "is"]
)  # fmt: skip
"""A part between commas of these words alone belongs to the one finding of its clause."""
_SITE_WORDS = ("", "apical", "basilar", "retrocardiac", "hilar", "mediastinal", "lingular", "subpulmonic", "rib",
               "clavicle", "vertebral", "humerus", "apical")  # fmt: skip
_LOBES = {"rul": ("right", "upper lobe"), "rml": ("right", "middle lobe"), "rll": ("right", "lower lobe"),
          "lul": ("left", "upper lobe"), "lll": ("left", "lower lobe")}  # fmt: skip
_SAME = re.compile(
    r"^\W*(?:is |are |most |more |which |may |could |could be |likely |probably |possibly |that )*(?:consistent with|"
    r"compatible with|represent\w*|reflect\w*|suggest\w*(?: of)?|suspicious for|concerning for|due to|from|"
    r"secondary to|likely|probably|versus|vs\.?|or|favou?r\w*)\b",
    re.I,
)
"""What stands between two names of one thing ("right upper lobe infiltrate consistent with pneumonia")."""
_WHERE = re.compile(
    r"^\W*(?:is |are |seen |noted |present |again |located |involving |centered |most prominent |predominantly |"
    r"projecting )*(?:in|at|on|of|within|involving|overlying|over|about|throughout|to)\b",
    re.I,
)


@dataclass(frozen=True)
class Mention:
    """A finding named in a text. ``state``: present, possible or absent; the words around it as the caption has them.

    side: left, right, bilateral or ""; size, kind and site: words, or "". ``place``: order in the text.
    """

    finding: Finding
    state: str
    side: str
    size: str
    kind: str
    site: str
    place: int


def mentions(text: str) -> list[Mention]:
    """Every finding that ``text`` names, with its state, in the order of the text."""
    found: list[Mention] = []
    for sentence in sentences(text):
        for clause in _CLAUSE.split(sentence):
            if clause:
                found += _clause_mentions(clause, len(found))
    return found


# --- negation ----------------------------------------------------------------------------------------------------


def _spans(clause: str) -> list[tuple[int, int, Finding]]:
    """(start, end, finding) of what is named; of overlapping ones the longest, then the first of the list."""
    spans = [(m.start(), m.end(), one) for one in FINDINGS for m in compiled(one).finditer(clause)]
    spans.sort(key=lambda s: (s[0] - s[1], RANK[s[2]]))
    kept: list[tuple[int, int, Finding]] = []
    for start, end, finding in spans:
        if all(end <= other[0] or start >= other[1] for other in kept):
            kept.append((start, end, finding))
    return sorted(kept, key=lambda span: span[0])


def _clause_mentions(clause: str, place: int) -> list[Mention]:
    spans = _spans(clause)
    if not spans:
        return []
    states = _states(clause, spans)
    found: list[Mention] = []
    for k, ((start, end, finding), state) in enumerate(zip(spans, states, strict=True)):
        before = clause[spans[k - 1][1] if k else 0 : start]
        after = clause[end : spans[k + 1][0] if k + 1 < len(spans) else len(clause)]
        following = k + 1
        while following < len(spans) and states[following] != "present":
            following += 1  # "atelectasis rather than pneumonia at the left base": the base is the atelectasis'
        tail = clause[spans[following - 1][1] : spans[following][0] if following < len(spans) else len(clause)]
        words = _around(before, clause[start:end], after if _WHERE.match(after) else tail, len(spans) == 1)
        side, size, kind, site = words
        linked = _SAME.match(before) or _SAME.match(before.split(",")[-1])
        if not side and not site and k and found[-1].state != "absent" and linked:
            side, site = found[-1].side, found[-1].site
        if not finding.sided:
            side = site = ""
        found.append(Mention(finding, state, side, size, kind, site, place + k))
    return found


def _states(clause: str, spans: list[tuple[int, int, Finding]]) -> list[str]:
    """present, possible or absent for every span, from the triggers before and after it."""
    masked = _mask(_mask(clause, _NOT_NEGATION), _RESOLVED)
    doubtful = [m.start() for m in _DOUBT_NOT.finditer(masked)]
    masked = _mask(masked, _DOUBT_NOT)
    blank = masked
    for start, end, _ in spans:
        blank = blank[:start] + "\x01" * (end - start) + blank[end:]
    before = list(_BEFORE.finditer(blank))
    after = list(_AFTER.finditer(blank))
    doubts = list(_DOUBT.finditer(blank))
    found = []
    for k, (start, end, _) in enumerate(spans):
        negated = any(m.end() <= start and _reaches(blank, m.end(), start) for m in before)
        negated = negated or any(m.start() >= end and _goes_back(blank, end, m.start()) for m in after)
        if negated:
            found.append("absent")
            continue
        possible = any(m.end() <= start and _doubts(blank, m, start) for m in doubts)
        possible = possible or any(position >= end or position < start for position in doubtful)
        possible = possible or (k > 0 and "?" in blank[spans[k - 1][1] : start])
        found.append("possible" if possible else "present")
    return found


def _mask(text: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda m: " " * len(m.group(0)), text)


def _reaches(blank: str, trigger_end: int, start: int) -> bool:
    """Whether a negation that ends at ``trigger_end`` still holds at ``start``: no stop between, and a comma only where
    the list goes on ("no effusion, edema, or pneumothorax")."""
    between = blank[trigger_end:start]
    if _STOP.search(between):
        return False
    place = trigger_end
    for _ in range(between.count(",")):
        place = blank.index(",", place) + 1
        rest = blank[place:].lstrip()
        if _FRESH.match(rest) and not _LIST_GOES_ON.search(rest):
            return False
    return True


def _goes_back(blank: str, end: int, trigger: int) -> bool:
    """Whether a negation that follows ("... is not seen") reaches back to a finding that ends at ``end``."""
    between = blank[end:trigger]
    if re.search(r"\b(?:with|which|but)\b", between, re.I):
        return False
    if "," in between and "\x01" in between and not _LIST_GOES_ON.search(between):
        return False
    # "effusion and a pneumothorax that has resolved": the nearest finding only, unless they stand in one list
    return "\x01" not in between or re.search(r"\b(?:or|and|nor)\b", between) is not None


def _doubts(blank: str, doubt: re.Match[str], start: int) -> bool:
    word = doubt.group(0).lower()
    between = blank[doubt.end() : start]
    if _DOUBT_STOP.search(between):
        return False
    if word in ("or", "and/or", "if"):
        return "\x01" in blank[: doubt.start()] and "," not in between and "\x01" not in between
    return "," not in between or word in ("possibly", "possible", "versus", "vs", "vs.")


# --- words around a finding --------------------------------------------------------------------------------------


def _around(before: str, named: str, after: str, alone: bool) -> tuple[str, str, str, str]:
    """(side, size, kind, site) from the words before a finding, in it, and after it where they say where it is."""
    near = before.split(",")[-1] if not alone else before
    if alone:  # "effusion, small, left"; "edema has worsened, now moderate"
        near += " " + " ".join(part for part in after.split(",") if _only_modifiers(part))
    where = after.split(",")[0] if _WHERE.match(after) else ""
    inner = f"{near} {named}"
    side = _side(inner) or _side(where) or _side(after.split(",")[-1] if alone and "greater" in after else "")
    size, kind = _size_and_kind(inner)
    site, lobe_side = _site(inner)
    if not site:
        site, lobe_side = _site(where)
    return side or lobe_side, size, kind, site


def _only_modifiers(part: str) -> bool:
    words = re.findall(r"[a-z-]+", part.replace("-to-", " to ").lower())
    return bool(words) and all(word in _MODIFIERS for word in words)


def _side(text: str) -> str:
    words = set(re.findall(r"[a-z-]+", text.lower()))
    if words & set(SIDE_WORDS["bilateral"]) or (words & set(SIDE_WORDS["left"]) and words & set(SIDE_WORDS["right"])):
        return "bilateral"
    return next((side for side in ("left", "right") if words & set(SIDE_WORDS[side])), "")


def _size_and_kind(text: str) -> tuple[str, str]:
    """The caption's words for size ("mild to moderate": moderate; else e.g. chronic) and kind, or ""."""
    words = [
        SEVERITIES[word]
        for word in re.findall(r"[a-z-]+", text.lower().replace("-to-", " to "))
        if SEVERITIES.get(word)
    ]
    sizes = [word for word in words if word in SIZES]
    others = [word for word in words if word not in SIZES and word not in _KINDS]
    kinds = [word for word in words if word in _KINDS]
    size = max(sizes, key=SIZES.index) if sizes else others[-1] if others else ""
    return size, kinds[-1] if kinds else ""


def _site(text: str) -> tuple[str, str]:
    """(site, side that the site itself says: RLL is on the right)."""
    sites = list(_SITES.finditer(text))
    if not sites:
        return "", ""
    match = sites[-1]
    groups = match.groups()
    if groups[-1]:
        side, site = _LOBES[groups[-1].lower()]
        return site, side
    which = next(k for k, group in enumerate(groups) if group)
    if which == 0:
        word = match.group(1).lower()
        lobe = "lobe" if "lobe" in match.group(0).lower() else "lung"
        return ("mid lung" if word in ("mid", "middle") and lobe == "lung" else f"{word} {lobe}"), ""
    return _SITE_WORDS[which], ""
