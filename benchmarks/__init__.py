"""Figures and ratios, each by one command: ``python -m benchmarks.NAME --size tiny|full --json``."""

from radpref import torchvision_compat

torchvision_compat.install()
