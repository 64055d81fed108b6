"""HandNet: the paper's layers, and coordinates that a step moves where they should go."""

import pytest
import torch
from torch import nn

from densemtmd import KeypointSet, OutputSpace
from densemtmd.backbones import build
from densemtmd.errors import UserError
from densemtmd.losses import selective_l2
from densemtmd.stack import geometry_of

SPACE = OutputSpace([KeypointSet("nyu", [f"n{i}" for i in range(14)]), KeypointSet("icvl", [f"i{i}" for i in range(16)])])


@pytest.mark.parametrize(("size", "million"), [(48, 2.5), (64, 5.5), (128, 30.1)])
def test_the_first_fully_connected_layer_has_so_many_weights(size, million):
    with torch.device("meta"):
        net = build({"name": "handnet", "size": size}, SPACE)
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 90, 1, 1)
    assert round(net.classifier[0].weight.numel() / 1e6, 1) == million


def test_the_layers_of_the_paper():
    with torch.device("meta"):
        net = build({"name": "handnet"}, SPACE)
    kinds = [type(layer) for layer in [*net.features, *net.classifier]]
    assert kinds.count(nn.MaxPool2d) == 2 and kinds.count(nn.BatchNorm2d) == 6 and kinds.count(nn.Dropout) == 3
    convolutions = [layer for layer in [*net.features, *net.classifier] if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 32, 32, 1200, 1200, 1200, 90]
    assert [layer.kernel_size[0] for layer in convolutions] == [3, 3, 3, 12, 1, 1, 1]
    assert {layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)} == {0.1}


def test_it_is_the_network_with_fully_connected_layers():
    """The convolution over the whole map is the matrix product with the flattened map."""
    torch.manual_seed(0)
    net = build({"name": "handnet", "size": 26, "width": 4, "hidden": 8}, SPACE).eval()
    x = torch.rand(3, 1, 26, 26) * 2 - 1
    y = net.features(x).flatten(1)
    for layer in net.classifier:
        y = y @ layer.weight.flatten(1).T + layer.bias if isinstance(layer, nn.Conv2d) else layer(y[..., None, None]).flatten(1)
    assert torch.allclose(net(x).flatten(1), y, atol=1e-6)
    assert geometry_of(net).patch == 26 and geometry_of(net).stride == 4  # a patch classifier whose patch is the picture


def test_it_learns_each_task_from_its_own_samples():
    torch.manual_seed(1)
    net = build({"name": "handnet", "size": 24, "width": 4, "hidden": 16, "dropout": 0.0}, SPACE)
    x, task = torch.rand(8, 1, 24, 24) * 2 - 1, torch.tensor([0, 1] * 4)
    mask = torch.arange(48) < torch.tensor([42, 48])[task][:, None]
    target = torch.where(mask, torch.rand(8, 48) - 0.5, torch.nan)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = selective_l2(net(x), target, mask, task, SPACE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_mistakes_are_sentences():
    for settings, words in [
        ({"size": 17}, "model.size is 17, expected a whole number of at least 18"),
        ({"hidden": 0}, "model.hidden is 0"),
        ({"width": 2.5}, "model.width is 2.5"),
        ({"dropout": 1}, "model.dropout is 1"),
        ({"deep": 3}, "does not take these settings"),
    ]:
        with pytest.raises(UserError, match=words):
            build({"name": "handnet", **settings}, SPACE)
    with pytest.raises(UserError, match=r"unknown model\.name 'hendnet'.*did you mean 'handnet'"):
        build({"name": "hendnet"}, SPACE)
    build({"name": "handnet", "size": 18, "width": 1, "hidden": 1}, SPACE)(torch.zeros(2, 1, 18, 18))
