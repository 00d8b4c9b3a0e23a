"""Trains a study's own generator and its own measuring networks on its own training split, nothing else.

Input: records of split ``train`` (real images with captions and masks). Output: a stack in ``models/<run_id>/``,
entered in table ``models`` as arm "trained", which ``generator.model = "trained"`` samples from; networks in
``networks/``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.conditions_store import record_conditions
from data.errors import InvalidInput
from data.files import sha256_tree, write_atomic
from data.images import to_uint8
from data.progress import track
from data.records import finished_run, start_run

if TYPE_CHECKING:
    from data.config import TrainConfig
    from data.study import Study
    from generation.corpus import Corpus
    from generation.measure_data import MeasureData
    from generation.models import GeneratorStack

log = logging.getLogger(__name__)

VAE_VALIDATION_IMAGES = 128
DECODER_RATE = 5e-4
ADVERSARIAL_WEIGHT = 0.5
"""Of the discriminator's verdict, relative to pixel and gradient errors (Esser et al. 2021 use 0.8-1)."""


def training_records(study: Study, split: str = "train") -> list[dict[str, Any]]:
    """Records of ``split`` with at least a caption or a mask.

    Raises:
        InvalidInput: there are none.
    """
    records = [record for record in record_conditions(study, split) if record["caption"] or record["masks"]]
    if not records:
        raise InvalidInput(f"no record of split '{split}' has a caption or a mask; run `radpref data import` first")
    return records


def read_images(study: Study, records: list[dict[str, Any]]) -> np.ndarray:
    """Images of records, (N, H, W) uint8."""
    return np.stack([to_uint8(study.store.image(r["image_sha"])) for r in track(records, "read images", len(records))])


def study_corpus(study: Study, structures: tuple[str, ...], split: str = "train") -> Corpus:
    """The records of one split as training arrays; masks of structures the generator knows."""
    from generation.corpus import corpus_from_arrays

    records = training_records(study, split)
    images = read_images(study, records)
    masks: dict[str, np.ndarray] = {}
    for index, record in enumerate(records):
        for structure, sha in record["masks"].items():
            if structure in structures:
                masks.setdefault(structure, np.zeros(images.shape, dtype=bool))[index] = study.store.mask(sha)
    attributes = [{name: int(value) for name, value in r["labels"].items() if value is not None} for r in records]
    captions = [[r["caption"]] if r["caption"] else [] for r in records]
    return corpus_from_arrays(images, captions, [r["patient_id"] for r in records], masks, structures, attributes)


def run_train(study: Study) -> dict[str, Any]:
    """Train the study's generator (section [train]); resumes; returns run id, figures and where the weights are."""
    from generation.adapters import TRAINED, model_path, register_model
    from generation.models import load_stack, save_stack

    settings = study.config.train
    sources = [str(r["image_sha"]) for r in training_records(study)]
    config = {
        **settings.model_dump(mode="json"),
        "n_images": len(sources),
        "structures": list(study.config.data.structures),
    }
    if done := finished_run(study, "train", config):
        return {**done.result, "already_done": True}
    with start_run(study, "train", config, {"training images": _hash_of(sources)}) as run:
        stack = load_stack(model_path(study, settings.start))
        corpus = study_corpus(study, stack.structures)
        if corpus.image_size != stack.image_size:
            raise InvalidInput(
                f"data.image_size = {corpus.image_size}, but the generator makes {stack.image_size}; set it to that"
            )
        run.result = _train_stages(study, stack, corpus, run.folder)
        stack.model_id = run.run_id
        save_stack(stack, run.model_folder, half=True)
        write_atomic(run.model_folder / "README.md", _card(study, run.run_id, config, run.result))
        register_model(study, run.run_id, TRAINED, sha256_tree(run.model_folder), run.result)
        run.result |= {"run_id": run.run_id, "model": str(run.model_folder)}
    return run.result


def _train_stages(study: Study, stack: GeneratorStack, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Autoencoder, text, masks with text, decoder; each resumes from its own checkpoint in ``folder``."""
    from generation.loop import Budget
    from generation.training import FINE_TUNE, TEXT_STAGE, encode_corpus, train
    from generation.vae_training import VaeSettings, reconstruction_report, train_vae

    settings = study.config.train
    validation = read_images(
        study, _spread(record_conditions(study, "val") or training_records(study), VAE_VALIDATION_IMAGES)
    )
    result: dict[str, Any] = {"autoencoder_before": reconstruction_report(stack.vae, validation)}
    if settings.vae_steps:
        vae_settings = VaeSettings()
        loop = replace(vae_settings.loop, learning_rate=5e-4)
        scale = float(stack.vae.config.scaling_factor)
        stack.vae = train_vae(
            corpus,
            folder / "vae",
            Budget(settings.vae_steps),
            replace(vae_settings, loop=loop),
            settings.seed,
            start=stack.vae.requires_grad_(True),  # a loaded stack is frozen
        )
        log.info("scaling factor %.4f -> %.4f", scale, stack.vae.config.scaling_factor)
    result["autoencoder_after"] = reconstruction_report(stack.vae.eval().requires_grad_(False), validation)
    latents = encode_corpus(stack, corpus, folder / "latents", n_variants=settings.variants, seed=settings.seed)
    text = replace(
        TEXT_STAGE,
        batch_size=settings.batch_size,
        text_drop=settings.prompt_drop,
        loop=replace(TEXT_STAGE.loop, learning_rate=settings.learning_rate),
    )
    if settings.unet_steps:
        train(stack, latents, folder / "text", Budget(settings.unet_steps), text, settings.seed + 1)
    has_masks = bool(np.any(latents.packed_masks))
    if settings.control_steps and has_masks:
        masks = replace(
            FINE_TUNE,
            batch_size=settings.batch_size,
            text_drop=settings.prompt_drop,
            loop=replace(FINE_TUNE.loop, learning_rate=settings.learning_rate / 2),
        )
        train(stack, latents, folder / "masks", Budget(settings.control_steps), masks, settings.seed + 2)
    if settings.decoder_steps:
        _refine(stack, corpus, latents.latents, folder / "decoder", settings)
        result["autoencoder_refined"] = reconstruction_report(stack.vae, validation)
    return result | {"n_images": len(corpus), "n_latents": len(latents), "masks": has_masks}


def _refine(stack: GeneratorStack, corpus: Corpus, latents: np.ndarray, folder: Path, settings: TrainConfig) -> None:
    """The decoder against a patch discriminator, on the images as they are (the first ``len(corpus)`` latents)."""
    from generation.decoder_training import refine_decoder
    from generation.loop import Budget
    from generation.vae_training import VaeSettings

    shape = VaeSettings()
    shape = replace(shape, loop=replace(shape.loop, learning_rate=DECODER_RATE, warmup_steps=20))
    budget = Budget(settings.decoder_steps)
    own = latents[: len(corpus)]
    stack.vae = refine_decoder(
        stack.vae, own, corpus.images, folder, budget, shape, settings.seed + 3, ADVERSARIAL_WEIGHT
    )


def _spread(records: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """At most ``n`` records, evenly over the list (which is sorted by data set and file)."""
    return [records[i] for i in np.linspace(0, len(records) - 1, min(n, len(records))).astype(int)]


def _hash_of(names: list[str]) -> str:
    from data.files import sha256_bytes

    return sha256_bytes("\n".join(sorted(names)).encode())


def _card(study: Study, run_id: str, config: dict[str, Any], result: dict[str, Any]) -> str:
    return (
        f"# Generator of study '{study.config.name}'\n\nRun {run_id}. Trained on the study's training split only "
        f"({config['n_images']} images, {config['variants']} augmented variants each), starting from "
        f"`{config['start']}`.\n"
        "Research use, not for diagnosis. Images it samples are synthetic; small sets are partly memorised.\n\n"
        f"```json\n{json.dumps({'train': config, 'result': result}, indent=2)}\n```\n"
    )


# --- measuring networks of the study ---------------------------------------------------------------------------


def run_networks(study: Study, *, n_steps: int = 400) -> dict[str, Any]:
    """Train four raters' networks, a judge and a fidelity network on real training images only, into ``networks/``.

    Half of the training patients are for the raters (each a different 70 % of them), the other half for judge and
    fidelity, so that what the raters see and what judges them never share a patient; thresholds come from the 30 % each
    leaves out. The validation split only serves for the figures returned. Finished networks are skipped.
    """
    from generation.measure import load_measure, save_measure
    from generation.measure_networks import NetworkShape
    from generation.measure_plan import PLANS
    from generation.measure_training import MeasureSettings, train_measure

    plans = [plan for plan in PLANS.values() if plan.role != "proxy"]
    folder = study.root / "networks"
    if all((folder / f"{plan.name}.json").is_file() for plan in plans):
        return {plan.name: _network_figures(load_measure(folder / f"{plan.name}.json").info) for plan in plans}
    data = study_measure_data(study)
    validation = study_measure_data(study, "val", data) if record_conditions(study, "val") else None
    raters, others = data.split(0.5, np.random.default_rng([study.config.train.seed, 404]))
    settings = MeasureSettings(n_steps=n_steps)
    config = {"n_steps": n_steps, "seed": study.config.train.seed}
    with start_run(study, "networks", config, {"training images": data.sha256}) as run:
        for plan in track(plans, "measuring networks", len(plans)):
            card = folder / f"{plan.name}.json"
            if not card.is_file():
                half = raters if plan.role == "rater" else others
                own = half.split(0.3, np.random.default_rng([plan.seed, 405]))
                shape = NetworkShape(
                    plan.architecture,
                    len(data.attributes),
                    len(data.structures),
                    plan.input_size,
                    plan.widths,
                    plan.depth,
                )
                net = train_measure(
                    plan.name, plan.role, *own, shape=shape, seed=plan.seed, settings=settings, test=validation
                )
                save_measure(net, folder)
            run.result[plan.name] = _network_figures(load_measure(card).info)
    return run.result


def _network_figures(info: dict[str, Any]) -> dict[str, Any]:
    """AUROC per attribute and Dice per structure, on the validation split where there is one."""
    figures = info.get("test_figures", info["validation_figures"])
    auroc = {name: row["auroc"] for name, row in figures["attributes"].items()}
    dice = {name: row["dice"] for name, row in figures["structures"].items()}
    return {"n_train": info["train"]["n"], "n_steps": info["n_steps"], "n": figures["n"], "auroc": auroc, "dice": dice}


def study_measure_data(study: Study, split: str = "train", like: MeasureData | None = None) -> MeasureData:
    """One split as arrays of a measuring network: every label and structure with a mask, or those of ``like``."""
    from generation.measure_data import MeasureData, label_rows

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
