"""Several copies of a picture, mirrored and of other sizes, and one answer: the mean of the probabilities that a network gives for each.

Shapes: ``C`` channels of the output space, ``H``, ``W`` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from densemtmd.backbones.padded import continued, padded, smaller, times
from densemtmd.geometry import Geometry
from densemtmd.losses import dataset_softmax
from densemtmd.network import JointNetwork, Labeller
from densemtmd.tasks import OutputSpace

FARTHEST = 1024
"""Pixels between the places where parts of a picture may begin so that those of a copy of another size begin on the network's grid."""


def labeller_of(
    network: JointNetwork, precision: str = "float32", measure: bool = False, mirror: bool = False, scales: Sequence[float] = (1.0,)
) -> Labeller:
    """What a network labels with: pictures as they are, or several copies of each."""
    labeller = network.labeller(precision, measure)
    return Averaged(labeller, network.space, mirror, scales) if mirror or list(scales) != [1.0] else labeller


class Averaged:
    """Answers with the mean over copies of a picture of a network's probabilities, dataset by dataset.

    What it gives are logarithms of that mean: logits whose dataset-wise softmax it is. It answers every pixel of what it is given, and is
    asked with as much context as the smallest copy wants.

    Args:
        labeller: of the network.
        space: its labelsets.
        mirror: each copy also mirrored, left and right.
        scales: by which the copies are enlarged.
    """

    def __init__(self, labeller: Labeller, space: OutputSpace, mirror: bool, scales: Sequence[float]) -> None:
        self.labeller, self.space, self.mirror, self.scales = labeller, space, mirror, tuple(scales)
        self.geometry = geometry_of_copies(labeller.geometry, scales)

    @property
    def grain(self) -> int:
        return self.geometry.multiple

    def only(self, network: JointNetwork, channels: Tensor) -> Averaged:
        return Averaged(self.labeller.only(network, channels), network.space, self.mirror, self.scales)

    def __call__(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, C, H, W)."""
        inner = self.labeller.geometry
        return mean_over_copies(lambda copy: self.labeller(bordered(copy, inner)), x, self.space, self.mirror, self.scales, inner.multiple)


def geometry_of_copies(inner: Geometry, scales: Sequence[float]) -> Geometry:
    """How an answer sees that is the mean over copies, of which a network sees each as ``inner`` says."""
    context = math.ceil((inner.context + max(inner.border) + 1) / min(scales)) + 2  # with what is read between two pixels

    def on_grid(pixels: int) -> bool:
        cells = [pixels * scale / inner.multiple for scale in scales]
        return all(abs(cell - round(cell)) < 1e-6 for cell in cells)

    multiple = next((m for m in range(inner.multiple, FARTHEST + 1, inner.multiple) if on_grid(m)), inner.multiple)
    return Geometry(1, 1, multiple=multiple, context=context)


def mean_over_copies(
    answer: Callable[[Tensor], Tensor], x: Tensor, space: OutputSpace, mirror: bool, scales: Sequence[float], multiple: int
) -> Tensor:
    """The logarithms of the mean over copies of pictures of a network's probabilities, dataset by dataset. ``torch.jit.trace`` records what
    is right for all sizes.

    Args:
        answer: the network, for whole pictures: (B, 3, h, w) in [0, 1] -> (B, C, h, w) logits.
        x: (B, 3, H, W) in [0, 1].
        space: its labelsets.
        mirror, scales: as :class:`Averaged` has them.
        multiple: of which the network makes the sides of pictures.

    Returns:
        (B, C, H, W).
    """
    turns = (False, True)[: 1 + mirror]
    answers = (dataset_softmax(_of_copy(answer, x, scale, turned, multiple), space) for scale in scales for turned in turns)
    mean = reduce(torch.add, answers).div_(len(scales) * len(turns))
    return mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_()


def _of_copy(answer: Callable[[Tensor], Tensor], x: Tensor, scale: float, turned: bool, multiple: int) -> Tensor:
    """The logits for the pixels of a picture, (B, 3, H, W) -> (B, C, H, W), from a copy enlarged by ``scale`` and maybe mirrored.

    What is mirrored is as wide as the network would have padded it, so that it meets the network's grid as the whole picture does.
    """
    height, width = x.shape[-2:]
    if turned:
        x = padded(x, multiple)
    if scale != 1:  # of some pixels more, so that it reaches over the last ones
        more, sides = math.ceil(1 / scale) + 2, x.shape[2:]
        x = padded(x, 1, (sides[0] + more, sides[1] + more))
        if scale < 1:
            x = smaller(x, scale)
        else:  # and not to the end, of whose size programs that round factors to 32 bits think otherwise
            rows, columns = (times(side + 1, scale) for side in sides)
            x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)[..., :rows, :columns]
    logits = answer(x.flip(-1) if turned else x)
    logits = logits.flip(-1) if turned else logits
    if scale != 1:
        logits = F.interpolate(logits, scale_factor=1 / scale, mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def bordered(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, 3, H, W) with the border that a patch classifier must see around it to answer every pixel, by reflection."""
    before, after = geometry.border
    for dimension in (2, 3) if before + after else ():
        x = continued(x, dimension, -before, x.shape[dimension] + after)
    return x
