"""Measuring networks: what a simulated rater, the judge and the fidelity figures see in an image.

uint8 images of any size -> P(attribute), structure maps, features. Roles are disjoint (`rater`, `judge`, `fidelity`;
the `proxy` is in `proxy.py`): a network carries its role and the hash of its weights, and the study refuses
one network in two roles, because a generator aligned to the network that judges it would only look better.

On disk: `<name>.safetensors` (fp16) and `<name>.json` (shape, attributes, structures, role, seed, data draw,
thresholds, figures on held-out data).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import sha256_bytes, write_atomic
from radpref.data.imaging.masks import dice
from radpref.generation.measuring.measure_networks import MeasureModule, NetworkShape, build_network
from radpref.generation.measuring.places import card_path

Role = Literal["rater", "judge", "fidelity", "proxy"]
ROLES: tuple[str, ...] = get_args(Role)
FLOAT = npt.NDArray[np.float32]


@dataclass
class MeasureNet:
    """One measuring network with its weights (float32 in memory) and all that is known about it."""

    name: str
    role: Role
    shape: NetworkShape
    attributes: tuple[str, ...]  # names of the A columns of `predict`
    structures: tuple[str, ...]  # names of the T maps of `segment`
    module: MeasureModule = field(repr=False)
    thresholds: dict[str, float] = field(default_factory=dict)  # attribute -> P from which it counts as present
    info: dict[str, Any] = field(default_factory=dict)  # seed, data draw, steps, figures
    weights_sha256: str = ""  # of the weights file; empty while in memory only

    @property
    def sha256(self) -> str:
        """Identity: SHA-256 of the fp16 weights as they are (or would be) on disk."""
        return self.weights_sha256 or sha256_bytes(_packed(self.module))

    def predict(self, images: npt.NDArray[Any], *, batch_size: int = 64) -> FLOAT:
        """P(attribute): images uint8 (N, H, W) -> float32 (N, A), columns as in `attributes`."""
        rows = [torch.sigmoid(logits) for logits, _, _ in self._batches(images, batch_size)]
        return _stack(rows, (0, len(self.attributes)))

    def segment(self, images: npt.NDArray[Any], *, batch_size: int = 64) -> FLOAT:
        """P(pixel belongs to structure): images uint8 (N, H, W) -> float32 (N, T, H, W), maps as in `structures`."""
        _check_images(images)
        height, width = images.shape[1:]
        if not self.structures:
            return np.zeros((len(images), 0, height, width), np.float32)
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        rows = []
        for _, maps, _ in self._batches(images, batch_size):
            if maps is not None:
                full = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
                rows.append(torch.sigmoid(full[:, :, top : top + height, left : left + width]))
        return _stack(rows, (0, len(self.structures), height, width))

    def features(self, images: npt.NDArray[Any], *, batch_size: int = 64) -> FLOAT:
        """Embedding before the head: images uint8 (N, H, W) -> float32 (N, D)."""
        rows = [embedding for _, _, embedding in self._batches(images, batch_size)]
        return _stack(rows, (0, self.shape.n_features))

    def present(self, images: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Attribute counts as present: (N, A) bool, P >= the threshold chosen on validation data (0.5 where none)."""
        limits = np.array([self.thresholds.get(name, 0.5) for name in self.attributes], np.float32)
        return np.asarray(self.predict(images) >= limits)

    def column(self, attribute: str) -> int:
        """Column of `attribute` in `predict`. Raises InvalidInput listing the known attributes."""
        return _index(self.attributes, attribute, f"attribute of {self.name}")

    @torch.inference_mode()
    def _batches(self, images: npt.NDArray[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        _check_images(images)
        self.module.eval()
        for start in range(0, len(images), batch_size):
            batch = prepare_images(images[start : start + batch_size], self.shape.input_size)
            yield self.module(batch.to(memory_format=torch.channels_last))


def _stack(rows: Sequence[Tensor], empty_shape: tuple[int, ...]) -> FLOAT:
    if not rows:
        return np.zeros(empty_shape, np.float32)
    return torch.cat(list(rows)).float().numpy()


def _index(names: Sequence[str], name: str, what: str) -> int:
    if name not in names:
        raise InvalidInput(f"{name!r} is no {what}: choose one of {', '.join(names) or '(none)'}")
    return list(names).index(name)


def _check_images(images: npt.NDArray[Any]) -> None:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise InvalidInput(
            f"images of shape {images.shape} and type {images.dtype} cannot be measured: give uint8 (N, H, W)"
        )


def prepare_images(images: npt.NDArray[Any], size: int) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, size, size), padded to a square with black, then standardised."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None] / 255
    return standardise(resize_square(x, size))


def resize_square(x: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size): centred on a black square (nothing is cropped), then antialiased resize."""
    height, width = x.shape[-2:]
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        x = F.pad(x, (left, side - width - left, top, side - height - top))
    if side != size:
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return x


def standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance per image; (N, C, S, S) -> the same. A constant image becomes zeros."""
    std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
    return (x - mean) / (std + 1e-3)


# --- on disk ---------------------------------------------------------------------------------------------------


def _packed(module: torch.nn.Module) -> bytes:
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in module.state_dict().items()
    }
    payload: bytes = safetensors.torch.save(state)
    return payload


def save_measure(net: MeasureNet, folder: Path) -> Path:
    """Write `<name>.safetensors` (fp16) and `<name>.json` into `folder`; returns the path of the json.

    The weights in memory are rounded to fp16 too, so that a net measures the same before and after a reload.
    """
    payload = _packed(net.module)
    write_atomic(folder / f"{net.name}.safetensors", payload)
    net.module.load_state_dict(safetensors.torch.load(payload))
    net.weights_sha256 = sha256_bytes(payload)
    card = {
        "name": net.name,
        "role": net.role,
        "shape": net.shape.as_json(),
        "attributes": list(net.attributes),
        "structures": list(net.structures),
        "thresholds": net.thresholds,
        "info": net.info,
        "sha256": net.weights_sha256,
    }
    path = folder / f"{net.name}.json"
    write_atomic(path, json.dumps(card, indent=1, sort_keys=True) + "\n")
    return path


def load_measure(name_or_path: str | Path) -> MeasureNet:
    """Load a shipped network by name ("judge", "fidelity", "rater-1".."rater-4") or any by the path of its json.

    Raises:
        NotFound: no such network; the message lists the shipped ones.
        InvalidInput: the json or the weights are broken, or do not belong together.
    """
    own_card = card_path(name_or_path)
    weights_path = own_card.with_suffix(".safetensors")
    if not weights_path.is_file():
        raise NotFound(f"{own_card} has no weights beside it: restore {weights_path.name} or train it again")
    payload = weights_path.read_bytes()
    digest = sha256_bytes(payload)
    try:
        card = json.loads(own_card.read_text(encoding="utf-8"))
        shape = NetworkShape.from_json(card["shape"])
        known = card["sha256"]
        module = build_network(shape, seed=0)
        module.load_state_dict(safetensors.torch.load(payload))
        net = MeasureNet(
            card["name"], card["role"], shape, tuple(card["attributes"]), tuple(card["structures"]), module,
            dict(card["thresholds"]), dict(card["info"]), digest,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{own_card} is no measuring network ({detail}): train it again") from error
    if known != digest:
        raise InvalidInput(f"{weights_path} has hash {digest[:12]}, its card says {known[:12]}: restore both files")
    module.eval()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def tiny_measure(
    name: str = "tiny",
    role: Role = "rater",
    seed: int = 0,
    attributes: Sequence[str] = ("normal", "pleural_effusion", "pleural_effusion/left", "pleural_effusion/right"),
    structures: Sequence[str] = ("lungs", "heart"),
) -> MeasureNet:
    """A network with random weights for tests: whole in design, knows nothing."""
    shape = NetworkShape("plain", len(attributes), len(structures), 32, (4, 4, 8, 8), n_features=8)
    return MeasureNet(name, role, shape, tuple(attributes), tuple(structures), build_network(shape, seed).eval())


# --- scores ----------------------------------------------------------------------------------------------------


def text_fidelity(probabilities: FLOAT, attributes: Sequence[str], asked: Mapping[str, int]) -> FLOAT:
    """How far the images show what a text asks for: (N, A) P(attribute) and {attribute: 0|1} -> (N,) in [0, 1].

    Per finding the product over the finding and its side ("effusion" and "effusion/left": the right finding on the
    wrong side is a miss), then the mean over findings (one of two findings gives half).

    Raises:
        InvalidInput: `asked` is empty, holds another value than 0 or 1, or names nothing this network knows.
    """
    groups: dict[str, FLOAT] = {}
    for attribute, value in asked.items():
        if value not in (0, 1):
            raise InvalidInput(f"asked {attribute!r} is {value!r}: give 1 (present) or 0 (absent)")
        if attribute in attributes:
            p = probabilities[:, list(attributes).index(attribute)]
            finding = attribute.split("/")[0]
            groups[finding] = groups.get(finding, np.ones(len(p), np.float32)) * (p if value else 1 - p)
    if not groups:
        raise InvalidInput(f"asked {sorted(asked)} holds none of the attributes {', '.join(attributes)}: name one")
    mean: FLOAT = np.stack(list(groups.values())).mean(axis=0, dtype=np.float32)
    return mean


def score_text(net: MeasureNet, images: npt.NDArray[Any], asked: Mapping[str, int]) -> FLOAT:
    """`text_fidelity` of uint8 images (N, H, W) as `net` sees them: (N,) in [0, 1]."""
    return text_fidelity(net.predict(images), net.attributes, asked)


def structure_dice(
    net: MeasureNet, images: npt.NDArray[Any], mask: npt.NDArray[Any], structures: Sequence[str]
) -> dict[str, FLOAT]:
    """Dice of the segmented against the asked mask, per structure that is asked and that `net` knows.

    Args:
        images: uint8 (N, H, W).
        mask: bool (T, H, W), the same for all images, or (N, T, H, W).
        structures: names of the T channels. An empty channel is no condition: its Dice is NaN.

    Returns:
        {structure: (N,) float32}; a structure `net` does not know is left out.
    """
    asked = np.asarray(mask).astype(bool)
    asked = np.broadcast_to(asked, (len(images), *asked.shape[-3:]))
    if asked.shape != (len(images), len(structures), *images.shape[1:]):
        raise InvalidInput(
            f"mask of shape {np.shape(mask)} does not fit {len(images)} images of {images.shape[1:]} "
            f"and structures {list(structures)}: give bool (T, H, W) or (N, T, H, W)"
        )
    seen = net.segment(images) >= 0.5
    result: dict[str, FLOAT] = {}
    for channel, name in enumerate(structures):
        if name in net.structures:
            values = dice(seen[:, net.structures.index(name)], asked[:, channel]).astype(np.float32)
            values[~asked[:, channel].any((-2, -1))] = np.nan
            result[name] = values
    return result


def score_mask(net: MeasureNet, images: npt.NDArray[Any], mask: npt.NDArray[Any], structures: Sequence[str]) -> FLOAT:
    """Mean Dice over the asked structures of uint8 images (N, H, W): (N,) in [0, 1].

    Raises:
        InvalidInput: wrong mask size, or no asked structure is both non-empty and known to `net`.
    """
    table = np.array(list(structure_dice(net, images, mask, structures).values()), np.float32).reshape(-1, len(images))
    if len(images) and not (table.size and np.isfinite(table).any(0).all()):
        raise InvalidInput(f"the mask asks for nothing {net.name} can segment: draw one of {', '.join(net.structures)}")
    return np.nanmean(table, axis=0, dtype=np.float32) if len(images) else np.zeros(0, np.float32)


def score_image(
    net: MeasureNet,
    images: npt.NDArray[Any],
    asked: Mapping[str, int] | None,
    mask: npt.NDArray[Any] | None,
    structures: Sequence[str],
) -> dict[str, FLOAT]:
    """Expected 0-5 scores of uint8 images (N, H, W): {"text": (N,), "mask": (N,)}, each where it was asked for."""
    scores: dict[str, FLOAT] = {}
    if asked:
        scores["text"] = 5 * score_text(net, images, asked)
    if mask is not None and np.any(mask):
        scores["mask"] = 5 * score_mask(net, images, mask, structures)
    return scores
