"""What all sections of study.toml share: frozen, unknown keys are refused, dumps of older versions are completed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python


class Section(BaseModel):
    """One section of study.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    REMOVED: ClassVar[Mapping[str, Any]] = {}
    """Keys that an earlier version had -> their last default. A run stored with that value is not another run now."""

    @classmethod
    def completed(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """A dump of this section by any version, with today's defaults for the keys it lacks; nested sections too.

        Keys that are not (or no longer) part of the section stay, except removed ones at their last default. Fields
        with ``exclude=True`` never change a result and are left out.
        """
        found = {}
        for key, value in stored.items():
            if (field := cls.model_fields.get(key)) is not None:
                inner = section_in(field.annotation)
                found[key] = value if inner is None else _completed(inner, value)
            elif key not in cls.REMOVED or cls.REMOVED[key] != value:
                found[key] = value
        for key, field in cls.model_fields.items():
            if field.exclude:
                found.pop(key, None)
            elif key not in found and not field.is_required():
                found[key] = to_jsonable_python(field.get_default(call_default_factory=True))
        return found


def _completed(section: type[Section], value: Any) -> Any:
    if isinstance(value, Mapping):
        return section.completed(value)
    return [_completed(section, one) for one in value] if isinstance(value, list) else value


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds, alone or as a tuple; None for plain values."""
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Section)), None)


def section_at(section: type[Section], path: Sequence[int | str]) -> type[Section] | None:
    """The section at ``path`` inside ``section`` (list positions are passed over), None where there is none."""
    found: type[Section] | None = section
    for name in (part for part in path if isinstance(part, str)):
        field = None if found is None else found.model_fields.get(name)
        found = None if field is None else section_in(field.annotation)
    return found
