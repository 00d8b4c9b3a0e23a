"""Small studies for the tests of the reading room: random arrays as images, sets and conditions put in directly."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from radpref.annotate_app.accounts import hash_password
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.raters import add_rater
from radpref.data.study.runs import now
from radpref.data.study.study import Study

MODES = ("T2I", "M2I", "TM2I")
TEXTS = {"T2I": "Severe left pleural effusion", "TM2I": "Normal", "M2I": None}
PASSWORD = "correct horse battery"
SECRETS = ("baseline", "77110", "secret-run", "condition-", "set-0-", "effusion-patient")
"""Strings that stand in the study and that no rater may ever receive."""
PLAIN = "[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\n"
"""Nothing but rating sets: no training, no repeats, no attention checks."""
_BOXES = {"lungs": (4, 14), "heart": (16, 26)}


def add_sets(
    study: Study,
    modes: tuple[str, ...] = MODES,
    *,
    seed: int = 0,
    size: int = 32,
    bits: int = 16,
    texts: dict[str, str | None] | None = None,
) -> list[str]:
    """One rating set per entry of ``modes``; returns the set ids."""
    rng = np.random.default_rng(seed)
    run_id = f"secret-run-{seed}"
    with study.db.write() as connection:
        row = (run_id, now(), json.dumps({"path": str(study.root), "model": "baseline"}))
        connection.execute("INSERT INTO runs VALUES (?, 'sets', 'done', ?, NULL, ?, '{}', NULL)", row)
        for ordinal, mode in enumerate(modes):
            condition = f"condition-{seed}-{ordinal}"
            _add_condition(study, connection, condition, mode, (texts or TEXTS)[mode], size)
            set_id = f"set-{seed}-{ordinal}"
            connection.execute(
                "INSERT INTO image_sets VALUES (?, ?, ?, ?, 'rating')", (set_id, run_id, ordinal, condition)
            )
            for slot in range(4):
                pixels = rng.integers(0, 2**bits, (size, size)).astype(np.uint16 if bits == 16 else np.uint8)
                sha = study.store.put_image(connection, pixels, "synthetic")
                connection.execute(
                    "INSERT INTO set_images VALUES (?, ?, ?, ?, 'baseline')", (set_id, slot, sha, 771100 + slot)
                )
    return [f"set-{seed}-{ordinal}" for ordinal in range(len(modes))]


def add_checks(study: Study, purpose: str, n: int, *, good: tuple[int, int] = (4, 5), bits: int = 16) -> list[str]:
    """``n`` T2I sets of ``purpose`` training or attention; every image is expected to score within ``good``."""
    names = add_sets(study, ("T2I",) * n, seed=500 + len(purpose), bits=bits)
    with study.db.write() as connection:
        for name in names:
            connection.execute("UPDATE image_sets SET purpose = ? WHERE set_id = ?", (purpose, name))
            connection.executemany(
                "INSERT INTO set_expectations VALUES (?, ?, 'text', ?, ?, ?)",
                [(name, slot, *good, f"reason {slot}") for slot in range(4)],
            )
    return names


def _add_condition(
    study: Study, connection: sqlite3.Connection, name: str, mode: str, text: str | None, size: int
) -> None:
    asked = {"normal": 1} if mode == "TM2I" else {}
    connection.execute(
        "INSERT INTO conditions(condition_id, mode, text, asked, extra) VALUES (?, ?, ?, ?, ?)",
        (name, mode, text, json.dumps(asked), json.dumps({"patient": "effusion-patient"})),
    )
    for structure, (top, bottom) in _BOXES.items() if mode != "T2I" else ():
        mask = np.zeros((size, size), dtype=bool)
        mask[top:bottom, 6:-6] = True
        sha = study.store.put_mask(connection, mask)
        connection.execute("INSERT INTO condition_masks VALUES (?, ?, ?)", (name, structure, sha))


@functools.cache
def _template(modes: tuple[str, ...], bits: int, toml: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix="radpref-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    study = Study.create(root / "pilot", toml)
    add_sets(study, modes, bits=bits)
    study.db.close()
    return root / "pilot"


def make_study(root: Path, modes: tuple[str, ...] = MODES, *, bits: int = 16, toml: str = PLAIN) -> Study:
    """A fresh study with one rating set per entry of ``modes`` (a copy of one that was made once)."""
    shutil.copytree(_template(modes, bits, toml), root / "pilot")
    return Study(root / "pilot")


@functools.cache
def password_hash() -> str:
    """Hash of ``PASSWORD``, made once (it is slow on purpose)."""
    return hash_password(PASSWORD)


def add_people(study: Study) -> dict[str, int]:
    """Raters ann and bob, the admin office, a simulated rater; all people have ``PASSWORD``. Returns their ids."""
    people = {"ann": "rater", "bob": "rater", "office": "admin"}
    ids = {
        name: add_rater(study.db, name, password_hash(), "human", "admin" if role == "admin" else "rater").rater_id
        for name, role in people.items()
    }
    return {**ids, "sim-1": add_rater(study.db, "sim-1", kind="simulated").rater_id}
