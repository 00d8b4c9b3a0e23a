"""Small rated studies for the tests of the alignment: a tiny random generator, random images, chosen scores."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import CRITERIA, ScoreEvent, record_events
from radpref.data.study.conditions import StoredCondition, save_conditions
from radpref.data.study.runs import start_run
from radpref.data.study.study import Study
from radpref.generation.measuring.architectures import BLOCKS, NetworkShape, build_network
from radpref.generation.measuring.measuring_network import MeasureNet, save_measure
from radpref.generation.stack.models import save_stack, tiny_stack

SIZE = 32
ARCHITECTURE = next(iter(BLOCKS))
STRUCTURES = ("lungs", "heart")
ATTRIBUTES = ("normal", "pleural_effusion", "pleural_effusion/left", "pleural_effusion/right")
TEXTS = {
    "Normal": {"normal": 1},
    "Severe left pleural effusion": {"pleural_effusion": 1, "pleural_effusion/left": 1},
}
TOML = """
name = "tiny"
[data]
image_size = 32
structures = ["lungs", "heart"]
[generator]
model = "generator"
n_steps = 2
[sets]
mix = [50, 25, 25]
[[simulate.raters]]
name = "sim-a"
network = "rater-a"
[[simulate.raters]]
name = "sim-b"
network = "rater-b"
severity = 0.5
[align]
n_steps = 3
sets_per_step = 2
lora_rank = 2
warmup_steps = 2
"""


def make_study(root: Path, toml: str = TOML) -> Study:
    """An empty study with a tiny generator and measuring networks of its own (random weights)."""
    study = Study.create(root / "study", toml)
    save_stack(tiny_stack(0), study.root / "generator")
    roles = {"rater-a": "rater", "rater-b": "rater", "judge": "judge", "fidelity": "fidelity"}
    for seed, (name, role) in enumerate(roles.items()):
        save_measure(tiny_network(name, role, seed), study.root / "networks")
    return study


def tiny_network(name: str, role: str, seed: int) -> MeasureNet:
    """A measuring network with random weights."""
    shape = NetworkShape(ARCHITECTURE, len(ATTRIBUTES), len(STRUCTURES), 32, (8, 8, 8, 8), 1, 8)
    return MeasureNet(name, role, shape, ATTRIBUTES, STRUCTURES, build_network(shape, seed=seed))


def box_mask(shift: int = 0) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[6 + shift : 20 + shift, 5:15] = True
    return mask


def add_records(study: Study, n: int, split: str = "val") -> list[str]:
    """`n` records of a patient each, with caption, labels and masks."""
    rng = np.random.default_rng(17 if split == "val" else 18)
    ids = []
    with study.db.write() as connection:
        for index in range(n):
            record_id = f"{split}-{index}"
            sha = study.store.put_image(connection, rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8), "real")
            caption = list(TEXTS)[index % len(TEXTS)]
            connection.execute(
                "INSERT INTO records(record_id, dataset, patient_id, split, image_sha, caption) VALUES (?,?,?,?,?,?)",
                (record_id, "toy", f"patient-{split}-{index}", split, sha, caption),
            )
            for label in ATTRIBUTES:
                value = float(TEXTS[caption].get(label, 0))
                connection.execute("INSERT INTO labels VALUES (?, ?, ?)", (record_id, label, value))
            for structure in STRUCTURES:
                mask = study.store.put_mask(connection, box_mask(index % 8))
                connection.execute("INSERT INTO record_masks VALUES (?, ?, ?)", (record_id, structure, mask))
            ids.append(record_id)
    return ids


def add_sets(study: Study, modes: tuple[str, ...], *, purpose: str = "rating", seed: int = 0) -> list[str]:
    """One set of four random images per mode; set i's condition comes from record val-i."""
    rng = np.random.default_rng([seed, 5])
    records = {row["record_id"]: row for row in study.db.rows("SELECT * FROM records")}
    ids = []
    with (
        start_run(study, "sets", {"seed": seed, "purpose": purpose}, resume=False) as run,
        study.db.write() as connection,
    ):
        for ordinal, mode in enumerate(modes):
            record = f"val-{ordinal}"
            text = str(records[record]["caption"]) if mode != "M2I" else None
            masks = {}
            if mode != "T2I":
                masks = {name: study.store.put_mask(connection, box_mask(ordinal % 8)) for name in STRUCTURES}
            condition = StoredCondition(
                mode, text, masks, TEXTS[text] if text else {}, record if text else None, record if masks else None
            )
            save_conditions(connection, [condition])
            set_id = f"set-{seed}-{ordinal:03d}"
            connection.execute(
                "INSERT INTO image_sets VALUES (?, ?, ?, ?, ?)",
                (set_id, run.run_id, ordinal, condition.condition_id, purpose),
            )
            for slot in range(4):
                pixels = rng.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
                sha = study.store.put_image(connection, pixels, "synthetic")
                connection.execute("INSERT INTO set_images VALUES (?, ?, ?, ?, 'baseline')", (set_id, slot, sha, slot))
            ids.append(set_id)
    return ids


def add_scores(
    study: Study,
    rater: str,
    value: Callable[[str, int, str], int],
    *,
    kind: str = "human",
    submit: bool = True,
    sets: list[str] | None = None,
) -> None:
    """Let a rater (made here) score all rating sets (or `sets`): value(set_id, slot, criterion) -> 0-5."""
    rater_id = add_rater(study.db, rater, kind=kind).rater_id
    ensure_presentations(study.db, rater_id, 0)
    rows = study.db.rows(
        "SELECT p.presentation_id, p.set_id, c.mode FROM presentations p JOIN image_sets USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE rater_id = ?",
        [rater_id],
    )
    events = []
    for row in rows:
        if sets is not None and row["set_id"] not in sets:
            continue
        for criterion in CRITERIA[row["mode"]]:
            events += [
                ScoreEvent(
                    str(uuid.uuid4()),
                    row["presentation_id"],
                    rater_id,
                    "score",
                    slot,
                    criterion,
                    value(row["set_id"], slot, criterion),
                )
                for slot in range(4)
            ]
        if submit:
            events.append(ScoreEvent(str(uuid.uuid4()), row["presentation_id"], rater_id, "submit"))
    record_events(study.db, events)


def rated_study(
    root: Path, modes: tuple[str, ...] = ("T2I", "M2I", "TM2I", "T2I", "T2I", "M2I"), n_records: int = 12
) -> Study:
    """A study with sets scored by two simulated raters: slot 3 is best, slot 0 worst; one slot is tied."""
    study = make_study(root)
    add_records(study, max(n_records, len(modes)))
    add_sets(study, modes)
    add_scores(study, "sim-a", lambda _set, slot, _criterion: slot + 1, kind="simulated")
    add_scores(
        study,
        "sim-b",
        lambda _set, slot, criterion: min(slot + 1, 3) if criterion == "text" else slot,
        kind="simulated",
    )
    return study


def rows(study: Study, table: str) -> list[dict]:
    return [dict(row) for row in study.db.rows(f"SELECT * FROM {table}")]


def result_of(study: Study, run_id: str) -> dict:
    return json.loads(study.db.value("SELECT result FROM runs WHERE run_id = ?", [run_id]))
