"""Training of the embedded proxy: image-caption pairs -> a small open_clip CLIP in open_clip's own folder layout.

Contrastive loss whose targets know duplicates: every image-text pair of a batch with the same canonical
caption is a positive, or the loss would push apart what says the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.generation.measuring.measuring_data import MeasureData
from radpref.generation.measuring.network_training import MeasureSettings, augment, resized, run_steps
from radpref.generation.measuring.open_clip_models import CONFIG, WEIGHTS
from radpref.generation.measuring.proxy_scorer import ProxyScorer
from radpref.generation.stack.tokenizer import MAX_TOKENS, build_tokenizer

WEIGHT_DECAY = 0.05
SEVERITY_WORDS = frozenset({"mild", "moderate", "severe"})


@dataclass(frozen=True)
class CaptionedData:
    """Images with alternative captions and a key, equal where they say the same: the canonical caption."""

    data: MeasureData
    captions: tuple[tuple[str, ...], ...]  # (N,) alternatives of each image
    keys: tuple[str, ...]  # (N,)

    def __post_init__(self) -> None:
        if not len(self.data) == len(self.captions) == len(self.keys):
            raise InvalidInput(
                f"{len(self.data)} images, {len(self.captions)} captions, {len(self.keys)} keys: give one per image"
            )
        if not all(self.captions):
            raise InvalidInput(f"image {list(map(bool, self.captions)).index(False)} has no caption: give at least one")


def model_config(vocab_size: int, image_size: int = 96, width: int = 12, text_width: int = 96) -> dict[str, Any]:
    """open_clip `model_cfg` of the embedded proxy: a small ModifiedResNet and a two-layer text transformer."""
    return {
        "embed_dim": 64,
        "vision_cfg": {"image_size": image_size, "layers": [1, 1, 1, 1], "width": width, "head_width": 32},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "proxy",  # any name: open_clip then takes the tokenizer files of the folder itself
            "width": text_width,
            "heads": 4,
            "layers": 2,
        },
    }


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, keys: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy with all pairs of equal key as positives.

    Args:
        image, text: (B, D), L2-normalised. scale: scalar, inverse temperature. keys: (B,) int.
    """
    logits = scale * image @ text.T
    target = (keys[:, None] == keys[None, :]).float()
    target = target / target.sum(1, keepdim=True)  # symmetric up to its rows' sums, which are equal per key
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_proxy(
    train: CaptionedData,
    validation: CaptionedData,
    out: Path,
    *,
    seed: int,
    settings: MeasureSettings,
    config: dict[str, Any] | None = None,
) -> ProxyScorer:
    """Train, write the open_clip folder `out` (model, tokenizer, proxy.json with held-out figures) and load it back."""
    import open_clip

    texts = [text for captions in train.captions for text in captions]
    tokenizer = build_tokenizer(sorted(set(texts)))
    model_cfg = config or model_config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**json.loads(json.dumps(model_cfg)))
    seconds = _fit(model, tokenizer, train, model_cfg["vision_cfg"]["image_size"], seed, settings)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    state = {key: value.half().contiguous() if value.is_floating_point() else value.contiguous()
             for key, value in model.state_dict().items()}  # fmt: skip
    write_atomic(out / WEIGHTS, safetensors.torch.save(state))
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "longest"}
    card = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    write_atomic(out / CONFIG, json.dumps(card, indent=1) + "\n")
    scorer = ProxyScorer.load(out)
    info = {
        "name": "proxy",
        "role": "proxy",
        "sha256": scorer.sha256,
        "seed": seed,
        "n_steps": settings.n_steps,
        "train_seconds": round(seconds),
        "train": {"draw": train.data.draw, "n": len(train.data), "sha256": train.data.sha256},
        "validation": {"draw": validation.data.draw, "n": len(validation.data), "sha256": validation.data.sha256},
        "validation_figures": retrieval_figures(scorer, validation),
    }
    write_atomic(out / "proxy.json", json.dumps(info, indent=1, sort_keys=True) + "\n")
    return scorer


def _fit(model: Any, tokenizer: Any, train: CaptionedData, size: int, seed: int, settings: MeasureSettings) -> float:
    """Train on random batches, one caption of each image drawn anew; returns the seconds it took."""
    from radpref.generation.stack.tokenizer import tokenize

    images, masks = resized(train.data, size)
    masks = masks[:, :0]
    index = {key: i for i, key in enumerate(sorted(set(train.keys)))}
    keys = torch.tensor([index[key] for key in train.keys])
    distinct = sorted({text for captions in train.captions for text in captions})
    ids, at = tokenize(tokenizer, distinct), {text: i for i, text in enumerate(distinct)}
    choices = [[at[text] for text in captions] for captions in train.captions]
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    n, batch = len(images), min(settings.batch_size, len(images))
    model.train()
    model.visual.to(memory_format=torch.channels_last)

    def loss_of(step: int) -> Tensor:
        rows = torch.randperm(n, generator=generator)[:batch]
        x, _ = augment(images[rows].float() / 255, masks[rows].float(), generator)
        chosen = torch.tensor([choices[i][int(rng.integers(len(choices[i])))] for i in rows.tolist()])
        pixels = ((x - 0.5) / 0.25).expand(-1, 3, -1, -1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            image, text = model.encode_image(pixels), model.encode_text(ids[chosen])
        scale = model.logit_scale.exp().clamp(max=50)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        return contrastive_loss(image, text, scale, keys[rows])

    return run_steps(model, settings, WEIGHT_DECAY, loss_of)


def retrieval_figures(scorer: ProxyScorer, validation: CaptionedData) -> dict[str, Any]:
    """Held-out retrieval: each image against one caption per key.

    Returns:
        n, n_captions, top1 and top5 (the exact caption), finding_top1 (the same caption but for its severity),
        chance_top1 (1 / n_captions), mean cosine with the own caption and with the others.
    """
    first = {key: captions[0] for key, captions in zip(validation.keys, validation.captions, strict=True)}
    keys = sorted(first)
    table = scorer.similarity(validation.data.images, [first[key] for key in keys])  # (N, K)
    own = np.array([keys.index(key) for key in validation.keys])
    ranks = (table > table[np.arange(len(own)), own][:, None]).sum(1)
    best = table.argmax(1)
    stems = [_stem(key) for key in keys]
    same = np.array([stems[b] == stems[o] for b, o in zip(best, own, strict=True)])
    others = table.sum(1) - table[np.arange(len(own)), own]
    return {
        "n": len(own),
        "n_captions": len(keys),
        "top1": round(float((ranks == 0).mean()), 4),
        "top5": round(float((ranks < 5).mean()), 4),
        "finding_top1": round(float(same.mean()), 4),
        "chance_top1": round(1 / len(keys), 4),
        "matched_cosine": round(float(table[np.arange(len(own)), own].mean()), 4),
        "mismatched_cosine": round(float((others / max(len(keys) - 1, 1)).mean()), 4),
    }


def _stem(key: str) -> str:
    """A caption without its severities: "Severe left pleural effusion" -> "left pleural effusion"."""
    return " ".join(word for word in key.lower().split() if word not in SEVERITY_WORDS)
