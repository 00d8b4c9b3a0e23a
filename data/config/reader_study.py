"""Sections of study.toml about raters: the reading room and the simulated raters."""

from __future__ import annotations

from pydantic import Field

from radpref.data.config.section import Section

TEXT_ANCHORS = (
    "not a chest X-ray or contradicts the text",
    "finding absent",
    "wrong side or site",
    "present but atypical",
    "correct with a minor flaw",
    "unambiguous",
)
NORMAL_ANCHORS = (
    "not a chest X-ray",
    "gross disease",
    "definite abnormality",
    "doubtful",
    "normal with a minor flaw",
    "clearly normal",
)
MASK_ANCHORS = (
    "does not follow the mask",
    "wrong region",
    "under half overlap",
    "roughly right",
    "minor boundary error",
    "matches",
)


class AnnotateConfig(Section):
    """The reading room."""

    text_anchors: tuple[str, ...] = TEXT_ANCHORS
    normal_anchors: tuple[str, ...] = NORMAL_ANCHORS
    mask_anchors: tuple[str, ...] = MASK_ANCHORS
    session_hours: float = Field(default=12.0, gt=0)
    """Absolute life of a login, hours."""
    idle_minutes: float = Field(default=60.0, gt=0)
    seed: int = 0
    """Seed of the per-rater orders."""
    training_sets: int = Field(default=3, ge=0, le=50)
    """Sets of real images with known answers that each rater scores first, with feedback; never analysed."""
    gate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of training answers in the expected range that opens the study; 0: training only teaches."""
    gate_attempts: int = Field(default=3, ge=1, le=20)
    """How often a rater may do the training; after that the study office decides."""
    repeats: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of the rating sets shown a second time, unmarked, for intra-rater agreement; never analysed otherwise."""
    repeat_gap_sets: int = Field(default=40, ge=1)
    """Sets between a set and its repeat; as many as possible where there are fewer."""
    repeat_gap_hours: float = Field(default=4.0, ge=0.0)
    """Hours between them: a repeat waits until then."""
    attention: float = Field(default=0.05, ge=0.0, le=0.5)
    """Attention checks per rating set: real images, some under a text or mask that is not theirs. Reported only."""
    break_minutes: float = Field(default=40.0, ge=0.0)
    """Minutes of scoring after which the page proposes a break; 0: never."""
    tie_break: bool = False
    """Ask which of equally scored images is better; the answer orders them in the preference pairs."""
    raters_per_set: int = Field(default=0, ge=0)
    """How many people score each set (overlap); 0: all. See ``radpref annotate plan``."""
    sets_per_rater: int = Field(default=0, ge=0)
    """At most so many rating sets for each person; 0: no limit."""
    too_fast_s: float = Field(default=1.5, ge=0.0)
    """The dashboard marks sets scored in less than this, seconds per score."""


class SimulatedRater(Section):
    """One simulated rater: always labelled simulated."""

    name: str
    network: str
    """Measuring network of its own (role ``rater``)."""
    severity: float = 0.0
    """Shift of the latent score; positive is harsher, in score points."""
    noise: float = Field(default=0.6, ge=0.0)
    """Standard deviation of the rater's noise, score points."""
    inattention: float = Field(default=0.03, ge=0.0, le=1.0)
    """Share of scores given without looking (uniform 0-5)."""


class SimulateConfig(Section):
    """Simulated raters (``radpref annotate simulate``)."""

    raters: tuple[SimulatedRater, ...] = (
        SimulatedRater(name="sim-1", network="rater-1", severity=-0.3, noise=0.5, inattention=0.02),
        SimulatedRater(name="sim-2", network="rater-2", severity=0.0, noise=0.6, inattention=0.03),
        SimulatedRater(name="sim-3", network="rater-3", severity=0.3, noise=0.7, inattention=0.03),
        SimulatedRater(name="sim-4", network="rater-4", severity=0.6, noise=0.8, inattention=0.05),
    )
    seed: int = 0
