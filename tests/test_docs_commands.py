"""Every command in README and docs exists with those options, and every command is documented."""

import re
import shlex
from typing import get_args

import click
import pytest
import typer
from pydantic import BaseModel

from radpref.data.config.study_config import StudyConfig
from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def root_command():
    import radpref.cli

    return typer.main.get_command(radpref.cli.app)


def leaves(command, path=()):
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


def documented():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(("    radpref ", "radpref ")):
                yield page.name, line.split("#")[0].strip()
            for inline in re.findall(r"`(radpref [^`]+)`", line):
                yield page.name, inline


def test_documented_commands_exist(root_command):
    checked = 0
    for page, text in documented():
        words = shlex.split(text.replace("|", " ").replace("[", " ").replace("]", " "))[1:]
        if not words or words[0] == ">" or not re.fullmatch(r"[a-z-]+", words[0].removeprefix("--")):
            continue
        command, rest = root_command, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert command is not root_command or words[0].startswith("--"), f"{page}: no command in {text!r}"
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in options | {"--help"}, f"{page}: no option {word} in {text!r}"
        checked += 1
    assert checked >= 10


def test_every_command_is_documented(root_command):
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [" ".join(path) for path, _ in leaves(root_command) if f"radpref {' '.join(path)}" not in text]
    assert missing == [], f"add to docs/commands.md: {missing}"


def test_every_command_and_option_has_help(root_command):
    for path, command in leaves(root_command):
        assert command.help, f"{' '.join(path)} has no help"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"


OURS = ("data", "generation", "alignment", "annotate_app", "downstream", "benchmarks", "src")
NAMES = re.compile(
    r"(?<![\w./-])(?:python -m )?((?:radpref|benchmarks|data|downstream|align|train|sets)(?:\.\w+)+)(?![\w/-]|\.\w)"
)
FILES = re.compile(
    rf"(?<![\w./-])((?:{'|'.join(OURS)}|docs|tests|scripts)/[\w./-]+\.(?:py|md|toml|json|sh|png))(?![\w-])"
)

OF_OTHERS = ("radpref.py", "radpref.json", "train.csv")
"""Files that pages name and that are not ours: a way not taken (ADR 18), of a brought model, of CheXpert."""


def names_in_pages():
    """(page, name) of what reads like a module of ours or something in it, and (page, path) of files of ours."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "generation" / "weights").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for name in NAMES.findall(text):
            yield page.name, name
        for path in FILES.findall(text):
            yield page.name, path


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, a name written in one, a page, or a key of study.toml."""
    if name.endswith(".md"):
        return (ROOT / "docs" / name).is_file()
    if name in OF_OTHERS:
        return True
    if not name.startswith(("radpref.", "benchmarks.")):
        return is_key(name.split("."))
    parts = ["src", *name.split(".")] if name.startswith("radpref.") else name.split(".")
    for n in range(len(parts), 1, -1):
        place = ROOT.joinpath(*parts[:n])
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if file.is_file():
            return n == len(parts) or re.search(rf"\b{parts[n]}\b", file.read_text(encoding="utf-8")) is not None
    return False


def is_key(parts: list[str]) -> bool:
    """Whether the path leads through sections of study.toml to a key; below a table of free names everything does."""
    section = StudyConfig
    for part in parts:
        field = section.model_fields.get(part)
        if field is None:
            return False
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        sections = [one for one in inner if issubclass(one, BaseModel)]
        if not sections:
            return True
        section = sections[0]
    return True


def test_modules_and_files_that_the_pages_name_exist():
    found = set(names_in_pages())
    assert len(found) > 50
    missing = sorted(
        (page, name) for page, name in found if not ((ROOT / name).is_file() if "/" in name else exists(name))
    )
    assert missing == []
