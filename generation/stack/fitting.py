"""Whether the parts of a brought generator belong together; what does not fit is said on one line.

Input: a `GeneratorStack`, or networks. Output: nothing, or `InvalidInput` that names the two that differ, and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from radpref.data.core.errors import InvalidInput
from radpref.generation.stack.autoencoder import vae_factor
from radpref.generation.stack.conditions import choose_colours, hint_colours
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.options import ModelOptions

SUPPORTED = "only Stable Diffusion 1.x/2.x works"
OTHER_INPUTS = {9: "an inpainting model", 8: "an image-editing model", 7: "an upscaler", 5: "a depth-to-image model"}


def brought_stack(
    networks: Mapping[str, Any],
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    options: ModelOptions,
    configuration: Path,
    model_id: str,
) -> GeneratorStack:
    """A stack of brought networks, without a ControlNet yet; its image size is the one that the UNet was trained at.

    Raises:
        InvalidInput: the UNet's `configuration` does not say the size, nor do the options.
    """
    size, side = options.image_size, networks["unet"].config.sample_size
    if size is None and not isinstance(side, int):
        raise InvalidInput(f"{configuration}: the UNet's sample_size is {side!r}; say generator.image_size in pixels")
    return GeneratorStack(
        **networks,
        controlnet=None,
        tokenizer=tokenizer,
        scheduler=scheduler,
        structures=options.structures,
        image_size=side * vae_factor(networks["vae"]) if size is None else size,
        unconditional="empty_prompt",
        model_id=model_id,
    )


def check_parts(stack: GeneratorStack, label: str) -> None:
    """InvalidInput where UNet, text encoder, tokenizer and autoencoder do not belong together: which two, and how."""
    unet, vae, text = stack.unet.config, stack.vae.config, stack.text_encoder.config
    if unet.addition_embed_type is not None or unet.class_embed_type is not None or unet.num_class_embeds is not None:
        what = "Stable Diffusion XL" if unet.addition_embed_type == "text_time" else "a model with class conditions"
        raise InvalidInput(f"{label}: the UNet is that of {what}: {SUPPORTED}")
    width, latents = unet.cross_attention_dim, int(vae.latent_channels)
    if width != text.hidden_size:
        raise InvalidInput(
            f"{label}: the UNet reads text states of width {width}, the text encoder makes {text.hidden_size}:"
            " take both from one model"
        )
    if unet.in_channels != latents or unet.out_channels != latents:
        family = OTHER_INPUTS.get(int(unet.in_channels)) if latents == 4 else None
        raise InvalidInput(
            f"{label}: the UNet reads {unet.in_channels} channels and the autoencoder makes latents of {latents}"
            + (f": this is {family}, {SUPPORTED}" if family else ": take both from one model")
        )
    if len(stack.tokenizer) > text.vocab_size:
        raise InvalidInput(
            f"{label}: the tokenizer has {len(stack.tokenizer)} tokens, the text encoder {text.vocab_size}:"
            " take both from one model"
        )
    if vae.in_channels != vae.out_channels or int(vae.in_channels) not in (1, 3, 4):
        raise InvalidInput(f"{label}: the autoencoder has {vae.in_channels} image channels; 1 or 3 work")


def check_size(stack: GeneratorStack) -> None:
    """Whether the image size is a whole number of latents; InvalidInput where it is not."""
    factor = vae_factor(stack.vae)
    if stack.image_size % factor:
        raise InvalidInput(f"generator.image_size = {stack.image_size} is not a multiple of the autoencoder's {factor}")


def check_controlnet(
    stack: GeneratorStack, hint: Literal["auto", "channels", "rgb"], palette: Mapping[str, str]
) -> None:
    """Whether the ControlNet fits the UNet and the structures; settles what its hint is.

    A ControlNet that was saved here remembers its colours; ``hint`` or ``palette`` of study.toml overrule them.

    Raises:
        InvalidInput: it does not fit; says what differs.
    """
    own: Any = stack.controlnet
    control, unet, factor = own.config, stack.unet.config, vae_factor(stack.vae)
    for key in ("cross_attention_dim", "in_channels", "block_out_channels", "layers_per_block"):
        if _plain(control[key]) != _plain(unet[key]):
            raise InvalidInput(
                f"the ControlNet does not fit the UNet ({key} {control[key]} and {unet[key]}):"
                " take one that was trained with this model"
            )
    shrinks = 2 ** (len(control.conditioning_embedding_out_channels) - 1)
    if shrinks != factor:
        raise InvalidInput(
            f"the ControlNet shrinks its hint {shrinks} times, the autoencoder images {factor} times:"
            " take one that was trained with this model"
        )
    reads, asked = int(control.get("conditioning_channels", 3)), len(stack.structures)
    if hint == "auto" and not palette and len(hint_colours(own) or ()) == asked:
        return
    if hint == "channels" or (hint == "auto" and reads == asked):
        fits, colours = reads == asked, None
    else:
        fits = reads == 3
        colours = choose_colours(stack.structures, palette) if fits else None
    if not fits:
        raise InvalidInput(
            f"the ControlNet reads {reads} channels, the study has {asked} structures"
            f" ({', '.join(stack.structures)}) and generator.hint is '{hint}': "
            + ("set it to 'rgb', " if reads == 3 else "")
            + f"name {reads} data.structures in the order of its channels, or take another ControlNet"
        )
    own.register_to_config(hint_colours=colours)  # so that copies of it keep them


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
