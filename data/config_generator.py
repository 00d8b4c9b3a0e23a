"""Section [generator] of study.toml: the baseline generator, embedded, trained here or brought, and how it samples."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from data.config_base import Section

Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""A colour of a hint, ``#rrggbb``."""


class GeneratorConfig(Section):
    """The baseline generator and how it samples; equal in all arms that are compared."""

    BROUGHT: ClassVar[tuple[str, ...]] = (
        "controlnet", "lora", "unconditional", "hint", "palette", "prediction_type", "image_size", "variant", "config",
    )  # fmt: skip
    """Keys about a brought model: dumped only where set, so that runs of older studies are found again."""

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

    @model_serializer(mode="wrap")
    def _dumped(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {
            key: value
            for key, value in content.items()
            if key not in self.BROUGHT
            or getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True)
        }
