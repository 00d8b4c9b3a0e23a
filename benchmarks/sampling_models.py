"""Models and conditions of the sampling benchmark: tiny, embedded, and one of Stable Diffusion 2.1's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from radpref.generation.stack.conditions import Condition
    from radpref.generation.stack.models import GeneratorStack

TEXTS = (
    "severe left pleural effusion", "mild right pneumothorax", "moderate cardiomegaly", "pulmonary edema",
    "right lower lobe pneumonia", "normal", "left basal atelectasis", "bilateral consolidation",
)  # fmt: skip


def build(size: str, device: str) -> GeneratorStack:
    """The stack of a size, in float32; the ControlNet's residuals are not zero, so that leaving it out would show."""
    import torch

    from radpref.generation.stack.loading import load_stack
    from radpref.generation.stack.models import tiny_stack
    from radpref.generation.stack.parts import quiet_libraries

    if size == "embedded":
        return load_stack("embedded", device)
    stack = tiny_stack(0) if size == "tiny" else sd_stack(device)
    generator, controlnet = torch.Generator().manual_seed(3), stack.controlnet
    assert controlnet is not None
    with torch.no_grad():
        for convolution in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            drawn = torch.randn(convolution.weight.shape, generator=generator)
            convolution.weight.copy_(0.02 * drawn)
    with quiet_libraries():
        return stack.to(device).eval()


def sd_stack(device: str) -> GeneratorStack:
    """A model of Stable Diffusion 2.1's shape at 512 px with five hint channels, random weights, made on the device."""
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from radpref.generation.stack.architecture import make_scheduler
    from radpref.generation.stack.models import GeneratorStack
    from radpref.generation.stack.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(list(TEXTS), n_merges=100)
    tokenizer.model_max_length = 77
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=512,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        controlnet = ControlNetModel.from_unet(unet, conditioning_channels=5)
        structures = ("lungs", "heart", "pneumothorax", "rib_fractures", "chest_tubes")
        return GeneratorStack(
            vae, unet, controlnet, CLIPTextModel(text), tokenizer, make_scheduler(), structures, 512, model_id="sd"
        )


def make_conditions(stack: GeneratorStack, mode: str, n: int) -> list[Condition]:
    """``n`` different conditions of a mode; masks are boxes."""
    from radpref.generation.stack.conditions import Condition

    found = []
    for i in range(n):
        mask = np.zeros((len(stack.structures), stack.image_size, stack.image_size), np.bool_)
        side = stack.image_size // 4
        mask[i % len(mask), side : 3 * side, side + i : 2 * side + i] = True
        text = TEXTS[i % len(TEXTS)] if mode != "M2I" else None
        found.append(Condition(text, mask if mode != "T2I" else None))
    return found
