"""Alignment: scores -> preference pairs -> Diffusion-DPO -> held-out evaluation, and the simulated raters."""
