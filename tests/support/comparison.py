"""Comparison sets with scores from a known model, written straight into the tables."""

from __future__ import annotations

import uuid

import numpy as np

from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import CRITERIA, ScoreEvent, record_events
from radpref.data.study.conditions import StoredCondition, record_conditions, save_conditions
from radpref.data.study.runs import start_run
from radpref.data.study.study import Study

ARMS = ("baseline", "aligned")


def add_comparison(
    study: Study, modes: tuple[str, ...], *, arms: tuple[str, str] = ARMS, seed: int = 0, noise: float = 9000.0
) -> list[str]:
    """A finished run of comparison sets, one per mode given, of validation records in turn; returns their ids."""
    rng = np.random.default_rng([seed, 3])
    records = record_conditions(study, "val")
    config = {"arms": [[arm, f"{arm}-{seed}"] for arm in arms], "seed": seed}
    with start_run(study, "sets", config) as run, study.db.write() as connection:
        for ordinal, mode in enumerate(modes):
            record = records[ordinal % len(records)]
            condition = StoredCondition(
                mode,
                None if mode == "M2I" else record["caption"] or "Normal",
                {} if mode == "T2I" else record["masks"],
                text_record=None if mode == "M2I" else record["record_id"],
                mask_record=None if mode == "T2I" else record["record_id"],
                extra={"place": ordinal},
            )
            save_conditions(connection, [condition])
            set_id = f"{run.run_id}-{ordinal:05d}"
            row = (set_id, run.run_id, ordinal, condition.condition_id, "comparison")
            connection.execute("INSERT INTO image_sets VALUES (?, ?, ?, ?, ?)", row)
            slots = [(arm, k) for k in range(2) for arm in arms]
            real = study.store.image(record["image_sha"]).astype(np.float64)
            for slot, place in enumerate(rng.permutation(4)):
                arm, k = slots[place]
                spread = noise / (1 if arm == arms[0] else 3)
                pixels = np.clip(real + rng.normal(0, spread, real.shape), 0, 65535).astype(np.uint16)
                sha = study.store.put_image(connection, pixels, "synthetic")
                connection.execute("INSERT INTO set_images VALUES (?, ?, ?, ?, ?)", (set_id, slot, sha, 7000 + k, arm))
    return [f"{run.run_id}-{ordinal:05d}" for ordinal in range(len(modes))]


def score_comparison(
    study: Study,
    n_raters: int,
    *,
    kind: str = "human",
    gain: float = 0.6,
    seed: int = 1,
    share: float = 1.0,
    flags: float = 0.0,
    spread: float = 0.7,
) -> None:
    """Raters who score ``share`` of their comparison sets; the second arm is better by ``gain`` in the mean."""
    rng = np.random.default_rng([seed, 5])
    quality: dict[tuple[str, int], float] = {}
    images = study.db.rows(
        "SELECT set_id, slot, arm FROM set_images JOIN image_sets USING (set_id) WHERE purpose = 'comparison'"
    )
    for set_id in sorted({row["set_id"] for row in images}):
        level, own_gain = rng.normal(2.3, 0.7), rng.normal(gain, spread / 2)
        for row in sorted((r for r in images if r["set_id"] == set_id), key=lambda r: r["slot"]):
            quality[set_id, row["slot"]] = level + own_gain * (row["arm"] != ARMS[0]) + rng.normal(0, spread / 2)
    arm_of = {(row["set_id"], row["slot"]): row["arm"] for row in images}
    for number in range(n_raters):
        rater = add_rater(study.db, f"{kind}-{number + 1}", kind=kind)
        severity = rng.normal(0, 0.4)
        ensure_presentations(study.db, rater.rater_id, 0, study.config.annotate)
        shown = study.db.rows(
            "SELECT p.presentation_id, p.set_id, c.mode FROM presentations p JOIN image_sets s USING (set_id)"
            " JOIN conditions c USING (condition_id) WHERE p.rater_id = ? AND s.purpose = 'comparison'"
            " AND p.repeat_of IS NULL ORDER BY p.set_id",
            [rater.rater_id],
        )
        for row in shown[: round(share * len(shown))]:
            events = []
            for slot in range(4):
                for criterion in CRITERIA[row["mode"]]:
                    value = quality[row["set_id"], slot] - severity + rng.normal(0, spread)
                    events.append(
                        _event(row, rater.rater_id, "score", slot, criterion, int(np.clip(round(value), 0, 5)))
                    )
                if rng.random() < flags * (1.0 if arm_of[row["set_id"], slot] == ARMS[0] else 0.4):
                    events.append(_event(row, rater.rater_id, "flag", slot, "unrealistic", 1))
            record_events(study.db, [*events, _event(row, rater.rater_id, "submit")])


def _event(
    row: dict[str, object], rater_id: int, kind: str, slot: int | None = None, criterion: str | None = None,
    value: int | None = None,
) -> ScoreEvent:  # fmt: skip
    return ScoreEvent(str(uuid.uuid4()), int(str(row["presentation_id"])), rater_id, kind, slot, criterion, value)


def set_stage(study: Study, *stages: str) -> None:
    """Take the study through stages ("locked" keeps the scores)."""
    with study.db.write() as connection:
        for name in stages:
            detail = '{"keep_scores": 1}' if name == "locked" else "{}"
            connection.execute("INSERT INTO stages(at, actor, stage, detail) VALUES ('now', 't', ?, ?)", [name, detail])
