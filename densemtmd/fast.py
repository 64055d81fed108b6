"""The dense form made fast: weights frozen, batch norms folded into convolutions, work cut to fit the caches.

:func:`freeze` reads a stack as :func:`densemtmd.dense.densify` does and gives the same answers up to rounding. What it does besides:

- A batch norm is an affine map of each channel, and so is a convolution: the norm is multiplied into the convolution before it, or,
  behind a ReLU, into the one after it. Nothing is padded in a patch classifier, so this is exact.
- Maps lie in memory with the channels of a pixel side by side from the first layer to the last, through the phases too.
- 1×1 convolutions are matrix products. From the last convolution with a window on, the picture is worked through in blocks, so that the
  widest map never leaves the caches.
- A large convolution between many channels is computed by :class:`Transformed` in a quarter of the multiply-adds.

Shapes: ``N`` batch, ``C`` channels in, ``O`` channels out, ``H``, ``W`` pixels of a map.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.dense import Pair, densify, split_phases, weave_phases
from densemtmd.errors import UserError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAST = torch.channels_last
BLOCK = 10_000
"""Pixels of the last convolution at a time: what its frequencies hold for them is used again while it is in the cache."""
PIXELS = 512
"""Pixels at a time in the layers behind it: what a hidden layer of 1024 holds for them is 2 MB."""
BAND = 30
"""Rows of a map that :class:`Transformed` computes at a time, at most. More save little (1.5 + 8/rows products per row, of 7)."""


def freeze(net: nn.Module, precision: str | None = None, channels: int | None = None, measure: bool = False) -> Frozen:
    """The dense form of a patch classifier as it is now: fast, with weights of its own that later training does not change.

    ``freeze(net)(x)`` equals ``densify(net)(x)`` up to rounding.

    Args:
        net: as :func:`densemtmd.dense.densify` takes it, in eval mode, where it shall run.
        precision: ``"float32"``, ``"bfloat16"``, or None for that of the network's weights. Answers come in float32 at least.
        channels: of the input, where no layer tells.
        measure: choose between a convolution and its transformed form with a stopwatch, on this machine (a fraction of a second,
            remembered); otherwise by their multiply-adds, which is the same everywhere and always.

    Raises:
        UserError: a layer that cannot be converted, or an unknown precision.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}, expected {' or '.join(PRECISIONS)}")
    return Frozen(net, None if precision is None else PRECISIONS[precision], channels, measure)


# ------------------------------------------------------------------------------------------------------------------------------------
# A convolution as fewer products


class Transformed:
    """A k×l convolution as one of 1×l in each frequency of a discrete Fourier transform along the columns.

    A band of ``rows`` rows of the answer needs n = rows + k − 1 rows of the map. Their transform has n/2 + 1 complex frequencies, and in
    each of them the k rows of the kernel become one. A complex product is made of three real ones, (a + b)c, a(d − c) and b(c + d); the
    sums are taken up in the transforms, which so are two small real matrices: ``analysis`` of the n rows, ``synthesis`` of the answer.
    Of 7 rows of the kernel 1.5 + 8/rows are left. Rounding is that of the plain convolution, since the transform is orthogonal.

    Args:
        weight: (O, C, k, l).
        bias: (O,).
        dtype: of the products; the transforms are made in float32 at least.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.dtype = weight, bias, dtype
        self.at_least = torch.promote_types(dtype, torch.float32)
        # the pieces of a picture have two heights at most, and the kernels for one take some 40 MB
        self._matrices = functools.lru_cache(maxsize=2)(self._make_matrices)

    def _make_matrices(self, rows: int) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """What a band of so many rows is computed with: analysis (R, n), R kernels (O, C, 1, l), synthesis (rows, R), bias (O,)."""
        analysis, kernel, synthesis = (torch.from_numpy(matrix) for matrix in bilinear(rows, self.weight.shape[2]))
        kernels = [torch.einsum("k,ockl->ocl", row, self.weight)[:, :, None].to(self.dtype, memory_format=LAST) for row in kernel]
        # frequency 0 is the sum over the n rows, so n times the bias in it is the bias everywhere
        bias = (self.bias * analysis.shape[1]).to(self.dtype)
        return analysis.to(self.at_least), kernels, synthesis.to(self.at_least), bias

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H − k + 1, W − l + 1)."""
        more = self.weight.shape[2] - 1
        band, tops = bands(x.shape[2] - more)
        if len(tops) == 1:
            return self._band(x)
        answer: Tensor | None = None
        for top in tops:
            part = self._band(x[:, :, top : top + band + more])
            if answer is None:
                answer = part.new_empty(len(x), x.shape[2] - more, part.shape[3], part.shape[1]).permute(0, 3, 1, 2)
            answer[:, :, top : top + band] = part
        assert answer is not None
        return answer

    def _band(self, x: Tensor) -> Tensor:
        """All rows of the answer at once."""
        n, c, height, width = x.shape
        rows, columns = height - self.weight.shape[2] + 1, width - self.weight.shape[3] + 1
        analysis, kernels, synthesis, bias = self._matrices(rows)
        spectrum = analysis @ x.permute(2, 0, 3, 1).reshape(height, -1).to(self.at_least)
        spectrum = spectrum.to(self.dtype).view(len(analysis), n, 1, width, c).permute(0, 1, 4, 2, 3)
        products = torch.empty(len(analysis), n, 1, columns, len(bias), dtype=self.at_least)
        for i, (part, kernel, into) in enumerate(zip(spectrum, kernels, products, strict=True)):
            into.copy_(F.conv2d(part, kernel, None if i else bias).permute(0, 2, 3, 1))
        return (synthesis @ products.view(len(analysis), -1)).view(rows, n, columns, -1).permute(1, 3, 0, 2)


def bands(rows: int) -> tuple[int, list[int]]:
    """The height of bands that cover all rows, and where they begin; the last may cover some of the one before again."""
    band = -(-rows // -(-rows // BAND))
    return band, [min(top, rows - band) for top in range(0, rows, band)]


def bilinear(rows: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices A, K, S by which S((A d) · (K g)) is the correlation of d with g, y_i = Σ_j d_(i+j) g_j, for i < rows.

    Returns:
        A (R, n), K (R, taps), S (rows, R) with n = rows + taps − 1: R products, 3 for each complex frequency and 1 for each real one.
    """
    n = rows + taps - 1
    analysis, kernel, synthesis = [], [], []
    for frequency in range(n // 2 + 1):
        angle = 2 * np.pi * frequency / n
        cosine, sine = (lambda i, a=angle: np.cos(a * i)), (lambda i, a=angle: np.sin(a * i))
        signal, answer, tap = np.arange(n), np.arange(rows), np.arange(taps)
        a, b = cosine(signal), -sine(signal)  # of the signal
        c, d = cosine(tap), sine(tap)         # of the kernel, conjugate: a correlation
        if 2 * frequency in (0, n):
            analysis += [a]
            kernel += [c]
            synthesis += [cosine(answer) / n]
        else:
            real, imaginary = 2 * cosine(answer) / n, -2 * sine(answer) / n
            analysis += [a + b, a, b]
            kernel += [c, d - c, c + d]
            synthesis += [real + imaginary, imaginary, -real]
    return np.stack(analysis), np.stack(kernel), np.stack(synthesis, 1)


# ------------------------------------------------------------------------------------------------------------------------------------
# Reading the stack


@dataclass
class _Layer:
    """One layer of a frozen stack, at stride 1."""

    run: Callable[[Tensor], Tensor]
    reach: Pair = (1, 1)
    stride: int = 1


@dataclass
class _Convolution:
    """A convolution or fully connected layer with all that was folded into it, in float64."""

    weight: Tensor  # (O, C / groups, k, l)
    bias: Tensor    # (O,)
    dilation: Pair
    groups: int
    stride: int
    relu: bool = False

    @property
    def reach(self) -> Pair:
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))  # type: ignore[return-value]

    def after(self, scale: Tensor, shift: Tensor) -> None:
        """Folds in an affine map of what goes in, (C,) each."""
        parts = self.weight.view(self.groups, -1, *self.weight.shape[1:])
        scale, shift = (v.view(self.groups, 1, -1, 1, 1) for v in (scale, shift))
        self.bias = self.bias + (parts * shift).sum((2, 3, 4)).flatten()
        self.weight = (parts * scale).view_as(self.weight)

    def before(self, scale: Tensor, shift: Tensor) -> None:
        """Folds in an affine map of what comes out, (O,) each."""
        self.weight = self.weight * scale.view(-1, 1, 1, 1)
        self.bias = self.bias * scale + shift

    def layer(self, dtype: torch.dtype, device: torch.device, measure: bool) -> _Layer:
        """As it will run."""
        weight, bias = self.weight.to(device, dtype).contiguous(memory_format=LAST), self.bias.to(device, dtype)

        def direct(x: Tensor) -> Tensor:
            return F.conv2d(x.to(dtype), weight, bias, dilation=self.dilation, groups=self.groups)

        run: Callable[[Tensor], Tensor] = direct
        if self.reach == (1, 1) and self.groups == 1 and device.type == "cpu":
            rows_weight = weight.flatten(1).contiguous()
            return _Layer(lambda x: _product(x.to(dtype), rows_weight, bias, self.relu), stride=self.stride)
        if device.type == "cpu" and self.groups == 1 and self.dilation == (1, 1) and _pays(*self.weight.shape):
            transformed = Transformed(self.weight.cpu(), self.bias.cpu(), dtype)
            if not measure or _wins(direct, transformed, (tuple(self.weight.shape), dtype)):
                run = transformed
        if self.relu:
            return _Layer(lambda x: run(x).relu_(), self.reach, self.stride)
        return _Layer(run, self.reach, self.stride)


def _pays(o: int, c: int, k: int, l: int) -> bool:  # noqa: E741
    """Whether the products saved may be worth the transforms: k rows become about 2, and each product is one of C·l."""
    return k >= 5 and o >= 16 and c * l >= 64


_measured: dict[object, bool] = {}


def _wins(direct: Callable[[Tensor], Tensor], transformed: Transformed, key: object) -> bool:
    """Whether the transformed form is the faster one, by turns on a small map; asked once for each kind of layer."""
    if key not in _measured:
        _, c, k, l = transformed.weight.shape  # noqa: E741
        x = torch.zeros(2, c, 15 + k, 32 + l, dtype=transformed.at_least).contiguous(memory_format=LAST)

        def seconds(work: Callable[[Tensor], Tensor]) -> float:
            began = time.perf_counter()
            work(x)
            return time.perf_counter() - began

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as each tile is computed
        try:
            with torch.inference_mode():
                ratios = [seconds(direct) / seconds(transformed) for _ in range(6)][1:]  # the first turn warms up
        finally:
            torch.set_num_threads(threads)
        _measured[key] = median(ratios) > 1
    return _measured[key]


def _product(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """A 1×1 convolution as a product of matrices."""
    rows, shape = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), (len(x), *x.shape[2:], len(weight))
    if rows.dtype != torch.float64 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "relu" if relu else "none", [], "")
    else:
        out = F.linear(rows, weight, bias)
        out = out.relu_() if relu else out
    return out.view(shape).permute(0, 3, 1, 2)


def _max_pool(x: Tensor, kernel: Pair, dilation: Pair) -> Tensor:
    """Max-pooling at stride 1 as maxima of shifted maps, which needs no indices."""
    for dim, taps, step in zip((2, 3), kernel, dilation, strict=True):
        size = x.shape[dim] - (taps - 1) * step
        parts = [x.narrow(dim, tap * step, size) for tap in range(taps)]
        x = functools.reduce(torch.maximum, parts)
    return x


def _cast_and_run(run: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    return run(x.to(dtype))


def _read(net: nn.Module, dtype: torch.dtype, device: torch.device, channels: int | None, measure: bool) -> list[_Layer]:
    """The layers of the frozen stack: convolutions in ``dtype``, what is not one in float32 at least."""
    at_least = torch.promote_types(dtype, torch.float32)
    read: list[_Convolution | _Layer] = []
    waiting: tuple[Tensor, Tensor] | None = None  # scale and shift of a batch norm for the convolution to come

    def emit(layer: _Layer) -> None:
        nonlocal waiting
        if waiting is not None:
            scale, shift = (v.to(device, at_least).view(1, -1, 1, 1) for v in waiting)
            read.append(_Layer(lambda x: x * scale + shift))
            waiting = None
        read.append(layer)

    for step in densify(net, channels)._steps:
        layer, last = step.layer, read[-1] if read else None
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.detach().to(torch.float64, copy=True).view(len(layer.weight), -1, *step.kernel)
            bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(torch.float64, copy=True)
            convolution = _Convolution(weight, bias, step.dilation, getattr(layer, "groups", 1), step.stride)
            if waiting is not None:
                convolution.after(*waiting)
                waiting = None
            read.append(convolution)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            assert layer.running_mean is not None and layer.running_var is not None
            mean, variance = layer.running_mean.double(), layer.running_var.double()
            scale = (variance + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.detach().double())
            shift = (0 if layer.bias is None else layer.bias.detach().double()) - mean * scale
            if waiting is not None:
                waiting = waiting[0] * scale, waiting[1] * scale + shift
            elif isinstance(last, _Convolution) and not last.relu and last.stride == 1:
                last.before(scale, shift)
            else:
                waiting = scale, shift
        elif type(layer) is nn.ReLU and isinstance(last, _Convolution) and waiting is None:
            last.relu = True
        elif type(layer) is nn.MaxPool2d:
            emit(_Layer(functools.partial(_max_pool, kernel=step.kernel, dilation=step.dilation), step.reach, step.stride))
        else:
            own = replace(step, layer=copy.deepcopy(layer).eval().to(at_least))
            emit(_Layer(functools.partial(_cast_and_run, own.dense, at_least), step.reach, step.stride))
    if waiting is not None:
        emit(_Layer(lambda x: x))
    return [part.layer(dtype, device, measure) if isinstance(part, _Convolution) else part for part in read]


# ------------------------------------------------------------------------------------------------------------------------------------
# Running it


class Frozen:
    """The dense form of ``net`` as it was when it was frozen, made by :func:`freeze`."""

    def __init__(self, net: nn.Module, dtype: torch.dtype | None, channels: int | None, measure: bool) -> None:
        self.net, self.geometry = net, densify(net, channels).geometry
        some = next((p for p in net.parameters()), torch.zeros(()))
        self.dtype = some.dtype if dtype is None else dtype
        layers = _read(net, self.dtype, some.device, channels, measure)
        # what is done in blocks: the last layer with a window, unless phases must be split behind it, and the pointwise ones after it
        windows = [i for i, layer in enumerate(layers) if layer.reach != (1, 1) or layer.stride > 1]
        tail = windows[-1] + 1 if windows else 0
        last = windows[-1] if windows and layers[windows[-1]].stride == 1 else tail
        self._front, self._window, self._tail = layers[:last], layers[last:tail], layers[tail:]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H − P + 1, W − P + 1), as :meth:`densemtmd.dense.Dense.forward`.

        Raises:
            UserError: a picture smaller than a patch.
        """
        patch = self.geometry.patch
        if x.ndim != 4 or min(x.shape[-2:]) < patch:
            raise UserError(f"expected pictures of shape (B, channels, H, W) with H and W of at least {patch}, got {tuple(x.shape)}")
        height, width = (size - patch + 1 for size in x.shape[-2:])
        x = x.to(memory_format=LAST)
        for layer in self._front:
            x = layer.run(x)
            if layer.stride > 1:
                x = split_phases(x, layer.stride)
        x = self._in_blocks(x)
        for layer in reversed(self._front):
            if layer.stride > 1:
                x = weave_phases(x, layer.stride)
        return x[..., :height, :width].to(torch.promote_types(self.dtype, torch.float32))

    def _in_blocks(self, x: Tensor) -> Tensor:
        """The last layer with a window and those behind it, some of the phases and some rows at a time."""
        if x.device.type != "cpu":  # a GPU wants all its work at once
            for layer in self._window + self._tail:
                x = layer.run(x)
            return x
        if not self._window and not self._tail:
            return x
        reach = self._window[0].reach if self._window else (1, 1)
        rows, columns = (size - window + 1 for size, window in zip(x.shape[2:], reach, strict=True))
        band, tops = bands(rows)
        phases = max(1, BLOCK // (band * columns))
        answer: Tensor | None = None
        for top in tops:
            for first in range(0, len(x), phases):
                part = x[first : first + phases, :, top : top + band + reach[0] - 1]
                for layer in self._window:
                    part = layer.run(part)
                part = self._each_pixel(part)
                if answer is None:
                    answer = part.new_empty(len(x), rows, columns, part.shape[1]).permute(0, 3, 1, 2)
                answer[first : first + phases, :, top : top + band] = part
        assert answer is not None
        return answer

    def _each_pixel(self, x: Tensor) -> Tensor:
        """The layers behind the last window, some pixels at a time, in the order in which they lie in memory."""
        if not self._tail:
            return x
        order = sorted((0, 2, 3), key=x.stride, reverse=True)
        moved = x.permute(*order, 1)
        parts = []
        for part in moved.reshape(-1, x.shape[1], 1, 1).split(PIXELS):
            for layer in self._tail:
                part = layer.run(part)
            parts.append(part.flatten(1))
        return torch.cat(parts).view(*moved.shape[:3], -1).permute(order.index(0), 3, order.index(2), order.index(3))
