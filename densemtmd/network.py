"""The network that learns from all datasets at once: shared features θ_f, one task classifier θ_t over the union of all labels, and
what the paper adds to them: a domain classifier θ_d behind gradient reversal, and the shared context θ'.

Shapes: ``B`` batch, ``F`` channels of the features, ``C`` channels of the output space, ``D`` domains, ``H``, ``W`` pixels, ``h``, ``w``
outputs of the strided network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.errors import UserError
from densemtmd.geometry import Geometry
from densemtmd.losses import dataset_softmax
from densemtmd.tasks import Labelset, OutputSpace, nearest

FORMS = ("paper", "residual")
"""Of the shared context."""


class Outputs(NamedTuple):
    """What a network computes on the way to its answer."""

    features: Tensor  # (B, F, h, w), θ_f(x), before any dropout
    joint: Tensor     # (B, C, h, w), θ_t(f), before any activation
    answer: Tensor    # (B, C, h, w), θ'(θ_t(f)) of a network with shared context; without, the same as joint. Where a network's inner grid
    # is coarser than its answers, features and joint lie on that grid, and the answer is brought to that of its geometry
    discriminated: Tensor | None = None  # what the domain classifier sees, where that is not the features


class Labeller(Protocol):
    """What answers for parts of pictures: (B, 3, h, w) in [0, 1] with all that the geometry wants around them -> (B, C, rows, columns)."""

    geometry: Geometry

    @property
    def grain(self) -> int:
        """Pixels of which the sides of a part of a picture best are multiples."""
        ...

    def only(self, network: JointNetwork, channels: Tensor) -> Labeller:
        """The same for some of the channels alone, in next to no time.

        Args:
            network: what :meth:`JointNetwork.only` made of the labeller's.
            channels: those that it has, as positions in the output space of the labeller's.
        """
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Trunk(Protocol):
    """A part of θ_f that never learns and sees the picture alone, (B, 3, H, W) in [0, 1] -> (B, M, ⌈H/grid⌉, ⌈W/grid⌉): its maps, each read
    at the middles of the grid's cells. They may be computed once and kept, and the network takes what is read in the picture's place."""

    grid: int      # pixels along a cell; cell (i, j) is about the pixels from (i·grid, j·grid) on
    channels: int  # M, of all maps together

    @property
    def finer(self) -> Sequence[float]:
        """Of each map, how many cells of the grid lie along one of its own."""
        ...

    def shapes(self, height: int, width: int) -> Sequence[tuple[int, int, int]]:
        """(rows, columns, channels) of each map of a picture."""
        ...

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """The maps as they are, (B, channels, rows, columns) each."""
        ...

    def identity(self) -> str:
        """A digest of all that its maps of a picture depend on beside the picture."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class JointNetwork(nn.Module):
    """f = θ_f(x), y = θ_t(f) (section 3): the features are shared by all tasks, the classifier has an output for each label.

    A network says how it sees: its :attr:`geometry`, its :meth:`labeller`, what kind of task it :attr:`takes`. Nobody else asks what class
    a network is of. A regression network is the case of one output per picture.

    Args:
        features: θ_f, shared by all tasks; the domain classifier of section 3 hangs on its output.
        classifier: θ_t, from its dropout to the (B, C, h, w) outputs; fully connected layers are 1×1 convolutions.
        space: the tasks, which own the C outputs.
        feature_channels: F, the channels of what ``features`` gives.
    """

    takes: ClassVar[str] = Labelset.kind
    """The kind of task that it answers, :attr:`densemtmd.tasks.OutputSpace.kind`."""

    def __init__(self, features: nn.Module, classifier: nn.Module, space: OutputSpace, feature_channels: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.space = space
        self.feature_channels = feature_channels
        self.context: SharedContext | None = None
        self.discriminator: Discriminator | None = None
        self.frozen = False
        self.pretrained: dict[str, str] | None = None  # what the weights that it began with are, for a checkpoint to tell

    @property
    def geometry(self) -> Geometry:
        """Where its outputs lie in a picture, and how much of the picture they must see."""
        raise NotImplementedError

    @property
    def trunk(self) -> Trunk | None:
        """The part of θ_f that never learns, where there is one whose maps may be kept."""
        return None

    def quick_trunk(self) -> Trunk | None:
        """A trunk that gives the same, but for rounding, and is the quickest here."""
        return self.trunk

    def standardise(self, inputs: Iterable[Tensor]) -> None:
        """Takes from some pictures, or from its trunk's maps of them, what the network must know of them before it learns.

        Args:
            inputs: (B, 3, H, W) in [0, 1], or (B, M, h, w), each.
        """

    def brought(self, joint: Tensor, size: Sequence[int]) -> Tensor:
        """What lies on the network's inner grid, (B, channels, h, w), brought to that of its answers for pictures of ``size``."""
        return joint

    def labeller(self, precision: str = "float32", measure: bool = False) -> Labeller:
        """What answers for every pixel of pictures, with the weights as they are now, in eval mode.

        Args:
            precision: ``"float32"`` or ``"bfloat16"``.
            measure: find the fastest way on this machine with a stopwatch.
        """
        raise NotImplementedError

    def traceable(self) -> nn.Module:
        """What gives the answers for whole pictures, in eval mode, and takes the same way whatever H and W, so that ``torch.jit.trace``
        records what is right for all: (B, 3, H, W) in [0, 1] -> (B, C, H, W) before any activation. Of a network that answers once for
        each input: that."""
        raise NotImplementedError

    def add_context(self, form: str = "paper", hidden: int = 300) -> None:
        """Puts the shared context θ' on top (Figure 1c), with fresh weights."""
        self.context = SharedContext(self.space, form, hidden)

    def add_discriminator(self, domains: int, hidden: int = 128, at: str = "features") -> None:
        """Hangs a domain classifier θ_d on the features, with fresh weights.

        Args:
            domains: D, how many there are.
            hidden: channels of its hidden layer.
            at: what it sees; of most networks the features alone.

        Raises:
            UserError: a place that this network does not have, or no hidden channel.
        """
        if at != "features":
            raise UserError(f"reversal.at is {at!r}, but a {type(self).__name__} has no such map: use reversal.at=features")
        self.discriminator = Discriminator(self.feature_channels, domains, hidden)

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """What was added, with its settings, for a checkpoint to tell: ``{"context": {...}, "discriminator": {...}}`` or less."""
        return {name: part.settings for name in ("context", "discriminator") if (part := getattr(self, name)) is not None}

    def load_pretrained(self) -> None:
        """Puts the weights that the network's settings name into the part of it that has learned elsewhere, where there is one. Not done
        by the constructor: a checkpoint has its own.

        Raises:
            UserError: they are not there, or do not fit.
        """

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those that may have learned elsewhere, and learn at a pace of their own; none here."""
        return []

    def hold_encoder(self, held: bool = True) -> None:
        """What may have learned elsewhere stays as it is, its batch norms too; or what of it learned before learns again."""

    def freeze(self) -> None:
        """θ_f and θ_t no longer learn, and answer as at inference (no dropout, fixed batch norm), whatever mode the network is in."""
        self.frozen = True
        for trunk in (self.features, self.classifier):
            trunk.requires_grad_(False)
        self.train(self.training)

    def only(self, names: Iterable[str]) -> JointNetwork:
        """The network for some of its tasks alone: the same answers, of a last layer that computes no others.

        Itself, where that is all of them, or where the shared context needs the answers under all. It shares this network's weights, but
        for those of the last layer, which are as they are now.
        """
        names = set(names)
        tasks = [task for task in self.space.tasks if task.name in names]
        layers = list(self.classifier) if isinstance(self.classifier, nn.Sequential) else [self.classifier]
        last = layers[-1]
        if self.context is not None or len(tasks) in (0, len(self.space.tasks)) or not isinstance(last, nn.Conv2d):
            return self
        kept = self.space.positions(names).to(last.weight.device)
        fewer = copy.copy(last)
        fewer.out_channels = len(kept)
        fewer._parameters = {
            name: None if one is None else nn.Parameter(one.detach()[kept], requires_grad=False) for name, one in last._parameters.items()
        }
        made = copy.copy(self)
        made._modules = {**self._modules, "classifier": nn.Sequential(*layers[:-1], fewer).train(self.classifier.training)}
        made.space = OutputSpace(tasks)
        return made

    def train(self, mode: bool = True) -> JointNetwork:
        super().train(mode)
        if self.frozen:
            self.features.eval()
            self.classifier.eval()
        return self

    def outputs(self, x: Tensor) -> Outputs:
        """Pictures (B, channels, H, W) -> features, outputs of θ_t and of the whole network, before any activation."""
        features = self.features(x)
        joint = self.classifier(features)
        return Outputs(features, joint, joint if self.context is None else self.context(joint))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, channels, H, W) -> the answer before any activation (B, C, h, w)."""
        return self.outputs(x).answer

    @property
    def parameter_count(self) -> int:
        """Number of numbers that training changes, or changed, in the network."""
        return sum(p.numel() for p in self.parameters())

    def __str__(self) -> str:
        """A line for people, e.g. ``PatchNet with context, 68 outputs, 2,251,012 parameters``."""
        added = f" with {' and '.join(self.parts)}" if self.parts else ""
        return f"{type(self).__name__}{added}, {self.space.channels} outputs, {self.parameter_count:,} parameters"


class Pointwise(nn.Conv2d):
    """A 1×1 convolution. Of samples that are one cell each, (B, channels, 1, 1), it is computed as the matrix product that it is: on a CPU
    the convolution of so small a map takes three to six times as long."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]


class SharedContext(nn.Module):
    """θ' of JTSC (section 3, Figure 1c): new outputs from the joint network's answers under all labelsets, one hidden layer between.

    The dataset-wise softmax gives the probabilities of all labels; a hidden layer → ReLU → BN and an output layer, both 1×1
    convolutions, make of them new logits, each again seen through the dataset-wise softmax of its labelset. So what is known under one
    labelset helps to answer under the others. Keypoints are taken as they are, without activation (section 4.4).

    Args:
        space: the tasks, which own the C channels that go in and those that come out.
        form: ``"paper"``: that; ``"residual"``: what comes out is added to what went in, and is zero at first, so that the network begins
            as the joint network that it was.
        hidden: channels of the hidden layer. The paper gives 300 for hands and none for pixels: 300 is assumed for both.

    Raises:
        UserError: an unknown form, or no hidden channel.
    """

    per_pixel = True

    def __init__(self, space: OutputSpace, form: str = "paper", hidden: int = 300) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"context.form is {form!r}; {nearest(str(form), FORMS)}")
        if type(hidden) is not int or hidden < 1:
            raise UserError(f"context.hidden is {hidden!r}, expected at least 1 channel")
        self.space, self.form = space, form
        self.layers = nn.Sequential(
            Pointwise(space.channels, hidden), nn.ReLU(), nn.BatchNorm2d(hidden), Pointwise(hidden, space.channels)
        )
        self.settings = {"form": form, "hidden": hidden}
        last = self.layers[-1]
        # Near uniform answers at first, as those of the joint network were; or no change at all.
        nn.init.normal_(last.weight, std=0.0 if form == "residual" else 0.01)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, joint: Tensor) -> Tensor:
        """(B, C, h, w) outputs of θ_t before any activation -> (B, C, h, w)."""
        answer = self.layers(dataset_softmax(joint, self.space) if self.space.of_probabilities else joint)
        return joint + answer if self.form == "residual" else answer


class Discriminator(nn.Module):
    """θ_d (section 3): names the domain of every pixel's features, by 1×1 convolutions.

    Args:
        channels: F.
        domains: D, how many there are.
        hidden: channels of the hidden layer; the paper does not give its width.

    Raises:
        UserError: no hidden channel.
    """

    def __init__(self, channels: int, domains: int, hidden: int = 128) -> None:
        super().__init__()
        if type(hidden) is not int or hidden < 1:
            raise UserError(f"reversal.hidden is {hidden!r}, expected at least 1 channel")
        self.layers = nn.Sequential(Pointwise(channels, hidden), nn.ReLU(), Pointwise(hidden, domains))
        self.settings: dict[str, Any] = {"domains": domains, "hidden": hidden}

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, D, h, w) logits of the domains."""
        return self.layers(features)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.strength, None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by −``strength`` (−λ in section 3; Ganin and Lempitsky 2015)."""
    return _Reversal.apply(x, strength)
