"""The training arrays of UNet and ControlNet: images encoded once, augmented variants, masks, texts.

Input: a stack and a `Corpus`. Output: a `LatentCorpus`, memory-mapped from a folder that belongs to these images, this
autoencoder and these settings (`radpref.generation.training.kept_arrays`). One process encodes, the others wait and
read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.autoencoder import to_signal
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.tokenizer import tokenize
from radpref.generation.training.compute import Compute
from radpref.generation.training.corpus import Corpus
from radpref.generation.training.kept_arrays import KeptArrays


@dataclass(frozen=True)
class LatentCorpus:
    """What training reads: one row per image (or augmented variant of it).

    latents: float16 (M, C, h, w), scaled; packed_masks: uint8 (M, S, H, W/8); present: bool (M, S), which masks are not
    black; texts: the U unique captions, followed by the empty prompt where that is the model's unconditional text;
    token_ids: int64 (U, L); caption_ids: per row the indices of its captions (may be empty); image_size: pixels;
    empty_id: index of the empty prompt, None where the unconditional text is the zero vector.
    """

    latents: np.ndarray
    packed_masks: np.ndarray
    present: np.ndarray
    texts: tuple[str, ...]
    token_ids: Tensor
    caption_ids: list[list[int]]
    image_size: int
    empty_id: int | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def hints(self, rows: np.ndarray, compute: Compute) -> Tensor:
        """Masks of some rows on the device, float32 (n, S, H, W) in {0, 1}; it gets the bits, a 32nd of the bytes."""
        packed = compute.put(torch.from_numpy(np.ascontiguousarray(self.packed_masks[rows])))
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)  # the highest bit comes first
        bits = (packed.unsqueeze(-1) >> shifts) & 1
        return bits.flatten(-2)[..., : self.image_size].float()


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Small shifts (4 %), zooms (6 %) and gains (8 %); no flips, as laterality matters.

    images (n, 1, H, W) in [-1, 1], masks (n, S, H, W) in {0, 1}; both come back alike.
    """
    n = len(images)
    draws = torch.rand(n, 4, generator=generator) * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + 0.06 * draws[:, 0]
    theta[:, :, 2] = 0.08 * draws[:, 1:3]  # half of the image is 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    moved_masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    gain = (1 + 0.08 * draws[:, 3])[:, None, None, None]
    return ((moved + 1) * gain - 1).clamp(-1, 1), moved_masks


def hash_weights(*modules: nn.Module) -> str:
    """SHA-256 of names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode_corpus(
    stack: GeneratorStack,
    corpus: Corpus,
    folder: Path,
    n_variants: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    compute: Compute | None = None,
) -> LatentCorpus:
    """Encode images once; variant 0 is the image itself, the others are augmented. Kept in `folder`, memory-mapped.

    InvalidInput where structures or image size of corpus and stack differ.
    """
    if corpus.structures != stack.structures:
        raise InvalidInput(f"masks are {list(corpus.structures)}, the model's {list(stack.structures)}: make equal")
    if corpus.image_size != stack.image_size:
        raise InvalidInput(f"corpus images are {corpus.image_size} px, the model's {stack.image_size}: resize them")
    if len(corpus) == 0:
        raise InvalidInput("the corpus has no images: import some first")
    compute = compute or Compute()
    content: dict[str, Any] = {
        "images": corpus.fingerprint() if compute.is_main else "",
        "autoencoder": hash_weights(stack.vae) if compute.is_main else "",
        "structures": list(corpus.structures),
        "n_variants": n_variants,
        "seed": seed,
        "batch_size": batch_size,
    }
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "latents": (np.float16, stack.latent_shape),
        "masks": (np.uint8, corpus.packed_masks.shape[1:]),
        "present": (np.bool_, (len(corpus.structures),)),
    }
    kept = KeptArrays(folder, "latents", content, len(corpus) * n_variants, shapes)
    if compute.is_main:
        device = next(iter(stack.vae.parameters())).device
        generator = torch.Generator().manual_seed(seed)

        def fill(arrays: dict[str, np.ndarray], rows: np.ndarray) -> None:
            images, planes = _variant(corpus, rows, generator)
            arrays["latents"][rows] = stack.encode_images(images.to(device)).to(torch.float16).cpu().numpy()
            filled = np.any(planes, axis=(-2, -1))
            arrays["present"][rows] = filled
            with_mask = np.any(filled, axis=1)
            arrays["masks"][rows[with_mask]] = planes[with_mask]

        def skip(rows: np.ndarray) -> None:
            if rows[-1] >= len(corpus):
                torch.rand(len(rows), 4, generator=generator)  # what `augment` draws

        kept.make("encode images", fill, batch_size, skip)
    compute.wait()
    return _assemble(stack, corpus, kept, n_variants)


def _variant(corpus: Corpus, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Images and packed masks of rows; rows beyond the corpus' length are augmented variants."""
    sources = rows % len(corpus)
    images = to_signal(np.asarray(corpus.images[sources]))
    packed = np.asarray(corpus.packed_masks[sources])
    is_variant = torch.from_numpy(rows >= len(corpus))
    if bool(is_variant.any()):
        planes = torch.from_numpy(corpus.masks(sources)).float()
        moved, moved_planes = augment(images, planes, generator)
        images = torch.where(is_variant[:, None, None, None], moved, images)
        chosen = torch.where(is_variant[:, None, None, None], moved_planes, planes)
        packed = np.packbits(chosen.numpy() > 0.5, axis=-1)
    return images, packed


def _assemble(stack: GeneratorStack, corpus: Corpus, kept: KeptArrays, n_variants: int) -> LatentCorpus:
    unique = list(dict.fromkeys(text for texts in corpus.captions for text in texts)) or ["normal"]
    index = {text: number for number, text in enumerate(unique)}
    caption_ids = [[index[text] for text in texts] for texts in corpus.captions]
    empty_id = len(unique) if stack.unconditional == "empty_prompt" else None
    texts = (*unique, "") if empty_id is not None else tuple(unique)
    return LatentCorpus(
        kept.load("latents"),
        kept.load("masks"),
        np.array(kept.load("present")),
        texts,
        tokenize(stack.tokenizer, texts),
        caption_ids * n_variants,
        stack.image_size,
        empty_id,
    )


@torch.no_grad()
def cache_text_states(stack: GeneratorStack, corpus: LatentCorpus, folder: Path, compute: Compute) -> np.ndarray:
    """Hidden states float16 (U, L, D) of the corpus' texts by a text encoder that stays as it is, memory-mapped."""
    content = {
        "texts": hashlib.sha256("\0".join(corpus.texts).encode()).hexdigest(),
        "text_encoder": hash_weights(stack.text_encoder) if compute.is_main else "",
    }
    n_texts, length = corpus.token_ids.shape
    width = int(stack.text_encoder.config.hidden_size)
    kept = KeptArrays(folder, "texts", content, n_texts, {"texts": (np.float16, (length, width))})
    if compute.is_main:

        def fill(arrays: dict[str, np.ndarray], rows: np.ndarray) -> None:
            ids = corpus.token_ids[torch.from_numpy(rows)].to(compute.device)
            states = stack.text_encoder(input_ids=ids).last_hidden_state
            arrays["texts"][rows] = states.to(torch.float16).cpu().numpy()

        kept.make("encode texts", fill, 64)
    compute.wait()
    return kept.load("texts")
