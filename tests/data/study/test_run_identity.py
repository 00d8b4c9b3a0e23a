"""What a run is known by, across versions of study.toml's sections."""

from __future__ import annotations

from typing import Any

import pytest

from radpref.data.study.run_identity import run_identity
from radpref.data.study.study import Study
from tests.support.grown import KEY, grow


def _asked(study: Study, kind: str, key: str, section: str) -> dict[str, Any]:
    """A configuration of ``kind`` as its command makes it, with the section under ``key``, or beside its own keys."""
    found = getattr(study.config, section)
    dumped = found.tasks[0].model_dump(mode="json") if key == "task" else found.model_dump(mode="json")
    return {"seed": 3, **(dumped if not key else {key: dumped})}


@pytest.mark.parametrize(
    ("kind", "key", "section"),
    [
        ("import", "data", "data"),
        ("caption", "endpoint", "captions"),
        ("train", "", "train"),
        ("sets", "generator", "generator"),
        ("simulate", "", "simulate"),
        ("align", "align", "align"),
        ("finetune", "align", "align"),
        ("proxy", "proxy", "proxy"),
        ("evaluate", "generator", "generator"),
        ("fidelity-samples", "generator", "generator"),
        ("pool", "task", "downstream"),
        ("grid", "downstream", "downstream"),
    ],
)
def test_a_new_key_at_its_default_is_the_same_run_and_another_value_is_not(
    study: Study, kind: str, key: str, section: str
) -> None:
    before = _asked(study, kind, key, section)
    grow(study)
    after = _asked(study, kind, key, section)
    assert KEY in str(after)
    assert KEY not in str(before)
    assert run_identity(study, kind, before) == run_identity(study, kind, after)
    inner = after[key] if key else after
    inner[KEY] = "another"
    assert run_identity(study, kind, before) != run_identity(study, kind, after)


def test_nested_sections_and_what_is_no_section(study: Study) -> None:
    def known(**config: Any) -> dict[str, Any]:
        return run_identity(study, "pool", config)

    task = study.config.downstream.tasks[0].model_dump(mode="json")
    older = {key: task[key] for key in ("name", "kind", "labels", "structure", "where")}
    assert known(task=older, n=3) == known(task=task, n=3)
    assert known(task={**older, "prompts": "labels"}) != known(task=task)
    assert known(n=3, part_of=None) == known(n=3)
    assert known(n=3, part_of=2) != known(n=3)
    assert known(mix=(75, 15, 10)) == known(mix=[75, 15, 10])
    assert known(model="ab") != known(model="abc")
