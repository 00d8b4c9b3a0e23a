"""The device a command computes on: its word is checked without torch, its presence with it.

Input: ``--device``. Output: a name that torch takes.
"""

from __future__ import annotations

import re

from radpref.data.core.errors import InvalidInput


def check_device(name: str) -> None:
    """InvalidInput, before torch is loaded, for a word other than auto, cpu, cuda, cuda:N and mps."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise InvalidInput(f"device '{name}' is unknown: use auto, cpu, cuda, cuda:N or mps")


def pick_device(name: str = "auto", automatic: tuple[str, ...] = ("cuda", "cpu")) -> str:
    """The device a name stands for: "cpu", "mps", "cuda" or "cuda:N"; "auto" is the first of ``automatic`` here.

    Raises:
        InvalidInput: the word names no device, or none of this machine.
    """
    import torch

    check_device(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind in automatic if there[kind])
    kind, _, index = name.partition(":")
    if not there[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise InvalidInput(f"device '{name}' was asked for, but there is none here: use --device cpu, or auto")
    return name
