"""What all networks have in common that pad: they answer every pixel of a picture of any size, and their encoder may be pretrained.

A picture is continued by reflection, downwards and to the right, until its sides are multiples of what the encoder halves; θ_f and θ_t then
give one answer for each ``stride``×``stride`` pixels, and the answer for each pixel is interpolated between these last. Cell (i, j) of
that grid covers the pixels from (i·stride, j·stride) on and lies at their middle, at i·stride + (stride − 1) / 2.

Shapes: ``B`` batch, ``F`` channels of the features, ``C`` channels of the output space, ``H``, ``W`` pixels of a picture, ``h``, ``w``
cells.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.backbones.weights import Origin
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, reflect
from densemtmd.network import Discriminator, JointNetwork, Outputs
from densemtmd.tasks import Labelset, OutputSpace, nearest

REVERSAL_AT = ("features", "deepest")
"""Where the domain classifier of gradient reversal hangs: on θ_f's output, or on the encoder's deepest map."""


class Normalise(nn.Module):
    """Colours in [0, 1] as an encoder is used to them: (B, 3, H, W) -> (B, 3, H, W). Mean and spread are part of a checkpoint."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Sequence[float], spread: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("spread", torch.tensor(spread).view(-1, 1, 1))

    @property
    def normalisation(self) -> dict[str, Any]:
        """The same for people and other programs."""
        mean, spread = ([round(value, 6) for value in part.flatten().tolist()] for part in (self.mean, self.spread))
        return {"colours": "RGB", "mean": mean, "spread": spread}

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread


MOST_SCALE = 4.0
"""By so much a picture may be enlarged at most, or made smaller."""


def check_scales(name: str, scales: Any) -> None:
    """Refuses what are no factors by which pictures could be enlarged.

    Args:
        name: of the setting, for the message.
        scales: its value: a list of numbers from 1 / :data:`MOST_SCALE` to :data:`MOST_SCALE`, each once.

    Raises:
        UserError: another value.
    """
    numbers = isinstance(scales, list | tuple) and scales and all(type(scale) in (int, float) for scale in scales)
    if not numbers or len(set(scales)) < len(scales) or not all(1 / MOST_SCALE <= scale <= MOST_SCALE for scale in scales):
        raise UserError(f"{name} is {scales!r}, expected numbers from {1 / MOST_SCALE} to {MOST_SCALE:g}, each once")


def continued(x: Tensor, dimension: int, start: int, stop: int) -> Tensor:
    """A picture along one side from pixel ``start`` on and up to ``stop``, continued by reflection, as often as it takes."""
    return x.index_select(dimension, reflect(torch.arange(start, stop, device=x.device), x.shape[dimension]))


def padded(x: Tensor, multiple: int, least: Sequence[int] | None = None) -> Tensor:
    """(B, channels, H, W) -> (B, channels, H', W'), the next multiples of ``multiple`` from H and W, or from larger sides ``least``, on:
    continued by reflection, as often as it takes, downwards and to the right."""
    for dimension, side in zip((2, 3), x.shape[2:] if least is None else least, strict=True):
        wanted = up(side, multiple)
        if torch.jit.is_tracing() or x.shape[dimension] < wanted:  # what is recorded goes the same way for all sizes
            x = continued(x, dimension, 0, wanted)
    return x


def up(side: Any, multiple: int) -> Any:
    """The next multiple of a number of pixels. Right where division truncates too, as ONNX's does."""
    return (side + multiple - 1) // multiple * multiple


def times(side: Any, factor: float) -> Any:
    """⌈side · factor⌉ pixels; of a number that torch records, too."""
    return (side.double() * factor).ceil().long() if isinstance(side, Tensor) else math.ceil(side * factor)


def smaller(x: Tensor, scale: float) -> Tensor:
    """Pictures whose sides are ``scale`` < 1 times as long: each pixel is a mean of those that lie there, weighted by how near."""
    if not torch.jit.is_tracing():
        return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False, antialias=True)
    rows, columns = (_shares(side, scale).to(x) for side in x.shape[2:])  # the same as products, which every program knows
    return rows @ x @ columns.T


def _shares(side: Any, scale: float) -> Tensor:
    """Of each pixel of the smaller side the shares that those of the larger have in it, ⌊side · scale⌋ × side."""
    middles = (torch.arange((side.double() * scale).long()) + 0.5) / scale - 0.5
    shares = (1 - scale * (middles[:, None] - torch.arange(side)).abs()).clamp(min=0)
    return shares / shares.sum(1, keepdim=True)


def cells_to_pixels(x: Tensor, stride: int, height: int, width: int) -> Tensor:
    """(B, channels, h, w) at the middles of cells -> (B, channels, height, width), interpolated between the four nearest."""
    if stride > 1:
        if not torch.is_grad_enabled():  # who labels reads the answer label by label: turned round as few cells it costs next to nothing
            x = x.contiguous()
        x = F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False)
    return x[..., :height, :width]


class PaddedNetwork(JointNetwork):
    """A :class:`JointNetwork` that answers every pixel of its input, of any size, and whose encoder may have learned elsewhere.

    Args:
        features: θ_f, from pictures in [0, 1], as large as they are, to (B, F, h, w); its ``maps`` gives the encoder's deepest map too.
        classifier: θ_t, per cell: dropout and 1×1 convolutions.
        space: the labelsets.
        feature_channels: F.
        deepest_channels: of the encoder's deepest map.
        stride: pixels along a cell.
        multiple: of which the encoder's input is one.
        context: pixels beyond a pixel by which its answer may noticeably change.
    """

    takes: ClassVar[str] = Labelset.kind
    features: Any

    def __init__(
        self,
        features: Any,
        classifier: nn.Sequential,
        space: OutputSpace,
        *,
        feature_channels: int,
        deepest_channels: int,
        stride: int,
        multiple: int,
        context: int,
    ) -> None:
        super().__init__(features, classifier, space, feature_channels)
        self.encoder_held = False
        self._held: list[nn.Parameter] = []
        self.deepest_channels = deepest_channels
        self.stride, self.multiple, self.context_pixels = stride, multiple, context

    @property
    def geometry(self) -> Geometry:
        """One answer for each pixel."""
        return Geometry(1, 1, multiple=self.multiple, context=self.context_pixels)

    def _began_with(self, *origins: Origin | None) -> None:
        """Of each of its encoders; of several, what is not the same of all is told one after the other."""
        told = [origin.to_json() for origin in origins if origin is not None]
        self.pretrained = {key: "; ".join(dict.fromkeys(one[key] for one in told)) for key in told[0]} if told else None

    def add_discriminator(self, domains: int, hidden: int = 128, at: str = "features") -> None:
        """Hangs a domain classifier θ_d on the features, or on the encoder's deepest map, with fresh weights.

        Raises:
            UserError: another place, or no hidden channel.
        """
        if at not in REVERSAL_AT:
            raise UserError(f"reversal.at is {at!r}; {nearest(str(at), REVERSAL_AT)}")
        self.discriminator = Discriminator(self.feature_channels if at == "features" else self.deepest_channels, domains, hidden)
        self.discriminator.settings |= {"at": at}

    def stack(self) -> nn.Sequential:
        raise UserError(f"{type(self).__name__} cannot be made dense: it has padding: its answers depend on where the patch lies")

    def outputs(self, x: Tensor) -> Outputs:
        """Pictures (B, 3, H, W) in [0, 1] -> features (B, F, h, w) and outputs of θ_t (B, C, h, w), cell by cell, and the answer
        (B, C, H, W), pixel by pixel, before any activation."""
        features, deepest = self.features.maps(x)
        joint = self.classifier(features)
        answer = joint if self.context is None else self.context(joint)
        at_deepest = self.discriminator is not None and self.discriminator.settings["at"] == "deepest"
        return Outputs(features, joint, self.brought(answer, x.shape[-2:]), deepest if at_deepest else None)

    def brought(self, joint: Tensor, size: Sequence[int]) -> Tensor:
        return cells_to_pixels(joint, self.stride, *size)

    def parts_to_learn(self) -> list[tuple[str, list[nn.Module]]]:
        """The parts that learn at a pace of their own, in the order of the answer: name -> modules. What is in none is the head's."""
        return []

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """All parameters by the pace at which they learn: ``encoder``, ``decoder`` (where there is one), ``head``: θ_t and the shared
        context, ``discriminator``. Each parameter once; those that are frozen too."""
        named = [*self.parts_to_learn()]
        if self.discriminator is not None:
            named.append(("discriminator", [self.discriminator]))
        of_parts = [(name, [p for module in modules for p in module.parameters()]) for name, modules in named]
        taken = {id(p) for _, parameters in of_parts for p in parameters}
        head = [p for p in self.parameters() if id(p) not in taken]
        place = len(self.parts_to_learn())
        return [*of_parts[:place], ("head", head), *of_parts[place:]]

    def encoder_parameters(self) -> list[nn.Parameter]:
        return dict(self.groups()).get("encoder", [])

    def hold_encoder(self, held: bool = True) -> None:
        if held == self.encoder_held:
            return
        self.encoder_held = held
        if held:
            self._held = [p for p in self.encoder_parameters() if p.requires_grad]
        for parameter in self._held:
            parameter.requires_grad_(not held)
        self.train(self.training)

    def train(self, mode: bool = True) -> PaddedNetwork:
        super().train(mode)
        if self.encoder_held:
            for module in dict(self.parts_to_learn()).get("encoder", []):
                module.eval()
        return self

    def traceable(self) -> nn.Module:
        return evenly_padded(copy.deepcopy(self)).eval()

    def labeller(self, precision: str = "float32", measure: bool = False) -> Whole:
        """What labels whole pictures or tiles of them: (B, 3, H, W) in [0, 1] -> (B, C, H, W)."""
        return Whole(self, precision)


def evenly_padded(network: nn.Module) -> nn.Module:
    """A network whose convolutions that pad as TensorFlow's do, by as much as each input's size wants, pad by what the sizes want that
    there are: the encoder's input is a multiple of all strides, so that it is always the same.

    Where that is one row and column more behind than before, the kernel begins with a row and column of zeros and both sides are padded
    alike: the same sums, without a copy of the input for its border, which takes longer than the convolution.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and type(child).__name__ == "Conv2dSame":
                wanted = [max(d * (k - 1) + 1 - s, 0) for k, s, d in zip(child.kernel_size, child.stride, child.dilation, strict=True)]
                before, behind = [total // 2 for total in wanted], [total - total // 2 for total in wanted]
                more = [b - a for a, b in zip(before, behind, strict=True)]
                grown = all(n == 0 or d == 1 for n, d in zip(more, child.dilation, strict=True))
                kernel = [k + n * grown for k, n in zip(child.kernel_size, more, strict=True)]
                plain = nn.Conv2d(
                    child.in_channels, child.out_channels, kernel, child.stride, behind if grown else 0, child.dilation,  # type: ignore[arg-type]
                    child.groups, child.bias is not None,
                )  # fmt: skip
                weight = F.pad(child.weight.detach(), (more[1], 0, more[0], 0)) if grown else child.weight.detach()
                plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), child.bias
                padding = nn.ZeroPad2d((before[1], behind[1], before[0], behind[0]))
                setattr(parent, name, plain if grown else nn.Sequential(padding, plain))
    return network


class Whole:
    """A padded network as it labels, without gradients. Shares the network's weights.

    Raises:
        UserError: the network is in training mode when it is asked, where an answer is random or depends on the other pictures.
    """

    def __init__(self, network: PaddedNetwork, precision: str = "float32") -> None:
        self.network, self.precision = network, precision
        self.geometry = network.geometry

    @property
    def grain(self) -> int:
        """Pixels of which the sides of a tile best are multiples: nothing is padded then."""
        return self.network.multiple

    def only(self, network: JointNetwork, channels: Tensor) -> Whole:
        assert isinstance(network, PaddedNetwork)
        made = copy.copy(self)
        made.network = network
        return made

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H, W) logits, float32."""
        if self.network.training:
            raise UserError("the network is in training mode, where answers are random or depend on the other pictures; call .eval() on it")
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.answer(x).float()

    def answer(self, x: Tensor) -> Tensor:
        return self.network(x)
