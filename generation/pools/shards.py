"""Shards of a pool: a stretch of ordinals that is drawn, sampled and stored as one; whole in the record or not at all.

A shard's batches are fixed by the shard alone, so its images do not depend on which worker samples it, on what was
stored before, or on how often it was interrupted. Input: a `PoolPlan`. Output: image files and rows of ``conditions``,
``masks``, ``images`` and ``pool_images``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import save_conditions

if TYPE_CHECKING:
    from radpref.data.config.generation import GeneratorConfig
    from radpref.data.imaging.images import ImageFile
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study
    from radpref.generation.pools.plan import Item, PoolPlan
    from radpref.generation.stack.models import GeneratorStack

Write = Callable[[int, Sequence[int], npt.NDArray[np.uint8]], None]
"""Takes images as they come: the shard's index, their places in it, the images (n, H, W)."""
N_WRITERS = 4
"""Threads that encode and write image files beside the sampling."""
N_DRAWERS = 4
DRAWN_TOGETHER = 32
"""Threads that transform and write masks beside it, and how many images each draws at a time."""


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to sample a shard: plain values, so that it can be sent.

    texts: one per image, None without; masks: packed bits (n, ceil(S * H * W / 8)), None without; mask_shape:
    (S, H, W); structures: names of the planes; seeds: one per image.
    """

    index: int
    texts: tuple[str | None, ...]
    masks: npt.NDArray[np.uint8] | None
    mask_shape: tuple[int, ...]
    structures: tuple[str, ...]
    seeds: tuple[int, ...]

    def mask(self, place: int, structures: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """The mask of one image, its planes in the order of ``structures``; those it does not have are black.

        Raises:
            InvalidInput: the mask has a plane with pixels that is not among ``structures``.
        """
        if self.masks is None:
            return None
        flat = np.unpackbits(self.masks[place], count=int(np.prod(self.mask_shape))).astype(np.bool_)
        planes = dict(zip(self.structures, flat.reshape(self.mask_shape), strict=True))
        unknown = [name for name, plane in planes.items() if name not in structures and plane.any()]
        if unknown:
            raise InvalidInput(
                f"structure '{unknown[0]}' is not among {list(structures)}; use a generator that knows it, or leave it"
                " out of data.structures"
            )
        blank = np.zeros(self.mask_shape[1:], np.bool_)
        return np.stack([planes.get(name, blank) for name in structures])


def make_job(index: int, items: Sequence[Item], seeds: Sequence[int], structures: Sequence[str]) -> ShardJob:
    """The job of a shard's items."""
    shape = next((plane.shape for item in items for plane in item.planes.values()), None)
    masks = None
    if shape is not None:
        blank = np.zeros(shape, np.bool_)
        stacks = [np.stack([item.planes.get(name, blank) for name in structures]) for item in items]
        masks = np.stack([np.packbits(stack) for stack in stacks])
    texts = tuple(item.condition.text for item in items)
    return ShardJob(index, texts, masks, (len(structures), *(shape or ())), tuple(structures), tuple(seeds))


def sample_job(
    stack: GeneratorStack, job: ShardJob, settings: GeneratorConfig, write: Write | None = None
) -> npt.NDArray[np.uint8]:
    """Sample a shard, (n, H, W) uint8; ``write`` gets every batch as it is done."""
    from radpref.generation.sampling.sampler import sample
    from radpref.generation.stack.conditions import Condition

    conditions = [Condition(text, job.mask(place, stack.structures)) for place, text in enumerate(job.texts)]
    images = sample(
        stack,
        conditions,
        job.seeds,
        n_steps=settings.n_steps,
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
        precision=settings.precision,
        on_batch=None if write is None else lambda places, part: write(job.index, places, part),
    )
    return np.asarray(images, dtype=np.uint8)


@dataclass
class Shard:
    """A shard under way: its items and seeds, and the files that are being written."""

    start: int
    items: list[Item]
    seeds: list[int]
    files: dict[int, Future[ImageFile]]


class ShardStore:
    """Draws shards ahead of the sampling, writes image files beside it, and stores whole shards."""

    def __init__(self, study: Study, run: Run, plan: PoolPlan, arm: str, size: int) -> None:
        self.study, self.run, self.plan, self.arm, self.size = study, run, plan, arm, size
        self._under_way: dict[int, Shard] = {}
        self._writers = ThreadPoolExecutor(N_WRITERS, thread_name_prefix="png")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._drawers = ThreadPoolExecutor(N_DRAWERS, thread_name_prefix="draw")

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._ahead, self._drawers, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)

    def missing(self) -> list[int]:
        """Indices of the shards that are not stored yet."""
        sql = "SELECT DISTINCT ordinal / ? AS shard FROM pool_images WHERE run_id = ?"
        stored = {int(row["shard"]) for row in self.study.db.rows(sql, [self.size, self.run.run_id])}
        return [index for index in range(-(-self.plan.n // self.size)) if index not in stored]

    def n_images(self, index: int) -> int:
        """Images in a shard; the last one may be shorter."""
        return min(self.size, self.plan.n - index * self.size)

    def jobs(self, indices: Sequence[int]) -> Iterator[ShardJob]:
        """The jobs of shards, each drawn (and its masks written) while the one before is sampled."""
        waiting: Future[ShardJob] | None = None
        for index in indices:
            drawing = self._ahead.submit(self._draw, index)
            if waiting is not None:
                yield waiting.result()
            waiting = drawing
        if waiting is not None:
            yield waiting.result()

    def _draw(self, index: int) -> ShardJob:
        from radpref.generation.sampling.sets import image_seed

        start = index * self.size
        stop = start + self.n_images(index)
        pieces = [(a, min(a + DRAWN_TOGETHER, stop)) for a in range(start, stop, DRAWN_TOGETHER)]
        items = [item for piece in self._drawers.map(self._draw_piece, pieces) for item in piece]
        task = self.plan.task.name
        seeds = [image_seed("pool", self.plan.seed, task, start + i) for i in range(len(items))]
        self._under_way[index] = Shard(start, items, seeds, {})
        return make_job(index, items, seeds, self.study.config.data.structures)

    def _draw_piece(self, piece: tuple[int, int]) -> list[Item]:
        try:
            return self.plan.draw(*piece)
        finally:
            self.study.db.close()  # this thread's connection

    def write(self, index: int, places: Sequence[int], images: npt.NDArray[np.uint8]) -> None:
        """Hand images to the writers."""
        files = self._under_way[index].files
        for place, image in zip(places, images, strict=True):
            files[place] = self._writers.submit(self.study.store.write_image, image, "synthetic")

    def commit(self, index: int) -> int:
        """Wait for a shard's files and enter its rows in one transaction; returns its number of images.

        Raises:
            StorageFull: the disk is full; nothing of this shard is in the record.
        """
        shard = self._under_way[index]
        files = [shard.files[place].result() for place in range(len(shard.items))]
        task = self.plan.task.name
        with self.study.db.write() as connection:
            for item in shard.items:
                for mask in item.mask_files:
                    self.study.store.add_mask(connection, mask)
            save_conditions(connection, {item.condition.condition_id: item.condition for item in shard.items}.values())
            for file in files:
                self.study.store.add_image(connection, file, "synthetic")
            connection.executemany(
                "INSERT INTO pool_images VALUES (?,?,?,?,?,?,?,?)",
                [
                    (self.run.run_id, task, self.arm, shard.start + i, file.sha256, item.condition.condition_id, seed,
                     json.dumps(item.labels))
                    for i, (file, item, seed) in enumerate(zip(files, shard.items, shard.seeds, strict=True))
                ],
            )  # fmt: skip
        del self._under_way[index]
        return len(files)
