"""Figures and ratios, each by one command: ``python -m benchmarks.NAME --size tiny|full --json``."""

from radpref import before_torch

before_torch.prepare()
