"""A frozen pretrained trunk and a small head on its maps: what it has learned elsewhere is enough to tell most labels apart.

The trunk is a function of the picture alone: its maps of several strides, brought to one grid and laid side by side, can be
computed once per picture and kept (:meth:`FrozenTrunk.trunk`), and the network takes them in a picture's place. A step of training then
costs a few matrix products.

θ_f is the trunk, a standardisation and 1×1 convolutions to ``hidden`` channels: these are shared by all tasks, and what gradient
reversal makes forget the domain; θ_t a dropout and a 1×1 convolution to all labels. It is the hypercolumn of Hariharan et al., 2015, on an
encoder that does not learn.

Shapes: ``B`` batch, ``M`` channels of the trunk's maps side by side, ``F`` channels of the hidden layer, ``H``, ``W`` pixels, ``h``, ``w``
cells of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from textwrap import shorten

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.backbones import weights as pretrained
from densemtmd.backbones.encoder_decoder import CONTEXT, ENCODER
from densemtmd.backbones.padded import Normalise, PaddedNetwork, cells_to_pixels, padded
from densemtmd.backbones.torchvision_cpu import import_smp
from densemtmd.errors import UserError
from densemtmd.network import Outputs
from densemtmd.tasks import OutputSpace

STRIDES = (1, 2, 4, 8, 16, 32)

MOST_SCALE = 4.0


class FrozenTrunk(PaddedNetwork):
    """A picture in, (B, 3, H, W) in [0, 1], and an answer for each of its pixels out, (B, C, H, W); or the trunk's maps of a picture in,
    (B, M, h, w), and an answer for each cell out, (B, C, h, w).

    The trunk's weights are part of a checkpoint, so that it labels where the package that they are from is not installed; a head weighs
    next to nothing beside them, and yet a checkpoint stays smaller than most photographs' folders (14 MB with EfficientNet-Lite0).

    Args:
        space: the labelsets.
        encoder: one of timm's (``timm.list_models()``).
        weights: of the encoder: ``package``, ``hub``, ``none`` or a path (:mod:`densemtmd.backbones.weights`).
        strides: of the maps that are taken: some of 2, 4, 8, 16, 32.
        grid: pixels along a cell of the grid that they are brought to.
        scale: by which pictures are enlarged for the trunk.
        hidden: channels of the hidden layers.
        layers: how many of them; 0: the classifier is linear in the maps, and gradient reversal has nothing to change.
        dropout: share of what the classifier sees that is dropped, 0 ≤ dropout < 1.

    Raises:
        UserError: a setting out of its range, or the libraries are not installed.
    """

    features: Features

    def __init__(
        self,
        space: OutputSpace,
        encoder: str = ENCODER,
        weights: str = "package",
        strides: Sequence[int] = (4, 8, 16, 32),
        grid: int = 8,
        scale: float = 1.0,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        known = isinstance(strides, list | tuple) and strides and all(s in STRIDES[1:] for s in strides)
        if not known or len(set(strides)) < len(strides):
            raise UserError(f"model.strides is {strides!r}, expected some of {', '.join(map(str, STRIDES[1:]))}, each once")
        for name, value, least in (("grid", grid, 1), ("hidden", hidden, 1), ("layers", layers, 0)):
            if type(value) is not int or value < least:
                raise UserError(f"model.{name} is {value!r}, expected a whole number of at least {least}")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 1 / MOST_SCALE <= scale <= MOST_SCALE:
            raise UserError(f"model.scale is {scale!r}, expected {1 / MOST_SCALE} to {MOST_SCALE}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout!r}, expected at least 0 and below 1")
        pretrained.check_encoder(encoder)
        pretrained.check_choice(encoder, weights)
        trunk = Trunk(encoder, sorted(strides), grid, float(scale))
        features = Features(trunk, hidden, layers)
        channels = hidden if layers else trunk.channels
        classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels, space.channels, 1))
        super().__init__(
            features, classifier, space, feature_channels=channels, deepest_channels=channels, stride=grid, multiple=trunk.multiple,
            context=math.ceil(CONTEXT / scale),
        )  # fmt: skip
        self.encoder_name, self.weights = encoder, weights
        trunk.requires_grad_(False).eval()
        for module in features.hidden:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(classifier[-1].bias)  # type: ignore[arg-type]

    def load_pretrained(self) -> None:
        self._began_with(pretrained.load_into(self.features.trunk.encoder.model, self.encoder_name, self.weights))

    @property
    def maps_channels(self) -> int:
        """M."""
        return self.features.trunk.channels

    def trunk(self, x: Tensor) -> Tensor:
        """What the trunk gives of pictures, for the network to take in their place: (B, 3, H, W) in [0, 1] -> (B, M, h, w), where h is
        ⌈H/grid⌉."""
        return self.features.trunk(x)

    def standardise(self, maps: Iterable[Tensor]) -> None:
        """Takes the mean and the spread of each of the M channels from the maps of some pictures, (B, M, h, w) or (M, h, w) each.

        Raises:
            UserError: there are none.
        """
        self.features.standardise.fit(maps)

    def outputs(self, x: Tensor) -> Outputs:
        """Pictures, or what :meth:`trunk` gave of them -> features and outputs of θ_t for each cell, and the answer: for each pixel of
        pictures, for each cell of the trunk's maps."""
        of_maps = x.shape[1] == self.maps_channels
        features = self.features.of_maps(x if of_maps else self.features.trunk(x))
        joint = self.classifier(features)
        answer = joint if self.context is None else self.context(joint)
        return Outputs(features, joint, answer if of_maps else cells_to_pixels(answer, self.stride, *x.shape[-2:]))

    def add_discriminator(self, domains: int, hidden: int = 128, at: str = "features") -> None:
        """Hangs a domain classifier θ_d on the hidden layer, with fresh weights: the trunk's own maps do not learn.

        Raises:
            UserError: another place, no hidden channel, or no hidden layer whose weights the reversed gradient could reach.
        """
        if at == "deepest" or not len(self.features.hidden):
            raise UserError(
                "gradient reversal has nothing to change in a frozen trunk: use reversal.at=features, and a model with a hidden layer "
                "(model.layers of at least 1)"
            )
        super().add_discriminator(domains, hidden, at)

    def parts_to_learn(self) -> list[tuple[str, list[nn.Module]]]:
        return [("encoder", [self.features.trunk])]

    def __str__(self) -> str:
        """A line for people, e.g. ``frozen tf_efficientnet_lite0, 68 outputs, 3,516,616 parameters``."""
        return super().__str__().replace(type(self).__name__, f"frozen {self.encoder_name}", 1)

    def train(self, mode: bool = True) -> FrozenTrunk:
        super().train(mode)
        self.features.trunk.eval()
        return self


class Trunk(nn.Module):
    """A frozen encoder, whose maps of several strides are brought to one grid: (B, 3, H, W) in [0, 1] -> (B, M, ⌈H/grid⌉, ⌈W/grid⌉).

    Args:
        encoder: timm's name of it.
        strides: of the maps, ascending.
        grid: pixels along a cell.
        scale: by which pictures are enlarged before.
    """

    def __init__(self, encoder: str, strides: Sequence[int], grid: int, scale: float) -> None:
        super().__init__()
        self.strides, self.grid, self.scale = tuple(strides), grid, scale
        smp = import_smp()
        try:
            self.encoder = smp.encoders.get_encoder(f"tu-{encoder}", weights=None, depth=int(math.log2(strides[-1])))
        except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
            reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
            raise UserError(f"model.encoder {encoder} gives no maps of the strides {', '.join(map(str, strides))} ({reason})") from None
        self.channels = sum(self.encoder.out_channels[STRIDES.index(stride)] for stride in strides)
        if not all(self.encoder.out_channels[STRIDES.index(stride)] for stride in strides):
            raise UserError(f"model.encoder {encoder} has no map of stride 2: choose model.strides from 4, 8, 16, 32")
        self.normalise = Normalise(*pretrained.mean_and_spread(encoder))
        # Tiles of a picture get the answers of the picture where they begin at multiples of this.
        self.multiple = next((m for m in range(grid, 2049, grid) if m * scale % 32 == 0), 32)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (-(-size // self.grid) for size in x.shape[-2:])
        # As many pixels as the cells of the grid cover, the last ones' parts beyond the picture included.
        height, width = (-(-math.ceil(cells * self.grid * self.scale) // 32) * 32 for cells in (rows, columns))
        if self.scale == 1:
            x = padded(x, 32, (height, width))
        else:
            x = padded(x, 1, (math.ceil(height / self.scale) + 1, math.ceil(width / self.scale) + 1))
            x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False, antialias=self.scale < 1)
            x = x[..., :height, :width]
        maps = self.encoder(self.normalise(x))
        sides = [self._on_grid(maps[STRIDES.index(stride)], stride)[..., :rows, :columns] for stride in self.strides]
        return torch.cat(sides, 1)

    def _on_grid(self, x: Tensor, stride: int) -> Tensor:
        """A map, read between its cells at the middles of the grid's."""
        factor = stride / (self.grid * self.scale)
        if factor == 1:
            return x
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)


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
    """θ_f: trunk, standardisation, hidden layers."""

    def __init__(self, trunk: Trunk, width: int, layers: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.standardise = Standardise(trunk.channels)
        widths = [trunk.channels] + layers * [width]
        self.hidden = nn.Sequential(*[m for n in range(layers) for m in (nn.Conv2d(widths[n], widths[n + 1], 1), nn.ReLU())])

    def of_maps(self, maps: Tensor) -> Tensor:
        """(B, M, h, w), in half precision too -> (B, F, h, w)."""
        return self.hidden(self.standardise(maps.float()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, F, h, w)."""
        return self.of_maps(self.trunk(x))
