"""The grid: tasks x fractions x (real only + arms x multiples) x seeds, resumable cell by cell.

Input: study.toml's [downstream], records and pools. Output: a run of kind "grid" whose result holds every cell and the
primary comparisons. Interrupt it anywhere and run it again: finished cells are skipped.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import joblib
import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import bar
from radpref.data.study.pools import PLAIN_ARMS
from radpref.data.study.runs import start_run
from radpref.data.study.splits import split_manifest
from radpref.downstream.cells.balance import balanced_subset
from radpref.downstream.cells.cells import (
    RECIPE_VERSION,
    Cell,
    CellSpec,
    Outcome,
    find_cell,
    load_predictions,
    save_cell,
)
from radpref.downstream.cells.tasks import Indices, LoadedTask, TaskData, concatenate, load_task
from radpref.downstream.cells.training import evaluate_network, train_network
from radpref.downstream.inference.comparisons import planned_family
from radpref.downstream.inference.grid_result import GridResult, grid_result

if TYPE_CHECKING:
    from radpref.data.config.downstream import DownstreamConfig, TaskConfig
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A cell with the data it needs."""

    spec: CellSpec
    parts: tuple[tuple[TaskData, Indices], ...]  # training data: rows of real records, then of a pool
    validation: TaskData
    test: TaskData

    def run(self) -> Outcome:
        """Read the training rows from the memory maps, train, test."""
        return evaluate_network(train_network(self.loaded(), self.spec), self.validation, self.test, self.spec)

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
    loaded = [load_task(study, task) for task in tasks]
    places = itertools.product(dict.fromkeys(settings.seeds), loaded, settings.fractions)
    return [job for seed, task, fraction in places for job in _cells_at(settings, task, fraction, seed)]


def _cells_at(settings: DownstreamConfig, task: LoadedTask, fraction: float, seed: int) -> Iterator[Job]:
    train = task.splits["train"]
    rows = task.real[fraction, seed]
    real = (train, rows)
    for arm in dict.fromkeys(("real", *(arm for arm in settings.arms if arm in PLAIN_ARMS))):
        yield _job(settings, task, (real,), arm, fraction, 0, seed)
    labels = {arm: pool.labels for arm, pool in task.pools.items()}
    for multiple in settings.multiples if task.pools else ():
        n_wanted = multiple * len(rows)
        rng = np.random.default_rng([settings.seed, seed, 13])
        draws = balanced_subset(train.labels[rows], labels, n_wanted, task.config.name, rng)
        n_drawn = len(next(iter(draws.values())))
        if n_drawn < n_wanted:
            LOG.warning(
                "%s %dx: %d of %d synthetic images, in every arm", task.config.name, multiple, n_drawn, n_wanted
            )
        for arm, pool in task.pools.items():
            yield _job(settings, task, (real, (pool, draws[arm])), arm, fraction, multiple, seed)


def _job(
    settings: DownstreamConfig, task: LoadedTask, parts: tuple[tuple[TaskData, Indices], ...],
    arm: str, fraction: float, multiple: int, seed: int,
) -> Job:  # fmt: skip
    name, kind = task.config.name, task.config.kind
    # A segmentation step costs several classification steps: half the batch, in every arm alike.
    batch_size = max(2, settings.batch_size // 2) if kind == "segmentation" else settings.batch_size
    validation, test = task.splits["val"], task.splits["test"]
    spec = CellSpec(
        name, kind, task.labels, arm, fraction, multiple, seed, settings.network, settings.n_steps,
        batch_size, settings.image_size, len(parts[0][1]), sum(len(rows) for _, rows in parts[1:]),
        "+".join(data.identity(rows) for data, rows in parts), validation.identity(), test.identity(),
        RECIPE_VERSION,
    )  # fmt: skip
    return Job(spec, parts, validation, test)


def _work(number: int, job: Job) -> tuple[int, Outcome]:
    """Train one cell in a worker process with one thread."""
    import torch

    torch.set_num_threads(1)
    return number, job.run()


def _outcomes(jobs: Sequence[Job], n_workers: int) -> Iterator[tuple[Job, Outcome]]:
    """Train jobs in this process, or in ``n_workers`` processes; yields them as they finish."""
    if n_workers <= 1 or len(jobs) <= 1:
        yield from ((job, job.run()) for job in jobs)
        return
    # A job is loaded when a worker is free for it: the training data of all at once would fill the memory.
    train = joblib.Parallel(n_workers, return_as="generator_unordered", pre_dispatch=n_workers, max_nbytes=None)
    for number, outcome in train(joblib.delayed(_work)(k, job.ready()) for k, job in enumerate(jobs)):
        yield jobs[number], outcome


def run_grid(study: Study, *, tasks: Sequence[str] | None = None, n_workers: int = 1) -> GridResult:
    """Train every cell that is not there yet, compare, store the run; returns its result."""
    settings = study.config.downstream
    wanted = [task for task in settings.tasks if tasks is None or task.name in tasks]
    names = [task.name for task in wanted]
    if tasks is not None and len(wanted) != len(set(tasks)):
        choices = ", ".join(task.name for task in settings.tasks)
        raise InvalidInput(f"unknown task in {', '.join(tasks)}; study.toml has {choices}")
    family = planned_family(settings, names)
    jobs = plan_grid(study, wanted)
    config = {"downstream": settings.model_dump(mode="json"), "tasks": names}
    inputs = {f"{job.spec.task}/val": job.spec.validation_data for job in jobs}
    inputs |= {f"{job.spec.task}/test": job.spec.test_data for job in jobs}
    splits = split_manifest(study.db)
    inputs["splits"] = splits.sha256
    with start_run(study, "grid", config, inputs) as run, bar("downstream cells", len(jobs)) as advance:
        cells = _train_cells(study, run, jobs, n_workers, advance)
        result = grid_result(settings, cells, family, lambda cell: load_predictions(study, cell))
        result = replace(result, splits=asdict(splits), run_id=run.run_id)
        run.result = result.to_json()
    return result


def _train_cells(
    study: Study, run: Run, jobs: Sequence[Job], n_workers: int, advance: Callable[[int], None]
) -> list[Cell]:
    """The finished cells in the order of ``jobs``; trains those that are missing."""
    found = {job.spec.cell_id: cell for job in jobs if (cell := find_cell(study, job.spec.cell_id)) is not None}
    missing = [job for job in jobs if job.spec.cell_id not in found]
    if found:
        advance(len(jobs) - len(missing))
    for job, outcome in _outcomes(missing, n_workers):
        cell = save_cell(study, run, job.spec, outcome)
        found[cell.cell_id] = cell
        run.log(**{key: value for key, value in cell.row().to_json().items() if key != "run_id"})
        advance(1)
    return [found[job.spec.cell_id] for job in jobs]
