"""Words for the phantom: captions of five words at most, paraphrases kept apart for evaluation, reports.

Captions follow the study's rules: the main finding, no commas or quotation marks, no comparison with earlier
films, "Normal" where nothing is found. `paraphrases(unseen=True)` gives wordings that training never shows, put
together mostly from words that training shows elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from radpref.data.phantom.spec import Finding, PhantomSpec, check_finding, check_spec

MAX_WORDS = 5

NOUN: dict[str, str] = {
    "atelectasis": "atelectasis",
    "cardiomegaly": "cardiomegaly",
    "consolidation": "consolidation",
    "edema": "pulmonary edema",
    "pleural_effusion": "pleural effusion",
    "pneumonia": "pneumonia",
    "pneumothorax": "pneumothorax",
}
SHORT: dict[str, str] = {**NOUN, "edema": "edema", "pleural_effusion": "effusion"}

_SYNONYM: dict[str, dict[str, str]] = {
    "mild": {"default": "slight", "pleural_effusion": "small", "pneumothorax": "small"},
    "moderate": {"default": "moderate", "pleural_effusion": "medium", "pneumothorax": "medium"},
    "severe": {"default": "marked", "pleural_effusion": "large", "pneumothorax": "large", "pneumonia": "extensive"},
}

# {sev} severity, {syn} its synonym, {side} the side, {lung} "left lung" or "both lungs", {noun}, {short}.
_SEEN: dict[str, tuple[str, ...]] = {
    "default": ("{sev} {side} {short}", "{syn} {side} {noun}", "{side} {noun}", "{sev} {short} {side} lung"),
    "cardiomegaly": ("{syn} cardiomegaly", "{sev} cardiac enlargement", "{sev}ly enlarged heart", "Cardiomegaly"),
    "edema": ("{sev} edema", "{syn} pulmonary edema", "{sev} bilateral edema", "Pulmonary edema"),
    "pleural_effusion": ("{sev} {side} effusion", "{syn} {side} pleural effusion", "{side} pleural effusion"),
}
_UNSEEN: dict[str, tuple[str, ...]] = {
    "default": ("{side} lung {syn} {short}", "{syn} {short} on the {side}", "{short} {side} {sev}"),
    "cardiomegaly": ("{syn} cardiac enlargement", "Enlarged heart {sev}", "{syn}ly enlarged heart"),
    "edema": ("{syn} bilateral edema", "Bilateral pulmonary edema {sev}", "{syn} edema both lungs"),
    "pleural_effusion": ("{syn} {short} on the {side}", "{sev} {side} pleural fluid", "{side} effusion {sev}"),
}

_FINDINGS_TEXT: dict[str, str] = {
    "atelectasis": "Linear {sev} opacity at the {side} lung base with volume loss and a raised {side} hemidiaphragm.",
    "cardiomegaly": "The heart is {syn}ly enlarged with a cardiothoracic ratio above one half.",
    "consolidation": "Dense homogeneous opacity of the {side} lung bounded by the fissure.",
    "edema": "Bilateral perihilar haze with prominent vessels and septal lines in both lungs.",
    "pleural_effusion": "Blunted {side} costophrenic angle with {syn} pleural fluid and a meniscus.",
    "pneumonia": "Patchy ill-defined opacities of the {side} lung with air bronchograms.",
    "pneumothorax": "Visceral pleural line on the {side} without lung markings beyond it.",
}


def _fill(template: str, finding: Finding) -> str:
    synonyms = _SYNONYM[finding.severity]
    text = template.format(
        sev=finding.severity,
        syn=synonyms.get(finding.name, synonyms["default"]),
        side=finding.side or "",
        noun=NOUN[finding.name],
        short=SHORT[finding.name],
    )
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _fits(caption: str) -> bool:
    return len(caption.split()) <= MAX_WORDS


def _pair(main: Finding, second: Finding, joint: str, *, by_severity: bool) -> str:
    """Caption of two findings; drops the side of the main one, then the second one, to fit in five words."""
    lead = main.severity if by_severity else ""
    side = main.side if main.side != "bilateral" else ""
    for parts in (
        (lead, side, SHORT[main.name], joint, second.side if second.side != "bilateral" else "", SHORT[second.name]),
        (lead, side, SHORT[main.name], joint, SHORT[second.name]),
        (side, SHORT[main.name], joint, SHORT[second.name]),
    ):
        text = " ".join(part for part in parts if part)
        if _fits(text):
            return text[:1].upper() + text[1:]
    return canonical_caption([main])


def canonical_caption(findings: Sequence[Finding]) -> str:
    """The one standard caption: severity, side and name of the main (first) finding, then "with" a second one."""
    for finding in findings:
        check_finding(finding)
    if not findings:
        return "Normal"
    if len(findings) > 1:
        return _pair(findings[0], findings[1], "with", by_severity=True)
    main = findings[0]
    return _fill("{sev} {noun}" if main.name == "edema" else "{sev} {side} {noun}", main)


def paraphrases(findings: Sequence[Finding], *, unseen: bool) -> list[str]:
    """Other captions of the same findings, five words at most.

    Seen and unseen lists never share a caption, and neither holds the canonical one.
    """
    canonical = canonical_caption(findings)
    if not findings:
        return ["Clear lungs", "No lung opacity"] if unseen else ["Normal chest", "Normal heart and lungs"]
    main = findings[0]
    if len(findings) > 1:
        joint = "and" if unseen else "with"
        options = [_pair(main, findings[1], joint, by_severity=unseen)]
        if unseen:
            options.append(_pair(findings[1], main, "and", by_severity=False))
    else:
        templates = _UNSEEN if unseen else _SEEN
        options = [_fill(text, main) for text in templates.get(main.name, templates["default"])]
    if not unseen:
        return [text for text in dict.fromkeys(options) if _fits(text) and text != canonical]
    taken = {canonical, *paraphrases(findings, unseen=False)}
    return [text for text in dict.fromkeys(options) if _fits(text) and text not in taken]


def report(spec: PhantomSpec) -> str:
    """A short report: FINDINGS and IMPRESSION, no comparison with earlier films."""
    check_spec(spec)
    names = {finding.name for finding in spec.findings}
    lines = [_fill(_FINDINGS_TEXT[finding.name], finding) for finding in spec.findings]
    if not names & {"consolidation", "pneumonia", "edema", "atelectasis"}:
        lines.append("The lungs are clear." if not names else "No focal lung opacity.")
    if not names & {"cardiomegaly"}:
        lines.append("The heart is of normal size.")
    if not names & {"pleural_effusion", "pneumothorax"}:
        lines.append("No pleural effusion or pneumothorax.")
    impression = [_fill("{sev} {side} {noun}", finding) for finding in spec.findings] or ["Normal chest"]
    return f"FINDINGS: {' '.join(lines)}\nIMPRESSION: {'. '.join(impression)}."
