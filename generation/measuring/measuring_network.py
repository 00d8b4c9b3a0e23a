"""Measuring networks: what a simulated rater, the judge and the fidelity figures see in an image.

uint8 images of any size -> P(attribute), structure maps, features. Roles are disjoint (`rater`, `judge`, `fidelity`;
the `proxy` is in `proxy_scorer.py`): a network carries its role and the hash of its weights, and the study refuses
one network in two roles, because a generator aligned to the network that judges it would only look better.

On disk: `<name>.safetensors` (fp16) and `<name>.json` (shape, attributes, structures, role, seed, data draw,
thresholds, figures on held-out data).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
from radpref.generation.measuring.architectures import MeasureModule, NetworkShape, build_network
from radpref.generation.measuring.network_files import card_path

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
        check_images(images)
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
        if attribute not in self.attributes:
            known = ", ".join(self.attributes) or "(none)"
            raise InvalidInput(f"{attribute!r} is not an attribute of {self.name}: choose one of {known}")
        return self.attributes.index(attribute)

    @torch.inference_mode()
    def _batches(self, images: npt.NDArray[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        check_images(images)
        self.module.eval()
        for start in range(0, len(images), batch_size):
            batch = prepare_images(images[start : start + batch_size], self.shape.input_size)
            yield self.module(batch.to(memory_format=torch.channels_last))


def _stack(rows: Sequence[Tensor], empty_shape: tuple[int, ...]) -> FLOAT:
    return torch.cat([torch.zeros(empty_shape), *rows]).numpy()


def check_images(images: npt.NDArray[Any]) -> None:
    """Refuse what is not uint8 (N, H, W), with InvalidInput."""
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
        "shape": asdict(net.shape),
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
        shape = NetworkShape(**{**card["shape"], "widths": tuple(card["shape"]["widths"])})
        known = card["sha256"]
        module = build_network(shape, seed=0)
        module.load_state_dict(safetensors.torch.load(payload))
        net = MeasureNet(
            card["name"], card["role"], shape, tuple(card["attributes"]), tuple(card["structures"]), module,
            dict(card["thresholds"]), dict(card["info"]), digest,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{own_card} is not a measuring network ({detail}): train it again") from error
    if known != digest:
        raise InvalidInput(f"{weights_path} has hash {digest[:12]}, its card says {known[:12]}: restore both files")
    module.eval()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
