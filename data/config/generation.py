"""Sections [generator], [train], [sets] and [pool] of study.toml: the generator, its training, and what it samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from radpref.data.config.section import Section

Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""A colour of a hint, ``#rrggbb``."""


def _sums_to_100(value: tuple[int, int, int]) -> tuple[int, int, int]:
    if sum(value) != 100 or min(value) < 0:
        raise ValueError("give three percentages that sum to 100")
    return value


Mix = Annotated[tuple[int, int, int], AfterValidator(_sums_to_100)]
"""Percentages of T2I, M2I and TM2I."""


class GeneratorConfig(Section):
    """The baseline generator and how it samples; equal in all arms that are compared."""

    model: str = "embedded"
    """``embedded``; ``cxr128`` (real radiographs, 128 pixels); ``trained``: on this study's training split (section
    [train]); or a brought model of Stable Diffusion 1.x or 2.x: a diffusers directory, a single safetensors file, or a
    hub id that is in the local cache."""
    controlnet: str | None = None
    """Diffusers directory of a ControlNet for the model; default: the model's own folder ``controlnet/``, if any."""
    lora: tuple[str, ...] = ()
    """LoRA files or folders added into the weights in this order, before anything is trained here."""
    unconditional: Literal["auto", "zero", "empty_prompt"] = "auto"
    """How guidance drops the text; auto: what radpref.json says, ``empty_prompt`` for a brought model."""
    hint: Literal["auto", "channels", "rgb"] = "auto"
    """What the ControlNet reads: one channel per structure, or a colour map; auto: by its number of channels."""
    palette: dict[str, Colour] = Field(default_factory=dict)
    """Structure -> ``#rrggbb`` of the colour map; defaults in docs/generators.md."""
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the UNet predicts; auto: what the model's scheduler says (a single 2.x file needs it said)."""
    image_size: int | None = Field(default=None, ge=16, le=2048)
    """Side of a brought model's images, pixels; default: the size its UNet was trained at."""
    variant: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    """Weights to read where a directory holds several, e.g. ``fp16``; default: the plain ones, else the only ones."""
    config: str | None = None
    """Single file only: a diffusers directory with the configuration files; default: those of SD 1.x and 2.x."""
    n_steps: int = Field(default=20, ge=1, le=1000)
    guidance_scale: float = Field(default=2.0, ge=1.0, le=30.0)
    batch_size: int = Field(default=32, ge=1)
    precision: Literal["f32", "bf16", "fp16"] = "f32"
    """Of the networks while sampling; fp16 needs a GPU."""
    compile: bool = Field(default=False, exclude=True)
    """``torch.compile`` the networks for sampling on a GPU: minutes at the start, then faster. No other images: it is
    not part of what a run is known by."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = Field(default="default", exclude=True)
    """How; ``reduce-overhead`` and ``max-autotune`` use CUDA graphs."""
    seed: int = 0


class SetsConfig(Section):
    """Rating sets: four images of one condition."""

    n: int = Field(default=200, ge=1)
    mix: Mix = (75, 15, 10)
    """Percentages of T2I, M2I and TM2I (study: 75/15/10)."""
    comparison: int = Field(default=0, ge=0)
    """Blinded sets of two baseline and two aligned images, sampled after the alignment; never trained on."""
    seed: int = 0


class PoolConfig(Section):
    """Sampling of augmentation pools (docs/pools.md)."""

    shard_size: int = Field(default=256, ge=1, le=10_000)
    """Images that are sampled and stored as one: what an interruption loses at most."""
    engine: Literal["process", "ray"] = "process"
    """``ray``: workers under Ray (``pip install 'radpref[ray]'``)."""
    workers: int = Field(default=0, ge=0)
    """Ray workers; 0: one a GPU, or one a processor core."""


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
    mix: Mix = (40, 20, 40)
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
    def _has_validation(self) -> TrainConfig:
        if self.keep == "best" and not self.sheet_every:
            raise ValueError("keep = 'best' needs validation losses: set sheet_every above 0")
        return self
