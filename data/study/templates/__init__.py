"""Templates of study.toml that ship with radpref (``default``, ``demo``, ``table``), and the style of report pages."""

from __future__ import annotations

import re
from importlib import resources

from radpref.data.core.errors import InvalidInput


def template_names() -> list[str]:
    """Names of the templates, sorted."""
    entries = resources.files("radpref.data.study.templates").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_template(name: str) -> str:
    """Text of the template called ``name``.

    Raises:
        InvalidInput: there is none; the choices are listed.
    """
    if name not in template_names():
        raise InvalidInput(f"no template '{name}'; choose from {', '.join(template_names())}")
    return (resources.files("radpref.data.study.templates") / f"{name}.toml").read_text(encoding="utf-8")


def named_template(template: str, name: str) -> str:
    """The template with ``name = "..."`` set; characters a study's name cannot hold become hyphens."""
    clean = re.sub(r"[^A-Za-z0-9 _.-]+", "-", name).lstrip(" _.-")[:64] or "study"
    return re.sub(r'(?m)^name = ".*"$', f'name = "{clean}"', read_template(template), count=1)


def page_style() -> str:
    """The style sheet that every report carries inside its page."""
    return (resources.files("radpref.data.study.templates") / "report.css").read_text(encoding="utf-8")
