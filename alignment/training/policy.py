"""The policy that is trained and the reference it is measured against.

Policy: the UNet with its LoRA switched on and a trainable copy of the ControlNet. Reference: the same UNet with the
adapters off, and the ControlNet as it was. Both answer with one denoising error per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from radpref.alignment.training.losses import image_errors, to_epsilon
from radpref.generation.stack.adapters import adapters_off, attach_lora, trainable_copy
from radpref.generation.stack.conditions import ConditionBatch, predict_noise
from radpref.generation.stack.models import GeneratorStack

if TYPE_CHECKING:
    from diffusers import ControlNetModel


@dataclass
class Policy:
    """A stack with a LoRA; `stack.controlnet` is the trainable copy, `reference_controlnet` the frozen original.

    lora, control: the trainable parameters by name; control is empty where the ControlNet is not trained.
    """

    stack: GeneratorStack
    reference_controlnet: ControlNetModel | None
    lora: dict[str, nn.Parameter]
    control: dict[str, nn.Parameter]
    bf16: bool = False

    def add_noise(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps; (B, C, h, w) twice and (B,) -> (B, C, h, w)."""
        noisy: Tensor = self.stack.scheduler.add_noise(latents, noise, steps)
        return noisy

    def errors(
        self, latents: Tensor, noise: Tensor, steps: Tensor, batch: ConditionBatch, to_controlnet: Tensor
    ) -> Tensor:
        """e(x) of the policy, with gradient: (B,) float32.

        Args:
            latents, noise: (B, C, h, w). steps: (B,) timesteps. batch: B conditions.
            to_controlnet: (B,) bool, rows whose gradient may reach the ControlNet (mask preferences); the others see
                the same residuals as constants (text preferences).
        """
        noisy = self.add_noise(latents, noise, steps)
        with torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            prediction = predict_noise(
                self.stack.unet, self.stack.controlnet, noisy, steps, batch, to_controlnet=to_controlnet
            )
        return self._error(prediction, noisy, noise, steps)

    @torch.no_grad()
    def reference_errors(self, latents: Tensor, noise: Tensor, steps: Tensor, batch: ConditionBatch) -> Tensor:
        """e_ref(x), (B,) float32; arguments as in :meth:`errors`."""
        noisy = self.add_noise(latents, noise, steps)
        with torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=self.bf16), adapters_off(self.stack.unet):
            prediction = predict_noise(self.stack.unet, self.reference_controlnet, noisy, steps, batch)
        return self._error(prediction, noisy, noise, steps)

    def _error(self, prediction: Tensor, noisy: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        alphas = self.stack.scheduler.alphas_cumprod.to(noisy.device)[steps]
        return image_errors(to_epsilon(prediction.float(), noisy, alphas, self.stack.prediction_type), noise)


def make_policy(stack: GeneratorStack, *, rank: int, seed: int, train_controlnet: bool, bf16: bool = False) -> Policy:
    """Turn a freshly loaded, frozen stack into a policy (changed in place).

    At first policy and reference are equal exactly: the LoRA has no effect and the ControlNet is a copy.
    """
    lora = attach_lora(stack.unet, rank, seed)
    reference = stack.controlnet
    control: dict[str, nn.Parameter] = {}
    if train_controlnet and reference is not None:
        stack.controlnet = trainable_copy(reference)
        control = dict(sorted(stack.controlnet.named_parameters()))
    return Policy(stack, reference, lora, control, bf16)
