"""Any decoder of segmentation-models-pytorch on any encoder of timm, behind the heads, losses and strategies of the paper.

θ_f is encoder and decoder, θ_t a dropout and a 1×1 convolution to all labels, at the decoder's stride; the shared context acts there, and
the answer is brought to full resolution last.

Decoders: Ronneberger et al., U-Net, 2015; Lin et al., Feature Pyramid Networks, 2017 (as Kirillov et al. 2019 have it); Chen et al.,
DeepLabV3+, 2018; Xie et al., SegFormer, 2021; Xiao et al., UPerNet, 2018. Default encoder: EfficientNet-Lite0 (Liu, 2020; Tan and Le 2019).
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from densemtmd.backbones import weights as pretrained
from densemtmd.backbones.padded import Normalise, PaddedNetwork, padded
from densemtmd.backbones.torchvision_cpu import import_smp
from densemtmd.errors import UserError
from densemtmd.tasks import OutputSpace, nearest

DECODERS = ("unet", "unetplusplus", "linknet", "manet", "fpn", "deeplabv3", "deeplabv3plus", "segformer", "upernet")
"""As segmentation-models-pytorch calls them. Not those that stretch maps from corner to corner in code of their own (:func:`aligned`)."""

ENCODER = "tf_efficientnet_lite0"
"""The default: small, quick on a CPU, and its weights come from a package."""

CONTEXT = 192
"""Pixels beyond a pixel by which its answer noticeably changes: on frames of CamVid those of EfficientNet-Lite0 under U-Net, SegFormer
or none change by 1 % of their spread where what lies farther away is cut off (by 5 % at 128 pixels, 0.1 % at 320)."""


class EncoderDecoder(PaddedNetwork):
    """A picture in, (B, 3, H, W) in [0, 1]; an answer for each of its pixels out, (B, C, H, W).

    The constructor gives fresh weights; :meth:`load_pretrained` those that ``weights`` names.

    Args:
        space: the labelsets.
        decoder: one of :data:`DECODERS`.
        encoder: one of timm's (``timm.list_models()``); a tag such as ``resnet18.a1_in1k`` says which of its weights.
        weights: of the encoder: ``package``, ``hub``, ``none`` or a path (:mod:`densemtmd.backbones.weights`).
        dropout: share of the features' channels dropped before θ_t, 0 ≤ dropout < 1.
        settings: of the decoder, as segmentation-models-pytorch calls them: ``decoder_channels``, ``encoder_depth``, ...

    Raises:
        UserError: a setting that is unknown or out of its range, or the libraries are not installed.
    """

    features: Features
    classifier: nn.Sequential

    def __init__(
        self,
        space: OutputSpace,
        decoder: str = "unet",
        encoder: str = ENCODER,
        weights: str = "package",
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        if decoder not in DECODERS:
            raise UserError(f"model.decoder is {decoder!r}; {nearest(str(decoder), DECODERS)}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout!r}, expected at least 0 and below 1")
        pretrained.check_encoder(encoder)
        pretrained.check_choice(encoder, weights)
        features = Features(decoder, encoder, settings)
        classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(features.channels, space.channels, 1))
        super().__init__(
            features, classifier, space, feature_channels=features.channels, deepest_channels=features.encoder.out_channels[-1],
            stride=features.stride, multiple=features.multiple, context=CONTEXT,
        )  # fmt: skip
        self.encoder_name, self.decoder_name, self.weights = encoder, decoder, weights
        # The first answers are then near uniform over each labelset, as those of the paper's network are.
        nn.init.normal_(classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(classifier[-1].bias)  # type: ignore[arg-type]

    def load_pretrained(self) -> None:
        self._began_with(pretrained.load_into(self.features.encoder.model, self.encoder_name, self.weights))

    def __str__(self) -> str:
        """A line for people, e.g. ``unet on tf_efficientnet_lite0, 68 outputs, 5,199,172 parameters``."""
        return super().__str__().replace(type(self).__name__, f"{self.decoder_name} on {self.encoder_name}", 1)

    def parts_to_learn(self) -> list[tuple[str, list[nn.Module]]]:
        return [("encoder", [self.features.encoder]), ("decoder", [self.features.decoder])]


class Features(nn.Module):
    """θ_f: (B, 3, H, W) in [0, 1] -> (B, F, h, w), one output for each cell of the padded picture.

    Args:
        decoder: as segmentation-models-pytorch calls it.
        encoder: as timm calls it.
        settings: of the decoder.
    """

    def __init__(self, decoder: str, encoder: str, settings: dict[str, Any]) -> None:
        super().__init__()
        smp = import_smp()
        try:
            model = smp.create_model(decoder, encoder_name=f"tu-{encoder}", encoder_weights=None, classes=1, **settings)
            self.normalise = Normalise(*pretrained.mean_and_spread(encoder))
            self.encoder, self.decoder = model.encoder, aligned(model.decoder)
            self.multiple = max(32, int(self.encoder.output_stride))
            self.channels, self.stride = self._measured()
        except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
            reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
            where = f"the decoder {decoder} on the encoder {encoder}"
            raise UserError(f"{where} cannot be built with the settings {settings} ({reason})") from None

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and the encoder's deepest map."""
        maps = self.encoder(padded(self.normalise(x), self.multiple))
        return self.decoder(maps), maps[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[0]

    def _measured(self) -> tuple[int, int]:
        """F and the stride, as a small picture shows them."""
        side = 2 * self.multiple
        self.eval()
        with torch.no_grad():
            answer = self(torch.zeros(1, 3, side, side, device=next(self.parameters()).device))
        self.train()
        if answer.shape[2] != answer.shape[3] or side % answer.shape[2]:
            raise ValueError(f"of {side}×{side} pixels it makes {answer.shape[2]}×{answer.shape[3]} cells")
        return answer.shape[1], side // answer.shape[2]


def aligned(decoder: nn.Module) -> nn.Module:
    """A decoder whose maps stay where they are: what it enlarges, it enlarges cell by cell.

    FPN and DeepLabV3+ of segmentation-models-pytorch stretch their maps from corner to corner (``align_corners=True``): by how much
    features move depends on the picture's size then, by up to a quarter of a cell at each step, and a tile of a picture gets other answers
    than the picture.
    """
    for module in list(decoder.modules()):
        if isinstance(module, nn.Upsample):
            module.align_corners = False if module.mode in ("bilinear", "bicubic") else None
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Conv3x3GNReLU" and getattr(child, "upsample", False):  # of FPN, which calls F.interpolate itself
                child.__dict__["upsample"] = False
                setattr(module, name, nn.Sequential(child, nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)))
    return decoder
