"""The pool of arm "proxy-filtered": of many candidates of the baseline, those a proxy finds most like their disease.

A plan of n images is asked several times over (ten times for the 90th percentile); each candidate is scored against the
prompt of its class, and those at or above the class's percentile are kept. The k-th kept image of a class takes
the class's k-th place in the plan, so that synthetic counts, classes and nested multiples are those of every other arm
(paper, "Proxy model"). Only prompts of training records and synthetic images are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import save_array
from radpref.data.core.progress import bar
from radpref.data.imaging.images import to_uint8
from radpref.data.study.pools import NORMAL, PROXY_CANDIDATES, PROXY_FILTERED, class_counts
from radpref.data.study.runs import once
from radpref.generation.measuring.proxy_scorer import ProxyScorer
from radpref.generation.measuring.roles import register_network
from radpref.generation.pools.options import Pool
from radpref.generation.pools.plan import PoolPlan
from radpref.generation.stack.adapters import arm_identity
from radpref.generation.stack.places import BASELINE

if TYPE_CHECKING:
    from radpref.data.config.alignment import ProxyConfig
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study
    from radpref.generation.pools.options import EngineOptions

SCORE_BATCH = 256


@dataclass(frozen=True)
class ClassFilter:
    """One class under the filter: candidates and how many of them passed, the threshold, mean scores (cosines)."""

    candidates: int
    kept: int
    threshold: float
    mean: float
    mean_kept: float


@dataclass(frozen=True)
class FilteredPool(Pool):
    """A filtered pool, how many candidates it was chosen from, and the filter of each class."""

    candidates: int
    by_class: dict[str, ClassFilter]


class CandidatePlan(PoolPlan):
    """A plan's classes ``multiple`` times over; its first n images are those of the plan itself."""

    def __init__(self, plan: PoolPlan, multiple: int) -> None:
        """Extend `plan`; prompts and masks go on where it ends."""
        super().__init__(plan.study, plan.task, plan.n, plan.seed, plan.material)
        self.n = plan.n * multiple
        if self.task.kind != "segmentation":
            self.order = np.tile(self.order, multiple)


def candidate_multiple(percentile: float) -> int:
    """Candidates per image that is kept: 10 at the 90th percentile."""
    return math.ceil(100 / (100 - percentile) - 1e-9)


def class_prompts(settings: ProxyConfig, names: Sequence[str]) -> dict[str, str]:
    """What an image of each class is compared with: `settings.prompts`, else the template with the class's words."""
    return {
        name: settings.prompts.get(
            name, "Normal" if name == NORMAL else settings.prompt.format(finding=name.replace("_", " "))
        )
        for name in names
    }


def keep_best(
    scores: npt.NDArray[np.float32], classes: npt.NDArray[Any], percentile: float
) -> tuple[npt.NDArray[np.bool_], dict[int, float]]:
    """(N,) kept, and each class's threshold: a score is kept at or above the percentile of its own class."""
    kept = np.zeros(len(scores), np.bool_)
    thresholds = {}
    for name in np.unique(classes):
        own = classes == name
        thresholds[int(name)] = float(np.percentile(scores[own].astype(np.float64), percentile))
        kept[own] = scores[own].astype(np.float64) >= thresholds[int(name)]
    return kept, thresholds


def places(
    wanted: npt.NDArray[Any], classes: npt.NDArray[Any], kept: npt.NDArray[np.bool_], names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Candidate for each of n places: the class's kept candidates in their own order, not best first.

    Best first would make 2x better than 5x, which is to be compared by size alone.

    Raises:
        InvalidInput: a class has fewer kept candidates than places; says which, and how many.
    """
    found = np.zeros(len(wanted), np.int64)
    for name in np.unique(wanted):
        own, candidates = np.flatnonzero(wanted == name), np.flatnonzero(kept & (classes == name))
        if len(candidates) < len(own):
            raise InvalidInput(
                f"class '{names[int(name)]}' keeps {len(candidates)} of the {len(own)} images that are needed: raise"
                " proxy.pool_multiple, or lower proxy.percentile"
            )
        found[own] = candidates[: len(own)]
    return found


def load_proxy(study: Study) -> ProxyScorer:
    """The proxy of study.toml, on a CUDA device where there is one, entered in the study: what filters never judges."""
    name = study.config.proxy.model
    own = study.root / name.removeprefix("local-dir:")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = ProxyScorer.load(own if name != "embedded" and own.is_dir() else name, device=device)
    register_network(study, scorer.sha256, "proxy", name)
    return scorer


def filter_pool(study: Study, plan: PoolPlan, engine: EngineOptions) -> FilteredPool:
    """Sample the candidates, score them, and write the pool of arm "proxy-filtered"; every part resumes.

    Raises:
        InvalidInput: a class comes out short. Further those of `load_proxy` and of sampling.
    """
    from radpref.generation.pools.sample_pool import sample_pool

    settings = study.config.proxy
    names = [str(plan.task.structure)] if plan.task.kind == "segmentation" else list(plan.classes)
    prompts = class_prompts(settings, names)
    scorer = load_proxy(study)
    multiple = settings.pool_multiple or candidate_multiple(settings.percentile)
    config = {
        "task": plan.task.model_dump(mode="json"),
        "arm": PROXY_FILTERED,
        "model": arm_identity(study, BASELINE),
        "seed": plan.seed,
        "generator": study.config.generator.model_dump(mode="json"),
        "proxy": {
            "sha256": scorer.sha256,
            "percentile": settings.percentile,
            "prompts": prompts,
            "multiple": multiple,
        },
        "n": plan.n,
    }

    def work(run: Run) -> dict[str, Any]:
        candidates = CandidatePlan(plan, multiple)
        sampled = sample_pool(study, candidates, PROXY_CANDIDATES, engine, model=BASELINE, part_of=plan.n)
        classes = np.zeros(candidates.n, np.int64) if plan.task.kind == "segmentation" else candidates.order.astype(int)
        texts = [prompts[names[k]] for k in classes]
        scores = _scores(study, run, scorer, sampled.run_id, texts)
        kept, thresholds = keep_best(scores, classes, settings.percentile)
        chosen = places(classes[: plan.n], classes, kept, names)
        _write(study, run, sampled.run_id, chosen)
        by_class = {names[k]: _class_filter(scores, classes == k, kept, limit) for k, limit in thresholds.items()}
        counts = class_counts(study, run.run_id)
        return asdict(FilteredPool(run.run_id, plan.n, sampled.sampled, counts, candidates.n, by_class))

    run = once(study, "pool", config, work, {"proxy": scorer.sha256})
    by_class = {name: ClassFilter(**figures) for name, figures in run.result["by_class"].items()}
    sampled_now = 0 if run.already_done else run.result["sampled"]
    return FilteredPool(**{**run.result, "sampled": sampled_now, "by_class": by_class})


def _class_filter(
    scores: npt.NDArray[np.float32], own: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_], threshold: float
) -> ClassFilter:
    return ClassFilter(
        candidates=int(own.sum()),
        kept=int((kept & own).sum()),
        threshold=round(threshold, 4),
        mean=round(float(scores[own].mean()), 4),
        mean_kept=round(float(scores[kept & own].mean()), 4),
    )


def _scores(
    study: Study, run: Run, scorer: ProxyScorer, candidates: str, texts: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Cosine of every candidate with its prompt, (N,), batch by batch; finished batches are read back."""
    parts = [np.zeros(0, np.float32)]
    with bar("scoring by the proxy", len(texts)) as advance:
        for start in range(0, len(texts), SCORE_BATCH):
            stop = min(start + SCORE_BATCH, len(texts))
            path: Path = run.folder / f"scores-{start:08d}.npy"
            if not path.exists():
                rows = study.db.rows(
                    "SELECT image_sha FROM pool_images WHERE run_id = ? AND ordinal >= ? AND ordinal < ?"
                    " ORDER BY ordinal",
                    [candidates, start, stop],
                )
                images = np.stack([to_uint8(study.store.image(str(row["image_sha"]))) for row in rows])
                save_array(path, scorer.paired_similarity(images, texts[start:stop]))
            parts.append(np.load(path, allow_pickle=False))
            advance(stop - start)
    return np.concatenate(parts)


def _write(study: Study, run: Run, candidates: str, chosen: npt.NDArray[np.int64]) -> None:
    with study.db.write() as connection:
        connection.executemany(
            "INSERT INTO pool_images SELECT ?, task, ?, ?, image_sha, condition_id, seed, labels FROM pool_images"
            " WHERE run_id = ? AND ordinal = ? ON CONFLICT DO NOTHING",
            [
                (run.run_id, PROXY_FILTERED, place, candidates, int(ordinal))
                for place, ordinal in enumerate(chosen)
            ],
        )  # fmt: skip
