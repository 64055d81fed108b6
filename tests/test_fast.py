"""The frozen, fast form against the plain dense one, and its parts against what they stand for."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_dense import SPACE, settle, stacks
from torch import nn

from densemtmd import Predictor, densify, fast
from densemtmd.backbones.patchnet import PatchNet
from densemtmd.errors import UserError
from densemtmd.fast import Transformed, fast_form, fourier


def picture(shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 7, 26])
def test_the_fourier_matrix(n):
    torch.testing.assert_close(fourier(n), torch.fft.fft(torch.eye(n, dtype=torch.complex128)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", [1, 2, 5, 20])
@pytest.mark.parametrize(
    ("weight", "size"),
    [((5, 3, 7, 7), (7, 9)), ((4, 2, 5, 3), (18, 8)), ((2, 6, 3, 1), (65, 4)), ((3, 1, 1, 2), (4, 2)), ((1, 2, 4, 6), (30, 31))],
)
def test_a_transformed_convolution_is_the_convolution(weight, size, side, monkeypatch):
    """On maps of a part of a tile and of several, with tiles of even and odd sides; with what comes behind it, some pixels at a time."""
    monkeypatch.setattr(fast, "SIDE", side)
    monkeypatch.setattr(fast, "PIXELS", 3 * side)
    monkeypatch.setattr(fast, "STRIP", 10)
    kernel, bias, x = picture(weight), picture(weight[:1]), picture((2, weight[1], *size))
    expected = F.conv2d(x, kernel, bias)
    torch.testing.assert_close(Transformed(kernel, bias, torch.float64)(x), expected, rtol=0, atol=1e-10)
    mixing = picture((7, weight[0]), seed=1)
    answer = Transformed(kernel, bias, torch.float64, relu=True)(x.contiguous(memory_format=torch.channels_last), lambda p: p @ mixing.T)
    torch.testing.assert_close(answer, torch.einsum("lo,nohw->nlhw", mixing, expected.relu()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [7, 20, 31])
def test_its_rounding_is_that_of_the_plain_convolution(rows):
    """In float32, at the size of the paper's third convolution, on maps whose mean is far from 0, as behind a ReLU."""
    kernel, bias, x = picture((32, 64, 7, 7)), picture((32,)), picture((1, 64, rows + 6, 12)).relu()
    exact = F.conv2d(x, kernel, bias)
    errors = [
        (answer - exact).abs().max() / (exact.max() - exact.min())
        for answer in (Transformed(kernel, bias, torch.float32)(x.float()), F.conv2d(x.float(), kernel.float(), bias.float()))
    ]
    assert errors[0] < max(1e-6, 4 * errors[1])


def test_a_map_that_hardly_fills_a_tile_is_not_transformed():
    transformed = Transformed(picture((2, 3, 7, 7)), picture((2,)), torch.float64)
    assert [transformed.pays(torch.empty(9, 3, *size)) for size in ((7, 7), (16, 16), (17, 16), (26, 26), (27, 10), (1000, 12))] == [
        False, False, True, True, False, True
    ]  # fmt: skip


def small():
    """Everything is cut into several blocks, and every convolution that can be is transformed."""
    return patch.multiple(fast, SIDE=3, BLOCK=20, PIXELS=7, STRIP=10, _pays=lambda *_: True)


@given(stacks(), st.integers(1, 2), st.tuples(st.integers(0, 9), st.integers(0, 9)), st.booleans())
@settings(max_examples=100, deadline=None)
def test_random_stacks(stack, batch, extra, cut_small):
    channels, net, seed = stack
    assume(any(True for _ in net.parameters()))  # without weights there is nothing to tell the precision by
    net = settle(net, seed)
    dense = densify(net, channels)
    x = picture((batch, channels, dense.patch + extra[0], dense.patch + extra[1]), seed=seed)
    with torch.no_grad():
        if cut_small:
            with small():
                answer = fast_form(net, channels=channels)(x)
        else:
            answer = fast_form(net, channels=channels)(x)
        torch.testing.assert_close(answer, dense(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", [None, "paper", "residual"])
@pytest.mark.parametrize("size", [(46, 46), (47, 81), (101, 50)])
def test_patchnet(size, form):
    """Of widths at which its large convolutions are transformed; with shared context, too."""
    net = PatchNet(SPACE, widths=(16, 20, 24), hidden=10)
    if form:
        net.add_context(form, hidden=6)
    net, x = settle(net), picture((2, 3, *size)).abs()
    frozen, plain = fast_form(net), densify(net)
    assert frozen.geometry == plain.geometry
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(frozen(x), expected, rtol=0, atol=1e-9)
        with small():
            torch.testing.assert_close(fast_form(net)(x), expected, rtol=0, atol=1e-9)
        single = fast_form(net.float())(x.float())
    assert single.dtype == torch.float32
    assert (single - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def count_layers(net, **how):
    frozen = fast_form(settle(net), **how)
    return len(frozen._front + frozen._window + frozen._tail)


def test_batch_norms_cost_nothing():
    conv, bn = (lambda i, o, k=3: nn.Conv2d(i, o, k)), nn.BatchNorm2d
    assert count_layers(nn.Sequential(conv(3, 4), bn(4), nn.ReLU(), conv(4, 5))) == 2                    # into the one before
    assert count_layers(nn.Sequential(conv(3, 4), nn.ReLU(), bn(4), bn(4), conv(4, 5), nn.ReLU())) == 2  # into the one after
    assert count_layers(nn.Sequential(bn(3), conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), bn(4), nn.Flatten(), nn.Linear(4, 2))) == 3
    assert count_layers(nn.Sequential(conv(3, 4), nn.ReLU(), bn(4), nn.MaxPool2d(2), conv(4, 5))) == 4   # a maximum is not linear
    assert count_layers(PatchNet(SPACE, widths=(4, 5, 6), hidden=7)) == 1 + 3 + 2 + 2                      # YUV, 7×7s, pools, 1×1s


def test_weights_are_frozen():
    net = settle(PatchNet(SPACE, widths=(2, 2, 2), hidden=2))
    frozen, x = fast_form(net), picture((1, 3, 50, 50))
    with torch.no_grad():
        before = frozen(x)
        for parameter in net.parameters():
            parameter += 1
        net.train()
        assert torch.equal(frozen(x), before)


def test_bfloat16_answers_nearly_the_same():
    net = settle(PatchNet(SPACE, widths=(16, 24, 32), hidden=16)).float()
    x = picture((1, 3, 80, 70), torch.float32).abs()
    with torch.no_grad():
        exact, rough = fast_form(net, "float32")(x), fast_form(net, "bfloat16")(x)
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() / (exact.max() - exact.min()) < 0.03


@pytest.mark.parametrize("wins", [True, False])
def test_the_stopwatch_decides_once_between_two_right_ways(wins, monkeypatch):
    net, asked = settle(PatchNet(SPACE, widths=(16, 20, 24), hidden=4)), []
    monkeypatch.setattr(fast, "_measured", {})
    with patch.object(fast, "median", lambda ratios: asked.append(len(ratios)) or (2.0 if wins else 0.5)):
        frozen = [fast_form(net, measure=True) for _ in range(2)]
    assert asked == [3, 3] and set(fast._measured.values()) == {wins}  # once for each of the two large convolutions
    x = picture((1, 3, 60, 60))
    with torch.no_grad(), patch.object(Transformed, "__call__", side_effect=AssertionError) if not wins else small():
        torch.testing.assert_close(frozen[1](x), densify(net)(x), rtol=0, atol=1e-9)


def test_mistakes():
    net = PatchNet(SPACE, widths=(2, 2, 2), hidden=2)
    with pytest.raises(UserError, match="training mode"):
        fast_form(net)
    with pytest.raises(UserError, match="precision is 'half', expected float32 or bfloat16"):
        Predictor([net.eval()], "cpu", precision="half")
    with pytest.raises(UserError, match="at least 46"):
        fast_form(net)(torch.zeros(1, 3, 45, 46))


def test_elsewhere_than_on_a_cpu_nothing_is_cut():
    """On a device that only keeps shapes, in place of a GPU: every layer runs once, on the whole picture."""
    net = PatchNet(SPACE, widths=(16, 20, 24), hidden=10).eval().to("meta")
    net.features[0] = nn.Identity()  # the conversion to YUV has constants of its own
    frozen = fast_form(net, "bfloat16")
    ran = []
    for layer in frozen._front + frozen._window + frozen._tail:
        layer.run = lambda x, run=layer.run: ran.append(x.device.type) or run(x)
    assert frozen(torch.zeros(1, 3, 146, 165, device="meta")).shape == (1, 5, 101, 120) and ran == ["meta"] * 8
