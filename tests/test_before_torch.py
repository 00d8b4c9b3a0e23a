"""Threads wait passively before torch is loaded, unless the user chose, and whichever room comes first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from radpref.before_torch import SPIN_KEYS
from tests.support import ROOT

BARE = {key: value for key, value in os.environ.items() if key not in SPIN_KEYS}


def policy_after(code: str, **environment: str) -> str:
    """The wait policy in a fresh process that ran ``code``."""
    code += "\nimport os; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**BARE, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("room", ["generation", "downstream"])
def test_a_room_that_loads_torch_sets_the_policy_first(room: str) -> None:
    assert policy_after(f"import sys, radpref.{room}; assert 'torch' not in sys.modules") == "PASSIVE"


@pytest.mark.parametrize(
    ("key", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "9"), ("KMP_BLOCKTIME", "1")]
)
def test_a_choice_of_the_user_stays(key: str, value: str) -> None:
    code = f"import os, radpref.generation; assert os.environ[{key!r}] == {value!r}"
    assert policy_after(code, **{key: value}) == ("ACTIVE" if key == "OMP_WAIT_POLICY" else "None")


def test_after_torch_was_loaded_nothing_is_set() -> None:
    assert policy_after("import sys; sys.modules['torch'] = sys\nimport radpref.generation") == "None"


def test_a_room_without_torch_sets_nothing() -> None:
    assert policy_after("import radpref, radpref.data.study.study, radpref.annotate_app") == "None"
