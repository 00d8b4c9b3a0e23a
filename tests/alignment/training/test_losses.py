"""Losses against an independent pair-by-pair reference in numpy, and against known identities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.alignment.training import losses
from radpref.data.core.errors import InvalidInput
from tests.support.errors import refuses


def _case(seed=0, n_sets=3, n_images=4):
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.05, 0.2, (n_sets, n_images))
    reference = rng.uniform(0.05, 0.2, (n_sets, n_images))
    n_pairs = n_images * (n_images - 1) // 2
    p = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], (n_sets, n_pairs))
    return errors, reference, p


def _naive_set_wise(errors, reference, p, beta):
    """Written apart from the module: plain loops, probabilities through 1 / (1 + exp)."""
    result = []
    for e, r, row in zip(errors, reference, p, strict=True):
        terms, k = [], 0
        for i in range(len(e)):
            for j in range(i + 1, len(e)):
                z = -(beta / 2) * ((e[i] - r[i]) - (e[j] - r[j]))
                terms.append(row[k] * math.log1p(math.exp(-z)) + (1 - row[k]) * math.log1p(math.exp(z)))
                k += 1
        result.append(sum(terms) / len(terms))
    return np.array(result)


@pytest.mark.parametrize("beta", [10.0, 500.0])
def test_set_wise_equals_naive_pairs(beta):
    errors, reference, p = _case()
    z = losses.preference_logits(torch.tensor(errors), torch.tensor(reference), beta)
    assert np.allclose(losses.set_wise_loss(z, torch.tensor(p)).numpy(), _naive_set_wise(errors, reference, p, beta))


def test_set_wise_gradient_equals_pair_wise_through_a_network():
    """One forward of four images and six pairs gives the gradient of six separate two-image losses."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 4, 4, generator=generator)
    noise = torch.randn(1, 3, 4, 4, generator=generator).expand_as(images)
    reference = torch.rand(4, generator=generator)
    p = torch.tensor([1.0, 0.5, 0.0, 0.75, 0.25, 1.0])
    policy = torch.nn.Conv2d(3, 3, 3, padding=1)

    e = losses.image_errors(policy(images), noise)
    z = losses.preference_logits(e[None], reference[None], 20.0)
    (together,) = torch.autograd.grad(losses.set_wise_loss(z, p[None]).sum(), policy.weight)

    apart = torch.zeros_like(policy.weight)
    for k, (i, j) in enumerate(zip(*losses.pair_indices(4), strict=True)):
        e_i, e_j = (losses.image_errors(policy(images[n : n + 1]), noise[:1])[0] for n in (i, j))
        z_ij = -10.0 * ((e_i - reference[i]) - (e_j - reference[j]))
        loss = -p[k] * torch.log(torch.sigmoid(z_ij)) - (1 - p[k]) * torch.log(torch.sigmoid(-z_ij))
        apart += torch.autograd.grad(loss, policy.weight)[0] / 6
    assert torch.allclose(together, apart, atol=2e-6)


def test_tie_gradient_is_symmetric():
    e = torch.tensor([[0.1, 0.1]], requires_grad=True)
    loss = losses.set_wise_loss(losses.preference_logits(e, torch.tensor([[0.1, 0.1]]), 100.0), torch.tensor([[0.5]]))
    (grad,) = torch.autograd.grad(loss.sum(), e)
    assert torch.equal(grad, torch.zeros_like(grad))
    e = torch.tensor([[0.12, 0.1]], requires_grad=True)
    loss = losses.set_wise_loss(losses.preference_logits(e, torch.tensor([[0.1, 0.1]]), 100.0), torch.tensor([[0.5]]))
    (grad,) = torch.autograd.grad(loss.sum(), e)
    assert grad[0, 0] > 0  # descent brings the larger error down and the smaller one up: back to indifference
    assert torch.allclose(grad[0, 0], -grad[0, 1])


def test_swapping_the_images_changes_nothing():
    errors, reference, p = _case(2, 1, 2)
    loss = losses.set_wise_loss(
        losses.preference_logits(torch.tensor(errors), torch.tensor(reference), 50), torch.tensor(p)
    )
    flipped = losses.set_wise_loss(
        losses.preference_logits(torch.tensor(errors[:, ::-1].copy()), torch.tensor(reference[:, ::-1].copy()), 50),
        torch.tensor(1 - p),
    )
    assert torch.allclose(loss, flipped)


@given(beta=st.floats(0.1, 1e4), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_beta_scales_the_logit(beta, scale):
    errors, reference, _ = (torch.tensor(x) for x in _case(3))
    one = losses.preference_logits(errors, reference, beta)
    other = losses.preference_logits(errors, reference, beta * scale)
    assert torch.allclose(other, one * scale, rtol=1e-9)


def test_diffusers_folds_the_half():
    """diffusers writes -log sigmoid(-beta_d (model_diff - ref_diff)) with the half inside: its 2500 is our 5000."""
    errors, reference, _ = (torch.tensor(x) for x in _case(4, 5, 2))
    inside = -2500 * ((errors[:, 0] - errors[:, 1]) - (reference[:, 0] - reference[:, 1]))
    theirs = -torch.nn.functional.logsigmoid(inside)
    ours = losses.set_wise_loss(
        losses.preference_logits(errors, reference, 5000.0), torch.ones(5, 1, dtype=torch.float64)
    )
    assert torch.allclose(ours, theirs)


def test_untrained_policy_has_loss_log_2():
    e = torch.rand(2, 4)
    for p in (torch.ones(2, 6), torch.full((2, 6), 0.5)):
        loss = losses.set_wise_loss(losses.preference_logits(e, e, 500.0), p)
        assert torch.allclose(loss, torch.full((2,), math.log(2)))


def test_hard_pairs_leave_ties_out_and_round_the_rest():
    errors, reference, _ = _case(5, 1)
    p = np.array([[0.75, 0.5, 0.0, 0.25, 1.0, 0.5]])
    z = losses.preference_logits(torch.tensor(errors), torch.tensor(reference), 50)
    got = losses.hard_pairs_loss(z, torch.tensor(p))
    keep = np.array([0, 2, 3, 4])
    sign = np.array([1, -1, -1, 1])
    assert got.item() == pytest.approx(np.log1p(np.exp(-sign * z.numpy()[0, keep])).mean())


def test_hard_pairs_of_ties_only_is_zero_with_gradient_zero():
    e = torch.rand(1, 4, requires_grad=True)
    loss = losses.hard_pairs_loss(losses.preference_logits(e, torch.rand(1, 4), 50), torch.full((1, 6), 0.5))
    loss.sum().backward()
    assert loss.item() == 0
    assert torch.equal(e.grad, torch.zeros(1, 4))


def test_score_weighted_as_the_study_wrote_it():
    errors, reference, _ = _case(6, 1)
    scores = np.array([[5.0, 2.0, 2.0, 0.0]])
    expected = []
    for w, lo in [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]:  # (1, 2) is a tie
        shift = errors[0] - reference[0]
        inside = -0.5 * 50 * ((scores[0, w] / 5) * shift[w] - (scores[0, lo] / 5) * shift[lo])
        expected.append(math.log1p(math.exp(-inside)))
    got = losses.score_weighted_loss(torch.tensor(errors), torch.tensor(reference), torch.tensor(scores), 50)
    assert got.item() == pytest.approx(np.mean(expected))


def test_missing_pairs_have_no_weight():
    errors, reference, p = (torch.tensor(x) for x in _case(7, 1))
    z = losses.preference_logits(errors, reference, 50)
    weights = torch.tensor([[1.0, 0, 0, 1, 0, 0]], dtype=torch.float64)
    expected = (losses.set_wise_loss(z[:, :1], p[:, :1]) + losses.set_wise_loss(z[:, 3:4], p[:, 3:4])) / 2
    assert torch.allclose(losses.set_wise_loss(z, p, weights), expected)


def test_combination_zeroes_or_averages():
    text, mask = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0, 20.0, 8.0])
    present = {"text": torch.tensor([1.0, 0.0, 1.0]), "mask": torch.tensor([0.0, 1.0, 1.0])}
    assert losses.combine_criteria({"text": text, "mask": mask}, present).item() == pytest.approx((1 + 20 + 6) / 3)


def test_two_criteria_on_one_z_equal_one_loss_at_the_mean_p():
    """Why TM2I needs routing: with one shared z the two criteria are one loss."""
    errors, reference, p_text = (torch.tensor(x) for x in _case(8))
    p_mask = p_text.flip(1)
    z = losses.preference_logits(errors, reference, 50)
    both = (losses.set_wise_loss(z, p_text) + losses.set_wise_loss(z, p_mask)) / 2
    assert torch.allclose(both, losses.set_wise_loss(z, (p_text + p_mask) / 2))


def test_v_prediction_and_sample_become_the_same_epsilon():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 3, 3, generator=generator, dtype=torch.float64)
    abar = torch.tensor([0.9, 0.2], dtype=torch.float64)
    alpha, sigma = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
    noisy = alpha * x0 + sigma * noise
    for kind, prediction in {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}.items():
        assert torch.allclose(losses.to_epsilon(prediction, noisy, abar, kind), noise), kind
    with refuses(InvalidInput, "edm", "epsilon", "v_prediction", "sample"):
        losses.to_epsilon(noise, noisy, abar, "edm")


def test_implicit_accuracy_and_shifts():
    errors = torch.tensor([[0.1, 0.3, 0.2, 0.2]])
    reference = torch.full((1, 4), 0.2)
    p = torch.tensor([[1.0, 0.5, 1.0, 1.0, 0.0, 0.5]])  # pairs 01 02 03 12 13 23
    z = losses.preference_logits(errors, reference, 2.0)
    accuracy = losses.implicit_accuracy(z, p, torch.ones(1, 6))
    assert accuracy == 0.75  # 01 right, 03 right, 12 wrong (1 has the larger error), 13 right
    won, lost = losses.error_shifts(errors, reference, p, torch.ones(1, 6))
    assert won.item() == pytest.approx((-0.1 - 0.1 + 0.1 + 0.0) / 4)
    assert lost.item() == pytest.approx((0.1 + 0.0 + 0.0 + 0.1) / 4)
    assert math.isnan(losses.implicit_accuracy(z, torch.full((1, 6), 0.5), torch.ones(1, 6)))


def test_the_error_of_an_image_is_the_mean_squared_difference_in_float32():
    noise_pred = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]).view(2, 1, 2, 2)
    noise = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, -1.0]).view(2, 1, 2, 2)
    assert losses.image_errors(noise_pred, noise).tolist() == [(4 + 9 + 16) / 4, 1.0]
    assert losses.image_errors(noise_pred.half(), noise.half()).dtype == torch.float32


def test_a_prediction_in_half_precision_stays_in_it():
    half = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    assert losses.to_epsilon(half, half, torch.tensor([0.36]), "v_prediction").item() == pytest.approx(1.4, abs=1e-3)
    assert losses.to_epsilon(half, half, torch.tensor([0.36]), "v_prediction").dtype == torch.float16


# Errors 0.3, 0.1, 0.2 against a reference of 0.1 at beta 2: shifts 0.2, 0, 0.1, so z of 01, 02, 12 is -0.2, -0.1, 0.1.
WORKED = (torch.tensor([[0.3, 0.1, 0.2]]), torch.full((1, 3), 0.1))
WORKED_P = torch.tensor([[0.0, 0.75, 1.0]])
WORKED_WEIGHTS = torch.tensor([[2.0, 1.0, 0.0]])
WORKED_SCORES = torch.tensor([[5.0, 0.0, 5.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 2 log(1 + e^-0.2) and 0.75 log(1 + e^0.1) + 0.25 log(1 + e^-0.1), over 3
        ("set-wise", (2 * 0.598139 + 0.75 * 0.744397 + 0.25 * 0.644397) / 3),
        # the first pair's second image wins (z 0.2), the second's first one (z -0.1)
        ("hard-pairs", (2 * 0.598139 + 0.744397) / 3),
        # scores / 5 are 1, 0, 1: z of 01 is -(0.2 - 0) = -0.2; 02 is a tie; 12 has no weight
        ("score-weighted", 0.798139),
    ],
)
def test_the_loss_named_in_the_study_by_hand(name, expected):
    got = losses.criterion_loss(name, *WORKED, WORKED_P, WORKED_WEIGHTS, WORKED_SCORES, 2.0)
    assert got.item() == pytest.approx(expected, abs=2e-6)


def test_few_weights_are_a_mean_too():
    z, p = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    light = losses.set_wise_loss(z, p, torch.tensor([[0.25, 0.25]]))
    assert light.item() == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-5)


@pytest.mark.parametrize("loss", [losses.set_wise_loss, losses.hard_pairs_loss])
def test_the_precision_of_the_logits_is_kept(loss):
    z = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert loss(z, torch.tensor([[1.0, 0.0]], dtype=torch.float64)).dtype == torch.float64


def test_a_set_without_any_condition_does_not_thin_the_mean():
    present = {"text": torch.tensor([1.0, 0.0]), "mask": torch.tensor([0.0, 0.0])}
    values = {"text": torch.tensor([3.0, 7.0]), "mask": torch.tensor([9.0, 9.0])}
    assert losses.combine_criteria(values, present).item() == 3.0
    assert losses.combine_criteria(values, {name: torch.zeros(2) for name in values}).item() == 0.0


def test_a_draw_of_the_policy_counts_half_and_what_was_not_judged_counts_nothing():
    z, p = torch.tensor([[0.0, 2.0, -2.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    assert losses.implicit_accuracy(z, p, torch.ones(1, 3)).item() == pytest.approx(1.5 / 3)
    assert losses.implicit_accuracy(z, p, torch.tensor([[1.0, 1.0, 0.0]])).item() == 0.75
    assert losses.implicit_accuracy(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]), torch.ones(1, 2)) == 0.25
    errors, reference = torch.tensor([[0.5, 0.1, 0.9]]), torch.zeros(1, 3)
    won, lost = losses.error_shifts(errors, reference, torch.ones(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    assert (won.item(), lost.item()) == (pytest.approx(0.5), pytest.approx(0.1))


def test_unknown_loss_lists_the_choices():
    e = torch.rand(1, 4)
    with refuses(InvalidInput, "ipo", *losses.LOSSES):
        losses.criterion_loss("ipo", e, e, torch.rand(1, 6), torch.ones(1, 6), e, 1.0)
