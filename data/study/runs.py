"""Runs: what was done, with which configuration, seeds, package versions and inputs.

A run is a row of ``runs`` and a folder ``runs/<run_id>/`` with config.json, metrics.jsonl and log.txt.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
from radpref.data.study.run_identity import run_identity
from radpref.data.study.run_lock import only_one

if TYPE_CHECKING:
    from radpref.data.study.study import Study

CONFIG = "config.json"
"""In a run's folder: its configuration and provenance."""
PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "gradio",
    "open-clip-torch",
    "segmentation-models-pytorch",
    "sqlite-utils",
)


def now() -> str:
    """The present time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def provenance(inputs: Mapping[str, str]) -> dict[str, Any]:
    """Package versions, platform, git revision and the hashes of what a run reads (name -> SHA-256)."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": versions,
        "git": git_revision(),
        "inputs": dict(inputs),
    }


def git_revision() -> str | None:
    """Revision of the source tree radpref runs from, with ``+`` where it has local changes; None outside git.

    A wheel that is installed inside somebody else's repository is not part of it: only a tracked file counts.
    """
    file = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Run:
    """One run: append metrics with :meth:`log`, finish by leaving the context of :func:`start_run`."""

    def __init__(self, study: Study, run_id: str, kind: str, config: dict[str, Any]) -> None:
        self.study, self.run_id, self.kind, self.config = study, run_id, kind, config
        self.folder = study.root / "runs" / run_id
        self.result: dict[str, Any] = {}
        self.already_done = False

    @property
    def outcome(self) -> dict[str, Any]:
        """The result as a command reports it: with ``already_done`` where the run was finished before."""
        return {**self.result, "already_done": True} if self.already_done else self.result

    @property
    def model_folder(self) -> Path:
        """Folder of the weights of this run."""
        return self.study.root / "models" / self.run_id

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far (a torn last line is dropped)."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                logging.getLogger(__name__).warning("dropped a torn line of %s", path)
        return found


@contextmanager
def start_run(
    study: Study, kind: str, config: dict[str, Any], inputs: Mapping[str, str] | None = None, *, resume: bool = True
) -> Iterator[Run]:
    """Open a run of ``kind``. An unfinished run of the same kind and configuration is taken up again (``resume``).

    The row says ``running`` until the block ends (``done``); an exception leaves it resumable and is re-raised. But a
    new run whose block is refused (`InvalidInput`, `NotFound`, `Conflict`) before it did anything is forgotten.

    Raises:
        Conflict: another process is at work on a run of this kind and configuration.
    """
    with _alone(study, kind, config), _opened(study, kind, config, inputs or {}, resume) as run:
        yield run


def once(
    study: Study,
    kind: str,
    config: dict[str, Any],
    work: Callable[[Run], dict[str, Any]],
    inputs: Mapping[str, str] | None = None,
    *,
    intact: Callable[[Run], bool] = lambda run: True,
) -> Run:
    """The finished run of this kind and configuration (``already_done``), else a run that does ``work`` now.

    Args:
        work: gets the run, which may be one that was interrupted, and returns its result.
        intact: whether a finished run still has what it made; one that has not is done again.

    Raises:
        Conflict: another process is at work on it. Others: what ``work`` raises; see :func:`start_run`.
    """

    def finished() -> Run | None:
        run = finished_run(study, kind, config)
        return run if run is not None and intact(run) else None

    if done := finished():
        return done
    with _alone(study, kind, config):
        if done := finished():  # another process has ended it since
            return done
        with _opened(study, kind, config, inputs or {}) as run:
            run.result = work(run)
    return run


def _alone(study: Study, kind: str, config: dict[str, Any]) -> AbstractContextManager[None]:
    content = json.dumps(run_identity(study, kind, config), sort_keys=True)
    return only_one(study.root / "runs", f"{kind}-{sha256_bytes(content.encode())[:12]}", f"this step ({kind})")


@contextmanager
def _opened(
    study: Study, kind: str, config: dict[str, Any], inputs: Mapping[str, str], resume: bool = True
) -> Iterator[Run]:
    found = unfinished_run(study, kind, config) if resume else None
    run = found or _new_run(study, kind, config, inputs)
    n_changes = study.db.connection.total_changes
    try:
        yield run
    except (InvalidInput, NotFound, Conflict):
        if not found and study.db.connection.total_changes == n_changes:
            _forget(run)
        raise
    with study.db.write() as connection:
        connection.execute(
            "UPDATE runs SET status = 'done', finished_at = ?, result = ? WHERE run_id = ?",
            (now(), json.dumps(run.result), run.run_id),
        )


def _new_run(study: Study, kind: str, config: dict[str, Any], inputs: Mapping[str, str]) -> Run:
    run = Run(study, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(3)}", kind, config)
    record = provenance(inputs)
    write_atomic(
        run.folder / CONFIG,
        json.dumps({"run_id": run.run_id, "kind": kind, "config": config, "provenance": record}, indent=2),
    )
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO runs(run_id, kind, status, started_at, config, provenance) VALUES (?, ?, 'running', ?, ?, ?)",
            (run.run_id, kind, now(), json.dumps(config, sort_keys=True), json.dumps(record)),
        )
    return run


def _forget(run: Run) -> None:
    """Take away a new run that wrote nothing but its configuration: a mistyped command is not unfinished work."""
    if [path.name for path in run.folder.rglob("*")] != [CONFIG] or run.model_folder.exists():
        return
    with run.study.db.write() as connection:
        connection.execute("DELETE FROM runs WHERE run_id = ?", (run.run_id,))
    shutil.rmtree(run.folder, ignore_errors=True)


def finished_run(
    study: Study, kind: str, config: dict[str, Any] | None = None, *, run_id: str | None = None
) -> Run | None:
    """The newest finished run of ``kind`` (of the same configuration as ``config``, or that id, if given), or None."""
    run = _newest(study, kind, "done", config, run_id)
    if run is not None:
        run.already_done = True
        run.result = json.loads(study.db.value("SELECT result FROM runs WHERE run_id = ?", [run.run_id]) or "{}")
    return run


def unfinished_run(study: Study, kind: str, config: dict[str, Any]) -> Run | None:
    """The newest run of this kind and configuration that was interrupted, or None."""
    return _newest(study, kind, "running", config)


def _newest(
    study: Study, kind: str, status: str, config: dict[str, Any] | None, run_id: str | None = None
) -> Run | None:
    wanted = None if config is None else run_identity(study, kind, config)
    rows = study.db.rows(
        "SELECT run_id, config FROM runs WHERE kind = ? AND status = ? AND run_id = coalesce(?, run_id)"
        " ORDER BY started_at DESC, run_id DESC",
        [kind, status, run_id],
    )
    for row in rows:
        stored = json.loads(row["config"])
        if wanted is None or run_identity(study, kind, stored) == wanted:
            return Run(study, str(row["run_id"]), kind, stored)
    return None


def latest_run(study: Study, kind: str) -> Run:
    """Like :func:`finished_run`, for a step that must have been done.

    Raises:
        NotFound: there is none.
    """
    run = finished_run(study, kind)
    if run is None:
        raise NotFound(f"no finished run of kind '{kind}' in {study.root}; run that step first")
    return run
