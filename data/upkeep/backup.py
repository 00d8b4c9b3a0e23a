"""Back up and restore a study.

A backup is a folder: MANIFEST.json (name -> SHA-256, written last) and ``objects/ab/<sha256>``, the files by content.
study.db is copied by SQLite's online backup, so the reading room may go on; so may a training, whose drafts are left
out with what it has renamed or removed by the time its turn comes. A later backup into the same folder adds
only what is new, and until it is complete the earlier one stays whole. Logins and open invitations are left out: a link
used after the backup would otherwise work again.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_file, storage_errors, write_atomic
from radpref.data.core.progress import track
from radpref.data.core.sqlite import sqlite3
from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now
from radpref.data.study.study import Study

MANIFEST = "MANIFEST.json"
FOLDERS = ("images", "masks", "runs", "models", "reports")


@dataclass(frozen=True)
class Backup:
    """A backup at ``target``: its files, how many of them are new there, and its size."""

    target: str
    n_files: int
    n_new: int
    bytes: int


@dataclass(frozen=True)
class Restored:
    """A study that was made from a backup."""

    study: str
    n_files: int
    n_records: int


def backup(study: Study, target: Path) -> Backup:
    """Copy the study into the folder ``target``.

    Raises:
        InvalidInput: the target lies inside the study, or is no backup but holds files.
        StorageFull: the disk is full; an earlier backup in the folder stays usable.
    """
    target = Path(target).resolve()
    if target == study.root or study.root in target.parents:
        raise InvalidInput(f"{target} lies inside the study; choose a folder outside {study.root}")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).exists())):
        raise InvalidInput(f"{target} exists and is no backup; choose a new folder")
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        if not (target / MANIFEST).exists():
            _write_manifest(target, {}, complete=False)
        objects = {"study.db": _store_database(study.db, target)}
        names = [Path("study.toml"), *sorted(_files(study.root))]
        for name in track(names, "backup", len(names)):
            try:
                objects[name.as_posix()] = _store(study.root / name, target, known=_known_hash(name))
            except FileNotFoundError:
                if name.name == "study.toml" or (study.root / name).exists():
                    raise
        n_new = sum(is_new for _, is_new in objects.values())
        files = {name: sha256 for name, (sha256, _) in objects.items()}
        _write_manifest(target, files, complete=True)
    size = sum(_object(target, sha256).stat().st_size for sha256 in set(files.values()))
    return Backup(str(target), len(files), n_new, size)


def _write_manifest(target: Path, files: dict[str, str], *, complete: bool) -> None:
    write_atomic(target / MANIFEST, json.dumps({"created_at": now(), "complete": complete, "files": files}, indent=1))


def _object(target: Path, sha256: str) -> Path:
    return target / "objects" / sha256[:2] / sha256


def _known_hash(name: Path) -> str | None:
    """The hash that is in the name of an image or mask, which never changes."""
    return name.stem if name.parts[0] in ("images", "masks") else None


def _store(path: Path, target: Path, known: str | None = None) -> tuple[str, bool]:
    """Copy a file into the objects of a backup; returns (SHA-256 of what was copied, whether it is new there)."""
    if known is not None and _object(target, known).is_file():
        return known, False
    draft = target / f".{uuid.uuid4().hex}.part"
    try:
        shutil.copyfile(path, draft)
        sha256 = sha256_file(draft)
        if known is not None and sha256 != known:
            raise InvalidInput(f"{path} was changed: its content has another hash; see `radpref study verify`")
        final = _object(target, sha256)
        if final.is_file():
            return sha256, False
        final.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(final)
        return sha256, True
    finally:
        draft.unlink(missing_ok=True)


def restore(source: Path, root: Path) -> Restored:
    """Make a study at ``root`` from the backup folder ``source``; every file is checked against its hash first.

    Raises:
        NotFound: there is no complete backup.
        Conflict: ``root`` holds something already.
        InvalidInput: a file of the backup is missing or damaged.
    """
    source, root = Path(source).resolve(), Path(root).resolve()
    files = _manifest_files(source)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Conflict(f"{root} is not empty; restore into a new folder and move it yourself")
    draft = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.part")
    with storage_errors(root):
        try:
            for name, sha256 in track(files.items(), "restore", len(files)):
                stored = _object(source, sha256)
                if not stored.is_file() or sha256_file(stored) != sha256:
                    raise InvalidInput(f"{stored} ({name}) is missing or damaged; use another backup")
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(stored, draft / name)
            if root.exists():
                root.rmdir()
            draft.replace(root)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    restored = Study(root)
    return Restored(str(root), len(files), int(restored.db.value("SELECT count(*) FROM records")))


def _manifest_files(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of a complete backup."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if "kind" in manifest:  # an export has a manifest too
            raise InvalidInput(f"{folder} holds a {manifest['kind']}, no backup; give the folder of `study backup`")
        files: dict[str, str] = manifest["files"]
        names = [Path(name) for name in files]
    except FileNotFoundError as error:
        message = f"no backup at {folder}: {MANIFEST} is missing; give the folder that `study backup` wrote"
        raise NotFound(message) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder / MANIFEST} is damaged ({error}); use another backup") from error
    for name in names:
        if name.is_absolute() or ".." in name.parts:
            raise InvalidInput(f"{folder / MANIFEST} names '{name}', outside the study; use another backup")
    if not manifest.get("complete"):
        raise NotFound(f"the backup at {folder} was interrupted; run `radpref study backup` again")
    return files


def _store_database(db: StudyDatabase, target: Path) -> tuple[str, bool]:
    """SQLite's online backup: consistent while others write. Sessions and open invitations are dropped from it."""
    draft = target / f".{uuid.uuid4().hex}.db"
    copy = sqlite3.connect(draft, isolation_level=None)
    try:
        db.connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("DELETE FROM sessions")
        copy.execute("DELETE FROM invites WHERE used_at IS NULL")
        copy.execute("VACUUM")
        copy.close()
        return _store(draft, target)
    finally:
        copy.close()
        draft.unlink(missing_ok=True)


def _files(root: Path) -> Iterator[Path]:
    """Files of the study below `FOLDERS`, relative; drafts (leading dot, or ``.part`` at the end) are left out."""
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            if (
                path.suffix != ".part"
                and path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(root).parts)
            ):
                yield path.relative_to(root)
