"""Augmentation pools: synthetic training images for each downstream task and arm, with labels.

Input: training-split records and an arm's generator. Output: rows of ``pool_images``; a multiple m of n real images
takes the first m*n ordinals, so 2x lies inside 5x, and so on. All arms share conditions and seeds, ordinal by ordinal
(paper, "Downstream benchmark"). A larger pool begins with the shards of a smaller one and does not sample them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data.errors import InvalidInput, NotFound
from data.pools import PLAIN_ARMS, PROXY_FILTERED, class_counts, pool_run
from data.progress import bar
from data.records import start_run
from generation.pools.engines import EngineOptions, make_engine
from generation.pools.plan import Material, PoolPlan, gather
from generation.stack.device import check_device
from generation.stack.places import require_arms, require_masks

if TYPE_CHECKING:
    from data.config import TaskConfig
    from data.records import Run
    from data.study import Study

RECIPE = 2
"""Changes where equal settings would give other images."""


def pool_size(study: Study, task: TaskConfig, multiple: int | None = None, material: Material | None = None) -> int:
    """Images the grid needs at most: the largest multiple (or ``multiple``) of the largest real subset of the task."""
    settings = study.config.downstream
    usable = (gather(study, task) if material is None else material).n_usable
    times = max(settings.multiples, default=0) if multiple is None else multiple
    return math.ceil(max(settings.fractions) * usable) * times


def run_pool(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    n: int | None = None,
    multiple: int | None = None,
    engine: EngineOptions | None = None,
) -> dict[str, Any]:
    """Sample the pools of all tasks and arms that the grid of study.toml needs; resumes; returns counts.

    A grid of arms without synthetic images needs none: nothing is done, unless ``arms`` ask for such pools.

    Args:
        n: images of each pool, instead of what the grid needs.
        multiple: of the largest real subset, instead of the largest of downstream.multiples.
        engine: who samples; default: section [pool] of study.toml.

    Raises:
        InvalidInput: arms without synthetic images, an unknown task, engine or device word, or material for a label is
            missing.
        NotFound: an arm has no model yet.
        StorageFull: the disk is full; the same command resumes.
    """
    settings = study.config.downstream
    wanted = [task for task in settings.tasks if tasks is None or task.name in tasks]
    if tasks is not None and len(wanted) != len(set(tasks)):
        raise InvalidInput(
            f"unknown task in {', '.join(tasks)}; study.toml has {', '.join(t.name for t in settings.tasks)}"
        )
    if n is not None and multiple is not None:
        raise InvalidInput(f"--n {n} and --multiple {multiple} both say how many images: give one of them")
    if min(n or 1, multiple or 1) < 1:
        raise InvalidInput(f"--n {n}, --multiple {multiple}: give 1 or more")
    names = tuple(arm for arm in arms or settings.arms if arm not in PLAIN_ARMS)
    if not names and not arms:
        return {"images": {}, "pools": {}}  # a grid of real images alone
    if not names:
        raise InvalidInput(f"arms {', '.join(arms or settings.arms)} have no synthetic images: name another arm")
    if engine is None:
        engine = EngineOptions(study.config.pool.engine, study.config.pool.workers)
    check_device(engine.device)
    make_engine(study, names[0], engine)  # a missing Ray is said before any work
    require_arms(study, [arm for arm in names if arm != PROXY_FILTERED])
    for task in wanted:
        if task.kind == "segmentation":
            require_masks(study, f"the pool of task '{task.name}'")
    plans = [_plan(study, task, n, multiple) for task in wanted]  # what the last task lacks is said before the first
    counts: dict[str, int] = {}
    pools: dict[str, Any] = {}
    for task, plan in zip(wanted, plans, strict=True):
        for arm in names:
            if arm == PROXY_FILTERED:
                from generation.pools.proxy_filter import filter_pool

                pool = filter_pool(study, plan, engine)
            else:
                pool = sample_pool(study, plan, arm, engine)
            counts[f"{task.name}/{arm}"] = pool["n"]
            pools[f"{task.name}/{arm}"] = pool
    return {"images": counts, "pools": pools}


def _plan(study: Study, task: TaskConfig, n: int | None, multiple: int | None) -> PoolPlan:
    material = gather(study, task)
    size = n or pool_size(study, task, multiple, material)
    return PoolPlan(study, task, size, study.config.downstream.seed, material)


def sample_pool(
    study: Study,
    plan: PoolPlan,
    arm: str,
    engine: EngineOptions,
    *,
    model: str | None = None,
    part_of: int | None = None,
) -> dict[str, Any]:
    """Sample what is missing of one pool.

    Args:
        model: the arm whose generator samples it, by default ``arm``.
        part_of: the plan repeats its first so many images' classes; pools that repeat others do not begin alike.

    Returns:
        run_id, n, sampled (now), classes (images of each).
    """
    from generation.pools.shards import ShardStore
    from generation.stack.adapters import arm_identity

    shard_size = study.config.pool.shard_size
    recipe = {
        "task": plan.task.model_dump(mode="json"),
        "arm": arm,
        "model": arm_identity(study, model or arm),
        "seed": plan.seed,
        "generator": study.config.generator.model_dump(mode="json"),
        "shard_size": shard_size,
        "recipe": RECIPE,
    }
    if part_of is not None:
        recipe["part_of"] = part_of

    def finished() -> tuple[str, int] | None:
        """(run, images) of an equal pool that is large enough and the one that the grid reads."""
        for run_id, n, status in _equal_pools(study, recipe):
            if status == "done" and n >= plan.n and run_id == _newest(study, plan.task.name, arm):
                return run_id, n
        return None

    if done := finished():
        return _summary(study, *done, sampled=0)
    with start_run(study, "pool", {**recipe, "n": plan.n}, unless=finished) as run:
        before = [run_id for run_id, _, _ in _equal_pools(study, recipe) if run_id != run.run_id]
        _adopt(study, run, plan.n, shard_size, before)
        with ShardStore(study, run, plan, arm, shard_size) as shards:
            missing = shards.missing()
            sampled = sum(map(shards.n_images, missing))
            with bar(f"pool {plan.task.name} / {arm}", plan.n) as advance:
                advance(plan.n - sampled)
                for index in make_engine(study, model or arm, engine).run(shards.jobs(missing), shards.write):
                    advance(shards.commit(index))
        run.result = _summary(study, run.run_id, plan.n, sampled)
    return run.result


def _newest(study: Study, task: str, arm: str) -> str | None:
    """The pool that the grid reads now. An older equal one is taken over by a new run, to be the newest again."""
    try:
        return pool_run(study, task, arm)
    except NotFound:
        return None


def _summary(study: Study, run_id: str, n: int, sampled: int) -> dict[str, Any]:
    return {"run_id": run_id, "n": n, "sampled": sampled, "classes": class_counts(study, run_id)}


def _equal_pools(study: Study, recipe: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(run, images, status) of pools that differ from a recipe in their number of images alone, largest first."""
    found = []
    for row in study.db.rows("SELECT run_id, config, status FROM runs WHERE kind = 'pool'"):
        config = json.loads(row["config"])
        n = config.pop("n", 0)
        if config == recipe:
            found.append((str(row["run_id"]), int(n), str(row["status"])))
    return sorted(found, key=lambda one: (-one[1], one[0]))


def _adopt(study: Study, run: Run, n: int, shard_size: int, others: Sequence[str]) -> None:
    """Take over the whole shards of equal pools: a shard's images do not depend on how many come after it."""
    for other in others:
        with study.db.write() as connection:
            connection.execute(
                "INSERT INTO pool_images SELECT ?, task, arm, ordinal, image_sha, condition_id, seed, labels"
                " FROM pool_images p WHERE run_id = ? AND ordinal < ? AND ordinal / ? IN"
                " (SELECT ordinal / ? FROM pool_images WHERE run_id = ? GROUP BY 1 HAVING count(*) = ?)"
                " AND ordinal / ? NOT IN (SELECT ordinal / ? FROM pool_images WHERE run_id = ?)",
                (
                    run.run_id, other, n // shard_size * shard_size, shard_size,
                    shard_size, other, shard_size, shard_size, shard_size, run.run_id,
                ),
            )  # fmt: skip
