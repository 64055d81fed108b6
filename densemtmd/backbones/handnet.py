"""HandNet, the paper's regression network for hands (section 4.4), with its fully connected layers as convolutions.

Fourure et al., Multi-task, Multi-domain Learning: application to semantic segmentation and pose regression,
Neurocomputing 2017; after Neverova et al., Hand pose estimation through semi-supervised and weakly-supervised learning, 2015.
"""

from __future__ import annotations

from torch import nn

from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.errors import UserError
from densemtmd.tasks import KeypointSet, OutputSpace

LEAST_SIZE = 18
"""Pixels: below it nothing is left after the last convolution."""


class HandNet(PatchClassifier):
    """A crop of depth in, (B, 1, size, size) from −1 to 1; the coordinates of all keypoint sets out, (B, C, 1, 1).

    Three convolutions 3×3 with ReLU and BN, the first two with 2×2 max-pooling; three fully connected layers with ReLU, BN and dropout,
    and the coordinates, which are not activated. At 64 pixels 64 → 62 → 31 → 29 → 14 → 12, so that the first fully connected layer has
    5.5 million weights (48 pixels: 2.5 million, 128: 30 million); the paper does not say how large its crops are. It speaks of batch
    normalisation without a place; here it follows every hidden layer.

    Args:
        space: the keypoint sets.
        size: of a crop, pixels; at least 18.
        width: channels of the convolutions.
        hidden: units of the fully connected layers.
        dropout: share of the units of the fully connected layers that is dropped, 0 ≤ dropout < 1.

    Raises:
        UserError: a setting out of its range.
    """

    takes = KeypointSet.kind

    def __init__(self, space: OutputSpace, size: int = 64, width: int = 32, hidden: int = 1200, dropout: float = 0.1) -> None:
        for name, value, least in (("size", size, LEAST_SIZE), ("width", width, 1), ("hidden", hidden, 1)):
            if type(value) is not int or value < least:
                raise UserError(f"model.{name} is {value!r}, expected a whole number of at least {least}")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout!r}, expected at least 0 and below 1")
        features = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3), nn.ReLU(), nn.BatchNorm2d(width),
        )  # fmt: skip
        side = ((size - 2) // 2 - 2) // 2 - 2
        classifier = nn.Sequential(
            nn.Conv2d(width, hidden, side), nn.ReLU(), nn.BatchNorm2d(hidden), nn.Dropout(dropout),
            nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.BatchNorm2d(hidden), nn.Dropout(dropout),
            nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.BatchNorm2d(hidden), nn.Dropout(dropout),
            nn.Conv2d(hidden, space.channels, 1),
        )  # fmt: skip
        super().__init__(features, classifier, space, width)
        self.size = size
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(classifier[-1].weight, std=0.001)  # type: ignore[arg-type]  # all keypoints begin in the middle of the cube

    def traceable(self) -> nn.Module:
        return self.stack()
