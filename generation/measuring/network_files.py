"""Where measuring networks are, known from names and the disk alone: this module loads no torch.

Input: a name or path from study.toml or the command line. Output: the path of the network's json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from radpref.data.core.errors import NotFound
from radpref.generation import WEIGHTS_FOLDER

if TYPE_CHECKING:
    from radpref.data.study.study import Study

WEIGHTS = WEIGHTS_FOLDER / "measure"
FOLDER = "networks"
"""Of a study: its own networks."""


def network_path(study: Study, name: str) -> str | Path:
    """Where the network `name` is: a path (relative ones start at the study), ``networks/<name>`` there, or shipped."""
    for candidate in (study.root / name, study.root / FOLDER / name):
        if candidate.with_name(candidate.name.removesuffix(".json") + ".json").is_file():
            return candidate
    return Path(name).expanduser() if Path(name).is_absolute() else name


def card_path(name_or_path: str | Path) -> Path:
    """The json of a shipped network by its name, or of any by its path, with or without the suffix.

    Raises:
        NotFound: there is none; the message lists the shipped ones.
    """
    path = Path(name_or_path)
    file = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    candidates = [file, WEIGHTS / file.name]
    for candidate in candidates if path.parent == Path() else candidates[:1]:
        if candidate.is_file():
            return candidate
    raise NotFound(
        f"no measuring network {str(name_or_path)!r}: give the path of its json, "
        f"or one of {', '.join(shipped()) or '(none shipped)'}"
    )


def shipped(role: str | None = None) -> list[str]:
    """Names of the shipped networks (of one role), sorted; the open_clip proxy has its own loader and is not listed."""
    names = []
    for path in sorted(WEIGHTS.glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        if "shape" in card and role in (None, card["role"]):
            names.append(path.stem)
    return names
