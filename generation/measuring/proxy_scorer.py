"""The proxy: an open_clip model that says how well an image fits a text, used to filter large pools of images.

uint8 images, texts -> cosine similarities. One loader for the embedded model (`generation/weights/measure/proxy`,
made by `radpref.generation.measuring.proxy_training`), any local open_clip folder, and hub names such as
`hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224`. Images are padded to a square, never cropped:
open_clip's own resize cuts the costophrenic angles and apices off. Never judge quality by the score that filtered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.data.core.errors import InvalidInput
from radpref.generation.measuring.measuring_network import check_images, resize_square
from radpref.generation.measuring.open_clip_models import load_open_clip

FLOAT = npt.NDArray[np.float32]


@dataclass
class ProxyScorer:
    """An open_clip model with its tokenizer and preprocessing."""

    name: str
    model: torch.nn.Module = field(repr=False)
    tokenizer: Callable[[list[str]], Tensor] = field(repr=False)
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    role: str = "proxy"
    batch_size: int = 64

    @classmethod
    def load(cls, source: str | Path = "embedded", *, device: str = "cpu") -> ProxyScorer:
        """Load "embedded", a local open_clip folder, or a hub or built-in name; errors as `load_open_clip`."""
        model, tokenizer, sha256 = load_open_clip(source, device)
        preprocess = dict(getattr(model.visual, "preprocess_cfg", {}))
        size = getattr(model.visual, "image_size", None) or preprocess.get("size", 224)
        return cls(
            name="embedded" if source == "embedded" else str(source),
            model=model,
            tokenizer=tokenizer,
            image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
            mean=tuple(preprocess.get("mean", (0.5, 0.5, 0.5))),
            std=tuple(preprocess.get("std", (0.5, 0.5, 0.5))),
            sha256=sha256,
        )

    def preprocess(self, images: npt.NDArray[Any]) -> Tensor:
        """uint8 (N, H, W) -> float32 (N, 3, S, S), padded to a square with black, resized, normalised."""
        check_images(images)
        x = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None] / 255
        x = resize_square(x, self.image_size).clamp(0, 1).expand(-1, 3, -1, -1)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def image_embeddings(self, images: npt.NDArray[Any]) -> FLOAT:
        """uint8 (N, H, W) -> L2-normalised float32 (N, D)."""
        return self._embed(self.model.encode_image, self.preprocess, images)

    def text_embeddings(self, texts: Sequence[str]) -> FLOAT:
        """Texts -> L2-normalised float32 (M, D); each distinct text is encoded once."""
        position = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = self._embed(self.model.encode_text, self.tokenizer, list(position))
        return rows[[position[text] for text in texts]]

    @torch.inference_mode()
    def _embed(self, encode: Any, prepare: Callable[[Any], Tensor], items: npt.NDArray[Any] | list[str]) -> FLOAT:
        self.model.eval()
        device = next(self.model.parameters()).device
        batches = (items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size))
        rows = torch.cat([encode(prepare(batch).to(device)) for batch in batches])
        out: FLOAT = F.normalize(rows.float(), dim=-1).cpu().numpy()
        return out

    def similarity(self, images: npt.NDArray[Any], texts: Sequence[str]) -> FLOAT:
        """Cosine of every image (N) with every text (M): float32 (N, M), -1 to 1."""
        if not len(images) or not len(texts):
            return np.zeros((len(images), len(texts)), np.float32)
        return np.asarray(self.image_embeddings(images) @ self.text_embeddings(texts).T, np.float32)

    def paired_similarity(self, images: npt.NDArray[Any], texts: Sequence[str]) -> FLOAT:
        """Cosine of each image with its own text: float32 (N,)."""
        if len(images) != len(texts):
            raise InvalidInput(f"{len(images)} images and {len(texts)} texts: give one text per image")
        if not len(images):
            return np.zeros(0, np.float32)
        return np.asarray((self.image_embeddings(images) * self.text_embeddings(texts)).sum(axis=1), np.float32)
