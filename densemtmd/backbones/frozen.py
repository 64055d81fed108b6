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
from textwrap import shorten

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from densemtmd.backbones import weights as pretrained
from densemtmd.backbones.encoder_decoder import CONTEXT, ENCODER
from densemtmd.backbones.padded import Normalise, PaddedNetwork, Whole, check_scales, padded
from densemtmd.backbones.torchvision_cpu import import_smp
from densemtmd.errors import UserError
from densemtmd.network import Outputs
from densemtmd.tasks import OutputSpace

STRIDES = (1, 2, 4, 8, 16, 32)

class Hypercolumn(PaddedNetwork):
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
        encoder: str = ENCODER,
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
        pretrained.check_encoder(encoder)
        pretrained.check_choice(encoder, weights)
        trunk = Trunk(encoder, sorted(strides), grid, sorted(float(scale) for scale in scales))
        features = Features(trunk, hidden, layers)
        channels = hidden if layers else trunk.channels
        classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels, space.channels, 1))
        super().__init__(
            features, classifier, space, feature_channels=channels, deepest_channels=channels, stride=grid, multiple=trunk.multiple,
            context=math.ceil(CONTEXT / min(scales)),
        )  # fmt: skip
        self.encoder_name, self.weights = encoder, weights
        self.learns_beyond = learns_beyond
        trunk.requires_grad_(False).eval()
        if learns_beyond is not None:
            trunk.learn_beyond(learns_beyond)
        for module in features.hidden:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(classifier[-1].bias)  # type: ignore[arg-type]

    def load_pretrained(self) -> None:
        self._began_with(pretrained.load_into(self.features.trunk.encoder.model, self.encoder_name, self.weights))

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

    def add_discriminator(self, domains: int, hidden: int = 128, at: str = "features") -> None:
        """Hangs a domain classifier θ_d on the hidden layer, with fresh weights.

        Raises:
            UserError: another place, no hidden channel, or nothing below it that learns and the reversed gradient could change.
        """
        if at == "deepest" or not (len(self.features.hidden) or self.learns_beyond):
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
        how = f"frozen {self.encoder_name}" if beyond is None else f"{self.encoder_name} learning beyond stride {beyond}"
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
        return self.network.brought(self.network(self.trunk(x)), x.shape[-2:])


class Trunk(nn.Module):
    """An encoder, whose maps of several strides and scales are brought to one grid and laid side by side:
    (B, 3, H, W) in [0, 1] -> (B, M, ⌈H/grid⌉, ⌈W/grid⌉).

    Args:
        encoder: timm's name of it.
        strides: of the maps, ascending.
        grid: pixels along a cell.
        scales: by which pictures are enlarged before, ascending.
    """

    def __init__(self, encoder: str, strides: Sequence[int], grid: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.name, self.strides, self.grid, self.scales = encoder, tuple(strides), grid, tuple(scales)
        smp = import_smp()
        try:
            self.encoder = smp.encoders.get_encoder(f"tu-{encoder}", weights=None, depth=int(math.log2(strides[-1])))
        except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
            reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
            raise UserError(f"model.encoder {encoder} gives no maps of the strides {', '.join(map(str, strides))} ({reason})") from None
        self.channels = len(scales) * sum(self.encoder.out_channels[STRIDES.index(stride)] for stride in strides)
        if not all(self.encoder.out_channels[STRIDES.index(stride)] for stride in strides):
            raise UserError(f"model.encoder {encoder} has no map of stride 2: choose model.strides from 4, 8, 16, 32")
        self.normalise = Normalise(*pretrained.mean_and_spread(encoder))
        # Tiles of a picture get the answers of the picture where they begin at multiples of this.
        self.multiple = next((m for m in range(grid, 2049, grid) if all(m * scale % 32 == 0 for scale in scales)), 32)

    def identity(self) -> str:
        """A digest of all that its maps of a picture depend on: its settings and weights. Trunks of one digest give the same."""
        digest = hashlib.sha256(json.dumps([self.name, self.strides, self.grid, self.scales]).encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def learn_beyond(self, stride: int) -> None:
        """Lets the layers learn that make of the map of this stride the deeper ones.

        Raises:
            UserError: there is no such map, or nothing beyond it.
        """
        info = [layer for layer in self.encoder.model.feature_info if layer["reduction"] == stride]
        names = [name for name, _ in self.encoder.model.named_parameters()]
        ends = {layer["module"].replace(".", mark) + "." for layer in info for mark in "._"}
        before = [n for n, name in enumerate(names) if any(name.startswith(end) for end in ends)]
        beyond = names[before[-1] + 1 :] if before else []
        if not beyond:
            raise UserError(
                f"model.learns_beyond is {stride!r}, expected the stride of a map of {self.name} beyond which there are layers: "
                f"{', '.join(str(s) for s in self.strides[:-1])}"
            )
        for name in beyond:
            self.encoder.model.get_parameter(name).requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (-(-size // self.grid) for size in x.shape[-2:])
        sides = []
        for scale in self.scales:
            maps = self.encoder(self.normalise(self._enlarged(x, scale, rows, columns)))
            sides += [self._on_grid(maps[STRIDES.index(s)], s / scale)[..., :rows, :columns] for s in self.strides]
        return torch.cat(sides, 1)

    def _enlarged(self, x: Tensor, scale: float, rows: int, columns: int) -> Tensor:
        """As many pixels as the cells of the grid cover, the last ones' parts beyond the picture included."""
        height, width = (-(-math.ceil(cells * self.grid * scale) // 32) * 32 for cells in (rows, columns))
        if scale == 1:
            return padded(x, 32, (height, width))
        x = padded(x, 1, (math.ceil(height / scale) + 1, math.ceil(width / scale) + 1))
        x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False, antialias=scale < 1)
        return x[..., :height, :width]

    def _on_grid(self, x: Tensor, pixels: float) -> Tensor:
        """A map, each of whose cells is so many pixels of the picture wide, read between its cells at the middles of the grid's."""
        factor = pixels / self.grid
        if factor == 1:
            return x
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)


FOLDED = 1e-3
"""Of the largest value of a map: so much may folding change it, which is ten times what is found and a tenth of what half precision
does."""


@torch.no_grad()
def folded(trunk: Trunk) -> Trunk:
    """A trunk that gives the same, but for rounding, and is quicker on a CPU: its batch norms are part of the convolutions before them, and
    channels lie side by side in memory. The trunk itself, where an encoder is not built of such pairs."""
    made = copy.deepcopy(trunk).eval().requires_grad_(False)
    for parent in list(made.encoder.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and type(before) is nn.Conv2d and before.out_channels == child.num_features:
                assert child.running_mean is not None and child.running_var is not None
                fused = fuse_conv_bn_weights(
                    before.weight, before.bias, child.running_mean, child.running_var, child.eps, child.weight, child.bias
                )  # fmt: skip
                before.weight, before.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in fused)
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before = child
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sample = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(trunk.normalise.mean)
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
    """θ_f: trunk, standardisation, hidden layers."""

    def __init__(self, trunk: Trunk, width: int, layers: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.standardise = Standardise(trunk.channels)
        widths = [trunk.channels] + layers * [width]
        self.hidden = nn.Sequential(*[m for n in range(layers) for m in (nn.Conv2d(widths[n], widths[n + 1], 1), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], or the trunk's maps of them, (B, M, h, w), in half precision too -> (B, F, h, w)."""
        return self.hidden(self.standardise(self.maps(x).float()))

    def maps(self, x: Tensor) -> Tensor:
        """The trunk's maps of pictures; or maps as they are."""
        return x if x.shape[1] == self.trunk.channels else self.trunk(x)
