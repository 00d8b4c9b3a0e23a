"""Downstream proof: tasks, the grid of trainings, metrics, statistics and the report (paper, pipeline 6 and 7)."""

from radpref import before_torch

before_torch.prepare()
