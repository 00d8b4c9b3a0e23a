"""The words for findings on a chest radiograph: how reports write them, what a caption calls them, which comes first.

`FINDINGS` is in the order in which one of several findings becomes "the main finding": what may kill today first
(air where none belongs, oedema, infection), then what needs a work-up, then chronic change, devices last. ``label`` is
the name that a data set's label column would have; CheXpert's fourteen and NIH's are among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Finding:
    """One finding. ``noun`` stands in captions, ``plural`` where both sides are meant; ``pattern``: how it is written.

    ``sided``: left and right make sense. ``main``: the one that a label of this name is captioned with.
    """

    label: str
    noun: str
    pattern: str
    plural: str | None = None
    sided: bool = True
    main: bool = False


_DEVICE = (
    r"(?:endotracheal|et|nasogastric|ng|orogastric|enteric|dobbhoff|feeding|tracheostomy|chest|pigtail|thoracostomy)"
    r" (?:tube|catheter)s?"
)
FINDINGS: tuple[Finding, ...] = (
    Finding("pneumothorax", "hydropneumothorax", r"hydro-?pneumothora(?:x|ces)"),
    Finding("pneumothorax", "pneumothorax", r"(?:pneumothora(?:x|ces)|ptx)", "pneumothoraces", main=True),
    Finding(
        "pneumoperitoneum",
        "pneumoperitoneum",
        r"(?:pneumoperitoneum|free (?:\w+ )?(?:intraperitoneal |abdominal |subdiaphragmatic )?air)",
        sided=False,
    ),
    Finding("pneumomediastinum", "pneumomediastinum", r"pneumomediastinum", sided=False),
    Finding(
        "edema",
        "pulmonary edema",
        r"(?<!soft tissue )(?<!subcutaneous )(?:(?:interstitial|alveolar|pulmonary|cardiogenic|lung) )*o?edema",
        sided=False,
    ),
    Finding("edema", "heart failure", r"(?:(?:congestive )?(?:heart|cardiac) failure|chf)", sided=False),
    Finding("edema", "fluid overload", r"(?:fluid|volume) overload", sided=False),
    Finding("pneumonia", "pneumonia", r"(?:(?:broncho-?)?pneumonias?|(?:chest|lung|pulmonary) infections?)"),
    Finding("consolidation", "consolidation", r"consolidat(?:ions?|ive (?:opacit(?:y|ies)|changes?|process(?:es)?))"),
    Finding(
        "lung_lesion",
        "pulmonary metastases",
        r"(?:(?:pulmonary|lung) metasta(?:sis|ses|tic disease)|metasta(?:ses|tic (?:disease|lesions?|nodules?)))",
        sided=False,
    ),
    Finding(
        "lung_lesion",
        "lung mass",
        r"(?:mass(?:es)?(?:-like \w+)?|tumou?rs?|neoplasms?|malignanc(?:y|ies)|carcinoma)",
        "lung masses",
    ),
    Finding("pleural_effusion", "hemothorax", r"ha?emothorax"),
    Finding("pleural_effusion", "empyema", r"empyema"),
    Finding(
        "pleural_effusion",
        "pleural effusion",
        r"(?<!pericardial )(?:(?:hydro|pleuro)?(?:pleural )?effusions?|pleural fluid|hydrothorax)",
        "pleural effusions",
        main=True,
    ),
    Finding("pericardial_effusion", "pericardial effusion", r"pericardial effusions?", sided=False),
    Finding(
        "lung_lesion",
        "lung nodule",
        r"(?:nodules?|nodular (?:opacit(?:y|ies)|densit(?:y|ies))|cavitary lesions?)",
        "lung nodules",
    ),
    Finding("lung_lesion", "lung lesion", r"(?:lung|pulmonary) lesions?", "lung lesions", main=True),
    Finding("atelectasis", "lung collapse", r"(?<!vertebral )(?:collapse(?:d lung)?)(?! of the vertebra)"),
    Finding("atelectasis", "atelectasis", r"atelecta(?:sis|ses|tic(?: (?:changes?|opacit(?:y|ies)))?)", main=True),
    Finding("lung_opacity", "infiltrate", r"infiltrat(?:es?|ions?)", "infiltrates"),
    Finding("lung_opacity", "airspace disease", r"air-? ?space (?:disease|process|opacit(?:y|ies))"),
    Finding(
        "lung_opacity",
        "lung opacity",
        r"(?:(?:lung|pulmonary|airspace) )?(?:opacit(?:y|ies)|opacifications?)",
        "lung opacities",
        main=True,
    ),
    Finding(
        "cardiomegaly",
        "cardiomegaly",
        r"(?:cardiomegaly|cardiac enlargement|enlarge(?:d|ment of the) "
        r"(?:heart|cardiac|cardiomediastinal|cardiopericardial)(?: silhouette| size)?"
        r"|(?:heart|cardiac|cardiomediastinal|cardiopericardial)(?: silhouette| size)?(?: \w+){0,3}? enlarged"
        r"|cardiac hypertrophy)",
        sided=False,
    ),
    Finding(
        "vascular_congestion",
        "pulmonary vascular congestion",
        r"(?:(?:pulmonary|central) )*(?:(?:vascular|venous) (?:congestion|engorgement|prominence|distention)"
        r"|pulmonary congestion)",
        sided=False,
    ),
    Finding(
        "enlarged_cardiomediastinum",
        "widened mediastinum",
        r"(?:(?:widen(?:ed|ing of the)|enlarged|prominent) (?:superior |upper )?mediastin(?:um|al (?:contours?"
        r"|silhouette))|mediastinal (?:widening|enlargement))",
        sided=False,
    ),
    Finding("lymphadenopathy", "lymphadenopathy", r"(?:lymph)?adenopathy"),
    Finding("fracture", "fracture", r"fractures?", "fractures"),
    Finding("subcutaneous_emphysema", "subcutaneous emphysema", r"(?:subcutaneous|soft tissue) (?:emphysema|air|gas)"),
    Finding(
        "pleural_other", "pleural thickening", r"(?:pleural (?:\w+ )?(?:thickening|plaques?|scarring)|fibrothorax)"
    ),
    Finding(
        "emphysema",
        "emphysema",
        r"(?<!subcutaneous )(?<!tissue )(?:emphysema(?:tous)?(?: \w+)?(?: changes?)?|copd|"
        r"(?:chronic )?obstructive (?:pulmonary|lung|airways?) disease)",
        sided=False,
    ),
    Finding(
        "fibrosis",
        "pulmonary fibrosis",
        r"(?:(?:pulmonary|interstitial|lung) )?(?:fibrosis|fibrotic (?:changes?|disease))",
        sided=False,
    ),
    Finding("interstitial_disease", "interstitial lung disease", r"interstitial (?:lung )?disease", sided=False),
    Finding("bronchiectasis", "bronchiectasis", r"bronchiectasis"),
    Finding(
        "interstitial_markings",
        "prominent interstitial markings",
        r"(?:prominen\w+|coarsen\w+|accentuat\w+|chronic|increased) (?:\w+ )?interstitial "
        r"(?:markings|pattern|prominence|changes?)",
        sided=False,
    ),
    Finding(
        "blunted_angle",
        "costophrenic angle blunting",
        r"(?:costophrenic (?:angle|sulcus) blunting"
        r"|blunt(?:ed|ing of)(?: the)?(?: (?:left|right|lateral|posterior|bilateral|both))*"
        r" costophrenic (?:angles?|sulc(?:us|i)|recess(?:es)?))",
    ),
    Finding(
        "elevated_diaphragm",
        "hemidiaphragm elevation",
        r"(?:elevat(?:ed|ion of the)(?: (?:left|right))? (?:hemi)?diaphragm"
        r"|(?:hemi)?diaphragm(?:atic)? (?:elevation|eventration)|eventration)",
    ),
    Finding("hernia", "hiatal hernia", r"(?:(?:hiatal|hiatus) )?hernia", sided=False),
    Finding("hyperinflation", "hyperinflation", r"hyper-?(?:inflat|expan|aerat)\w+", sided=False),
    Finding(
        "low_volumes",
        "low lung volumes",
        r"(?:(?:low|small|decreased|reduced|diminished) lung volumes?|hypo-?(?:inflat|ventilat|expan|aerat)\w+)",
        sided=False,
    ),
    Finding(
        "granuloma",
        "granulomatous disease",
        r"granuloma(?:s|ta|tous (?:disease|changes?|infection))?",
        sided=False,
    ),
    Finding("scarring", "scarring", r"(?:scar(?:s|ring)?|cicatri\w+)"),
    Finding(
        "aorta",
        "aortic tortuosity",
        r"(?:(?:tortuous|ectatic|unfolded|dilated|aneurysmal) (?:\w+ )?aorta|aortic (?:tortuosity|ectasia|aneurysm)"
        r"|(?:tortuosity|ectasia|dilatation) of the (?:\w+ )?aorta)",
        sided=False,
    ),
    Finding(
        "aortic_calcification",
        "aortic calcification",
        r"(?:aortic (?:atherosclero\w+|calcifications?|atheroma\w*)|calcified (?:\w+ )?aort(?:a|ic \w+)"
        r"|atherosclerotic (?:\w+ )?aort(?:a|ic \w+)|calcifi\w+ of the (?:\w+ )?aort(?:a|ic \w+))",
        sided=False,
    ),
    Finding("scoliosis", "scoliosis", r"\w*(?:scoliosis|scoliotic|rotoscoliosis)", sided=False),
    Finding("kyphosis", "kyphosis", r"kypho(?:sis|tic)", sided=False),
    Finding(
        "degenerative",
        "degenerative changes",
        r"(?:degenerative (?:\w+ ){0,2}?(?:changes?|disease|spondylosis|osteophytes)|spondylosis|osteophytes?|"
        r"osteoarthritis)",
        sided=False,
    ),
    Finding("support_devices", "endotracheal tube", r"(?:endotracheal|et) tubes?", sided=False),
    Finding(
        "support_devices", "chest tube", r"(?:chest|pigtail|thoracostomy) (?:tube|catheter|drain)s?", "chest tubes"
    ),
    Finding("support_devices", "enteric tube", _DEVICE, sided=False),
    Finding("support_devices", "pacemaker", r"(?:pacemakers?|pacer|pacing (?:leads?|device)|a?icd|defibrillator)"),
    Finding("support_devices", "sternotomy wires", r"(?:median )?sternotom(?:y|ies)(?: wires?)?", sided=False),
    Finding(
        "support_devices",
        "central venous catheter",
        r"(?:picc(?: lines?)?|(?:central (?:venous )?|subclavian |jugular |ij |dialysis |swan-ganz )+"
        r"(?:catheters?|lines?)|port-?a-?cath\w*|mediport)",
    ),
    Finding(
        "support_devices",
        "support devices",
        r"(?:(?:support|medical) devices?|lines and tubes)",
        sided=False,
        main=True,
    ),
)

ALIASES: dict[str, str] = {
    "effusion": "pleural_effusion",
    "infiltration": "lung_opacity",
    "infiltrate": "lung_opacity",
    "opacity": "lung_opacity",
    "airspace_opacity": "lung_opacity",
    "mass": "lung_lesion",
    "nodule": "lung_lesion",
    "oedema": "edema",
    "pulmonary_edema": "edema",
    "enlarged_cardiac_silhouette": "cardiomegaly",
    "pleural_thickening": "pleural_other",
    "fractures": "fracture",
    "rib_fractures": "fracture",
    "chest_tubes": "support_devices",
    "devices": "support_devices",
    "widened_mediastinum": "enlarged_cardiomediastinum",
    "copd": "emphysema",
}
"""Label columns called otherwise (NIH ChestX-ray14, PadChest, VinDr, CANDID-PTX) -> the label of `FINDINGS`."""
IMPLIED: dict[str, tuple[str, ...]] = {"edema": ("vascular_congestion",)}
"""Label -> findings whose words say it too, as CheXpert's labeller reads them. Not its hierarchy: "pneumonia" does not
ask for the label lung_opacity, or no caption would ask for one label alone."""
NORMAL_LABELS = ("normal", "no_finding")
SIDE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("left", "left-sided", "lingula", "lingular"),
    "right": ("right", "right-sided"),
    "bilateral": ("bilateral", "bilaterally", "both", "bibasilar", "bibasal", "biapical"),
}
_FAMILIES: dict[str, tuple[str, ...]] = {
    "mass": ("lung mass",),
    "nodule": ("lung nodule",),
    "chest_tubes": ("chest tube",),
}


@cache
def compiled(finding: Finding) -> re.Pattern[str]:
    """The finding's pattern as whole words, in any case."""
    return re.compile(rf"(?<![\w-]){finding.pattern}(?!\w)", re.I)


@cache
def main_finding(label: str) -> Finding | None:
    """The finding that a label's name is captioned with ("pleural_effusion": pleural effusion, not empyema)."""
    named = of_label(label)
    return next((one for one in named if one.main), named[0] if named else None)


@cache
def of_label(label: str) -> tuple[Finding, ...]:
    """The findings that a label column's name stands for; none for a name that is not known."""
    name = ALIASES.get(label, label)
    narrow = _FAMILIES.get(label)
    return tuple(one for one in FINDINGS if one.label == name and (narrow is None or one.noun in narrow))


def names_finding(label: str, text: str) -> bool:
    """Whether ``text`` has words for the finding that the label is called after (negations are not looked at)."""
    if any(compiled(one).search(text) for one in of_label(label)):
        return True
    name = ALIASES.get(label, label)
    return any(compiled(one).search(text) for other in IMPLIED.get(name, ()) for one in of_label(other))


def names_side(side: str, text: str) -> bool:
    """Whether ``text`` has a word for the side; a word for both sides names each."""
    words = set(re.findall(r"[a-z-]+", text.lower()))
    return bool(words & {side, *SIDE_WORDS.get(side, ()), *SIDE_WORDS["bilateral"]})


def label_sides(label: str, labels: Mapping[str, float | None]) -> list[str]:
    """Sides on which the labels ``<label>/left`` and ``<label>/right`` say that the finding is."""
    return [side for side in ("left", "right") if labels.get(f"{label}/{side}") == 1]
