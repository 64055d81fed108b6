"""PatchNet, the paper's patch classifier (Figure 2 and section 4.1), with its fully connected layers as 1×1
convolutions.

Fourure et al., Multi-task, Multi-domain Learning: application to semantic segmentation and pose regression,
Neurocomputing 2017; after Farabet et al., Learning Hierarchical Features for Scene Labeling, PAMI 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.errors import UserError
from densemtmd.tasks import OutputSpace


class YUV(nn.Module):
    """RGB in [0, 1] to YUV, centred and scaled to a spread of about 1, pixel by pixel: (B, 3, H, W) -> (B, 3, H, W).

    The paper converts to YUV and says nothing of a normalisation. SGD wants inputs of one scale, so the mean and the
    spread over outdoor photographs are fixed here: they are constants, and not statistics of anybody's data.
    """

    per_pixel = True
    mean = (0.45, 0.0, 0.0)
    spread = (0.27, 0.06, 0.08)

    @property
    def normalisation(self) -> dict[str, Any]:
        """The same for people and other programs."""
        return {"colours": "YUV", "mean": list(self.mean), "spread": list(self.spread)}

    def forward(self, x: Tensor) -> Tensor:
        from kornia.color import rgb_to_yuv  # here, since importing kornia takes seconds

        yuv = rgb_to_yuv(x)
        mean, spread = (torch.tensor(v, dtype=x.dtype, device=x.device).view(3, 1, 1) for v in (self.mean, self.spread))
        return (yuv - mean) / spread


class PatchNet(PatchClassifier):
    """46×46 pixels in, one answer out: 46 → 40 → 20 → 14 → 7 → 1. Run over a picture, one answer every 4 pixels.

    Convolution 7×7 → ReLU → 2×2 max-pooling → BN, the same again, convolution 7×7 → ReLU → BN; then dropout, fully
    connected → ReLU, fully connected. The paper gives "more than 2 million parameters" and no widths; 16/64/512 + 1024
    has 2.25 million at 68 outputs.

    Args:
        space: the labelsets.
        widths: channels of the three convolutions.
        hidden: channels of the first fully connected layer.
        dropout: share of the features dropped before the first fully connected layer, 0 ≤ dropout < 1.

    Raises:
        UserError: a width below 1, another number of widths than 3, or a dropout outside its range.
    """

    def __init__(self, space: OutputSpace, widths: Sequence[int] = (16, 64, 512), hidden: int = 1024, dropout: float = 0.3) -> None:
        if not isinstance(widths, list | tuple) or len(widths) != 3 or not all(type(n) is int and n >= 1 for n in (*widths, hidden)):
            raise UserError(
                f"model.widths is {widths!r} and model.hidden {hidden!r}, expected three widths and a hidden layer of at least 1 channel"
            )
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout!r}, expected at least 0 and below 1")
        first, second, third = widths
        features = nn.Sequential(
            YUV(),
            nn.Conv2d(3, first, 7), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(first),
            nn.Conv2d(first, second, 7), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(second),
            nn.Conv2d(second, third, 7), nn.ReLU(), nn.BatchNorm2d(third),
        )  # fmt: skip
        classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(third, hidden, 1), nn.ReLU(),
            nn.Conv2d(hidden, space.channels, 1),
        )  # fmt: skip
        super().__init__(features, classifier, space, third)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        # The first answers are then near uniform over each labelset, and the first steps do not have to undo random
        # certainty.
        nn.init.normal_(classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
