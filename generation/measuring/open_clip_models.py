"""Loads an open_clip model for the proxy: the embedded one, a local folder, or a name on the hub.

Source -> (model, tokenizer, identity of the weights). Whatever is incomplete, unreachable or of another shape is one
line. A folder downloaded from the hub loads without a network: open_clip asks the hub for the configuration of a
Hugging Face text tower even then, so the folder's own, or one read off the shapes of the weights, is given instead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radpref.data.core.errors import InvalidInput, NotFound, RadprefError
from radpref.data.core.files import sha256_bytes, sha256_file, write_atomic
from radpref.generation import WEIGHTS_FOLDER

EMBEDDED = WEIGHTS_FOLDER / "measure" / "proxy"
BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WEIGHT_FILES = (WEIGHTS, "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
CLIP_CONTEXT, BERT_CONTEXT = 77, 256
"""open_clip's tokens where a configuration names none, and BiomedCLIP's: impressions are longer than captions."""

Tokenizer = Callable[[list[str]], Tensor]


def load_open_clip(source: str | Path, device: str = "cpu") -> tuple[Any, Tokenizer, str]:
    """The model, its tokenizer and the SHA-256 of its weights.

    Raises:
        NotFound: no such folder, or a file is missing in it.
        InvalidInput: not an open_clip model, weights and configuration differ, or open_clip refuses the name.
    """
    folder = source_folder(source)
    if folder is None:
        model, tokenizer = _open(str(source), device, {})
        return model, tokenizer, _identity(model)
    weights = _weights_file(folder)
    with local_text_tower(folder, weights) as text_cfg:
        model, tokenizer = _open(f"local-dir:{folder.resolve()}", device, {"text_cfg": text_cfg} if text_cfg else {})
    return model, tokenizer, sha256_file(weights)


def source_folder(source: str | Path) -> Path | None:
    """The local folder `source` means; None for a hub or built-in name."""
    if source == "embedded":
        return EMBEDDED
    text = str(source).removeprefix("local-dir:")
    is_path = isinstance(source, Path) or text != str(source) or Path(text).exists() or text.startswith((".", "/", "~"))
    return Path(text).expanduser() if is_path else None


def _weights_file(folder: Path) -> Path:
    if not (folder / CONFIG).is_file():
        raise NotFound(f"{folder} holds no {CONFIG}: give an open_clip folder, or 'embedded'")
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise NotFound(f"{folder} holds no weights ({', '.join(WEIGHT_FILES[:2])}): download the folder again, whole")


def _open(name: str, device: str, overrides: Mapping[str, Any]) -> tuple[Any, Tokenizer]:
    try:
        import open_clip

        tags = [None] if ":" in name else open_clip.list_pretrained_tags_by_model(name)
        if not tags:
            raise InvalidInput(f"open_clip has no weights for {name!r}: give 'embedded', a folder or 'hf-hub:NAME'")
        model = open_clip.create_model(
            name, pretrained=tags[0], device=device, pretrained_text=False, require_pretrained=True, **overrides
        )
        tokenizer = open_clip.get_tokenizer(name)
    except RadprefError:
        raise
    except Exception as error:  # open_clip, the hub client and transformers raise many kinds
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(
            f"open_clip cannot load {name!r} ({detail}): give 'embedded', a folder or 'hf-hub:NAME'"
        ) from error
    bert = getattr(getattr(model, "text", None), "config", None)  # of a Hugging Face text tower
    if bert is not None and tokenizer.context_length == CLIP_CONTEXT:
        tokenizer.context_length = min(BERT_CONTEXT, int(getattr(bert, "max_position_embeddings", BERT_CONTEXT)))
    _check_vocabulary(name, model, tokenizer)
    return model.eval(), tokenizer


def _check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """A folder without tokenizer files gives an almost empty vocabulary and no error: every text looks alike."""
    inner = getattr(tokenizer, "tokenizer", None)
    wanted = int(getattr(getattr(model, "text", model), "vocab_size", 0) or 0)
    if inner is not None and hasattr(inner, "__len__") and 2 * len(inner) < wanted:
        raise InvalidInput(
            f"the tokenizer of {name!r} knows {len(inner)} tokens, the model {wanted}: its tokenizer files are missing"
        )


# --- the text tower of a local folder ----------------------------------------------------------------------------


@contextmanager
def local_text_tower(folder: Path, weights: Path) -> Iterator[dict[str, Any] | None]:
    """`text_cfg` whose Hugging Face text tower is described by a local folder; None where the tower is open_clip's own.

    Raises:
        InvalidInput: the configuration cannot be read, or tells nothing about the tower.
    """
    try:
        card = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        text_cfg = dict(card["model_cfg"]["text_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"open_clip cannot load {folder / CONFIG}: it is not an open_clip configuration") from error
    if "hf_model_name" not in text_cfg:
        yield None
        return
    own = folder / "config.json"
    if own.is_file() and "model_type" in json.loads(own.read_text(encoding="utf-8")):
        yield text_cfg | {"hf_model_name": str(folder.resolve()), "hf_model_pretrained": False}
        return
    with tempfile.TemporaryDirectory() as place:
        write_atomic(Path(place) / "config.json", json.dumps(bert_config(weights)))
        yield text_cfg | {"hf_model_name": place, "hf_model_pretrained": False}


def bert_config(weights: Path) -> dict[str, Any]:
    """Configuration of a BERT text tower from the shapes of its weights; heads of 64, as all published BERTs have.

    Raises:
        InvalidInput: the weights hold no BERT.
    """
    shapes = _shapes(weights)
    prefix = "text.transformer."
    try:
        vocabulary, hidden = shapes[f"{prefix}embeddings.word_embeddings.weight"]
        n_layers = 1 + max(
            int(name.split(".")[4]) for name in shapes if name.startswith(f"{prefix}encoder.layer.") and "." in name
        )
        return {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "num_hidden_layers": n_layers,
            "num_attention_heads": max(1, hidden // 64),
            "intermediate_size": shapes[f"{prefix}encoder.layer.0.intermediate.dense.weight"][0],
            "max_position_embeddings": shapes[f"{prefix}embeddings.position_embeddings.weight"][0],
            "type_vocab_size": shapes[f"{prefix}embeddings.token_type_embeddings.weight"][0],
            "pad_token_id": 0,
        }
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{weights.parent} has a text tower that is not a BERT, without a config.json for it: add that file"
        ) from error


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    try:
        if weights.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(weights, "pt") as file:
                names = list(file.keys())
                return {name: tuple(file.get_slice(name).get_shape()) for name in names}
        state = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        return {name: tuple(value.shape) for name, value in state.get("state_dict", state).items()}
    except Exception as error:  # a torn file raises anything
        reason = " ".join(str(error).split())[:120]
        raise InvalidInput(f"{weights} cannot be read ({reason}): download it again") from error


def _identity(model: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of all tensors, one after the other."""
    parts = []
    for name, value in sorted(model.state_dict().items()):
        raw = value.detach().cpu().contiguous()
        parts.append(name + sha256_bytes(raw.view(-1).view(torch.uint8).numpy().tobytes() if raw.numel() else b""))
    return sha256_bytes("\n".join(parts).encode())
