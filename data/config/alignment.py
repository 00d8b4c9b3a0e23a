"""Sections of study.toml about what a generator learns from: people's scores ([align]) and the proxy ([proxy])."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from radpref.data.config.section import Section

Loss = Literal["set-wise", "hard-pairs", "score-weighted"]


class AlignConfig(Section):
    """Diffusion-DPO. Defaults are those measured for the embedded model."""

    loss: Loss = "set-wise"
    beta: float = Field(default=500.0, gt=0)
    """500 for the embedded model, 5000 at Stable-Diffusion size."""
    learning_rate: float = Field(default=3e-4, gt=0)
    controlnet_learning_rate: float = Field(default=1e-5, gt=0)
    n_steps: int = Field(default=900, ge=1)
    """The study trained 4,000 steps."""
    sets_per_step: int = Field(default=4, ge=1)
    warmup_steps: int = Field(default=20, ge=0)
    lora_rank: int = Field(default=16, ge=1)
    held_out_fraction: float = Field(default=0.2, gt=0, lt=1)
    raters: Literal["human", "simulated", "auto"] = "auto"
    """Whose scores are used; ``auto`` takes the kind that is there and refuses a mixture."""
    evaluation_conditions: int = Field(default=50, ge=2)
    """Fresh conditions, of validation records that no rated set used, on which arms are compared."""
    evaluation_images: int = Field(default=4, ge=2)
    """Images of each condition and arm."""
    finetune_min_score: float = Field(default=4.0, ge=0, le=5)
    """The filter-and-fine-tune arm keeps images with a mean score at or above this."""
    seed: int = 0


class ProxyConfig(Section):
    """Feedback without people: arms ``proxy-filtered`` and ``proxy-finetuned`` (docs/proxy.md)."""

    model: str = "embedded"
    """``embedded``, an open_clip folder (from the study or absolute), or a hub name such as BiomedCLIP's."""
    percentile: float = Field(default=90.0, ge=0, lt=100)
    """Images at or above this percentile of their own class are kept."""
    prompt: str = "{finding}"
    """What an image is compared with; ``{finding}`` becomes the words of its class."""
    prompts: dict[str, str] = Field(default_factory=dict)
    """Class -> text, instead of ``prompt``; ``normal`` is "Normal" unless given here."""
    pool_multiple: int = Field(default=0, ge=0)
    """Candidates sampled for each image that is kept; 0: as many as the percentile needs (10 at 90)."""
    finetune_steps: int = Field(default=900, ge=1)
    """The study trained 9,000 steps at Stable-Diffusion size."""
    finetune_images: int = Field(default=2000, ge=1)
    """At most so many kept images train, evenly from all tasks."""
    learning_rate: float = Field(default=3e-4, gt=0)

    @field_validator("prompt")
    @classmethod
    def _names_the_finding(cls, value: str) -> str:
        try:
            shown = value.format(finding="x")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError('write the class as {finding}, e.g. "chest X-ray of {finding}"') from error
        if shown == value:
            raise ValueError('must hold {finding}, e.g. "chest X-ray of {finding}"')
        return value
