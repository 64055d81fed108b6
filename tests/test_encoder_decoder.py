"""Decoders on encoders: any picture size, answers where their pixels are, strategies' parts, checkpoints; and what is refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from toy import needs_backbones, refused

from densemtmd import Labelset, OutputSpace, checkpoint, densify
from densemtmd.backbones import build
from densemtmd.backbones.encoder_decoder import DECODERS, EncoderDecoder, aligned
from densemtmd.backbones.padded import PaddedNetwork, cells_to_pixels, padded
from densemtmd.datasets.sample import Batch
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry
from densemtmd.losses import selective_cross_entropy
from densemtmd.network import reverse_gradient
from densemtmd.settings import TrainSettings
from densemtmd.training import make_optimizer, train_step

needs_backbones()
SPACE = OutputSpace([Labelset("a", ["x", "y", "z"]), Labelset("b", ["x", "y"])])
SMALL = {"encoder": "mobilenetv3_small_050", "weights": "none"}
CONF = Path(__file__).parents[1] / "conf" / "model"
CHOICES = ("unet", "fpn", "deeplabv3plus", "segformer", "upernet")


def make(decoder="fpn", seed=0, **settings):
    torch.manual_seed(seed)
    return EncoderDecoder(SPACE, decoder=decoder, **SMALL, **settings)


@pytest.fixture(scope="module")
def fpn():
    """One whose batch norms have seen something."""
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_of_conf_answers_every_pixel(choice):
    model = {**yaml.safe_load((CONF / f"{choice}.yaml").read_text()), **SMALL}
    assert model.pop("defaults")
    assert model["name"] == model["decoder"] == choice
    network = build(model, SPACE).eval()
    stride, features = {"unet": (1, 16), "fpn": (4, 128)}.get(choice, (4, 256))
    assert (network.stride, network.feature_channels) == (stride, features)
    assert network.geometry == Geometry(1, 1, multiple=32, context=192) and network.takes == "labelset"
    for height, width in ((1, 1), (33, 70), (64, 32)):
        x = torch.rand(2, 3, height, width)
        with torch.no_grad():
            outputs = network.outputs(x)
        cells = (-(-height // 32) * 32 // stride, -(-width // 32) * 32 // stride)
        assert outputs.features.shape == (2, features, *cells) and outputs.joint.shape == (2, 5, *cells)
        assert outputs.answer.shape == (2, 5, height, width) and outputs.answer.isfinite().all()
        assert outputs.discriminated is None


@pytest.mark.parametrize("decoder", sorted({*DECODERS} - {*CHOICES}))
def test_the_other_decoders_too(decoder):
    network = make(decoder).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 40, 33)).shape == (1, 5, 40, 33)


class Pooled(nn.Module):
    """In θ_f's place: the mean of each cell."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def maps(self, x):
        y = F.avg_pool2d(padded(x, 32), self.stride)
        return y, y


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_answers_are_where_their_pixels_are(stride):
    """A planted ramp comes back as it is, to the pixel, wherever it is read between the middles of two cells."""
    height, width = 50, 61
    network = PaddedNetwork(
        Pooled(stride), nn.Sequential(), SPACE, feature_channels=3, deepest_channels=3, stride=stride, multiple=32, context=0
    )
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = torch.stack([rows, columns, torch.zeros_like(rows)])[None].double()
    answer = network(x)
    inner = (..., slice(stride, height - 2 * stride), slice(stride, width - 2 * stride))  # cells that hang over see reflections too
    torch.testing.assert_close(answer[inner], x[inner], rtol=0, atol=1e-9)
    if stride == 4:  # the grid's first cell covers the pixels 0 to 3, and lies at 1.5
        assert answer[0, 0, :2, 10].tolist() == [1.5, 1.5] and answer[0, 0, 2, 10] == 2


def test_what_decoders_enlarge_stays_where_it_is():
    """No layer stretches maps from corner to corner."""
    for decoder in ("fpn", "deeplabv3plus", "unet"):
        for module in make(decoder).features.decoder.modules():
            assert not (isinstance(module, nn.Upsample) and module.align_corners)
            assert not getattr(module, "upsample", False)
    enlarging = aligned(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Upsample(scale_factor=2)))
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert torch.equal(enlarging[0](ramp)[0, 0, 0, 1:-1], torch.arange(0.25, 5, 0.5))


def test_a_part_of_a_picture_gets_the_answers_of_the_picture():
    """Beyond the context that the network states, which pixels are there makes next to no difference. (Where nothing is a mean over the
    whole: encoders that excite channels by such a mean, FPN's group norms and the pools of DeepLabV3+ and UPerNet see all of a tile.)"""
    torch.manual_seed(0)
    try:
        network = build({"name": "segformer", "decoder": "segformer"}, SPACE).eval()
    except UserError:
        pytest.skip("the package of weights is not installed")
    x = F.interpolate(torch.rand(1, 3, 12, 60), scale_factor=8, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        whole, part = network(x), network(x[..., 96:])
    difference = (whole[..., 96:] - part).abs().mean((0, 1, 2)) / whole.std()
    assert difference[network.geometry.context :].max() < 0.03
    assert difference[:32].max() > 0.1  # the test would notice


def test_padding_is_reflection_as_often_as_it_takes():
    x = torch.arange(3.0).expand(1, 1, 2, 3)
    assert padded(x, 4)[0, 0, 0].tolist() == [0, 1, 2, 1] and padded(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert padded(x, 1) is x and padded(x, 1, (5, 3)).shape == (1, 1, 5, 3)
    assert padded(torch.ones(1, 1, 1, 1), 32).shape == (1, 1, 32, 32)
    assert cells_to_pixels(x, 1, 2, 2).shape == (1, 1, 2, 2)


def test_pictures_are_normalised_as_the_encoder_is_used_to(fpn):
    assert fpn.features.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    lite = EncoderDecoder(SPACE, decoder="fpn", weights="none")
    assert lite.features.normalise(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).flatten().tolist() == [-1, 0, 1]
    assert {"features.normalise.mean", "features.normalise.spread"} <= lite.state_dict().keys()


def test_context_discriminator_and_checkpoint(tmp_path, fpn):
    model = {"name": "fpn", "decoder": "fpn", **SMALL}
    network = build(model, SPACE)
    network.load_state_dict(fpn.state_dict())
    network.add_context("residual", 7)
    network.add_discriminator(2, 6, "deepest")
    nn.init.normal_(network.context.layers[-1].weight)
    network.eval()
    x = torch.rand(1, 3, 40, 50)
    outputs = network.outputs(x)
    torch.testing.assert_close(outputs.joint, fpn.outputs(x).joint)
    torch.testing.assert_close(outputs.answer, cells_to_pixels(network.context(outputs.joint), 4, 40, 50))
    assert outputs.discriminated.shape == (1, network.deepest_channels, 2, 2)
    assert network.discriminator(outputs.discriminated).shape == (1, 2, 2, 2)
    assert "context and discriminator" in str(network) and str(network).startswith("fpn on mobilenetv3_small_050 with")
    checkpoint.save_network(tmp_path / "net.safetensors", network, model)
    again = checkpoint.load_network(tmp_path / "net.safetensors")
    torch.testing.assert_close(again(x), network(x))
    assert again.parts == network.parts and again.pretrained is None
    assert again.outputs(x).discriminated is not None
    with refused("reversal.at is 'deepst'", "did you mean 'deepest'?"):
        network.add_discriminator(2, 6, "deepst")
    network.add_discriminator(2)
    assert network.outputs(x).discriminated is None and network.discriminator(network.outputs(x).features).shape[1] == 2


@pytest.mark.parametrize("at", ["features", "deepest"])
def test_the_reversed_gradient_reaches_the_encoder(at):
    network = make()
    network.add_discriminator(2, 8, at)
    outputs = network.outputs(torch.rand(2, 3, 64, 64))
    seen = outputs.features if at == "features" else outputs.discriminated
    network.discriminator(reverse_gradient(seen, 0.5)).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("features.encoder") for name in reached)
    assert any(name.startswith("features.decoder") for name in reached) == (at == "features")
    assert not any(name.startswith("classifier") for name in reached)


def test_a_frozen_encoder_keeps_its_batch_norms():
    network = make()
    network.hold_encoder()
    network.train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    loss = selective_cross_entropy(network(torch.rand(2, 3, 64, 64)), torch.zeros(2, 64, 64), torch.tensor([0, 1]), SPACE)
    loss.backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0).step()
    after = network.state_dict()
    assert all(torch.equal(t, after[name]) for name, t in before.items() if name.startswith("features.encoder"))
    assert not torch.equal(before["classifier.1.weight"], after["classifier.1.weight"])
    network.hold_encoder(False)
    assert network.features.encoder.training and all(p.requires_grad for p in network.parameters())
    network.freeze()
    network.train()
    assert not network.features.training and not any(m.training for m in network.features.modules())


def test_every_parameter_is_in_one_group():
    network = make()
    network.add_context()
    network.add_discriminator(2)
    groups = network.groups()
    assert [name for name, _ in groups] == ["encoder", "decoder", "head", "discriminator"]
    each = [id(p) for _, parameters in groups for p in parameters]
    assert len(each) == len({*each}) and {*each} == {id(p) for p in network.parameters()}
    head = {id(p) for p in dict(groups)["head"]}
    assert {id(p) for p in network.classifier.parameters()} | {id(p) for p in network.context.parameters()} == head


def test_it_cannot_be_made_dense(fpn):
    with refused("has padding: its answers depend on where the patch lies"):
        densify(fpn)


def test_the_labeller(fpn):
    labeller = fpn.labeller()
    x = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(labeller(x), fpn(x).detach())
    assert labeller.geometry == fpn.geometry and labeller.grain == 32 and not labeller(x).requires_grad
    half = fpn.labeller("bfloat16")(x)
    assert half.dtype == torch.float32 and (half - fpn(x)).abs().max() < 0.2 * fpn(x).std() + 0.1
    with refused("call .eval() on it"):
        make().train().labeller()(x)


def test_mistakes_are_sentences():
    with refused("model.decoder is 'unett'", "did you mean 'unet'?"):
        make("unett")
    with refused("model.dropout is 1.5"):
        make(dropout=1.5)
    with refused("the decoder fpn on the encoder mobilenetv3_small_050 cannot be built with the settings {'no_such': 3}"):
        make(no_such=3)
    with refused("cannot be built with the settings", "Input height (64)"):  # answers pictures of one size alone
        EncoderDecoder(SPACE, decoder="fpn", encoder="swin_tiny_patch4_window7_224", weights="none")
    with refused("unknown model.name 'unit'", "did you mean 'unet'?"):
        build({"name": "unit"}, SPACE)


def test_any_encoder_of_timm():
    for encoder in ("convnext_atto", "resnet18"):  # maps from stride 4 on; from stride 2 on
        network = EncoderDecoder(SPACE, decoder="segformer", encoder=encoder, weights="none").eval()
        with torch.no_grad():
            assert network(torch.rand(1, 3, 33, 40)).shape == (1, 5, 33, 40)


def test_an_encoder_learns_at_a_pace_of_its_own():
    torch.manual_seed(0)
    made = make("fpn")
    made.add_discriminator(2)
    optimizer = make_optimizer(made, TrainSettings(encoder_lr=0.1, weight_decay=0.3), discriminator_lr=7.0)
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert len(scales) == len(list(made.parameters())) == sum(len(group["params"]) for group in optimizer.param_groups)
    expected = {"encoder": 0.1, "decoder": 1.0, "head": 1.0, "discriminator": 7.0}
    assert all(scales[id(p)] == expected[name] for name, parameters in made.groups() for p in parameters)
    assert all(group["weight_decay"] == (0.3 if p.ndim > 1 else 0) for group in optimizer.param_groups for p in group["params"])


def test_a_gradient_is_cut_to_its_norm():
    torch.manual_seed(0)
    made = make("fpn")
    optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
    image, target = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.zeros(2, 32, 32, dtype=torch.uint8)
    batch = Batch(image, target, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long), torch.full((2,), 100.0))

    def norm(clip):
        torch.manual_seed(1)
        train_step(made.train(), optimizer, batch, "float32", clip=clip)
        return float(torch.stack([p.grad.norm() for p in made.parameters() if p.grad is not None]).norm())

    assert norm(0.0) > 1 and norm(0.5) == pytest.approx(0.5, rel=1e-3)
