"""The model card of the embedded generator: data, steps, time, figures, known faults, read from the runs' logs."""

from __future__ import annotations

import json
from pathlib import Path

from radpref.data.core.files import write_atomic
from radpref.generation.training.train_card import logged_figures

RUNS: tuple[tuple[str, str], ...] = (
    ("autoencoder", "vae_run"),
    ("text to image", "unet_run"),
    ("with masks", "control_run"),
    ("decoder alone", "decoder_run"),
)
KNOWN_FAULTS = """\
- The images are phantoms: no claim about real radiographs, and no use for diagnosis.
- At 128 px fine quantum noise is smoothed by the autoencoder; fine vessels and rib edges are softer than rendered.
- Severity is followed less exactly than finding and side; two findings in one text are followed less well than one.
- Reports longer than 32 tokens are cut.
- A mask without text: lungs and heart are followed closely, lesion and pneumothorax planes less (which finding fills a
  lesion is then the model's choice)."""


def write_model_card(target: Path, work: Path, n_images: int) -> None:
    """Write README.md into `target` from the logs and figures in `work`."""
    rows = []
    for name, folder in RUNS:
        if last := logged_figures(work / folder):
            cells = last["step"], f"{last['elapsed_s'] / 60:.0f} min", last["images_per_s"], f"{last['loss']:.4f}"
            rows.append(f"| {name} | {' | '.join(map(str, cells))} |")
    reports = [path for path in (work / "vae_refined.json", work / "vae.json") if path.exists()]
    figures = json.loads(reports[0].read_text(encoding="utf-8")) if reports else {}
    figure_rows = [f"| {key} | {value:.4g} |" for key, value in figures.items()]
    size_mb = sum(path.stat().st_size for path in target.rglob("*.safetensors")) / 1e6
    text = "\n".join(
        [
            "# Embedded generator",
            "",
            "A small latent diffusion model of digital chest phantoms (128 x 128): AutoencoderKL (images folded 2 x 2",
            "into four channels, latents 8 x 16 x 16 of unit deviation), UNet2DConditionModel, ControlNetModel",
            "(one hint channel each for lungs, heart, lesion, pneumothorax) and CLIPTextModel.",
            f"fp16 safetensors, {size_mb:.1f} MB. Research use, not for diagnosis.",
            "",
            "## Data",
            f"{n_images} phantoms rendered by `data/phantom/render.py` (seed 2026), without the finding-side-severity",
            "combinations of `HELD_OUT`; texts are captions, paraphrases and impressions. No real patient is in it.",
            "",
            "## Training (one CPU core, bf16)",
            "| stage | steps | time | images/s | last loss |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Like it: `radpref generate train --embedded` runs the same stages in a straight line (budgets in",
            "`generation/training/embedded.py`). The shipped weights came from the stages above, one after the other",
            "as settings were found; the autoencoder first saw earlier drafts of the phantom. A rebuild gives a",
            "similar model, not the same bytes.",
            "",
            "## Autoencoder on held-out phantoms",
            "| figure | value |",
            "|---|---|",
            *figure_rows,
            "",
            "## Known faults",
            KNOWN_FAULTS,
            "",
        ]
    )
    write_atomic(target / "README.md", text)
