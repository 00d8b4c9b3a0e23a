"""Figures and ratios, each by one command: ``python -m benchmarks.NAME --size tiny|full --json``."""

import torchvision_compat

torchvision_compat.install()
