"""How a pool is sampled: the engines by name, their options, and what every engine can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from radpref.generation.pools.shards import ShardJob, Write

ENGINES = ("process", "ray")


@dataclass(frozen=True)
class EngineOptions:
    """How to sample.

    workers: of Ray, 0: one a GPU, or one a processor core; gpus: the part of a GPU that each takes; threads: processor
    threads, 0: this process as torch has it, a Ray worker one; device: auto, cpu, cuda, cuda:N or mps.
    """

    name: str = "process"
    workers: int = 0
    gpus: float = 1.0
    threads: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Pool:
    """One pool as a command reports it: its run, its images, how many were sampled now, how many of each class."""

    run_id: str
    n: int
    sampled: int
    classes: dict[str, int]


class Engine(Protocol):
    """Samples jobs."""

    def run(self, jobs: Iterator[ShardJob], write: Write) -> Iterator[int]:
        """Sample all jobs; yields the index of each shard whose images have all been handed to ``write``."""
        ...
