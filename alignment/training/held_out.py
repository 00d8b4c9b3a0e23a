"""How well a policy orders held-out sets, measured again and again while it is trained.

Input: a policy and sets that it does not learn from. Output: implicit accuracy, loss, and shifts of the errors.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from radpref.alignment.preferences.preference_sets import PreferenceSets
from radpref.alignment.training import losses
from radpref.alignment.training.dpo import Draw, NoisePredictor, draw, noisy_sets, of_terms, set_errors, terms_of
from radpref.alignment.training.draws import step_generator
from radpref.alignment.training.policy import Policy

HELD_OUT_DRAWS = 4
HELD_OUT_BATCH = 8
"""Sets in one batch of the held-out figures."""


class HeldOut:
    """Implicit accuracy and loss on held-out sets, with timesteps and noises that never change.

    The z of a pair is averaged over the draws (one timestep from each quarter of the schedule) before its sign is
    taken. The reference's errors are computed once.
    """

    def __init__(self, policy: Policy, sets: PreferenceSets, beta: float, seed: int) -> None:
        self.policy, self.sets, self.beta = policy, sets, beta
        width = policy.n_timesteps // HELD_OUT_DRAWS
        self.draws: list[Draw] = []
        for k in range(HELD_OUT_DRAWS):
            one = draw(step_generator(seed, 707, k), len(sets), sets.latents, max(width, 1))
            self.draws.append(Draw(one.timesteps + k * width, one.noise))
        self._reference: list[Tensor] | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """held_out_accuracy, held_out_loss (set-wise), winner's and loser's error shift."""
        if self._reference is None:
            self._reference = [self._errors(one, self.policy.reference_noise_pred) for one in self.draws]
        predict = partial(self.policy.noise_pred, to_controlnet=None)
        pairs = zip(self.draws, self._reference, strict=True)
        shifts = torch.stack([self._errors(one, predict) - reference for one, reference in pairs])
        terms = terms_of(self.sets, range(len(self.sets)))
        rows = torch.tensor(terms.places, device=shifts.device)
        p, weights = (of_terms(table, rows, terms) for table in (self.sets.p, self.sets.weights))
        mean_shift = shifts.mean(0)[rows]  # (T, K); z is linear in the shift
        zero = torch.zeros_like(mean_shift)
        logits = losses.preference_logits(mean_shift, zero, self.beta)
        won, lost = losses.error_shifts(mean_shift, zero, p, weights)
        return {
            "held_out_accuracy": float(losses.implicit_accuracy(logits, p, weights)),
            "held_out_loss": float(losses.set_wise_loss(logits, p, weights).mean()),
            "held_out_winner_shift": float(won),
            "held_out_loser_shift": float(lost),
        }

    def _errors(self, drawn: Draw, predict: NoisePredictor) -> Tensor:
        """(N, K); text and mask see the same image, so one forward per set is enough here."""
        chunks = torch.split(torch.arange(len(self.sets), device=self.sets.latents.device), HELD_OUT_BATCH)
        return torch.cat(
            [set_errors(noisy_sets(self.policy, self.sets, rows, drawn.select(rows)), predict) for rows in chunks]
        )
