"""Every command in README and docs exists with those options, and every command is documented."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def root_command():
    import radpref

    return typer.main.get_command(radpref.app)


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
