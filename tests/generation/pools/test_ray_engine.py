"""Pools under Ray: the same bytes as in this process, also when workers are killed in the middle."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.data.study.pools import pool_rows
from radpref.generation.pools.engines import ProcessEngine
from radpref.generation.pools.options import EngineOptions
from radpref.generation.pools.pool import run_pool
from radpref.generation.pools.ray_engine import MAX_TRIES, RayEngine
from tests.generation.pools.test_pool import POOL_TOML
from tests.support.errors import refuses
from tests.support.sampling import open_copy

pytest.importorskip("ray")
FACTS = ("ordinal", "condition_id", "seed", "labels", "image_sha")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_workers_give_the_same_bytes_and_one_that_is_killed_loses_its_shard_only(tmp_path, tiny_study, monkeypatch):
    import ray

    threads, killed = torch.get_num_threads(), []
    toml = POOL_TOML.replace("shard_size = 8", "shard_size = 3")
    made = here, there = [open_copy(tiny_study.root, tmp_path / name, toml) for name in ("here", "there")]
    run_pool(here, arms=["baseline"], tasks=["outline"])
    real = RayEngine.run

    def run_and_kill(self, jobs, write):
        for index in real(self, jobs, write):
            if not killed:
                killed.append(ray.get(self._workers[0].__ray_call__.remote(lambda worker: os.getpid())))
                os.kill(killed[0], signal.SIGKILL)
            yield index

    monkeypatch.setattr(RayEngine, "run", run_and_kill)
    monkeypatch.setattr("radpref.generation.pools.ray_engine.OBJECT_STORE_BYTES", 80 * 1024**2)
    found = run_pool(
        there, arms=["baseline"], tasks=["outline"], engine=EngineOptions("ray", 2, threads=threads, device="cpu")
    )
    assert killed
    assert killed[0] != os.getpid()
    assert found["pools"]["outline/baseline"]["sampled"] == 24
    assert not ray.is_initialized()
    one, two = (
        [[str(row[fact]) for fact in FACTS] for row in pool_rows(study, "outline", "baseline")] for study in made
    )
    assert one == two
    for study in made:
        study.db.close()


class _FakeRay:
    """Enough of Ray for the engine's own decisions: calls run at once, in this process."""

    class exceptions:
        class RayActorError(Exception):
            pass

        class RayTaskError(Exception):
            def __init__(self, cause):
                self.cause = cause

    def __init__(self, sample):
        self.sample, self.actors = sample, 0

    def remote(self, kind):
        return self

    def options(self, **options):
        outer = self

        class Actor:
            def remote(self, *args):
                outer.actors += 1
                return Handle()

        class Handle:
            class sample:
                @staticmethod
                def remote(job):
                    return id(job), job

        return Actor()

    def wait(self, refs, num_returns):
        return refs[:1], refs[1:]

    def get(self, ref):
        return self.sample(ref[1])

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2.0}


def _engine(tiny_study, sample, workers=0):
    engine = RayEngine(tiny_study, "baseline", EngineOptions("ray", workers))
    engine.ray = _FakeRay(sample)
    return engine


class _Job:
    def __init__(self, index):
        self.index = index


def test_a_shard_that_kills_every_worker_ends_the_run_with_its_number(tiny_study):
    def sample(job):
        if job.index == 2:
            raise _FakeRay.exceptions.RayActorError("worker died: out of memory")
        return [0, 0]

    engine, done, written = _engine(tiny_study, sample), [], []
    jobs = iter([_Job(i) for i in range(4)])
    with refuses(RadprefError, 2, 3, "generator.batch_size"):
        done.extend(engine.run(jobs, lambda *piece: written.append(piece)))
    assert set(done) <= {0, 1, 3}
    assert engine.ray.actors == 2 + MAX_TRIES - 1
    assert [piece[0] for piece in written] == done


def test_what_a_worker_says_of_its_input_reaches_the_user(tiny_study):
    def sample(job):
        raise _FakeRay.exceptions.RayTaskError(InvalidInput("structure 'x' is not among []"))

    with refuses(InvalidInput, "x"):
        list(_engine(tiny_study, sample).run(iter([_Job(0)]), lambda *piece: None))
    with refuses(InvalidInput, "--workers", 5, 2):
        list(_engine(tiny_study, sample, workers=5).run(iter([_Job(0)]), lambda *piece: None))


def test_the_engine_of_this_process_hands_out_whole_shards(tiny_study, monkeypatch):
    calls = []
    monkeypatch.setattr("radpref.generation.sampling.sampler.load_sampler", lambda *args: calls.append(args) or "stack")
    monkeypatch.setattr(
        "radpref.generation.pools.shards.sample_job", lambda stack, job, settings, write: calls.append(stack)
    )
    engine = ProcessEngine(tiny_study, "baseline", EngineOptions(device="cpu"))
    assert list(engine.run(iter([_Job(4), _Job(1)]), lambda *piece: None)) == [4, 1]
    assert calls == [(tiny_study, "baseline", "cpu"), "stack", "stack"]  # the model is loaded once
