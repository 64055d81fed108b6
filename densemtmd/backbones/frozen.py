"""A pretrained trunk and a small head on its maps, laid side by side: what it has learned elsewhere is enough to tell most labels apart.

A frozen trunk is a function of the picture alone: its maps of several strides, brought to one grid, can be computed once per picture and
kept (:attr:`Hypercolumn.trunk`), and the network takes them in a picture's place. A step of training then costs a few matrix products.
``learns_beyond`` lets the trunk's deeper layers learn too, from pictures then; its batch norms keep the statistics that they came with,
which are right for batches of any size.

θ_f is the trunk, a standardisation and 1×1 convolutions to ``hidden`` channels: these are shared by all tasks, and what gradient
reversal makes forget the domain; θ_t a dropout and a 1×1 convolution to all labels. It is the hypercolumn of Hariharan et al., 2015.

Shapes: ``B`` batch, ``M`` channels of the trunk's maps side by side, ``F`` channels of the hidden layer, ``H``, ``W`` pixels, ``h``, ``w``
cells of the grid.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from textwrap import shorten
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from densemtmd import parallel
from densemtmd.backbones import weights as pretrained
from densemtmd.backbones.encoder_decoder import CONTEXT, ENCODER
from densemtmd.backbones.padded import Normalise, PaddedNetwork, Whole, check_scales, evenly_padded, padded, smaller, times, up
from densemtmd.backbones.torchvision_cpu import import_smp
from densemtmd.errors import UserError
from densemtmd.network import Outputs, Pointwise
from densemtmd.tasks import OutputSpace

STRIDES = (1, 2, 4, 8, 16, 32)


class Hypercolumn(PaddedNetwork):
    """A picture in, (B, 3, H, W) in [0, 1], and an answer for each of its pixels out, (B, C, H, W); or the trunk's maps of a picture in,
    (B, M, h, w), and an answer for each cell out, (B, C, h, w).

    The trunk's weights are part of a checkpoint, so that it labels where the package that they are from is not installed; a head weighs
    next to nothing beside them, and yet a checkpoint stays smaller than most photographs' folders (14 MB with EfficientNet-Lite0).

    Args:
        space: the labelsets.
        encoder: one of timm's (``timm.list_models()``), or several: each with a head of its own, and the mean of their answers.
        weights: of the encoder: ``package``, ``hub``, ``none`` or a path (:mod:`densemtmd.backbones.weights`); a path of one alone.
        strides: of the maps that are taken: some of 2, 4, 8, 16, 32.
        grid: pixels along a cell of the grid that they are brought to.
        scales: by which pictures are enlarged for the trunk; of several the maps are laid side by side.
        hidden: channels of the hidden layers.
        layers: how many of them; 0: the classifier is linear in the maps, and gradient reversal has nothing to change.
        dropout: share of what the classifier sees that is dropped, 0 ≤ dropout < 1.
        learns_beyond: the trunk's layers beyond its map of this stride learn with the head, those before it do not; None: none does.

    Raises:
        UserError: a setting out of its range, or the libraries are not installed.
    """

    features: Features

    def __init__(
        self,
        space: OutputSpace,
        encoder: str | Sequence[str] = ENCODER,
        weights: str = "package",
        strides: Sequence[int] = (4, 8, 16, 32),
        grid: int = 8,
        scales: Sequence[float] = (1.0,),
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.1,
        learns_beyond: int | None = None,
    ) -> None:
        known = isinstance(strides, list | tuple) and strides and all(s in STRIDES[1:] for s in strides)
        if not known or len(set(strides)) < len(strides):
            raise UserError(f"model.strides is {strides!r}, expected some of {', '.join(map(str, STRIDES[1:]))}, each once")
        for name, value, least in (("grid", grid, 1), ("hidden", hidden, 1), ("layers", layers, 0)):
            if type(value) is not int or value < least:
                raise UserError(f"model.{name} is {value!r}, expected a whole number of at least {least}")
        check_scales("model.scales", scales)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout!r}, expected at least 0 and below 1")
        encoders: list[Any] = [*encoder] if isinstance(encoder, list | tuple) else [encoder]
        if not encoders or len(set(map(str, encoders))) < len(encoders):
            raise UserError(f"model.encoder is {encoder!r}, expected one of timm's, or some of them, each once")
        for one in encoders:
            pretrained.check_encoder(one)
            pretrained.check_choice(one, weights)
        if len(encoders) > 1 and weights not in pretrained.WORDS:
            raise UserError(f"model.weights is {weights!r}, of one encoder, but there are {len(encoders)}: choose package, hub or none")
        trunk = Trunk(encoders, sorted(strides), grid, sorted(float(scale) for scale in scales))
        features = Features(trunk, hidden, layers)
        channels = features.channels
        classifier = nn.Sequential(nn.Dropout(dropout), Pointwise(channels, space.channels))
        super().__init__(
            features, classifier, space, feature_channels=channels, deepest_channels=channels, stride=grid, multiple=trunk.multiple,
            context=math.ceil(CONTEXT / min(scales)),
        )  # fmt: skip
        self.weights = weights
        self.learns_beyond = learns_beyond
        trunk.requires_grad_(False).eval()
        if learns_beyond is not None:
            trunk.learn_beyond(learns_beyond)
        nn.init.normal_(classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(classifier[-1].bias)  # type: ignore[arg-type]

    def load_pretrained(self) -> None:
        trunk = self.features.trunk
        encoders = zip(trunk.encoders, trunk.names, strict=True)
        self._began_with(*(pretrained.load_into(encoder.model, name, self.weights) for encoder, name in encoders))

    @property
    def trunk(self) -> Trunk | None:
        """What gives of pictures, (B, 3, H, W) in [0, 1], the maps that the network takes in their place: (B, M, ⌈H/grid⌉, ⌈W/grid⌉).
        None where some of it learns."""
        return self.features.trunk if self.learns_beyond is None else None

    def quick_trunk(self) -> Trunk:
        return folded(self.features.trunk)

    def standardise(self, inputs: Iterable[Tensor]) -> None:
        """Takes the mean and the spread of each of the M channels from some pictures, (B, 3, H, W) in [0, 1], or from the trunk's maps of
        them, (B, M, h, w).

        Raises:
            UserError: there are none.
        """
        with torch.no_grad():
            self.features.standardise.fit(map(self.features.maps, inputs))

    def outputs(self, x: Tensor) -> Outputs:
        """Pictures, or what :attr:`trunk` gave of them -> features and outputs of θ_t for each cell, and the answer: for each pixel of
        pictures, for each cell of the trunk's maps."""
        features = self.features(x)
        joint = self.classifier(features)
        answer = joint if self.context is None else self.context(joint)
        of_maps = x.shape[1] == self.features.trunk.channels
        return Outputs(features, joint, answer if of_maps else self.brought(answer, x.shape[-2:]))

    def labeller(self, precision: str = "float32", measure: bool = False) -> Whole:
        """What labels whole pictures or tiles of them; the trunk's batch norms are part of its convolutions there."""
        return WithTrunk(self, precision, self.quick_trunk() if precision == "float32" else self.features.trunk)

    def on_trunk(self, trunk: Trunk) -> Hypercolumn:
        """The same network, its weights shared, on a trunk that gives the same as its own."""
        made = copy.copy(self)
        features = copy.copy(self.features)
        features._modules = {**features._modules, "trunk": trunk}
        made._modules = {**self._modules, "features": features}
        return made

    def add_discriminator(self, domains: int, hidden: int = 128, at: str = "features") -> None:
        """Hangs a domain classifier θ_d on the hidden layer, with fresh weights.

        Raises:
            UserError: another place, no hidden channel, or nothing below it that learns and the reversed gradient could change.
        """
        if at == "deepest" or not (self.features.layers or self.learns_beyond):
            raise UserError(
                "gradient reversal has nothing to change in a frozen trunk: use reversal.at=features, and a model with a hidden layer "
                "(model.layers of at least 1)"
            )
        super().add_discriminator(domains, hidden, at)

    def parts_to_learn(self) -> list[tuple[str, list[nn.Module]]]:
        return [("encoder", [self.features.trunk])]

    def __str__(self) -> str:
        """A line for people, e.g. ``frozen tf_efficientnet_lite0, 68 outputs, 3,516,616 parameters``."""
        beyond = self.learns_beyond
        names = " + ".join(self.features.trunk.names)
        how = f"frozen {names}" if beyond is None else f"{names} learning beyond stride {beyond}"
        return super().__str__().replace(type(self).__name__, how, 1)

    def train(self, mode: bool = True) -> Hypercolumn:
        super().train(mode)
        self.features.trunk.eval()
        return self


class WithTrunk(Whole):
    """A network on a trunk as it labels, with a trunk that is quicker than its own and gives the same."""

    def __init__(self, network: Hypercolumn, precision: str, trunk: Trunk) -> None:
        super().__init__(network, precision)
        self.trunk = trunk

    def answer(self, x: Tensor) -> Tensor:
        assert isinstance(self.network, Hypercolumn)
        answer: Tensor = self.network.on_trunk(self.trunk)(x)
        return answer


class Trunk(nn.Module):
    """Encoders, whose maps of several strides and scales are read at the middles of one grid's cells and laid side by side:
    (B, 3, H, W) in [0, 1] -> (B, M, ⌈H/grid⌉, ⌈W/grid⌉). Those of each encoder lie together.

    Args:
        encoders: timm's names of them.
        strides: of the maps, ascending.
        grid: pixels along a cell.
        scales: by which pictures are enlarged before, ascending.
    """

    def __init__(self, encoders: Sequence[str], strides: Sequence[int], grid: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.names, self.strides, self.grid, self.scales = tuple(encoders), tuple(strides), grid, tuple(scales)
        made = [encoder_of(name, strides) for name in encoders]
        self.encoders: Any = nn.ModuleList(made)
        self.normalise = nn.ModuleList([Normalise(*pretrained.mean_and_spread(name)) for name in encoders])
        self.widths: list[list[int]] = [[encoder.out_channels[STRIDES.index(stride)] for stride in strides] for encoder in made]
        self.shares = [len(scales) * sum(widths) for widths in self.widths]
        self.channels = sum(self.shares)
        # Tiles of a picture get the answers of the picture where they begin at multiples of this.
        self.multiple = next((m for m in range(grid, 2049, grid) if all(m * scale % 32 == 0 for scale in scales)), 32)

    def identity(self) -> str:
        """A digest of all that its maps of a picture depend on: its settings and weights. Trunks of one digest give the same."""
        digest = hashlib.sha256(json.dumps([self.names, self.strides, self.grid, self.scales]).encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def learn_beyond(self, stride: int) -> None:
        """Lets the layers learn that make of the map of this stride the deeper ones.

        Raises:
            UserError: there is no such map, or nothing beyond it.
        """
        for encoder, encoder_name in zip(self.encoders, self.names, strict=True):
            info = [layer for layer in encoder.model.feature_info if layer["reduction"] == stride]
            names = [name for name, _ in encoder.model.named_parameters()]
            ends = {layer["module"].replace(".", mark) + "." for layer in info for mark in "._"}
            before = [n for n, name in enumerate(names) if any(name.startswith(end) for end in ends)]
            beyond = names[before[-1] + 1 :] if before else []
            if not beyond:
                raise UserError(
                    f"model.learns_beyond is {stride!r}, expected the stride of a map of {encoder_name} beyond which there are layers: "
                    f"{', '.join(str(s) for s in self.strides[:-1])}"
                )
            for name in beyond:
                encoder.model.get_parameter(name).requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (up(size, self.grid) // self.grid for size in x.shape[-2:])
        sides = [on_grid(one, finer)[..., :rows, :columns] for one, finer in zip(self.maps(x), self.finer, strict=True)]
        return torch.cat(sides, 1)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Of each encoder, scale and stride, in this order: (B, channels, rows, columns) as :meth:`shapes` tells them."""
        sizes = [self._size(x.shape[-2], x.shape[-1], scale) for scale in self.scales]
        enlarged = [_enlarged(x, scale, *size) for scale, size in zip(self.scales, sizes, strict=True)]
        return [
            maps[STRIDES.index(stride)]
            for encoder, normalise in zip(self.encoders, self.normalise, strict=True)
            for maps in (encoder(normalise(picture)) for picture in enlarged)
            for stride in self.strides
        ]

    @property
    def finer(self) -> list[float]:
        return len(self.encoders) * [stride / scale / self.grid for scale in self.scales for stride in self.strides]

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        return [
            (rows // stride, columns // stride, channels)
            for widths in self.widths
            for rows, columns in (self._size(height, width, scale) for scale in self.scales)
            for stride, channels in zip(self.strides, widths, strict=True)
        ]

    def _size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Of an enlarged picture: as many pixels as the cells of the grid cover, the last ones' parts beyond the picture included."""
        rows, columns = (up(times(up(side, self.grid), scale), 32) for side in (height, width))
        return rows, columns


def encoder_of(name: str, strides: Sequence[int]) -> Any:
    """One of timm's, with random weights, that gives maps of these strides.

    Raises:
        UserError: it does not.
    """
    smp = import_smp()
    try:
        encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None, depth=int(math.log2(strides[-1])))
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UserError(f"model.encoder {name} gives no maps of the strides {', '.join(map(str, strides))} ({reason})") from None
    if not all(encoder.out_channels[STRIDES.index(stride)] for stride in strides):
        raise UserError(f"model.encoder {name} has no map of stride 2: choose model.strides from 4, 8, 16, 32")
    return encoder


def _enlarged(x: Tensor, scale: float, height: int, width: int) -> Tensor:
    if scale == 1:
        return padded(x, 32, (height, width))
    x = padded(x, 1, (times(height, 1 / scale) + 1, times(width, 1 / scale) + 1))
    x = smaller(x, scale) if scale < 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    return x[..., :height, :width]


def on_grid(x: Tensor, finer: float) -> Tensor:
    """A map, along each of whose cells lie so many of the grid's, read between its cells at the middles of the grid's."""
    if finer == 1:
        return x
    return F.interpolate(x, scale_factor=finer, mode="bilinear", align_corners=False, recompute_scale_factor=False)


FOLDED = 1e-3
"""Of the largest value of a map: so much may folding change it, which is ten times what is found and a tenth of what half precision
does."""


@torch.no_grad()
def folded(trunk: Trunk) -> Trunk:
    """A trunk that gives the same, but for rounding, and is quicker on a CPU: its batch norms are part of the convolutions before them,
    activations change what these answered where it lies, and channels lie side by side in memory. The trunk itself, where an encoder is
    not built of such pairs."""
    made = copy.deepcopy(trunk).eval().requires_grad_(False)
    evenly_padded(made)
    for parent in list(made.encoders.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and type(before) is nn.Conv2d and before.out_channels == child.num_features:
                assert child.running_mean is not None and child.running_var is not None
                fused = fuse_conv_bn_weights(
                    before.weight, before.bias, child.running_mean, child.running_var, child.eps, child.weight, child.bias
                )  # fmt: skip
                before.weight, before.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in fused)
                activation = getattr(child, "act", nn.Identity())
                if hasattr(activation, "inplace"):
                    activation.inplace = True
                setattr(parent, name, activation)
            before = child
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sample = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(next(trunk.buffers()))
    expected = trunk(sample)
    same = (made(sample) - expected).abs().max() <= FOLDED * expected.abs().max()
    return made if bool(same) else trunk


class Standardise(nn.Module):
    """Each of M channels with its mean taken off and divided by its spread; both are part of a checkpoint."""

    mean: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread

    @torch.no_grad()
    def fit(self, maps: Iterable[Tensor]) -> None:
        number, total, squares = 0, torch.zeros_like(self.mean, dtype=torch.float64), torch.zeros_like(self.mean, dtype=torch.float64)
        for some in maps:
            values = some.to(self.mean.device, torch.float64).movedim(-3, 0).flatten(1)
            number += values.shape[1]
            total += values.sum(1)[:, None, None]
            squares += values.square().sum(1)[:, None, None]
        if not number:
            raise UserError("there are no maps to take a mean and a spread from")
        mean = total / number
        self.mean.copy_(mean)
        # a channel that is the same everywhere says nothing, and is left as it is
        spread = (squares / number - mean.square()).clamp(min=0).sqrt()
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))


class Features(nn.Module):
    """θ_f: trunk, standardisation, hidden layers.

    Of several encoders each has hidden layers of its own, whose channels lie side by side. While it learns, a sample shows those of one
    encoder, drawn at random, and 0 for the others': so each learns to answer alone, as networks that are trained one by one do. Together
    they give the mean of their answers before any activation, since what is linear in all of them sees the N-th part of each.
    """

    def __init__(self, trunk: Trunk, width: int, layers: int) -> None:
        super().__init__()
        self.trunk, self.layers = trunk, layers
        self.standardise = Standardise(trunk.channels)
        self.hidden: Any = nn.ModuleList(hidden_layers([share] + layers * [width]) for share in trunk.shares)
        self.widths = [width if layers else share for share in trunk.shares]
        self.channels = sum(self.widths)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], or the trunk's maps of them, (B, M, h, w), in half precision too -> (B, F, h, w)."""
        if x.shape[1] == self.trunk.channels or not self.layers:
            own, rest = self.standardise(self.maps(x).float()).split(self.trunk.shares, 1), [*self.hidden]
        else:
            own, rest = self._first_layers(x), [layers[1:] for layers in self.hidden]
        number = len(own)
        if number == 1:
            answer: Tensor = rest[0](own[0])
            return answer
        if not self.training:
            return torch.cat([layers(one) for layers, one in zip(rest, own, strict=True)], 1) / number
        member = parallel.drawn(lambda count: torch.randint(number, (count,), device=x.device), len(x))
        sides = []
        for n, (layers, one, width) in enumerate(zip(rest, own, self.widths, strict=True)):
            seen = (member == n).nonzero()[:, 0]
            blank = one.new_zeros(len(x), width, *one.shape[2:])
            sides.append(blank.index_copy(0, seen, layers(one[seen])) if len(seen) or parallel.size() > 1 else blank)
        return torch.cat(sides, 1)

    def _first_layers(self, x: Tensor) -> list[Tensor]:
        """What the first convolution of each encoder's hidden layers gives of pictures. Standardisation and convolution are linear, and
        reading between cells is a mean of some: so each map goes through its part of the convolution as it is, where it is smallest, and
        what comes out is read on the grid."""
        rows, columns = (up(size, self.trunk.grid) // self.trunk.grid for size in x.shape[-2:])
        maps, finer = self.trunk.maps(x), self.trunk.finer
        each = len(maps) // len(self.hidden)
        spreads, means = (part.flatten().split(self.trunk.shares) for part in (self.standardise.spread, self.standardise.mean))
        sums = []
        for n, (layers, spread, mean) in enumerate(zip(self.hidden, spreads, means, strict=True)):
            own = slice(n * each, (n + 1) * each)
            weight = layers[0].weight[..., 0, 0] / spread
            bias = layers[0].bias - weight @ mean
            parts = weight[..., None, None].split([one.shape[1] for one in maps[own]], 1)
            read = [
                on_grid(F.conv2d(one, part), by)[..., :rows, :columns] for one, part, by in zip(maps[own], parts, finer[own], strict=True)
            ]
            sums.append(sum(read[1:], read[0] + bias[:, None, None]))
        return sums

    def maps(self, x: Tensor) -> Tensor:
        """The trunk's maps of pictures; or maps as they are."""
        return x if x.shape[1] == self.trunk.channels else self.trunk(x)


def hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """1×1 convolutions with ReLU, of these numbers of channels."""
    made = nn.Sequential()
    for before, after in pairwise(widths):
        layer = Pointwise(before, after)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        made.extend([layer, nn.ReLU()])
    return made
