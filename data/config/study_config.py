"""study.toml: the only human input of a study, read into frozen models that refuse unknown keys.

Input: a TOML file. Output: :class:`StudyConfig`. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from radpref.data.config.alignment import AlignConfig, ProxyConfig
from radpref.data.config.data import CaptionsConfig, DataConfig
from radpref.data.config.downstream import DownstreamConfig
from radpref.data.config.generation import GeneratorConfig, PoolConfig, SetsConfig, TrainConfig
from radpref.data.config.reader_study import AnnotateConfig, SimulateConfig
from radpref.data.config.section import Section, section_at
from radpref.data.core.errors import InvalidInput, NotFound

CHANGES: Mapping[int, str] = {}
"""Format of study.toml -> what changed its meaning then, in a few words (a key, and what the same line meant before).

To change a meaning, add the next number here: templates write it (``format = ...``), and studies of older formats open
with one line made of these words. Keys that are added with a default, or renamed values, change no meaning.
"""
FIRST_FORMAT = 1


def newest_format() -> int:
    """The format that templates write; a study.toml that names none is of the first."""
    return max(CHANGES, default=FIRST_FORMAT)


class StudyConfig(Section):
    """A whole study.toml."""

    format: int = Field(default=FIRST_FORMAT, ge=FIRST_FORMAT)
    """Version of this file: what its keys mean. Not the version of radpref."""
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
        InvalidInput: an unknown key (the nearest valid name is given) or a bad value, named with its path; a newer
            format than this radpref knows.
    """
    found = content.get("format", FIRST_FORMAT)
    if isinstance(found, int) and found > newest_format():
        raise InvalidInput(
            f"{origin}: format = {found} was written for a newer radpref, this one knows {newest_format()}: upgrade it"
        )
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(f"{origin}: {_first_problem(error)}") from error


def changed_meanings(config: StudyConfig) -> str | None:
    """One line on what changed meaning since the format of ``config``; None where nothing did."""
    changes = [f"{text} (format {number})" for number, text in sorted(CHANGES.items()) if number > config.format]
    if not changes:
        return None
    what = "; ".join(changes)
    return f"study.toml has format {config.format}; since then: {what}. If that suits, set format = {newest_format()}"


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
        raise InvalidInput(f"{path} cannot be read: {error.strerror}; fix its permissions") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: it is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: {' '.join(str(error).split())}; fix that line") from error
    return parse_config(content, str(path))


def _first_problem(error: ValidationError) -> str:
    # A misspelt key explains a missing one, so it comes first.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = list((section_at(StudyConfig, problem["loc"][:-1]) or StudyConfig).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(sorted(valid))}"
        return f"unknown key '{path}'; {hint}"
    if path == "captions.key_env":  # the value may be the key itself: it is not repeated
        return f"{path} is not the name of an environment variable; write the variable's name there, never the key"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path or 'study'} = {problem['input']!r}: {message}" if path else message
