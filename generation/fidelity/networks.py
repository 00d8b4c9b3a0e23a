"""The network whose features the fidelity page compares images by.

torchxrayvision's DenseNet-121, trained on seven public sets of real radiographs, where the package *and* its weights
are on this machine already (nothing is ever downloaded here); otherwise the study's own `fidelity` network, otherwise
the shipped one. The page says which it was: figures of different networks do not compare.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import sha256_file
from radpref.generation.fidelity.figures import FeatureNetworkName
from radpref.generation.measuring.measuring_network import MeasureNet, resize_square
from radpref.generation.measuring.roles import register_network

if TYPE_CHECKING:
    from radpref.data.study.study import Study

XRV_WEIGHTS = "densenet121-res224-all"
XRV_SIZE, XRV_BATCH = 224, 32


@dataclass(frozen=True)
class FeatureNetwork:
    """A name for the page, the identity of the weights, and uint8 images (N, H, W) -> float32 features (N, D)."""

    name: str
    about: str
    sha256: str
    features: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]] = field(repr=False)
    published: bool = False
    """Figures of these features are in print: FID takes them as they are; otherwise in units of the real spread."""

    def card(self) -> FeatureNetworkName:
        """What a report says of it."""
        return FeatureNetworkName(self.name, self.sha256, self.about, self.published)


def load_feature_network(study: Study, net: MeasureNet, choice: str = "auto") -> FeatureNetwork:
    """The feature network: `choice` is one of `request.NETWORKS`; "auto" prefers torchxrayvision where it is complete.

    Args:
        net: the fidelity network already loaded.

    Raises:
        NotFound: torchxrayvision is asked for and is not complete on this machine.
        InvalidInput: weights that cannot be read.
    """
    weights = None if choice == "fidelity" else xrv_weights()
    if weights is not None:
        found = _torchxrayvision(weights)
        register_network(study, found.sha256, "fidelity", found.name)
        return found
    if choice == "torchxrayvision":
        raise NotFound(
            "torchxrayvision or its weights are not on this machine: install it and run"
            f" `python -c \"import torchxrayvision as x; x.models.DenseNet(weights='{XRV_WEIGHTS}')\"` once"
        )
    own = (study.root / "networks" / "fidelity.json").is_file()
    about = "trained on this study's training split" if own else "shipped with radpref, trained on digital phantoms"
    return FeatureNetwork(f"fidelity network '{net.name}'", about, net.sha256, net.features)


def xrv_weights() -> Path | None:
    """The weights file of torchxrayvision's DenseNet in its own cache; None where package or file is missing."""
    if importlib.util.find_spec("torchxrayvision") is None:
        return None
    cache = Path("~/.torchxrayvision/models_data").expanduser()
    if not cache.is_dir():
        return None  # looked at before the import, which takes seconds
    from torchxrayvision import models

    path = cache / str(models.model_urls[XRV_WEIGHTS]["weights_url"]).rsplit("/", 1)[-1]
    return path if path.is_file() else None


def _torchxrayvision(weights: Path) -> FeatureNetwork:
    import torch
    from torchxrayvision import models

    try:
        model: Any = models.DenseNet(weights=XRV_WEIGHTS, cache_dir=str(weights.parent)).eval()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
    except Exception as error:  # a torn or foreign file raises anything in the unpickler
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InvalidInput(f"{weights} cannot be read ({reason}): fetch it again, or use --network fidelity") from error

    @torch.inference_mode()
    def features(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = [np.zeros((0, 1024), np.float32)]
        for start in range(0, len(images), XRV_BATCH):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + XRV_BATCH])).float()[:, None] / 255
            x = resize_square(x, XRV_SIZE).clamp(0, 1).to(device)
            rows.append(model.features2((2 * x - 1) * 1024).float().cpu().numpy())  # its own range: -1024 to 1024
        return np.concatenate(rows)

    about = "DenseNet-121 of torchxrayvision, trained on seven public sets of real radiographs"
    return FeatureNetwork(f"torchxrayvision {XRV_WEIGHTS}", about, sha256_file(weights), features, published=True)
