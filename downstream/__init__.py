"""Downstream proof: tasks, the grid of trainings, metrics, statistics and the report (paper, pipeline 6 and 7)."""

from radpref import torchvision_compat

torchvision_compat.install()
