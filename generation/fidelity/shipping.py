"""Makes a folder to share of a generator trained on real images: fp16 weights, card, and the check for copies.

Input: a study with a trained generator. Output: a stack folder (`radpref generate share`). A generator whose samples
look like copies of its training images (docs/adr/0015) is not written: sharing its weights would share the patients'
images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import write_atomic
from radpref.data.core.statistics import Estimate
from radpref.data.study.runs import Run, latest_run
from radpref.generation import WEIGHTS_FOLDER
from radpref.generation.fidelity.figures import SourceFigures
from radpref.generation.fidelity.request import FidelityRequest, check_share
from radpref.generation.stack.models import GeneratorStack, save_stack
from radpref.generation.stack.places import BASELINE

if TYPE_CHECKING:
    from radpref.data.study.study import Study

CLEAN = "clean enough"
NETWORKS = WEIGHTS_FOLDER / "measure"
"""Measuring networks of a shipped model NAME of real images are in the folder NAME below."""


@torch.no_grad()
def keep_structures(stack: GeneratorStack, structures: Sequence[str]) -> GeneratorStack:
    """Leave only some hint channels, in place; a model never shown the others must not seem to know them.

    What it draws under the kept structures stays as it was: an absent structure's channel was black.

    Raises:
        InvalidInput: the stack has no ControlNet, or not such a structure.
    """
    if stack.controlnet is None:
        raise InvalidInput("the generator has no ControlNet: it has no structures to keep")
    unknown = sorted(set(structures) - set(stack.structures))
    if unknown or not structures:
        raise InvalidInput(f"structures {list(structures)}: name some of {', '.join(stack.structures)}")
    channels = [stack.structures.index(name) for name in structures]
    layer = stack.controlnet.controlnet_cond_embedding.conv_in
    layer.weight = torch.nn.Parameter(layer.weight[:, channels].clone(), requires_grad=False)
    layer.in_channels = len(channels)
    stack.controlnet.register_to_config(conditioning_channels=len(channels))
    stack.structures = tuple(structures)
    return stack


def ship(study: Study, out: Path, name: str, structures: Sequence[str], credits_text: str) -> dict[str, Any]:
    """Write the study's generator to ``out``; returns its size and what the check for copies said.

    The fidelity of exactly these weights is measured first (`run_fidelity`; at once where that is done).

    Raises:
        Conflict: the check found what may be copies; nothing is written. Further those of `check_share`.
    """
    from radpref.generation.fidelity.report import run_fidelity
    from radpref.generation.stack.adapters import load_arm

    check_share(study, out)
    training = latest_run(study, "train")
    found = run_fidelity(study, FidelityRequest(arms=(BASELINE,))).images[BASELINE]
    copies = found.memorisation
    if copies.verdict != CLEAN:
        raise Conflict(f"not shared: copies of training images: {copies.verdict} ({copies.why})")
    stack = keep_structures(load_arm(study, BASELINE), structures)
    stack.model_id = name
    save_stack(stack, out, half=True)
    _forget_paths(out)
    size_mb = sum(path.stat().st_size for path in out.rglob("*.safetensors")) / 1e6
    write_atomic(out / "README.md", _card(stack, size_mb, training, found, credits_text))
    return {"model": str(out), "megabytes": round(size_mb, 1), "copies": copies.verdict}


def _forget_paths(folder: Path) -> None:
    """Take out of the parts' configurations where they were loaded from: a path of the machine that trained them."""
    for path in sorted(folder.rglob("config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            write_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _card(stack: GeneratorStack, size_mb: float, training: Run, found: SourceFigures, credits_text: str) -> str:
    side, copies = stack.image_size, found.memorisation
    figures = {
        "FID (95 % interval)": _interval(found.frechet),
        "FID of as many real images": _interval(found.real.frechet),
        "KID (95 % interval)": _interval(found.kid),
        "MS-SSIM of images of one prompt": _interval(found.diversity) if found.diversity else "not measured",
        "copies of training images": f"{copies.verdict}: {copies.why}",
    }
    rows = "\n".join(f"| {label} | {value} |" for label, value in figures.items())
    result = {key: value for key, value in training.result.items() if key != "model"}  # a path of this machine
    return (
        f"# {stack.model_id}\n\nA latent diffusion model of {side} x {side} chest radiographs; texts, and masks of "
        f"{', '.join(stack.structures)}. fp16 safetensors, {size_mb:.1f} MB.\n**Research use, not for diagnosis.** "
        f"What it samples are synthetic images; nobody may take them for patients.\n\n{credits_text.strip()}\n\n"
        f"## Figures\n{found.n} sampled images against held-out real ones ({training.run_id}).\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n\n## Training\n\n```json\n"
        f"{json.dumps({'train': training.config, 'result': result}, indent=1)}\n```\n"
    )


def _interval(figure: Estimate) -> str:
    return f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]"


def copy_networks(name: str, root: Path) -> None:
    """Put the measuring networks shipped with model ``name`` into the study at ``root``, which then uses them.

    Raises:
        NotFound: none are shipped for it.
    """
    sources = sorted((NETWORKS / name).glob("*.*"))
    if not sources:
        raise NotFound(f"no measuring networks of model {name!r} in {NETWORKS}; install radpref again")
    for source in sources:
        if source.suffix in (".json", ".safetensors") and not (root / "networks" / source.name).exists():
            write_atomic(root / "networks" / source.name, source.read_bytes())
