"""The grid: tasks x fractions x (real only + arms x multiples) x seeds, resumable cell by cell.

Input: study.toml's [downstream], records and pools. Output: a run of kind "grid" whose result holds every cell and the
primary comparisons. Interrupt it anywhere and run it again: finished cells are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import bar
from radpref.data.study.pools import PLAIN_ARMS
from radpref.data.study.runs import start_run
from radpref.data.study.splits import split_manifest
from radpref.downstream.cells.balance import balanced_subset
from radpref.downstream.cells.cells import RECIPE_VERSION, Cell, CellSpec, find_cell, load_predictions, save_cell
from radpref.downstream.cells.tasks import (
    Indices,
    TaskData,
    concatenate,
    load_pool,
    load_split,
    real_subset,
    task_labels,
)
from radpref.downstream.cells.training import Outcome, Recipe, run_recipe
from radpref.downstream.inference.comparisons import compare_family, planned_family
from radpref.downstream.inference.power import power_table, study_example
from radpref.downstream.inference.t_tests import MIN_SEEDS, RELEVANT_DIFFERENCE

if TYPE_CHECKING:
    from radpref.data.config.downstream import TaskConfig
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

LOG = logging.getLogger(__name__)
N_BOOT = 1000
PLACE = ("task", "arm", "fraction", "multiple", "seed")


@dataclass(frozen=True)
class Job:
    """A cell with the data it needs."""

    spec: CellSpec
    recipe: Recipe
    parts: tuple[tuple[TaskData, Indices], ...]  # training data: rows of real records, then of a pool
    validation: TaskData
    test: TaskData

    def run(self) -> Outcome:
        """Read the training rows from the memory maps, train, test."""
        return run_recipe(self.loaded(), self.validation, self.test, self.recipe)

    def loaded(self) -> TaskData:
        """The training data in memory."""
        return concatenate([data.take(rows) for data, rows in self.parts])

    def ready(self) -> Job:
        """The same job with its training data in memory, small enough to be sent to a worker."""
        train = self.loaded()
        return replace(self, parts=((train, np.arange(len(train))),))


def plan_grid(study: Study, tasks: Sequence[TaskConfig]) -> list[Job]:
    """All cells of the grid, seeds outermost so that an interrupted grid is still paired.

    Training data stay memory maps until a cell takes its rows.

    Raises:
        NotFound: records or a pool are missing.
        InvalidInput: a pool is too small, or fewer than 2 seeds.
    """
    settings = study.config.downstream
    if len(set(settings.seeds)) < 2:
        raise InvalidInput(f"downstream.seeds = {list(settings.seeds)}: give at least 2 to compare arms, 5 to conclude")
    loaded = [_load_task(study, task) for task in tasks]
    jobs: list[Job] = []
    for seed in dict.fromkeys(settings.seeds):
        for task, splits, pools in loaded:
            for fraction in settings.fractions:
                jobs += _cells_at(study, task, splits, pools, fraction, seed)
    return jobs


def _load_task(study: Study, task: TaskConfig) -> tuple[TaskConfig, dict[str, TaskData], dict[str, TaskData]]:
    settings = study.config.downstream
    splits = {split: load_split(study, task, split, settings.image_size) for split in ("train", "val", "test")}
    pools = {arm: load_pool(study, task, arm, settings.image_size) for arm in settings.arms if arm not in PLAIN_ARMS}
    return task, splits, pools


def _cells_at(
    study: Study, task: TaskConfig, splits: dict[str, TaskData], pools: dict[str, TaskData], fraction: float, seed: int
) -> Iterator[Job]:
    settings = study.config.downstream
    rows = real_subset(splits["train"], fraction, np.random.default_rng([settings.seed, seed, 11]))
    real = (splits["train"], rows)
    for arm in dict.fromkeys(("real", *(arm for arm in settings.arms if arm in PLAIN_ARMS))):
        yield _job(study, task, splits, (real,), arm, fraction, 0, seed)
    labels = {arm: pool.labels for arm, pool in pools.items()}
    for multiple in settings.multiples if pools else ():
        n_wanted = multiple * len(rows)
        rng = np.random.default_rng([settings.seed, seed, 13])
        draws = balanced_subset(splits["train"].labels[rows], labels, n_wanted, task.name, rng)
        n_drawn = len(next(iter(draws.values())))
        if n_drawn < n_wanted:
            LOG.warning("%s %dx: %d of %d synthetic images, in every arm", task.name, multiple, n_drawn, n_wanted)
        for arm, pool in pools.items():
            yield _job(study, task, splits, (real, (pool, draws[arm])), arm, fraction, multiple, seed)


def _job(
    study: Study, task: TaskConfig, splits: dict[str, TaskData], parts: tuple[tuple[TaskData, Indices], ...],
    arm: str, fraction: float, multiple: int, seed: int,
) -> Job:  # fmt: skip
    settings = study.config.downstream
    # A segmentation step costs several classification steps: half the batch, in every arm alike.
    batch_size = max(2, settings.batch_size // 2) if task.kind == "segmentation" else settings.batch_size
    is_balanced = arm == "real_balanced"
    labels = task_labels(task)
    recipe = Recipe(task.kind, labels, settings.network, settings.n_steps, batch_size, seed, is_balanced)
    spec = CellSpec(
        task.name, task.kind, recipe.labels, arm, fraction, multiple, seed, settings.network, settings.n_steps,
        batch_size, settings.image_size, len(parts[0][1]), sum(len(rows) for _, rows in parts[1:]),
        "+".join(data.identity(rows) for data, rows in parts), splits["val"].identity(), splits["test"].identity(),
        RECIPE_VERSION,
    )  # fmt: skip
    return Job(spec, recipe, parts, splits["val"], splits["test"])


def _work(job: Job) -> Outcome:
    """Train one cell in a worker process with one thread."""
    import torch

    torch.set_num_threads(1)
    return job.run()


def _outcomes(jobs: Sequence[Job], n_workers: int) -> Iterator[tuple[Job, Outcome]]:
    """Train jobs in this process, or in ``n_workers`` processes; yields them as they finish."""
    if n_workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, job.run()
        return
    with ProcessPoolExecutor(min(n_workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        waiting = iter(jobs)
        running: dict[Future[Outcome], Job] = {}
        try:
            while True:
                while len(running) < n_workers and (upcoming := next(waiting, None)) is not None:
                    running[pool.submit(_work, upcoming.ready())] = upcoming
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_grid(study: Study, *, tasks: Sequence[str] | None = None, n_workers: int = 1) -> dict[str, Any]:
    """Train every cell that is not there yet, compare, store the run; returns its result.

    Raises:
        InvalidInput, NotFound, Conflict: see `plan_grid` and `downstream.tasks`.
    """
    settings = study.config.downstream
    wanted = [task for task in settings.tasks if tasks is None or task.name in tasks]
    if tasks is not None and len(wanted) != len(set(tasks)):
        choices = ", ".join(task.name for task in settings.tasks)
        raise InvalidInput(f"unknown task in {', '.join(tasks)}; study.toml has {choices}")
    multiples = settings.multiples if any(arm not in PLAIN_ARMS for arm in settings.arms) else (0,)
    family = planned_family(
        settings.primary, settings.arms, [task.name for task in wanted], settings.fractions, multiples
    )
    jobs = plan_grid(study, wanted)
    config = {"downstream": settings.model_dump(mode="json"), "tasks": [task.name for task in wanted]}
    inputs = {f"{job.spec.task}/val": job.spec.validation_data for job in jobs}
    inputs |= {f"{job.spec.task}/test": job.spec.test_data for job in jobs}
    splits = split_manifest(study.db)
    inputs["splits"] = str(splits["sha256"])
    with start_run(study, "grid", config, inputs) as run:
        cells = _train_cells(study, run, jobs, n_workers)
        run.result = {**grid_result(study, cells, family), "splits": splits}
        result = {"run_id": run.run_id, **run.result}
    return result


def _train_cells(study: Study, run: Run, jobs: Sequence[Job], n_workers: int) -> list[Cell]:
    """The finished cells in the order of ``jobs``; trains those that are missing."""
    found = {job.spec.cell_id: cell for job in jobs if (cell := find_cell(study, job.spec.cell_id)) is not None}
    missing = [job for job in jobs if job.spec.cell_id not in found]
    with bar("downstream cells", len(jobs)) as advance:
        if found:
            advance(len(jobs) - len(missing))
        for job, outcome in _outcomes(missing, n_workers):
            cell = save_cell(study, run, job.spec, outcome)
            found[cell.cell_id] = cell
            run.log(**{key: value for key, value in cell.summary().items() if key != "run_id"})
            advance(1)
    return [found[job.spec.cell_id] for job in jobs]


def grid_result(study: Study, cells: Sequence[Cell], family: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Cells, primary comparisons, the power table and the rules of the verdict, JSON-ready."""
    settings = study.config.downstream
    rng = np.random.default_rng([settings.seed, 17])
    rows = compare_family(cells, family, settings.alpha, lambda cell: load_predictions(study, cell), rng, N_BOOT)
    n_seeds = min((row["n"] for row in rows), default=len(set(settings.seeds)))
    return {
        "cells": [cell.summary() for cell in cells],
        "per_class": [
            {**{key: getattr(cell.spec, key) for key in PLACE}, "class": name, **values}
            for cell in cells
            for name, values in cell.metrics.get("per_class", {}).items()
        ],
        "comparisons": rows,
        "power": power_table(max(n_seeds, 2), len(family), settings.alpha),
        "study_power": study_example(),
        "rules": {
            "alpha": settings.alpha, "family_size": len(family), "min_seeds": MIN_SEEDS,
            "relevant_difference": RELEVANT_DIFFERENCE, "primary": list(settings.primary),
            "n_boot": N_BOOT, "n_seeds": n_seeds,
        },
    }  # fmt: skip
