"""When two runs are the same: their configurations agree, each completed with the defaults of today's sections.

A run stores its configuration resolved, and an older one knows nothing of keys that came since: those count as at
their default. So a new key with a default makes no finished run unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radpref.data.config.section import section_at

if TYPE_CHECKING:
    from radpref.data.study.study import Study

PLACES = {"task": ("downstream", "tasks"), "endpoint": ("captions",)}
"""Keys of run configurations that hold a section of study.toml under another name."""
WHOLE = ("train", "simulate")
"""Kinds of run whose configuration is the section of that name itself, with more keys beside its own."""


def run_identity(study: Study, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of ``kind`` is known by, equal for two configurations of the same run; None counts as absent."""
    sections = type(study.config)
    found: dict[str, Any] = json.loads(json.dumps(config))  # tuples as lists, as they are stored
    if kind in WHOLE and (whole := section_at(sections, (kind,))) is not None:
        found = whole.completed(found)
    for key, value in found.items():
        section = section_at(sections, PLACES.get(key, (key,)))
        # Not every part under a section's name is one: keys it lacks are then added on both sides alike.
        if section is not None and isinstance(value, dict):
            found[key] = section.completed(value)
    return {key: value for key, value in found.items() if value is not None}
