"""What must happen before torch is first loaded: the torchvision hook, and threads that wait without spinning.

`generation` and `downstream`, the rooms that load torch, call :func:`prepare` when they are imported.
"""

from __future__ import annotations

import os
import sys

from radpref import torchvision_compat

WAIT_POLICY = "OMP_WAIT_POLICY"
SPIN_KEYS = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which a user chooses how OpenMP threads wait: the standard's, GNU's and Intel's."""


def prepare() -> None:
    """Arm the torchvision hook; let OpenMP threads sleep while they wait, unless the user chose otherwise.

    By default they spin. A torch program that shares its cores with another then spends the other's time slices
    waiting for threads that cannot run (`python -m benchmarks.waiting`). OpenMP reads the variable once, when torch is
    loaded, so afterwards nothing is set: it would change child processes only.
    """
    torchvision_compat.install()
    if "torch" not in sys.modules and not any(key in os.environ for key in SPIN_KEYS):
        os.environ[WAIT_POLICY] = "PASSIVE"
