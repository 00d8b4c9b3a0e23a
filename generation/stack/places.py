"""Where generators and arms are, known from study.toml, the database and the disk alone: this module loads no torch.

Input: a name from study.toml or the command line. Output: a folder or file, or the row of table ``models``. A command
asks here first, so that a mistyped name is said at once and not after the seconds that torch takes to load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.generation import WEIGHTS_FOLDER

if TYPE_CHECKING:
    from radpref.data.study.study import Study

BASELINE = "baseline"
TRAINED = "trained"
"""Arm name, in table ``models``, of a generator trained on the study's own training split."""
EMBEDDED_FOLDER = WEIGHTS_FOLDER / "embedded"
SHIPPED: dict[str, Path] = {"embedded": EMBEDDED_FOLDER, "cxr128": EMBEDDED_FOLDER.with_name("cxr128")}
"""Models in the package: of digital phantoms, and of real radiographs of 128 pixels (docs/results/real-cxr.md)."""
MANIFEST = "radpref.json"
CONTROLNET = "controlnet"
"""Of a model's folder: its ControlNet."""
_TRAINED_BY = {TRAINED: "generate train", "proxy-finetuned": "align proxy"}
"""Arms that another command than `align train` makes."""


def model_path(study: Study, name: str) -> Path:
    """Where a generator of a study is: "trained" is the newest trained here; else see :func:`place_of`."""
    if name == TRAINED:
        return study.root / str(find_model(study, TRAINED)["path"])
    return place_of(name, study.root)


def resolved(name: str, root: Path) -> Path:
    """A path of study.toml or the command line, seen from ``root``; ``~`` is the home folder."""
    return root / Path(name).expanduser()  # an absolute path stays as it is


def place_of(name: str, root: Path) -> Path:
    """A shipped model's folder, a path (from ``root``), or a hub id's in the local cache; nothing is ever downloaded.

    Raises:
        NotFound: it looks like a hub id and is not in the cache; names the command that puts it there.
    """
    path = SHIPPED.get(name) or resolved(name, root)
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # huggingface_hub has its own tree of errors
        raise NotFound(
            f"no generator at {name}: neither a folder or file, nor in the cache of the Hugging Face hub; get it with"
            f" `hf download {name}`"
        ) from error


def require_generator(study: Study, name: str | None = None) -> Path:
    """Where the study's generator (or ``name``) is, if something is there.

    Raises:
        NotFound: nothing is; lists what study.toml may say.
    """
    folder = model_path(study, name or study.config.generator.model)
    if not folder.exists():
        raise no_generator(folder)
    return folder


def no_generator(place: Path) -> NotFound:
    """The error for a generator that is not there: names the choices."""
    choices = ", ".join(map(repr, SHIPPED))
    return NotFound(f"no generator at {place}: name a folder, a safetensors file, or {choices} (generator.model)")


def named_generator(study: Study | None, name: str) -> str:
    """A generator named on the command line: a place from here, else as study.toml would name it; something is there.

    Raises:
        NotFound: nothing is.
        InvalidInput: it is "trained", which is the model of a study, and there is no study.
    """
    here = Path(name).expanduser()
    if here.exists():
        return str(here.resolve())
    if study is not None:
        require_generator(study, name)
    elif name == TRAINED:
        raise InvalidInput("'trained' is the model of a study: give its folder as --study")
    elif not (place := place_of(name, Path.cwd())).exists():
        raise no_generator(place)
    return name


def find_model(study: Study, arm: str) -> dict[str, Any]:
    """The row of table ``models`` for an arm's name (its newest model) or a model_id.

    Raises:
        NotFound: no such arm; lists those there are.
    """
    row = study.db.row(
        "SELECT * FROM models WHERE arm = ? OR model_id = ? ORDER BY created_at DESC, model_id DESC LIMIT 1", (arm, arm)
    )
    if row is None:
        known = [r["arm"] for r in study.db.rows("SELECT DISTINCT arm FROM models ORDER BY arm")]
        raise NotFound(
            f"no arm '{arm}' in {study.root}: there are {', '.join([BASELINE, *known])}; "
            f"train it with `radpref {training_command(arm)}`"
        )
    return row


def training_command(arm: str) -> str:
    """Which command trains an arm, without ``radpref``."""
    return _TRAINED_BY.get(arm, "align train")


def require_arms(study: Study, arms: Iterable[str]) -> None:
    """NotFound for an arm that has no model, and for a study whose generator is not there."""
    require_generator(study)
    for arm in arms:
        if arm != BASELINE:
            find_model(study, arm)


def require_masks(study: Study, what: str) -> None:
    """Refuse ``what`` (it is drawn from masks) where the study's generator has no ControlNet to read them.

    Raises:
        InvalidInput: there is none in the model's folder, and study.toml names none.
        NotFound: no generator.
    """
    folder = require_generator(study)
    if study.config.generator.controlnet is None and not (folder / CONTROLNET).is_dir():
        raise InvalidInput(
            f"generator {study.config.generator.model!r} has no ControlNet and cannot draw {what}: ask for texts only"
            " (sets.mix = [100, 0, 0]), name a ControlNet as generator.controlnet, or train one"
            " (generator.model = 'trained', with masks imported)"
        )


def said_size(folder: Path) -> int | None:
    """Side of the images of a stack folder, pixels, as its ``radpref.json`` says; None where there is none to read."""
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["image_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
