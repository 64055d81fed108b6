"""The frozen trunk: maps that can be kept, a head that learns from them, and answers where their pixels are."""

import pytest
import torch
import yaml
from test_encoder_decoder import CONF, SMALL, SPACE
from torch import nn
from toy import needs_backbones, refused

from densemtmd import checkpoint, densify
from densemtmd.backbones import build
from densemtmd.backbones.frozen import Hypercolumn, Standardise
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry
from densemtmd.losses import selective_cross_entropy
from densemtmd.network import reverse_gradient

needs_backbones()


def make(seed=0, **settings):
    torch.manual_seed(seed)
    return Hypercolumn(SPACE, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def network():
    made = make()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    made.standardise([made.trunk(torch.rand(1, 3, 70, 90)) for _ in range(3)])
    return made.eval()


def test_the_choice_of_conf():
    model = yaml.safe_load((CONF / "frozen.yaml").read_text())
    assert model.pop("defaults")
    assert model["name"] == "frozen"
    try:
        network = build(model, SPACE)
    except UserError:
        pytest.skip("the package of weights is not installed")
    assert network.trunk.channels == len(model["scales"]) * (24 + 40 + 112 + 320)
    assert network.geometry == Geometry(1, 1, multiple=64, context=128)  # 192 pixels of the enlarged picture
    assert network.pretrained["licence"] == "Apache-2.0"
    assert str(network).startswith("frozen tf_efficientnet_lite0, 5 outputs")


@pytest.mark.parametrize(
    "settings",
    [{}, {"scales": [1.3]}, {"scales": [1, 2]}, {"scales": [0.5], "strides": [8, 16]}, {"grid": 4, "strides": [32, 4]}, {"layers": 0}],
)
def test_any_picture_size(settings):
    made = make(**settings).eval()
    grid = made.stride
    for height, width in ((1, 1), (33, 70), (64, 32), (grid + 1, 2 * grid)):
        x = torch.rand(2, 3, height, width)
        with torch.no_grad():
            outputs, maps = made.outputs(x), made.trunk(x)
        cells = (-(-height // grid), -(-width // grid))
        assert maps.shape == (2, made.trunk.channels, *cells) and outputs.features.shape == (2, made.feature_channels, *cells)
        assert outputs.joint.shape == (2, 5, *cells) and outputs.answer.shape == (2, 5, height, width)
        assert outputs.answer.isfinite().all()


class Planted(nn.Module):
    """An encoder whose map of each stride is the mean of each cell, scaled to how it came: the ramp that was planted in the picture."""

    def forward(self, x):
        return [nn.functional.avg_pool2d(x, 2**n) for n in range(6)]


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 0.5])
@pytest.mark.parametrize("grid", [4, 8])
def test_maps_of_all_strides_lie_over_the_same_pixels(scale, grid):
    made = make(scales=[scale], grid=grid, strides=[2, 4, 8, 16, 32])
    trunk = made.features.trunk
    trunk.encoders, trunk.normalise = nn.ModuleList([Planted()]), nn.ModuleList([nn.Identity()])
    height, width = 384, 448
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramp = torch.stack([rows, columns, torch.zeros_like(rows)])[None].double()
    maps = trunk(ramp).view(5, 3, height // grid, width // grid)
    margin = int(64 / scale / grid)  # two cells of the coarsest, beyond whose middles nothing can be read
    for of_stride in maps:
        for axis, ramp in enumerate((of_stride[0, :, 3], of_stride[1, 3])):
            middles = torch.arange((height, width)[axis] // grid).double() * grid + (grid - 1) / 2
            torch.testing.assert_close(ramp[margin:-margin], middles[margin:-margin], rtol=0, atol=1e-4)


def test_kept_maps_are_as_good_as_pictures(network):
    x = torch.rand(2, 3, 40, 50)
    of_pictures = network.outputs(x)
    kept = network.trunk(x).half()
    of_maps = network.outputs(kept)
    assert of_maps.answer.shape == (2, 5, 5, 7) and of_pictures.answer.shape == (2, 5, 40, 50)
    spread = of_pictures.joint.std()
    assert (of_maps.joint - of_pictures.joint).abs().max() < 0.02 * spread
    assert torch.equal(of_maps.answer, of_maps.joint)


def test_standardised_maps_have_no_mean_and_a_spread_of_1():
    torch.manual_seed(1)
    maps = [3 + 2 * torch.randn(4, 5, 6, 7), 3 + 2 * torch.randn(5, 9, 2)]  # of four pictures, and of one more
    maps[0][:, 2] = maps[1][2] = 7.0  # a channel that says nothing
    layer = Standardise(5)
    layer.fit(some.half() for some in maps)
    both = torch.cat([some.half().double().movedim(-3, 0).flatten(1) for some in maps], 1)
    torch.testing.assert_close(layer.mean.flatten().double(), both.mean(1), rtol=1e-5, atol=1e-6)
    expected = both.std(1, correction=0)
    expected[2] = 1
    torch.testing.assert_close(layer.spread.flatten().double(), expected, rtol=1e-5, atol=1e-6)
    assert layer(maps[0])[:, 2].abs().max() == 0
    with refused("there are no maps"):
        layer.fit([])


def test_only_the_head_learns(network):
    made = make()
    assert not any(m.training for m in made.features.trunk.modules())  # before anybody says train or eval
    made.add_context("paper", 6)
    made.add_discriminator(2)
    made.train()
    assert not any(m.training for m in made.features.trunk.modules()) and made.classifier.training
    before = {name: t.clone() for name, t in made.state_dict().items()}
    outputs = made.outputs(made.trunk(torch.rand(2, 3, 32, 40)))
    loss = selective_cross_entropy(outputs.answer, torch.zeros(2, 4, 5), torch.tensor([0, 1]), SPACE)
    loss = loss + made.discriminator(reverse_gradient(outputs.features, 1.0)).square().mean()
    loss.backward()
    torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, t in made.state_dict().items() if not torch.equal(t, before[name])}
    assert not any(name.startswith(("features.trunk", "features.standardise")) for name in changed)
    assert {"features.hidden.0.0.weight", "classifier.1.weight", "context.layers.0.weight", "discriminator.layers.0.weight"} <= changed
    groups = dict(made.groups())
    assert list(groups) == ["encoder", "head", "discriminator"] and not any(p.requires_grad for p in groups["encoder"])
    assert {id(p) for name in groups for p in groups[name]} == {id(p) for p in made.parameters()}
    assert sum(len(g) for g in groups.values()) == len(list(made.parameters()))


def test_the_reversed_gradient_reaches_the_hidden_layer():
    made = make()
    made.add_discriminator(2)
    outputs = made.outputs(made.trunk(torch.rand(1, 3, 32, 40)))
    made.discriminator(reverse_gradient(outputs.features, 0.5)).square().sum().backward()
    assert made.features.hidden[0][0].weight.grad.abs().sum() > 0 and made.classifier[1].weight.grad is None
    with refused("nothing to change in a frozen trunk"):
        make(layers=0).add_discriminator(2)
    with refused("nothing to change in a frozen trunk"):
        make().add_discriminator(2, at="deepest")


def test_a_checkpoint_holds_trunk_and_statistics(tmp_path, network):
    model = {"name": "frozen", **SMALL}
    network.pretrained = {"name": "something", "digest": "00", "licence": "mine"}
    checkpoint.save_network(tmp_path / "net.safetensors", network, model)
    network.pretrained = None
    again = checkpoint.load_network(tmp_path / "net.safetensors")
    x = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(again(x), network(x))
    assert again.pretrained["licence"] == "mine" and not any(p.requires_grad for p in again.features.trunk.parameters())
    assert (again.features.standardise.spread != 1).any()
    other = make(seed=5)
    checkpoint.start_from(tmp_path / "net.safetensors", other, features_only=True)
    torch.testing.assert_close(other.eval().outputs(x).features, network.outputs(x).features)


def test_a_network_that_learns_from_kept_maps():
    """A minute's work in a blink: which half of a picture is brighter, from the maps of a trunk that was never trained."""
    torch.manual_seed(0)
    made = make(hidden=32, dropout=0.0)
    pictures = torch.rand(8, 3, 64, 64) * 0.2
    target = (torch.rand(8, 1, 1) < 0.5).long().expand(8, 8, 8).clone()
    target[:, :, 4:] = 1 - target[:, :, 4:]
    pictures += 0.7 * target.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    kept = made.trunk(pictures)
    made.standardise([kept])
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=0.01)
    task = torch.ones(8, dtype=torch.long)
    for _ in range(40):
        optimizer.zero_grad()
        selective_cross_entropy(made.outputs(kept.half()).answer, target, task, SPACE).backward()
        optimizer.step()
    made.eval()
    assert (made(kept)[:, 3:].argmax(1) == target).float().mean() > 0.95
    truth = target.repeat_interleave(8, 1).repeat_interleave(8, 2)  # pixels near the edge are read between two cells
    assert (made(pictures)[:, 3:].argmax(1) == truth)[..., :24].float().mean() > 0.95


ENCODERS = ["mobilenetv3_small_050", "resnet10t"]


def test_several_encoders_give_the_mean_of_what_each_answers_with_its_own_head():
    """Against two networks of one encoder each, with the weights of the two."""
    made = make(encoder=ENCODERS, dropout=0.0, scales=[1, 1.3])
    made.standardise([torch.rand(2, 3, 70, 90)])
    x, answers, start, first = torch.rand(2, 3, 33, 70), [], 0, 0
    for n, name in enumerate(ENCODERS):
        alone = make(encoder=name, dropout=0.0, scales=[1, 1.3])
        alone.features.trunk.encoders[0].load_state_dict(made.features.trunk.encoders[n].state_dict())
        alone.features.hidden[0].load_state_dict(made.features.hidden[n].state_dict())
        share, width = alone.features.trunk.channels, alone.feature_channels
        for part in ("mean", "spread"):
            getattr(alone.features.standardise, part).copy_(getattr(made.features.standardise, part)[start : start + share])
        alone.classifier[1].weight.data = made.classifier[1].weight.data[:, first : first + width]
        alone.classifier[1].bias.data = made.classifier[1].bias.data
        start, first = start + share, first + width
        answers.append(alone.eval()(x))
    assert made.features.trunk.channels == start and made.feature_channels == first
    expected = sum(answers) / 2
    torch.testing.assert_close(made.eval()(x), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.labeller()(x), expected, rtol=1e-3, atol=1e-5)  # batch norms in the convolutions
    torch.testing.assert_close(made.only(["b"])(x), expected[:, SPACE.slice("b")], rtol=1e-4, atol=1e-6)


def test_each_sample_teaches_one_of_several_encoders():
    made = make(encoder=ENCODERS, dropout=0.0).train()
    maps = made.trunk(torch.rand(6, 3, 16, 16))
    features = made.outputs(maps).features
    taught = torch.stack([part.flatten(1).any(1) for part in features.split(made.features.widths, 1)], 1)
    assert (taught.sum(1) == 1).all() and len(features) == 6
    parts = made.features.standardise(maps).split(made.trunk.shares, 1)
    alone = [layers(part) for layers, part in zip(made.features.hidden, parts, strict=True)]
    for n in range(6):  # what it sees is what it would see alone, not the half of it
        member = int(taught[n].nonzero())
        torch.testing.assert_close(features.split(made.features.widths, 1)[member][n], alone[member][n])
    counts = torch.stack([made.outputs(maps).features.split(made.features.widths, 1)[0].flatten(1).any(1) for _ in range(100)]).sum()
    assert 240 < counts < 360  # of 600, each as often


def test_what_it_cannot_do(network):
    with refused("has padding: its answers depend on where the patch lies"):
        densify(network)
    for settings, words in (
        ({"strides": [3]}, "model.strides is [3]"),
        ({"strides": [4, 4]}, "each once"),
        ({"strides": 4}, "model.strides is 4"),
        ({"grid": 0}, "model.grid is 0"),
        ({"hidden": 2.5}, "model.hidden is 2.5"),
        ({"layers": -1}, "model.layers is -1"),
        ({"scales": [9]}, "model.scales is [9]"),
        ({"scales": [1, 1]}, "each once"),
        ({"scales": 2}, "model.scales is 2"),
        ({"dropout": 1}, "model.dropout is 1"),
        ({"encoder": []}, "model.encoder is []"),
        ({"encoder": ["resnet10t", "resnet10t"]}, "each once"),
        ({"encoder": ["resnet10t", "resnet18"], "weights": "some.safetensors"}, "of one encoder, but there are 2"),
        ({"encoder": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224 gives no maps of the strides"),
        ({"encoder": "convnext_atto", "strides": [2, 4]}, "no map of stride 2"),
    ):
        with refused(words):
            make(**settings)
    with refused("model 'frozen' does not take these settings", "no_such"):
        build({"name": "frozen", "no_such": 3}, SPACE)
