"""Noise schedules of brought models: levels, prediction type and zero SNR survive; DPM-Solver++ honours them."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from radpref.data.core.errors import InvalidInput
from radpref.generation.sampling.sampler import make_solver
from radpref.generation.stack.models import tiny_stack
from radpref.generation.stack.schedules import noise_schedule
from tests.support.errors import refuses

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    "kind",
    [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_any_scheduler_keeps_levels_and_prediction_type(kind, prediction_type):
    original = kind(**SD, prediction_type=prediction_type)
    schedule = noise_schedule(dict(original.config))
    torch.testing.assert_close(schedule.alphas_cumprod, original.alphas_cumprod)
    assert schedule.config.prediction_type == prediction_type
    assert schedule.config.timestep_spacing == original.config.timestep_spacing
    assert not schedule.config.clip_sample


def test_absent_keys_have_the_defaults_of_the_class_that_is_named():
    schedule = noise_schedule({"_class_name": "PNDMScheduler", "beta_end": 0.015})
    torch.testing.assert_close(schedule.alphas_cumprod, PNDMScheduler(beta_end=0.015).alphas_cumprod)


def test_study_toml_overrules_the_prediction_type_and_betas_may_be_listed():
    config = {"_class_name": "DDIMScheduler", **SD, "trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}
    schedule = noise_schedule(config, "v_prediction")
    assert schedule.config.prediction_type == "v_prediction"
    torch.testing.assert_close(schedule.betas, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "NoSuchScheduler"}, "NoSuchScheduler"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, "sample"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "invented"}, "invented"),
    ],
)
def test_schedules_of_other_models_are_refused_on_one_line(config, named):
    with refuses(InvalidInput, named):
        noise_schedule(config, origin="scheduler_config.json")


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
def test_the_solver_reaches_the_image_that_a_perfect_network_predicts(prediction_type, zero_snr):
    """A network that always implies x0 must end at x0, whatever it predicts and however deep the schedule goes."""
    stack = tiny_stack(0)
    stack.scheduler = noise_schedule(
        {"_class_name": "DDIMScheduler", **SD, "prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    )
    alphas = stack.scheduler.alphas_cumprod.double()
    assert (float(alphas[-1]) < 1e-6) == zero_snr
    solver = make_solver(stack, 8)
    assert solver.config.prediction_type == prediction_type
    assert int(solver.timesteps[0]) == 999
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    for step in solver.timesteps:
        alpha, sigma = alphas[step].sqrt(), (1 - alphas[step]).sqrt()
        noise = (latents - alpha * x0) / sigma
        output = noise if prediction_type == "epsilon" else alpha * noise - sigma * x0
        latents = solver.step(output, step, latents, return_dict=False)[0]
    torch.testing.assert_close(latents, x0, atol=2e-3, rtol=2e-3)
