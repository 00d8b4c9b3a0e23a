"""study.toml: the only human input of a study, read into frozen models that refuse unknown keys.

Input: a TOML file. Output: :class:`StudyConfig`. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from data.config_base import Section as _Section
from data.config_feedback import AlignConfig as AlignConfig
from data.config_feedback import ProxyConfig as ProxyConfig
from data.config_generator import GeneratorConfig as GeneratorConfig
from data.config_rating import AnnotateConfig as AnnotateConfig
from data.config_rating import SimulateConfig as SimulateConfig
from data.config_rating import SimulatedRater as SimulatedRater
from data.config_train import TrainConfig as TrainConfig
from data.errors import InvalidInput, NotFound

ReaderName = Literal["phantom", "table", "chexpert", "candid", "siim", "rsna", "mimic", "medmnist"]
"""The names of `data.readers.READERS`."""


class ColumnsConfig(_Section):
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
    """Report; default: the text as it stands in the table."""
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


class PhantomConfig(_Section):
    """What the phantom reader draws (``[data.phantom]``)."""

    findings: tuple[str, ...] = ()
    """Findings that occur; default: all the phantom can show."""
    normal_fraction: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of patients without a finding."""
    caption: str = ""
    """Caption with ``{finding}`` in it ("normal" where there is none), for a generator that was trained on other words;
    default: the phantom's own."""


class DataConfig(_Section):
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
    """What an uncertain label (-1) of a data set becomes: a preset of `data.labels.UNCERTAIN_PRESETS` (``blank``,
    ``zeros``, ``ones``, ``mgca``), or label -> ``blank``, ``0`` or ``1``; ``others`` is the rest (default blank)."""
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


class CaptionsConfig(_Section):
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
    """How often a request is repeated after 429, 5xx, a timeout or an answer that is no chat completion."""
    re_ask: int = Field(default=2, ge=0, le=10)
    """How often a caption that breaks the rules is asked for again, with the reason; then the rules write it."""
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


class SetsConfig(_Section):
    """Rating sets: four images of one condition."""

    n: int = Field(default=200, ge=1)
    mix: tuple[int, int, int] = (75, 15, 10)
    """Percentages of T2I, M2I and TM2I (study: 75/15/10)."""
    comparison: int = Field(default=0, ge=0)
    """Blinded sets of two baseline and two aligned images, sampled after the alignment; never trained on."""
    seed: int = 0

    @model_validator(mode="after")
    def _sums_to_100(self) -> SetsConfig:
        if sum(self.mix) != 100 or min(self.mix) < 0:
            raise ValueError(f"mix = {list(self.mix)} must be three percentages that sum to 100")
        return self


class PoolConfig(_Section):
    """Sampling of augmentation pools (docs/pools.md)."""

    shard_size: int = Field(default=256, ge=1, le=10_000)
    """Images that are sampled and stored as one: what an interruption loses at most."""
    engine: Literal["process", "ray"] = "process"
    """``ray``: workers under Ray (``pip install 'radpref[ray]'``)."""
    workers: int = Field(default=0, ge=0)
    """Ray workers; 0: one a GPU, or one a processor core."""


class TaskConfig(_Section):
    """One downstream task."""

    name: str
    kind: Literal["multilabel", "binary", "segmentation"]
    labels: tuple[str, ...] = ()
    """Classification: the label names. Binary: one."""
    structure: str | None = None
    """Segmentation: the structure whose mask is the label."""
    where: dict[str, str] = Field(default_factory=dict)
    """Keep only records whose column has this value (e.g. population = "adult")."""
    prompts: Literal["auto", "captions", "labels"] = Field(default="auto", exclude_if=lambda value: value == "auto")
    """What pools are asked by: training captions that name one label alone; the label's name ("pneumonia"), as the
    study did; auto: captions, and the name where there are none."""
    synthetic: Literal["balanced", "positive-only"] = Field(
        default="balanced", exclude_if=lambda value: value == "balanced"
    )
    """``balanced``: pools hold "Normal" images too (binary: half); ``positive-only``: none, as the study's."""


class DownstreamConfig(_Section):
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


class StudyConfig(_Section):
    """A whole study.toml."""

    name: str = Field(default="pilot", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")
    title: str = "Synthetic chest X-ray preference study"
    data: DataConfig = DataConfig()
    captions: CaptionsConfig = CaptionsConfig()
    generator: GeneratorConfig = GeneratorConfig()
    train: TrainConfig = TrainConfig()
    sets: SetsConfig = SetsConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    simulate: SimulateConfig = SimulateConfig()
    align: AlignConfig = AlignConfig()
    proxy: ProxyConfig = ProxyConfig()
    pool: PoolConfig = PoolConfig()
    downstream: DownstreamConfig = DownstreamConfig()


def parse_config(content: dict[str, Any], origin: str = "study.toml") -> StudyConfig:
    """Validate a parsed TOML document.

    Raises:
        InvalidInput: an unknown key (the nearest valid name is given) or a bad value, named with its path.
    """
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(f"{origin}: {_first_problem(error)}") from error


def load_config(path: Path) -> StudyConfig:
    """Read study.toml at ``path``.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is not TOML, or holds an unknown key or a bad value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        message = f"no study at {path.parent}: {path.name} is missing; make one with `radpref study new`"
        raise NotFound(message) from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}; mend its permissions") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: it is no UTF-8 ({error.reason}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: {' '.join(str(error).split())}; mend that line") from error
    return parse_config(content, str(path))


def _first_problem(error: ValidationError) -> str:
    # A misspelt key explains a missing one, so it comes first.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(sorted(valid))}"
        return f"unknown key '{path}'; {hint}"
    if path == "captions.key_env":  # what stands there may be the key itself: it is not repeated
        return f"{path} is no name of an environment variable; write the variable's name there, never the key"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path or 'study'} = {problem['input']!r}: {message}" if path else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at ``location`` (list positions are passed over)."""
    section: type[BaseModel] = StudyConfig
    for name in (part for part in location if isinstance(part, str)):
        annotation = section.model_fields[name].annotation
        candidates = (annotation, *get_args(annotation))
        section = next(one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel))
    return list(section.model_fields)
