"""What only a CUDA GPU can show: training, sampling and compilation there agree with the processor. Skipped elsewhere.

python -m pytest tests/test_gpu.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from radpref.generation.sampling.denoising import make_ready
from radpref.generation.sampling.sampler import sample
from radpref.generation.stack.autoencoder import build_vae
from radpref.generation.stack.conditions import Condition
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from radpref.generation.training.checkpoints import CHECKPOINT
from radpref.generation.training.compute import Compute, Precision
from radpref.generation.training.decoder_training import refine_decoder
from radpref.generation.training.latents import encode_corpus
from radpref.generation.training.loop import Budget, LoopSettings
from radpref.generation.training.unet_training import train
from radpref.generation.training.vae_training import VaeSettings, reconstruction_report, train_vae
from tests.support.training import MIXED, training_corpus

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"), pytest.mark.slow]
VAE = VaeSettings(
    channels=(8, 16), latent_channels=4, crop=16, batch_size=4, full_batch_size=2, bf16=False,
    loop=LoopSettings(learning_rate=1e-3, warmup_steps=2, log_every=2, checkpoint_s=1e9),
)  # fmt: skip


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products in float32, as on the processor."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def _trained(device: str, precision: Precision, folder: Path, **how: object) -> tuple[Tensor, list[float]]:
    """Adam's first moments after three steps, which are what the gradients were, and the losses."""
    stack = tiny_stack(0).to(device)
    corpus = encode_corpus(tiny_stack(0), training_corpus(), folder / "latents")
    settings = replace(MIXED, precision=precision, loop=replace(MIXED.loop, log_every=1), **how)  # type: ignore[arg-type]
    train(stack, corpus, folder, Budget(n_steps=3), settings, seed=3, compute=Compute(torch.device(device)))
    assert stack.device.type == device
    stored = load_file(folder / CHECKPOINT)
    moments = torch.cat([stored[key].flatten() for key in sorted(stored) if key.endswith(".exp_avg")])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return moments, [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-3), ("bf16", 0.05), ("fp16", 0.02)])
@pytest.mark.parametrize("how", [{}, {"accumulation": 2, "checkpointing": True}])
def test_training_steps_are_those_of_the_processor(
    tmp_path: Path, precision: Precision, tolerance: float, how: dict[str, object]
) -> None:
    expected, losses = _trained("cpu", "f32", tmp_path / "cpu")
    found, own = _trained("cuda", precision, tmp_path / "cuda", **how)
    np.testing.assert_allclose(own[0], losses[0], rtol=tolerance)
    if precision != "fp16":  # the first steps of fp16 may be skipped until the loss scale fits
        assert float((found - expected).norm() / expected.norm()) < tolerance * 4
        np.testing.assert_allclose(own, losses, rtol=tolerance)


def test_autoencoder_and_decoder_train_on_the_gpu_as_on_the_processor(tmp_path: Path) -> None:
    corpus, found = training_corpus(), []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        vae = train_vae(
            corpus, folder / "vae", Budget(4), VAE, start=build_vae(VAE, 32, 0), device=torch.device(device)
        )
        latents = encode_corpus(replace(tiny_stack(0), vae=vae), corpus, folder / "latents").latents
        vae = refine_decoder(vae, latents, corpus.images, folder / "decoder", Budget(3), VAE, adversarial=0.5)
        assert vae.device.type == device
        found.append(torch.cat([p.detach().cpu().flatten() for p in vae.parameters()]))
        assert reconstruction_report(vae, corpus.images)["psnr_db"] > 0
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-2


def _conditions(stack: GeneratorStack, mode: str) -> list[Condition]:
    mask = np.zeros((len(stack.structures), stack.image_size, stack.image_size), dtype=bool)
    mask[0, 8:24, 4:12] = True
    text = None if mode == "M2I" else "severe left pleural effusion"
    return [Condition(text, None if mode == "T2I" else mask)] * 3


@pytest.mark.parametrize("mode", ["T2I", "M2I", "TM2I"])
def test_images_are_those_of_the_processor(mode: str) -> None:
    """The embedded model; rounding grows over the steps, and a half-precision image is the same image."""
    expected = sample(load_stack(), _conditions(load_stack(), mode), [1, 2, 3], n_steps=8).astype(int)
    for precision, mean in (("f32", 0.05), ("bf16", 2.0), ("fp16", 1.0)):
        stack = make_ready(load_stack(device="cuda"), precision=precision)
        found = sample(stack, _conditions(stack, mode), [1, 2, 3], n_steps=8, precision=precision)
        assert np.abs(found - expected).mean() < mean, precision


def test_a_compiled_model_samples_the_same_images_and_compiles_once() -> None:
    from torch._dynamo.utils import counters

    plain = make_ready(load_stack(device="cuda"), precision="bf16")
    compiled = make_ready(load_stack(device="cuda"), precision="bf16", compile_mode="default")
    n_graphs = []
    for seeds in ([1, 2, 3], [4, 5, 6]):
        for mode in ("T2I", "M2I", "TM2I"):
            options = {"n_steps": 4, "batch_size": 4, "precision": "bf16"}
            expected = sample(plain, _conditions(plain, mode), seeds, **options).astype(int)  # type: ignore[arg-type]
            found = sample(compiled, _conditions(compiled, mode), seeds, **options)  # type: ignore[arg-type]
            assert np.abs(found - expected).mean() < 2.0
        n_graphs.append(counters["stats"]["unique_graphs"])
    assert n_graphs[0] == n_graphs[1] > 0
