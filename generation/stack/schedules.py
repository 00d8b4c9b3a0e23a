"""Noise schedules: a diffusers scheduler's configuration becomes the `DDPMScheduler` of training and sampling alike.

Input: the content of a ``scheduler_config.json``. Output: a `DDPMScheduler` with the same noise levels, prediction type
and zero terminal signal-to-noise ratio. Which sampler the configuration names does not matter here: images are drawn
by DPM-Solver++ (`generation/sampling/sampler.py`) in every arm.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import DDPMScheduler

from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.parts import refusing

KEPT: tuple[str, ...] = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "timestep_spacing", "steps_offset",
)  # fmt: skip
"""What describes the model. The rest (orders, sigmas, thresholds) describes a sampler."""


def noise_schedule(
    config: Mapping[str, Any], prediction_type: str = "auto", origin: str = "scheduler"
) -> DDPMScheduler:
    """The noise schedule that a scheduler's configuration describes.

    Args:
        config: keys that are absent have the defaults of the class it names.
        prediction_type: "epsilon" or "v_prediction" overrules the configuration, "auto" takes it.
        origin: what to call the configuration in an error.

    Raises:
        InvalidInput: a scheduler of another kind of model (flow matching), a prediction type other than epsilon and
            v_prediction, noise levels that are unknown, or epsilon with zero terminal signal-to-noise ratio.
    """
    import diffusers

    name = str(config.get("_class_name", "DDPMScheduler"))
    kind = getattr(diffusers, name, None)
    parameters = inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else {}
    if "beta_schedule" not in parameters:
        raise InvalidInput(
            f"{origin} is a {name}, which has no betas: only Stable Diffusion 1.x/2.x works; take a model with a DDIM,"
            " DDPM, PNDM, Euler or DPM-Solver scheduler"
        )
    defaults = {key: one.default for key, one in parameters.items() if one.default is not inspect.Parameter.empty}
    full = {**defaults, **config}
    kept = {key: full[key] for key in KEPT if full.get(key) is not None}
    if prediction_type != "auto":
        kept["prediction_type"] = prediction_type
    said = kept.get("prediction_type", "epsilon")
    if said not in ("epsilon", "v_prediction"):
        raise InvalidInput(f"{origin}: prediction_type is {said!r}; only 'epsilon' and 'v_prediction' work")
    if said == "epsilon" and kept.get("rescale_betas_zero_snr"):
        raise InvalidInput(
            f"{origin}: rescale_betas_zero_snr with prediction_type 'epsilon' has no answer at the last step; set"
            " generator.prediction_type = 'v_prediction' if the model predicts v"
        )
    with refusing(f"{origin} cannot be used", "copy it again"):
        return DDPMScheduler(**kept, clip_sample=False)
