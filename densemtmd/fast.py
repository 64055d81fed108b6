"""The dense form made fast: weights frozen, batch norms folded into convolutions, work cut to fit the caches.

:func:`fast_form` reads a stack as :func:`densemtmd.dense.densify` does and gives the same answers up to rounding. What it does besides:

- A batch norm is an affine map of each channel, and so is a convolution: the norm is multiplied into the convolution before it, or,
  behind a ReLU, into the one after it. Nothing is padded in a patch classifier, so this is exact.
- Maps lie in memory with the channels of a pixel side by side from the first layer to the last, through the phases too.
- 1×1 convolutions are matrix products. From the last convolution with a window on, the picture is worked through in blocks, so that the
  widest map never leaves the caches. Their weights are brought into the order that the library multiplies in once, not at each call.
- A large convolution between many channels is computed by :class:`Transformed` in a ninth of the multiply-adds.

Shapes: ``N`` batch, ``C`` channels in, ``O`` channels out, ``H``, ``W`` pixels of a map.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, Pair
from densemtmd.stack import read_stack, split_phases, square_patch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAST = torch.channels_last
BLOCK = 10_000
"""Pixels of the last convolution at a time, where it is not transformed."""
PIXELS = 1024
"""Pixels at a time in the layers behind it, where a hidden layer of 1024 holds 4 MB for them. :class:`Transformed` works on so many tiles
at a time that a row of each makes as many pixels; with fewer its products run worse."""
SIDE = 20
"""Rows and columns of the answer in one tile of :class:`Transformed`. Larger ones have fewer products, and fit fewer maps."""
STRIP = 4096
"""Columns at a time of a wide matrix in the transforms: what is read of it and written stays in the cache."""


def fast_form(net: nn.Module, precision: str | None = None, channels: int | None = None, measure: bool = False) -> Fast:
    """The dense form of a patch classifier as it is now: fast, with weights of its own that later training does not change.

    ``fast_form(net)(x)`` equals ``densify(net)(x)`` up to rounding.

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
    return Fast(net, None if precision is None else PRECISIONS[precision], channels, measure)


# ------------------------------------------------------------------------------------------------------------------------------------
# A convolution as fewer products


class Transformed:
    """A k×l convolution as one product of matrices in each frequency of a two-dimensional Fourier transform, tile by tile.

    A tile of SIDE×SIDE pixels of the answer needs h×w = (SIDE + k − 1)×(SIDE + l − 1) pixels of the map. Their discrete Fourier
    transform has h·(w/2 + 1) complex frequencies, the others being their conjugates. In each of them the convolution is the product
    of a + ib, (tiles, C), with the kernel's conjugate (for a correlation) c + id, (C, O), and this is one product of real matrices::

        [ a   b ]   [  c ]   [ ac − bd ]
        [ b  −a ] · [ −d ] = [ bc + ad ]

    It makes 4 real multiplications for each pair of channels where a pixel had k·l: at 7×7 and SIDE 20 they are 3.6 a pixel instead of 49.

    The transforms are small matrices too, multiplied from the left: along the columns of all rows, tiles and channels at once, then along
    the rows, and back in reverse order. So nothing has to change its place in memory, and what comes out is what the 1×1 layers behind
    take, pixels by channels. Rounding is that of the plain convolution, since the transform is orthogonal.

    Args:
        weight: (O, C, k, l).
        bias: (O,).
        dtype: of the products; the transforms are made in float32 at least.
        relu: whether a ReLU follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, relu: bool = False) -> None:
        self.shape, self.dtype, self.relu, self.side = weight.shape, dtype, relu, SIDE
        self.at_least = torch.promote_types(dtype, torch.float32)
        o, c, k, l = weight.shape  # noqa: E741
        rows, columns = fourier(self.side + k - 1), fourier(self.side + l - 1)
        half = columns[: len(columns) // 2 + 1]  # the transform of real numbers
        # the kernel's frequencies, (column, row, real and imaginary input channels, O), a column at a time: all at once take much memory
        self._kernel = torch.empty(len(half), len(rows), 2 * c, o, dtype=dtype)
        taps = weight.to(torch.complex128)
        for column, into in zip(half, self._kernel, strict=True):
            part = torch.einsum("ra,b,ocab->rco", rows[:, :k].conj(), column[:l].conj(), taps)
            into.copy_(torch.cat([part.real, -part.imag], 1))
        # along the columns: real numbers to (frequency, real and imaginary), and back
        self._columns = torch.stack([half.real, half.imag], 1).flatten(0, 1).to(self.at_least)
        twice = torch.full((len(half),), 2.0 / len(columns), dtype=torch.float64)  # for the conjugates
        twice[0] /= 2
        if len(columns) % 2 == 0:
            twice[-1] /= 2
        back = half[:, : self.side].T.conj() * twice
        self._columns_back = torch.stack([back.real, -back.imag], 2).flatten(1).to(self.at_least)
        # along the rows: (real and imaginary, row) to (frequency, real and imaginary), and back
        real, imaginary = torch.cat([rows.real, -rows.imag], 1), torch.cat([rows.imag, rows.real], 1)
        self._rows = torch.stack([real, imaginary], 1).flatten(0, 1).to(self.at_least)
        back = rows[:, : self.side].T.conj() / len(rows)
        real, imaginary = torch.stack([back.real, -back.imag], 2), torch.stack([back.imag, back.real], 2)
        self._rows_back = torch.cat([real, imaginary]).flatten(1).to(self.at_least)
        # the sum over the tile is frequency 0, so that many times the bias in it is the bias everywhere
        self._bias = (bias * len(rows) * len(columns)).to(self.at_least)

    def pays(self, x: Tensor) -> bool:
        """Whether a map, (N, C, H, W), fills more than a quarter of its tiles; one that does not is convolved faster as it is."""
        rows, columns = (size - taps + 1 for size, taps in zip(x.shape[2:], self.shape[2:], strict=True))
        return 4 * rows * columns > -(-rows // self.side) * -(-columns // self.side) * self.side * self.side

    def __call__(self, x: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, O, H − k + 1, W − l + 1).

        Args:
            x: the map.
            then: what is done with the answer while it is in the cache, (pixels, O) -> (pixels, L); may work in place.
        """
        rows, columns = (size - taps + 1 for size, taps in zip(x.shape[2:], self.shape[2:], strict=True))
        # tiles that are answered in equal parts, so that the layers behind work on hardly a pixel too many
        high, wide = (-(-size // -(-size // self.side)) for size in (rows, columns))
        corners = list(itertools.product(range(len(x)), range(0, rows, high), range(0, columns, wide)))
        passes = -(-len(corners) // max(1, PIXELS // self.side))
        tiles = -(-len(corners) // passes)
        scratch = self._scratch(tiles, high, wide)
        seen, answer = scratch.seen, None
        for first in range(0, len(corners), tiles):
            some = corners[first : first + tiles]
            for j, (i, top, left) in enumerate(some):
                cut = x[i, :, top : top + seen.shape[1], left : left + len(seen)].permute(2, 1, 0)
                if cut.shape[:2] != seen.shape[:2]:
                    seen[:, :, j] = 0  # beyond the map, where the answer is cut off below
                seen[: len(cut), : cut.shape[1], j] = cut
            found = self._tiles(scratch, then)
            if answer is None:
                answer = found.new_empty(len(x), rows, columns, found.shape[3])
            for j, (i, top, left) in enumerate(some):
                into = answer[i, top : top + high, left : left + wide]
                into.copy_(found[: into.shape[0], : into.shape[1], j])
        assert answer is not None
        return answer.permute(0, 3, 1, 2)

    def _scratch(self, tiles: int, high: int, wide: int) -> _Scratch:
        """Memory to work in, for tiles of which so many rows and columns are answered.

        Taken once for all passes, since pages new to a process cost more than what is done with them.
        """
        height, channels, o = self._kernel.shape[1:]
        frequencies, make = len(self._columns), functools.partial(torch.empty, dtype=self.at_least)
        return _Scratch(
            seen=make(self._columns.shape[1], height, tiles, channels // 2),
            columns=make(frequencies, height * tiles * channels // 2),
            rows=make(2 * height, tiles * channels // 2),
            factors=torch.empty(height, 2, tiles, 2, channels // 2, dtype=self.dtype),
            products=torch.empty(height, 2 * tiles, o, dtype=self.dtype),
            back=make(frequencies, high, tiles * o),
            pixels=make(wide, tiles * o),
        )

    def _tiles(self, scratch: _Scratch, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The answer for the tiles in ``scratch.seen``, (w, h, tiles, C) -> (high, wide, tiles, L)."""
        seen, columns, factors, products, back, pixels = (
            scratch.seen, scratch.columns, scratch.factors, scratch.products, scratch.back, scratch.pixels
        )  # fmt: skip
        (height, tiles), high, wide = seen.shape[1:3], back.shape[1], len(pixels)
        rows_back = self._rows_back.view(2, self.side, -1)[:, :high].flatten(0, 1)
        _multiply(self._columns, seen.flatten(1), columns)
        for f, kernel in enumerate(self._kernel):
            _multiply(self._rows, columns[2 * f : 2 * f + 2].view(2 * height, -1), scratch.rows)
            a, b = scratch.rows.view(height, 2, tiles, -1).unbind(1)
            quarters = (factors[:, i, :, j] for i in range(2) for j in range(2))
            for into, part in zip(quarters, (a, b, b, -a), strict=True):
                into.copy_(part)
            torch.bmm(factors.view(height, 2 * tiles, -1), kernel, out=products)
            if f == 0:
                products[0, :tiles] += self._bias
            _multiply(rows_back, products.to(self.at_least).view(2 * height, -1), back[2 * f : 2 * f + 2].view(2 * high, -1))
        found: Tensor | None = None
        for row in range(high):
            _multiply(self._columns_back[:wide], back[:, row], pixels)
            answer = pixels.view(wide * tiles, -1)
            answer = answer.relu_() if self.relu else answer
            answer = answer if then is None else then(answer)
            if found is None:
                found = answer.new_empty(high, *answer.shape)
            found[row] = answer
        assert found is not None
        return found.view(high, wide, tiles, -1)


class _Scratch(NamedTuple):
    """What :class:`Transformed` holds of some tiles at each step."""

    seen: Tensor      # (w, h, tiles, C)
    columns: Tensor   # (2·frequencies, h·tiles·C)
    rows: Tensor      # (2·h, tiles·C), of one frequency along the columns
    factors: Tensor   # (h, 2, tiles, 2, C), the left matrices of the products
    products: Tensor  # (h, 2·tiles, O)
    back: Tensor      # (2·frequencies, high, tiles·O), the rows that are answered
    pixels: Tensor    # (wide, tiles·O), the columns that are answered in a row of each tile


def fourier(n: int) -> Tensor:
    """The matrix of the discrete Fourier transform of n numbers, (frequency, number) complex128."""
    turns = torch.outer(torch.arange(n), torch.arange(n)).remainder(n).double() / n
    return torch.polar(torch.ones_like(turns), -2 * math.pi * turns)


def _multiply(small: Tensor, wide: Tensor, out: Tensor) -> None:
    """A small matrix times a wide one."""
    for first in range(0, wide.shape[1], STRIP):
        torch.mm(small, wide[:, first : first + STRIP], out=out[:, first : first + STRIP])


# ------------------------------------------------------------------------------------------------------------------------------------
# Reading the stack


@dataclass
class _Layer:
    """One layer of a frozen stack, at stride 1."""

    run: Callable[[Tensor], Tensor]
    reach: Pair = (1, 1)
    stride: int = 1
    transformed: Transformed | None = None  # what ``run`` uses where it pays


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

        if self.reach == (1, 1) and self.groups == 1 and device.type == "cpu":
            return _Layer(_product(weight.flatten(1).contiguous(), bias, self.relu), stride=self.stride)

        def plain(x: Tensor) -> Tensor:
            y = direct(x)
            return y.relu_() if self.relu else y

        if device.type == "cpu" and self.groups == 1 and self.dilation == (1, 1) and _pays(*self.weight.shape):
            transformed = Transformed(self.weight.cpu(), self.bias.cpu(), dtype, self.relu)
            if not measure or _wins(plain, transformed, (tuple(self.weight.shape), dtype)):
                return _Layer(lambda x: transformed(x) if transformed.pays(x) else plain(x), self.reach, self.stride, transformed)
        return _Layer(plain, self.reach, self.stride)


def _pays(o: int, c: int, k: int, l: int) -> bool:  # noqa: E741
    """Whether the multiply-adds saved may be worth the transforms, and the channels enough for products that run well."""
    return k * l >= 25 and o >= 16 and c >= 8


_measured: dict[object, bool] = {}


def _wins(direct: Callable[[Tensor], Tensor], transformed: Transformed, key: object) -> bool:
    """Whether the transformed form is the faster one, by turns on a small map; asked once for each kind of layer."""
    if key not in _measured:
        _, c, k, l = transformed.shape  # noqa: E741
        x = torch.zeros(12, c, SIDE + k - 1, SIDE + l - 1, dtype=transformed.at_least).contiguous(memory_format=LAST)

        def seconds(work: Callable[[Tensor], Tensor]) -> float:
            began = time.perf_counter()
            work(x)
            return time.perf_counter() - began

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as each tile is computed
        try:
            with torch.inference_mode():
                ratios = [seconds(direct) / seconds(transformed) for _ in range(4)][1:]  # the first turn warms up
        finally:
            torch.set_num_threads(threads)
        _measured[key] = median(ratios) > 1
    return _measured[key]


def _product(weight: Tensor, bias: Tensor, relu: bool) -> Callable[[Tensor], Tensor]:
    """A 1×1 convolution as a product of matrices, (N, C, H, W) -> (N, O, H, W)."""
    ops = torch.ops.mkldnn
    packed: Tensor | None = None
    if weight.dtype != torch.float64 and torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise"):
        with suppress(RuntimeError):  # in bfloat16 a CPU without AVX-512 has no packed product
            packed = ops._reorder_linear_weight(weight, PIXELS)  # once, and not at each call

    def run(x: Tensor) -> Tensor:
        pixels = x.to(weight.dtype).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        if packed is not None:
            out = ops._linear_pointwise(pixels, packed, bias, "relu" if relu else "none", [], "")
        else:
            out = F.linear(pixels, weight, bias)
            out = out.relu_() if relu else out
        return out.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)

    return run


def _max_pool(x: Tensor, kernel: Pair, dilation: Pair) -> Tensor:
    """Max-pooling at stride 1 as maxima of shifted maps, which needs no indices."""
    for dim, taps, step in zip((2, 3), kernel, dilation, strict=True):
        size = x.shape[dim] - (taps - 1) * step
        parts = [x.narrow(dim, tap * step, size) for tap in range(taps)]
        x = functools.reduce(torch.maximum, parts)
    return x


def _weave_all(x: Tensor, strides: Sequence[int]) -> Tensor:
    """What :func:`densemtmd.dense.weave_phases` does for one stride after another, the last one first, in one copy."""
    (n, c, height, width), stride, count = x.shape, math.prod(strides), len(strides)
    n //= stride * stride
    x = x.permute(0, 2, 3, 1).reshape(*(s for s in reversed(strides) for _ in range(2)), n, height, width, c)
    rows, columns = range(0, 2 * count, 2), range(1, 2 * count, 2)
    x = x.permute(2 * count, 2 * count + 1, *rows, 2 * count + 2, *columns, 2 * count + 3)
    return x.reshape(n, height * stride, width * stride, c).permute(0, 3, 1, 2)


def _cast_and_run(run: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    return run(x.to(dtype))


def _read(
    net: nn.Module, dtype: torch.dtype, device: torch.device, channels: int | None, measure: bool
) -> tuple[list[_Layer], _Convolution | None]:
    """The layers of the frozen stack: convolutions in ``dtype``, what is not one in float32 at least; and the last of them, where it is a
    convolution."""
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

    for step in read_stack(net, channels, inference=True):
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
    last = read[-1] if read else None
    layers = [part.layer(dtype, device, measure) if isinstance(part, _Convolution) else part for part in read]
    return layers, last if isinstance(last, _Convolution) else None


# ------------------------------------------------------------------------------------------------------------------------------------
# Running it


class Fast:
    """The dense form of ``net`` as it was when it was frozen, made by :func:`fast_form`."""

    def __init__(self, net: nn.Module, dtype: torch.dtype | None, channels: int | None, measure: bool) -> None:
        steps = read_stack(net, channels, inference=True)
        self.geometry = Geometry(square_patch(steps, net), math.prod(step.stride for step in steps))
        some = next((p for p in net.parameters()), torch.zeros(()))
        self.dtype = some.dtype if dtype is None else dtype
        layers, self._answer = _read(net, self.dtype, some.device, channels, measure)
        # what is done in blocks: the last layer with a window, unless phases must be split behind it, and the pointwise ones after it
        windows = [i for i, layer in enumerate(layers) if layer.reach != (1, 1) or layer.stride > 1]
        tail = windows[-1] + 1 if windows else 0
        last = windows[-1] if windows and layers[windows[-1]].stride == 1 else tail
        self._front, self._window, self._tail = layers[:last], layers[last:tail], layers[tail:]

    def only(self, network: nn.Module, channels: Tensor) -> Fast:
        """The same for some of its outputs alone: see :class:`densemtmd.network.Labeller`."""
        assert self._answer is not None and self._answer.groups == 1
        weight, bias = (tensor[channels.to(tensor.device)] for tensor in (self._answer.weight, self._answer.bias))
        made = copy.copy(self)
        made._answer = replace(self._answer, weight=weight, bias=bias)
        last = made._answer.layer(self.dtype, next(network.parameters()).device, False)
        for part in ("_tail", "_window", "_front"):
            if layers := getattr(self, part):
                setattr(made, part, [*layers[:-1], last])
                break
        return made

    @property
    def patch(self) -> int:
        """As :attr:`densemtmd.dense.Dense.patch`."""
        return self.geometry.patch

    @property
    def stride(self) -> int:
        """As :attr:`densemtmd.dense.Dense.stride`."""
        return self.geometry.stride

    @property
    def centre(self) -> int:
        """As :attr:`densemtmd.dense.Dense.centre`."""
        return self.geometry.centre

    @property
    def grain(self) -> int:
        """Pixels of which the sides of a piece of a picture best are multiples, so that the tiles of :class:`Transformed` are full."""
        transformed = self._window[0].transformed if self._window else None
        return 1 if transformed is None else self.geometry.stride * transformed.side

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
        x = _weave_all(x, [layer.stride for layer in self._front if layer.stride > 1])
        return x[..., :height, :width].to(torch.promote_types(self.dtype, torch.float32))

    def _in_blocks(self, x: Tensor) -> Tensor:
        """The last layer with a window and those behind it, some of the phases and some rows at a time."""
        if x.device.type != "cpu":  # a GPU wants all its work at once
            for layer in self._window + self._tail:
                x = layer.run(x)
            return x
        if not self._window and not self._tail:
            return x
        if self._window and (transformed := self._window[0].transformed) is not None and transformed.pays(x):
            return transformed(x, self._pixels)
        reach = self._window[0].reach if self._window else (1, 1)
        rows, columns = (size - window + 1 for size, window in zip(x.shape[2:], reach, strict=True))
        band = max(1, min(rows, BLOCK // columns))
        maps = max(1, BLOCK // (band * columns))
        answer: Tensor | None = None
        for top in range(0, rows, band):
            for first in range(0, len(x), maps):
                part = x[first : first + maps, :, top : top + band + reach[0] - 1]
                for layer in self._window:
                    part = layer.run(part)
                part = part.permute(0, 2, 3, 1)
                part = self._pixels(part.reshape(-1, part.shape[3])).view(*part.shape[:3], -1)
                if answer is None:
                    answer = part.new_empty(len(x), rows, columns, part.shape[3])
                answer[first : first + maps, top : top + band] = part
        assert answer is not None
        return answer.permute(0, 3, 1, 2)

    def _pixels(self, pixels: Tensor) -> Tensor:
        """The layers behind the last window: (pixels, O) -> (pixels, L), some at a time."""
        if not self._tail:
            return pixels
        parts = []
        for part in pixels.split(PIXELS):
            part = part[:, :, None, None]
            for layer in self._tail:
                part = layer.run(part)
            parts.append(part.flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
