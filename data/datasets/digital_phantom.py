"""The ``phantom`` reader: digital patients rendered here. Input: sizes and seed of [data]. Output: a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.layout import split_place
from radpref.data.datasets.registry import Found, ImportPlan, LoadedRecord, Record
from radpref.data.phantom.render import render
from radpref.data.phantom.spec import FINDINGS, SIDES, STRUCTURES, PhantomSpec, draw_spec
from radpref.data.phantom.text import NOUN
from radpref.data.study.splits import SPLITS

STUDY_PATIENTS = 2**32
"""First patient seed of studies: phantoms that trained the shipped networks lie below it, or from 2**33 upwards."""
PATIENTS_PER_SPLIT = 1_000_000


def read_phantom(config: DataConfig, path: Path | None = None) -> ImportPlan:
    """``n_train``, ``n_val`` and ``n_test`` phantom patients, one view each; every split has its own patient seeds."""
    if path is not None:
        raise InvalidInput(f"the phantom reader reads no file, got {path}; leave PATH away or choose reader 'table'")
    if unknown := sorted(set(config.structures) - set(STRUCTURES)):
        raise InvalidInput(f"data.structures has {unknown[0]!r}; the phantom draws {', '.join(STRUCTURES)}")
    drawn = config.phantom
    if unknown := sorted(set(drawn.findings) - set(FINDINGS)):
        raise InvalidInput(f"data.phantom.findings has {unknown[0]!r}; the phantom shows {', '.join(FINDINGS)}")
    if drawn.caption and "{finding}" not in drawn.caption:
        raise InvalidInput(f"data.phantom.caption = {drawn.caption!r} names no finding; write {{finding}} in it")
    sizes = (config.n_train, config.n_val, config.n_test)
    for split, n in zip(SPLITS, sizes, strict=True):
        if n > PATIENTS_PER_SPLIT:
            raise InvalidInput(f"data.n_{split} = {n}: give at most {PATIENTS_PER_SPLIT} patients")
    found = tuple(Found(f"phantom patients ({split})", n) for split, n in zip(SPLITS, sizes, strict=True))
    return ImportPlan(_Patients(config, sizes), found)


@dataclass(frozen=True)
class _Patients:
    """Records of the splits, one after the other."""

    config: DataConfig
    sizes: tuple[int, int, int]

    def __len__(self) -> int:
        return sum(self.sizes)

    def record_id(self, number: int) -> str:
        split, i = split_place(self.sizes, number)
        return f"phantom-{self.config.seed}-{SPLITS[split]}-{i:06d}"

    def load(self, number: int) -> LoadedRecord:
        config, (split, i) = self.config, split_place(self.sizes, number)
        first = STUDY_PATIENTS + (config.seed % 1000 * len(SPLITS) + split) * PATIENTS_PER_SPLIT
        drawn = config.phantom
        rng = np.random.default_rng([config.seed, split, i])
        spec = draw_spec(rng, normal_fraction=drawn.normal_fraction, findings=drawn.findings or FINDINGS)
        spec = replace(spec, patient_seed=first + i)
        shown = render(spec, config.image_size)
        return Record(
            record_id=self.record_id(number),
            dataset="phantom",
            patient_id=f"phantom-{spec.patient_seed}",
            split=SPLITS[split],
            image=shown.image,
            masks={name: shown.masks[name] for name in config.structures if shown.masks[name].any()},
            labels=_labels(shown.labels, spec),
            caption=_caption(drawn.caption, spec) if drawn.caption else shown.caption,
            report=shown.report,
        )


def _labels(labels: Mapping[str, int], spec: PhantomSpec) -> dict[str, float | None]:
    """Labels of a phantom: its findings and "normal", and ``<finding>/left|right`` of every finding that has sides."""
    found: dict[str, float | None] = {name: float(value) for name, value in labels.items()}
    shown = {(finding.name, finding.side) for finding in spec.findings}
    for name, sides in SIDES.items():
        for side in ("left", "right"):
            if side in sides:
                found[f"{name}/{side}"] = float((name, side) in shown)
    return found


def _caption(template: str, spec: PhantomSpec) -> str:
    """The template with the main finding's name in it, or "normal"."""
    return template.replace("{finding}", NOUN[spec.findings[0].name] if spec.findings else "normal")
