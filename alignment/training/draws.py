"""What a training step of an arm draws: a function of (seed, step) alone, so that a resumed run repeats every draw.

Input: seeds and step numbers. Output: random generators, and which items a step takes.
"""

from __future__ import annotations

import numpy as np
import torch


def step_generator(*parts: int) -> torch.Generator:
    """A generator (CPU) that depends on all `parts` and on nothing else."""
    state = np.random.SeedSequence(list(parts)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def scheduled(step: int, n_items: int, per_step: int, seed: int) -> list[int]:
    """Which items step number `step` takes: epochs of seeded permutations laid end to end."""
    chosen = []
    for position in range(step * per_step, (step + 1) * per_step):
        epoch, place = divmod(position, n_items)
        order = np.random.default_rng([seed, 505, epoch]).permutation(n_items)
        chosen.append(int(order[place]))
    return chosen
