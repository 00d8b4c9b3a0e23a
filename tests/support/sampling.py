"""Studies that sample from a generator with random weights: for the tests of sets, pools and rounds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from radpref.data.study.runs import start_run
from radpref.data.study.study import Study
from radpref.generation.stack import adapters
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import save_stack, tiny_stack

STRUCTURES = ("lungs", "heart", "lesion", "pneumothorax")
SAMPLING_TOML = """
[generator]
model = "generator"
n_steps = 2
batch_size = 8

[sets]
n = 8
mix = [50, 25, 25]
"""


def open_copy(template: Path, root: Path, toml: str = SAMPLING_TOML) -> Study:
    """A copy of the tiny study at ``root`` with a tiny generator of 32 px; ``toml`` is added to its study.toml."""
    shutil.copytree(template, root)
    with (root / "study.toml").open("a", encoding="utf-8") as file:
        file.write(toml)
    save_stack(tiny_stack(0, structures=STRUCTURES), root / "generator")
    return Study(root)


def add_aligned_arm(study: Study, arm: str = "aligned") -> None:
    """Register an arm whose LoRA is random and strong enough to change every image."""
    stack = load_stack(study.root / "generator")
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapters.attach_lora(stack.unet, 2, seed=1).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    with start_run(study, "align", {"arm": arm}) as run:
        sha256 = adapters.save_adapters(stack, run.model_folder, with_controlnet=False, card="# test\n")
        adapters.register_model(study, run.run_id, arm, sha256, {})


def stop_after(monkeypatch: Any, target: str, n_calls: int, error: BaseException) -> list[int]:
    """Let ``target`` ("module.function") work ``n_calls`` times, then raise ``error``; returns the list of calls."""
    module_name, _, name = target.rpartition(".")
    import importlib

    module = importlib.import_module(module_name)
    real, calls = getattr(module, name), list[int]()

    def stopping(*args: Any, **kwargs: Any) -> Any:
        if len(calls) >= n_calls:
            raise error
        calls.append(len(calls))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, stopping)
    return calls
