"""Section [train] of study.toml: what of a generator is trained on the study's own training split, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from data.config_base import Section


class TrainConfig(Section):
    """Training a generator on the study's own training split (``generator.model = "trained"``)."""

    start: str = "embedded"
    """``embedded``, ``cxr128``, a diffusers directory, or ``fresh``: the embedded architecture with random weights."""
    vae_steps: int = Field(default=1500, ge=0)
    vae_batch_size: int = Field(default=16, ge=1)
    """Crops of 64 pixels of one autoencoder step; three eighths of it where steps see whole images."""
    unet_steps: int = Field(default=4000, ge=0)
    """Text-to-image steps of UNet and text encoder."""
    control_steps: int = Field(default=1500, ge=0)
    """Steps of UNet and ControlNet together, modes mixed."""
    decoder_steps: int = Field(default=0, ge=0)
    """Steps of the decoder alone against a patch discriminator, at the end; latents, and what they ask for, stay."""
    variants: int = Field(default=6, ge=1, le=64)
    """Augmented variants of each image (the first is the image itself); small sets are memorised without them."""
    batch_size: int = Field(default=32, ge=1)
    """Images of one optimizer step, over all processes and parts."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of the text steps; default 5e-4, and for a Stable-Diffusion-sized UNet 1e-5 (its LoRA 1e-4)."""
    prompt_drop: float = Field(default=0.15, ge=0, lt=1)
    """Share of training texts taken away (zero vector, or the empty prompt of a brought model), for guidance."""
    seed: int = 0
    unet: Literal["full", "lora", "frozen"] = "full"
    """What of the UNet is trained."""
    lora_rank: int = Field(default=16, ge=1)
    text_encoder: Literal["trained", "frozen"] = "trained"
    text_rate: float = Field(default=0.5, gt=0)
    """The text encoder's learning rate, as a factor."""
    control: Literal["auto", "new", "none"] = "auto"
    """``auto``: the start model's ControlNet, a new one where it has none; ``new``: one grown from its UNet."""
    control_alone: bool = False
    """The mask steps train the ControlNet alone; UNet and text encoder stay as the text steps left them."""
    control_learning_rate: float | None = Field(default=None, gt=0)
    """Of the mask steps; default half of ``learning_rate``, and 1e-5 for a Stable-Diffusion-sized UNet."""
    mix: tuple[int, int, int] = (40, 20, 40)
    """Percentages of T2I, M2I and TM2I in the mask steps; the study trained on masks alone: [0, 100, 0]."""
    channel_drop: float = Field(default=0.3, ge=0, lt=1)
    """Share of mask channels taken away, so that any subset of structures works as a condition."""
    loss: Literal["auto", "plain", "weighted"] = "auto"
    """``plain``: the study's; ``weighted``: min-SNR weights and the error of coarse averages, for small models."""
    precision: Literal["f32", "bf16", "fp16"] = "bf16"
    """Mixed precision; fp16 needs a CUDA GPU."""
    accumulation: int = Field(default=1, ge=1)
    """Parts in which each process computes its share of a batch: less memory, the same result."""
    checkpointing: bool = False
    """Recompute activations of UNet and ControlNet instead of keeping them: less memory, a forward pass more."""
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    """Of the averaged weights, which are what is kept; 0: no average."""
    warmup_steps: int = Field(default=100, ge=0)
    checkpoint_minutes: float = Field(default=3.0, gt=0)
    """Between checkpoints."""
    log_every: int = Field(default=25, ge=1)
    """Steps between lines of metrics.jsonl."""
    sheet_every: int = Field(default=500, ge=0)
    """Steps between validation sheets and losses, each with a checkpoint; 0: none."""
    keep: Literal["last", "best"] = "last"
    """Weights that text and mask steps leave: those of the end, or of the lowest validation loss (``sheet_every``).
    That needs validation images with captions for text steps, with masks for mask steps."""
    sheet_images: int = Field(default=8, ge=1, le=64)
    """Conditions of the validation split on a sheet."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if sum(self.mix) != 100 or min(self.mix) < 0:
            raise ValueError(f"mix = {list(self.mix)} must be three percentages that sum to 100")
        if self.keep == "best" and not self.sheet_every:
            raise ValueError("keep = 'best' needs validation losses: set sheet_every above 0")
        return self
