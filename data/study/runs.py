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
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
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
    """Revision of the source tree radpref runs from, with ``+`` where it has local changes; None outside git."""
    folder = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Run:
    """One run: append metrics with :meth:`log`, finish by leaving the context of :func:`start_run`."""

    def __init__(self, study: Study, run_id: str, kind: str, config: dict[str, Any]) -> None:
        self.study, self.run_id, self.kind, self.config = study, run_id, kind, config
        self.folder = study.root / "runs" / run_id
        self.result: dict[str, Any] = {}

    @property
    def model_folder(self) -> Path:
        """Where the weights of this run stand."""
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

    def rewrite_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl (a resumed run drops lines after its checkpoint)."""
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def start_run(
    study: Study,
    kind: str,
    config: dict[str, Any],
    inputs: Mapping[str, str] | None = None,
    *,
    resume: bool = True,
    unless: Callable[[], object] | None = None,
) -> Iterator[Run]:
    """Open a run of ``kind``. An unfinished run of the same kind and configuration is taken up again (``resume``).

    Whoever asks first whether the work is done gives that question as ``unless``: it is asked again when nobody else
    can be at work, for another process may have ended the run since, and its work would be done twice.

    The row says ``running`` until the block ends (``done``); an exception leaves it resumable and is re-raised. But a
    new run whose block is refused (`InvalidInput`, `NotFound`, `Conflict`) before it did anything is forgotten.

    Raises:
        Conflict: another process is at work on a run of this kind and configuration, or has ended it just now.
    """
    canonical = json.dumps(config, sort_keys=True)
    name = f"{kind}-{sha256_bytes(canonical.encode())[:12]}"
    with only_one(study.root / "runs", name, f"this step ({kind})"):
        if unless is not None and unless():
            raise Conflict(
                f"another process has just ended this step ({kind}); run the command again to go on from there"
            )
        found = (
            study.db.row(
                "SELECT run_id FROM runs WHERE kind = ? AND config = ? AND status = 'running'"
                " ORDER BY started_at DESC LIMIT 1",
                (kind, canonical),
            )
            if resume
            else None
        )
        run = Run(study, str(found["run_id"]), kind, config) if found else _new_run(study, kind, config, inputs or {})
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
    """Take away a new run that wrote nothing but its configuration: a mistyped command is no unfinished work."""
    if [path.name for path in run.folder.rglob("*")] != [CONFIG] or run.model_folder.exists():
        return
    with run.study.db.write() as connection:
        connection.execute("DELETE FROM runs WHERE run_id = ?", (run.run_id,))
    shutil.rmtree(run.folder, ignore_errors=True)


def finished_run(study: Study, kind: str, config: dict[str, Any] | None = None) -> Run | None:
    """The newest finished run of ``kind`` (with exactly ``config`` if given), or None."""
    sql, parameters = "SELECT * FROM runs WHERE kind = ? AND status = 'done'", [kind]
    if config is not None:
        sql, parameters = sql + " AND config = ?", [kind, json.dumps(config, sort_keys=True)]
    found = study.db.row(sql + " ORDER BY started_at DESC, run_id DESC LIMIT 1", parameters)
    if found is None:
        return None
    run = Run(study, str(found["run_id"]), kind, json.loads(found["config"]))
    run.result = json.loads(found["result"] or "{}")
    return run


def latest_run(study: Study, kind: str, config: dict[str, Any] | None = None) -> Run:
    """Like :func:`finished_run`, for a step that must have been done.

    Raises:
        NotFound: there is none.
    """
    run = finished_run(study, kind, config)
    if run is None:
        raise NotFound(f"no finished run of kind '{kind}' in {study.root}; run that step first")
    return run
