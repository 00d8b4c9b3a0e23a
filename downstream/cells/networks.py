"""Networks of the downstream tasks, all from random weights (nothing is downloaded).

"small": a narrow timm ResNet (0.2 M parameters) and smp's UNet++ decoder on a narrow encoder; "resnet18" and
"resnet50": torchvision classifiers and smp UNet++. Input (B, 1, H, W) float32, about zero mean; output logits.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput

SMALL_WIDTHS = (16, 32, 64, 96)
ENCODER_WIDTHS = (16, 32, 48, 64)
DECODER_WIDTHS = (32, 24, 16)
LEARNING_RATE = {"small": 2e-3, "resnet18": 5e-4, "resnet50": 3e-4}


class _Block(nn.Sequential):
    """Two 3 x 3 convolutions with batch norm; the first halves the side."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True),
        )  # fmt: skip


class CompactUnetPlusPlus(nn.Module):
    """UNet++ (smp's decoder) at half resolution on an encoder of three more halvings; its logits are upsampled.

    Input side: a multiple of 16. Half resolution makes a step four times cheaper.
    """

    def __init__(self) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder

        widths = itertools.pairwise((1, *ENCODER_WIDTHS))
        self.stages = nn.ModuleList(_Block(n_in, n_out) for n_in, n_out in widths)
        self.decoder = UnetPlusPlusDecoder(ENCODER_WIDTHS, DECODER_WIDTHS, n_blocks=3)
        self.head = nn.Conv2d(DECODER_WIDTHS[-1], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> logits (B, 1, H, W)."""
        features = [self.stages[0](images)]  # the decoder's "input resolution"
        for stage in self.stages[1:]:
            features.append(stage(features[-1]))
        logits = self.head(self.decoder(features))
        return nn.functional.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)


def build_network(name: str, kind: str, n_outputs: int, seed: int) -> nn.Module:
    """A network for tasks of ``kind`` ("multilabel", "binary", "segmentation"); equal seeds give equal weights.

    Raises:
        InvalidInput: an unknown network.
    """
    if name not in LEARNING_RATE:
        raise InvalidInput(f"unknown network '{name}'; choose one of {', '.join(LEARNING_RATE)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _segmenter(name) if kind == "segmentation" else _classifier(name, n_outputs)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _classifier(name: str, n_outputs: int) -> nn.Module:
    if name == "small":
        from timm.models.resnet import BasicBlock, ResNet

        built: Any = ResNet(
            BasicBlock, (1, 1, 1, 1), num_classes=n_outputs, in_chans=1, channels=SMALL_WIDTHS, stem_width=16
        )
        return cast(nn.Module, built)
    import torchvision

    network: Any = getattr(torchvision.models, name)(weights=None, num_classes=n_outputs)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return cast(nn.Module, network)


def _segmenter(name: str) -> nn.Module:
    if name == "small":
        return CompactUnetPlusPlus()
    import segmentation_models_pytorch as smp

    return cast(nn.Module, smp.UnetPlusPlus(name, encoder_weights=None, in_channels=1, classes=1))
