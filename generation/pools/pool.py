"""Augmentation pools: synthetic training images for each downstream task and arm, with labels.

Input: training-split records and an arm's generator. Output: rows of ``pool_images``; a multiple m of n real images
takes the first m*n ordinals, so 2x lies inside 5x, and so on. All arms share conditions and seeds, ordinal by ordinal
(paper, "Downstream benchmark"). A larger pool begins with the shards of a smaller one and does not sample them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput
from radpref.data.study.pools import PLAIN_ARMS, PROXY_FILTERED
from radpref.generation.pools.engines import make_engine
from radpref.generation.pools.options import EngineOptions, Pool
from radpref.generation.pools.plan import Material, PoolPlan, gather
from radpref.generation.pools.sample_pool import sample_pool
from radpref.generation.stack.device import check_device
from radpref.generation.stack.places import require_arms, require_masks

if TYPE_CHECKING:
    from radpref.data.config.downstream import TaskConfig
    from radpref.data.study.study import Study


def pool_size(study: Study, material: Material, multiple: int | None = None) -> int:
    """Images the grid needs at most: the largest multiple (or ``multiple``) of the largest real subset of the task."""
    settings = study.config.downstream
    times = max(settings.multiples, default=0) if multiple is None else multiple
    return math.ceil(max(settings.fractions) * material.n_usable) * times


def run_pool(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    n: int | None = None,
    multiple: int | None = None,
    engine: EngineOptions | None = None,
) -> dict[str, Any]:
    """Sample the pools of all tasks and arms that the grid of study.toml needs; resumes.

    Returns the images and the `Pool` of each "task/arm" as JSON values. A grid of arms without synthetic images needs
    none: nothing is done, unless ``arms`` ask for such pools.

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
    wanted = _wanted_tasks(study, tasks, n, multiple)
    settings = study.config.downstream
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
    pools: dict[str, Pool] = {}
    for task, plan in zip(wanted, plans, strict=True):
        for arm in names:
            if arm == PROXY_FILTERED:
                from radpref.generation.pools.proxy_filter import filter_pool

                pools[f"{task.name}/{arm}"] = filter_pool(study, plan, engine)
            else:
                pools[f"{task.name}/{arm}"] = sample_pool(study, plan, arm, engine)
    return {
        "images": {name: pool.n for name, pool in pools.items()},
        "pools": {name: asdict(pool) for name, pool in pools.items()},
    }


def _wanted_tasks(study: Study, tasks: Sequence[str] | None, n: int | None, multiple: int | None) -> list[TaskConfig]:
    """The tasks named, after refusing names and sizes that cannot be meant."""
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
    return wanted


def _plan(study: Study, task: TaskConfig, n: int | None, multiple: int | None) -> PoolPlan:
    material = gather(study, task)
    return PoolPlan(study, task, n or pool_size(study, material, multiple), study.config.downstream.seed, material)
