"""Samples the shards of a pool in Ray workers: each holds the model once, the driver alone writes the study.

Optional: ``pip install 'radpref[ray]'``. Without RAY_ADDRESS a private Ray is started on this machine (no dashboard, no
network, a small object store); with it, the workers of that cluster are used, which must see the study's folder at
the same path. A worker that dies loses the shard it had; another one gets it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput, RadprefError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from radpref.data.study.study import Study
    from radpref.generation.pools.options import EngineOptions
    from radpref.generation.pools.shards import ShardJob, Write

LOG = logging.getLogger(__name__)
MAX_TRIES = 3
"""How often a shard is given to a worker before the run ends: what kills three workers will kill the next one."""
OBJECT_STORE_BYTES = 512 * 1024**2
"""Shards travel through it one a worker; Ray's own default would take a third of the memory."""


class Worker:
    """Holds the model of one arm and samples jobs with it; lives in a Ray actor."""

    def __init__(self, root: Path, arm: str, device: str, threads: int) -> None:
        import torch

        from radpref.data.study.study import Study
        from radpref.generation.sampling.sampler import load_sampler

        torch.set_num_threads(threads)
        study = Study(root)
        self.settings = study.config.generator
        self.stack = load_sampler(study, arm, device)
        study.db.close()

    def sample(self, job: ShardJob) -> npt.NDArray[np.uint8]:
        """The images of a shard, (n, H, W)."""
        from radpref.generation.pools.shards import sample_job

        return sample_job(self.stack, job, self.settings)


class RayEngine:
    """Deals jobs out to workers as they become free."""

    def __init__(self, study: Study, arm: str, options: EngineOptions) -> None:
        """Raises InvalidInput where Ray is not installed or an option makes no sense."""
        if options.gpus <= 0:
            raise InvalidInput(f"--gpus {options.gpus}: give the part of a GPU each worker takes, e.g. 0.5")
        try:
            import ray
        except ImportError as error:
            raise InvalidInput("--engine ray needs Ray, which is not installed: pip install 'radpref[ray]'") from error
        self.ray: Any = ray
        self.root, self.arm, self.options = study.root, arm, options
        self.threads = options.threads or 1
        self._workers: list[Any] = []

    def run(self, jobs: Iterator[ShardJob], write: Write) -> Iterator[int]:
        """As `Engine.run`; shards come in the order in which they are done.

        Raises:
            RadprefError: what a worker says of its input, or a shard that ended `MAX_TRIES` workers.
        """
        with self._cluster() as n_workers:
            idle = deque(self._start() for _ in range(n_workers))
            fresh = ((job, 1) for job in jobs)
            again: deque[tuple[ShardJob, int]] = deque()
            running: dict[Any, tuple[Any, ShardJob, int]] = {}
            while True:
                while idle and (task := again.popleft() if again else next(fresh, None)):
                    worker = idle.popleft()
                    running[worker.sample.remote(task[0])] = (worker, *task)
                if not running:
                    return
                ready, _ = self.ray.wait(list(running), num_returns=1)
                worker, job, tries = running.pop(ready[0])
                try:
                    images = self.ray.get(ready[0])
                except self.ray.exceptions.RayActorError as error:
                    again.append((job, self._next_try(job, tries, error)))
                    self._workers.remove(worker)
                    idle.append(self._start())
                    continue
                except self.ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, RadprefError) else error from None
                idle.append(worker)
                write(job.index, range(len(images)), images)
                yield job.index

    def _next_try(self, job: ShardJob, tries: int, error: Exception) -> int:
        reason = " ".join(str(error).split())[:300]
        if tries >= MAX_TRIES:
            raise RadprefError(
                f"shard {job.index} of the pool ended {tries} workers ({reason}); give each more memory or a smaller"
                " generator.batch_size and run the same command again"
            )
        LOG.warning("a worker died with shard %d (%s): another one samples it again", job.index, reason)
        return tries + 1

    def _start(self) -> Any:
        on_gpu = self._on_gpu()
        actor = self.ray.remote(Worker).options(
            num_cpus=0 if on_gpu else self.threads, num_gpus=self.options.gpus if on_gpu else 0, max_restarts=0
        )
        device = self.options.device if self.options.device == "cpu" else "auto"  # Ray shows each worker its own GPU
        self._workers.append(actor.remote(self.root, self.arm, device, self.threads))
        return self._workers[-1]

    def _on_gpu(self) -> bool:
        return self.options.device != "cpu" and self.ray.cluster_resources().get("GPU", 0) > 0

    @contextmanager
    def _cluster(self) -> Iterator[int]:
        """Connect to Ray, or start one; yields the number of workers. One that was there before stays."""
        ours = not self.ray.is_initialized()
        if ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            options: dict[str, Any] = {"runtime_env": {"env_vars": paths}, "log_to_driver": False}
            if "RAY_ADDRESS" not in os.environ:
                options |= {
                    "include_dashboard": False,
                    "object_store_memory": OBJECT_STORE_BYTES,
                    "_node_ip_address": "127.0.0.1",
                }
                if self.options.workers:
                    options["num_cpus"] = max(self.options.workers * self.threads, os.cpu_count() or 1)
            self.ray.init(**options, logging_level=logging.ERROR)
        try:
            yield self._n_workers()
        finally:
            self._workers.clear()
            if ours:
                self.ray.shutdown()

    def _n_workers(self) -> int:
        resources, on_gpu = self.ray.cluster_resources(), self._on_gpu()
        there = resources.get("GPU", 0) / self.options.gpus if on_gpu else resources.get("CPU", 1) / self.threads
        most = max(1, int(there + 1e-6))
        if self.options.workers > most:
            raise InvalidInput(
                f"--workers {self.options.workers}, but Ray has room for {most}: give fewer, or a smaller --gpus"
            )
        return self.options.workers or most
