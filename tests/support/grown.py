"""A study whose study.toml has one more key, with a default, in every section: as after the next version."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from radpref.data.config.section import Section, section_in
from radpref.data.study.study import Study

KEY = "key_to_come"
DEFAULT = "as before"


def grow(study: Study, **values: str) -> None:
    """Give every section of an open study the new key; ``values``: section -> another value than the default."""
    content: dict[str, Any] = study.config.model_dump()
    for section, value in values.items():
        content[section] = {**content[section], KEY: value}
    study.config = grown(type(study.config)).model_validate(content)


def grown(section: type[Section]) -> Any:
    """The section's class with the new key in it and in the sections it holds."""
    fields: dict[str, Any] = {KEY: (str, DEFAULT)}
    for name, field in section.model_fields.items():
        if (inner := section_in(field.annotation)) is None:
            continue
        new, default = grown(inner), field.get_default()
        if isinstance(default, tuple):
            fields[name] = (tuple[new, ...], tuple(new(**one.model_dump()) for one in default))
        else:
            fields[name] = (new, new(**default.model_dump()))
    return create_model(section.__name__, __base__=section, **fields)
