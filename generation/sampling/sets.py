"""Sets of four images of one condition: rating sets of one arm, comparison sets of two arms.

Input: validation-split records (their captions and masks) and the arms to sample from. Output: rows of
``conditions``, ``image_sets`` and ``set_images`` with stored images (paper, "Preference collection").
A comparison set holds two images of each arm, of equal condition and seeds, in shuffled slots; its patient is in no
rating set, so that no arm was trained on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.reader_study.lifecycle import stage
from radpref.data.study.conditions import MODES, StoredCondition, load_condition, mask_stack, save_conditions
from radpref.data.study.runs import once
from radpref.generation.sampling.draws import allot_modes, draw_conditions, draw_unrated, require_conditions
from radpref.generation.stack.places import require_arms, require_masks

if TYPE_CHECKING:
    from radpref.data.config.generation import GeneratorConfig
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study
    from radpref.generation.stack.conditions import Condition
    from radpref.generation.stack.models import GeneratorStack

SET_SIZE = 4


def image_seed(*parts: object) -> int:
    """A 48-bit seed that depends on all ``parts`` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def run_sets(
    study: Study,
    *,
    n: int | None = None,
    mix: Sequence[int] | None = None,
    seed: int | None = None,
    arms: Sequence[str] = ("baseline",),
) -> dict[str, Any]:
    """Sample sets; the same call again resumes. Returns counts per mode and the run's id.

    With two arms the sets are a blinded reader comparison: two images of each arm with paired seeds, shuffled;
    their purpose is ``comparison`` and they are never trained on. Without ``n`` there are as many of them as
    sets.n of study.toml says, or as the patients that no rating set used allow.

    Raises:
        InvalidInput: a bad mix, arms other than one, or two, no record for a mode that is wanted, no ControlNet for
            masks, or too few patients for a comparison.
        NotFound: no such arm or generator, or an empty validation split.
        Conflict: the study is locked.
        StorageFull: the disk is full; the same command resumes.
    """
    settings = study.config.sets
    wanted, mix, seed = n or settings.n, tuple(mix or settings.mix), settings.seed if seed is None else seed
    _check_sets(study, wanted, mix, arms)
    from radpref.generation.stack.adapters import arm_identity  # torch comes with it

    config: dict[str, Any] = {
        "n": wanted,
        "mix": list(mix),
        "seed": seed,
        "arms": [[arm, arm_identity(study, arm)] for arm in arms],
        "generator": study.config.generator.model_dump(mode="json"),
    }
    if len(arms) == 2:
        config |= {"conditions": "unrated", "at_most": n is None}

    def work(run: Run) -> dict[str, Any]:
        _refuse_locked(study)
        if len(arms) == 1:
            return _sample_sets(study, run, draw_conditions(study, wanted, mix, seed), arms, seed)
        planned = _planned(study, run) or draw_unrated(study, wanted, mix, seed, at_most=n is None)
        return _sample_sets(study, run, planned, arms, seed)

    return once(study, "sets", config, work).outcome


def _check_sets(study: Study, n: int, mix: Sequence[int], arms: Sequence[str]) -> None:
    """Refuse sets that cannot be sampled, by what study.toml, database and disk say alone; loads no torch."""
    if len(arms) not in (1, 2) or len(set(arms)) != len(arms):
        raise InvalidInput(f"--arms {','.join(arms)}: give one arm, or two different ones for a comparison")
    modes = allot_modes(n, mix)
    require_arms(study, arms)
    if not study.db.value("SELECT 1 FROM runs WHERE kind = 'sets' LIMIT 1"):  # else these may be sampled already
        _refuse_locked(study)
    require_conditions(study, modes)
    if masked := [mode for mode, count in zip(MODES, modes, strict=True) if count and mode != "T2I"]:
        require_masks(study, f"{' and '.join(masked)} sets")


def _refuse_locked(study: Study) -> None:
    """Say before any sampling what the database would say after it."""
    if (found := stage(study.db)) in ("locked", "frozen"):
        raise Conflict(
            f"the study is {found}: its sets are fixed. Sample comparison sets before the lock"
            " (`radpref study lock --keep-scores` keeps the scores given so far), or in another study"
        )


def _plan(run: Run) -> Path:
    """The conditions of a comparison in the order of its sets: rating sets made meanwhile must not change them."""
    return run.folder / "conditions.json"


def _planned(study: Study, run: Run) -> list[StoredCondition] | None:
    """What a comparison had drawn before it was interrupted."""
    if not (path := _plan(run)).exists():
        return None
    return [load_condition(study, name) for name in json.loads(path.read_text(encoding="utf-8"))]


def _sample_sets(
    study: Study, run: Run, conditions: list[StoredCondition], arms: Sequence[str], seed: int
) -> dict[str, Any]:
    from radpref.generation.sampling.sampler import load_sampler

    stacks = {arm: load_sampler(study, arm) for arm in arms}  # a broken one is found before anything is written
    with study.db.write() as connection:
        save_conditions(connection, conditions)
    if len(arms) == 2:
        write_atomic(_plan(run), json.dumps([one.condition_id for one in conditions]) + "\n")
    _sample_missing(study, run, conditions, stacks, seed)
    return _summary(study, run.run_id)


def _sample_missing(
    study: Study, run: Run, conditions: list[StoredCondition], stacks: dict[str, Any], seed: int
) -> None:
    """Sample chunk by chunk. Chunks are fixed by the plan, not by what is left, so a resumed run gives equal images."""
    known = {int(r["ordinal"]) for r in study.db.rows("SELECT ordinal FROM image_sets WHERE run_id = ?", [run.run_id])}
    sets_per_chunk = max(1, study.config.generator.batch_size // SET_SIZE)
    with bar("sampling sets", len(conditions)) as advance:
        advance(len(known))
        for mode in MODES:
            ordinals = [i for i, condition in enumerate(conditions) if condition.mode == mode]
            for start in range(0, len(ordinals), sets_per_chunk):
                chunk = ordinals[start : start + sets_per_chunk]
                if known.issuperset(chunk):
                    continue
                _sample_chunk(study, run, [conditions[i] for i in chunk], chunk, stacks, seed)
                advance(len(chunk))


def _slots(arms: list[str], ordinal: int, seed: int) -> list[tuple[str, int]]:
    """(arm, seed index) of the four slots: one arm has seeds 0-3; two arms share seeds 0-1, in shuffled order."""
    if len(arms) == 1:
        return [(arms[0], k) for k in range(SET_SIZE)]
    both = [(arm, k) for k in range(SET_SIZE // 2) for arm in arms]
    return [both[i] for i in np.random.default_rng([seed, 202, ordinal]).permutation(SET_SIZE)]


def _set_seed(arms: Sequence[str], seed: int, ordinal: int, k: int) -> int:
    """Seed of the k-th image: equal in the two arms of a comparison, and never that of a rating set."""
    return image_seed(seed, ordinal, k) if len(arms) == 1 else image_seed("comparison", seed, ordinal, k)


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
        seeds = [_set_seed(arms, seed, ordinal, k) for _, ordinal, k in jobs]
        sampled = sample_stored(study, stack, [job[0] for job in jobs], seeds)
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
                    (set_id, slot, sha, _set_seed(arms, seed, ordinal, k), arm),
                )


def sample_stored(study: Study, stack: Any, conditions: Sequence[StoredCondition], seeds: Sequence[int]) -> np.ndarray:
    """Sample stored conditions with the study's steps, guidance and scheduler; (N, H, W) uint8."""
    from radpref.generation.stack.conditions import Condition

    cache: dict[str, Condition] = {}
    for condition in conditions:
        cache.setdefault(
            condition.condition_id, Condition(condition.text, mask_stack(study, condition.masks, stack.structures))
        )
    return sample_conditions(
        study.config.generator, stack, [cache[condition.condition_id] for condition in conditions], seeds
    )


def sample_conditions(
    settings: GeneratorConfig, stack: GeneratorStack, conditions: Sequence[Condition], seeds: Sequence[int]
) -> np.ndarray:
    """Sample conditions with a study's steps, guidance and scheduler; (N, H, W) uint8."""
    from radpref.generation.sampling.sampler import sample

    images = sample(
        stack,
        conditions,
        list(seeds),
        n_steps=settings.n_steps,
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
        precision=settings.precision,
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
