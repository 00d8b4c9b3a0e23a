"""Helpers of the tests: small studies, people, browsers, peers."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the checkout."""
