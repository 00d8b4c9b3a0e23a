"""What a fidelity report is asked for, refused before torch is loaded where study.toml, database and disk tell.

Input: the options of ``radpref generate fidelity``. Output: nothing, or one of the project's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import has_conditions
from radpref.data.study.runs import latest_run
from radpref.generation.fidelity.image_source import SAMPLES_PER_PROMPT, image_files, no_conditions, require_images
from radpref.generation.stack.places import BASELINE, SHIPPED, require_arms

if TYPE_CHECKING:
    from radpref.data.study.study import Study

Split = Literal["val", "train", "test"]
DEFAULT_N = 400
NETWORKS = ("auto", "torchxrayvision", "fidelity")
"""Feature networks that may be asked for."""


def check_request(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    n: int | None = None,
    against: str = "val",
    prompts: str = "val",
    images: Path | None = None,
    network: str = "auto",
) -> None:
    """Refuse what cannot be measured; the arguments are those of `radpref.generation.fidelity.report.run_fidelity`.

    Raises:
        InvalidInput: a bad option, or a split without captions and masks to sample from.
        NotFound: no such arm, generator or folder, or a split without images.
    """
    if n is not None and n < 2 * SAMPLES_PER_PROMPT:
        raise InvalidInput(f"--n {n}: give at least {2 * SAMPLES_PER_PROMPT} images, better {DEFAULT_N}")
    if against not in get_args(Split):
        raise InvalidInput(f"--against {against}: choose val, train or test")
    if prompts not in ("val", "train"):
        raise InvalidInput(f"--prompts {prompts}: choose val or train (test conditions are never sampled)")
    if arms and images:
        raise InvalidInput("--arm and --images exclude each other: measure an arm, or a folder")
    check_network(network)
    for split in dict.fromkeys(("train", "val", against)):
        require_images(study, split)
    if images is not None:
        image_files(images)
        return
    require_arms(study, arms or [BASELINE])
    if not has_conditions(study, prompts):
        raise no_conditions(prompts)


def check_network(choice: str) -> None:
    """Refuse a name that is no feature network.

    Raises:
        InvalidInput: it is none of `NETWORKS`.
    """
    if choice not in NETWORKS:
        raise InvalidInput(f"--network {choice}: choose one of {', '.join(NETWORKS)}")


def check_share(study: Study, out: Path) -> None:
    """Refuse to share what was not trained here, or into a folder that holds something.

    Raises:
        NotFound: no generator trained in this study.
        InvalidInput: ``out`` holds something, or the study samples from a shipped model, not from what it trained.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is there and not empty; choose a new folder")
    latest_run(study, "train")
    if (model := study.config.generator.model) in SHIPPED:
        raise InvalidInput(f"generator.model = {model!r} is not what this study trained; set it to 'trained'")
