"""Simulated raters: each scores what its own measuring network sees, with severity, noise and inattention.

Input: rating sets and study.toml's ``simulate`` section. Output: score events of raters of kind ``simulated`` (they
can never log in, and are marked as simulated wherever they appear).

    text   f = geometric mean over the asked attributes (finding, side) of the network's belief in [0, 1], which is 0.5
           at the attribute's own threshold;            quality = 2.5 + 2.5 clip(logit(f) / 4, -1, 1)
    mask   d = mean Dice of the asked structures as segmented;      quality by MASK_CALIBRATION, the page's anchors
    score  = round(quality - severity + noise * N(0, 1)) clipped to 0-5;  with P = inattention: uniform 0-5

The logit spreads the answers of a confident network over the scale: f = 0.02, 0.12, 0.5, 0.88, 0.98 give 0, 1.25,
2.5, 3.75 and 5; the right finding on the wrong side gets 1 to 2, as the page's anchors say. Every draw depends only
on (seed, rater, condition, image, slot, criterion), never on order.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.alignment.preferences.pairs import set_images
from radpref.alignment.requests import check_simulation, configured_raters
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.progress import bar
from radpref.data.imaging.images import to_uint8
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import Rater, add_rater, get_rater
from radpref.data.reader_study.scores import CRITERIA, ScoreEvent, record_events
from radpref.data.study.conditions import StoredCondition, load_condition, mask_stack
from radpref.data.study.runs import start_run
from radpref.generation.measuring.image_scores import score_mask
from radpref.generation.measuring.measuring_network import MeasureNet
from radpref.generation.measuring.roles import load_network

if TYPE_CHECKING:
    from radpref.data.config.reader_study import SimulatedRater
    from radpref.data.study.runs import Run
    from radpref.data.study.study import Study

Images = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]

LOGIT_SPAN = 4.0
"""|logit| of the text fidelity at which the scale ends: P = 0.018 is 0 points, P = 0.982 is 5."""
MASK_CALIBRATION = ((0.0, 0.3, 0.5, 0.7, 0.85, 0.95), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
"""Dice -> points, along the anchors: wrong region, under half overlap, roughly right, minor error, matches."""
MAX_SCORE = 5
_NAMESPACE = uuid.UUID("5f3c1f0e-6f4c-5a53-9f0e-7d6f2a1c9b42")
CHUNK = 8
"""Presentations scored at once; an interruption loses at most this many."""


def text_quality(fidelity: npt.ArrayLike) -> Scores:
    """Text fidelity in [0, 1] -> latent score 0-5 on the logit scale."""
    f = np.clip(np.asarray(fidelity, np.float64), 1e-6, 1 - 1e-6)
    return MAX_SCORE / 2 * (1 + np.clip(np.log(f / (1 - f)) / LOGIT_SPAN, -1, 1))


def text_belief(net: MeasureNet, images: Images, asked: Mapping[str, int]) -> Scores:
    """How far images (N, H, W) show what a text asks for, as `net` sees them: (N,) in [0, 1].

    Probabilities of rare findings are low even where the finding is there: each is first moved on the logit scale so
    that 0.5 is at the threshold that validation chose for the attribute.

    Raises:
        InvalidInput: nothing that is asked is known to the network.
    """
    known = {name: value for name, value in asked.items() if name in net.attributes}
    if not known:
        raise InvalidInput(
            f"{net.name} knows none of {', '.join(asked) or '(nothing asked)'}: it cannot judge this text"
        )
    columns = [net.column(name) for name in known]
    p = np.clip(net.predict(images)[:, columns].astype(np.float64), 1e-6, 1 - 1e-6)
    limits = np.clip(np.array([net.thresholds.get(name, 0.5) for name in known]), 1e-3, 1 - 1e-3)
    shifted = np.log(p / (1 - p)) - np.log(limits / (1 - limits))
    signs = np.array([1.0 if value else -1.0 for value in known.values()])
    return np.asarray(np.exp(-np.logaddexp(0, -signs * shifted).mean(1)))


def mask_quality(dice: npt.ArrayLike) -> Scores:
    """Dice in [0, 1] -> latent score 0-5, linear between the anchors."""
    return np.asarray(np.interp(np.asarray(dice, np.float64), *MASK_CALIBRATION), np.float64)


def rater_score(quality: float, rater: SimulatedRater, rng: np.random.Generator) -> int:
    """One score 0-5 of one latent quality; draws the same three numbers whatever they lead to."""
    attention, noise, guess = rng.random(), rng.standard_normal(), int(rng.integers(0, MAX_SCORE + 1))
    if attention < rater.inattention:
        return guess
    return int(np.clip(np.floor(quality - rater.severity + rater.noise * noise + 0.5), 0, MAX_SCORE))


def draw_generator(*parts: object) -> np.random.Generator:
    """A generator that depends on all `parts` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], np.uint32))


@dataclass(frozen=True)
class Presentation:
    """One set as shown to one rater, with what is asked and the images by slot."""

    presentation_id: int
    token: str
    condition_id: str
    condition: StoredCondition
    image_shas: tuple[str, ...]


def qualities(study: Study, net: MeasureNet, condition: StoredCondition, images: Images) -> dict[str, Scores]:
    """Latent scores (N,) of images (N, H, W) by criterion, for the criteria that the condition's mode asks for.

    Raises:
        InvalidInput: the network knows nothing of what is asked.
    """
    found: dict[str, Scores] = {}
    for criterion in CRITERIA[condition.mode]:
        if criterion == "text":
            if not condition.asked:
                raise InvalidInput(
                    f"text {condition.text!r} asks for no label that is known: simulated raters cannot judge it"
                )
            found["text"] = text_quality(text_belief(net, images, condition.asked))
        else:
            masks = mask_stack(study, condition.masks)
            found["mask"] = mask_quality(score_mask(net, images, fit_mask(masks, images), study.config.data.structures))
    return found


def fit_mask(masks: npt.NDArray[np.bool_] | None, images: Images) -> npt.NDArray[np.bool_]:
    """Masks (S, h, w) at the images' size, by nearest neighbour."""
    if masks is None:
        raise InvalidInput("a mask condition has no masks: the study record is damaged; run `radpref study verify`")
    height, width = images.shape[1:]
    rows = (np.arange(height) + 0.5) * masks.shape[1] // height
    columns = (np.arange(width) + 0.5) * masks.shape[2] // width
    return np.asarray(masks[:, rows.astype(int)][:, :, columns.astype(int)])


def open_presentations(study: Study, rater_id: int) -> list[Presentation]:
    """The rater's presentations that are neither submitted nor skipped, in the rater's order."""
    rows = study.db.rows(
        "SELECT p.presentation_id, p.token, s.condition_id, p.set_id FROM presentation_states p"
        " JOIN image_sets s USING (set_id) WHERE p.rater_id = ? AND p.state = 'open'"
        " AND s.purpose IN ('rating', 'comparison') ORDER BY p.position",
        [rater_id],
    )
    conditions: dict[str, StoredCondition] = {}
    found = []
    for row in rows:
        key = str(row["condition_id"])
        if key not in conditions:
            conditions[key] = load_condition(study, key)
        images = set_images(study, [row["set_id"]])
        found.append(Presentation(row["presentation_id"], row["token"], key, conditions[key], images))
    return found


def events_of(
    presentation: Presentation, rater: Rater, settings: SimulatedRater, seed: int, latent: Mapping[str, Scores]
) -> list[ScoreEvent]:
    """The events of one set: a score per slot and criterion, then the submit; the same every time."""
    events = []
    for criterion, values in latent.items():
        for slot, sha in enumerate(presentation.image_shas):
            rng = draw_generator(seed, settings.name, presentation.condition_id, sha, slot, criterion)
            event_uuid = str(uuid.uuid5(_NAMESPACE, f"{presentation.token}/{slot}/{criterion}"))
            value = rater_score(float(values[slot]), settings, rng)
            events.append(
                ScoreEvent(event_uuid, presentation.presentation_id, rater.rater_id, "score", slot, criterion, value)
            )
    submit = str(uuid.uuid5(_NAMESPACE, f"{presentation.token}/submit"))
    return [*events, ScoreEvent(submit, presentation.presentation_id, rater.rater_id, "submit")]


def ensure_rater(study: Study, settings: SimulatedRater, sha256: str) -> Rater:
    """The row of a simulated rater, made at need; its network and temper are kept in its detail.

    Raises:
        Conflict: a person has this name, or the rater scored with another network before.
    """
    detail = {
        "simulated": True,
        "network": settings.network,
        "network_sha256": sha256,
        **settings.model_dump(mode="json"),
    }
    try:
        rater = get_rater(study.db, settings.name)
    except NotFound:
        return add_rater(study.db, settings.name, kind="simulated", role="rater", detail=detail)
    if rater.kind != "simulated":
        raise Conflict(f"'{settings.name}' is a person: give the simulated rater another name in study.toml")
    if rater.detail.get("network_sha256") != sha256:
        raise Conflict(
            f"simulated rater '{settings.name}' scored with another network before: give this one another name"
        )
    return rater


def load_raters(study: Study) -> list[tuple[SimulatedRater, MeasureNet]]:
    """Every configured rater with its network.

    Raises:
        Conflict: two raters share a network (a shared blind spot would count as agreement), or a name.
    """
    settings = configured_raters(study)
    found: list[tuple[SimulatedRater, MeasureNet]] = []
    owner: dict[str, str] = {}
    names: set[str] = set()
    for one in settings:
        net = load_network(study, one.network, "rater")
        if net.sha256 in owner:
            raise Conflict(
                f"raters '{owner[net.sha256]}' and '{one.name}' share network '{one.network}': each needs its own"
            )
        if one.name.casefold() in names:
            raise Conflict(f"simulated rater '{one.name}' is in study.toml twice: give each another name")
        owner[net.sha256] = one.name
        names.add(one.name.casefold())
        found.append((one, net))
    return found


def run_simulate(study: Study, *, n_sets: int | None = None) -> dict[str, Any]:
    """Let all simulated raters score every rating and comparison set they have not submitted; resumes at need.

    Args:
        n_sets: each rater submits at most so many sets in this call (None: all).

    Errors as `check_simulation` and `load_raters`.
    """
    check_simulation(study)
    raters = load_raters(study)
    config = study.config.simulate.model_dump(mode="json") | {"n_sets": n_sets}
    with start_run(study, "simulate", config, {one.name: net.sha256 for one, net in raters}) as run:
        run.result = _score_all(study, run, raters, n_sets)
    return run.result


def _score_all(
    study: Study, run: Run, raters: list[tuple[SimulatedRater, MeasureNet]], n_sets: int | None
) -> dict[str, Any]:
    seed, counts = study.config.simulate.seed, {}
    jobs = []
    for settings, net in raters:
        rater = ensure_rater(study, settings, net.sha256)
        ensure_presentations(study.db, rater.rater_id, seed)
        jobs.append((settings, net, rater, open_presentations(study, rater.rater_id)[:n_sets]))
    with bar("simulated raters", sum(len(waiting) for *_, waiting in jobs)) as advance:
        for settings, net, rater, waiting in jobs:
            for start in range(0, len(waiting), CHUNK):
                chunk = waiting[start : start + CHUNK]
                events = []
                for presentation in chunk:
                    images = np.stack([to_uint8(study.store.image(sha)) for sha in presentation.image_shas])
                    latent = qualities(study, net, presentation.condition, images)
                    events += events_of(presentation, rater, settings, seed, latent)
                record_events(study.db, events)
                advance(len(chunk))
            counts[settings.name] = len(waiting)
            run.log(rater=settings.name, n_sets=len(waiting))
    return {"run_id": run.run_id, "kind": "simulated", "n_sets": counts, "n_submitted": sum(counts.values())}
