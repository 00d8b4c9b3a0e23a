"""The kind of an error and what it names, so that messages can be reworded without touching a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from radpref.data.core.errors import RadprefError


def missing_names(message: str, *named: Any) -> list[str]:
    """Those of `named` that do not occur in `message` as whole words: 63 is not found in 163, nor "val" in "value"."""
    return [str(name) for name in named if not re.search(rf"(?<!\w){re.escape(str(name))}(?!\w)", message)]


@contextmanager
def refuses(kind: type[BaseException] | tuple[type[BaseException], ...], *named: Any) -> Iterator[Any]:
    """The block must raise `kind`, naming every value of `named`; a user's mistake is told on one line.

    Yields pytest's ExceptionInfo. A name is the key, path, number or choice that the user needs, never wording.
    """
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    missing = missing_names(message, *named)
    assert not missing, f"{missing} not named in {message!r}"
    assert "\n" not in message or not isinstance(caught.value, RadprefError), message
