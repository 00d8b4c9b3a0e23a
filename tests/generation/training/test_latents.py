"""Encoded images: kept with what they came from, resumable, memory-mapped; texts encoded once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from radpref.generation.stack.models import GeneratorStack, tiny_stack
from radpref.generation.training import kept_arrays
from radpref.generation.training.compute import Compute
from radpref.generation.training.latents import cache_text_states, encode_corpus, hash_weights
from tests.support.training import training_corpus


def test_other_images_masks_or_another_autoencoder_are_never_read_by_mistake(tmp_path: Path) -> None:
    stack, corpus = tiny_stack(0), training_corpus()
    first = np.array(encode_corpus(stack, corpus, tmp_path).latents)
    stamp = (tmp_path / "latents.npy").stat().st_mtime_ns
    encode_corpus(stack, corpus, tmp_path)
    assert (tmp_path / "latents.npy").stat().st_mtime_ns == stamp  # the same: not encoded again
    inverted = replace(corpus, images=255 - corpus.images)  # as many images of the same size
    other = encode_corpus(stack, inverted, tmp_path)
    assert not np.array_equal(first, other.latents)
    assert np.array_equal(other.latents, encode_corpus(stack, inverted, tmp_path / "fresh").latents)
    black = replace(corpus, packed_masks=np.zeros_like(corpus.packed_masks))
    assert not encode_corpus(stack, black, tmp_path).present.any()
    with torch.no_grad():
        stack.vae.quant_conv.bias.add_(1.0)
    assert not np.array_equal(first, encode_corpus(stack, corpus, tmp_path).latents)


def test_arrays_are_mapped_and_know_which_masks_are_there(tmp_path: Path) -> None:
    latents = encode_corpus(tiny_stack(0), training_corpus(), tmp_path, n_variants=2)
    assert isinstance(latents.latents, np.memmap)
    assert isinstance(latents.packed_masks, np.memmap)
    assert latents.present.tolist() == [[True, False]] * 24  # lungs known, heart not
    expected = np.unpackbits(np.array(latents.packed_masks[:3]), axis=-1, count=32)
    assert np.array_equal(latents.hints(np.arange(3), Compute()).numpy(), expected)


def test_interrupted_encoding_goes_on_to_the_same_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, corpus = tiny_stack(0), training_corpus()
    whole = encode_corpus(stack, corpus, tmp_path / "whole", n_variants=3, seed=5, batch_size=4)
    monkeypatch.setattr(kept_arrays, "NOTE_EVERY", 2)
    real, calls = GeneratorStack.encode_images, list[int]()

    def stopping(self: GeneratorStack, signal: torch.Tensor) -> torch.Tensor:
        calls.append(len(signal))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, signal)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratorStack, "encode_images", stopping)
        with pytest.raises(KeyboardInterrupt):
            encode_corpus(stack, corpus, tmp_path / "parts", n_variants=3, seed=5, batch_size=4)
        assert not (tmp_path / "parts" / "latents.npy").exists()
        resumed = encode_corpus(stack, corpus, tmp_path / "parts", n_variants=3, seed=5, batch_size=4)
    assert len(calls) == 6 + 5  # four of nine batches were noted
    for name in ("latents", "packed_masks", "present"):
        assert np.array_equal(getattr(whole, name), getattr(resumed, name)), name


def test_texts_are_encoded_once_for_one_text_encoder(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    latents = encode_corpus(stack, training_corpus(), tmp_path)
    states = cache_text_states(stack, latents, tmp_path, Compute())
    expected = stack.text_encoder(input_ids=latents.token_ids).last_hidden_state
    torch.testing.assert_close(torch.from_numpy(states.astype(np.float32)), expected, atol=5e-3, rtol=1e-3)
    key = json.loads((tmp_path / "texts.json").read_text())
    with torch.no_grad():
        stack.text_encoder.get_input_embeddings().weight.mul_(2)
    again = cache_text_states(stack, latents, tmp_path, Compute())
    assert not np.array_equal(states, again)
    assert json.loads((tmp_path / "texts.json").read_text()) != key
    assert hash_weights(stack.text_encoder) != hash_weights(tiny_stack(0).text_encoder)


def test_the_empty_prompt_is_among_the_texts_of_models_that_know_it_as_none(tmp_path: Path) -> None:
    stack = tiny_stack(0)
    assert encode_corpus(stack, training_corpus(), tmp_path).empty_id is None
    stack.unconditional = "empty_prompt"
    latents = encode_corpus(stack, training_corpus(), tmp_path)
    assert latents.empty_id == len(latents.texts) - 1
    assert latents.texts[-1] == ""
