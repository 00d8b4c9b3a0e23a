"""Exports in other projects' formats: who scored, which sets, and the folder they are written into.

Input: a study, a folder, a format of `FORMATS`. Output: the folder, whole or not at all, with MANIFEST.json. People's
and programs' scores are never in one file: ``auto`` takes the kind there is, and refuses where there are both. Only
rating sets are exported (comparison sets are a test of arms), and arms only where they may be named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.exchange.tables_export import MANIFEST, manifest_head, whole_folder
from radpref.data.reader_study.lifecycle import arms_visible, reveal_arms
from radpref.data.reader_study.scores import scoring_kind

if TYPE_CHECKING:
    from radpref.data.reader_study.scores import RaterKind
    from radpref.data.study.study import Study

FORMATS = ("pick-a-pic", "study-jsonl", "datasets")


def export_exchange(
    study: Study,
    target: Path,
    name: str,
    *,
    actor: str,
    raters: str = "auto",
    ties: bool | None = None,
    criterion: str | None = None,
) -> dict[str, Any]:
    """Write ``target`` in the format ``name``; returns {target, format, raters, arms, simulated, ...counts, notes}.

    Args:
        raters: human, simulated or auto. ties: keep pairs that nobody prefers an image of; default: the format's own.
        criterion: text or mask; default both. For pick-a-pic.

    Raises:
        InvalidInput: an unknown format, kind of rater or criterion, or the folder holds something else.
        NotFound: nothing was scored, or pairs were not made.
        Conflict: people and programs scored, and ``raters`` is auto.
        StorageFull: the disk is full; an earlier export there stays whole.
    """
    if name not in FORMATS:
        raise InvalidInput(f"--format {name} is unknown; choose csv, {', '.join(FORMATS)}")
    if criterion not in (None, "text", "mask"):
        raise InvalidInput(f"--criterion {criterion} is unknown; choose text or mask")
    target, kind = Path(target).resolve(), f"radpref {name} export"
    with whole_folder(target, kind) as draft:
        arms = arms_visible(study.db)
        who = None if name == "datasets" else scoring_kind(study.db, raters)
        result, described = _write(study, draft, name, who, arms=arms, ties=ties, criterion=criterion)
        if arms:
            reveal_arms(study.db, actor, f"{name} export to {target.name}")
        simulated = bool(described.pop("simulated"))
        head = manifest_head(study, draft, kind, arms=arms, simulated=simulated)
        write_atomic(draft / MANIFEST, json.dumps(head | {"raters": who} | described, indent=1, ensure_ascii=False))
    return {"target": str(target), "format": name, "raters": who, "arms": arms, "simulated": simulated, **result}


def _write(
    study: Study,
    draft: Path,
    name: str,
    who: RaterKind | None,
    *,
    arms: bool,
    ties: bool | None,
    criterion: str | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(counts for the caller, what the manifest says besides its head) of one format."""
    if name == "pick-a-pic":
        from radpref.data.exchange.pick_a_pic import write_pick_a_pic

        assert who is not None
        return write_pick_a_pic(study, draft, who, arms=arms, ties=ties is not False, criterion=criterion)
    if name == "study-jsonl":
        from radpref.data.exchange.pair_file import write_study_jsonl

        assert who is not None
        return write_study_jsonl(study, draft, who, ties=bool(ties))
    from radpref.data.exchange.hf_datasets import write_datasets

    return write_datasets(study, draft, arms=arms)
