"""The network that learns from all datasets at once: shared features θ_f and one task classifier θ_t over the union of
all labels.

Shapes: ``B`` batch, ``C`` channels of the output space, ``H``, ``W`` pixels, ``h``, ``w`` outputs of the strided
network.
"""

from __future__ import annotations

from torch import Tensor, nn

from densemtmd.tasks import OutputSpace


class JointNetwork(nn.Module):
    """f = θ_f(x), y = θ_t(f) (section 3): the features are shared by all tasks, the classifier has an output for each label.

    Both parts are stacks of layers, so that the network may be run over whole pictures (one output every few pixels),
    over patches (one output each), or be made dense. A regression network is the case of one output per picture.

    Args:
        features: θ_f, the convolutional part; the domain classifier of section 3 hangs on its output.
        classifier: θ_t, from its dropout to the (B, C, h, w) outputs; fully connected layers are 1×1 convolutions.
        space: the tasks, which own the C outputs.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, space: OutputSpace) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.space = space

    def stack(self) -> nn.Sequential:
        """All layers in the order in which they are applied, for ``densify``."""
        return nn.Sequential(self.features, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, channels, H, W) -> outputs before any activation (B, C, h, w)."""
        return self.classifier(self.features(x))

    @property
    def parameter_count(self) -> int:
        """Number of trainable numbers in the network."""
        return sum(p.numel() for p in self.parameters())

    def __str__(self) -> str:
        """A line for people, e.g. ``PatchNet, 68 outputs, 2,251,012 parameters``."""
        return f"{type(self).__name__}, {self.space.channels} outputs, {self.parameter_count:,} parameters"
