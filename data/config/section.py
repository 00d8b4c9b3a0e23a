"""What all sections of study.toml share: frozen, and keys that are not known are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of study.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
