"""The bodies of the measuring networks: six small encoders that differ on purpose, one light U-Net decoder.

Input (B, 1, S, S) float32, standardised per image -> attribute logits (B, A), structure logits (B, T, S/2, S/2) and
an embedding (B, D). Two networks that err alike would make agreement look better than it is (design: one measuring
network per simulated rater, judge and fidelity apart), hence different block types and not only different seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radpref.data.core.errors import InvalidInput


@dataclass(frozen=True)
class NetworkShape:
    """What is needed, beside the weights, to build one measuring network."""

    architecture: str  # a key of BLOCKS
    n_attributes: int  # A, logits of the classification head
    n_structures: int  # T, logit maps of the decoder; 0 builds no decoder
    input_size: int = 64  # S, pixels; a multiple of 16
    widths: tuple[int, ...] = (16, 32, 64, 96)  # channels at strides 2, 4, 8, 16
    depth: int = 1  # blocks per stride
    n_features: int = 64  # D, length of the embedding

    def __post_init__(self) -> None:
        if self.architecture not in BLOCKS:
            raise InvalidInput(f"unknown architecture {self.architecture!r}: choose one of {', '.join(BLOCKS)}")
        if self.input_size % 16 or self.input_size < 16:
            raise InvalidInput(f"input_size {self.input_size} is not a multiple of 16: use 64, 80, 96, 112 or 128")
        if len(self.widths) != 4:
            raise InvalidInput(f"widths {self.widths} must name 4 channel counts, one per stride 2, 4, 8, 16")


def _conv(n_in: int, n_out: int, kernel: int = 3, *, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(n_in, n_out, kernel, padding=padding, groups=groups, dilation=dilation, bias=False)


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip (He et al. 2016)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(n, n), nn.BatchNorm2d(n), nn.ReLU(inplace=True), _conv(n, n), nn.BatchNorm2d(n))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        return F.relu(x + self.body(x))


class Depthwise(nn.Module):
    """Depthwise 5x5, then a pointwise bottleneck turned outwards (ConvNeXt, Liu et al. 2022; 5x5 for CPU)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(n, n, 5, groups=n), nn.GroupNorm(1, n), nn.Conv2d(n, 3 * n, 1), nn.GELU(), nn.Conv2d(3 * n, n, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        out: Tensor = x + self.body(x)
        return out


class Plain(nn.Module):
    """Two 3x3 convolutions without a skip (VGG, Simonyan and Zisserman 2015)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(n, n), nn.BatchNorm2d(n), nn.ReLU(inplace=True), _conv(n, n), nn.BatchNorm2d(n), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        out: Tensor = self.body(x)
        return out


class Dense(nn.Module):
    """Three growing layers, concatenated and projected back (DenseNet, Huang et al. 2017)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        growth = max(8, n // 3)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n + i * growth), nn.ReLU(), _conv(n + i * growth, growth)) for i in range(3)
        )
        self.project = nn.Conv2d(n + 3 * growth, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        out: Tensor = self.project(x)
        return out


class Attentive(nn.Module):
    """Residual block whose channels are re-weighted from their means (squeeze-and-excitation, Hu et al. 2018)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(n, n), nn.BatchNorm2d(n), nn.SiLU(inplace=True), _conv(n, n), nn.BatchNorm2d(n))
        self.gate = nn.Sequential(nn.Linear(n, n // 4), nn.SiLU(), nn.Linear(n // 4, n), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        out = self.body(x)
        return F.silu(x + out * self.gate(out.mean(dim=(2, 3)))[:, :, None, None])


class Dilated(nn.Module):
    """Parallel convolutions of dilation 1, 2 and 3, joined (after Inception and ASPP)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        part = max(4, n // 3)
        self.branches = nn.ModuleList(_conv(n, part, dilation=d) for d in (1, 2, 3))
        self.join = nn.Sequential(nn.BatchNorm2d(3 * part), nn.LeakyReLU(0.1), nn.Conv2d(3 * part, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) -> (B, n, h, w)."""
        out: Tensor = x + self.join(torch.cat([branch(x) for branch in self.branches], dim=1))
        return out


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "plain": Plain,
    "dense": Dense,
    "attentive": Attentive,
    "dilated": Dilated,
}


class Decoder(nn.Module):
    """Light U-Net decoder: coarse maps go up, 1x1-projected skips are added, one 3x3 per stride."""

    def __init__(self, widths: Sequence[int], n_structures: int, n: int = 24) -> None:
        super().__init__()
        self.skips = nn.ModuleList(nn.Conv2d(width, n, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Sequential(_conv(n, n), nn.BatchNorm2d(n), nn.ReLU()) for _ in widths[:-1])
        self.out = nn.Conv2d(n, n_structures, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 2, 4, 8, 16 -> logits (B, T, S/2, S/2)."""
        x: Tensor = self.skips[-1](maps[-1])
        for i in range(len(maps) - 2, -1, -1):
            x = F.interpolate(x, size=maps[i].shape[-2:], mode="nearest") + self.skips[i](maps[i])
            x = self.smooth[i](x)
        out: Tensor = self.out(x)
        return out


class MeasureModule(nn.Module):
    """Encoder of one block type, a 2x2-pooled head (so that left and right stay apart) and the decoder."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        block = BLOCKS[shape.architecture]
        stem = nn.Conv2d(1, shape.widths[0], 5, stride=2, padding=2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(shape.widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        for i, width in enumerate(shape.widths):
            n_in = shape.widths[max(0, i - 1)]
            down = [] if i == 0 else [nn.Conv2d(n_in, width, 2, stride=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            n_blocks = 1 if i == 0 else shape.depth
            stages.append(nn.Sequential(*down, *(block(width) for _ in range(n_blocks))))
        self.stages = nn.ModuleList(stages)
        self.embed = nn.Linear(5 * shape.widths[-1], shape.n_features)
        self.head = nn.Linear(shape.n_features, shape.n_attributes)
        self.decoder = Decoder(shape.widths, shape.n_structures) if shape.n_structures else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(B, 1, S, S) -> attribute logits (B, A), structure logits (B, T, S/2, S/2) or None, embedding (B, D)."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = torch.cat([F.adaptive_avg_pool2d(x, 2).flatten(1), x.amax(dim=(2, 3))], dim=1)  # (B, 5C)
        embedding = self.embed(pooled)
        structures = self.decoder(maps) if self.decoder is not None else None
        return self.head(F.relu(embedding)), structures, embedding


def build_network(shape: NetworkShape, seed: int) -> MeasureModule:
    """A network with random weights that depend only on `shape` and `seed` (torch's global state is put back)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MeasureModule(shape)
