"""CLIP tokenizers made offline: a small one learned from the corpus' own captions, and CLIP's own.

Input: texts, or nothing. Output: a `CLIPTokenizer` (lower case); the small one has at most 32 tokens and is the same
for the same texts.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MAX_TOKENS = 32
CLIP_TOKENS, CLIP_VOCABULARY = 77, 49408
START, END = "<|startoftext|>", "<|endoftext|>"

_WORDS = """
adult pediatric child infant male female patient man woman boy girl year-old years old AP PA supine upright portable
chest radiograph x-ray film view frontal image shows showing with without no and of the in a an is are there
acute chronic focal diffuse patchy hazy dense subtle mild moderate severe small large massive minimal marked
left right bilateral upper middle lower lobe lobar zone base basal apical lung lungs hemithorax cardiac heart silhouette
normal clear unremarkable abnormal negative positive findings finding impression evidence process disease
atelectasis cardiomegaly consolidation edema effusion pleural pneumonia pneumothorax infiltration infiltrate nodule
mass emphysema fibrosis thickening hernia opacity opacities opacification airspace interstitial collapse collapsed
bacterial viral covid tuberculosis lesion enlarged enlargement mediastinum mediastinal hilar congestion vascular
pulmonary blunting costophrenic angle air fluid rib fracture fractures clavicle spine tube line catheter device
device pacemaker sternotomy wires volume loss shift tension layering meniscus bronchograms perihilar reticular
lobectomy post operative consistent suggesting suspicious for likely possible size enlarged borderline
"""
RADIOLOGY_WORDS: tuple[str, ...] = tuple(_WORDS.split())


def learn_merges(words: Counter[str], n_merges: int) -> list[tuple[str, str]]:
    """Byte-pair merges of lower-cased words by count, ties broken alphabetically: deterministic."""
    symbols = bytes_to_unicode()
    pieces = {word: [symbols[b] for b in word.encode("utf-8")] for word in words}
    for parts in pieces.values():
        parts[-1] += "</w>"
    merges: list[tuple[str, str]] = []
    for _ in range(n_merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            k = 0
            while k < len(parts) - 1:
                if (parts[k], parts[k + 1]) == best:
                    parts[k : k + 2] = [best[0] + best[1]]
                k += 1
    return merges


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Words as CLIP's pre-tokenizer cuts them: runs of letters, single digits, runs of anything else."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"[^\W\d_]+|\d|[^\s\w]+", text.lower()))
    return counts


def build_tokenizer(texts: Sequence[str], n_merges: int = 1200) -> CLIPTokenizer:
    """Learn merges from `texts` and `RADIOLOGY_WORDS` (each counted at least once) and assemble the tokenizer."""
    return _assemble(learn_merges(count_words([*texts, *RADIOLOGY_WORDS]), n_merges), MAX_TOKENS, END)


def _assemble(merges: list[tuple[str, str]], max_tokens: int, pad_token: str) -> CLIPTokenizer:
    """CLIP's order of tokens: bytes, bytes that end a word, merges, start and end."""
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=pad_token,
        model_max_length=max_tokens,
    )


def clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """CLIP's own tokenizer (49,408 tokens, texts of 77) from the byte-pair merges that open_clip ships.

    Stable Diffusion 1.x pads with the end token, 2.x (OpenCLIP) with id 0, which is "!".
    """
    package = importlib.util.find_spec("open_clip")  # not imported: it is heavy, and only its file is wanted
    folder = Path(next(iter(package.submodule_search_locations or ()))) if package else Path()
    lines = gzip.decompress((folder / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode("utf-8").split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : CLIP_VOCABULARY - 512 - 2 + 1])]
    return _assemble(merges, CLIP_TOKENS, pad_token)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids int64 (n, L), padded and cut to the tokenizer's length."""
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded["input_ids"]
    return ids.to(torch.int64)
