"""Section ``[downstream]`` of study.toml: tasks, the grid and its primary comparisons."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from radpref.data.config.section import Section


class TaskConfig(Section):
    """One downstream task."""

    name: str
    kind: Literal["multilabel", "binary", "segmentation"]
    labels: tuple[str, ...] = ()
    """Classification: the label names. Binary: one."""
    structure: str | None = None
    """Segmentation: the structure whose mask is the label."""
    where: dict[str, str] = Field(default_factory=dict)
    """Keep only records whose column has this value (e.g. population = "adult")."""
    prompts: Literal["auto", "captions", "labels"] = "auto"
    """What pools are asked by: training captions that name one label alone; the label's name ("pneumonia"), as the
    study did; auto: captions, and the name where there are none."""
    synthetic: Literal["balanced", "positive-only"] = "balanced"
    """``balanced``: pools hold "Normal" images too (binary: half); ``positive-only``: none, as the study's."""


class DownstreamConfig(Section):
    """The downstream grid. Primary comparisons and the family are fixed here, before the grid runs."""

    tasks: tuple[TaskConfig, ...] = (
        TaskConfig(
            name="chexpert5",
            kind="multilabel",
            labels=("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"),
        ),
        TaskConfig(name="pneumonia", kind="binary", labels=("pneumonia",)),
        TaskConfig(name="pneumothorax", kind="segmentation", structure="pneumothorax"),
    )
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    multiples: tuple[int, ...] = (2, 5, 10, 25)
    arms: tuple[str, ...] = ("baseline", "aligned")
    """Synthetic arms beside real-only."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    image_size: int = Field(default=64, ge=16)
    n_steps: int = Field(default=300, ge=1)
    """Optimizer steps, equal for every cell (fairness)."""
    batch_size: int = Field(default=32, ge=2)
    network: Literal["resnet18", "resnet50", "small"] = "small"
    primary: tuple[str, ...] = ("aligned>baseline", "baseline>real", "aligned>real")
    alpha: float = Field(default=0.05, gt=0, lt=1)
    seed: int = 0
