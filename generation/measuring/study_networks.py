"""Trains a study's own measuring networks (raters', judge, fidelity) on its own training split, nothing else.

Input: records of split ``train``. Output: networks in ``networks/``, each with its card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from radpref.data.core.progress import track
from radpref.data.study.conditions import record_conditions
from radpref.data.study.runs import Run, once
from radpref.generation.training.study_corpus import read_images, require_material, training_records

if TYPE_CHECKING:
    from radpref.data.study.study import Study
    from radpref.generation.measuring.measuring_data import MeasureData


def run_networks(study: Study, *, n_steps: int = 400) -> dict[str, Any]:
    """Train four raters' networks, a judge and a fidelity network on real training images only, into ``networks/``.

    Half of the training patients are for the raters (each a different 70 % of them), the other half for judge and
    fidelity, so that what the raters see and what judges them never share a patient; thresholds come from the 30 % each
    leaves out. The validation split only serves for the figures returned. Finished networks are skipped.
    """
    require_material(study)  # said before torch is loaded
    from radpref.generation.measuring.architectures import NetworkShape
    from radpref.generation.measuring.measuring_network import load_measure, save_measure
    from radpref.generation.measuring.network_training import MeasureSettings, train_measure
    from radpref.generation.measuring.shipped_networks import PLANS

    plans = [plan for plan in PLANS.values() if plan.role != "proxy"]
    folder = study.root / "networks"

    def finished() -> bool:
        return all((folder / f"{plan.name}.json").is_file() for plan in plans)

    def figures() -> dict[str, Any]:
        return {plan.name: _network_figures(load_measure(folder / f"{plan.name}.json").info) for plan in plans}

    if finished():
        return figures()
    data = study_measure_data(study)
    validation = study_measure_data(study, "val", data) if record_conditions(study, "val") else None
    raters, others = data.split(0.5, np.random.default_rng([study.config.train.seed, 404]))
    settings = MeasureSettings(n_steps=n_steps)
    config = {"n_steps": n_steps, "seed": study.config.train.seed}

    def work(run: Run) -> dict[str, Any]:
        for plan in track(plans, "measuring networks", len(plans)):
            card = folder / f"{plan.name}.json"
            if not card.is_file():
                half = raters if plan.role == "rater" else others
                own = half.split(0.3, np.random.default_rng([plan.seed, 405]))
                n_outputs = len(data.attributes), len(data.structures)
                shape = NetworkShape(plan.architecture, *n_outputs, plan.input_size, plan.widths, plan.depth)
                net = train_measure(
                    plan.name, plan.role, *own, shape=shape, seed=plan.seed, settings=settings, test=validation
                )
                save_measure(net, folder)
        return figures()

    inputs = {"training images": data.sha256}
    return once(study, "networks", config, work, inputs, intact=lambda run: finished()).result


def _network_figures(info: dict[str, Any]) -> dict[str, Any]:
    """AUROC per attribute and Dice per structure, on the validation split where there is one."""
    figures = info.get("test_figures", info["validation_figures"])
    auroc = {name: row["auroc"] for name, row in figures["attributes"].items()}
    dice = {name: row["dice"] for name, row in figures["structures"].items()}
    return {"n_train": info["train"]["n"], "n_steps": info["n_steps"], "n": figures["n"], "auroc": auroc, "dice": dice}


def study_measure_data(study: Study, split: str = "train", like: MeasureData | None = None) -> MeasureData:
    """One split as arrays of a measuring network: every label and structure with a mask, or those of ``like``."""
    from radpref.generation.measuring.measuring_data import MeasureData, label_rows

    records = training_records(study, split)
    images = read_images(study, records)
    attributes = tuple(sorted({name for record in records for name in record["labels"]}))
    structures = tuple(s for s in study.config.data.structures if any(s in record["masks"] for record in records))
    if like is not None:
        attributes, structures = like.attributes, like.structures
    masks = np.zeros((len(records), len(structures), *images.shape[1:]), dtype=bool)
    known = np.zeros((len(records), len(structures)), dtype=bool)
    for i, record in enumerate(records):
        for j, structure in enumerate(structures):
            if structure in record["masks"]:
                masks[i, j], known[i, j] = study.store.mask(record["masks"][structure]), True
    labels = label_rows([record["labels"] for record in records], attributes)
    patients = tuple(record["patient_id"] for record in records)
    return MeasureData(images, labels, attributes, masks, known, structures, patients, f"records of split {split}")
