"""Rating sets: four images of one condition from four seeds, modes allotted exactly.

Input: validation-split records (their captions and masks) and the arms to sample from. Output: rows of
``conditions``, ``image_sets`` and ``set_images`` with stored images (paper, "Preference collection").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conditions_store import (
    MODES,
    Mode,
    StoredCondition,
    asked_attributes,
    mask_stack,
    record_conditions,
    save_conditions,
)
from data.errors import InvalidInput
from data.progress import bar
from data.records import finished_run, start_run

if TYPE_CHECKING:
    from data.records import Run
    from data.study import Study

SET_SIZE = 4


def allot_modes(n: int, mix: Sequence[int]) -> list[int]:
    """Exact numbers of T2I, M2I and TM2I sets: largest remainders of ``mix`` (percent) over ``n`` sets.

    Raises:
        InvalidInput: the mix does not sum to 100.
    """
    if len(mix) != len(MODES) or sum(mix) != 100 or min(mix) < 0:
        raise InvalidInput(f"mix {'/'.join(map(str, mix))} must be three percentages that sum to 100, e.g. 75/15/10")
    exact = [n * share / 100 for share in mix]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(mix)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: n - sum(counts)]:
        counts[index] += 1
    return counts


def image_seed(*parts: object) -> int:
    """A 48-bit seed that depends on all ``parts`` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def condition_from_record(record: dict[str, Any], mode: Mode) -> StoredCondition:
    """The condition of ``mode`` that a record gives: its caption, its masks, and what they ask for."""
    text = str(record["caption"]) if mode != "M2I" else None
    masks = record["masks"] if mode != "T2I" else {}
    return StoredCondition(
        mode,
        text,
        masks,
        asked_attributes(text, record["labels"]) if text else {},
        text_record=record["record_id"] if text else None,
        mask_record=record["record_id"] if masks else None,
    )


def draw_conditions(study: Study, n: int, mix: Sequence[int], seed: int, split: str = "val") -> list[StoredCondition]:
    """Draw ``n`` conditions with modes allotted exactly, in shuffled order, from the records of ``split``.

    Conditions are drawn evenly over what the captions ask for; among those that ask for the same, every record is used
    once per mode before any is used again.

    Raises:
        InvalidInput: the split has no captions or no masks for a mode that is wanted.
    """
    records = record_conditions(study, split)
    rng = np.random.default_rng([seed, 101])
    drawn: list[StoredCondition] = []
    for mode, count in zip(MODES, allot_modes(n, mix), strict=True):
        usable = [r for r in records if (mode == "M2I" or r["caption"]) and (mode == "T2I" or r["masks"])]
        if count and not usable:
            need = {"T2I": "captions", "M2I": "masks", "TM2I": "captions and masks"}[mode]
            raise InvalidInput(
                f"no record of split '{split}' has {need} for {mode} sets; import some or set sets.mix without {mode}"
            )
        drawn += [condition_from_record(record, mode) for record in _balanced_draw(usable, count, rng)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _balanced_draw(records: list[dict[str, Any]], count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw records in turn from groups of equal captions' asked findings, each group shuffled and cycled."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        asked = asked_attributes(record["caption"] or "", record["labels"])
        groups.setdefault("+".join(sorted(a for a in asked if "/" not in a)), []).append(record)
    queues = {name: [members[i] for i in rng.permutation(len(members))] for name, members in sorted(groups.items())}
    names = [list(queues)[i] for i in rng.permutation(len(queues))] if queues else []
    drawn: list[dict[str, Any]] = []
    while len(drawn) < count:
        turn = len(drawn) // max(len(names), 1)
        for name in names[: count - len(drawn)]:
            members = queues[name]
            drawn.append(members[turn % len(members)])
    return drawn


def run_sets(
    study: Study,
    *,
    n: int | None = None,
    mix: Sequence[int] | None = None,
    seed: int | None = None,
    arms: Sequence[str] = ("baseline",),
) -> dict[str, Any]:
    """Sample rating sets; the same call again resumes. Returns counts per mode and the run's id.

    With two arms the sets are a blinded reader comparison: two images of each arm with paired seeds, shuffled;
    their purpose is ``comparison`` and they are never trained on.

    Raises:
        InvalidInput: a bad mix, or arms other than one, or two.
        StorageFull: the disk is full; the same command resumes.
    """
    from generation.adapters import arm_identity

    settings = study.config.sets
    n, mix, seed = n or settings.n, tuple(mix or settings.mix), settings.seed if seed is None else seed
    if len(arms) not in (1, 2) or len(set(arms)) != len(arms):
        raise InvalidInput(f"--arms {','.join(arms)}: give one arm, or two different ones for a comparison")
    config = {
        "n": n,
        "mix": list(mix),
        "seed": seed,
        "arms": [[arm, arm_identity(study, arm)] for arm in arms],
        "generator": study.config.generator.model_dump(mode="json"),
    }
    if done := finished_run(study, "sets", config):
        return {**_summary(study, done.run_id), "already_done": True}
    conditions = draw_conditions(study, n, mix, seed)
    with start_run(study, "sets", config, inputs={}) as run:
        with study.db.write() as connection:
            save_conditions(connection, conditions)
        _sample_missing(study, run, conditions, list(arms), seed)
        run.result = _summary(study, run.run_id)
    return run.result


def _sample_missing(study: Study, run: Run, conditions: list[StoredCondition], arms: list[str], seed: int) -> None:
    """Sample chunk by chunk. Chunks are fixed by the plan, not by what is left, so a resumed run gives equal images."""
    from generation.adapters import load_arm

    known = {int(r["ordinal"]) for r in study.db.rows("SELECT ordinal FROM image_sets WHERE run_id = ?", [run.run_id])}
    stacks: dict[str, Any] = {}
    sets_per_chunk = max(1, study.config.generator.batch_size // SET_SIZE)
    with bar("sampling sets", len(conditions)) as advance:
        advance(len(known))
        for mode in MODES:
            ordinals = [i for i, condition in enumerate(conditions) if condition.mode == mode]
            for start in range(0, len(ordinals), sets_per_chunk):
                chunk = ordinals[start : start + sets_per_chunk]
                if known.issuperset(chunk):
                    continue
                for arm in arms:
                    stacks.setdefault(arm, None)
                    stacks[arm] = stacks[arm] or load_arm(study, arm)
                _sample_chunk(study, run, [conditions[i] for i in chunk], chunk, stacks, seed)
                advance(len(chunk))


def _slots(arms: list[str], ordinal: int, seed: int) -> list[tuple[str, int]]:
    """(arm, seed index) of the four slots: one arm has seeds 0-3; two arms share seeds 0-1, in shuffled order."""
    if len(arms) == 1:
        return [(arms[0], k) for k in range(SET_SIZE)]
    both = [(arm, k) for k in range(SET_SIZE // 2) for arm in arms]
    return [both[i] for i in np.random.default_rng([seed, 202, ordinal]).permutation(SET_SIZE)]


def _sample_chunk(
    study: Study, run: Run, conditions: list[StoredCondition], ordinals: list[int], stacks: dict[str, Any], seed: int
) -> None:
    arms = list(stacks)
    images: dict[tuple[int, str, int], Any] = {}
    plan = {ordinal: _slots(arms, ordinal, seed) for ordinal in ordinals}
    for arm, stack in stacks.items():
        jobs = [
            (condition, ordinal, k)
            for condition, ordinal in zip(conditions, ordinals, strict=True)
            for a, k in plan[ordinal]
            if a == arm
        ]
        sampled = sample_stored(
            study, stack, [job[0] for job in jobs], [image_seed(seed, ordinal, k) for _, ordinal, k in jobs]
        )
        images.update({(ordinal, arm, k): image for (_, ordinal, k), image in zip(jobs, sampled, strict=True)})
    with study.db.write() as connection:
        for condition, ordinal in zip(conditions, ordinals, strict=True):
            set_id = f"{run.run_id}-{ordinal:05d}"
            connection.execute(
                "INSERT INTO image_sets VALUES (?, ?, ?, ?, ?)",
                (set_id, run.run_id, ordinal, condition.condition_id, "rating" if len(arms) == 1 else "comparison"),
            )
            for slot, (arm, k) in enumerate(plan[ordinal]):
                sha = study.store.put_image(connection, images[ordinal, arm, k], "synthetic")
                connection.execute(
                    "INSERT INTO set_images VALUES (?, ?, ?, ?, ?)",
                    (set_id, slot, sha, image_seed(seed, ordinal, k), arm),
                )


def sample_stored(study: Study, stack: Any, conditions: Sequence[StoredCondition], seeds: Sequence[int]) -> np.ndarray:
    """Sample stored conditions with the study's steps, guidance and scheduler; (N, H, W) uint8."""
    from generation.conditions import Condition
    from generation.sampling import sample

    settings = study.config.generator
    cache: dict[str, Any] = {}
    for condition in conditions:
        cache.setdefault(
            condition.condition_id, Condition(condition.text, mask_stack(study, condition.masks, stack.structures))
        )
    images = sample(
        stack,
        [cache[condition.condition_id] for condition in conditions],
        list(seeds),
        n_steps=settings.n_steps,
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
    )
    return np.asarray(images)


def _summary(study: Study, run_id: str) -> dict[str, Any]:
    rows = study.db.rows(
        "SELECT mode, count(*) AS n FROM image_sets JOIN conditions USING (condition_id) WHERE run_id = ?"
        " GROUP BY mode",
        [run_id],
    )
    by_mode = {row["mode"]: row["n"] for row in rows}
    return {"run_id": run_id, "n_sets": sum(by_mode.values()), "modes": {mode: by_mode.get(mode, 0) for mode in MODES}}
