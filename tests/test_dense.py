"""The dense form against evaluation patch by patch, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from densemtmd import Labelset, OutputSpace, densify
from densemtmd.backbones.patchnet import PatchNet
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, reflect
from densemtmd.stack import geometry_of, split_phases, weave_phases


def settle(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch-norm statistics, in eval mode and float64."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return net.double().eval()


def patch_by_patch(net, x, patch):
    """The slow way: one patch after another, through the network as it is."""
    rows, columns = x.shape[-2] - patch + 1, x.shape[-1] - patch + 1
    with torch.no_grad():
        answers = [[net(x[..., r : r + patch, c : c + patch]).reshape(len(x), -1) for c in range(columns)] for r in range(rows)]
    return torch.stack([torch.stack(row, -1) for row in answers], -2)


def check(net, patch, stride, shape=(1, 3), extra=(9, 6), channels=None):
    dense = densify(net, channels)
    assert (dense.patch, dense.stride, dense.centre) == (patch, stride, patch // 2)
    x = torch.randn(*shape, patch + extra[0], patch + extra[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        answer = dense(x)
    torch.testing.assert_close(answer, patch_by_patch(net, x, patch), rtol=0, atol=1e-10)


SPACE = OutputSpace([Labelset("a", ["x", "y", "z"]), Labelset("b", ["u", "v"])])


def test_patchnet():
    net = settle(PatchNet(SPACE, widths=(4, 6, 8), hidden=10))
    check(net, 46, 4, shape=(2, 3))


def test_patchnet_of_the_paper_has_the_centre_and_size_of_figure_2():
    labels = OutputSpace([Labelset(f"s{i}", [str(j) for j in range(n)]) for i, n in enumerate([8, 11, 12, 11, 11, 5, 10])])
    net = PatchNet(labels).eval()
    assert (densify(net).patch, densify(net).stride, densify(net).centre) == (46, 4, 23)
    assert net.parameter_count == 2_254_948 and "2,254,948 parameters" in str(net)
    shapes = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: shapes.append(out.shape[-1]))
        for m in net.features
        if isinstance(m, nn.Conv2d | nn.MaxPool2d)
    ]
    assert net(torch.rand(1, 3, 46, 46)).shape == (1, 68, 1, 1)
    assert shapes == [40, 20, 14, 7, 1] and hooks


@st.composite
def stacks(draw):
    """A random stack with the sides of its patch, built from the last layer back to the first."""
    layers, channels = [], draw(st.integers(1, 3)) * 2
    first_channels = channels
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "pointwise", "bn", "dropout"]))
        kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
        if kind == "conv":
            groups, out = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3)) * 2
            layers.append(nn.Conv2d(channels, out, kernel, stride=stride, dilation=dilation, groups=groups, bias=draw(st.booleans())))
            channels = out
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride=stride, dilation=dilation))
        elif kind == "avg":
            layers.append(nn.AvgPool2d(kernel, stride=stride, divisor_override=draw(st.sampled_from([None, 5]))))
        elif kind == "bn":
            layers.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        elif kind == "dropout":
            layers.append(nn.Dropout(0.5))
        else:
            layers.append(draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU, nn.PReLU, nn.Hardswish]))())
    head = draw(st.sampled_from(["none", "conv", "linear", "mlp"]))
    if head == "conv":
        layers.append(nn.Conv2d(channels, 3, 1))
    elif head in ("linear", "mlp"):
        side = draw(st.integers(1, 3))
        layers += [nn.Flatten(), nn.Linear(channels * side * side, 5)]
        if head == "mlp":
            layers += [nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)]
    return first_channels, nn.Sequential(nn.Sequential(*layers[:2]), *layers[2:]), draw(st.integers(0, 99))


@given(stacks(), st.integers(1, 2), st.tuples(st.integers(0, 7), st.integers(0, 7)))
@settings(max_examples=100, deadline=None)
def test_random_stacks(stack, batch, extra):
    channels, net, seed = stack
    net = settle(net, seed)
    dense = densify(net, channels)
    x = torch.randn(
        batch, channels, dense.patch + extra[0], dense.patch + extra[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        answer = dense(x)
    torch.testing.assert_close(answer, patch_by_patch(net, x, dense.patch), rtol=0, atol=1e-10)
    if dense.patch > 1:  # the smallest square that the stack accepts
        with pytest.raises(RuntimeError):
            net(x[..., : dense.patch - 1, : dense.patch - 1])


@pytest.mark.parametrize(
    ("net", "patch", "stride"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.MaxPool2d(3, 2), nn.Conv2d(4, 5, 3, stride=3)), 17, 12),
        (nn.Sequential(nn.AvgPool2d(3, stride=2), nn.Conv2d(3, 4, 2, dilation=3), nn.AvgPool2d(2)), 11, 4),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 6), nn.ReLU(), nn.Linear(6, 2)), 8, 2),
        (nn.Sequential(nn.Conv2d(3, 4, (3, 1)), nn.Conv2d(4, 4, (1, 3)), nn.MaxPool2d((2, 2))), 4, 2),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), 1, 1),
    ],
)
def test_stacks_by_hand(net, patch, stride):
    check(settle(net), patch, stride, shape=(2, 3))


def test_a_side_that_leaves_a_remainder_still_makes_square_patches():
    # 4 rows need a column more than 3 columns do; the stride swallows the difference, so squares of 4 give one answer
    check(settle(nn.Sequential(nn.Conv2d(3, 2, (4, 3), stride=2))), 4, 2)


def test_linear_over_a_map_without_a_convolution_before_it():
    net = settle(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 4, 5)))
    with pytest.raises(UserError, match="channels"):
        densify(net)
    check(net, 4, 2, channels=3)


def test_the_fast_form_is_the_plain_one_up_to_rounding():
    net = settle(PatchNet(SPACE, widths=(4, 6, 8), hidden=5)).float().eval()
    plain, fast, rough = densify(net), densify(net, fast=True), densify(net, fast=True, precision="bfloat16")
    x = torch.rand(1, 3, 60, 71)
    assert (fast.patch, fast.stride, fast.centre) == (plain.patch, plain.stride, plain.centre) == (46, 4, 23)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), plain(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(rough(x), plain(x), atol=0.1, rtol=0.1)
    with pytest.raises(UserError, match="precision is 'bfloat16', but the plain form computes in that of its weights: add fast=True"):
        densify(net, precision="bfloat16")


def test_weights_are_shared():
    net = settle(PatchNet(SPACE, widths=(2, 2, 2), hidden=2))
    dense = densify(net)
    assert {p.data_ptr() for p in dense.parameters()} == {p.data_ptr() for p in net.parameters()}
    x = torch.rand(1, 3, 50, 50, dtype=torch.float64)
    with torch.no_grad():
        before = dense(x)
        net.classifier[-1].bias += 1
        torch.testing.assert_close(dense(x), before + 1)
        net.train()  # the dense form stays in inference mode
        torch.testing.assert_close(dense(x), before + 1)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)), ["'1'", "padding=(1, 1)"]),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"))), ["'0.0'", "same"]),
        (nn.Sequential(nn.MaxPool2d(2, padding=1)), ["pads"]),
        (nn.Sequential(nn.AvgPool2d(3, padding=1)), ["pads"]),
        (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True)), ["ceil_mode"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), ["'1'", "AdaptiveAvgPool2d"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3, stride=(1, 2))), ["strides differ"]),
        (nn.Sequential(nn.Conv2d(3, 4, (3, 5))), ["3×5", "square"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), ["Flatten"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), ["Linear"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)), ["7 inputs", "4 channels"]),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), ["running statistics"]),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), ["ConvTranspose2d"]),
        (nn.Sequential(nn.LSTM(3, 4)), ["LSTM"]),
    ],
)
def test_what_cannot_be_converted_is_refused(net, words):
    with pytest.raises(UserError) as error:
        densify(net.eval())
    for word in words:
        assert word in str(error.value)


def test_training_mode_is_refused_by_the_layer_that_it_matters_to():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(UserError, match=r"'1' .*eval"):
        densify(net)
    assert geometry_of(net) == Geometry(3, 1) and net.training  # where the outputs lie does not depend on the mode


def test_a_picture_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match="at least 46"):
        densify(settle(PatchNet(SPACE, widths=(2, 2, 2), hidden=2)))(torch.zeros(1, 3, 45, 60, dtype=torch.float64))


def test_the_strided_network_answers_on_the_grid_that_its_geometry_says():
    net = settle(PatchNet(SPACE, widths=(3, 4, 5), hidden=6))
    where = geometry_of(net)
    x = torch.randn(1, 3, 70, 83, dtype=torch.float64)
    with torch.no_grad():
        strided, dense = net(x), densify(net)(x)
    torch.testing.assert_close(strided, dense[..., ::4, ::4])
    assert strided.shape[-2:] == (where.outputs(70), where.outputs(83))
    assert all(where.outputs(where.pixels(n)) == n and where.outputs(where.pixels(n) - 1) == n - 1 for n in range(1, 9))


def test_the_mirrored_network_answers_the_mirrored_picture():
    """Flips stay aligned to the pixel: the mirror image of centre 23 is column 22 of the mirrored patch."""
    net, mirrored = (settle(PatchNet(SPACE, widths=(3, 4, 5), hidden=6)) for _ in range(2))
    for module in mirrored.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.flip(-1)
    x = torch.randn(1, 3, 52, 61, dtype=torch.float64)
    before, after = densify(net).geometry.border
    assert (before, after) == (23, 22)
    rows = reflect(torch.arange(-before, 52 + after), 52)
    columns, mirrored_columns = reflect(torch.arange(-before, 61 + after), 61), reflect(torch.arange(-after, 61 + before), 61)
    with torch.no_grad():
        answer = densify(net)(x[..., rows, :][..., columns])
        mirrored_answer = densify(mirrored)(x.flip(-1)[..., rows, :][..., mirrored_columns])
    assert answer.shape[-2:] == (52, 61)
    torch.testing.assert_close(mirrored_answer.flip(-1), answer)


def test_a_planted_pixel_is_found_where_it_is():
    """A stack whose answer is the patch's pixel 23, 23: with the border reflected it is the picture itself."""
    pick = nn.Conv2d(1, 1, 46, bias=False)
    pick.weight.data.zero_()
    pick.weight.data[0, 0, 23, 23] = 1
    picture = torch.randn(1, 1, 30, 57)
    dense = densify(nn.Sequential(pick).eval())
    with torch.no_grad():
        torch.testing.assert_close(dense(nn.functional.pad(picture, dense.geometry.border * 2, "reflect")), picture)


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 20))
def test_reflect_is_numpys_reflection(size, before, after):
    row = np.arange(size)
    expected = np.pad(row, (before, after), mode="reflect") if size > 1 else np.zeros(before + 1 + after, int)
    assert (reflect(np.arange(-before, size + after), size) == expected).all()
    assert (reflect(torch.arange(-before, size + after), size).numpy() == expected).all()


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_phases_are_the_strided_slices_and_weave_back(stride, height, width):
    x = torch.randn(2, 3, height, width)
    phases = split_phases(x, stride)
    for p in range(stride):
        for q in range(stride):
            expected = x[..., p::stride, q::stride]
            part = phases[(p * stride + q) * 2 : (p * stride + q + 1) * 2]
            assert torch.equal(part[..., : expected.shape[-2], : expected.shape[-1]], expected)
    assert torch.equal(weave_phases(phases, stride)[..., :height, :width], x)
