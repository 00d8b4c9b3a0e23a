"""One pool: the images of one task and arm, sampled shard by shard, adopting those of equal pools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import NotFound
from radpref.data.core.progress import bar
from radpref.data.study.pools import class_counts, pool_run
from radpref.data.study.run_identity import run_identity
from radpref.data.study.runs import once
from radpref.generation.pools.engines import make_engine
from radpref.generation.pools.options import Engine, EngineOptions, Pool
from radpref.generation.pools.plan import PoolPlan

if TYPE_CHECKING:
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

RECIPE = 2
"""Changes where equal settings would give other images."""


def sample_pool(
    study: Study,
    plan: PoolPlan,
    arm: str,
    engine: EngineOptions,
    *,
    model: str | None = None,
    part_of: int | None = None,
) -> Pool:
    """Sample what is missing of one pool.

    Args:
        model: the arm whose generator samples it, by default ``arm``.
        part_of: the plan repeats its first so many images' classes; pools that repeat others do not begin alike.
    """
    from radpref.generation.stack.adapters import arm_identity

    shard_size = study.config.pool.shard_size
    recipe = {
        "task": plan.task.model_dump(mode="json"),
        "arm": arm,
        "model": arm_identity(study, model or arm),
        "seed": plan.seed,
        "generator": study.config.generator.model_dump(mode="json"),
        "shard_size": shard_size,
        "recipe": RECIPE,
        "part_of": part_of,
    }
    newest = _newest(study, plan.task.name, arm)
    for run_id, n, status in _equal_pools(study, recipe):
        if status == "done" and n >= plan.n and run_id == newest:  # large enough, and the one that the grid reads
            return Pool(run_id, n, 0, class_counts(study, run_id))

    def work(run: Run) -> dict[str, Any]:
        before = [run_id for run_id, _, _ in _equal_pools(study, recipe) if run_id != run.run_id]
        _adopt(study, run, plan.n, shard_size, before)
        return _sample_missing(study, run, plan, arm, make_engine(study, model or arm, engine))

    run = once(
        study, "pool", {**recipe, "n": plan.n}, work,
        intact=lambda run: run.run_id == _newest(study, plan.task.name, arm),
    )  # fmt: skip
    return Pool(**{**run.result, **({"sampled": 0} if run.already_done else {})})


def _sample_missing(study: Study, run: Run, plan: PoolPlan, arm: str, engine: Engine) -> dict[str, Any]:
    from radpref.generation.pools.shards import ShardStore

    with ShardStore(study, run, plan, arm, study.config.pool.shard_size) as shards:
        missing = shards.missing()
        sampled = sum(map(shards.n_images, missing))
        with bar(f"pool {plan.task.name} / {arm}", plan.n) as advance:
            advance(plan.n - sampled)
            for index in engine.run(shards.jobs(missing), shards.write):
                advance(shards.commit(index))
    return asdict(Pool(run.run_id, plan.n, sampled, class_counts(study, run.run_id)))


def _newest(study: Study, task: str, arm: str) -> str | None:
    """The pool that the grid reads now. An older equal one is taken over by a new run, to be the newest again."""
    try:
        return pool_run(study, task, arm)
    except NotFound:
        return None


def _equal_pools(study: Study, recipe: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(run, images, status) of pools that differ from a recipe in their number of images alone, largest first."""
    found, wanted = [], run_identity(study, "pool", recipe)
    for row in study.db.rows("SELECT run_id, config, status FROM runs WHERE kind = 'pool'"):
        config = json.loads(row["config"])
        n = config.pop("n", 0)
        if run_identity(study, "pool", config) == wanted:
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
