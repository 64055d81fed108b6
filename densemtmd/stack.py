"""Reading a feed-forward stack of layers: which of them look at a window, how far that reaches, which cannot be made dense and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, Pair

POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.LogSigmoid, nn.Threshold,
)  # fmt: skip
DROPOUT = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
MODE_MATTERS = (nn.BatchNorm1d, nn.BatchNorm2d, *DROPOUT)
"""Layers whose answer in training mode is random or depends on the other samples."""


def layers_of(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of a feed-forward stack with their names, in the order in which they are applied.

    Nested ``nn.Sequential`` are opened; a module with a method ``stack()`` that returns its ``nn.Sequential`` is opened
    through it.
    """
    if callable(stack := getattr(net, "stack", None)):
        yield from layers_of(stack(), name)
    elif isinstance(net, nn.Sequential) and type(net).forward is nn.Sequential.forward:
        for child_name, child in net.named_children():
            yield from layers_of(child, f"{name}.{child_name}" if name else child_name)
    else:
        yield name, net


def pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass
class Step:
    """One layer of the stack as it runs on fragments."""

    name: str
    layer: nn.Module
    kernel: Pair = (1, 1)
    dilation: Pair = (1, 1)
    stride: int = 1

    @property
    def reach(self) -> Pair:
        """Side of the window that one output sees."""
        return (self.dilation[0] * (self.kernel[0] - 1) + 1, self.dilation[1] * (self.kernel[1] - 1) + 1)

    def outputs(self, size: Pair) -> Pair:
        return ((size[0] - self.reach[0]) // self.stride + 1, (size[1] - self.reach[1]) // self.stride + 1)

    def dense(self, x: Tensor, apart: int = 1) -> Tensor:
        """The layer at stride 1.

        Args:
            x: its input.
            apart: pixels from one of its neighbours to the next, where strides of layers before it were left out.
        """
        layer = self.layer
        dilation = (apart * self.dilation[0], apart * self.dilation[1])
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, layer.weight, layer.bias, dilation=dilation, groups=layer.groups)
        if isinstance(layer, nn.Linear):
            weight = layer.weight.view(layer.out_features, -1, *self.kernel)  # Flatten keeps (channel, row, column) in this order
            return F.conv2d(x, weight, layer.bias, dilation=dilation)
        if isinstance(layer, nn.MaxPool2d):
            return F.max_pool2d(x, self.kernel, stride=1, dilation=dilation)
        if isinstance(layer, nn.AvgPool2d):
            if apart == 1:
                return F.avg_pool2d(x, self.kernel, stride=1, divisor_override=layer.divisor_override)
            channels = int(x.shape[1])  # a mean of pixels that are apart is a convolution
            share = 1 / (layer.divisor_override or self.kernel[0] * self.kernel[1])
            return F.conv2d(x, x.new_full((channels, 1, *self.kernel), share), dilation=dilation, groups=channels)
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, training=False, eps=layer.eps)
        if not layer.training:
            return layer(x)
        layer.eval()  # a per-pixel module of several layers, whose network has gone back to training
        answer = layer(x)
        layer.train()
        return answer


def read_stack(net: nn.Module, channels: int | None, inference: bool) -> list[Step]:
    """Reads the stack, or says which layer cannot be converted and why; ``inference`` refuses layers in training
    mode."""

    def refuse(why: str) -> UserError:
        return UserError(f"layer {name!r} ({layer}) cannot be made dense: {why}")

    steps: list[Step] = []
    flattened: str | None = None  # the name of a Flatten whose Linear has not come yet
    flat = False  # maps have become vectors
    for name, layer in layers_of(net):
        kind = type(layer)  # the exact type: a subclass may do something else in its forward
        if inference and any(part.training and type(part) in MODE_MATTERS for part in layer.modules()):
            raise refuse(
                "it is in training mode, where a patch's answer is random or depends on the other patches; call .eval() on the network"
            )
        if flattened is not None and kind not in (nn.Linear, *DROPOUT, *POINTWISE):
            raise refuse(f"after the Flatten {flattened!r} a Linear is expected")
        if kind is nn.Conv2d or kind is nn.MaxPool2d or kind is nn.AvgPool2d:
            assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
            kernel = pair(layer.kernel_size)
            if flat:
                raise refuse("it comes after a Flatten, and needs a map")
            padding = layer.padding
            if (padding == "same" and kernel == (1, 1)) or padding == "valid":
                padding = 0
            if isinstance(padding, str) or pair(padding) != (0, 0):
                raise refuse(
                    f"it pads its input (padding={layer.padding!r}), so that a patch's answer depends on the patch's border; set padding=0"
                )
            if getattr(layer, "ceil_mode", False):
                raise refuse("ceil_mode adds windows that hang over the border; set ceil_mode=False")
            if getattr(layer, "return_indices", False):
                raise refuse("it returns indices; set return_indices=False")
            stride = pair(layer.stride)
            if stride[0] != stride[1]:
                raise refuse(f"its strides differ (stride={stride}); use the same for both directions")
            dilation = pair(getattr(layer, "dilation", 1))
            steps.append(Step(name, layer, kernel, dilation, stride[0]))
            channels = layer.out_channels if isinstance(layer, nn.Conv2d) else channels
        elif kind is nn.BatchNorm2d or kind is nn.BatchNorm1d:
            assert isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)
            if (kind is nn.BatchNorm1d) != flat:
                raise refuse("BatchNorm2d belongs to maps and BatchNorm1d to vectors, that is after Flatten and Linear")
            if layer.running_mean is None:
                raise refuse("it has no running statistics (track_running_stats=False), so its answer depends on the other samples")
            channels = layer.num_features
            steps.append(Step(name, layer))
        elif kind is nn.Flatten:
            assert isinstance(layer, nn.Flatten)
            if layer.start_dim != 1 or layer.end_dim not in (-1, 3):
                raise refuse("only Flatten(1, -1) is understood")
            if not flat:
                flattened, flat = name, True
        elif kind is nn.Linear:
            assert isinstance(layer, nn.Linear)
            if not flat:
                raise refuse("it comes before any Flatten, so it works along the picture's columns; put nn.Flatten() before it")
            kernel = (1, 1)
            if flattened is not None:
                if channels is None:
                    raise refuse("no layer before it tells the number of channels; give it as densify(net, channels=...)")
                side = math.isqrt(layer.in_features // channels)
                if side < 1 or channels * side * side != layer.in_features:
                    raise refuse(f"its {layer.in_features} inputs are not a square map of {channels} channels")
                kernel, flattened = (side, side), None
            steps.append(Step(name, layer, kernel))
            channels = layer.out_features
        elif kind in POINTWISE or getattr(layer, "per_pixel", False):
            steps.append(Step(name, layer))
        elif kind in DROPOUT:
            pass  # at inference it does nothing
        elif isinstance(layer, nn.Softmax | nn.LogSoftmax) and layer.dim in (1, -3):
            steps.append(Step(name, layer))
        else:
            raise refuse(
                "only unpadded Conv2d, MaxPool2d, AvgPool2d, BatchNorm2d, pointwise activations, Dropout, Flatten, Linear and "
                "modules that declare per_pixel = True are understood"
            )
    if flattened is not None:
        raise UserError(f"layer {flattened!r} (Flatten) ends the network, expected a Linear after it: densify gives maps, not vectors")
    return steps


def square_patch(steps: list[Step], net: nn.Module) -> int:
    """The side of the smallest square that the stack accepts; a patch must give a single output."""
    need = [1, 1]
    for step in reversed(steps):
        need = [(n - 1) * step.stride + reach for n, reach in zip(need, step.reach, strict=True)]
    patch = max(need)
    size = (patch, patch)
    for step in steps:
        size = step.outputs(size)
    if size != (1, 1):
        raise UserError(
            f"the network {type(net).__name__} sees patches of {need[0]}×{need[1]} pixels (a square of {patch} gives {size[0]}×{size[1]} "
            "outputs), expected square ones: one answer per patch"
        )
    return patch


def geometry_of(net: nn.Module, channels: int | None = None) -> Geometry:
    """Patch and stride of a stack that :func:`densify` understands, in training mode too."""
    steps = read_stack(net, channels, inference=False)
    return Geometry(square_patch(steps, net), math.prod(step.stride for step in steps))


# ------------------------------------------------------------------------------------------------------------------------------------
# Phases: the maps of a strided layer at every pixel


def split_phases(x: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) -> (stride²·N, C, ⌈H/stride⌉, ⌈W/stride⌉): every stride-th row and column, from each of the stride²
    starts.

    Phases that come out one short are padded with zeros to the others' size. What is computed from the padding belongs
    to patches that do not fit in the picture, and is cut off after weaving. The channels of a pixel come to lie side by
    side in memory (channels-last), where a copy moves them together.
    """
    n, c, height, width = x.shape
    rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride  # right where division truncates too, as ONNX's does
    x = F.pad(x, (0, columns * stride - width, 0, rows * stride - height))
    x = x.view(n, c, rows, stride, columns, stride).permute(3, 5, 0, 2, 4, 1)
    return x.reshape(stride * stride * n, rows, columns, c).permute(0, 3, 1, 2)


def weave_phases(x: Tensor, stride: int) -> Tensor:
    """The inverse of :func:`split_phases`, padding included: (stride²·N, C, h, w) -> (N, C, h·stride, w·stride)."""
    n, c, height, width = x.shape
    n //= stride * stride
    x = x.view(stride, stride, n, c, height, width).permute(2, 4, 0, 5, 1, 3)
    return x.reshape(n, height * stride, width * stride, c).permute(0, 3, 1, 2)
