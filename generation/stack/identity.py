"""The identity of a brought generator: one hash over exactly the files that would be read and what is said about them.

Input: a directory or file and the options of study.toml. Output: SHA-256. Records of runs hold it, so that another
model, ControlNet or LoRA under the same name is noticed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import sha256_file
from radpref.data.core.progress import bar
from radpref.generation.stack.brought import controlnet_folder, refuse_other_families
from radpref.generation.stack.lora import lora_file
from radpref.generation.stack.options import ModelOptions
from radpref.generation.stack.parts import NETWORKS, part_folder, weight_files
from radpref.generation.stack.places import CONTROLNET

SHOW_HASHING_FROM = 1 << 30
"""Bytes from which hashing shows a bar."""
_SAID = ("unconditional", "hint", "palette", "prediction_type", "image_size")
"""Hashed with their values, defaults too. A key that comes later must be left out at its default, or every arm of an
older study becomes another one."""


def identity(path: Path, options: ModelOptions) -> str:
    """SHA-256 over the files that `load_brought` would read and the options that change what they mean."""
    files = used_files(path, options)
    return _digest(files, {key: getattr(options, key) for key in ("structures", *_SAID)})


def extras_identity(options: ModelOptions) -> str:
    """SHA-256 of what study.toml adds to a stack folder that says the rest itself; "" where it adds nothing."""
    plain = ModelOptions()
    said = {key: getattr(options, key) for key in _SAID if getattr(options, key) != getattr(plain, key)}
    files = _added_files(options)
    return _digest(files, said) if files or said else ""


def _digest(files: list[tuple[str, Path]], said: dict[str, Any]) -> str:
    total = sum(file.stat().st_size for _, file in files)
    digest = hashlib.sha256()
    takes_long = total >= SHOW_HASHING_FROM
    with bar("hashing the generator", total >> 20) if takes_long else nullcontext(lambda _: None) as advance:
        for name, file in files:
            status = file.stat()
            digest.update(f"{name}\n{_hashed(file, status.st_size, status.st_mtime_ns)}\n".encode())
            advance(status.st_size >> 20)
    digest.update(json.dumps(said, sort_keys=True).encode())
    return digest.hexdigest()


def used_files(path: Path, options: ModelOptions) -> list[tuple[str, Path]]:
    """(name, file) of everything that is read, in a fixed order."""
    found: list[tuple[str, Path]] = []
    if path.is_file():
        found.append((path.name, path))
        if options.config is not None:
            found += [(f"config/{f.relative_to(options.config)}", f) for f in sorted(options.config.rglob("*.json"))]
    else:
        refuse_other_families(path)
        for name, kind in NETWORKS.items():
            found += _network_files(name, part_folder(path, name), kind, options.variant)
        for name in ("tokenizer", "scheduler"):
            folder = part_folder(path, name)
            found += [(f"{name}/{f.name}", f) for f in sorted(folder.iterdir()) if f.suffix in (".json", ".txt")]
        if options.controlnet is None and (path / CONTROLNET).is_dir():
            found += _network_files(CONTROLNET, path / CONTROLNET, ControlNetModel, options.variant)
    return found + _added_files(options)


def _added_files(options: ModelOptions) -> list[tuple[str, Path]]:
    """Files of ControlNet and LoRAs that study.toml names."""
    found: list[tuple[str, Path]] = []
    if options.controlnet is not None:
        found += _network_files(CONTROLNET, controlnet_folder(options.controlnet), ControlNetModel, options.variant)
    for place, one in enumerate(options.lora):
        file = lora_file(one)
        cards = [file.with_name("adapter_config.json")] if file.with_name("adapter_config.json").is_file() else []
        found += [(f"lora-{place}/{part.name}", part) for part in (file, *cards)]
    return found


def _network_files(name: str, folder: Path, kind: Any, variant: str | None) -> list[tuple[str, Path]]:
    _, weights = weight_files(folder, kind, variant)
    files = [folder / "config.json", *weights]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InvalidInput(f"{missing[0]} is missing: copy it from where the model came from")
    return [(f"{name}/{file.name}", file) for file in files]


@functools.lru_cache(maxsize=256)
def _hashed(file: Path, size: int, changed_ns: int) -> str:
    del size, changed_ns  # part of the key: a file that changed is hashed again
    return sha256_file(file)
