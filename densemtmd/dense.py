"""The exact per-pixel form of a strided patch classifier, and where its outputs lie in the picture.

A patch classifier names the pixel at the centre of a patch. Run over a whole picture it answers on a grid, one output
every ``stride`` pixels, and each of these answers is exactly the one for the patch that stands there. :func:`densify`
gives the answers between the grid points too: shift-and-stitch, but computed once. Every layer runs densely, at
stride 1; where it had a stride s, its map is then split into its s×s phases (*fragments*), which ride in the batch
dimension, so that the next layer sees neighbours that are s pixels apart. At the end the fragments are woven back.
Convolutions stay dense and nothing is computed twice.

Shapes: ``B`` batch, ``H``, ``W`` pixels, ``P`` patch (its side in pixels).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from densemtmd.errors import UserError
from densemtmd.fast import Fast, fast_form
from densemtmd.geometry import Geometry
from densemtmd.stack import read_stack, split_phases, square_patch, weave_phases


class Dense(nn.Module):
    """The exact per-pixel form of ``net``, made by :func:`densify`. Shares the layers of ``net``, in inference mode
    whatever ``net`` does later."""

    def __init__(self, net: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.steps = read_stack(net, channels, inference=True)
        self.geometry = Geometry(square_patch(self.steps, net), math.prod(step.stride for step in self.steps))

    @property
    def patch(self) -> int:
        """Side in pixels of the patch that one answer sees: the smallest square that the stack accepts."""
        return self.geometry.patch

    @property
    def stride(self) -> int:
        """Pixels between neighbouring outputs of the strided network. The dense form answers at every pixel."""
        return self.geometry.stride

    @property
    def centre(self) -> int:
        """Row and column within the patch of the pixel that its answer is about (:func:`centre_of`)."""
        return self.geometry.centre

    @property
    def grain(self) -> int:
        """Parts of a picture may be of any size."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H − P + 1, W − P + 1): at [..., y, x] the answer for the patch whose
        upper left pixel is (y, x).

        Raises:
            UserError: a picture smaller than a patch.
        """
        if x.ndim != 4 or min(x.shape[-2:]) < self.patch:
            raise UserError(f"expected pictures of shape (B, channels, H, W) with H and W of at least {self.patch}, got {tuple(x.shape)}")
        height, width = (size - self.patch + 1 for size in x.shape[-2:])
        for step in self.steps:
            x = step.dense(x)
            if step.stride > 1:
                x = split_phases(x, step.stride)
        for step in reversed(self.steps):
            if step.stride > 1:
                x = weave_phases(x, step.stride)
        return x[..., :height, :width]


class Holes(nn.Module):
    """What :class:`Dense` gives, by convolutions with holes: behind a stride s, which is left out, every layer looks at neighbours that are
    s pixels apart. Nothing is split and woven, so it is a plain stack of layers whatever the size of the picture, as programs want it that
    are given a network to run. Shares the layers of ``net``."""

    def __init__(self, net: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.steps = read_stack(net, channels, inference=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H − P + 1, W − P + 1)."""
        apart = 1
        for step in self.steps:
            x = step.dense(x, apart)
            apart *= step.stride
        return x


def densify(net: nn.Module, channels: int | None = None, *, fast: bool = False, precision: str | None = None) -> Dense | Fast:
    """The exact per-pixel form of a patch classifier, in one pass and with the same weights.

    ``densify(net)(x)[..., y, x]`` equals ``net(patch)`` for every patch that fits in the picture.

    Args:
        net: a feed-forward stack (``nn.Sequential``, nested or not, or a module with a method ``stack()`` that returns
            one) of unpadded Conv2d (stride, dilation, groups), MaxPool2d, AvgPool2d (overlapping ones too),
            BatchNorm2d, pointwise activations, Dropout, Flatten and Linear (also over a k×k map), in eval mode. Modules
            with the attribute ``per_pixel = True`` pass as they are.
        channels: channels of the input, needed only where a Flatten comes before any layer that tells.
        fast: the same answers up to rounding, as fast as this machine allows, with weights of its own that later training does not change:
            :func:`densemtmd.fast.fast_form`. What is best for this machine is found with a stopwatch, in a fraction of a second.
        precision: of the fast form, ``"float32"``, ``"bfloat16"``, or None for that of the network's weights.

    Returns:
        A callable with ``.patch``, ``.stride`` and ``.centre``; a module, where it is not fast.

    Raises:
        UserError: a layer that cannot be converted (padding, ``ceil_mode``, adaptive pools, training mode, ...), by its
            name and with the reason.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)).eval()
    >>> dense = densify(net)
    >>> dense.patch, dense.stride, dense.centre, tuple(dense(torch.zeros(1, 3, 20, 30)).shape)
    (10, 2, 5, (1, 4, 11, 21))
    """
    if fast:
        return fast_form(net, precision, channels, measure=True)
    if precision is not None:
        raise UserError(f"precision is {precision!r}, but the plain form computes in that of its weights: add fast=True")
    return Dense(net, channels)
