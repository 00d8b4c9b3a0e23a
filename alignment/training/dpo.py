"""Diffusion-DPO on sets: one (t, noise) per set, four policy and four reference errors, all six pairs from them.

Input: a pairs run. Output: arm "aligned" (LoRA, and a ControlNet where masks were rated), its log and its sheets.

Routing: a set's text preferences train the LoRA; its mask preferences train the ControlNet and the LoRA. On TM2I the
two may disagree about who is better, and with one shared z they would be one loss at the mean p: so such a set stands
in the batch twice, once per criterion, and the text half sees the ControlNet's residuals as constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from radpref.alignment.preferences.preference_sets import CRITERIA, PreferenceSets
from radpref.alignment.training import losses
from radpref.alignment.training.draws import scheduled, step_generator
from radpref.alignment.training.policy import Policy
from radpref.data.reader_study.scores import N_SLOTS
from radpref.generation.stack.conditions import ConditionBatch
from radpref.generation.training.loop import Part

if TYPE_CHECKING:
    from radpref.data.config.alignment import AlignConfig

HELD_OUT_DRAWS = 4
HELD_OUT_BATCH = 8
"""Sets in one batch of the held-out figures."""


@dataclass(frozen=True)
class Draw:
    """One timestep and one noise per set: steps (N,), noise (N, C, h, w)."""

    steps: Tensor
    noise: Tensor


def draw(generator: torch.Generator, n: int, latents: Tensor, n_timesteps: int) -> Draw:
    """Draw for `n` sets whose latents look like `latents` (N, K, C, h, w); made on the CPU, moved to its device."""
    steps = torch.randint(0, n_timesteps, (n,), generator=generator)
    noise = torch.randn(n, *latents.shape[2:], generator=generator)
    return Draw(steps.to(latents.device), noise.to(latents.device))


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


def _repeat(batch: ConditionBatch, rows: Tensor, times: int) -> ConditionBatch:
    return batch.select(rows.repeat_interleave(times))


def policy_errors(policy: Policy, sets: PreferenceSets, chosen: Sequence[int], terms: Terms, drawn: Draw) -> Tensor:
    """Policy errors with gradient, (T, K) for T terms; equal t and noise for the images of a set."""
    rows = torch.tensor([chosen[place] for place in terms.places], device=sets.latents.device)
    places = torch.tensor(terms.places, device=sets.latents.device)
    latents = sets.latents[rows]
    n_images = latents.shape[1]
    noise = drawn.noise[places][:, None].expand_as(latents)
    routed = torch.tensor([criterion == "mask" for criterion in terms.criteria], device=latents.device)
    errors = policy.errors(
        latents.flatten(0, 1),
        noise.flatten(0, 1),
        drawn.steps[places].repeat_interleave(n_images),
        _repeat(sets.conditions, rows, n_images),
        routed.repeat_interleave(n_images),
    )
    return errors.view(-1, n_images)


def reference_errors(policy: Policy, sets: PreferenceSets, chosen: Sequence[int], drawn: Draw) -> Tensor:
    """Reference errors of the chosen sets, (B, K)."""
    rows = torch.tensor(list(chosen), device=sets.latents.device)
    latents = sets.latents[rows]
    n_images = latents.shape[1]
    noise = drawn.noise[:, None].expand_as(latents)
    errors = policy.reference_errors(
        latents.flatten(0, 1),
        noise.flatten(0, 1),
        drawn.steps.repeat_interleave(n_images),
        _repeat(sets.conditions, rows, n_images),
    )
    return errors.view(-1, n_images)


def batch_loss(
    policy: Policy, sets: PreferenceSets, chosen: Sequence[int], drawn: Draw, settings: AlignConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of design.md over the chosen sets, a scalar, and the step's figures."""
    terms = terms_of(sets, chosen)
    by_set = reference_errors(policy, sets, chosen, drawn)
    errors = policy_errors(policy, sets, chosen, terms, drawn)
    places = torch.tensor(terms.places, device=errors.device)
    reference = by_set[places]
    rows = torch.tensor(list(chosen), device=errors.device)[places]
    p, weights, scores = (_of_terms(table, rows, terms) for table in (sets.p, sets.weights, sets.scores))
    per_term = losses.criterion_loss(
        settings.loss, errors, reference, p, weights, scores.nan_to_num(0.0), settings.beta
    )
    table: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for criterion in CRITERIA:
        mine = torch.tensor([own == criterion for own in terms.criteria], device=errors.device)
        table[criterion] = errors.new_zeros(len(chosen)).index_add(0, places[mine], per_term[mine])
        present[criterion] = errors.new_zeros(len(chosen)).index_fill(0, places[mine], 1.0)
    loss = losses.combine_criteria(table, present)
    with torch.no_grad():
        logits = losses.preference_logits(errors, reference, settings.beta)
        won, lost = losses.error_shifts(errors, reference, p, weights)
        accuracy = losses.implicit_accuracy(logits, p, weights)
    return loss, {"train_accuracy": accuracy, "winner_shift": won, "loser_shift": lost}


def _of_terms(table: dict[str, Tensor], rows: Tensor, terms: Terms) -> Tensor:
    """Rows of the terms' own criteria: criterion -> (N, X) becomes (T, X)."""
    stacked = torch.stack([table[criterion] for criterion in CRITERIA])
    which = torch.tensor([CRITERIA.index(criterion) for criterion in terms.criteria], device=rows.device)
    return stacked[which, rows]


class DpoStep:
    """step -> loss and figures: which sets, which timestep and which noise follow from (seed, step) alone."""

    def __init__(self, policy: Policy, sets: PreferenceSets, settings: AlignConfig) -> None:
        self.policy, self.sets, self.settings = policy, sets, settings
        self.n_timesteps = int(policy.stack.scheduler.config.num_train_timesteps)

    def __call__(self, step: int) -> Part:
        """The loss of one step, with gradient."""
        chosen = scheduled(step, len(self.sets), self.settings.sets_per_step, self.settings.seed)
        generator = step_generator(self.settings.seed, 606, step)
        drawn = draw(generator, len(chosen), self.sets.latents, self.n_timesteps)
        loss, figures = batch_loss(self.policy, self.sets, chosen, drawn, self.settings)
        return Part(loss, len(chosen) * N_SLOTS, figures)


class HeldOut:
    """Implicit accuracy and loss on held-out sets, with timesteps and noises that never change.

    The z of a pair is averaged over the draws (one timestep from each quarter of the schedule) before its sign is
    taken. The reference's errors are computed once.
    """

    def __init__(self, policy: Policy, sets: PreferenceSets, beta: float, seed: int) -> None:
        self.policy, self.sets, self.beta = policy, sets, beta
        n_timesteps = int(policy.stack.scheduler.config.num_train_timesteps)
        width = n_timesteps // HELD_OUT_DRAWS
        self.draws: list[Draw] = []
        for k in range(HELD_OUT_DRAWS):
            one = draw(step_generator(seed, 707, k), len(sets), sets.latents, max(width, 1))
            self.draws.append(Draw(one.steps + k * width, one.noise))
        self._reference: list[Tensor] | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """held_out_accuracy, held_out_loss (set-wise), winner's and loser's error shift."""
        reference = self._reference_errors()
        everything = list(range(len(self.sets)))
        terms = terms_of(self.sets, everything)
        rows = torch.tensor(terms.places, device=self.sets.latents.device)
        p, weights = (_of_terms(table, rows, terms) for table in (self.sets.p, self.sets.weights))
        shifts = torch.stack([self._policy_errors(one) - ref for one, ref in zip(self.draws, reference, strict=True)])
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

    def _chunks(self) -> list[list[int]]:
        n = len(self.sets)
        return [list(range(start, min(start + HELD_OUT_BATCH, n))) for start in range(0, n, HELD_OUT_BATCH)]

    def _policy_errors(self, one: Draw) -> Tensor:
        """(N, K); text and mask see the same image, so one forward per set is enough here."""
        parts = []
        for chosen in self._chunks():
            terms = Terms(tuple(range(len(chosen))), ("text",) * len(chosen))
            part = Draw(one.steps[chosen], one.noise[chosen])
            parts.append(policy_errors(self.policy, self.sets, chosen, terms, part))
        return torch.cat(parts)

    def _reference_errors(self) -> list[Tensor]:
        if self._reference is None:
            self._reference = [
                torch.cat(
                    [
                        reference_errors(self.policy, self.sets, chosen, Draw(one.steps[chosen], one.noise[chosen]))
                        for chosen in self._chunks()
                    ]
                )
                for one in self.draws
            ]
        return self._reference


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the log says at its end: last value of every held-out and watch figure, means over the last tenth."""
    result: dict[str, Any] = {}
    tail = lines[-max(len(lines) // 10, 1) :]
    for key in ("loss", "train_accuracy", "winner_shift", "loser_shift", "seconds"):
        values = [line[key] for line in tail if line.get(key) is not None]
        result[key] = sum(values) / len(values) if values else None
    for key in ("held_out_accuracy", "held_out_loss", "drift", "paired_shift", "diversity"):
        values = [line[key] for line in lines if line.get(key) is not None]
        result[key] = values[-1] if values else None
    return result
