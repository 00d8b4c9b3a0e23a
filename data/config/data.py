"""Sections ``[data]`` and ``[captions]`` of study.toml: where the real images and their texts come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from radpref.data.config.section import Section

ReaderName = Literal["phantom", "table", "chexpert", "candid", "siim", "rsna", "mimic", "medmnist"]
"""The names of `radpref.data.datasets.registry.READERS`."""


class ColumnsConfig(Section):
    """Column map of the ``table`` reader: which column of the CSV or parquet file holds what."""

    image: str | None = None
    """Path of the image, relative to the table (required)."""
    patient: str | None = None
    """Patient identifier (required: splits never cut through a patient)."""
    record: str | None = None
    """Identifier of the row; default: the image path."""
    split: str | None = None
    """train, val or test; default: a patient-disjoint split drawn from ``seed``."""
    text: str | None = None
    """Caption: a column, or a template such as ``"{population} chest radiograph, {label}"``."""
    report: str | None = None
    """Report; default: the text as in the table."""
    labels: tuple[str, ...] = ()
    """Each ``name``, ``name=column`` (1, 0 or blank) or ``name=column:value`` (1 where the cell is or lists value)."""
    mask: dict[str, str] = Field(default_factory=dict)
    """Structure -> column with the path of its mask (``mask.lungs = "lung_mask"``); blank: none."""
    rle: dict[str, str] = Field(default_factory=dict)
    """Structure -> column with its mask as run lengths in the convention of ``data.rle``; blank or -1: none."""
    rle_size: tuple[int, int] | None = None
    """[height, width] in which run lengths count, where the image files were resized since; default: the image's."""
    where: dict[str, str] = Field(default_factory=dict)
    """Read only rows whose column has this value."""
    uncertain: Literal["blank", "0", "1"] = "blank"
    """What a label of -1 (uncertain, CheXpert) becomes."""


class PhantomConfig(Section):
    """What the phantom reader draws (``[data.phantom]``)."""

    findings: tuple[str, ...] = ()
    """Findings that occur; default: all the phantom can show."""
    normal_fraction: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of patients without a finding."""
    caption: str = ""
    """Caption with ``{finding}`` in it ("normal" where there is none), for a generator that was trained on other words;
    default: the phantom's own."""


class DataConfig(Section):
    """Where the real images come from."""

    reader: ReaderName = "phantom"
    """Name of the data-set reader."""
    path: str | tuple[str, ...] | None = None
    """The data set: a table, an archive or a folder, from the study's folder; several are imported one after the other.
    ``radpref data import`` may override it."""
    columns: ColumnsConfig = ColumnsConfig()
    """Column map of the ``table`` reader."""
    image_size: int = Field(default=128, ge=32, le=1024)
    """Side of the square images, pixels."""
    structures: tuple[str, ...] = ("lungs", "heart", "lesion", "pneumothorax")
    """Names of the mask structures, one hint channel each, in this order."""
    n_train: int = Field(default=600, ge=0)
    """Phantom patients in the training split."""
    n_val: int = Field(default=200, ge=0)
    """Phantom patients in the validation split: thresholds, and conditions of rated sets."""
    n_test: int = Field(default=400, ge=0)
    """Phantom patients in the test split: never seen by generator, ratings, pairs or thresholds."""
    phantom: PhantomConfig = PhantomConfig()
    seed: int = 0
    """Seed of the phantom draw and of splits that the table or set does not give."""
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of the patients in train, val and test where the set gives no split. CheXpert's test set is its official
    validation set, so there only the first two count."""
    labels: tuple[str, ...] = ()
    """Labels to keep of a data set; default: all it has."""
    uncertain: str | dict[str, str] = "blank"
    """What an uncertain label (-1) of a data set becomes: a preset of `radpref.data.datasets.labels.UNCERTAIN_PRESETS`
    (``blank``, ``zeros``, ``ones``, ``mgca``), or label -> ``blank``, ``0`` or ``1``; ``others`` is the rest (default
    blank)."""
    blank: Literal["unknown", "0"] = "unknown"
    """What a label that the report does not mention becomes. MGCA reads CheXpert's blanks as 0."""
    rle: str | dict[str, str] | None = None
    """Run-length convention of CANDID-PTX's masks, ``relative`` or ``absolute``, or structure -> convention."""
    rle_first: Literal[0, 1] = 1
    """Number of the first pixel where run lengths are absolute."""

    @field_validator("uncertain", "rle", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        return {key: str(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    @field_validator("uncertain")
    @classmethod
    def _known_policy(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        return _choice(value, ("blank", "zeros", "ones", "mgca"), ("blank", "0", "1"))

    @field_validator("rle")
    @classmethod
    def _known_convention(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        return value if value is None else _choice(value, ("relative", "absolute"), ("relative", "absolute"))

    @field_validator("split_fractions")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-9:
            raise ValueError("give three shares that sum to 1")
        return value


def _choice(value: str | dict[str, str], names: tuple[str, ...], inner: tuple[str, ...]) -> str | dict[str, str]:
    """``value`` where it is one of ``names``, or a table with values among ``inner``."""
    if isinstance(value, str) and value not in names:
        raise ValueError(f"choose one of {', '.join(names)}, or a table of name = choice")
    for name, choice in value.items() if isinstance(value, dict) else ():
        if choice not in inner:
            raise ValueError(f"'{name}' is {choice!r}; choose one of {', '.join(inner)}")
    return value


class CaptionsConfig(Section):
    """Five-word captions (``radpref data caption``): by rules on this machine, or by a chat endpoint."""

    source: Literal["rules", "endpoint"] = "rules"
    """``rules`` needs no network; ``endpoint`` asks any OpenAI-compatible server and falls back to the rules."""
    base_url: str | None = None
    """Of the endpoint, e.g. ``http://127.0.0.1:8000/v1`` (vLLM, llama.cpp, Ollama, a hosted service)."""
    model: str | None = None
    """Name of the model, as the endpoint calls it."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """NAME of the environment variable that holds the key; never the key itself."""
    allow_remote: bool = False
    """Reports may be sent to an endpoint that is neither on this machine nor in a private network."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(default=64, ge=0)
    """Longest answer, tokens; 0: left to the endpoint (models that think first need more)."""
    max_retries: int = Field(default=5, ge=0, le=20)
    """How often a request is repeated after 429, 5xx, a timeout or an answer that is not a chat completion."""
    re_ask: int = Field(default=2, ge=0, le=10)
    """How often the endpoint is asked to correct a caption that breaks the rules; then the rules write it."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests at a time."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for one answer, seconds."""
    price_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens sent, in whatever currency; for the estimate."""
    price_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens answered."""
    body: dict[str, Any] = Field(default_factory=dict)
    """More keys for the request, as the endpoint wants them (e.g. ``reasoning_effort = "low"``)."""
