"""What is changed of crops at random where the network is, on a GPU where there is one: their size, their light, their sharpness.

Kornia does it, with random numbers from PyTorch's generator: the loop seeds it at each step, so that a resumed run draws the same.

Shapes: ``B`` batch, ``H``, ``W`` pixels cut from a picture, ``h``, ``w`` pixels that the network sees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from densemtmd.datasets.sample import Batch, as_input
from densemtmd.errors import UserError

BLUR = (0.1, 2.0)
"""Standard deviation in pixels, in a window of five: the least leaves a picture as it is, the most takes what is finer than four pixels."""


def check_scale(scale: object) -> tuple[float, float]:
    """The least and the most by which pictures are made larger, as numbers.

    Raises:
        UserError: they are none.
    """
    if isinstance(scale, list | tuple) and len(scale) == 2 and all(type(s) in (int, float) for s in scale):
        least, most = map(float, scale)
        if 0.1 <= least <= 1 <= most <= 10:
            return least, most
    raise UserError(
        f"train.scale is {scale!r}, expected the least (0.1 to 1) and the most (1 to 10) by which pictures are made larger, as [0.5,2]"
    )


class Augment:
    """Batches (B, 3, H, W) uint8 with targets (B, H, W) -> (B, 3, h, w) float32 in [0, 1] with targets (B, h, w); where the size does not
    change, H, W are h, w and targets are of any shape.

    Args:
        size: (h, w).
        scale: least and most by which pictures are made larger, as torchvision and kornia draw it: the area that is seen is drawn evenly.
            H is h / least, so that what is seen always fits; what is void in the target stays so.
        colour: share by which saturation, contrast and brightness are changed at most, each evenly from 1 - colour to 1 + colour.
        blur: share of the crops that are blurred.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float], colour: float, blur: float) -> None:
        import kornia.augmentation as K  # here, since importing kornia takes seconds

        self.resized = scale != (1.0, 1.0)
        self.size = None
        if self.resized:
            seen = K.RandomResizedCrop(
                size, scale=((scale[0] / scale[1]) ** 2, 1.0), ratio=(size[1] / size[0],) * 2, cropping_mode="resample", p=1.0
            )  # fmt: skip
            self.size = K.AugmentationSequential(seen, data_keys=["input", "mask"])
        changes: list[Any] = []
        if colour:
            changes.append(K.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=0.0, p=1.0))
        if blur:
            changes.append(K.RandomGaussianBlur((5, 5), BLUR, p=blur))
        self.light = K.ImageSequential(*changes) if changes else None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        image, target = as_input(batch.image), batch.target
        if self.size is not None:
            # kornia's nearest neighbour of ids as they are; a fraction that rounding left would else make another label of it
            image, ids = self.size(image, target[:, None].float())
            target = ids[:, 0].round().to(torch.uint8)
        if self.light is not None:
            image = self.light(image)
        return replace(batch, image=image.contiguous(memory_format=torch.channels_last), target=target)
