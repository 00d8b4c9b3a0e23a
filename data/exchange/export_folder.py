"""The folder of an export: there whole or not at all, with a manifest that names every file with its SHA-256.

Input: a study and what a format's writer wrote into a draft folder. Output: the folder under its name, with
MANIFEST.json; the same command again replaces it.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import sha256_file, storage_errors, write_atomic
from radpref.data.reader_study.lifecycle import early_unblinding, stage
from radpref.data.study.migrations import MIGRATIONS
from radpref.data.study.runs import git_revision, now

if TYPE_CHECKING:
    from radpref.data.reader_study.scores import RaterKind
    from radpref.data.study.study import Study

MANIFEST = "MANIFEST.json"
SIMULATED = "rows with simulated = true are from programs, not from people"
HIDDEN = "arms stay hidden until the study is frozen (`radpref study freeze`); arm and seed are left out"


@dataclass(frozen=True)
class Written:
    """What a format's writer did.

    ``counts``: for the caller; ``described``: what the manifest says besides its head; ``raters``: whose scores, where
    the format holds one kind; ``simulated``: programs' scores are in it.
    """

    counts: Mapping[str, Any]
    described: Mapping[str, object]
    simulated: bool
    notes: Sequence[str] = ()
    raters: RaterKind | None = None


@contextmanager
def whole_folder(target: Path, kind: str) -> Iterator[Path]:
    """A draft folder that takes the place of ``target`` when the block ends; on an error an earlier one stays whole.

    ``kind``: what MANIFEST.json of an earlier folder must say for it to be replaced.

    Raises:
        InvalidInput: ``target`` holds something else, or cannot be written.
        StorageFull: the disk is full.
    """
    _refuse_other_folder(target, kind)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with storage_errors(target):
        try:
            try:
                draft.mkdir(parents=True)
            except FileNotFoundError as error:  # a file system that makes no folders, such as /proc
                raise InvalidInput(f"cannot write {target}: {error.strerror}; choose another folder") from error
            yield draft
            _put_in_place(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _refuse_other_folder(target: Path, kind: str) -> None:
    if not target.exists():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    try:
        known = json.loads((target / MANIFEST).read_text(encoding="utf-8")).get("kind") == kind
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        raise InvalidInput(f"{target} exists and is not a {kind}; choose a new folder")


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the finished folder to its place; an earlier export steps aside first and is then removed."""
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.replace(old)
    try:
        draft.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(study: Study, draft: Path, kind: str, written: Written, *, arms: bool) -> None:
    """MANIFEST.json: study, stage, blinding, who scored, versions, the hash of each file, and the writer's own part."""
    early = early_unblinding(study.db)
    head = {
        "kind": kind,
        "created_at": now(),
        "study": study.config.name,
        "title": study.config.title,
        "stage": stage(study.db),
        "unblinded_before_freeze": early and asdict(early),
        "arms": {"included": arms, "why_not": None if arms else HIDDEN},
        "raters": written.raters,
        "simulated": written.simulated,
        "simulated_note": SIMULATED if written.simulated else None,
        "notes": list(written.notes),
        "radpref": _version(),
        "schema": len(MIGRATIONS),
        "git": git_revision(),
        "files": {
            path.relative_to(draft).as_posix(): sha256_file(path) for path in sorted(draft.rglob("*")) if path.is_file()
        },
    }
    write_atomic(draft / MANIFEST, json.dumps({**head, **written.described}, indent=1, ensure_ascii=False))


def _version() -> str | None:
    try:
        return importlib.metadata.version("radpref")
    except importlib.metadata.PackageNotFoundError:
        return None


def save_datasets(parts: Mapping[str, Any], folder: Path) -> None:
    """``datasets.Dataset`` by split -> a folder for ``datasets.load_from_disk``; its own progress bars stay silent."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict(parts).save_to_disk(str(folder))
    finally:
        if shown:
            datasets.enable_progress_bars()
