"""Who samples the shards of a pool: this process, or workers under Ray. Both give the same images.

An engine takes jobs, hands images to ``write`` as they come, and yields the index of each shard that is complete. It
never touches the record: the caller alone writes the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from radpref.data.core.errors import InvalidInput
from radpref.generation.pools.options import ENGINES, Engine, EngineOptions
from radpref.generation.pools.ray_engine import RayEngine

if TYPE_CHECKING:
    from radpref.data.study.study import Study
    from radpref.generation.pools.shards import ShardJob, Write
    from radpref.generation.stack.models import GeneratorStack


class ProcessEngine:
    """Samples in this process, one shard after the other; the model is loaded at the first job."""

    def __init__(self, study: Study, arm: str, options: EngineOptions) -> None:
        self.study, self.arm, self.options = study, arm, options
        self._stack: GeneratorStack | None = None

    def run(self, jobs: Iterator[ShardJob], write: Write) -> Iterator[int]:
        """As `Engine.run`; batches are handed out as they are done."""
        import torch

        from radpref.generation.pools.shards import sample_job
        from radpref.generation.sampling.sampler import load_sampler

        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        for job in jobs:
            if self._stack is None:
                self._stack = load_sampler(self.study, self.arm, self.options.device)
            sample_job(self._stack, job, self.study.config.generator, write)
            yield job.index


def make_engine(study: Study, arm: str, options: EngineOptions) -> Engine:
    """The engine of a name.

    Raises:
        InvalidInput: an unknown engine, or Ray is not installed.
    """
    if options.name not in ENGINES:
        raise InvalidInput(f"--engine {options.name}: choose one of {', '.join(ENGINES)}")
    if options.name == "ray":
        return RayEngine(study, arm, options)
    return ProcessEngine(study, arm, options)
