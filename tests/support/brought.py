"""Brought generators with random weights: tiny Stable Diffusion 1.x- and 2.x-like directories in diffusers' layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from radpref.generation.stack.parts import quiet_libraries
from radpref.generation.stack.tokenizer import END, START, build_tokenizer

SIZE, FACTOR, WIDTH = 32, 4, 16
TEXTS = ["Normal", "Severe left pleural effusion", "mild right pneumothorax"]
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@cache
def _words() -> CLIPTokenizer:
    return build_tokenizer(TEXTS, n_merges=20)


def save_slow_tokenizer(folder: Path, pad: str = END, max_tokens: int = 16) -> None:
    """vocab.json and merges.txt, as Stable Diffusion's own directories have them (no tokenizer.json)."""
    folder.mkdir(parents=True, exist_ok=True)
    fast = json.loads(_words().backend_tokenizer.to_str())
    (folder / "vocab.json").write_text(json.dumps(_words().get_vocab()), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in fast["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    words: dict[str, Any] = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(words), encoding="utf-8")
    own = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_tokens, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(own), encoding="utf-8")


def make_parts(family: str = "sd1", seed: int = 0, **unet: Any) -> dict[str, Any]:
    """The networks and scheduler of a tiny model; "sd2" has linear projections, GELU and v-prediction."""
    second = family == "sd2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextConfig(
            vocab_size=len(_words()),
            hidden_size=WIDTH,
            intermediate_size=32,
            projection_dim=8 if second else WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
        shape: dict[str, Any] = {
            "sample_size": SIZE // FACTOR,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": (1, 2) if second else 2,
            "use_linear_projection": second,
            "norm_num_groups": 8,
            "cross_attention_dim": WIDTH,
        }
        return {
            "vae": AutoencoderKL(
                block_out_channels=(8, 8, 16),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=4,
                norm_num_groups=4,
                sample_size=SIZE,
            ),
            "unet": UNet2DConditionModel(**(shape | unet)),
            "text_encoder": CLIPTextModel(text),
            "scheduler": (
                DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, **ZERO_SNR)
                if second
                else PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
            ),
        }


def make_controlnet(unet: UNet2DConditionModel, channels: int, seed: int = 5) -> ControlNetModel:
    """A ControlNet whose residuals are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control = ControlNetModel.from_unet(
            unet, conditioning_channels=channels, conditioning_embedding_out_channels=(8, 8, 8)
        )
        with torch.no_grad():
            for block in [*control.controlnet_down_blocks, control.controlnet_mid_block]:
                block.weight.normal_(0, 0.2)
            control.controlnet_cond_embedding.conv_out.weight.normal_(0, 0.2)
    return control


def save_brought(
    folder: Path, family: str = "sd1", *, hint: int | None = None, seed: int = 0, parts: dict[str, Any] | None = None
) -> Path:
    """Write a directory as diffusers does; with a ControlNet of ``hint`` channels where given."""
    made = parts or make_parts(family, seed)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    with quiet_libraries():
        for name, part in made.items():
            part.save_pretrained(folder / name)
            index[name] = ["transformers" if name == "text_encoder" else "diffusers", type(part).__name__]
        if hint is not None:
            make_controlnet(made["unet"], hint).save_pretrained(folder / "controlnet")
    save_slow_tokenizer(folder / "tokenizer", "!" if family == "sd2" else END)
    index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
