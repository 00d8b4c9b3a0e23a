"""kill -9 of the real server process under load: no acknowledged score is lost, none is stored twice, raters go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.crash import crash

KILLS = int(os.environ.get("RADPREF_KILLS", "5"))
"""`python -m benchmarks.crash --n 50` is the long run."""


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILLS)
def test_kill_at_random_moments(tmp_path: Path) -> None:
    found = crash(tmp_path / "study", KILLS)
    assert found["errors"] == []
    assert found["kills"] == KILLS
    assert found["acknowledged"] > 10 * KILLS, "the raters hardly worked: the kills fell into nothing"
    assert found["sent_again"] > 0
    assert (found["lost"], found["doubled"], found["logins_lost"], found["unsound"]) == (0, 0, 0, 0)
    assert found["problems"] == []
