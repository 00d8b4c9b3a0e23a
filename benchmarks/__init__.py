"""Figures and ratios, each by one command: ``python -m benchmarks.NAME --size tiny|full --json``."""
