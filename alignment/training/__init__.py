"""Preferences become an arm: losses, the policy, Diffusion-DPO, fine-tuning, the watch, and the arm's files."""
