"""What a phantom shows: findings, sides, severities, the patient and the view; drawing and checking them.

A `PhantomSpec` is the whole input of `data.phantom.render`: the same spec always gives the same image.
`HELD_OUT` lists whole finding-side-severity combinations kept back from training, to measure composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radpref.data.core.errors import InvalidInput

FINDINGS: tuple[str, ...] = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "pleural_effusion",
    "pneumonia",
    "pneumothorax",
)
CHEXPERT_LABELS: tuple[str, ...] = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
SEVERITIES: tuple[str, ...] = ("mild", "moderate", "severe")
STRUCTURES: tuple[str, ...] = ("lungs", "heart", "lesion", "pneumothorax")

SIDES: dict[str, tuple[str | None, ...]] = {
    name: ("bilateral",) if name == "edema" else (None,) if name == "cardiomegaly" else ("left", "right")
    for name in FINDINGS
}
"""Sides each finding may have: edema is bilateral, cardiomegaly has none."""


@dataclass(frozen=True)
class Finding:
    """One finding: a name of `FINDINGS`, a side of `SIDES[name]`, a severity of `SEVERITIES`."""

    name: str
    side: str | None
    severity: str


@dataclass(frozen=True)
class PhantomSpec:
    """One radiograph: `patient_seed` fixes the anatomy, `view_seed` positioning, exposure and noise."""

    patient_seed: int
    findings: tuple[Finding, ...] = ()
    view_seed: int = 0


HELD_OUT: frozenset[Finding] = frozenset(
    {
        Finding("pleural_effusion", "right", "severe"),
        Finding("pneumothorax", "left", "mild"),
        Finding("consolidation", "left", "moderate"),
        Finding("pneumonia", "right", "mild"),
        Finding("atelectasis", "left", "severe"),
        Finding("pneumothorax", "right", "severe"),
    }
)
"""Combinations never shown in training; side and severity of each are trained in other combinations."""


def _choices(values: Sequence[str | None]) -> str:
    return ", ".join(str(value) for value in values)


def check_finding(finding: Finding) -> None:
    """Raise `InvalidInput` unless name, side and severity are known and fit together."""
    if finding.name not in FINDINGS:
        raise InvalidInput(f"unknown finding {finding.name!r}: choose one of {_choices(FINDINGS)}")
    if finding.side not in SIDES[finding.name]:
        raise InvalidInput(
            f"side {finding.side!r} does not fit {finding.name}: choose one of {_choices(SIDES[finding.name])}"
        )
    if finding.severity not in SEVERITIES:
        raise InvalidInput(f"unknown severity {finding.severity!r}: choose one of {_choices(SEVERITIES)}")


def check_spec(spec: PhantomSpec) -> None:
    """Raise `InvalidInput` on a bad finding, a finding given twice or a negative seed."""
    for finding in spec.findings:
        check_finding(finding)
    names = [finding.name for finding in spec.findings]
    if len(set(names)) != len(names):
        raise InvalidInput(f"finding given twice in {names}: give each finding once")
    for key, seed in (("patient_seed", spec.patient_seed), ("view_seed", spec.view_seed)):
        if seed < 0:
            raise InvalidInput(f"{key} is {seed}: give an integer of 0 or more")


def combinations(findings: Sequence[str] = FINDINGS) -> tuple[Finding, ...]:
    """All finding-side-severity combinations of the named findings, in a fixed order."""
    found = [Finding(name, side, sev) for name in findings for side in SIDES.get(name, (None,)) for sev in SEVERITIES]
    for finding in found:
        check_finding(finding)
    return tuple(found)


def _draw_finding(rng: np.random.Generator, names: Sequence[str], exclude: frozenset[Finding]) -> Finding | None:
    """Draw a name uniformly, then one of its combinations that are not excluded."""
    usable = {name: [c for c in combinations((name,)) if c not in exclude] for name in names}
    left = [name for name in names if usable[name]]
    if not left:
        return None
    options = usable[left[int(rng.integers(len(left)))]]
    return options[int(rng.integers(len(options)))]


def draw_spec(
    rng: np.random.Generator,
    *,
    normal_fraction: float = 0.15,
    second_finding_fraction: float = 0.15,
    exclude: frozenset[Finding] = frozenset(),
    findings: Sequence[str] = FINDINGS,
) -> PhantomSpec:
    """Draw a spec: new patient and view, no finding, one or (fraction of the abnormal ones) two.

    The first finding is the main one. A second finding has another name and never opposes the
    first one physically (no second air or fluid finding in a hemithorax with pneumothorax).
    """
    for key, value in (("normal_fraction", normal_fraction), ("second_finding_fraction", second_finding_fraction)):
        if not 0.0 <= value <= 1.0:
            raise InvalidInput(f"{key} is {value}: give a fraction between 0 and 1")
    patient, view = (int(seed) for seed in rng.integers(0, 2**31, size=2))
    is_normal = bool(rng.random() < normal_fraction)
    main = None if is_normal else _draw_finding(rng, findings, exclude)
    if main is None:
        return PhantomSpec(patient, (), view)
    chosen = [main]
    if rng.random() < second_finding_fraction:
        others = [n for n in findings if n != main.name and not {n, main.name} >= {"pneumonia", "consolidation"}]
        if main.name == "pneumothorax":
            others = [n for n in others if n == "cardiomegaly"]
        else:
            others = [n for n in others if n != "pneumothorax"]
        second = _draw_finding(rng, others, exclude) if others else None
        chosen += [second] if second is not None else []
    return PhantomSpec(patient, tuple(chosen), view)
