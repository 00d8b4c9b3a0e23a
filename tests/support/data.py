"""Small studies built row by row, for tests of the study record."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radpref.data.study.db import StudyDatabase
from radpref.data.study.runs import now
from radpref.data.study.study import Study


def gray(seed: int, size: int = 64, dtype: type = np.uint8) -> np.ndarray:
    """A random image (size, size)."""
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, int(top) + 1, (size, size)).astype(dtype)


def add_rated_set(
    study: Study, ordinal: int = 0, mode: str = "T2I", rater: str = "sim-1", source: str | None = None
) -> dict[str, Any]:
    """One set of four with one rater's scores, written directly; returns its identifiers."""
    db, condition = study.db, f"condition-{ordinal}"
    ids: dict[str, Any] = {"set_id": f"set-{ordinal}", "condition_id": condition, "events": []}
    with db.write() as connection:
        connection.execute(
            "INSERT INTO runs VALUES ('sets-run', 'sets', 'done', ?, ?, '{}', '{}', NULL) ON CONFLICT DO NOTHING",
            (now(), now()),
        )
        text = None if mode == "M2I" else "mild left pneumonia"
        connection.execute(
            "INSERT INTO conditions(condition_id, mode, text, text_record) VALUES (?, ?, ?, ?)",
            (condition, mode, text, source),
        )
        if mode != "T2I":
            mask = study.store.put_mask(connection, gray(900 + ordinal) > 128)
            connection.execute("INSERT INTO condition_masks VALUES (?, 'lungs', ?)", (condition, mask))
        connection.execute(
            "INSERT INTO image_sets VALUES (?, 'sets-run', ?, ?, 'rating')", (ids["set_id"], ordinal, condition)
        )
        for slot in range(4):
            sha = study.store.put_image(connection, gray(100 * ordinal + slot), "synthetic")
            connection.execute(
                "INSERT INTO set_images VALUES (?, ?, ?, ?, 'baseline')", (ids["set_id"], slot, sha, slot)
            )
        connection.execute(
            "INSERT INTO raters(username, kind, role, order_seed, created_at) VALUES (?, ?, 'rater', 1, ?)"
            " ON CONFLICT DO NOTHING",
            (rater, "simulated" if rater.startswith("sim") else "human", now()),
        )
        ids["rater_id"] = connection.execute("SELECT rater_id FROM raters WHERE username = ?", (rater,)).fetchone()[0]
        ids["presentation_id"] = connection.execute(
            "INSERT INTO presentations(token, rater_id, set_id, position, slots) VALUES (?, ?, ?, ?, '0123')",
            (uuid.uuid4().hex, ids["rater_id"], ids["set_id"], ordinal),
        ).lastrowid
        for slot in range(4):
            ids["events"].append(add_event(connection, ids, slot, "mask" if mode == "M2I" else "text", slot + 1))
    config = study.root / "runs" / "sets-run" / "config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("{}")
    return ids


def add_event(
    connection: Any, ids: dict[str, Any], slot: int, criterion: str, value: int | None, rater_id: int | None = None
) -> int:
    """Append a score event without any check of radpref.data.reader_study.scores."""
    cursor = connection.execute(
        "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, slot, criterion, value, created_at)"
        " VALUES (?, ?, ?, 'score', ?, ?, ?, ?)",
        (str(uuid.uuid4()), ids["presentation_id"], rater_id or ids["rater_id"], slot, criterion, value, now()),
    )
    return int(cursor.lastrowid)


def add_pair(
    connection: Any, ids: dict[str, Any], split: str = "train", kind: str = "simulated", run: str = "sets-run"
) -> int:
    """One pair of a set's images 0 and 1, resting on the first two events."""
    cursor = connection.execute(
        "INSERT INTO pairs(run_id, set_id, slot_i, slot_j, criterion, p, n_raters, rater_kind, split)"
        " VALUES (?, ?, 0, 1, 'text', 0.0, 1, ?, ?)",
        (run, ids["set_id"], kind, split),
    )
    connection.executemany("INSERT INTO pair_events VALUES (?, ?)", [(cursor.lastrowid, e) for e in ids["events"][:2]])
    return int(cursor.lastrowid)


def write_table(folder: Path, n: int = 8, size: tuple[int, int] = (80, 64), **columns: list[str]) -> Path:
    """A tree of ``images/<i>.png`` (height, width), ``masks/<i>.png`` and ``table.csv``; columns may be replaced."""
    import csv

    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(n):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, size).astype(np.uint8)).save(
            folder / "images" / f"{i}.png"
        )
        mask = np.zeros(size, np.uint8)
        mask[10:40, 10:30] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    values: dict[str, list[str]] = {
        "file": [f"images/{i}.png" for i in range(n)],
        "person": [f"p{i // 2}" for i in range(n)],
        "part": [("train", "train", "val", "test")[i // 2 % 4] for i in range(n)],
        "words": [f"Chest radiograph. Case {i}." for i in range(n)],
        "ill": [str(i % 2) for i in range(n)],
        "kind": [("normal", "pneumonia")[i % 2] for i in range(n)],
        "population": [("adult", "child")[i // 4 % 2] for i in range(n)],
        "mask": [f"masks/{i}.png" for i in range(n)],
    }
    values |= columns
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(values)
        writer.writerows(zip(*values.values(), strict=True))
    return folder / "table.csv"


TABLE_TOML = """
name = "table"
[data]
reader = "table"
image_size = 64
structures = ["lungs"]
[data.columns]
image = "file"
patient = "person"
split = "part"
text = "words"
labels = ["ill", "normal=kind:normal", "child=population:child"]
mask.lungs = "mask"
"""


def table_study(tmp_path: Path, replace: tuple[tuple[str, str], ...] = (), **columns: list[str]) -> Study:
    """A study whose study.toml reads the table of :func:`write_table` in ``tmp_path/tree``."""
    table = write_table(tmp_path / "tree", **columns)
    text = TABLE_TOML.replace("[data]\n", f'[data]\npath = "{table}"\n')
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    return Study.create(tmp_path / "table-study", text)


def full_disk_after(monkeypatch: pytest.MonkeyPatch, n_files: int) -> None:
    """From the n-th durable file on, writing fails like on a full disk (ENOSPC)."""
    import os

    real, count = os.fsync, iter(range(10**9))

    def fsync(handle: int) -> None:
        if next(count) >= n_files:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("radpref.data.core.files.os.fsync", fsync)


def label_table(db: StudyDatabase, split: str | None = None) -> pd.DataFrame:
    """Labels of all records (of one split): index record_id, one float column per label, NaN where unknown."""
    rows = db.rows(
        "SELECT r.record_id, l.label, l.value FROM records r JOIN labels l USING (record_id)"
        " WHERE ? IS NULL OR r.split = ? ORDER BY r.record_id",
        (split, split),
    )
    table = pd.DataFrame(rows, columns=["record_id", "label", "value"]).astype({"value": "float64"})
    return table.pivot(index="record_id", columns="label", values="value")
