"""Mutation testing of the pure modules: `make mutants`, or `make mutants MODULES="losses rle"` (docs/mutants.md).

mutmut changes one thing in one function at a time and runs the tests of that module; a change that no test notices
survives. It needs real folders, so each module is tried in a copy of the tree in build/mutants/, without the weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
LEAST = 0.9
"""Smallest share of mutants that the tests must notice."""

# module -> (file below src/radpref, its tests)
MODULES: dict[str, tuple[str, str]] = {
    "losses": ("alignment/training/losses.py", "tests/alignment/training/test_losses.py"),
    "metrics": ("downstream/cells/metrics.py", "tests/downstream/cells/test_metrics.py"),
    "bootstrap": ("downstream/inference/bootstrap.py", "tests/downstream/inference/test_bootstrap.py"),
    "crossed": ("downstream/inference/crossed.py", "tests/downstream/inference/test_crossed.py"),
    "power": ("downstream/inference/power.py", "tests/downstream/inference/test_t_tests.py"),
    "t_tests": ("downstream/inference/t_tests.py", "tests/downstream/inference/test_t_tests.py"),
    "splits": ("data/study/splits.py", "tests/data/study/test_splits.py"),
    "rle": ("data/imaging/rle.py", "tests/data/imaging/test_rle.py"),
    "masks": ("data/imaging/masks.py", "tests/data/imaging/test_masks.py"),
    "conditions": ("generation/stack/conditions.py", "tests/generation/stack/test_conditions.py"),
    "coefficients": ("data/agreement/coefficients.py", "tests/data/agreement"),
    "intraclass": ("data/agreement/intraclass.py", "tests/data/agreement"),
    "precision": ("data/agreement/precision.py", "tests/data/agreement"),
    "scores": ("data/reader_study/scores.py", "tests/data/reader_study/test_scores.py"),
    "caption_rules": ("data/text/caption_rules.py", "tests/data/text"),
    "findings": ("data/text/findings.py", "tests/data/text"),
    "mentions": ("data/text/mentions.py", "tests/data/text"),
    "reports": ("data/text/reports.py", "tests/data/text"),
    "rule_captions": ("data/text/rule_captions.py", "tests/data/text"),
    "scrub": ("data/text/scrub.py", "tests/data/text"),
}
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/radpref/{file}"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-W", "ignore"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["docs", "benchmarks", "README.md"]
use_git_change_detection = false
"""


def prepare(name: str) -> Path:
    """A copy of source and tests with real folders in place of links, set up for one module."""
    file, tests = MODULES[name]
    tree = WORK / name
    shutil.rmtree(tree, ignore_errors=True)
    unneeded = shutil.ignore_patterns("*.safetensors", "__pycache__", "node_modules")
    for folder in ("src", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=unneeded)
    shutil.copy2(ROOT / "README.md", tree)
    settings = SETTINGS.format(file=file, tests=json.dumps(tests.split()))
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings, encoding="utf-8")
    return tree


def mutate(name: str) -> tuple[int, list[str]]:
    """Try all mutants of one module: how many there are, and the names of those that survived."""
    tree = prepare(name)
    # One thread: mutmut forks, and OpenMP's threads do not survive a fork.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "mutmut"]
    with (tree / "mutmut.log").open("w") as log:
        subprocess.run([*command, "run"], cwd=tree, env=environment, stdout=log, stderr=log, check=False)
    done = subprocess.run([*command, "results", "--all", "true"], cwd=tree, env=environment, capture_output=True)
    states = dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", done.stdout.decode(), re.MULTILINE))
    if not {"killed", "timeout"} & set(states.values()):
        raise SystemExit(f"{name}: mutmut could not run the tests, or none noticed anything; see {tree / 'mutmut.log'}")
    return len(states), sorted(mutant for mutant, state in states.items() if state not in ("killed", "timeout"))


def main(names: list[str]) -> None:
    """Print each module's share and its survivors; exit with 1 where a share is below `LEAST`."""
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        raise SystemExit(f"unknown module {', '.join(unknown)}; choose from {', '.join(MODULES)}")
    short = []
    for name in names or list(MODULES):
        n, survivors = mutate(name)
        share = 1 - len(survivors) / n
        lines = [f"{name}: {n - len(survivors)} of {n} killed ({share:.1%})", *survivors]
        sys.stdout.write("\n  ".join(lines) + "\n")
        sys.stdout.flush()
        short += [name] if share < LEAST else []
    if short:
        raise SystemExit(f"below {LEAST:.0%}: {', '.join(short)}")


if __name__ == "__main__":
    main(sys.argv[1:])
