"""The policy that is trained and the reference it is measured against.

Policy: the UNet with its LoRA switched on and a trainable copy of the ControlNet. Reference: the same UNet with the
adapters off, and the ControlNet as it was. Both answer with the noise they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from radpref.alignment.training.losses import to_epsilon
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

    @property
    def n_timesteps(self) -> int:
        """Timesteps of the noise schedule."""
        return int(self.stack.scheduler.config.num_train_timesteps)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps; (B, C, h, w) twice and (B,) -> (B, C, h, w)."""
        noisy: Tensor = self.stack.scheduler.add_noise(latents, noise, timesteps)
        return noisy

    def noise_pred(
        self, noisy: Tensor, timesteps: Tensor, batch: ConditionBatch, to_controlnet: Tensor | None
    ) -> Tensor:
        """eps_theta: the noise that the policy sees in z_t, (B, C, h, w) float32, with gradient.

        Args:
            noisy: z_t (B, C, h, w). timesteps: (B,). batch: B conditions.
            to_controlnet: (B,) bool, rows whose gradient may reach the ControlNet (mask preferences); the others see
                the same residuals as constants (text preferences). None: all of them.
        """
        with self._autocast(noisy):
            output = predict_noise(
                self.stack.unet, self.stack.controlnet, noisy, timesteps, batch, to_controlnet=to_controlnet
            )
        return self._epsilon(output, noisy, timesteps)

    @torch.no_grad()
    def reference_noise_pred(self, noisy: Tensor, timesteps: Tensor, batch: ConditionBatch) -> Tensor:
        """eps_ref: what the generator sees without the LoRA and with its own ControlNet; as :meth:`noise_pred`."""
        with self._autocast(noisy), adapters_off(self.stack.unet):
            output = predict_noise(self.stack.unet, self.reference_controlnet, noisy, timesteps, batch)
        return self._epsilon(output, noisy, timesteps)

    def _autocast(self, noisy: Tensor) -> torch.autocast:
        return torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _epsilon(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        alphas = self.stack.scheduler.alphas_cumprod.to(noisy.device)[timesteps]
        return to_epsilon(output.float(), noisy, alphas, self.stack.prediction_type)


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
