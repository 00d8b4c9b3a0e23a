"""The model card of a generator trained on a study: data, start, stages, rates, processes and figures.

Input: what the run did. Output: Markdown, ``models/<run_id>/README.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radpref.generation.training.averages import best_observation
from radpref.generation.training.loop import METRICS

STAGES: tuple[tuple[str, str], ...] = (
    ("vae", "autoencoder"),
    ("text", "text to image"),
    ("masks", "with masks"),
    ("decoder", "decoder alone"),
)


def logged_figures(folder: Path) -> dict[str, Any]:
    """Last step, loss, speed and validation loss that a training has logged in its metrics.jsonl; empty without one."""
    path = folder / METRICS
    if not path.exists():
        return {}
    merged: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        merged |= json.loads(line)
    keys = ("step", "loss", "validation_loss", "images_per_s", "elapsed_s")
    found = {key: merged[key] for key in keys if key in merged}
    if (best := best_observation(folder)) is not None:
        found |= {"kept_step": best[1], "kept_validation_loss": best[0]}
    return found


def stage_figures(folder: Path) -> dict[str, Any]:
    """The :func:`logged_figures` of each stage that has logged."""
    return {name: figures for name, _ in STAGES if (figures := logged_figures(folder / name))}


def train_card(title: str, run_id: str, config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The card; `config` is section [train] as it was resolved, `result` what the run returns."""
    stages = result.get("stages", {})
    rows = []
    for name, label in STAGES:
        if name in stages:
            figures = stages[name]
            cells = [str(figures.get(key, "")) for key in ("step", "loss", "validation_loss", "images_per_s")]
            if "kept_step" in figures:
                cells[0] += f" (kept: {figures['kept_step']})"
                cells[2] += f" (kept: {figures['kept_validation_loss']})"
            rows.append(f"| {label} | {' | '.join(cells)} | {figures.get('elapsed_s', 0) / 60:.1f} |")
    return "\n".join(
        [
            f"# Generator of study '{title}'",
            "",
            f"Run {run_id}. Trained on the study's training split only ({config['n_images']} images, "
            f"{result['settings']['variants']} augmented variants each), starting from `{config['start']}`.",
            "Research use, not for diagnosis. Images it samples are synthetic; small sets are partly memorised.",
            "",
            "Every part is a folder of safetensors (fp16) in diffusers' layout, for `UNet2DConditionModel`,",
            "`ControlNetModel`, `AutoencoderKL` and transformers' `CLIPTextModel`; the hint has one channel for each",
            "structure in `radpref.json`. A LoRA that was trained is merged here and also kept apart in `unet_lora/`.",
            "",
            "| stage | steps | loss | validation loss | images/s | minutes |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "| setting | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _settings(config, result)),
            "",
            "Weights kept: the moving average, if there is one, of the last step or the one named. Losses are those",
            "the stage minimises; validation losses are at fixed times and noise and comparable within a stage only.",
            "",
            "```json",
            json.dumps({"train": dict(config), "result": dict(result)}, indent=2),
            "```",
            "",
        ]
    )


def _settings(config: Mapping[str, Any], result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a reader asks first, in that order."""
    rows: list[tuple[str, Any]] = [
        ("start model, SHA-256", result.get("start_sha256", "")),
        ("learning rate, text steps", result.get("learning_rate", "")),
        ("learning rate, mask steps", result.get("control_learning_rate", "")),
        ("batch (images per step, all processes)", config.get("batch_size", "")),
        ("processes", result.get("processes", 1)),
        ("device", result.get("device", "")),
    ]
    names = ("unet", "text_encoder", "control", "control_alone", "mix", "prompt_drop", "precision", "accumulation")
    settings = result["settings"]
    rows += [(name, settings[name]) for name in (*names, "checkpointing", "ema_decay", "seed")]
    return [(name, value) for name, value in rows if value != ""]
