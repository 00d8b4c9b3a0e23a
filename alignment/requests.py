"""What the commands of this room are asked for, refused before torch is loaded where study and disk can tell.

Input: the options of ``radpref align`` and ``annotate simulate``. Output: nothing or, for a
training, everything that was found on the way; or one of the project's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from radpref.alignment.preferences.pairs import find_pairs_run
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.pools import PROXY_FILTERED, PROXY_FINETUNED
from radpref.generation.measuring.network_files import card_path, network_path
from radpref.generation.sampling.draws import require_unrated
from radpref.generation.stack.device import check_device
from radpref.generation.stack.options import FoundGenerator, find_generator
from radpref.generation.stack.places import BASELINE, TRAINED, require_arms, require_generator

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig
    from radpref.data.config.reader_study import SimulatedRater
    from radpref.data.study.study import Study

PROXY_ARMS = (PROXY_FILTERED, PROXY_FINETUNED)
ArmKind = Literal["align", "finetune"]


@dataclass(frozen=True)
class TrainingRequest:
    """A training on preferences with all that it is about found once: pairs run, its raters, generator, settings."""

    study: Study
    kind: ArmKind
    arm: str
    pairs_run: str
    raters: str
    generator: FoundGenerator
    settings: AlignConfig
    device: str


def training_request(
    study: Study,
    arm: str,
    *,
    kind: ArmKind | None = None,
    pairs_run: str | None = None,
    n_steps: int | None = None,
    device: str = "auto",
) -> TrainingRequest:
    """What is to be trained, or why it cannot begin.

    Args:
        kind: "finetune" for an arm called finetuned, else "align", where it is not given.
        pairs_run: the newest where it is not given. n_steps: instead of align.n_steps.

    Raises:
        InvalidInput: a bad arm name, number of steps or device.
        NotFound: no pairs, none of them to train on, or no generator.
    """
    if arm == BASELINE or not arm.replace("-", "").replace("_", "").isalnum():
        raise InvalidInput(f"arm name '{arm}' is not usable: take letters, digits, '-' or '_', not 'baseline'")
    _check_steps(n_steps)
    check_device(device)
    pairs = find_pairs_run(study, pairs_run)
    if not study.db.value("SELECT 1 FROM pairs WHERE run_id = ? AND split = 'train' LIMIT 1", [pairs.run_id]):
        raise NotFound(
            f"pairs run {pairs.run_id} has no training sets: score more sets, then run `radpref align pairs`"
        )
    settings = study.config.align
    if n_steps is not None:
        settings = settings.model_copy(update={"n_steps": n_steps})
    kind = kind or ("finetune" if arm == "finetuned" else "align")
    generator = find_generator(study)
    return TrainingRequest(study, kind, arm, pairs.run_id, str(pairs.config["raters"]), generator, settings, device)


def check_proxy(study: Study, arms: Sequence[str], n_steps: int | None, device: str = "auto") -> None:
    """Refuse the proxy's arms where they cannot be made.

    Raises:
        InvalidInput: another arm, a bad number of steps or device. NotFound: no generator.
    """
    if unknown := sorted(set(arms) - set(PROXY_ARMS)):
        raise InvalidInput(f"--arm {unknown[0]}: the proxy makes {' and '.join(PROXY_ARMS)}")
    _check_steps(n_steps)
    check_device(device)
    require_generator(study)


def check_evaluation(
    study: Study, arms: Sequence[str] | None, n_conditions: int, n_images: int, judge: str, device: str = "cpu"
) -> None:
    """Refuse an evaluation that cannot begin.

    Raises:
        InvalidInput: bad numbers or device, or no validation patient is left that no rating set used (asked where no
            evaluation was finished before: a finished one is shown again whatever was rated since).
        NotFound: no trained arm, no such arm, no generator or no judge.
    """
    if n_conditions < 2 or n_images < 2:
        raise InvalidInput(f"{n_conditions} conditions of {n_images} images: give at least 2 of each")
    check_device(device)
    require_arms(study, arms or trained_arms(study))
    card_path(network_path(study, judge))
    if not study.db.value("SELECT 1 FROM runs WHERE kind = 'evaluate' AND status = 'done' LIMIT 1"):
        require_unrated(study)  # otherwise a finished one may be meant


def trained_arms(study: Study) -> list[str]:
    """Names of the arms that were trained here, oldest first.

    Raises:
        NotFound: there are none.
    """
    rows = study.db.rows("SELECT arm FROM models GROUP BY arm ORDER BY min(created_at), arm")
    arms = [str(row["arm"]) for row in rows if row["arm"] not in (BASELINE, TRAINED)]
    if not arms:
        raise NotFound(f"no trained arm in {study.root}: train one with `radpref align train`")
    return arms


def check_simulation(study: Study) -> None:
    """Refuse simulated scoring where there is nothing to score, or nobody to do it.

    Raises:
        InvalidInput: study.toml names no simulated rater.
        NotFound: no finished sets, or a rater's network is not there.
    """
    finished = (
        "SELECT 1 FROM image_sets JOIN runs USING (run_id)"
        " WHERE purpose IN ('rating', 'comparison') AND status = 'done' LIMIT 1"
    )
    if not study.db.value(finished):
        raise NotFound(f"no finished sets in {study.root}: sample some with `radpref generate sets`")
    for one in configured_raters(study):
        card_path(network_path(study, one.network))


def configured_raters(study: Study) -> tuple[SimulatedRater, ...]:
    """The simulated raters of study.toml.

    Raises:
        InvalidInput: there are none.
    """
    if not (raters := study.config.simulate.raters):
        raise InvalidInput("simulate.raters in study.toml is empty: add [[simulate.raters]] with a name and a network")
    return raters


def _check_steps(n_steps: int | None) -> None:
    if n_steps is not None and n_steps < 1:
        raise InvalidInput(f"n_steps is {n_steps}: give a whole number of at least 1")
