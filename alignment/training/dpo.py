"""Diffusion-DPO on sets: one training step, from the draw to the loss.

Input: a policy, rated sets of K images, and the number of a step. Output: the step's loss, with gradient, and figures
for the log. `radpref.generation.training.loop` then goes backward, clips the gradient and steps AdamW. From top to
bottom, in `DpoStep` and `dpo_loss`:

    draw      which sets; for each one timestep t and one noise eps
    noise     z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps                         # DDPM, Eq. 4
    predict   eps_ref by the frozen generator, eps_theta by the policy
    errors    e = mean over C, h, w of (eps_theta - eps)^2, e_ref likewise
    compare   z_ij = -(beta/2) [(e_i - e_ref_i) - (e_j - e_ref_j)]                  # Diffusion-DPO, Eq. 14
    loss      L_c = mean over pairs of -p log sigmoid(z_ij) - (1-p) log sigmoid(-z_ij), for criterion c
    combine   L = sum_c m_c L_c / sum_c m_c, averaged over the sets

Routing: a set's text preferences train the LoRA; its mask preferences train the ControlNet and the LoRA. On TM2I the
two may disagree about who is better, and with one shared z they would be one loss at the mean p: so such a set is in
the batch twice, once per criterion, and the text half sees the ControlNet's residuals as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radpref.alignment.preferences.preference_sets import CRITERIA, PreferenceSets
from radpref.alignment.training import losses
from radpref.alignment.training.draws import scheduled, step_generator
from radpref.alignment.training.policy import Policy
from radpref.generation.stack.conditions import ConditionBatch
from radpref.generation.training.loop import Part

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig

NoisePredictor = Callable[[Tensor, Tensor, ConditionBatch], Tensor]
"""(z_t (B, C, h, w), timesteps (B,), B conditions) -> the noise that a network sees in z_t, (B, C, h, w)."""


class DpoStep:
    """step -> loss and figures: which sets, which timestep and which noise follow from (seed, step) alone."""

    def __init__(self, policy: Policy, sets: PreferenceSets, settings: AlignConfig) -> None:
        self.policy, self.sets, self.settings = policy, sets, settings

    def __call__(self, step: int) -> Part:
        """The loss of one step, with gradient."""
        seed, n_sets = self.settings.seed, self.settings.sets_per_step
        chosen = scheduled(step, len(self.sets), n_sets, seed)  # every set once an epoch
        drawn = draw(step_generator(seed, 606, step), len(chosen), self.sets.latents, self.policy.n_timesteps)
        loss, figures = dpo_loss(self.policy, self.sets, chosen, drawn, self.settings)
        return Part(loss, len(chosen) * self.sets.latents.shape[1], figures)


def dpo_loss(
    policy: Policy, sets: PreferenceSets, chosen: Sequence[int], drawn: Draw, settings: AlignConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss over B chosen sets, a scalar, and the step's figures.

    B sets of K images give T terms, B <= T <= 2 B: one for each criterion that a set was judged on.
    """
    rows = torch.tensor(list(chosen), device=sets.latents.device)  # (B,) of all sets
    terms = terms_of(sets, chosen)
    place = torch.tensor(terms.places, device=rows.device)  # (T,) of the B sets
    is_mask = torch.tensor([criterion == "mask" for criterion in terms.criteria], device=rows.device)  # (T,)

    # z_t: the same t and eps for all images of a set, so that their errors differ by the images alone
    noisy = noisy_sets(policy, sets, rows, drawn)

    # e_ref (T, K): both criteria of a set share one forward of the reference
    reference = set_errors(noisy, policy.reference_noise_pred)[place]

    # e (T, K), with gradient: of text terms it reaches the LoRA alone, of mask terms the ControlNet too
    routed = is_mask.repeat_interleave(sets.latents.shape[1])
    errors = set_errors(noisy.select(place), partial(policy.noise_pred, to_controlnet=routed))

    # z_ij and L_c (T,): p, weights and scores of each term are those of its own criterion
    p, weights, scores = (of_terms(table, rows[place], terms) for table in (sets.p, sets.weights, sets.scores))
    per_term = losses.criterion_loss(
        settings.loss, errors, reference, p, weights, scores.nan_to_num(0.0), settings.beta
    )

    # L: m_c = 1 where the set was judged on c; a set counts once, however many criteria it has
    by_criterion: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for criterion, own in (("text", ~is_mask), ("mask", is_mask)):
        by_criterion[criterion] = errors.new_zeros(len(rows)).index_add(0, place[own], per_term[own])
        present[criterion] = errors.new_zeros(len(rows)).index_fill(0, place[own], 1.0)
    loss = losses.combine_criteria(by_criterion, present)

    with torch.no_grad():
        z = losses.preference_logits(errors, reference, settings.beta)
        won, lost = losses.error_shifts(errors, reference, p, weights)
        accuracy = losses.implicit_accuracy(z, p, weights)
    return loss, {"train_accuracy": accuracy, "winner_shift": won, "loser_shift": lost}


@dataclass(frozen=True)
class Draw:
    """One timestep and one noise per set: timesteps (N,), noise (N, C, h, w)."""

    timesteps: Tensor
    noise: Tensor

    def select(self, rows: Tensor) -> Draw:
        """Those of the chosen sets."""
        return Draw(self.timesteps[rows], self.noise[rows])


def draw(generator: torch.Generator, n: int, latents: Tensor, n_timesteps: int) -> Draw:
    """Draw for `n` sets whose latents look like `latents` (N, K, C, h, w); made on the CPU, moved to its device."""
    timesteps = torch.randint(0, n_timesteps, (n,), generator=generator)
    noise = torch.randn(n, *latents.shape[2:], generator=generator)
    return Draw(timesteps.to(latents.device), noise.to(latents.device))


@dataclass(frozen=True)
class Terms:
    """Which (set, criterion) a batch holds: place of the set in the batch, and the criterion, one entry each."""

    places: tuple[int, ...]
    criteria: tuple[str, ...]


def terms_of(sets: PreferenceSets, chosen: Sequence[int]) -> Terms:
    """The judged criteria of the chosen sets."""
    found = [
        (place, criterion)
        for place, index in enumerate(chosen)
        for criterion in CRITERIA
        if bool((sets.weights[criterion][index] > 0).any())
    ]
    return Terms(tuple(place for place, _ in found), tuple(criterion for _, criterion in found))


def of_terms(table: dict[str, Tensor], rows: Tensor, terms: Terms) -> Tensor:
    """Rows (T,) of the terms' own criteria: criterion -> (N, X) becomes (T, X)."""
    stacked = torch.stack([table[criterion] for criterion in CRITERIA])
    which = torch.tensor([CRITERIA.index(criterion) for criterion in terms.criteria], device=rows.device)
    return stacked[which, rows]


@dataclass(frozen=True)
class NoisySets:
    """Sets with noise on their images: z_t (N, K, C, h, w), its noise (N, K, C, h, w), timesteps (N,), N conditions."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    conditions: ConditionBatch

    def select(self, places: Tensor) -> NoisySets:
        """The chosen sets, in that order."""
        conditions = self.conditions.select(places)
        return NoisySets(self.latents[places], self.noise[places], self.timesteps[places], conditions)


def noisy_sets(policy: Policy, sets: PreferenceSets, rows: Tensor, drawn: Draw) -> NoisySets:
    """Put the drawn noise on the images of the chosen sets."""
    latents = sets.latents[rows]
    noise = drawn.noise[:, None].expand_as(latents)
    every = drawn.timesteps.repeat_interleave(latents.shape[1])
    noisy = policy.add_noise(latents.flatten(0, 1), noise.flatten(0, 1), every).view_as(latents)
    return NoisySets(noisy, noise, drawn.timesteps, sets.conditions.select(rows))


def set_errors(sets: NoisySets, predict: NoisePredictor) -> Tensor:
    """e of every image, (N, K): how far the network's noise is from the one that was added."""
    n_sets, n_images = sets.latents.shape[:2]
    each = torch.arange(n_sets).repeat_interleave(n_images)
    noise_pred = predict(
        sets.latents.flatten(0, 1), sets.timesteps.repeat_interleave(n_images), sets.conditions.select(each)
    )
    return losses.image_errors(noise_pred, sets.noise.flatten(0, 1)).view(n_sets, n_images)
