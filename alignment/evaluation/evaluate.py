"""Held-out evaluation: baseline and arms on fresh conditions with equal seeds, measured by the judge.

Input: a study with arms. Output: a run of kind ``evaluate`` with result.json, samples and ``sheets/*.png``. The judge
has seen no training of any arm; the gap between the raters' networks' gain and the judge's is the reward-hacking
figure. Gain, diversity and drift are reported together, because a win rate alone flatters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.alignment.evaluation.fresh_conditions import fresh_conditions
from radpref.alignment.evaluation.judging import (
    TIE,
    ArmComparison,
    ArmFigures,
    FloatArray,
    Images,
    Judged,
    arm_figures,
    comparison,
    judge_condition,
    mean_of_known,
)
from radpref.alignment.evaluation.simulated_raters import fit_mask, load_raters
from radpref.alignment.requests import check_evaluation, trained_arms
from radpref.alignment.training.watch import drift_and_diversity, feature_function
from radpref.data.core.errors import NotFound
from radpref.data.core.files import write_atomic
from radpref.data.imaging.sheets import SheetRow, mask_picture, save_sheet
from radpref.data.study.conditions import StoredCondition, mask_stack
from radpref.data.study.runs import Run, once
from radpref.generation.fidelity.figures import NetworkName
from radpref.generation.measuring.measuring_network import MeasureNet
from radpref.generation.measuring.roles import load_network
from radpref.generation.sampling.kept_samples import KeptSamples
from radpref.generation.stack.adapters import arm_identity
from radpref.generation.stack.device import pick_device
from radpref.generation.stack.places import BASELINE

if TYPE_CHECKING:
    from radpref.data.study.study import Study

log = logging.getLogger(__name__)

N_SHEETS = 12


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; field names are the keys of ``result.json``.

    n_sources: records that conditions were made from. features: the network of drift and diversity. tie: scores that
    differ by no more are a tie. sheets: paths inside the run's folder.
    """

    run_id: str
    n_conditions: int
    n_images: int
    n_sources: int
    modes: dict[str, int]
    judge: NetworkName
    features: str
    tie: float
    arms: dict[str, ArmFigures]
    comparisons: dict[str, ArmComparison]
    sheets: list[str]


def run_evaluate(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    n_conditions: int | None = None,
    n_images: int | None = None,
    seed: int | None = None,
    judge: str = "judge",
    device: str = "cpu",
) -> dict[str, Any]:
    """Sample `n_images` of each of `n_conditions` fresh conditions from every arm, and measure them.

    Both numbers default to ``align.evaluation_images`` and ``align.evaluation_conditions``. Resumes; the same call
    again returns the finished evaluation as long as the arms are the same. Errors as `check_evaluation`.
    """
    settings = study.config.align
    n_conditions = settings.evaluation_conditions if n_conditions is None else n_conditions
    n_images = settings.evaluation_images if n_images is None else n_images
    check_evaluation(study, arms, n_conditions, n_images, judge, device)
    device = pick_device(device)
    names = [BASELINE, *(arm for arm in (arms or trained_arms(study)) if arm != BASELINE)]
    net = load_network(study, judge, "judge")
    seed = settings.seed if seed is None else seed
    config = {
        "arms": {arm: arm_identity(study, arm) for arm in names},
        "n_conditions": n_conditions,
        "n_images": n_images,
        "seed": seed,
        "judge": net.sha256,
        "mix": list(study.config.sets.mix),
        "generator": study.config.generator.model_dump(mode="json"),
    }

    def work(run: Run) -> dict[str, Any]:
        conditions = fresh_conditions(study, net, n_conditions, seed)
        samples = {}
        for arm in names:  # seeds are equal in all arms; what an interrupted evaluation sampled is read back
            kept = KeptSamples(run.folder / "samples" / arm, conditions, n_images, study.config.generator.batch_size)
            kept.sample(study, arm, "evaluate", seed, device)
            samples[arm] = kept.read_all()
        result = asdict(_measure(study, run, net, conditions, samples, seed))
        write_atomic(run.folder / "result.json", json.dumps(result, indent=2) + "\n")
        return result

    return once(study, "evaluate", config, work, {"judge": net.sha256}).outcome


def judge_arm(study: Study, net: MeasureNet, conditions: Sequence[StoredCondition], images: Images) -> Judged:
    """What a network says of one arm's images (n, k, H, W)."""
    names = study.config.data.structures
    rows = []
    for condition, group in zip(conditions, images, strict=True):
        masks = mask_stack(study, condition.masks)
        rows.append(judge_condition(net, group, condition, None if masks is None else fit_mask(masks, group), names))
    return Judged.stacked(rows)


def _rater_scores(
    study: Study, conditions: Sequence[StoredCondition], samples: dict[str, Images]
) -> dict[str, FloatArray] | None:
    """Mean score (n, k) by the raters' networks, for each arm; None where no simulated rater scored."""
    if not study.db.value("SELECT count(*) FROM raters WHERE kind = 'simulated'"):
        return None
    try:
        nets = [net for _, net in load_raters(study)]
    except NotFound as error:
        log.warning("%s; no reward-hacking figure", error)
        return None
    return {
        arm: mean_of_known(np.stack([judge_arm(study, net, conditions, images).score for net in nets]))
        for arm, images in samples.items()
    }


def _measure(
    study: Study,
    run: Run,
    net: MeasureNet,
    conditions: Sequence[StoredCondition],
    samples: dict[str, Images],
    seed: int,
) -> Evaluation:
    modes = [str(condition.mode) for condition in conditions]
    judged = {arm: judge_arm(study, net, conditions, images) for arm, images in samples.items()}
    by_raters = _rater_scores(study, conditions, samples)
    features = feature_function(study)
    embedded = {arm: features.by_prompt(images) for arm, images in samples.items()}
    moved = {arm: drift_and_diversity(own, embedded[BASELINE]) for arm, own in embedded.items()}
    raters = {arm: None if by_raters is None else (by_raters[arm], by_raters[BASELINE]) for arm in samples}
    return Evaluation(
        run_id=run.run_id,
        n_conditions=len(conditions),
        n_images=int(samples[BASELINE].shape[1]),
        n_sources=len({condition.text_record or condition.mask_record for condition in conditions}),
        modes={mode: modes.count(mode) for mode in dict.fromkeys(modes)},
        judge=NetworkName(net.name, net.sha256),
        features=features.name,
        tie=TIE,
        arms={arm: arm_figures(judged[arm], modes, moved[arm], seed) for arm in samples},
        comparisons={
            arm: comparison(judged[arm], judged[BASELINE], raters[arm], seed) for arm in samples if arm != BASELINE
        },
        sheets=_sheets(study, run, conditions, samples),
    )


def _sheets(study: Study, run: Run, conditions: Sequence[StoredCondition], samples: dict[str, Images]) -> list[str]:
    """One sheet a condition, an arm a row with equal seeds; spread over the conditions. Paths inside the run folder."""
    paths = []
    chosen = np.unique(np.linspace(0, len(conditions) - 1, min(N_SHEETS, len(conditions))).round().astype(int))
    for index in chosen:
        condition = conditions[index]
        masks = mask_stack(study, condition.masks)
        rows = []
        for arm, images in samples.items():
            group = images[index]
            picture = () if masks is None else (mask_picture(masks, *group.shape[1:])[None],)
            rows.append(SheetRow(arm, (*picture, group)))
        title = f"{condition.mode}  {condition.text or 'mask: ' + ', '.join(sorted(condition.masks))}"
        path = f"sheets/{index:03d}-{condition.mode.lower()}.png"
        save_sheet(run.folder / path, rows, (title,))
        paths.append(path)
    return paths
