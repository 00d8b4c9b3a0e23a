"""Preference losses as pure functions of per-image denoising errors (docs/methods.md, "Loss").

Input: e (B, K), one error per image of B sets of K images, under policy and reference, and the preferences p.
Output: one loss per set (B,). Same noise and timestep for all images of a set.

    e(x)  = mean over C, H, W of (eps_theta(z_t, t, c) - eps)^2
    z_ij  = -(beta/2) [(e_i - e_i_ref) - (e_j - e_j_ref)]                  # Diffusion-DPO, Eq. 14
    L_c   = mean over pairs of -p log sigmoid(z_ij) - (1-p) log sigmoid(-z_ij)
    L     = sum_c m_c L_c / sum_c m_c
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.alignment.preferences.pairs import pair_indices
from radpref.data.core.errors import InvalidInput

LOSSES: tuple[str, ...] = ("set-wise", "hard-pairs", "score-weighted")
MAX_SCORE = 5.0


def to_epsilon(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """Turn a network's output into the noise it implies, so that beta means the same for every model.

    Args:
        prediction, noisy: (B, C, H, W), what the UNet said and what it saw (z_t).
        alphas_cumprod: (B,) of each sample's timestep.
        prediction_type: "epsilon", "v_prediction" or "sample".

    Raises:
        InvalidInput: an unknown prediction type.
    """
    if prediction_type == "epsilon":
        return prediction
    alpha, sigma = (x.sqrt().view(-1, 1, 1, 1).to(prediction) for x in (alphas_cumprod, 1 - alphas_cumprod))
    if prediction_type == "v_prediction":  # v = alpha eps - sigma x0  =>  eps = alpha v + sigma z_t
        return alpha * prediction + sigma * noisy
    if prediction_type == "sample":
        return (noisy - alpha * prediction) / sigma
    raise InvalidInput(f"prediction type {prediction_type!r} is unknown: use epsilon, v_prediction or sample")


def image_errors(noise_pred: Tensor, noise: Tensor) -> Tensor:
    """e(x): mean squared error over C, H, W in float32; (B, C, H, W) twice -> (B,)."""
    return (noise_pred.float() - noise.float()).square().mean(dim=(1, 2, 3))


def preference_logits(errors: Tensor, reference_errors: Tensor, beta: float) -> Tensor:
    """z of every pair: errors (B, K) under policy and reference -> (B, P), P = K (K - 1) / 2."""
    first, second = pair_indices(errors.shape[1])
    shift = errors - reference_errors
    return -(beta / 2) * (shift[:, first] - shift[:, second])


def _mean_over_pairs(values: Tensor, weights: Tensor) -> Tensor:
    """(B, P) -> (B,), the mean over pairs with weight; 0 where a set has none."""
    return (values * weights).sum(1) / weights.sum(1).clamp_min(1e-12)


def set_wise_loss(logits: Tensor, p: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_c with soft labels: logits z and p = P(i preferred to j), both (B, P) -> (B,).

    A tie (p = 0.5) pulls z to 0 from either side. `weights` (B, P), 0 where a pair was not judged.
    """
    terms = -p * F.logsigmoid(logits) - (1 - p) * F.logsigmoid(-logits)
    return _mean_over_pairs(terms, torch.ones_like(p) if weights is None else weights)


def hard_pairs_loss(logits: Tensor, p: Tensor, weights: Tensor | None = None) -> Tensor:
    """Diffusion-DPO on winners and losers only: the preferred image of each pair wins outright, ties are left out."""
    judged = (p != 0.5).to(logits.dtype)
    weights = judged if weights is None else judged * weights
    terms = -F.logsigmoid(torch.where(p > 0.5, logits, -logits))
    return _mean_over_pairs(terms, weights)


def score_weighted_loss(
    errors: Tensor, reference_errors: Tensor, scores: Tensor, beta: float, weights: Tensor | None = None
) -> Tensor:
    """The study's own loss (its public scripts), kept for comparison; (B, K) three times -> (B,).

    z = -(beta/2) [(s_w/5)(e_w - e_w_ref) - (s_l/5)(e_l - e_l_ref)], -log sigmoid(z); equal scores are left out.
    """
    first, second = pair_indices(errors.shape[1])
    weighted = (scores / MAX_SCORE) * (errors - reference_errors)
    better = scores[:, first] - scores[:, second]
    logits = -(beta / 2) * torch.sign(better) * (weighted[:, first] - weighted[:, second])
    judged = (better != 0).to(logits.dtype)
    return _mean_over_pairs(-F.logsigmoid(logits), judged if weights is None else judged * weights)


def criterion_loss(
    name: str, errors: Tensor, reference_errors: Tensor, p: Tensor, weights: Tensor, scores: Tensor, beta: float
) -> Tensor:
    """L_c per set, (B,), by the name in study.toml.

    Raises:
        InvalidInput: an unknown loss.
    """
    if name == "score-weighted":
        return score_weighted_loss(errors, reference_errors, scores, beta, weights)
    logits = preference_logits(errors, reference_errors, beta)
    if name == "set-wise":
        return set_wise_loss(logits, p, weights)
    if name == "hard-pairs":
        return hard_pairs_loss(logits, p, weights)
    raise InvalidInput(f"loss {name!r} is unknown: use one of {', '.join(LOSSES)}")


def combine_criteria(losses: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
    """L = sum_c m_c L_c / sum_c m_c per set, averaged over the sets that have any condition; a scalar.

    Args:
        losses: criterion -> (B,).
        present: criterion -> m_c (B,) in {0, 1}: zeroed where the condition is absent, averaged where both are there.
    """
    total = sum((losses[c] * present[c] for c in losses), torch.zeros_like(next(iter(losses.values()))))
    count = sum((present[c] for c in losses), torch.zeros_like(total))
    per_set = total / count.clamp_min(1)
    return per_set.sum() / (count > 0).sum().clamp_min(1)


def implicit_accuracy(logits: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """Share of judged, untied pairs (all three (B, P)) that the policy orders as the raters did; z = 0 counts half.

    A scalar, NaN where there are no such pairs. Nothing here waits for the device.
    """
    judged = ((p != 0.5) & (weights > 0)).float()
    agree = torch.where(p > 0.5, logits, -logits)
    right = (agree > 0).float() + 0.5 * (agree == 0).float()
    return (right * judged).sum() / judged.sum()


def error_shifts(errors: Tensor, reference_errors: Tensor, p: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of e - e_ref of the winners and of the losers over judged, untied pairs; NaN where there are none.

    Both rise in every sound run, the loser's more: alone that is not alarming.
    """
    first, second = pair_indices(errors.shape[1])
    shift = errors - reference_errors
    judged = ((p != 0.5) & (weights > 0)).float()
    first_won = p > 0.5
    win = torch.where(first_won, shift[:, first], shift[:, second])
    lose = torch.where(first_won, shift[:, second], shift[:, first])
    return (win * judged).sum() / judged.sum(), (lose * judged).sum() / judged.sum()
