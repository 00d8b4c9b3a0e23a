"""Condition semantics: what text and mask mean to the model. Training, DPO and sampling all go through here.

- No text (None, empty or "N/A"): the text hidden states are multiplied by 0; the literal "N/A" is never encoded.
- No mask (None or all black): the ControlNet's residuals are multiplied by 0; a black hint alone would not do, as a
  trained ControlNet answers to it. Where no sample of a batch has a mask the ControlNet is not run at all.
- The unconditional branch of guidance takes the text away (zero vector, or the empty prompt for brought models) and
  keeps the mask. Where there is no text to take away (M2I) it is the conditional branch itself, so only one is run.
- The hint is one channel per structure everywhere; a ControlNet that reads RGB gets it painted in its own colours.

Input: `Condition`s. Output: `ConditionBatch`, noise predictions (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from radpref.data.core.errors import InvalidInput
from radpref.data.study.conditions import Mode

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

    from radpref.generation.stack.models import GeneratorStack

Masked = Literal["none", "some", "all"]
Residuals = tuple[Sequence[Tensor], Tensor]
"""What a ControlNet adds to the UNet: of the down blocks and of the mid block."""
NO_TEXT = "N/A"
MAX_CACHED_TEXTS = 4096
PALETTE: dict[str, str] = {
    "lungs": "#0000ff",
    "heart": "#ff0000",
    "lesion": "#00ff00",
    "pneumothorax": "#ffff00",
    "rib_fractures": "#ff00ff",
    "chest_tubes": "#00ffff",
}
"""Colours of the structures in the hint of an RGB ControlNet; ``generator.palette`` of study.toml overrules them."""


def has_text(text: str | None) -> bool:
    """False for None, an empty text and "N/A"."""
    return text is not None and text.strip().upper() not in ("", NO_TEXT)


def has_mask(mask: np.ndarray | None) -> bool:
    """False for None and for an all-black mask."""
    return mask is not None and bool(np.any(mask))


@dataclass(frozen=True)
class Condition:
    """What one image is asked to show: a text, a mask (S, H, W) bool with one plane per structure, or both."""

    text: str | None = None
    mask: np.ndarray | None = None

    @property
    def mode(self) -> Mode:
        """T2I, M2I or TM2I; an absent text or black mask does not count. InvalidInput where neither is present."""
        text, mask = has_text(self.text), has_mask(self.mask)
        if text and mask:
            return "TM2I"
        if not text and not mask:
            raise InvalidInput(f"a condition has neither text ({self.text!r}) nor a non-empty mask: give one of them")
        return "T2I" if text else "M2I"


@dataclass(frozen=True)
class ConditionBatch:
    """Conditions as tensors.

    text_states: (B, L, D), rows without text already 0; hint: (B, S, H, W) in {0, 1}; text_present, mask_present: (B,)
    in {0, 1}; mask_present may be on the CPU, where it decides which rows run.
    """

    text_states: Tensor
    hint: Tensor
    text_present: Tensor
    mask_present: Tensor

    def __len__(self) -> int:
        return self.text_states.shape[0]

    def select(self, indices: Tensor | Sequence[int]) -> ConditionBatch:
        """The chosen rows, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.text_states.device)
        mask_present = self.mask_present[chosen.to(self.mask_present.device)]
        return ConditionBatch(self.text_states[chosen], self.hint[chosen], self.text_present[chosen], mask_present)

    def without_text(self, unconditional_states: Tensor | None = None) -> ConditionBatch:
        """The unconditional branch: zero text states, or the given ones (L, D); the mask stays.

        Rows without text have nothing to take away: they stay zero under both.
        """
        states = torch.zeros_like(self.text_states)
        if unconditional_states is not None:
            states = self.text_present.to(states)[:, None, None] * unconditional_states.to(states)
        return replace(self, text_states=states, text_present=torch.zeros_like(self.text_present))


def make_batch(
    text_states: Tensor, hint: Tensor, text_present: Tensor, mask_present: Tensor | None = None
) -> ConditionBatch:
    """Apply the semantics to raw tensors: absent texts multiplied by 0, mask presence read from the hint.

    `mask_present`: (B,) in {0, 1} where that is known already; on the CPU it spares waiting for the device.
    """
    present = text_present.to(text_states.dtype)
    if mask_present is None:
        mask_present = hint.flatten(1).any(dim=1).to(hint.dtype)
    return ConditionBatch(text_states * present[:, None, None], hint, present, mask_present)


def mask_to_hint(mask: np.ndarray | None, n_structures: int, size: int) -> Tensor:
    """(S, H, W) bool -> bool (S, size, size) by nearest neighbour; all False where absent.

    A structure too thin for that keeps every pixel it touches: an emptied mask would mean "no condition".
    InvalidInput where the mask has another number of structures. Bool: a quarter of the bytes of floats to the device.
    """
    if mask is None:
        return torch.zeros(n_structures, size, size, dtype=torch.bool)
    if mask.ndim != 3 or mask.shape[0] != n_structures:
        raise InvalidInput(f"mask of shape {mask.shape}, the model wants ({n_structures}, H, W): one plane a structure")
    planes = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.bool_))
    if planes.shape[-2:] == (size, size):
        return planes
    whole = planes.float()[None]
    scaled = torch.nn.functional.interpolate(whole, size=(size, size), mode="nearest-exact")[0] > 0
    lost = planes.flatten(1).any(1) & ~scaled.flatten(1).any(1)
    if lost.any():
        scaled[lost] = torch.nn.functional.adaptive_max_pool2d(whole, size)[0, lost] > 0
    return scaled


def encode_masks(masks: Sequence[np.ndarray | None], n_structures: int, size: int, device: torch.device) -> Tensor:
    """Hints (n, S, size, size) float32 on the device; a mask that several images share is carried there once."""
    distinct = list({id(mask): mask for mask in masks}.values())
    place = {id(mask): index for index, mask in enumerate(distinct)}
    planes = torch.stack([mask_to_hint(mask, n_structures, size) for mask in distinct]).to(device).float()
    return planes if len(distinct) == len(masks) else planes[[place[id(mask)] for mask in masks]]


def encode_text(stack: GeneratorStack, texts: Sequence[str]) -> Tensor:
    """Hidden states (n, L, D) of texts, each encoded once and then kept in `stack.text_cache`."""
    from radpref.generation.stack.tokenizer import tokenize

    if len(stack.text_cache) > MAX_CACHED_TEXTS:
        stack.text_cache.clear()
    missing = [text for text in dict.fromkeys(texts) if text not in stack.text_cache]
    for start in range(0, len(missing), 64):
        part = missing[start : start + 64]
        ids = tokenize(stack.tokenizer, part).to(stack.device)
        with torch.no_grad():
            states = stack.text_encoder(input_ids=ids).last_hidden_state
        stack.text_cache.update(zip(part, states.detach().unbind(0), strict=True))
    return torch.stack([stack.text_cache[text] for text in texts])


def encode_conditions(stack: GeneratorStack, conditions: Sequence[Condition]) -> ConditionBatch:
    """Encode conditions for `stack`; texts are cached, masks resized to the model's image size."""
    if not conditions:
        raise InvalidInput("no conditions to encode: give at least one")
    n_structures = len(stack.structures)
    modes = [condition.mode for condition in conditions]
    if stack.controlnet is None and any(mode != "T2I" for mode in modes):
        raise InvalidInput(
            f"mask condition given, but model {stack.model_id!r} has no ControlNet: use text only, name one"
            " as generator.controlnet, or train one (generator.model = 'trained', with masks imported)"
        )
    present = torch.tensor([float(mode != "M2I") for mode in modes], device=stack.device)
    # A row without text borrows any encodable text; its states are multiplied by 0 below.
    texts = [condition.text if has_text(condition.text) else "normal" for condition in conditions]
    states = encode_text(stack, [text or "normal" for text in texts])
    hints = encode_masks([c.mask for c in conditions], n_structures, stack.image_size, stack.device)
    return make_batch(states, hints, present)


def unconditional_states(stack: GeneratorStack) -> Tensor | None:
    """Text states (L, D) of the unconditional branch; None means zero."""
    return encode_text(stack, [""])[0] if stack.unconditional == "empty_prompt" else None


def masked_rows(batch: ConditionBatch) -> Masked:
    """How many samples have a mask. Reads the device: a loop over steps asks once, before its first step."""
    present = batch.mask_present.tolist()
    return "all" if all(present) else "some" if any(present) else "none"


def choose_colours(structures: Sequence[str], palette: Mapping[str, str]) -> list[list[int]]:
    """[red, green, blue] of each structure, 0-255: from ``palette``, else `PALETTE`; a single structure is white.

    Raises:
        InvalidInput: a structure has no colour or is black, which means nothing; the palette names an unknown one.
    """
    unknown = sorted(set(palette) - set(structures))
    if unknown:
        raise InvalidInput(f"generator.palette.{unknown[0]}: no such structure; data.structures has {list(structures)}")
    known = PALETTE if len(structures) > 1 else dict.fromkeys(structures, "#ffffff")
    colours = []
    for name in structures:
        code = palette.get(name, known.get(name))
        if code is None:
            raise InvalidInput(f"structure '{name}' has no colour: set generator.palette.{name} = '#rrggbb'")
        colours.append(list(bytes.fromhex(code.removeprefix("#"))))
        if not any(colours[-1]):
            raise InvalidInput(f"generator.palette.{name} = '{code}': black means no structure; take another colour")
    return colours


def hint_colours(controlnet: ControlNetModel) -> list[list[int]] | None:
    """[red, green, blue] of each structure, 0-255, for a ControlNet that reads RGB; else None."""
    colours: list[list[int]] | None = controlnet.config.get("hint_colours")
    return colours


def controlnet_hint(controlnet: ControlNetModel, hint: Tensor) -> Tensor:
    """What the ControlNet reads: the hint (B, S, H, W) itself, or a colour map (B, 3, H, W) in [0, 1].

    In the map nothing is black, and where structures overlap the later one in data.structures covers the earlier. A
    hint that was encoded beforehand (the ControlNet then has no hint encoder) is left as it is.
    """
    colours = hint_colours(controlnet)
    if colours is None or isinstance(controlnet.controlnet_cond_embedding, torch.nn.Identity):
        return hint
    picture = hint.new_zeros(hint.shape[0], 3, *hint.shape[2:])
    for index, colour in enumerate(colours):
        for channel, level in enumerate(colour):
            picture[:, channel].masked_fill_(hint[:, index] > 0.5, level / 255)
    return picture


def control_residuals(
    controlnet: ControlNetModel,
    noisy_latents: Tensor,
    timesteps: Tensor,
    batch: ConditionBatch,
    masked: Masked | None = None,
) -> tuple[list[Tensor], Tensor]:
    """ControlNet residuals (down blocks, mid block), multiplied by 0 for samples without a mask.

    Only samples with a mask are run; the others' rows are exact zeros, which is the same as the multiplication.
    `masked` is what `masked_rows` says of the batch, where the caller knows it.
    """
    every = (masked or masked_rows(batch)) == "all"
    latents, steps, states, hint = noisy_latents, timesteps, batch.text_states, batch.hint
    if not every:
        rows = torch.nonzero(batch.mask_present).flatten()
        if rows.device != latents.device:  # known on the CPU: no waiting for the device
            rows = rows.pin_memory().to(latents.device, non_blocking=True)
        latents, steps, states, hint = latents[rows], steps[rows], states[rows], hint[rows]
    down, mid = controlnet(
        latents,
        steps,
        encoder_hidden_states=states,
        controlnet_cond=controlnet_hint(controlnet, hint),
        return_dict=False,
    )
    if every:
        return list(down), mid

    def scatter(values: Tensor) -> Tensor:
        full = values.new_zeros((len(batch), *values.shape[1:]))
        return full.index_copy(0, rows, values)

    return [scatter(values) for values in down], scatter(mid)


def predict_noise(
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel | None,
    noisy_latents: Tensor,
    timesteps: Tensor,
    batch: ConditionBatch,
    masked: Masked | None = None,
    residuals: Residuals | None = None,
    to_controlnet: Tensor | None = None,
) -> Tensor:
    """The UNet's output (B, C, h, w) under the batch's conditions; `timesteps` (B,) or a scalar tensor.

    Args:
        masked: what `masked_rows` says of the batch, where the caller knows it.
        residuals: taken in place of the ControlNet's.
        to_controlnet: (B,) bool, samples whose gradient may reach the ControlNet; the others see the same residuals as
            constants. None: all of them.
    """
    steps = timesteps.expand(len(batch)) if timesteps.ndim == 0 else timesteps
    if residuals is not None:
        down, mid = residuals
    elif controlnet is None or (masked or masked_rows(batch)) == "none":
        output = unet(noisy_latents, steps, encoder_hidden_states=batch.text_states, return_dict=False)[0]
        return torch.as_tensor(output)
    else:
        down, mid = control_residuals(controlnet, noisy_latents, steps, batch, masked)
    if to_controlnet is not None:
        passes = to_controlnet.view(-1, 1, 1, 1)
        *down, mid = (torch.where(passes, residual, residual.detach()) for residual in (*down, mid))
    output = unet(
        noisy_latents,
        steps,
        encoder_hidden_states=batch.text_states,
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    return torch.as_tensor(output)


def needs_guidance(batch: ConditionBatch, guidance_scale: float) -> bool:
    """False where both branches would be equal: scale 1, or no text in the batch."""
    return guidance_scale != 1.0 and bool(batch.text_present.any())


def both_branches(stack: GeneratorStack, batch: ConditionBatch) -> ConditionBatch:
    """The unconditional rows of guidance, then the conditional ones (2 B rows)."""
    free = batch.without_text(unconditional_states(stack))
    return ConditionBatch(
        torch.cat([free.text_states, batch.text_states]),
        torch.cat([free.hint, batch.hint]),
        torch.cat([free.text_present, batch.text_present]),
        torch.cat([free.mask_present, batch.mask_present]),
    )


def guide(output: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance on the output of `both_branches`: uncond + scale * (cond - uncond)."""
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
