"""Adapters of an arm: its LoRA on the UNet and its ControlNet; attaching, saving, loading, merging.

Input: a `GeneratorStack` and a folder ``models/<run_id>/`` with ``unet_lora/`` (peft layout) and, where masks were
trained, ``controlnet/`` (diffusers layout). Output: the stack of an arm, ready to sample.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_tree, write_atomic
from radpref.data.study.runs import now
from radpref.generation.stack.identity import extras_identity, identity
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import GeneratorStack
from radpref.generation.stack.options import FoundGenerator, ModelOptions, find_generator
from radpref.generation.stack.parts import quiet_libraries, read_network, refusing
from radpref.generation.stack.places import BASELINE, MANIFEST, find_model, training_command

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

    from radpref.data.study.study import Study

ADAPTER = "preference"
LORA_TARGETS: tuple[str, ...] = (
    "to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out", "conv1", "conv2", "time_emb_proj",
)  # fmt: skip
"""Attention, feed-forward, projection, convolution and time layers."""
MODEL_CARD = "README.md"
"""A better model card does not make another model: it does not count in an arm's identity."""
LORA_FOLDER, CONTROLNET_FOLDER = "unet_lora", "controlnet"
LORA_FILE = "pytorch_lora_weights.safetensors"


def attach_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Add the trainable LoRA of rank `rank`, without effect at first; {name: parameter}, sorted by name.

    The down projections are drawn (Kaiming uniform, as peft does) from one generator: equal for equal seeds.

    Raises:
        Conflict: the UNet already carries it.
    """
    from peft import LoraConfig

    if ADAPTER in getattr(unet, "peft_config", {}):
        raise Conflict(f"the UNet already carries an adapter {ADAPTER!r}: load the model again")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS), init_lora_weights=True)
    with torch.random.fork_rng(devices=[]):
        unet.add_adapter(config, ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    parameters = lora_parameters(unet)
    for name, parameter in parameters.items():
        parameter.requires_grad_(True)
        if ".lora_A." in name:
            fan_in = parameter[0].numel()
            bound = (1 / fan_in) ** 0.5  # kaiming_uniform_(a=sqrt(5))
            drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            parameter.data.copy_(drawn.to(parameter))
    return parameters


def lora_parameters(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """The LoRA's parameters by name, in a fixed (sorted) order."""
    return {name: p for name, p in sorted(unet.named_parameters()) if f".{ADAPTER}." in name and ".lora_" in name}


@contextmanager
def adapters_off(unet: UNet2DConditionModel) -> Iterator[None]:
    """The base UNet for the duration of a block: the reference of preference training, exactly."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


def trainable_copy(controlnet: ControlNetModel) -> ControlNetModel:
    """A copy of the ControlNet to train; the original stays the reference."""
    duplicate: ControlNetModel = copy.deepcopy(controlnet)
    duplicate.requires_grad_(True)
    return duplicate


def save_adapters(stack: GeneratorStack, folder: Path, *, with_controlnet: bool, card: str) -> str:
    """Write LoRA, ControlNet and model card of a trained stack; returns the folder's SHA-256.

    Written beside and renamed: `folder` is there whole or not at all.
    """
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with quiet_libraries():
        stack.unet.save_lora_adapter(draft / LORA_FOLDER, adapter_name=ADAPTER, safe_serialization=True)
        if with_controlnet and stack.controlnet is not None:
            stack.controlnet.save_pretrained(draft / CONTROLNET_FOLDER, safe_serialization=True)
    write_atomic(draft / MODEL_CARD, card)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)
    return sha256_tree(folder)


def load_adapters(stack: GeneratorStack, folder: Path) -> GeneratorStack:
    """Put the adapters of `folder` into a freshly loaded `stack` (changed in place and returned).

    The LoRA is added into the weights: sampling costs what the baseline costs.

    Raises:
        NotFound: there are no adapters at `folder`.
        InvalidInput: they do not fit this generator.
    """
    from diffusers import ControlNetModel

    if not (folder / LORA_FOLDER / LORA_FILE).is_file():
        raise NotFound(f"no adapters at {folder}: run `radpref align train` again, or restore that folder")
    device, dtype = stack.device, next(iter(stack.unet.parameters())).dtype
    misfit = f"the LoRA at {folder} does not fit generator {stack.model_id!r}"
    with refusing(misfit, "train it again"), torch.random.fork_rng(devices=[]):
        stack.unet.load_lora_adapter(
            str(folder / LORA_FOLDER),
            prefix=None,
            weight_name=LORA_FILE,
            adapter_name=ADAPTER,
            local_files_only=True,
        )
    merge_lora(stack.unet)
    if (folder / CONTROLNET_FOLDER).is_dir():
        stack.controlnet = read_network(folder, CONTROLNET_FOLDER, ControlNetModel)
    stack.to(device, dtype)
    return stack.eval()


def merge_lora(unet: UNet2DConditionModel) -> None:
    """Add the LoRA into the UNet's weights and drop the adapter layers."""
    unet.fuse_lora(adapter_names=[ADAPTER])
    unet.unload_lora()


def load_generator(found: FoundGenerator, device: str = "cpu", *, with_controlnet: bool = True) -> GeneratorStack:
    """The stack of a generator; without its ControlNet where one is to be grown anew. Errors as :func:`load_stack`."""
    options = found.options
    if not with_controlnet:
        options = replace(options or ModelOptions(), with_controlnet=False)
    return load_stack(found.path, device, options=options)


def register_model(study: Study, run_id: str, arm: str, sha256: str, detail: Mapping[str, Any]) -> None:
    """Enter a trained arm into table ``models``; the newest of an arm is the one that is used. Repeating is harmless.

    Raises:
        InvalidInput: the arm is called baseline, which is the generator itself.
    """
    if arm == BASELINE:
        raise InvalidInput("arm 'baseline' is the study's generator; register the model under another name")
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO models(model_id, run_id, arm, path, sha256, detail, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(model_id) DO UPDATE SET sha256 = excluded.sha256, detail = excluded.detail",
            (run_id, run_id, arm, f"models/{run_id}", sha256, json.dumps(dict(detail)), now()),
        )


def arm_identity(study: Study, arm: str) -> str:
    """SHA-256 of everything that makes up an arm's model, for the records of runs; errors as in :func:`load_arm`."""
    base = generator_identity(find_generator(study))
    return base if arm == BASELINE else f"{base}+{_model_on(study, arm, base)['sha256']}"


def _model_on(study: Study, arm: str, base: str) -> dict[str, Any]:
    """The row of table ``models`` of an arm; refused where it was trained on another generator than `base`."""
    row = find_model(study, arm)
    trained_on = study.db.value("SELECT json_extract(config, '$.base') FROM runs WHERE run_id = ?", [row["run_id"]])
    if trained_on not in (None, base):  # None: a run that did not record it
        raise InvalidInput(
            f"arm '{arm}' was trained on generator {trained_on[:12]}, but generator {study.config.generator.model!r} is"
            f" now {base[:12]}: train it again with `radpref {training_command(row['arm'])}`, or set [generator] of"
            " study.toml back"
        )
    return row


def generator_identity(found: FoundGenerator) -> str:
    """SHA-256 of a generator as :func:`load_generator` would load it; InvalidInput where a part is missing."""
    options = found.options or ModelOptions()
    if not (found.path / MANIFEST).exists():
        return identity(found.path, options)
    added = extras_identity(options)
    own = sha256_tree(found.path, without=(MODEL_CARD,))
    return f"{own}+{added}" if added else own


def load_arm(study: Study, arm: str = BASELINE, device: str = "cpu") -> GeneratorStack:
    """The generator of an arm: ``baseline`` is the study's own; others have their LoRA merged and ControlNet in place.

    Raises:
        NotFound: no generator, no such arm, or its folder is gone.
        InvalidInput: a part is broken, or the arm was trained on another generator than the study's present one.
    """
    found = find_generator(study)
    row = None if arm == BASELINE else _model_on(study, arm, generator_identity(found))
    stack = load_generator(found, device)
    return stack if row is None else load_adapters(stack, study.root / str(row["path"]))
