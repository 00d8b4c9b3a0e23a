"""Fidelity of each arm's pools, from a study: how like real images, how varied, and whether copied.

Reads the finished pools of `radpref generate pool`. Reference are the real images of splits val and test, which no
generator saw; the copy check compares with split train. Writes `reports/fidelity.json` and returns the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conditions_store import record_conditions
from data.errors import Conflict, InvalidInput, NotFound
from data.files import write_atomic
from data.images import to_uint8
from data.pools import pool_rows
from data.progress import track
from generation.fidelity import fidelity_report
from generation.measure import MeasureNet, load_measure

if TYPE_CHECKING:
    from data.study import Study

MAX_IMAGES = 500
"""Images of one arm that are measured: enough for KID, and a minute of work."""
MAX_GROUPS, GROUP_SIZE = 20, 4


def load_fidelity_network(study: Study) -> MeasureNet:
    """The study's own `networks/fidelity`, else the shipped one; entered in the study under its role.

    Raises:
        InvalidInput: it was trained for another role.
        Conflict: this study uses it in another role already.
    """
    own = study.root / "networks" / "fidelity.json"
    net = load_measure(own if own.is_file() else "fidelity")
    if net.role != "fidelity":
        raise InvalidInput(f"network '{net.name}' was trained as {net.role}, not as fidelity: put another in {own}")
    row = study.db.row("SELECT role FROM networks WHERE sha256 = ?", [net.sha256])
    if row is not None and row["role"] != "fidelity":
        raise Conflict(f"network '{net.name}' ({net.sha256[:12]}) already is {row['role']} here: use another")
    if row is None:
        with study.db.write() as connection:
            connection.execute("INSERT INTO networks VALUES (?, ?, ?)", (net.sha256, "fidelity", net.name))
    return net


def run_fidelity(study: Study, *, arms: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """Figures of each arm (default: every arm of the study that has a pool); the same images give the same figures.

    Raises:
        NotFound: no pool, or no real images to compare with.
    """
    pools = {arm: rows for arm in arms or study.config.downstream.arms if (rows := _arm_rows(study, arm))}
    missing = sorted(set(arms or ()) - set(pools))
    if missing or not pools:
        raise NotFound(f"no finished pool of arm '{missing[0] if missing else 'any'}': run `radpref generate pool`")
    real = _images(study, _shas(study, "val") + _shas(study, "test"), "held-out real images")
    training = _images(study, _shas(study, "train"), "training images")
    net = load_fidelity_network(study)
    result: dict[str, Any] = {"arms": {}}
    for arm, rows in pools.items():
        images = _images(study, [row["image_sha"] for row in rows], f"images of {arm}")
        rng = np.random.default_rng([seed, 505])
        groups = _groups(rows, images)
        result["arms"][arm] = fidelity_report(net, images, real, rng, training=training, groups=groups)
    write_atomic(study.reports / "fidelity.json", json.dumps(result, indent=1) + "\n")
    return result


def _arm_rows(study: Study, arm: str) -> list[dict[str, Any]]:
    """Rows of all the arm's pools, tasks in turn, at most `MAX_IMAGES`: every arm takes the same ordinals."""
    per_task = []
    for task in study.config.downstream.tasks:
        try:
            per_task.append(pool_rows(study, task.name, arm))
        except NotFound:
            continue
    share = MAX_IMAGES // max(len(per_task), 1)
    return [row for rows in per_task for row in rows[:share]]


def _shas(study: Study, split: str) -> list[str]:
    return [str(record["image_sha"]) for record in record_conditions(study, split)]


def _images(study: Study, shas: Sequence[str], what: str) -> np.ndarray:
    """(N, H, W) uint8; NotFound where there are fewer than two."""
    if len(shas) < 2:
        raise NotFound(f"{len(shas)} {what} in this study: run `radpref data import` and `radpref generate pool`")
    return np.stack([to_uint8(study.store.image(sha)) for sha in track(shas, f"read {what}", len(shas))])


def _groups(rows: Sequence[dict[str, Any]], images: np.ndarray) -> list[np.ndarray]:
    """Images of one condition each, for diversity: the first `GROUP_SIZE` of the first `MAX_GROUPS` conditions."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(row["condition_id"], []).append(i)
    groups = [indices[:GROUP_SIZE] for indices in found.values() if len(indices) > 1]
    return [images[indices] for indices in groups[:MAX_GROUPS]]
