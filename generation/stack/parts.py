"""Reads the parts of a generator from folders in diffusers' layout: networks, tokenizer, configuration.

Input: a folder with ``config.json`` and safetensors (plain, sharded, or of a variant such as fp16). Output: the loaded
part, whole and finite in its names: a weight that is missing, superfluous in shape or pickled is refused on one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from radpref.data.core.errors import InvalidInput

PICKLES: tuple[str, ...] = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
NETWORKS: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
TO_SAFETENSORS = "convert it where you trust it (docs/generators.md, 'Pickles')"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars or warnings about casts from diffusers and transformers while weights are read or written."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, had_bars in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if had_bars:
                library.enable_progress_bar()


@contextmanager
def refusing(what: str, way_out: str) -> Iterator[None]:
    """Quiet libraries, and `InvalidInput` on one line for whatever they raise: what, their reason, and the way out.

    SafetensorError, OSError, KeyError, RuntimeError and even bare Exceptions all mean files that cannot be used.
    """
    try:
        with quiet_libraries():
            yield
    except Exception as error:
        # diffusers goes on to advise its own programmers about random weights
        reason = " ".join(str(error).split()).split(". If you want to instead")[0][:200]
        raise InvalidInput(f"{what} ({reason}): {way_out}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file; InvalidInput where it is missing or not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} is missing: copy it from where the model came from") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{path} is not JSON ({str(error).splitlines()[0]}): copy it again") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} is not a JSON object: copy it again")
    return content


def part_folder(folder: Path, name: str) -> Path:
    """The folder of a part; InvalidInput where it is not there."""
    part = folder / name
    if not part.is_dir():
        raise InvalidInput(f"generator {folder} lacks its part {name!r}: copy the folder {name}/ into it")
    return part


def _stem(kind: Any) -> str:
    """diffusers' networks and transformers' have differently named weights."""
    return "model" if kind.__module__.startswith("transformers") else "diffusion_pytorch_model"


def weight_files(part: Path, kind: Any, variant: str | None = None) -> tuple[str | None, list[Path]]:
    """The variant that is there and its files: the one wanted, else the plain one, else the only one.

    A part without the wanted variant has it plain in many published models; diffusers accepts that as well.

    Raises:
        InvalidInput: no safetensors, a shard is missing, or several variants and none that is wanted.
    """
    stem = _stem(kind)
    found: dict[str | None, list[Path]] = {}
    for path in sorted(part.glob(f"{stem}.*")):
        middle = path.name.removeprefix(f"{stem}.")
        if middle.endswith("safetensors") and middle.count(".") <= 1:
            found[middle.removesuffix("safetensors").rstrip(".") or None] = [path]
    for path in sorted(part.glob(f"{stem}.safetensors.index*.json")):
        own = path.name.removeprefix(f"{stem}.safetensors.index").removesuffix(".json").lstrip(".") or None
        shards = sorted({str(name) for name in read_json(path).get("weight_map", {}).values()})
        found.setdefault(own, [path, *(part / shard for shard in shards)])
    found = {own: files for own, files in found.items() if own is None or not own.count("-of-")}
    if not found:
        pickled = [path.name for path in sorted(part.iterdir()) if path.suffix in PICKLES]
        if pickled:
            raise InvalidInput(f"{part} has only pickled weights ({pickled[0]}), which run code: {TO_SAFETENSORS}")
        raise InvalidInput(f"{part} has no weights: copy its {stem}.safetensors into it")
    wanted = variant if variant in found else None
    if wanted not in found:
        if len(found) > 1:
            raise InvalidInput(f"{part} holds variants {sorted(map(str, found))}: name one as generator.variant")
        wanted = next(iter(found))
    missing = [path.name for path in found[wanted] if not path.is_file()]
    if missing:
        raise InvalidInput(f"{part} lacks {missing[0]}, a shard of its weights: copy it again")
    return wanted, found[wanted]


def read_network(folder: Path, name: str, kind: Any, variant: str | None = None) -> Any:
    """The network in ``folder/name``, float32, all of its weights read.

    Raises:
        InvalidInput: the part, its configuration or some of its weights are missing, unreadable, pickled, of another
            shape, or of another kind of network.
    """
    part, label = part_folder(folder, name), f"part {name!r} of generator {folder}"
    config = read_json(part / "config.json")
    own = str(config.get("_class_name") or next(iter(config.get("architectures") or []), kind.__name__))
    if own != kind.__name__:
        raise InvalidInput(f"{label} is a {own}, not a {kind.__name__}: only Stable Diffusion 1.x/2.x works")
    found, _ = weight_files(part, kind, variant)
    options: dict[str, Any] = {"variant": found} if found else {}
    if kind.__module__.startswith("transformers."):  # it then lists wrong shapes, where its own error names none
        options["ignore_mismatched_sizes"] = True
    with refusing(f"{label} cannot be read", "copy it again"):
        network, info = kind.from_pretrained(
            part, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    for key, stored, wanted in sorted(info.get("mismatched_keys") or []):
        raise InvalidInput(f"{label}: {key} is {list(stored)}, its config.json says {list(wanted)}: copy both again")
    missing = sorted(info.get("missing_keys") or [])
    if missing:
        raise InvalidInput(f"{label} lacks {len(missing)} weights ({missing[0]}, ...): copy it again")
    return network.float()


def read_tokenizer(folder: Path, max_tokens: int) -> CLIPTokenizer:
    """The CLIP tokenizer of ``folder/tokenizer`` (``tokenizer.json``, or ``vocab.json`` and ``merges.txt``).

    Args:
        max_tokens: positions of the text encoder; texts are cut to it where the tokenizer names no length.

    Raises:
        InvalidInput: its files are missing or unreadable.
    """
    part = part_folder(folder, "tokenizer")
    if not (part / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (part / name).is_file():
                raise InvalidInput(f"part 'tokenizer' of generator {folder} lacks {name}: copy it again")
    with refusing(f"part 'tokenizer' of generator {folder} cannot be read", "copy it again"):
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(part, local_files_only=True)
    tokenizer.model_max_length = min(int(tokenizer.model_max_length), max_tokens)
    return tokenizer
