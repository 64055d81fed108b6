"""How a stack of unpadded layers sees: a patch classifier that slides over pictures, and is made dense where every pixel is wanted."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn

from densemtmd.backbones.padded import continued
from densemtmd.dense import Holes
from densemtmd.fast import Fast, fast_form
from densemtmd.geometry import Geometry
from densemtmd.network import JointNetwork
from densemtmd.stack import geometry_of


class PatchClassifier(JointNetwork):
    """A network whose parts are stacks that :func:`densemtmd.dense.densify` understands.

    It may be run over whole pictures (one output every few pixels), over patches (one output each), or be made dense.

    Args:
        features: θ_f, unpadded.
        classifier: θ_t.
        space: the tasks.
        feature_channels: F, of what θ_f gives.
    """

    _kept: tuple[tuple[object, ...], Fast] | None = None

    def stack(self) -> nn.Sequential:
        """All layers of the answer in the order in which they are applied, for ``densify``."""
        context = [] if self.context is None else [self.context]
        return nn.Sequential(self.features, self.classifier, *context)

    @cached_property
    def geometry(self) -> Geometry:
        return geometry_of(self)

    def labeller(self, precision: str = "float32", measure: bool = False) -> Fast:
        """The fast dense form. It takes most of a second to make, and is kept until the weights change."""
        tensors = [*self.parameters(), *self.buffers()]
        made_of = (precision, measure, *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors))
        if self._kept is None or self._kept[0] != made_of:
            self._kept = made_of, fast_form(self, precision, measure=measure)
        return self._kept[1]

    def traceable(self) -> nn.Module:
        return Bordered(self)

    def train(self, mode: bool = True) -> PatchClassifier:
        super().train(mode)
        if mode:
            self._kept = None  # it would hold all weights a second time
        return self


class Bordered(nn.Module):
    """The dense form of a patch classifier for whole pictures: they are continued by reflection, so that every pixel has its patch."""

    def __init__(self, network: PatchClassifier) -> None:
        super().__init__()
        self.dense, self.border = Holes(network), network.geometry.border

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        before, after = self.border
        for dimension in (2, 3):
            x = continued(x, dimension, -before, x.shape[dimension] + after)
        answer: Tensor = self.dense(x)
        return answer
